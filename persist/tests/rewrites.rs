//! Entries of other programs that say they change no data, and files with copies of a sink's tags: what is believed.

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::testing::ClockedStore;
use mvsink_persist::{
    Change, CompactOptions, Error, FileEncoder, Frontier, ReadOptions, RepairOptions, RepairStep,
    Shard,
};
use serde_json::{Value, json};
use support::damage::*;
use support::{client, options, run};

type Update = (Row, i64, i64);

/// The update that [`filled`] puts at this time.
fn update(time: i64) -> Update {
    ((time as u64, Some(format!("row {time}"))), time, 1)
}

/// Writes a file with these rows; gives the action that adds it without changing data.
fn rewritten(dir: &Path, name: &str, updates: &[Update]) -> Value {
    let mut file = FileEncoder::new(codec().schema()).unwrap();
    let updates = updates.iter().map(|(row, time, diff)| (row, *time, *diff));
    file.write(&codec().encode(updates).unwrap()).unwrap();
    let bytes = file.finish().unwrap().bytes;
    fs::write(dir.join(name), &bytes).unwrap();
    let mut add = add(name, bytes.len());
    add["add"]["dataChange"] = false.into();
    add
}

fn removed(path: &str) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": false}})
}

/// The removals of the files of these times.
fn removals(shard: &Shard, times: &[i64]) -> Vec<Value> {
    let paths = times.iter().map(|time| data_file(shard, *time).path);
    paths.map(|path| removed(&path)).collect()
}

/// Puts the next entry; gives its version.
fn put(dir: &Path, mut actions: Vec<Value>) -> u64 {
    let names = fs::read_dir(in_log(dir, "")).unwrap();
    let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
    let versions = names.filter_map(|name| name.split('.').next()?.parse::<u64>().ok());
    let version = versions.max().unwrap() + 1;
    actions.insert(0, json!({"commitInfo": {"operation": "OPTIMIZE"}}));
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    // As a whole: somebody may follow.
    let staged = in_log(dir, "staged");
    fs::write(&staged, lines.join("\n") + "\n").unwrap();
    fs::rename(staged, entry(dir, version)).unwrap();
    version
}

/// Opens the table, and has entries of other programs looked at.
async fn looked_at(dir: &Path) -> Shard {
    let shard = open(dir).await.unwrap();
    shard.check_rewrites().await.unwrap();
    shard
}

/// What another program puts into its entry.
type Edit = fn(&Path, &Shard) -> Vec<Value>;

/// Edits that say they change no data, in a table with a row at each time below 3.
fn edits() -> Vec<(&'static str, Edit)> {
    vec![
        ("other rows", |dir, shard| {
            let mut actions = removals(shard, &[0, 1]);
            let rows = [update(0), ((1, Some("another".into())), 1, 1)];
            actions.push(rewritten(dir, "theirs.parquet", &rows));
            actions
        }),
        ("the same rows at other times", |dir, shard| {
            let mut actions = removals(shard, &[0, 1]);
            let rows = [update(0), (update(1).0, 2, 1)];
            actions.push(rewritten(dir, "theirs.parquet", &rows));
            actions
        }),
        ("more rows", |dir, _| {
            vec![rewritten(dir, "theirs.parquet", &[update(0)])]
        }),
        ("fewer rows", |_, shard| removals(shard, &[1])),
        ("rows that cannot be read", |dir, shard| {
            let mut actions = removals(shard, &[1]);
            fs::write(dir.join("theirs.parquet"), "none").unwrap();
            let mut add = add("theirs.parquet", 4);
            add["add"]["dataChange"] = false.into();
            actions.push(add);
            actions
        }),
    ]
}

#[test]
fn an_entry_that_says_it_changes_no_data_and_does_is_an_edit() {
    for (what, actions) in edits() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            let mut reader = shard.changes(0, at(9), ReadOptions::default()).unwrap();
            while !matches!(reader.next().await, Ok(Some(Change::Progress(upper))) if upper == at(3))
            {
            }
            let actions = actions(dir, &shard);
            let (adds, removes): (Vec<_>, Vec<_>) = actions
                .iter()
                .partition(|action| action.get("add").is_some());
            let (adds, removes) = (adds.len(), removes.len());
            let version = put(dir, actions);
            shard.refresh().await.unwrap();
            let entry = shard.entry(version).await.unwrap();
            assert!(entry.foreign && entry.exact, "{what}: {entry:?}");
            assert_eq!(
                (entry.adds.len(), entry.removes.len()),
                (adds, removes),
                "{what}"
            );
            let error = loop {
                if let Err(error) = reader.next().await {
                    break error;
                }
            };
            assert!(
                matches!(error, Error::ForeignEdit { .. }),
                "{what}: {error}"
            );
            // Whoever opens it, or appends, goes by it too.
            let opened = looked_at(dir).await;
            let known = (opened.edited(), opened.unaccepted_edit());
            assert_eq!(known, (Some(version), Some(version)), "{what}");
            grow(&shard, 4).await;
            assert_eq!(shard.progress().since, at(3), "{what}");
            assert_eq!(
                (shard.edited(), shard.unaccepted_edit()),
                (None, None),
                "{what}"
            );
            let opened = looked_at(dir).await;
            assert_eq!(opened.edited(), None, "{what}");
        });
    }
}

/// Where an opener begins to read a table, after what another program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Entries,
    /// And entries, of which one says which edits are answered.
    Checkpoint,
}

#[test]
fn an_edit_that_says_it_changes_no_data_is_known_from_a_checkpoint_too() {
    for (what, actions) in edits() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            let version = put(dir, actions(dir, &shard));
            // Nobody has looked at it when the checkpoint is written.
            open(dir).await.unwrap().checkpoint().await.unwrap();
            let opened = looked_at(dir).await;
            let known = (opened.edited(), opened.unaccepted_edit());
            assert_eq!(known, (Some(version), Some(version)), "{what}");
            grow(&opened, 4).await;
            assert_eq!(opened.progress().since, at(3), "{what}");
        });
    }
}

#[test]
fn files_that_another_program_merges_are_followed() {
    for (vacuumed, known) in [
        (false, Known::Entries),
        (true, Known::Entries),
        (false, Known::Checkpoint),
        (true, Known::Checkpoint),
    ] {
        let what = format!("vacuumed: {vacuumed}, known from {known:?}");
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 4).await;
            let mut reader = shard.changes(0, at(5), ReadOptions::default()).unwrap();
            while !matches!(reader.next().await, Ok(Some(Change::Progress(upper))) if upper == at(4))
            {
            }
            let old: Vec<_> = (0..3).map(|time| data_file(&shard, time).path).collect();
            let mut actions = removals(&shard, &[0, 1, 2]);
            let updates = [update(2), update(0), update(1)];
            actions.push(rewritten(dir, "merged.parquet", &updates));
            let version = put(dir, actions);
            if vacuumed {
                old.iter()
                    .for_each(|path| fs::remove_file(dir.join(path)).unwrap());
            }
            if known == Known::Checkpoint {
                let other = open(dir).await.unwrap();
                assert_eq!(other.checkpoint().await.unwrap(), version);
            }
            let opened = looked_at(dir).await;
            let edits = (opened.edited(), opened.unaccepted_edit());
            assert_eq!(edits, (None, None), "{what}");
            shard.refresh().await.unwrap();
            let entry = shard.entry(version).await.unwrap();
            assert!(
                !entry.foreign && entry.adds.is_empty() && entry.removes.is_empty(),
                "{what}"
            );
            grow(&shard, 5).await;
            assert_eq!(shard.progress().since, at(0), "{what}");
            // A reader of changes goes on.
            let mut last = None;
            while let Some(change) = reader.next().await.unwrap() {
                last = Some(change);
            }
            assert_eq!(last, Some(Change::Progress(at(5))), "{what}");
            // And what was merged is merged again.
            let mut options = CompactOptions::default();
            options.full = true;
            let go_on = |_| ControlFlow::Continue(());
            let report = shard.compact(&options, &go_on).await.unwrap();
            assert_eq!(
                (report.merges, report.left_alone),
                (1, 0),
                "{what}: {report:?}"
            );
            assert!(verify(dir).await.is_clean(), "{what}");
        });
    }
}

/// Merges the files of three times, as another program, in two steps; gives their versions.
fn merge_twice(dir: &Path, shard: &Shard) -> [u64; 2] {
    let mut actions = removals(shard, &[0, 1]);
    actions.push(rewritten(dir, "once.parquet", &[update(0), update(1)]));
    let first = put(dir, actions);
    let mut actions = removals(shard, &[2]);
    actions.push(removed("once.parquet"));
    let all = [update(2), update(1), update(0)];
    actions.push(rewritten(dir, "twice.parquet", &all));
    [first, put(dir, actions)]
}

#[test]
fn what_is_merged_twice_and_deleted_before_anybody_looks_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let [first, second] = merge_twice(dir, &shard);
        fs::remove_file(dir.join("once.parquet")).unwrap();
        let opened = looked_at(dir).await;
        assert_eq!(opened.edited(), None);
        shard.refresh().await.unwrap();
        for version in [first, second] {
            assert!(!shard.entry(version).await.unwrap().foreign);
        }
        // What has been read here is known when it is gone.
        let mut actions = vec![removed("twice.parquet")];
        actions.push(rewritten(
            dir,
            "thrice.parquet",
            &[update(2), update(1), update(0)],
        ));
        fs::remove_file(dir.join("twice.parquet")).unwrap();
        let third = put(dir, actions);
        shard.refresh().await.unwrap();
        assert!(!shard.entry(third).await.unwrap().foreign);
        // What others have to know of it, the next commit tells.
        drop(shard);
        assert_eq!(looked_at(dir).await.edited(), None);
    });
}

/// Merges all live files into one, as another program, and deletes those at once; gives the version.
fn merge_and_delete(dir: &Path, shard: &Shard, name: &str, upper: i64) -> u64 {
    let paths: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
    let mut actions: Vec<_> = paths.iter().map(|path| removed(path)).collect();
    let all: Vec<_> = (0..upper).rev().map(update).collect();
    actions.push(rewritten(dir, name, &all));
    let version = put(dir, actions);
    paths
        .iter()
        .for_each(|path| fs::remove_file(dir.join(path)).unwrap());
    version
}

/// How what was merged before is known when it is merged again.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// By a commit of who has read it.
    ByCommit,
    /// By a checkpoint, and no entry.
    ByCheckpoint,
    /// It was read by who follows, and the log tells nothing of it.
    Here,
}

#[test]
fn what_was_merged_and_deleted_is_merged_again_and_again() {
    for told in [Told::ByCommit, Told::ByCheckpoint, Told::Here] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let follower = filled(dir, 3).await;
            for round in 0..4 {
                let what = format!("{told:?}, round {round}");
                // Each time another process, but for the one that follows.
                let mut options = options(100 + round);
                options.checkpoint_interval = 0;
                let another = client(options);
                let opened = async || match told {
                    Told::Here => follower.clone(),
                    Told::ByCommit | Told::ByCheckpoint => {
                        another.open_existing(url(dir)).await.unwrap()
                    }
                };
                let before = open(dir).await.unwrap();
                let upper = before.progress().upper.time().unwrap();
                let name = format!("{round}.parquet");
                let version = merge_and_delete(dir, &before, &name, upper);
                let shard = opened().await;
                shard.refresh().await.unwrap();
                shard.check_rewrites().await.unwrap();
                assert!(!shard.entry(version).await.unwrap().foreign, "{what}");
                let known = (shard.edited(), shard.unaccepted_edit());
                assert_eq!(known, (None, None), "{what}");
                if !matches!(told, Told::Here) {
                    grow(&shard, upper + 1).await;
                }
                if matches!(told, Told::ByCheckpoint) {
                    let version = shard.checkpoint().await.unwrap();
                    let entries = (0..=version).filter(|version| entry(dir, *version).exists());
                    remove_entries(dir, entries);
                }
                assert_eq!(shard.progress().since, at(0), "{what}");
                let report = verify(dir).await;
                assert!(report.is_clean(), "{what}: {report:?}");
            }
        });
    }
}

#[test]
fn a_merged_file_that_was_read_is_known_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let [first, second] = merge_twice(dir, &shard);
        // Both are in the log before the first is looked at.
        shard.refresh().await.unwrap();
        assert!(!shard.entry(first).await.unwrap().foreign);
        fs::remove_file(dir.join("once.parquet")).unwrap();
        assert!(!shard.entry(second).await.unwrap().foreign);
    });
}

/// The paths of live files of which the log does not say what they add up to.
fn unsaid(shard: &Shard) -> Vec<String> {
    let pinned = shard.pin();
    let unsaid = pinned.files().filter(|file| file.summed().is_none());
    unsaid.map(|file| file.path.clone()).collect()
}

/// What was told of a merged file are its rows: other rows in its place are damage, and not wrong tags.
#[test]
fn a_merged_file_that_was_told_and_then_replaced_is_lost() {
    for rows in [2, 1] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 2).await;
            merge_and_delete(dir, &shard, "merged.parquet", 2);
            grow(&looked_at(dir).await, 3).await;
            assert!(verify(dir).await.is_clean());
            let others: Vec<_> = (0..rows)
                .map(|time| ((70 + time as u64, Some(format!("row {time}"))), time, 1))
                .collect();
            rewritten(dir, "merged.parquet", &others);
            let kinds: Vec<_> = named(&verify(dir).await)
                .into_iter()
                .map(|(path, kind)| {
                    assert_eq!(path, "merged.parquet");
                    kind
                })
                .collect();
            assert!(
                kinds.contains(&"sums") && !kinds.contains(&"tags"),
                "{kinds:?}"
            );
            let mut options = RepairOptions::default();
            options.dry_run = true;
            let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
            let is_drop = |step: &RepairStep| matches!(step, RepairStep::DropFiles { .. });
            assert!(report.steps.iter().all(is_drop), "{report:?}");
            assert_eq!(report.steps.len(), 1, "{report:?}");
        });
    }
}

#[test]
fn a_file_that_is_named_again_without_tags_keeps_what_is_known_of_it() {
    for data_change in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            let file = data_file(&shard, 1);
            let size = usize::try_from(file.size).unwrap();
            let mut again = add(&file.path, size);
            again["add"]["dataChange"] = data_change.into();
            put(dir, vec![again]);
            // The next commit tells it, so that a later merge of what is gone then is followed.
            grow(&looked_at(dir).await, 4).await;
            let opened = open(dir).await.unwrap();
            assert_eq!(unsaid(&opened), Vec::<String>::new());
            merge_and_delete(dir, &opened, "merged.parquet", 4);
            let opened = looked_at(dir).await;
            assert_eq!((opened.edited(), opened.unaccepted_edit()), (None, None));
        });
    }
}

#[test]
fn what_was_read_of_a_merged_file_is_told_after_the_log_was_cleaned_up_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        merge_and_delete(dir, &shard, "merged.parquet", 3);
        shard.refresh().await.unwrap();
        shard.check_rewrites().await.unwrap();
        // Its checkpoint says nothing of the rows, and nobody has told it before.
        put(dir, vec![json!({"txn": {"appId": "theirs", "version": 1}})]);
        let version = open(dir).await.unwrap().checkpoint().await.unwrap();
        remove_entries(dir, 0..=version);
        put(dir, vec![json!({"txn": {"appId": "theirs", "version": 2}})]);
        shard.refresh().await.unwrap();
        assert_eq!(shard.progress().version, version + 1);
        grow(&shard, 4).await;
        assert_eq!(unsaid(&open(dir).await.unwrap()), Vec::<String>::new());
    });
}

/// The rows of a file that another program has merged are told only if they were those of sinks: what it adds of its own
/// is looked at by whoever reads it.
#[test]
fn what_was_merged_of_other_rows_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let mut theirs = rewritten(dir, "theirs.parquet", &[((9, None), 1, 1)]);
        theirs["add"]["dataChange"] = true.into();
        put(dir, vec![theirs]);
        let mut actions = removals(&shard, &[0]);
        actions.push(removed("theirs.parquet"));
        let rows = [update(0), ((9, None), 1, 1)];
        actions.push(rewritten(dir, "merged.parquet", &rows));
        put(dir, actions);
        let shard = looked_at(dir).await;
        grow(&shard, 4).await;
        let shard = open(dir).await.unwrap();
        assert_eq!(unsaid(&shard), ["merged.parquet"]);
    });
}

#[test]
fn a_file_that_is_named_again_without_changing_data_is_no_edit() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let file = data_file(&shard, 1);
        let mut again = add(
            &format!("./{}", file.path),
            usize::try_from(file.size).unwrap(),
        );
        again["add"]["dataChange"] = false.into();
        let version = put(dir, vec![again, removed("nowhere.parquet")]);
        for _ in 0..2 {
            let opened = looked_at(dir).await;
            assert_eq!((opened.edited(), opened.unaccepted_edit()), (None, None));
            // Below a checkpoint it is not known what was there before.
            opened.checkpoint().await.unwrap();
        }
        shard.refresh().await.unwrap();
        assert!(!shard.entry(version).await.unwrap().foreign);
    });
}

/// The action that adds the file of this time, as a sink put it.
fn own_add(dir: &Path, time: i64) -> Value {
    let text = fs::read_to_string(entry(dir, time as u64 + 1)).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .find(|line: &Value| line.get("add").is_some())
        .unwrap()
}

#[test]
fn tags_that_were_copied_to_another_file_are_not_believed() {
    for same_path in [false, true] {
        for cleaned in [false, true] {
            let what = format!("same path: {same_path}, cleaned: {cleaned}");
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            run(async {
                let shard = filled(dir, 3).await;
                let file = data_file(&shard, 1);
                let name = match same_path {
                    true => file.path.as_str(),
                    false => "00000000-0000-4000-8000-000000000000.parquet",
                };
                let other = ((1, Some("a row that is another one".into())), 1, 1);
                let other = rewritten(dir, name, &[other]);
                let mut copied = own_add(dir, 1);
                copied["add"]["path"] = name.into();
                copied["add"]["size"] = other["add"]["size"].clone();
                copied["add"]["tags"]["theirs"] = "kept".into();
                let gone = json!({"remove": {"path": file.path, "deletionTimestamp": 1, "dataChange": true}});
                let actions = match same_path {
                    true => vec![copied],
                    false => vec![gone, copied],
                };
                put(dir, actions);
                let opened = open(dir).await.unwrap();
                let version = opened.checkpoint().await.unwrap();
                if cleaned {
                    remove_entries(dir, 0..=version);
                }
                for shard in [open(dir).await.unwrap(), opened] {
                    let found = shard.pin().files().find(|file| file.path == name).cloned();
                    let found = found.unwrap();
                    assert!(found.summed().is_none() && found.sums.is_none(), "{what}");
                    assert!(
                        !found.sorted && found.min_time.is_none(),
                        "{what}: {found:?}"
                    );
                    assert!(found.tags.keys().eq(["theirs"]), "{what}: {found:?}");
                }
                // So it is no damage that its rows are others.
                assert!(verify(dir).await.is_clean(), "{what}");
            });
        }
    }
}

/// Makes entries those of an earlier version, which did not say of tags which file they are about.
fn without_file_tags(dir: &Path, last: u64) {
    for version in 0..=last {
        let text = fs::read_to_string(entry(dir, version)).unwrap();
        let lines = text.lines().map(|line| {
            let mut action: Value = serde_json::from_str(line).unwrap();
            if let Some(tags) = action.pointer_mut("/add/tags") {
                tags.as_object_mut().unwrap().remove("mvsink.file");
            }
            action.to_string()
        });
        let lines: Vec<_> = lines.collect();
        fs::write(entry(dir, version), lines.join("\n") + "\n").unwrap();
    }
}

#[test]
fn files_of_earlier_versions_and_files_put_back_keep_what_is_known_of_them() {
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            let file = data_file(&shard, 1);
            let again = own_add(dir, 1);
            drop(shard);
            without_file_tags(dir, 3);
            let all_known = async |what: &str| {
                let shard = open(dir).await.unwrap();
                let pinned = shard.pin();
                let known = pinned.files().filter(|file| file.summed().is_some());
                assert_eq!((known.count(), pinned.files().len()), (3, 3), "{what}");
                shard
            };
            all_known("from entries").await;
            // Named again as it was, and as it is now; removed and put back by a restore.
            put(dir, vec![own_add(dir, 1)]);
            all_known("named again").await;
            put(
                dir,
                vec![
                    json!({"remove": {"path": file.path, "deletionTimestamp": 1, "dataChange": true}}),
                ],
            );
            put(dir, vec![again.clone()]);
            let shard = all_known("put back").await;
            let version = shard.checkpoint().await.unwrap();
            if cleaned {
                remove_entries(dir, 0..=version);
            }
            all_known("from a checkpoint").await;
            assert_eq!(shard.progress().upper, Frontier::At(3));
        });
    }
}

#[test]
fn that_a_store_refuses_a_file_says_nothing_of_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let mut merge = removals(&shard, &[0, 1]);
        merge.push(rewritten(dir, "merged.parquet", &[update(0), update(1)]));
        put(dir, merge);
        let store = ClockedStore::new(in_memory(dir).await, Arc::new(|| 0));
        let client = plain();
        client.mount("store", Arc::new(store.clone()) as _);
        let shard = client.open_existing("memory://store/shard").await.unwrap();
        store.refuse_gets(Some("shard/merged.parquet".into()));
        let refused = shard.check_rewrites().await.unwrap_err();
        assert!(
            refused.to_string().contains("nobody may get it"),
            "{refused}"
        );
        assert_eq!((shard.edited(), shard.unaccepted_edit()), (None, None));
        store.refuse_gets(None);
        shard.check_rewrites().await.unwrap();
        assert_eq!((shard.edited(), shard.unaccepted_edit()), (None, None));
    });
}

/// What lies there now must not be taken for what lay there before.
#[test]
fn a_file_with_other_rows_in_the_place_of_one_is_an_edit() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let path = data_file(&shard, 1).path;
        for of in ["a sink's", "another program's"] {
            let rows = [((7, Some(format!("in the place of {of} file"))), 1, 1)];
            let version = put(dir, vec![rewritten(dir, &path, &rows)]);
            shard.refresh().await.unwrap();
            let entry = shard.entry(version).await.unwrap();
            assert!(entry.foreign, "{of}: {entry:?}");
            let opened = looked_at(dir).await;
            assert_eq!(opened.unaccepted_edit(), Some(version), "{of}");
        }
    });
}

/// What a merge brought is gone before anybody looked at it: that hinders nobody who accepts what came after it.
#[test]
fn an_edit_of_what_was_merged_and_deleted_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let mut merge = removals(&shard, &[0, 1]);
        merge.push(rewritten(dir, "merged.parquet", &[update(0), update(1)]));
        drop(shard);
        put(dir, merge);
        let mut delete = removed("merged.parquet");
        delete["remove"]["dataChange"] = true.into();
        let last = put(dir, vec![delete]);
        fs::remove_file(dir.join("merged.parquet")).unwrap();
        let mut options = RepairOptions::default();
        options.accept_edits = true;
        let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
        assert_eq!(report.accepted, Some(last + 1), "{report:?}");
        let shard = looked_at(dir).await;
        assert_eq!(shard.unaccepted_edit(), None);
    });
}

#[test]
fn an_edit_that_nobody_has_looked_at_stays_unanswered() {
    for (what, actions) in edits() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 3).await;
            let version = put(dir, actions(dir, &shard));
            // What holds, answers nothing.
            let hold = shard.hold("reader", at(0), Duration::from_secs(60));
            hold.await.unwrap().release().await.unwrap();
            for _ in 0..2 {
                let opened = looked_at(dir).await;
                let known = (opened.edited(), opened.unaccepted_edit());
                assert_eq!(known, (Some(version), Some(version)), "{what}");
                opened.checkpoint().await.unwrap();
            }
        });
    }
}
