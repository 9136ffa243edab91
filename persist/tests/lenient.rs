//! Log entries of other programs, which are free-form but for what a reader needs of them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use mvsink_persist::{Appended, Client, Error, Frontier, Open, Shard};
use support::{append, client, options, run, schema, stage};

fn quiet(_: &Error) {}

fn plain() -> Client {
    let mut options = options(1);
    options.checkpoint_interval = 0;
    client(options)
}

fn entry(dir: &Path, version: u64) -> PathBuf {
    dir.join(format!("_delta_log/{version:020}.json"))
}

async fn grow(shard: &Shard, upper: i64) {
    for time in shard.progress().upper.time().unwrap()..upper {
        let file = stage(shard, time).await;
        let append = append(u64::try_from(time).unwrap(), time, time + 1, vec![file]);
        shard.append(append, &quiet).await.unwrap();
    }
}

async fn filled(dir: &Path, upper: i64) -> Shard {
    let open = Open::new(schema());
    let shard = plain().open_or_create(dir.to_str().unwrap(), open).await;
    let shard = shard.unwrap();
    grow(&shard, upper).await;
    shard
}

/// Follows, opens, and opens from a checkpoint what has these lines as its next entry, and goes on.
async fn reads(lines: &str, check: impl Fn(&Shard)) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let shard = filled(dir, 2).await;
    fs::write(entry(dir, 3), lines).unwrap();
    let shown = &lines[..lines.len().min(200)];
    let followed = shard.refresh().await;
    followed.unwrap_or_else(|error| panic!("{shown}: {error}"));
    check(&shard);
    let reopen = || async {
        let opened = plain().open_existing(dir.to_str().unwrap()).await;
        let opened = opened.unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(opened.progress(), shard.progress(), "{shown}");
        check(&opened);
        opened
    };
    reopen().await.checkpoint().await.unwrap();
    let appended = reopen()
        .await
        .append(append(9, 2, 3, Vec::new()), &quiet)
        .await;
    assert_eq!(
        appended.unwrap(),
        Appended::Committed { version: 4 },
        "{shown}"
    );
}

const INFO: &str = r#"{"commitInfo":{"operation":"OTHER"}}"#;

#[test]
fn commit_info_may_be_anything() {
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    let objects = r#"{"a":"#.repeat(5_000) + "1" + &"}".repeat(5_000);
    run(async {
        for info in [
            r#""by hand""#,
            "5",
            "null",
            "true",
            "[]",
            "[1,{}]",
            "{}",
            "1e999",
            &deep,
            r#"{"operation":"A","operation":"B","timestamp":1,"timestamp":2}"#,
            r#"{"operation":5,"operationParameters":"x","engineInfo":{"a":[1]},"timestamp":1.5e999}"#,
            &format!(r#"{{"operationParameters":{deep},"operationMetrics":{objects}}}"#),
            r#"{"mvsink.id":5,"mvsink.lower":"x","mvsink.lines":"many","mvsink.table":null}"#,
            r#"{"mvsink.id":"nobody","mvsink.upper":{}}"#,
            r#"{"isolationLevel":"Serializable","isBlindAppend":true,"userMetadata":"{\"a\":[}"}"#,
        ] {
            let txn = r#"{"txn":{"appId":"app","version":1}}"#;
            reads(&format!("{{\"commitInfo\":{info}}}\n{txn}\n"), |_| ()).await;
        }
    });
}

#[test]
fn lines_may_be_framed_as_editors_and_other_systems_do() {
    run(async {
        let txn = r#"{"txn":{"appId":"app","version":1}}"#;
        for lines in [
            format!("\u{feff}{INFO}\n{txn}\n"),
            format!("{INFO}\r\n{txn}\r\n"),
            format!("\n\n{INFO}\n  \t\n{txn}"),
            format!(
                "  {INFO}  \n\t{{ \"txn\" : {{ \"version\" : 1 , \"appId\" : \"app\" }} }}\n\n"
            ),
        ] {
            reads(&lines, |_| ()).await;
        }
    });
}

#[test]
fn unknown_actions_and_fields_may_be_anything() {
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    run(async {
        for line in [
            r#"{"cdc":{"path":"x","size":1}}"#.to_owned(),
            r#"{"domainMetadata":5}"#.to_owned(),
            r#"{"domainMetadata":{"domain":"d","configuration":"","removed":false}}"#.to_owned(),
            format!(r#"{{"future":{deep}}}"#),
            r#"{"future":1e999,"future":2}"#.to_owned(),
            "{}".to_owned(),
            r#"{"add":null,"remove":null,"txn":null,"metaData":null,"protocol":null}"#.to_owned(),
        ] {
            reads(&format!("{INFO}\n{line}\n"), |_| ()).await;
        }
    });
}

#[test]
fn numbers_of_other_programs_may_be_written_otherwise() {
    run(async {
        for txn in [
            r#"{"appId":"app","version":1.0}"#,
            r#"{"appId":"app","version":"1","lastUpdated":1.7e12}"#,
            r#"{"appId":"app","version":1.5}"#,
            r#"{"appId":"app","version":null}"#,
            r#"{"appId":"app"}"#,
            r#"{"appId":"app","version":1,"version":2}"#,
            r#"{"appId":5,"version":1e3,"lastUpdated":"yesterday","more":1e999}"#,
        ] {
            reads(&format!("{INFO}\n{{\"txn\":{txn}}}\n"), |_| ()).await;
        }
        let add = r#"{"add":{"path":"a%20b.parquet","partitionValues":{},"size":4.0,"modificationTime":1.7e12,"dataChange":true,"stats":"{\"numRecords\":7}","tags":{"n":5,"b":true,"none":null,"o":{"x":[1]}},"baseRowId":1e999,"clusteringProvider":null}}"#;
        let remove = r#"{"remove":{"path":"x.parquet","deletionTimestamp":1.7e12,"dataChange":"true","extendedFileMetadata":null,"size":"12","tags":{"a":1}}}"#;
        reads(&format!("{INFO}\n{add}\n{remove}\n"), |shard| {
            let pinned = shard.pin();
            let added = pinned.files().find(|file| file.path == "a%20b.parquet");
            let added = added.expect("it is live");
            assert_eq!((added.size, added.rows), (4, Some(7)));
            assert_eq!((&*added.tags["n"], &*added.tags["b"]), ("5", "true"));
        })
        .await;
    });
}

#[test]
fn metadata_and_protocol_may_be_written_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 2).await);
        let first = fs::read_to_string(entry(dir, 0)).unwrap();
        for (from, to) in [
            (r#""minReaderVersion":1"#, r#""minReaderVersion":1.0"#),
            (
                r#""minWriterVersion":2"#,
                r#""minWriterVersion":"2","writerFeatures":null"#,
            ),
            (
                r#""partitionColumns":[]"#,
                r#""partitionColumns":null,"name":null"#,
            ),
            (r#""options":{}"#, r#""options":null"#),
            (
                r#""configuration":{"#,
                r#""configuration":{"limit":5,"on":true,"#,
            ),
            (
                r#""createdTime":"#,
                r#""createdTime":1.5e12,"createdTime":"#,
            ),
        ] {
            let changed = first.replacen(from, to, 1);
            assert_ne!(changed, first, "{from}");
            fs::write(entry(dir, 0), changed).unwrap();
            let opened = plain().open_existing(dir.to_str().unwrap()).await;
            let opened = opened.unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!(opened.progress().upper, Frontier::At(2), "{to}");
        }
    });
}

#[test]
fn what_is_needed_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 2).await;
        for line in [
            "5",
            r#""txt""#,
            "nonsense",
            r#"{"txn":{"appId":"mvsink.upper","version":2.5}}"#,
            r#"{"txn":{"appId":"mvsink.since"}}"#,
            r#"{"add":{"partitionValues":{},"size":4,"modificationTime":1,"dataChange":true}}"#,
            r#"{"add":5}"#,
            r#"{"remove":{"dataChange":true}}"#,
            r#"{"add":{"path":"x""#,
        ] {
            fs::write(entry(dir, 3), format!("{INFO}\n{line}\n")).unwrap();
            let error = shard.refresh().await.unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{line}: {error}");
            assert!(error.to_string().contains("line 2"), "{line}: {error}");
        }
    });
}

#[test]
fn a_file_is_found_under_every_spelling_of_its_path() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().canonicalize().unwrap().join("my table");
    run(async {
        let shard = filled(&dir, 1).await;
        let base = dir.to_str().unwrap();
        let encoded = base.replace(' ', "%20");
        let spellings = [
            "x y.parquet".to_owned(),
            "x%20y.parquet".to_owned(),
            "./x%20y.parquet".to_owned(),
            "sub/..//x%20y.parquet".to_owned(),
            format!("{base}/x y.parquet"),
            format!("{encoded}/x%20y.parquet"),
            format!("file://{encoded}/x%20y.parquet"),
            format!("file:{encoded}/x%20y.parquet"),
            format!("file://localhost{encoded}/x%20y.parquet"),
        ];
        fs::write(dir.join("x y.parquet"), "data").unwrap();
        let mut version = 2;
        for added in &spellings {
            for removed in &spellings {
                let action = |kind: &str, path: &str| {
                    format!(
                        "{{\"{kind}\":{{\"path\":\"{path}\",\"partitionValues\":{{}},\"size\":4,\"modificationTime\":1,\"deletionTimestamp\":1,\"dataChange\":true}}}}\n"
                    )
                };
                fs::write(entry(&dir, version), action("add", added)).unwrap();
                shard.refresh().await.unwrap();
                let pinned = shard.pin();
                assert_eq!(pinned.files().len(), 2, "{added}");
                let live = pinned.files().find(|file| file.path == *added);
                let live = live.expect("it is told of as it was added");
                let bytes = shard.read_file(&live.path).await;
                assert_eq!(bytes.unwrap().as_ref(), b"data", "{added}");
                assert!(shard.knows_file(removed));
                fs::write(entry(&dir, version + 1), action("remove", removed)).unwrap();
                shard.refresh().await.unwrap();
                assert_eq!(shard.pin().files().len(), 1, "{added} removed as {removed}");
                version += 2;
            }
        }
        // What lies elsewhere is refused by name.
        for outside in [
            "../x.parquet",
            "/elsewhere/x.parquet",
            "s3://bucket/x.parquet",
        ] {
            let error = shard.read_file(outside).await.unwrap_err();
            assert!(error.to_string().contains(outside), "{error}");
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
    });
}
