//! `_last_checkpoint` is a hint: what is found in the log's folder decides.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Error, Frontier, Open, Shard};
use support::damage::{entry, in_log, plain};
use support::{client, grow, options, run, schema};

/// Entries 0 to 9, with checkpoints of 3 and 6.
async fn table(dir: &Path) -> Shard {
    let open = Open::new(schema());
    let shard = plain().open_or_create(dir.to_str().unwrap(), open).await;
    let shard = shard.unwrap();
    for upper in [3, 6] {
        grow(&shard, upper).await;
        shard.checkpoint().await.unwrap();
    }
    grow(&shard, 9).await;
    shard
}

#[test]
fn whatever_the_hint_says_a_table_whose_log_is_whole_opens() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let v2 = r#"{"version":6,"size":5,"v2Checkpoint":{"path":"x.parquet","sizeInBytes":1,"modificationTime":1,"nonFileActions":[],"sidecarFiles":[]}}"#;
        for cleaned in [false, true] {
            if cleaned {
                for version in 0..6 {
                    fs::remove_file(entry(dir, version)).unwrap();
                }
            }
            for hint in [
                r#"{"version":6,"size":5,"parts":1}"#,
                r#"{"version":6,"size":5,"parts":2}"#,
                r#"{"version":6,"size":5,"parts":null,"sizeInBytes":5,"numOfAddFiles":1,"checkpointSchema":{"type":"struct"}}"#,
                v2,
                r#"{"version":6,"size":5,"v2Checkpoint":true}"#,
                // To nothing.
                r#"{"version":7,"size":5,"parts":3}"#,
                r#"{"version":8,"size":5}"#,
                &v2.replace(":6,", ":7,"),
                // Stale, or of the future.
                r#"{"version":3,"size":5}"#,
                r#"{"version":900,"size":5}"#,
                r#"{"version":9223372036854775807,"size":5}"#,
                r#"{"version":18446744073709551615,"size":5}"#,
                // Written otherwise, or damaged.
                "\u{feff}{\"version\": 6.0}\r\n",
                r#"{"version":6,"version":6,"size":"many","parts":"1"}"#,
                r#"{"version":-1,"size":5}"#,
                r#"{"version":"x"}"#,
                r#"{"size":5}"#,
                r#"{"version":6"#,
                "[6]",
                "",
            ] {
                fs::write(in_log(dir, "_last_checkpoint"), hint).unwrap();
                let again = plain().open_existing(dir.to_str().unwrap()).await;
                let again = again.unwrap_or_else(|error| panic!("{hint}: {error}"));
                assert_eq!(again.progress(), shard.progress(), "{hint}");
                assert!(again.pin().files().eq(shard.pin().files()), "{hint}");
            }
        }
    });
}

#[test]
fn a_checkpoint_of_another_form_beside_one_that_can_be_read_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        for version in 0..6 {
            fs::remove_file(entry(dir, version)).unwrap();
        }
        for name in [
            "00000000000000000008.checkpoint.0000000001.0000000002.parquet",
            "00000000000000000008.checkpoint.0000000002.0000000002.parquet",
            "00000000000000000008.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet",
        ] {
            fs::write(in_log(dir, name), "parts").unwrap();
        }
        let hint = r#"{"version":8,"size":5,"parts":2}"#;
        fs::write(in_log(dir, "_last_checkpoint"), hint).unwrap();
        let again = plain().open_existing(dir.to_str().unwrap()).await.unwrap();
        assert_eq!(again.progress(), shard.progress());
        assert!(again.pin().files().eq(shard.pin().files()));
        drop(again);
        // If it alone bridges a gap, it is what is not understood.
        fs::remove_file(entry(dir, 7)).unwrap();
        let error = plain().open_existing(dir.to_str().unwrap()).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(
            error.to_string().contains("checkpoint of version 8"),
            "{error}"
        );
    });
}

#[test]
fn the_next_commit_has_a_checkpoint_where_the_hint_led_to_none() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let url = dir.to_str().unwrap();
        drop(table(dir).await);
        let hint = in_log(dir, "_last_checkpoint");
        let whole = fs::read_to_string(&hint).unwrap();
        let mut rarely = options(2);
        rarely.checkpoint_interval = 1000;
        // One that leads where it should costs nothing.
        let shard = client(rarely.clone()).open_existing(url).await.unwrap();
        grow(&shard, 10).await;
        drop(shard);
        assert_eq!(fs::read_to_string(&hint).unwrap(), whole);
        fs::write(&hint, r#"{"version":900,"size":5,"parts":3}"#).unwrap();
        let shard = client(rarely).open_existing(url).await.unwrap();
        grow(&shard, 11).await;
        // It is written beside whatever follows.
        while !fs::read_to_string(&hint)
            .unwrap()
            .contains(r#""version":11,"#)
        {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let written = fs::read(&hint).unwrap();
        grow(&shard, 12).await;
        assert_eq!(fs::read(&hint).unwrap(), written);
    });
}

#[test]
fn a_hint_to_nothing_is_replaced_by_the_next_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let hint = in_log(dir, "_last_checkpoint");
        fs::write(&hint, r#"{"version":900,"size":5,"parts":1}"#).unwrap();
        shard.checkpoint().await.unwrap();
        assert!(
            fs::read_to_string(&hint)
                .unwrap()
                .starts_with(r#"{"version":9,"#)
        );
        // One to a newer checkpoint that is there stays.
        fs::write(&hint, r#"{"version":900,"size":5}"#).unwrap();
        let newer = in_log(dir, "00000000000000000900.checkpoint.parquet");
        fs::write(&newer, "newer").unwrap();
        shard.checkpoint().await.unwrap();
        assert!(fs::read_to_string(&hint).unwrap().contains("900"));
        fs::remove_file(newer).unwrap();
        assert_eq!(shard.progress().upper, Frontier::At(9));
    });
}
