//! What lies where a directory of a shard belongs, or cannot be one, is said in plain words.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Error, Open, RepairOptions};
use support::damage::*;
use support::run;

/// What each way to a shard says of this address: without its log, as it is created, verified and repaired.
async fn said(url: &str) -> [Error; 4] {
    let client = plain();
    let open = Open::new(codec().schema());
    let repair = RepairOptions::default();
    [
        client.open_existing(url).await.unwrap_err(),
        client.open_or_create(url, open).await.unwrap_err(),
        client.verify(url, &|_| ()).await.unwrap_err(),
        client.repair(url, &repair, &|_| ()).await.unwrap_err(),
    ]
}

fn expect_plain(error: &Error, says: &str) {
    let line = error.to_string();
    assert!(line.contains(says) && !error.is_transient(), "{line}");
    for word in [
        "Generic",
        "os error",
        "LocalFileSystem",
        "illegal",
        "Object at",
    ] {
        assert!(!line.contains(word), "{line}");
    }
}

#[test]
fn a_file_in_the_place_of_the_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        fs::write(dir.join("_delta_log"), "x").unwrap();
        for error in said(url(dir)).await {
            expect_plain(
                &error,
                "/_delta_log is a file where a directory of a shard belongs",
            );
        }
        fs::remove_file(dir.join("_delta_log")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.join("_delta_log")).unwrap();
        for error in said(url(dir)).await {
            expect_plain(&error, "/_delta_log is a link to nothing where");
        }
    });
}

#[test]
fn a_file_in_the_place_of_the_table_is_named_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("q3");
    run(async {
        fs::write(&file, "x").unwrap();
        let [existing, created, ..] = said(url(&file)).await;
        assert!(matches!(existing, Error::NoShard { .. }), "{existing}");
        expect_plain(
            &created,
            "q3 is a file where a directory of a shard belongs",
        );
        let [_, created, ..] = said(url(&file.join("below"))).await;
        expect_plain(
            &created,
            "q3 is a file where a directory of a shard belongs",
        );
        assert_eq!(fs::read(&file).unwrap(), b"x");
    });
}

#[test]
fn names_that_no_directory_of_a_table_has_are_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let dir: &Path = dir.path();
    let long = "a".repeat(256);
    run(async {
        for (name, says) in [
            ("new\nline", r"has the character '\n'"),
            ("tab\tbed/q3", r"has the character '\t'"),
            (long.as_str(), "longer than the 255 bytes"),
        ] {
            for error in said(url(&dir.join(name))).await {
                expect_plain(&error, says);
            }
        }
        let whole = dir.join("a".repeat(255));
        drop(filled(&whole, 2).await);
        assert!(verify(&whole).await.is_clean());
    });
}
