//! Every kind of damage: `verify` names it and exits 1, `repair --dry-run` says what `repair` then does, and after that the
//! table is sound, or the rest is named with advice.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow_schema::DataType;
use mvsink_persist::{Client, ClientOptions, FileEncoder, Shard};
use serde_json::{Value, json};
use support::*;

/// The shards of a demo after three runs; `q3` and `bid` have a checkpoint of the version after the second.
struct Base {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Base {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let base = Base { dir, runtime };
        for events in ["2000", "4000", "6000"] {
            succeed(&nexmark(base.dir.path(), events, "1"));
            if events == "4000" {
                for name in ["q3", "q4", "bid"] {
                    let shard = base.open(&base.dir.path().join(name));
                    base.runtime.block_on(shard.checkpoint()).unwrap();
                }
            }
        }
        base
    }

    fn open(&self, table: &Path) -> Shard {
        let client = Client::new(self.runtime.handle().clone(), ClientOptions::default());
        let opened = client.open_existing(text(table));
        self.runtime.block_on(opened).unwrap()
    }

    /// A copy of a shard.
    fn copy(&self, name: &str) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for (path, bytes) in contents(&self.dir.path().join(name)) {
            let path = copy.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        copy
    }
}

/// A copy of a shard that is to be damaged.
struct Table<'b> {
    base: &'b Base,
    dir: PathBuf,
}

impl Table<'_> {
    fn log(&self, name: &str) -> PathBuf {
        self.dir.join("_delta_log").join(name)
    }

    fn entry(&self, version: u64) -> PathBuf {
        self.log(&format!("{version:020}.json"))
    }

    fn versions(&self, ending: &str) -> Vec<u64> {
        let names = fs::read_dir(self.dir.join("_delta_log")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut versions: Vec<u64> = names
            .filter_map(|name| name.strip_suffix(ending)?.parse().ok())
            .collect();
        versions.sort_unstable();
        versions
    }

    fn last(&self) -> u64 {
        self.versions(".json").pop().unwrap()
    }

    fn checkpoint_version(&self) -> u64 {
        self.versions(".checkpoint.parquet").pop().unwrap()
    }

    fn checkpoint(&self) -> PathBuf {
        self.log(&format!(
            "{:020}.checkpoint.parquet",
            self.checkpoint_version()
        ))
    }

    /// The last data files, by the entries that add them.
    fn data_files(&self) -> Vec<PathBuf> {
        let entries = self.versions(".json").into_iter().rev();
        let texts = entries.map(|version| fs::read_to_string(self.entry(version)).unwrap());
        let adds = texts.flat_map(|text| {
            let lines: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            lines
        });
        adds.filter_map(|action| Some(self.dir.join(action["add"]["path"].as_str()?)))
            .collect()
    }

    /// Puts the next entry.
    fn put(&self, actions: &[Value]) {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        fs::write(self.entry(self.last() + 1), lines.join("\n") + "\n").unwrap();
    }

    /// Changes the file that the last entry adds.
    fn edit_last(&self, edit: impl Fn(&mut Value)) {
        let path = self.entry(self.last());
        let mut action: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        edit(&mut action["add"]);
        fs::write(path, action.to_string()).unwrap();
    }

    /// Puts rows of another program, with some values of their own, and null in columns of ours where nothing else is said.
    fn put_rows(&self, path: &str, columns: &[(&str, Vec<i64>)], rows: usize) {
        let schema = self.base.open(&self.dir).schema();
        let columns = schema.fields().iter().map(|field| {
            let named = columns.iter().find(|(name, _)| name == field.name());
            match (named, field.data_type()) {
                (Some((_, values)), _) => Arc::new(Int64Array::from(values.clone())) as ArrayRef,
                (None, DataType::Utf8) if !field.name().starts_with("mv_") => {
                    Arc::new(StringArray::from(vec!["theirs"; rows]))
                }
                (None, DataType::Int64) if !field.name().starts_with("mv_") => {
                    Arc::new(Int64Array::from(vec![1; rows]))
                }
                (None, other) => new_null_array(other, rows),
            }
        });
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
        let mut file = FileEncoder::new(schema).unwrap();
        file.write(&batch).unwrap();
        let bytes = file.finish().unwrap().bytes;
        let file = self.dir.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &bytes).unwrap();
        self.put(&[json!({"add": {
            "path": path, "partitionValues": {}, "size": bytes.len(), "modificationTime": 1, "dataChange": true,
        }})]);
    }
}

/// The contents of all files below a directory, by their relative paths.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    // A link to nothing has none.
                    let bytes = fs::read(&path).unwrap_or_default();
                    found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
                }
            }
        }
    }
    found
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// A kind of damage.
struct Case {
    what: &'static str,
    shard: &'static str,
    edit: fn(&Table<'_>),
    /// The kinds of damage that are named, `|` between those that may be; none if the table is sound.
    kinds: &'static [&'static str],
    /// Options of the repair; `{}` is the version after the last.
    options: &'static [&'static str],
    /// Its steps.
    steps: &'static [&'static str],
    /// What the advice for the rest says, if something is left.
    left: &'static str,
}

const CASE: Case = Case {
    what: "",
    shard: "q3",
    edit: |_| (),
    kinds: &[],
    options: &[],
    steps: &[],
    left: "",
};

const CASES: &[Case] = &[
    Case {
        what: "nothing",
        ..CASE
    },
    Case {
        what: "the hint leads to nothing",
        edit: |table| {
            fs::write(
                table.log("_last_checkpoint"),
                "{\"version\":99,\"size\":1,\"parts\":3}",
            )
            .unwrap()
        },
        kinds: &["pointer"],
        steps: &["point to"],
        ..CASE
    },
    Case {
        what: "the hint cannot be read",
        edit: |table| fs::write(table.log("_last_checkpoint"), "{").unwrap(),
        kinds: &["pointer"],
        steps: &["point to"],
        ..CASE
    },
    Case {
        what: "the hint says too much",
        edit: |table| {
            let version = table.checkpoint_version();
            let hint = json!({"version": version, "size": 1, "parts": 1});
            fs::write(table.log("_last_checkpoint"), hint.to_string()).unwrap();
        },
        ..CASE
    },
    Case {
        what: "an entry is missing in the middle",
        edit: |table| fs::remove_file(table.entry(table.last() - 1)).unwrap(),
        kinds: &["entries missing"],
        options: &["--drop-entries"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "the same, and nobody gives up what follows",
        edit: |table| fs::remove_file(table.entry(table.last() - 1)).unwrap(),
        kinds: &["entries missing"],
        left: "--drop-entries",
        ..CASE
    },
    Case {
        what: "the first entries are missing",
        edit: |table| {
            fs::remove_file(table.checkpoint()).unwrap();
            fs::remove_file(table.log("_last_checkpoint")).unwrap();
            fs::remove_file(table.entry(0)).unwrap();
        },
        kinds: &["entries missing"],
        options: &["--drop-entries"],
        left: "put it back from a copy",
        ..CASE
    },
    Case {
        what: "a file is missing",
        edit: |table| fs::remove_file(&table.data_files()[0]).unwrap(),
        kinds: &["missing"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "a directory is in the place of a file",
        edit: |table| {
            fs::remove_file(&table.data_files()[0]).unwrap();
            fs::create_dir(&table.data_files()[0]).unwrap();
        },
        kinds: &["missing"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "a file of an input is missing, and nobody gives it up",
        shard: "bid",
        edit: |table| fs::remove_file(&table.data_files()[0]).unwrap(),
        kinds: &["missing"],
        left: "--drop-files",
        ..CASE
    },
    Case {
        what: "a file of an input is missing",
        shard: "bid",
        edit: |table| fs::remove_file(&table.data_files()[0]).unwrap(),
        kinds: &["missing"],
        options: &["--drop-files"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "a file is cut short",
        edit: |table| cut(&table.data_files()[0]),
        kinds: &["size", "unreadable"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "a file is another one",
        edit: |table| {
            let files = table.data_files();
            fs::copy(&files[1], &files[0]).unwrap();
        },
        kinds: &["sums"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "a page of a file is flipped",
        edit: |table| flip(&table.data_files()[0], |_| 60),
        kinds: &["sums|unreadable"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "the footer of a file is flipped",
        edit: |table| flip(&table.data_files()[0], |size| size - 6),
        kinds: &["unreadable"],
        steps: &["drop files"],
        ..CASE
    },
    Case {
        what: "rows without times and multiplicities",
        edit: |table| table.put_rows("theirs.parquet", &[("id", vec![1, 2])], 2),
        kinds: &["nulls"],
        left: "a view answers that itself with its next batch",
        ..CASE
    },
    Case {
        what: "rows that no sink can read",
        edit: |table| {
            let columns = [
                ("id", vec![1]),
                ("mv_time", vec![i64::MAX]),
                ("mv_diff", vec![1]),
            ];
            table.put_rows("theirs.parquet", &columns, 1);
        },
        kinds: &["unfit"],
        left: "a view repairs that itself with its next batch",
        ..CASE
    },
    Case {
        what: "a row that sources could not add up, in an input",
        shard: "bid",
        edit: |table| {
            let columns = [("mv_time", vec![1]), ("mv_diff", vec![1 << 50])];
            table.put_rows("theirs.parquet", &columns, 1);
        },
        kinds: &["unfit"],
        options: &["--accept-edits"],
        left: "no edit was accepted",
        ..CASE
    },
    Case {
        what: "rows without times in an input, which are accepted",
        shard: "bid",
        edit: |table| table.put_rows("theirs.parquet", &[("mv_diff", vec![1])], 1),
        kinds: &["nulls"],
        options: &["--accept-edits"],
        steps: &["accept edits"],
        ..CASE
    },
    Case {
        what: "rows that no number counts",
        edit: |table| {
            let columns = [
                ("id", vec![1; 2]),
                ("mv_time", vec![1; 2]),
                ("mv_diff", vec![i64::MAX; 2]),
            ];
            table.put_rows("theirs.parquet", &columns, 2);
        },
        kinds: &["unfit", "multiplicity"],
        left: "a view repairs that itself with its next batch",
        ..CASE
    },
    Case {
        what: "the size of a file is none",
        edit: |table| {
            table.put_rows(
                "theirs.parquet",
                &[("id", vec![1]), ("mv_time", vec![1]), ("mv_diff", vec![1])],
                1,
            );
            table.edit_last(|add| add["size"] = 0.into());
        },
        kinds: &["size"],
        steps: &["correct files"],
        ..CASE
    },
    Case {
        what: "the size of a file of an input is below none",
        shard: "bid",
        edit: |table| {
            table.put_rows(
                "theirs.parquet",
                &[("mv_time", vec![1]), ("mv_diff", vec![1])],
                1,
            );
            table.edit_last(|add| add["size"] = (-1).into());
        },
        kinds: &["size"],
        steps: &["correct files"],
        ..CASE
    },
    Case {
        what: "the statistics of a file are wrong",
        edit: |table| {
            table.put_rows(
                "theirs.parquet",
                &[("id", vec![7]), ("mv_time", vec![1]), ("mv_diff", vec![1])],
                1,
            );
            let stats = json!({
                "numRecords": 9, "minValues": {"id": 8, "mv_time": 2}, "maxValues": {"id": 8, "mv_time": 2},
            });
            table.edit_last(|add| add["stats"] = stats.to_string().into());
        },
        kinds: &["rows", "times", "statistics"],
        steps: &["correct files"],
        ..CASE
    },
    Case {
        what: "a path that others cannot follow",
        edit: |table| {
            table.put_rows(
                "theirs.parquet",
                &[("id", vec![7]), ("mv_time", vec![1]), ("mv_diff", vec![1])],
                1,
            );
            table.edit_last(|add| add["path"] = "k/../theirs.parquet".into());
        },
        kinds: &["path"],
        steps: &["correct files"],
        ..CASE
    },
    Case {
        what: "a column stands twice in the schema",
        edit: put_column_twice,
        kinds: &["refused"],
        options: &["--drop-entries", "--drop-files"],
        left: "--drop-entries=",
        ..CASE
    },
    Case {
        what: "a column stands twice in the schema, and that is given up",
        edit: put_column_twice,
        kinds: &["refused"],
        options: &["--drop-entries={}"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "a since of nobody",
        edit: |table| {
            table.put(&[json!({"txn": {"appId": "mvsink.since", "version": 1_i64 << 50}})])
        },
        kinds: &["frontier"],
        options: &["--drop-entries"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "an entry that is as far ahead as can be",
        edit: |table| {
            let far = table.entry(i64::MAX as u64);
            fs::copy(table.entry(table.last()), far).unwrap();
        },
        kinds: &["entries missing"],
        options: &["--drop-entries"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "an input is edited, and an entry after that is damaged",
        shard: "bid",
        edit: |table| {
            let file = table.data_files().remove(0);
            let path = file.file_name().unwrap().to_str().unwrap();
            table.put(&[
                json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}}),
            ]);
            fs::write(table.entry(table.last() + 1), "{").unwrap();
        },
        kinds: &["unreadable"],
        options: &["--drop-entries", "--accept-edits"],
        steps: &["drop entries", "accept edits"],
        ..CASE
    },
    Case {
        what: "a late entry is all that is left",
        edit: |table| {
            let (last, late) = (table.last(), fs::read(table.entry(table.last())).unwrap());
            fs::remove_dir_all(&table.dir).unwrap();
            fs::create_dir_all(table.dir.join("_delta_log")).unwrap();
            fs::write(table.entry(last), late).unwrap();
        },
        kinds: &["entries missing"],
        options: &["--drop-entries"],
        left: "rm -r ",
        ..CASE
    },
    Case {
        what: "files of the future",
        edit: |table| {
            let future = SystemTime::now() + Duration::from_secs(90_000);
            for path in [table.entry(table.last()), table.data_files()[0].clone()] {
                let file = fs::File::options().write(true).open(path).unwrap();
                file.set_modified(future).unwrap();
            }
        },
        ..CASE
    },
    Case {
        what: "a file in a subfolder was removed and is still there",
        edit: |table| {
            let columns = [("id", vec![1]), ("mv_time", vec![1]), ("mv_diff", vec![1])];
            table.put_rows("_theirs/x.parquet", &columns, 1);
            table.put(&[json!({"remove": {
                "path": "_theirs/x.parquet", "deletionTimestamp": 1, "dataChange": true,
            }})]);
        },
        ..CASE
    },
    Case {
        what: "an entry is damaged",
        edit: |table| cut(&table.entry(table.last())),
        kinds: &["unreadable"],
        options: &["--drop-entries"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "a frontier is forged",
        edit: |table| table.put(&[json!({"txn": {"appId": "mvsink.upper", "version": i64::MAX}})]),
        kinds: &["frontier"],
        options: &["--drop-entries"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "a frontier goes back",
        edit: |table| table.put(&[json!({"txn": {"appId": "mvsink.upper", "version": 0}})]),
        kinds: &["unreadable"],
        options: &["--drop-entries"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "a feature is on",
        edit: put_feature,
        kinds: &["refused"],
        options: &["--drop-entries"],
        left: "--drop-entries=",
        ..CASE
    },
    Case {
        what: "a feature is on, and is given up",
        edit: put_feature,
        kinds: &["refused"],
        options: &["--drop-entries={}"],
        steps: &["drop entries"],
        ..CASE
    },
    Case {
        what: "a checkpoint is damaged",
        edit: |table| cut(&table.checkpoint()),
        kinds: &["unreadable"],
        steps: &["rewrite checkpoint"],
        ..CASE
    },
    Case {
        what: "a checkpoint is damaged, and all that there is",
        edit: |table| {
            cut(&table.checkpoint());
            clean(table);
        },
        kinds: &["unreadable", "entries missing"],
        options: &["--drop-entries"],
        left: "replace it by that of a copy",
        ..CASE
    },
    Case {
        what: "a checkpoint is another table's",
        edit: |table| {
            let other = Table {
                base: table.base,
                dir: table.base.dir.path().join("q4"),
            };
            fs::copy(other.checkpoint(), table.checkpoint()).unwrap();
        },
        kinds: &["unreadable"],
        steps: &["rewrite checkpoint"],
        ..CASE
    },
    Case {
        what: "half of a checkpoint",
        edit: |table| {
            fs::rename(table.checkpoint(), part(table, 2, 2)).unwrap();
            clean(table);
        },
        kinds: &["missing"],
        options: &["--drop-entries"],
        left: "put it back from a copy",
        ..CASE
    },
    Case {
        what: "half of a checkpoint that nobody needs",
        edit: |table| {
            fs::copy(table.checkpoint(), part(table, 2, 2)).unwrap();
        },
        ..CASE
    },
    Case {
        what: "a checkpoint in parts",
        edit: |table| {
            fs::copy(table.checkpoint(), part(table, 2, 2)).unwrap();
            fs::copy(table.checkpoint(), part(table, 1, 2)).unwrap();
            fs::remove_file(table.checkpoint()).unwrap();
            clean(table);
        },
        kinds: &["refused"],
        options: &["--drop-entries"],
        left: "write a classic checkpoint",
        ..CASE
    },
    Case {
        what: "a directory is in the next entry's place",
        edit: |table| fs::create_dir(table.entry(table.last() + 1)).unwrap(),
        kinds: &["folder"],
        left: "move the directory away",
        ..CASE
    },
    Case {
        what: "a link to nothing is in the next entry's place",
        edit: |table| std::os::unix::fs::symlink("nowhere", table.entry(table.last() + 1)).unwrap(),
        kinds: &["no file"],
        left: "move it away",
        ..CASE
    },
    Case {
        what: "another table is in its place",
        edit: |table| {
            fs::remove_dir_all(&table.dir).unwrap();
            for (path, bytes) in contents(&table.base.dir.path().join("q4")) {
                let path = table.dir.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        },
        ..CASE
    },
    Case {
        what: "an older copy is in its place",
        edit: |table| fs::remove_file(table.entry(table.last())).unwrap(),
        ..CASE
    },
];

/// Has the log cleaned up to its checkpoint.
fn clean(table: &Table<'_>) {
    let version = fs::read_to_string(table.log("_last_checkpoint")).unwrap();
    let version: Value = serde_json::from_str(&version).unwrap();
    for version in 0..=version["version"].as_u64().unwrap() {
        fs::remove_file(table.entry(version)).unwrap();
    }
}

fn part(table: &Table<'_>, number: u64, of: u64) -> PathBuf {
    let version = fs::read_to_string(table.log("_last_checkpoint")).unwrap();
    let version: Value = serde_json::from_str(&version).unwrap();
    let version = version["version"].as_u64().unwrap();
    table.log(&format!(
        "{version:020}.checkpoint.{number:010}.{of:010}.parquet"
    ))
}

fn put_column_twice(table: &Table<'_>) {
    let text = fs::read_to_string(table.entry(0)).unwrap();
    let mut actions = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut metadata = actions
        .find(|action| action.get("metaData").is_some())
        .unwrap();
    let schema = &mut metadata["metaData"]["schemaString"];
    let mut columns: Value = serde_json::from_str(schema.as_str().unwrap()).unwrap();
    let fields = columns["fields"].as_array_mut().unwrap();
    let mut again = fields[0].clone();
    again["name"] = again["name"].as_str().unwrap().to_uppercase().into();
    fields.push(again);
    *schema = columns.to_string().into();
    table.put(&[metadata]);
}

fn put_feature(table: &Table<'_>) {
    table.put(&[json!({"protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
    }})]);
}

fn json(arguments: &[&str]) -> (Value, i32, String) {
    let output = mvsink(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let object = serde_json::from_slice(&output.stdout);
    let object = object.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stderr}"));
    (object, output.status.code().unwrap(), stderr)
}

fn named<'v>(object: &'v Value, list: &str, key: &str) -> Vec<&'v str> {
    let list = object[list].as_array().unwrap();
    list.iter()
        .map(|item| item[key].as_str().unwrap())
        .collect()
}

fn try_case(base: &Base, case: &Case) {
    let what = case.what;
    let copy = base.copy(case.shard);
    let table = Table {
        base,
        dir: copy.path().to_owned(),
    };
    let last = table.last();
    (case.edit)(&table);
    let url = text(&table.dir);
    let before = contents(&table.dir);

    let (found, status, line) = json(&["verify", url, "--json"]);
    let kinds: BTreeSet<_> = named(&found, "findings", "kind").into_iter().collect();
    assert_eq!(status, i32::from(!case.kinds.is_empty()), "{what}: {found}");
    match case.kinds {
        [] => assert!(kinds.is_empty(), "{what}: {found}"),
        // A file that is wrong in one way mostly is in others.
        expected => assert!(
            expected
                .iter()
                .all(|kind| kind.split('|').any(|kind| kinds.contains(kind))),
            "{what}: {found}"
        ),
    }
    if let Some(first) = found["findings"].get(0) {
        let file = first["file"].as_str().unwrap();
        assert!(
            line.contains(file) && line.lines().count() == 1,
            "{what}: {line}"
        );
    }

    let options: Vec<_> = case
        .options
        .iter()
        .map(|option| option.replace("{}", &(last + 1).to_string()))
        .collect();
    let mut repair = vec!["repair", url, "--json"];
    repair.extend(options.iter().map(String::as_str));
    let dry: Vec<_> = repair.iter().copied().chain(["--dry-run"]).collect();
    let (planned, status, _) = json(&dry);
    assert_eq!(
        status,
        i32::from(!case.left.is_empty()),
        "{what}: {planned}"
    );
    assert_eq!(
        contents(&table.dir),
        before,
        "{what}: a dry run changes nothing"
    );
    assert_eq!(
        named(&planned, "steps", "step"),
        case.steps,
        "{what}: {planned}"
    );
    let advice = named(&planned, "left", "advice");
    match case.left {
        "" => assert!(advice.is_empty(), "{what}: {planned}"),
        expected => assert!(
            advice.iter().any(|advice| advice.contains(expected)),
            "{what}: {planned}"
        ),
    }
    let (done, status, _) = json(&repair);
    assert_eq!(status, i32::from(!case.left.is_empty()), "{what}: {done}");
    assert_eq!(
        (&done["steps"], &done["left"]),
        (&planned["steps"], &planned["left"]),
        "{what}"
    );
    if case.steps.is_empty() {
        assert_eq!(contents(&table.dir), before, "{what}");
    }
    let (found, status, _) = json(&["verify", url, "--json"]);
    assert_eq!(status, i32::from(!case.left.is_empty()), "{what}: {found}");
    let (again, _, _) = json(&repair);
    assert_eq!(
        again["steps"],
        json!([]),
        "{what}: a second repair does nothing"
    );
}

#[test]
fn verify_names_every_kind_of_damage_and_repair_does_as_it_says() {
    let base = Base::new();
    for case in CASES {
        try_case(&base, case);
    }
}

#[test]
fn options_that_a_sound_table_does_not_need_are_told_to_be_needless() {
    let base = Base::new();
    let copy = base.copy("bid");
    let url = text(copy.path());
    let before = contents(copy.path());
    for (option, line) in [
        ("--drop-entries", "there are no entries to drop"),
        ("--drop-entries=99", "there are no entries to drop"),
        ("--drop-files", "there are no references to drop"),
        ("--accept-edits", "there are no edits to accept"),
    ] {
        for dry in [&["--dry-run"][..], &[]] {
            let arguments: Vec<_> = ["repair", url, option].iter().chain(dry).copied().collect();
            let output = mvsink(&arguments);
            let stdout = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(0), "{option}: {stdout}");
            assert!(stdout.contains("nothing to repair"), "{option}: {stdout}");
            assert!(stdout.contains(line), "{option}: {stdout}");
        }
    }
    assert_eq!(contents(copy.path()), before);
}

/// A view does not read its own files, and the summary does.
#[test]
fn the_rows_of_an_entry_that_cannot_be_read_are_called_unknown() {
    let base = Base::new();
    let copy = base.copy("q3");
    let dir = copy.path().to_owned();
    let table = Table { base: &base, dir };
    cut(&table.entry(table.last()));
    let (advised, _, _) = json(&["repair", text(&table.dir), "--dry-run", "--json"]);
    let advice = advised["left"][0]["advice"].as_str().unwrap();
    let unknown = "the unknown rows of an entry that cannot be read";
    assert!(advice.contains(unknown), "{advice}");
    let drop = ["repair", text(&table.dir), "--drop-entries", "--dry-run"];
    let told = succeed(&drop);
    assert!(told.contains(unknown), "{told}");
    let (planned, _, _) = json(&[&drop[..], &["--json"]].concat());
    let step = &planned["steps"][0];
    assert!(
        step["rows"].is_null() && step["entries_unread"] == 1,
        "{step}"
    );
}

#[test]
fn a_run_whose_summary_meets_a_damaged_file_says_so_and_prints_the_rest() {
    let base = Base::new();
    for (shard, events) in [("q3", "6000"), ("q3", "7000"), ("bid", "6000")] {
        let dir = base.copy(".");
        let table = Table {
            base: &base,
            dir: dir.path().join(shard),
        };
        let files = table.data_files();
        let file = files.last().unwrap();
        flip(file, |size| size - 6);
        let run = mvsink(&nexmark(dir.path(), events, "1"));
        let stdout = String::from_utf8(run.stdout).unwrap();
        let stderr = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(1), "{shard} {events}: {stderr}");
        expect_damage_named(&stderr, file);
        let is_row = |name: &&&str| {
            stdout
                .lines()
                .any(|line| line.contains(&format!("/{name} ")))
        };
        let rows = SHARDS.iter().filter(is_row).count();
        assert_eq!(rows, SHARDS.len(), "{stdout}");
        assert_eq!(stdout.matches("(unreadable)").count(), 1, "{stdout}");
    }
}

/// What a source holds is read by the views over it.
#[test]
fn a_run_whose_views_meet_a_damaged_file_ends_with_its_name() {
    let base = Base::new();
    let dir = base.copy(".");
    let table = Table {
        base: &base,
        dir: dir.path().join("bid"),
    };
    let files = table.data_files();
    let file = files.last().unwrap();
    flip(file, |size| size - 6);
    let run = mvsink(&nexmark(dir.path(), "7000", "1"));
    assert_eq!(run.status.code(), Some(1));
    expect_damage_named(&String::from_utf8(run.stderr).unwrap(), file);
}

fn expect_damage_named(stderr: &str, file: &Path) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let line = stderr.lines().last().unwrap();
    assert!(
        line.contains(name) && line.contains("damaged") && line.contains("mvsink repair"),
        "{stderr}"
    );
}
