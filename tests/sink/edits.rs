//! What other programs do to a view's table, and how the view repairs it: while it runs, and when it starts again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::{Context, Mode, Status, Target};
use mvsink_persist::testing::{Call, GateStore, Side};
use mvsink_persist::{
    Client, ClientOptions, Codec, CompactOptions, FileEncoder, FileMeta, Frontier, GcOptions, Shard,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};

pub(crate) use crate::support::append_entry as edit;
use crate::support::{self, Driver, Row, runtime};

/// The action that adds a file with these rows, as another program writes them.
pub(crate) fn file(shard: &Path, name: &str, rows: &[(Row, i64, i64)]) -> Value {
    let (name, bytes) = encoded(name, rows);
    std::fs::write(shard.join(&name), &bytes).unwrap();
    add(&name, bytes.len())
}

/// The same file, to be put anywhere.
fn encoded(name: &str, rows: &[(Row, i64, i64)]) -> (String, Vec<u8>) {
    let codec = Codec::<Row, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let updates = rows.iter().map(|(row, time, diff)| (row, *time, *diff));
    file.write(&codec.encode(updates).unwrap()).unwrap();
    (name.to_owned(), file.finish().unwrap().bytes.to_vec())
}

fn add(path: &str, size: usize) -> Value {
    json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
    }})
}

pub(crate) fn remove(path: &str) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = u64::try_from(now.unwrap().as_millis()).unwrap();
    json!({"remove": {"path": path, "deletionTimestamp": now, "dataChange": true}})
}

fn row(number: i64) -> Row {
    (format!("row {number}"), number)
}

/// The paths and sizes of the live files.
pub(crate) fn live(cx: &Context, shard: &Path) -> Vec<(String, usize)> {
    with(cx, shard, async |shard| {
        let pinned = shard.pin();
        let file = |file: &Arc<mvsink_persist::DataFile>| {
            (file.path.clone(), usize::try_from(file.size).unwrap())
        };
        pinned.files().map(file).collect()
    })
}

/// Looks at the shard as it is now.
fn with<O>(cx: &Context, shard: &Path, look: impl AsyncFnOnce(Shard) -> O) -> O {
    let client = cx.client();
    client.handle().block_on(async {
        let shard = client.open_existing(shard.to_str().unwrap()).await.unwrap();
        shard.refresh().await.unwrap();
        look(shard).await
    })
}

/// Runs a view of rows 0 to 9, each there once, on the shard; `edits` while it runs, at a time of its own.
fn view<R>(cx: &Context, shard: &Path, one: R, edits: impl FnOnce() + Send + 'static)
where
    R: mvsink::Diff + Send,
{
    let (cx, shard) = (cx.clone(), shard.to_owned());
    let edits = std::sync::Mutex::new(Some(edits));
    timely::execute_directly(move |worker| {
        let client = cx.client();
        let url = shard.to_str().unwrap();
        let opened = client.handle().block_on(client.open_existing(url));
        let upper = opened.map_or(Some(0), |shard| shard.progress().upper.time());
        let first = u64::try_from(upper.unwrap()).unwrap();
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::<u64, Row, R>::new();
            let rows = input.to_collection(scope);
            let errors = mvsink::no_errors::<u64, String, R>(scope);
            let handle = mvsink::persist_sink(&cx, "view", url, rows, errors, first).unwrap();
            (input, handle)
        });
        let mut advance = |input: &mut InputSession<u64, Row, R>, to| {
            input.advance_to(to);
            input.flush();
            let status = support::step_until(worker, &handle, Frontier::At(to));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
        };
        (0..10).for_each(|number| input.update_at(row(number), first, one));
        advance(&mut input, first + 1);
        if let Some(edits) = edits.lock().unwrap().take() {
            edits();
        }
        // The first batch may be on its way already; before the second, all up to it is read back.
        for time in 2..5 {
            advance(&mut input, first + time);
        }
    });
}

/// What the shard holds at the last complete time, summed without a bound.
fn contents(cx: &Context, shard: &Path) -> BTreeMap<Row, i128> {
    let (_, rows) = support::read(cx, shard.to_str().unwrap());
    let mut contents = BTreeMap::new();
    for (row, _, diff) in rows {
        *contents.entry(row).or_insert(0) += i128::from(diff);
    }
    contents.retain(|_, diff| *diff != 0);
    contents
}

fn assert_is_view(cx: &Context, shard: &Path) {
    let expected = (0..10).map(|number| (row(number), 1)).collect();
    assert_eq!(contents(cx, shard), expected);
}

/// Rows as often as no sum of differences can say.
fn huge(shard: &Path) -> Vec<Value> {
    let rows = [
        (row(3), 0, i64::MAX),
        (row(3), 0, i64::MAX),
        (row(4), 0, i64::MIN),
        (row(5), 0, i64::MIN),
        (row(5), 0, i64::MIN),
        (row(5), 0, -1),
        (row(77), 0, i64::MIN),
        (row(78), 0, i64::MAX),
        (row(78), 1, i64::MAX),
        (row(79), 0, -5),
    ];
    vec![file(shard, "huge.parquet", &rows)]
}

fn repairs_huge_diffs<R: mvsink::Diff + Send>(driver: Driver, one: R) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    // While it runs,
    let path = shard.clone();
    view(&cx, &shard, one, move || edit(&path, &huge(&path)));
    assert_is_view(&cx, &shard);
    // when it starts again,
    let with_huge = live(&cx, &shard);
    let repairs = with_huge.iter().filter(|(path, _)| path != "huge.parquet");
    assert!(repairs.count() > 1, "{with_huge:?}");
    let again = file(
        &shard,
        "again.parquet",
        &[(row(5), 0, i64::MIN), (row(80), 0, i64::MIN)],
    );
    edit(&shard, &[again]);
    view(&cx, &shard, one, || ());
    assert_is_view(&cx, &shard);
    // and when the huge rows go.
    let path = shard.clone();
    view(&cx, &shard, one, move || {
        edit(&path, &[remove("huge.parquet")])
    });
    assert_is_view(&cx, &shard);
    with(&cx, &shard, async |shard| {
        let mut options = CompactOptions::default();
        options.full = true;
        let go_on = |_| std::ops::ControlFlow::Continue(());
        shard.compact(&options, &go_on).await.unwrap();
        let report = shard.verify(&|_| ()).await.unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
    });
    assert_is_view(&cx, &shard);
}

fn r24_diffs_beyond_any_sum_are_repaired(driver: Driver) {
    repairs_huge_diffs(driver, 1i64);
}

fn r24_diffs_that_its_own_type_cannot_hold_are_repaired(driver: Driver) {
    repairs_huge_diffs(driver, 1i32);
}

fn r24_a_path_that_is_named_again_counts_once(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let (path, other) = (shard.clone(), cx.clone());
    view(&cx, &shard, 1i64, move || {
        let files = live(&other, &path);
        assert_eq!(files.len(), 1);
        let (name, size) = &files[0];
        let bogus = file(&path, "bogus.parquet", &[(row(3), 0, 4), (row(90), 0, 1)]);
        edit(
            &path,
            &[
                add(name, *size),
                add(name, *size),
                remove("nowhere.parquet"),
            ],
        );
        edit(&path, &[bogus.clone(), bogus.clone()]);
        edit(&path, &[remove(name), add(name, *size)]);
        edit(&path, &[remove("bogus.parquet")]);
        edit(&path, &[remove("bogus.parquet"), remove("bogus.parquet")]);
        edit(&path, std::slice::from_ref(&bogus));
        edit(&path, &[bogus]);
    });
    assert_is_view(&cx, &shard);
    // Whoever begins with it finds the same.
    view(&cx, &shard, 1i64, || ());
    assert_is_view(&cx, &shard);
}

const URL: &str = "memory://shared/shard";

/// Appends a row that is no view's at the shard's upper, as a rival that is wrong would.
async fn append_bogus(shard: &Shard, number: i64) {
    let time = shard.progress().upper.time().unwrap();
    let codec = Codec::<Row, String>::new().unwrap();
    let mut encoder = FileEncoder::new(codec.schema()).unwrap();
    let rows = [(row(number), time, 1)];
    let rows = rows.iter().map(|(row, time, diff)| (row, *time, *diff));
    encoder.write(&codec.encode(rows).unwrap()).unwrap();
    let encoded = encoder.finish().unwrap();
    let meta = FileMeta::from(&encoded);
    let staged = shard.put_file(encoded.bytes, meta, &|_| ()).await.unwrap();
    support::append_file(shard, time, staged).await;
}

/// What happens to the log while a view does not look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Skipped {
    /// Only what rivals append, and then merge.
    Merged,
    /// Another program removes a file and adds another one.
    Edited,
    /// And then all is merged.
    EditedAndMerged,
}

/// A view whose log is cleaned up under it goes on from a checkpoint, as exact as if it had seen every entry.
fn skips(driver: Driver, skipped: Skipped) {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gated = GateStore::new(Arc::clone(&inner));
    let mut options = ClientOptions::default();
    options.recent_entries = 1;
    options.checkpoint_interval = 0;
    options.log_min_age = Duration::ZERO;
    let configs = driver.configs();
    configs.set("mvsink_compaction", "false").unwrap();
    configs.set("mvsink_garbage_collection", "false").unwrap();
    let builder = Context::builder(runtime.handle().clone());
    let cx = builder
        .client_options(options.clone())
        .configs(configs)
        .build();
    cx.client().mount("shared", Arc::clone(&gated) as _);
    let other = Client::new(runtime.handle().clone(), options);
    other.mount("shared", Arc::clone(&inner));
    let (writer, handle, store) = (cx.clone(), runtime.handle().clone(), inner);
    timely::execute_directly(move |worker| {
        let (mut input, sink) = support::rows_sink(worker, &writer, "view", URL);
        for time in 0..2 {
            (5 * time..5 * time + 5).for_each(|number| {
                input.update_at(row(i64::try_from(number).unwrap()), time, 1);
            });
            input.advance_to(time + 1);
            input.flush();
            support::step_until(worker, &sink, Frontier::At(time + 1));
        }
        // From here on it sees nothing of the log, until that is cleaned up.
        let read = gated.hold(1, Side::Before, |call, path| {
            call == Call::Get && path.extension() == Some("json")
        });
        handle.block_on(async {
            read.reached().await;
            let shard = other.open_existing(URL).await.unwrap();
            append_bogus(&shard, 50).await;
            if skipped != Skipped::Merged {
                let files: Vec<_> = shard.pin().files().cloned().collect();
                let (name, bytes) = encoded("bogus.parquet", &[(row(60), 0, 3), (row(1), 7, 1)]);
                let path = object_store::path::Path::from(format!("shard/{name}"));
                store.put(&path, bytes.clone().into()).await.unwrap();
                let first = files.iter().find(|file| file.max_time == Some(0)).unwrap();
                let actions = [remove(&first.path), add(&name, bytes.len())];
                let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
                let version = shard.progress().version + 1;
                let entry = format!("shard/_delta_log/{version:020}.json");
                let entry = object_store::path::Path::from(entry);
                store.put(&entry, lines.join("\n").into()).await.unwrap();
                shard.refresh().await.unwrap();
            }
            append_bogus(&shard, 51).await;
            if skipped != Skipped::Edited {
                let mut options = CompactOptions::default();
                options.full = true;
                let go_on = |_| std::ops::ControlFlow::Continue(());
                shard.compact(&options, &go_on).await.unwrap();
            }
            // The last one but one is kept, with what follows it.
            shard.checkpoint().await.unwrap();
            append_bogus(&shard, 52).await;
            shard.checkpoint().await.unwrap();
            let cleaned = shard.collect_garbage(&GcOptions::default(), &|_| ()).await;
            let cleaned = cleaned.unwrap().log.count;
            assert!(cleaned >= 4, "{cleaned} entries");
            read.release();
        });
        let upper = sink.frontier().time().unwrap();
        for time in 0..4 {
            input.advance_to(upper.max(5) + time + 1);
            input.flush();
            let status = support::step_until(worker, &sink, Frontier::At(upper.max(5) + time + 1));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
        }
    });
    let found: BTreeMap<_, _> = contents(&cx, Path::new(URL));
    let expected: BTreeMap<_, _> = (0..10).map(|number| (row(number), 1)).collect();
    assert_eq!(found, expected);
    let since = with(&cx, Path::new(URL), async |shard| shard.progress().since);
    let is_answered = since >= Frontier::At(3);
    assert_eq!(is_answered, skipped != Skipped::Merged, "{since}");
}

fn r24_a_view_that_skipped_a_merge_reads_on(driver: Driver) {
    skips(driver, Skipped::Merged);
}

fn r24_a_view_repairs_an_edit_that_it_skipped(driver: Driver) {
    skips(driver, Skipped::Edited);
}

fn r24_a_view_repairs_an_edit_that_was_merged_since(driver: Driver) {
    skips(driver, Skipped::EditedAndMerged);
}

/// Whoever ingests a source learns of an edit, though a checkpoint covers it.
fn r24_an_ingest_sink_fails_by_an_edit_that_a_checkpoint_covers(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("events");
        let ingest = |cx: &Context, first: u64| {
            let (cx, url) = (cx.clone(), shard.to_str().unwrap().to_owned());
            timely::execute_directly(move |worker| {
                let target = Target::new(&url).mode(Mode::Ingest);
                let (mut input, sink) =
                    support::rows_sink_from(worker, &cx, "events", target, first);
                input.advance_to(first);
                input.update(row(i64::try_from(first).unwrap()), 1);
                input.advance_to(first + 1);
                input.flush();
                let status = support::step_until(worker, &sink, Frontier::At(first + 1));
                drop(sink);
                worker.drop_dataflow(worker.installed_dataflows()[0]);
                status
            })
        };
        let status = ingest(&driver.context(&runtime), 0);
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        edit(&shard, &[file(&shard, "bogus.parquet", &[(row(9), 0, 1)])]);
        let version = with(&cx, &shard, async |shard| shard.checkpoint().await.unwrap());
        for version in (0..=version).filter(|_| cleaned) {
            let entry = format!("_delta_log/{version:020}.json");
            std::fs::remove_file(shard.join(entry)).unwrap();
        }
        let status = ingest(&driver.context(&runtime), 1);
        let expected = format!("was edited by another program in version {version}");
        assert!(
            status.to_string().contains(&expected),
            "{status}, cleaned: {cleaned}"
        );
    }
}

/// Feeds one row at this time to an ingest sink; gives what it says once it is durable, or has failed.
fn ingest(cx: &Context, shard: &Path, first: u64) -> Status {
    let (cx, url) = (cx.clone(), shard.to_str().unwrap().to_owned());
    timely::execute_directly(move |worker| {
        let target = Target::new(&url).mode(Mode::Ingest);
        let (mut input, sink) = support::rows_sink_from(worker, &cx, "events", target, first);
        input.advance_to(first);
        input.update(row(i64::try_from(first).unwrap()), 1);
        input.advance_to(first + 1);
        input.flush();
        let status = support::step_until(worker, &sink, Frontier::At(first + 1));
        drop(sink);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        status
    })
}

fn repair(cx: &Context, shard: &Path, accept: bool) {
    let mut options = mvsink_persist::RepairOptions::default();
    (options.accept_edits, options.drop_files) = (accept, !accept);
    let url = shard.to_str().unwrap();
    let repair = async { cx.client().repair(url, &options, &|_| ()).await };
    let report = cx.client().handle().block_on(repair).unwrap();
    assert!(report.committed.or(report.accepted).is_some());
}

fn an_ingest_sink_goes_on_after_an_edit_that_was_accepted(driver: Driver) {
    let runtime = runtime();
    let cx = || driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("events");
    for time in 0..3 {
        ingest(&cx(), &shard, time);
    }
    let gone = live(&cx(), &shard).remove(0).0;
    edit(
        &shard,
        &[
            file(&shard, "theirs.parquet", &[(row(9), 0, 1)]),
            remove(&gone),
        ],
    );
    let status = ingest(&cx(), &shard, 3).to_string();
    assert!(status.contains("--accept-edits"), "{status}");
    repair(&cx(), &shard, true);
    let status = ingest(&cx(), &shard, 3);
    assert!(!matches!(status, Status::Failed { .. }), "{status}");
    // It appends after the edit, and the past is what that left.
    let (_, stored) = support::read(&cx(), shard.to_str().unwrap());
    let now = support::at(&stored, 4);
    assert_eq!(now.len(), 4, "one was taken away and one was added");
    assert!([3, 9].iter().all(|number| now[&row(*number)] == 1));
}

fn an_ingest_sink_goes_on_after_a_repair(driver: Driver) {
    let runtime = runtime();
    let cx = || driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("events");
    for time in 0..3 {
        ingest(&cx(), &shard, time);
    }
    std::fs::remove_file(shard.join(live(&cx(), &shard).remove(0).0)).unwrap();
    let status = ingest(&cx(), &shard, 3);
    assert!(matches!(status, Status::Failed { .. }), "{status}");
    repair(&cx(), &shard, false);
    let status = ingest(&cx(), &shard, 3);
    assert!(!matches!(status, Status::Failed { .. }), "{status}");
    let (_, stored) = support::read(&cx(), shard.to_str().unwrap());
    assert_eq!(support::at(&stored, 4).len(), 3);
}

on_both_drivers! {
    an_ingest_sink_goes_on_after_an_edit_that_was_accepted,
    an_ingest_sink_goes_on_after_a_repair,
    r24_a_path_that_is_named_again_counts_once,
    r24_a_view_that_skipped_a_merge_reads_on,
    r24_a_view_repairs_an_edit_that_it_skipped,
    r24_a_view_repairs_an_edit_that_was_merged_since,
    r24_an_ingest_sink_fails_by_an_edit_that_a_checkpoint_covers,
    r24_diffs_beyond_any_sum_are_repaired,
    r24_diffs_that_its_own_type_cannot_hold_are_repaired,
}
