//! A repair acts on what is there then, and not on what was there when it looked: beside a copy that is under way, and
//! beside writers.

mod support;

use std::fs;
use std::path::Path as Local;
use std::sync::Arc;

use mvsink_persist::testing::{Call, Fault, FaultyStore, GateStore, Hold, Side};
use mvsink_persist::{Appended, Client, Error, RepairOptions, RepairReport, RepairStep, Shard};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use support::damage::*;
use support::{append, run};

const URL: &str = "memory://store/shard";

/// A damaged table in memory, behind gates, and the sound one that it was.
struct Fixture {
    store: Arc<InMemory>,
    gates: Arc<GateStore>,
    sound: tempfile::TempDir,
}

impl Fixture {
    /// With entries up to 12, checkpoints of the versions 6 and `later`, and this damage.
    async fn new(later: Option<u64>, damage: impl Fn(&Local)) -> Self {
        let sound = tempfile::tempdir().unwrap();
        let shard = filled(sound.path(), 6).await;
        shard.checkpoint().await.unwrap();
        grow(&shard, 12).await;
        if let Some(later) = later {
            assert_eq!(shard.checkpoint().await.unwrap(), later);
        }
        drop(shard);
        let damaged = tempfile::tempdir().unwrap();
        copy(sound.path(), damaged.path());
        damage(damaged.path());
        let store = in_memory(damaged.path()).await;
        let gates = GateStore::new(Arc::clone(&store) as _);
        Fixture {
            store,
            gates,
            sound,
        }
    }

    /// What repairs, and can be stopped.
    fn repairer(&self) -> Client {
        let client = plain();
        client.mount("store", Arc::clone(&self.gates) as _);
        client
    }

    /// Somebody else.
    fn other(&self) -> Client {
        let client = plain();
        client.mount("store", Arc::clone(&self.store) as _);
        client
    }

    async fn repair(&self, drop_entries: bool) -> RepairReport {
        let mut options = RepairOptions::default();
        options.drop_entries = drop_entries;
        let client = self.repairer();
        client.repair(URL, &options, &|_| ()).await.unwrap()
    }

    /// Repairs, and does something else when a call stops at the gate.
    async fn repair_while(
        &self,
        drop_entries: bool,
        hold: Hold,
        meanwhile: impl AsyncFnOnce(),
    ) -> RepairReport {
        let meanwhile = async {
            hold.reached().await;
            meanwhile().await;
            hold.release();
        };
        futures::join!(self.repair(drop_entries), meanwhile).0
    }

    /// Stops when the log has been surveyed: at the first look at a data file.
    fn surveyed(&self) -> Hold {
        self.gates.hold(1, Side::Before, |call, path| {
            call == Call::Get && !path.as_ref().contains("_delta_log")
        })
    }

    /// Brings a file of the sound table.
    async fn bring(&self, path: &str) {
        let bytes = fs::read(self.sound.path().join(path)).unwrap();
        let path = Path::from(format!("shard/{path}"));
        self.store.put(&path, bytes.into()).await.unwrap();
    }

    async fn paths(&self) -> Vec<String> {
        use futures::TryStreamExt;
        use object_store::ObjectStore;
        let list = self
            .store
            .list(None)
            .map_ok(|object| object.location.to_string());
        let mut paths: Vec<_> = list.try_collect().await.unwrap();
        paths.sort();
        paths
    }

    /// The table is sound, and as far as it was.
    async fn expect_sound(&self, upper: i64) -> Shard {
        let client = self.other();
        let report = client.verify(URL, &|_| ()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        let shard = client.open_existing(URL).await.unwrap();
        assert_eq!(shard.progress().upper, at(upper));
        assert_eq!(shard.pin().files().count(), upper as usize);
        shard
    }
}

/// Nothing was done, since something changed.
fn expect_changed(report: &RepairReport) {
    assert!(report.steps.is_empty(), "{report:?}");
    assert!(report.committed.is_none(), "{report:?}");
    let changed = report
        .left
        .iter()
        .filter(|left| left.finding.difference.kind() == "changed");
    assert_eq!(changed.count(), 1, "{report:?}");
    assert!(
        report.left.iter().all(|left| left.advice.contains("again")),
        "{report:?}"
    );
}

async fn append_at(shard: &Shard, time: i64) -> Result<Appended, Error> {
    let append = append(time as u64, time, time + 1, Vec::new());
    shard.append(append, &|_| ()).await
}

fn name(path: &Local) -> String {
    format!("_delta_log/{}", path.file_name().unwrap().to_str().unwrap())
}

#[test]
fn a_data_file_that_a_copy_brings_meanwhile_keeps_its_reference() {
    run(async {
        let fixture = Fixture::new(None, |dir| {
            let lost = entry_file(dir, 3);
            fs::remove_file(dir.join(lost)).unwrap();
        })
        .await;
        let lost = entry_file(fixture.sound.path(), 3);
        let (shown, brought) = (format!("shard/{lost}"), lost.clone());
        let hold = fixture.gates.hold(1, Side::After, move |call, path| {
            call == Call::Get && path.as_ref() == shown
        });
        let report = fixture
            .repair_while(false, hold, async || fixture.bring(&brought).await)
            .await;
        expect_changed(&report);
        assert_eq!(report.left[0].finding.path, lost);
        fixture.expect_sound(12).await;
    });
}

/// The file that an entry adds.
fn entry_file(dir: &Local, version: u64) -> String {
    let text = fs::read_to_string(entry(dir, version)).unwrap();
    let add = text
        .lines()
        .find(|line| line.starts_with("{\"add\""))
        .unwrap();
    let add: serde_json::Value = serde_json::from_str(add).unwrap();
    add["add"]["path"].as_str().unwrap().to_owned()
}

#[test]
fn entries_that_a_copy_brings_meanwhile_are_not_given_up() {
    run(async {
        let fixture = Fixture::new(None, |dir| remove_entries(dir, [9])).await;
        let lost = name(&entry(fixture.sound.path(), 9));
        let hold = fixture.surveyed();
        let report = fixture
            .repair_while(true, hold, async || fixture.bring(&lost).await)
            .await;
        expect_changed(&report);
        assert_eq!(fixture.expect_sound(12).await.progress().version, 12);
    });
}

#[test]
fn entries_that_come_at_the_last_moment_are_not_given_up() {
    run(async {
        let fixture = Fixture::new(None, |dir| remove_entries(dir, [9])).await;
        let lost = name(&entry(fixture.sound.path(), 9));
        let hold = fixture.gates.hold_commit(1, Side::After);
        let report = fixture
            .repair_while(true, hold, async || fixture.bring(&lost).await)
            .await;
        expect_changed(&report);
        let shard = fixture.expect_sound(12).await;
        append_at(&shard, 12).await.unwrap();
    });
}

/// With a gap in the middle a writer that has the table open goes on at its end.
#[test]
fn a_writer_cannot_commit_beyond_entries_that_are_given_up() {
    run(async {
        let fixture = Fixture::new(None, |_| ()).await;
        let writer = fixture.other().open_existing(URL).await.unwrap();
        let lost = Path::from(format!("shard/{}", name(&entry(fixture.sound.path(), 9))));
        fixture.store.delete(&lost).await.unwrap();
        let report = fixture.repair(true).await;
        assert_eq!(
            (report.steps.len(), report.left.len()),
            (1, 0),
            "{report:?}"
        );
        let before = fixture.paths().await;
        let error = append_at(&writer, 12).await.unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
        assert_eq!(fixture.paths().await, before);
        let shard = fixture.expect_sound(8).await;
        append_at(&shard, 8).await.unwrap();
    });
}

#[test]
fn a_writer_that_comes_first_keeps_its_commit_and_the_entries_before_it() {
    run(async {
        let fixture = Fixture::new(None, |_| ()).await;
        let writer = fixture.other().open_existing(URL).await.unwrap();
        let lost = name(&entry(fixture.sound.path(), 9));
        let gone = Path::from(format!("shard/{lost}"));
        fixture.store.delete(&gone).await.unwrap();
        let before = fixture.paths().await;
        // The last look is over.
        let hold = fixture.gates.hold_commit(1, Side::Before);
        let commit = async || {
            append_at(&writer, 12).await.unwrap();
        };
        let report = fixture.repair_while(true, hold, commit).await;
        expect_changed(&report);
        assert_eq!(fixture.paths().await.len(), before.len() + 1);
        fixture.bring(&lost).await;
        let shard = fixture.other().open_existing(URL).await.unwrap();
        assert_eq!(shard.progress().upper, at(13));
    });
}

#[test]
fn a_writer_that_comes_while_entries_are_given_up_fails() {
    run(async {
        let fixture = Fixture::new(None, |_| ()).await;
        let writer = fixture.other().open_existing(URL).await.unwrap();
        let lost = Path::from(format!("shard/{}", name(&entry(fixture.sound.path(), 9))));
        fixture.store.delete(&lost).await.unwrap();
        // Once the log is being changed.
        let hold = fixture.gates.hold(1, Side::Before, |call, path| {
            call == Call::Put && path.as_ref().contains(".checkpoint.")
        });
        let commit = async || {
            let error = append_at(&writer, 12).await.unwrap_err();
            assert!(matches!(error, Error::Replaced { .. }), "{error}");
        };
        let report = fixture.repair_while(true, hold, commit).await;
        assert_eq!(
            (report.steps.len(), report.left.len()),
            (1, 0),
            "{report:?}"
        );
        fixture.expect_sound(8).await;
    });
}

#[test]
fn checkpoints_that_a_copy_brings_meanwhile_stay() {
    for later in [None, Some(12)] {
        run(async {
            let fixture = Fixture::new(later, |dir| {
                cut(&checkpoint(dir, 6));
                if later.is_some() {
                    // No entries lead to it: it is to be set aside.
                    remove_entries(dir, 0..=5);
                }
            })
            .await;
            let lost = name(&checkpoint(fixture.sound.path(), 6));
            let before = fixture.paths().await;
            let hold = fixture.surveyed();
            let report = fixture
                .repair_while(false, hold, async || fixture.bring(&lost).await)
                .await;
            expect_changed(&report);
            assert_eq!(fixture.paths().await, before);
            fixture.expect_sound(12).await;
        });
    }
}

#[test]
fn a_pointer_never_leads_back() {
    run(async {
        let fixture = Fixture::new(None, |dir| {
            fs::write(in_log(dir, "_last_checkpoint"), "{").unwrap();
        })
        .await;
        let hold = fixture.surveyed();
        let checkpoint = async || {
            let shard = fixture.other().open_existing(URL).await.unwrap();
            assert_eq!(shard.checkpoint().await.unwrap(), 12);
        };
        let report = fixture.repair_while(false, hold, checkpoint).await;
        expect_changed(&report);
        let pointer = Path::from("shard/_delta_log/_last_checkpoint");
        let pointer = fixture
            .store
            .get(&pointer)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert!(pointer.starts_with(b"{\"version\":12"), "{pointer:?}");
    });
}

#[test]
fn another_table_in_its_place_is_left_alone() {
    run(async {
        let fixture = Fixture::new(None, |dir| {
            fs::remove_file(dir.join(entry_file(dir, 3))).unwrap();
        })
        .await;
        let other = tempfile::tempdir().unwrap();
        drop(filled(other.path(), 3).await);
        let hold = fixture.surveyed();
        let replace = async || {
            for path in fixture.paths().await {
                fixture.store.delete(&path.into()).await.unwrap();
            }
            for (path, bytes) in contents(other.path()) {
                let path = path.strip_prefix(other.path()).unwrap().to_str().unwrap();
                let path = Path::from(format!("shard/{path}"));
                fixture.store.put(&path, bytes.into()).await.unwrap();
            }
        };
        let report = fixture.repair_while(false, hold, replace).await;
        assert!(
            report.steps.is_empty() && report.committed.is_none(),
            "{report:?}"
        );
        fixture.expect_sound(3).await;
    });
}

impl Fixture {
    /// Begins a repair that drops entries, and kills it at the gate.
    async fn killed_at(&self, hold: Hold) {
        let repair = std::pin::pin!(self.repair(true));
        let reached = std::pin::pin!(hold.reached());
        let ended = futures::future::select(repair, reached).await;
        assert!(
            matches!(ended, futures::future::Either::Right(_)),
            "it was not reached"
        );
    }

    /// It was missing from the beginning.
    async fn without_entry(version: u64) -> (Self, String) {
        let fixture = Fixture::new(None, |dir| remove_entries(dir, [version])).await;
        let lost = name(&entry(fixture.sound.path(), version));
        (fixture, lost)
    }
}

#[test]
fn a_repair_that_is_killed_after_any_call_ends_well_when_it_is_made_again() {
    let writes = |call: Call| matches!(call, Call::Create | Call::Put | Call::Delete);
    // The fence, the checkpoint, the pointer, and each copy and each deletion of four entries.
    for nth in 1..=9 {
        for side in [Side::Before, Side::After] {
            run(async {
                let (fixture, _) = Fixture::without_entry(9).await;
                let hold = fixture.gates.hold(nth, side, move |call, _| writes(call));
                fixture.killed_at(hold).await;
                let report = fixture.repair(true).await;
                assert!(report.left.is_empty(), "{nth} {side:?}: {report:?}");
                let shard = fixture.expect_sound(8).await;
                append_at(&shard, 8).await.unwrap();
                assert!(fixture.repair(true).await.is_sound(), "{nth} {side:?}");
            });
        }
    }
}

#[test]
fn a_repair_that_was_killed_at_its_fence_is_told_as_that_where_nothing_is_missing_any_more() {
    for times in 1..=2 {
        run(async {
            let (fixture, lost) = Fixture::without_entry(9).await;
            for _ in 0..times {
                fixture
                    .killed_at(fixture.gates.hold_commit(1, Side::After))
                    .await;
            }
            fixture.bring(&lost).await;
            let error = fixture.other().open_existing(URL).await.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let line = error.to_string();
            assert!(
                line.contains("cut off") && line.contains("mvsink repair"),
                "{line}"
            );
            let found = fixture.other().verify(URL, &|_| ()).await.unwrap();
            assert_eq!(named(&found), [("13.json".to_owned(), "cut off")]);
            // What was to be given up is there, so nothing is.
            let report = fixture.repair(false).await;
            assert!(report.left.is_empty(), "{report:?}");
            let [
                RepairStep::DropEntries {
                    from,
                    data_files,
                    upper,
                    ..
                },
            ] = &report.steps[..]
            else {
                panic!("{report:?}");
            };
            assert_eq!((*from, *data_files, *upper), (13, 0, at(12)));
            let shard = fixture.expect_sound(12).await;
            append_at(&shard, 12).await.unwrap();
        });
    }
}

#[test]
fn what_a_copy_brings_into_the_slot_of_the_fence_stays() {
    run(async {
        let (fixture, _) = Fixture::without_entry(9).await;
        let slot = Path::from(format!("shard/{}", name(&entry(fixture.sound.path(), 13))));
        let hold = fixture.gates.hold_commit(1, Side::After);
        let bring = async || {
            fixture
                .store
                .put(&slot, "{\"commitInfo\":{}}".into())
                .await
                .unwrap();
        };
        let report = fixture.repair_while(true, hold, bring).await;
        expect_changed(&report);
        let kept = fixture
            .store
            .get(&slot)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(kept, "{\"commitInfo\":{}}");
    });
}

#[test]
fn a_commit_of_another_program_is_not_told_as_the_repair() {
    run(async {
        let fixture = Fixture::new(None, |dir| {
            fs::remove_file(dir.join(entry_file(dir, 3))).unwrap();
        })
        .await;
        let lost = entry_file(fixture.sound.path(), 3);
        let slot = Path::from(format!("shard/{}", name(&entry(fixture.sound.path(), 13))));
        let hold = fixture.gates.hold_commit(1, Side::Before);
        let remove = async || {
            let remove = format!(
                r#"{{"remove":{{"path":"{lost}","deletionTimestamp":1,"dataChange":true}}}}"#
            );
            fixture.store.put(&slot, remove.into()).await.unwrap();
        };
        let report = fixture.repair_while(false, hold, remove).await;
        assert_eq!(report.committed, None, "{report:?}");
    });
}

#[test]
fn a_repair_whose_commit_seemed_to_fail_is_told_with_its_version() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let shard = filled(dir.path(), 6).await;
        fs::remove_file(dir.path().join(data_file(&shard, 2).path)).unwrap();
        let store = in_memory(dir.path()).await;
        let faulty = FaultyStore::new(store, 1, 0);
        faulty.script(&[Fault::Applied]);
        let client = plain();
        client.mount("store", faulty as _);
        let options = RepairOptions::default();
        let report = client.repair(URL, &options, &|_| ()).await.unwrap();
        assert_eq!(report.committed, Some(7), "{report:?}");
    });
}

#[test]
fn what_is_put_right_is_not_brought_back_where_it_was_removed_at_the_last_moment() {
    run(async {
        let fixture = Fixture::new(None, |dir| {
            let text = fs::read_to_string(entry(dir, 3)).unwrap();
            let wrong = text.replace(r#"\"numRecords\":1"#, r#"\"numRecords\":8"#);
            assert_ne!(text, wrong);
            fs::write(entry(dir, 3), wrong).unwrap();
            fs::remove_file(checkpoint(dir, 6)).unwrap();
            fs::remove_file(in_log(dir, "_last_checkpoint")).unwrap();
        })
        .await;
        let misstated = entry_file(fixture.sound.path(), 3);
        let slot = Path::from(format!("shard/{}", name(&entry(fixture.sound.path(), 13))));
        let hold = fixture.gates.hold_commit(1, Side::Before);
        let remove = async || {
            let remove = format!(
                r#"{{"remove":{{"path":"{misstated}","deletionTimestamp":1,"dataChange":true}}}}"#
            );
            fixture.store.put(&slot, remove.into()).await.unwrap();
        };
        let report = fixture.repair_while(false, hold, remove).await;
        assert!(
            matches!(report.steps[..], [RepairStep::CorrectFiles { .. }]),
            "{report:?}"
        );
        assert_eq!(report.committed, None, "{report:?}");
        let shard = fixture.other().open_existing(URL).await.unwrap();
        assert_eq!(shard.pin().files().count(), 11);
    });
}
