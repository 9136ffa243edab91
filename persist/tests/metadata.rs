//! What a table's metadata says wrongly keeps everybody out, names what helps, and costs no data file.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Error, RepairOptions, RepairReport, RepairStep};
use serde_json::{Value, json};
use support::damage::*;
use support::run;

/// A change of the metadata.
type Edit = (&'static str, fn(&mut Value));

fn fields(metadata: &mut Value, edit: impl Fn(&mut Vec<Value>)) {
    let text = metadata["schemaString"].as_str().unwrap();
    let mut schema: Value = serde_json::from_str(text).unwrap();
    edit(schema["fields"].as_array_mut().unwrap());
    metadata["schemaString"] = schema.to_string().into();
}

fn column(name: &str, data_type: impl Into<Value>) -> Value {
    json!({"name": name, "type": data_type.into(), "nullable": true, "metadata": {}})
}

const REFUSED: &[Edit] = &[
    ("a column twice", |metadata| {
        fields(metadata, |fields| fields.push(column("c1", "string")));
    }),
    ("a column twice, of another type", |metadata| {
        fields(metadata, |fields| fields.insert(0, column("c0", "string")));
    }),
    ("a column twice, but for the case", |metadata| {
        fields(metadata, |fields| fields.push(column("C1", "string")));
    }),
    ("a column of ours twice", |metadata| {
        fields(metadata, |fields| fields.push(column("MV_TIME", "long")));
    }),
    ("a field of a struct twice", |metadata| {
        let inner = json!({"type": "struct", "fields": [column("a", "long"), column("A", "long")]});
        fields(metadata, |fields| {
            fields.push(column("more", inner.clone()))
        });
    }),
    ("an unknown type", |metadata| {
        fields(metadata, |fields| fields.push(column("more", "variant")));
    }),
    ("a timestamp without zone", |metadata| {
        fields(metadata, |fields| {
            fields.push(column("more", "timestamp_ntz"))
        });
    }),
    ("partitions", |metadata| {
        metadata["partitionColumns"] = json!(["c0"])
    }),
    ("column mapping", |metadata| {
        metadata["configuration"]["delta.columnMapping.mode"] = "name".into();
    }),
    ("no multiplicity", |metadata| {
        fields(metadata, |fields| {
            fields.retain(|field| field["name"] != "mv_diff")
        });
    }),
    ("a time of another type", |metadata| {
        fields(metadata, |fields| {
            for field in fields.iter_mut().filter(|field| field["name"] == "mv_time") {
                field["type"] = "string".into();
            }
        });
    }),
];

/// What fits no file, and can be told by the files alone.
const UNFIT: &[Edit] = &[
    ("a column of another type", |metadata| {
        fields(metadata, |fields| fields[0]["type"] = "string".into());
    }),
    ("a column is gone", |metadata| {
        fields(metadata, |fields| drop(fields.remove(1)));
    }),
    ("a column has another name", |metadata| {
        fields(metadata, |fields| fields[1]["name"] = "other".into());
    }),
    ("columns have changed places", |metadata| {
        fields(metadata, |fields| fields.swap(0, 1))
    }),
];

/// The metadata that the first entry has.
fn metadata(dir: &Path) -> Value {
    let text = fs::read_to_string(entry(dir, 0)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let mut actions =
        lines.filter_map(|mut action: Value| Some(action.get_mut("metaData")?.take()));
    actions.next().unwrap()
}

/// Changes the metadata in the first entry.
fn edit_first(dir: &Path, edit: fn(&mut Value)) {
    let text = fs::read_to_string(entry(dir, 0)).unwrap();
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut action: Value = serde_json::from_str(line).unwrap();
            if let Some(metadata) = action.get_mut("metaData") {
                edit(metadata);
            }
            action.to_string()
        })
        .collect();
    fs::write(entry(dir, 0), lines.join("\n") + "\n").unwrap();
}

async fn repair(dir: &Path, set: impl Fn(&mut RepairOptions)) -> RepairReport {
    let mut options = RepairOptions::default();
    set(&mut options);
    plain().repair(url(dir), &options, &|_| ()).await.unwrap()
}

/// Whatever is asked for but by its version, nothing happens to the table; returns the advice.
async fn left_alone(dir: &Path, what: &str) -> String {
    let before = contents(dir);
    let mut advice = String::new();
    for all in [false, true] {
        let set = |options: &mut RepairOptions| {
            (
                options.drop_entries,
                options.drop_files,
                options.accept_edits,
            ) = (all, all, all);
        };
        let report = repair(dir, set).await;
        assert!(report.steps.is_empty(), "{what}: {report:?}");
        assert!(contents(dir) == before, "{what}");
        advice = report.left[0].advice.clone();
    }
    advice
}

fn expect_named(error: &Error, what: &str) {
    let line = error.to_string();
    let refused = matches!(
        error,
        Error::Unsupported { .. } | Error::SchemaMismatch { .. }
    );
    assert!(refused, "{what}: {line}");
    assert!(
        line.contains("repair") && !line.contains('\n'),
        "{what}: {line}"
    );
}

#[test]
fn metadata_that_is_refused_costs_no_file_and_can_be_given_up() {
    for (what, edit) in REFUSED.iter().chain(UNFIT) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 6).await);
            let mut changed = metadata(dir);
            edit(&mut changed);
            put_entry(dir, 7, &[json!({"metaData": changed})]);
            let error = open(dir).await.err().unwrap_or_else(|| panic!("{what}"));
            expect_named(&error, what);
            assert!(error.to_string().contains("version 7"), "{what}: {error}");
            let advice = left_alone(dir, what).await;
            assert!(advice.contains("--drop-entries=7"), "{what}: {advice}");
            let report = repair(dir, |options| options.drop_entries_from = Some(7)).await;
            assert_eq!((report.steps.len(), report.left.len()), (1, 0), "{what}");
            let shard = open(dir).await.unwrap();
            assert_eq!(shard.pin().files().count(), 6, "{what}");
            assert!(verify(dir).await.is_clean(), "{what}");
        });
    }
}

#[test]
fn a_table_whose_first_metadata_is_refused_is_left_alone() {
    for (what, edit) in REFUSED {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 6).await);
            edit_first(dir, *edit);
            let error = open(dir).await.err().unwrap_or_else(|| panic!("{what}"));
            assert!(
                matches!(error, Error::Unsupported { .. }),
                "{what}: {error}"
            );
            left_alone(dir, what).await;
        });
    }
}

#[test]
fn files_that_are_as_they_were_written_are_kept_where_the_schema_is_another() {
    for (what, edit) in UNFIT {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 6).await;
            let gone = data_file(&shard, 3).path;
            drop(shard);
            edit_first(dir, *edit);
            let found = verify(dir).await;
            let kinds: Vec<_> = named(&found).into_iter().map(|(_, kind)| kind).collect();
            assert_eq!(kinds, ["schema"; 6], "{what}: {found:?}");
            let advice = left_alone(dir, what).await;
            assert!(advice.contains("metaData"), "{what}: {advice}");
            // One that is lost is no reason to give up the rest.
            fs::remove_file(dir.join(gone)).unwrap();
            let report = repair(dir, |_| ()).await;
            assert_eq!((report.steps.len(), report.left.len()), (1, 5), "{what}");
            let [RepairStep::DropFiles { files }] = &report.steps[..] else {
                panic!("{what}: {report:?}");
            };
            assert_eq!(files.len(), 1, "{what}");
        });
    }
}

#[test]
fn what_is_not_supported_is_refused_in_one_line_that_says_what_helps() {
    let feature = |name: &str| {
        json!({"protocol": {
            "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [name], "writerFeatures": [name],
        }})
    };
    let writer = |name: &str| json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": [name]}});
    let versions = |reader: u64, writer: u64| json!({"protocol": {"minReaderVersion": reader, "minWriterVersion": writer}});
    let mut with_vector = add("theirs.parquet", 9);
    with_vector["add"]["deletionVector"] =
        json!({"storageType": "u", "pathOrInlineDv": "x", "sizeInBytes": 1, "cardinality": 1});
    let ntz = |mut metadata: Value| {
        fields(&mut metadata, |fields| {
            fields.push(column("more", "timestamp_ntz"))
        });
        json!({"metaData": metadata})
    };
    let set = |name: &'static str, value: &'static str| {
        move |mut metadata: Value| {
            metadata["configuration"][name] = value.into();
            json!({"metaData": metadata})
        }
    };
    type Action = Box<dyn Fn(Value) -> Value>;
    let of = |action: Value| Box::new(move |_| action.clone()) as Action;
    let cases: Vec<(Action, &[&str])> = vec![
        (
            of(feature("deletionVectors")),
            &["PURGE", "DROP FEATURE deletionVectors"],
        ),
        (of(with_vector), &["PURGE", "DROP FEATURE deletionVectors"]),
        (
            of(feature("columnMapping")),
            &["`none`", "DROP FEATURE columnMapping"],
        ),
        (
            Box::new(set("delta.columnMapping.mode", "id")),
            &["`none`", "DROP FEATURE columnMapping"],
        ),
        (
            of(feature("v2Checkpoint")),
            &["`classic`", "DROP FEATURE v2Checkpoint"],
        ),
        (
            of(feature("timestampNtz")),
            &["`TIMESTAMP`", "DROP FEATURE timestampNtz"],
        ),
        (Box::new(ntz), &["`TIMESTAMP`", "DROP FEATURE timestampNtz"]),
        (of(feature("somethingNew")), &["DROP FEATURE somethingNew"]),
        (of(writer("rowTracking")), &["DROP FEATURE rowTracking"]),
        (of(versions(9, 2)), &["lower it again"]),
        (of(versions(1, 5)), &["lower it again"]),
        (
            Box::new(set(
                "delta.setTransactionRetentionDuration",
                "interval 1 day",
            )),
            &["UNSET TBLPROPERTIES"],
        ),
        (
            Box::new(set("mvsink.format", "2")),
            &["use a newer version"],
        ),
    ];
    for (action, says) in cases {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let follower = filled(dir, 3).await;
            let action = action(metadata(dir));
            put_entry(dir, 4, std::slice::from_ref(&action));
            let errors = [
                open(dir).await.unwrap_err(),
                follower.refresh().await.unwrap_err(),
            ];
            for error in errors {
                let line = error.to_string();
                assert!(
                    matches!(error, Error::Unsupported { .. }),
                    "{action}: {line}"
                );
                for says in says.iter().chain(&["version 4", "--drop-entries=4`"]) {
                    assert!(line.contains(says), "{action}: {line}");
                }
                assert!(!line.contains('\n'), "{line}");
            }
        });
    }
}
