//! What a server on the network answers, and whether a sink waits for it to pass. The server here gives one answer to
//! everything.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mvsink_persist::{Client, ClientOptions, Error};

const SECRET: &str = "aHVzaC1odXNo";

/// A client of a server at this port of the loopback.
fn client(port: u16) -> Client {
    let mut options = ClientOptions::default();
    let endpoint = format!("http://127.0.0.1:{port}");
    for (key, value) in [
        ("allow_http", "true"),
        ("aws_endpoint", &endpoint),
        ("aws_access_key_id", "me"),
        ("aws_secret_access_key", SECRET),
        ("aws_session_token", SECRET),
        ("azure_storage_endpoint", &format!("{endpoint}/me")),
        ("azure_storage_account_name", "me"),
        ("azure_storage_sas_token", &format!("?sig={SECRET}")),
        ("google_base_url", &endpoint),
        (
            "google_service_account_key",
            r#"{"private_key":"","private_key_id":"","client_email":"","disable_oauth":true}"#,
        ),
    ] {
        options.store_options.insert(key.into(), value.into());
    }
    let debug = format!("{options:?}");
    assert!(
        debug.contains("aws_endpoint") && !debug.contains(SECRET),
        "{debug}"
    );
    Client::new(tokio::runtime::Handle::current(), options)
}

/// Opens a shard; what may pass is told to nobody but `tracing`, so it is given up after the second request.
/// Returns the error, or none if it was tried again.
fn open(url: &str, answer: &'static str) -> Option<Error> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(AtomicUsize::new(0));
    let (again, tried_again) = tokio::sync::oneshot::channel();
    let again = Mutex::new(Some(again));
    let counter = Arc::clone(&requests);
    // Ends with the process: it waits for connections.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let _ = stream.write_all(answer.as_bytes());
            if counter.fetch_add(1, Ordering::SeqCst) == 1
                && let Some(again) = again.lock().unwrap().take()
            {
                let _ = again.send(());
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = client(port);
        tokio::select! {
            opened = client.open_existing(url) => Some(opened.unwrap_err()),
            _ = tried_again => None,
        }
    })
}

macro_rules! answer {
    ($status:literal, $body:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\nConnection: close\r\n\r\n", $body)
    };
}

const URLS: [&str; 3] = ["s3://bucket/shard", "gs://bucket/shard", "az://box/shard"];

#[test]
fn what_may_pass_is_waited_for() {
    for url in URLS {
        for answer in [
            answer!("500 Internal Server Error", "oops"),
            answer!("503 Slow Down", "<Error><Code>SlowDown</Code></Error>"),
            answer!("429 Too Many Requests", ""),
            answer!("408 Request Timeout", ""),
            answer!(
                "400 Bad Request",
                "<Error><Code>RequestTimeout</Code></Error>"
            ),
            answer!("409 Conflict", ""),
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ncut off",
            "",
        ] {
            let error = open(url, answer);
            assert!(error.is_none(), "{url}, {answer:?}: {}", error.unwrap());
        }
    }
}

#[test]
fn what_only_somebody_can_change_is_an_error() {
    for url in URLS {
        for answer in [
            answer!(
                "400 Bad Request",
                "<Error><Code>InvalidBucketName</Code></Error>"
            ),
            answer!("401 Unauthorized", ""),
            answer!("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>"),
            answer!("405 Method Not Allowed", ""),
            answer!("301 Moved Permanently", ""),
            answer!("501 Not Implemented", ""),
            answer!("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>"),
            answer!(
                "404 Not Found",
                "<Error><Code>ContainerNotFound</Code></Error>"
            ),
        ] {
            let error =
                open(url, answer).unwrap_or_else(|| panic!("{url}, {answer:?}: tried again"));
            assert!(
                matches!(error, Error::Store { .. }),
                "{url}, {answer:?}: {error}"
            );
            assert!(!error.is_transient(), "{url}, {answer:?}: {error}");
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
        }
    }
}
