//! What lies where a directory of a shard belongs, or cannot be one, is said in plain words.

mod support;

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use mvsink_persist::{Error, Open, RepairOptions};
use support::damage::*;
use support::{append, run};

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

fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn links_to_themselves_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let link = |path: &Path| {
        let _ = fs::remove_file(path);
        std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap();
    };
    run(async {
        link(&dir.join("loop"));
        for name in ["loop", "loop/below"] {
            for error in said(url(&dir.join(name))).await {
                expect_plain(&error, "a symbolic link that leads to itself");
                assert!(error.to_string().contains(name), "{error}");
            }
        }
        let table = dir.join("q3");
        fs::create_dir(&table).unwrap();
        link(&table.join("_delta_log"));
        for error in said(url(&table)).await {
            expect_plain(&error, "q3/_delta_log is a link to itself where");
        }
        fs::remove_file(table.join("_delta_log")).unwrap();
        let shard = filled(&table, 3).await;
        let file = table.join(data_file(&shard, 1).path);
        drop(shard);
        let whole = fs::read(&file).unwrap();
        link(&file);
        assert_eq!(named(&verify(&table).await)[0].1, "no file");
        let shard = open(&table).await.unwrap();
        let mut read = shard.snapshot(2, Default::default()).unwrap();
        let error = loop {
            match read.next().await {
                Ok(batch) => assert!(batch.is_some()),
                Err(error) => break error,
            }
        };
        expect_plain(
            &error,
            "is a link to itself where a file of the shard belongs",
        );
        fs::remove_file(&file).unwrap();
        fs::write(&file, whole).unwrap();
        link(&entry(&table, 2));
        for error in said(url(&table)).await {
            expect_plain(
                &error,
                "2.json is a link to itself where a file of the shard belongs",
            );
        }
    });
}

/// Whoever opened one would wait for a writer.
#[test]
fn pipes_in_the_place_of_files_are_named_and_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let file = dir.join(data_file(&shard, 1).path);
        drop(shard);
        fs::remove_file(&file).unwrap();
        pipe(&file);
        assert_eq!(named(&verify(dir).await)[0].1, "no file");
        fs::remove_file(entry(dir, 2)).unwrap();
        pipe(&entry(dir, 2));
        let error = open(dir).await.unwrap_err();
        expect_plain(
            &error,
            "2.json is no regular file where a file of the shard belongs",
        );
    });
}

/// Runs a test that may hang, and fails then.
fn within_a_minute(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let running = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match ended.recv_timeout(Duration::from_mins(1)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => running.join().unwrap(),
    }
}

#[test]
fn a_look_at_a_pipe_in_the_place_of_a_data_file_ends() {
    within_a_minute(|| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            let file = dir.join(data_file(&shard, 1).path);
            fs::remove_file(&file).unwrap();
            pipe(&file);
            let says = "is no regular file where a file of the shard belongs";
            let error = shard.damaged_files(&shard.pin()).await.unwrap_err();
            expect_plain(&error, says);
            let mut read = shard.snapshot(2, Default::default()).unwrap();
            let error = loop {
                match read.next().await {
                    Ok(batch) => assert!(batch.is_some()),
                    Err(error) => break error,
                }
            };
            expect_plain(&error, says);
        });
    });
}

#[test]
fn an_append_beside_a_pipe_in_the_place_of_a_later_entry_ends() {
    within_a_minute(|| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            pipe(&entry(dir, 5));
            let appended = shard.append(append(3, 3, 4, Vec::new()), &|_| ()).await;
            let says = "5.json is no regular file where a file of the shard belongs";
            expect_plain(&appended.unwrap_err(), says);
            assert!(!entry(dir, 4).exists());
        });
    });
}

#[test]
fn a_place_where_no_directory_can_be_made_is_named() {
    let place = "/proc/self/q3";
    if !Path::new("/proc/self").exists() {
        return;
    }
    run(async {
        let open = Open::new(codec().schema());
        let error = plain().open_or_create(place, open).await.unwrap_err();
        expect_plain(
            &error,
            "cannot use /proc/self/q3 as a shard: no directory can be made there",
        );
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
