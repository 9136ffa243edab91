//! Snapshots and changes: files of all kinds against a model, in little memory; what is not read; what is damaged.

mod rows;
mod support;

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

use arrow_array::{Int64Array, RecordBatch, UInt64Array, cast::AsArray, types::Int64Type};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use mvsink_persist::{
    Change, CompactOptions, Comparison, EncodedFile, Error, FileMeta, Filter, Frontier, Literal,
    Open, Predicate, ReadOptions, ReadProgress, Shard, hash_data,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use proptest::prelude::*;
use rows::{
    Contents, FileOf, Row, UPPER, append, codec, contents, encode, file_of, hash, quiet, stage,
    updates,
};
use support::{client, options, run};

async fn shard() -> Shard {
    let client = client(options(1));
    let open = Open::new(codec().schema());
    client
        .open_or_create("memory://merging", open)
        .await
        .unwrap()
}

async fn filled(files: &[FileOf]) -> Shard {
    let shard = shard().await;
    let mut staged = Vec::new();
    for (updates, sorted) in files {
        staged.push(stage(&shard, encode(updates, *sorted)).await);
    }
    append(&shard, UPPER, staged).await;
    shard
}

/// Reads a snapshot to its end.
async fn snapshot(
    shard: &Shard,
    as_of: i64,
    mut options: ReadOptions,
) -> Result<(Vec<RecordBatch>, ReadProgress), Error> {
    let last = Arc::new(Mutex::new(ReadProgress::default()));
    let told = Arc::clone(&last);
    options.progress = Some(Arc::new(move |progress| *told.lock().unwrap() = progress));
    let mut reader = shard.snapshot(as_of, options)?;
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await? {
        assert_eq!(&batch.schema(), reader.schema());
        batches.push(batch);
    }
    assert_eq!(reader.next().await.unwrap(), None);
    let last = *last.lock().unwrap();
    Ok((batches, last))
}

fn budget(bytes: usize, batch_rows: usize) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.budget_bytes = bytes;
    options.batch_rows = batch_rows;
    options
}

/// Each row once, and the rows of each batch and of all in the order of their hashes.
fn assert_consolidated(batches: &[RecordBatch]) -> Contents {
    let mut found = Contents::new();
    let mut last = 0;
    for batch in batches {
        let rows = updates(std::slice::from_ref(batch));
        let hashes: Vec<_> = rows.iter().map(|(row, _, _)| hash(row)).collect();
        assert!(hashes.iter().all(|hash| *hash >= last));
        last = hashes.into_iter().max().unwrap_or(last);
        for (row, _, diff) in rows {
            assert_ne!(diff, 0);
            assert_eq!(found.insert(row, diff), None, "a row comes once");
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn a_snapshot_is_what_the_updates_add_up_to(
        files in prop::collection::vec(file_of(120), 0..6),
        as_of in 0..UPPER,
        budget_bytes in prop_oneof![Just(1usize), Just(20_000), Just(100_000), Just(256 << 20)],
        batch_rows in prop_oneof![Just(1usize), Just(7), Just(8192)],
    ) {
        run(async {
            let shard = filled(&files).await;
            let options = budget(budget_bytes, batch_rows);
            let (batches, progress) = snapshot(&shard, as_of, options).await.unwrap();
            let all = files.iter().flat_map(|(updates, _)| updates);
            assert_eq!(assert_consolidated(&batches), contents(all, as_of));
            assert!(batches.iter().all(|batch| (1..=batch_rows).contains(&batch.num_rows())));
            assert_eq!(progress.files_done, progress.files);
            assert_eq!(progress.held_bytes, 0);
        });
    }

    #[test]
    fn changes_are_the_updates_from_then_on(
        files in prop::collection::vec(file_of(60), 0..5),
        from in 0..UPPER,
        until in 0..UPPER + 5,
        budget_bytes in prop_oneof![Just(1usize), Just(50_000), Just(256 << 20)],
    ) {
        run(async {
            // Each file's times come after those of the file before.
            let shard = shard().await;
            let mut all = Vec::new();
            let stages = files.len() as i64;
            let mut reader = None;
            for (index, (updates, sorted)) in files.iter().enumerate() {
                let lower = index as i64 * UPPER / stages;
                let upper = (index as i64 + 1) * UPPER / stages;
                let inside = updates
                    .iter()
                    .map(|(row, time, diff)| (row.clone(), lower + time % (upper - lower), *diff));
                let updates: Vec<_> = inside.collect();
                let file = stage(&shard, encode(&updates, *sorted)).await;
                append(&shard, upper, vec![file]).await;
                all.extend(updates);
                if index == files.len() / 2 {
                    // Some of the past, some to come.
                    let until = Frontier::At(until);
                    reader = Some(shard.changes(from, until, budget(budget_bytes, 8192)).unwrap());
                }
            }
            append(&shard, UPPER + 5, Vec::new()).await;
            let mut reader = match reader {
                Some(reader) => reader,
                None => shard.changes(from, Frontier::At(until), ReadOptions::default()).unwrap(),
            };
            let mut found: BTreeMap<(Row, i64), i64> = BTreeMap::new();
            let mut upper = Frontier::At(from);
            while let Some(change) = reader.next().await.unwrap() {
                match change {
                    Change::Progress(next) => {
                        assert!(upper < next);
                        upper = next;
                    }
                    Change::Updates(batch) => for (row, time, diff) in updates(&[batch]) {
                        assert!(!upper.is_complete(&time), "{time} comes after {upper}");
                        *found.entry((row, time)).or_default() += diff;
                    },
                }
            }
            assert!(upper == Frontier::At(until) || until <= from);
            let mut expected: BTreeMap<(Row, i64), i64> = BTreeMap::new();
            for (row, time, diff) in all {
                if (from..until).contains(&time) {
                    *expected.entry((row, time)).or_default() += diff;
                }
            }
            expected.retain(|_, diff| *diff != 0);
            found.retain(|_, diff| *diff != 0);
            assert_eq!(found, expected);
        });
    }
}

/// `rows` distinct rows in the order of `place`, of about 250 bytes.
fn wide(rows: u64, times: i64, sorted: bool, place: impl Fn(u64) -> u64) -> EncodedFile {
    let row = |key: u64| Ok((key, Some(format!("{key:0250}"))));
    let updates: Vec<_> = (0..rows)
        .map(|i| (row(place(i)), i as i64 % times, 1))
        .collect();
    encode(&updates, sorted)
}

#[test]
fn the_memory_is_bounded_by_the_budget() {
    const ROWS: u64 = 20_000;
    run(async {
        let shard = shard().await;
        let mut files = Vec::new();
        for file in 0..4 {
            let sorted = file % 2 == 0;
            // Rows of different files meet.
            let encoded = wide(ROWS, UPPER, sorted, |i| {
                i * 7919 % ROWS + file / 2 * (ROWS / 2)
            });
            files.push(stage(&shard, encoded).await);
        }
        append(&shard, UPPER, files).await;
        let plenty = snapshot(&shard, UPPER - 1, budget(256 << 20, 8192))
            .await
            .unwrap();
        let rows =
            |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(rows(&plenty.0), ROWS as usize * 3 / 2);
        // The control: without a bound it takes all of the rows.
        assert!(plenty.1.held_bytes_max > 10 << 20, "{:?}", plenty.1);
        assert_eq!(plenty.1.rows_done, 4 * ROWS);
        for bytes in [8 << 20, 4 << 20, 2 << 20] {
            let (batches, progress) = snapshot(&shard, UPPER - 1, budget(bytes, 8192))
                .await
                .unwrap();
            let mut found = assert_consolidated(&batches);
            assert_eq!(found.len(), rows(&plenty.0));
            for (row, diff) in assert_consolidated(&plenty.0) {
                assert_eq!(found.remove(&row), Some(diff));
            }
            assert!(
                progress.held_bytes_max <= bytes as u64,
                "{bytes}: {progress:?}"
            );
            assert_eq!(progress.rows_done, 4 * ROWS, "{bytes}: {progress:?}");
        }
    });
}

#[test]
fn r03_files_that_are_opened_ahead_do_not_starve_the_pool() {
    run(async {
        let one = |key| {
            (
                vec![(Ok((key, None)), 0, 1), (Ok((key + 1, None)), 0, 1)],
                key % 2 == 0,
            )
        };
        let shard = filled(&(0..40).map(one).collect::<Vec<_>>()).await;
        for _ in 0..20 {
            let readers = (0..4).map(|_| snapshot(&shard, 1, ReadOptions::default()));
            for read in futures::future::join_all(readers).await {
                assert_eq!(assert_consolidated(&read.unwrap().0).len(), 41);
            }
        }
    });
}

#[test]
fn times_outside_of_the_shard_are_refused() {
    run(async {
        let shard = filled(&[]).await;
        shard.advance_since(Frontier::At(5), &quiet).await.unwrap();
        let error = |as_of| shard.snapshot(as_of, ReadOptions::default()).err().unwrap();
        assert!(matches!(
            error(4),
            Error::BeforeSince {
                as_of: 4,
                since: Frontier::At(5),
                ..
            }
        ));
        assert!(matches!(
            error(UPPER),
            Error::NotComplete { as_of: UPPER, .. }
        ));
        assert!(shard.snapshot(5, ReadOptions::default()).is_ok());
        let early = shard
            .changes(4, Frontier::Empty, ReadOptions::default())
            .err()
            .unwrap();
        assert!(matches!(early, Error::BeforeSince { as_of: 4, .. }));
        for columns in [["no"], ["mv_time"], ["mv_error"]] {
            let mut options = ReadOptions::default();
            options.columns = Some(columns.map(str::to_owned).to_vec());
            let error = shard.snapshot(5, options).err().unwrap();
            assert!(matches!(error, Error::InvalidRead { .. }), "{error}");
        }
    });
}

#[test]
fn a_projection_adds_up_what_it_does_not_tell_apart() {
    run(async {
        let row = |key, text: &str| Ok((key, Some(text.to_owned())));
        let updates = vec![
            (row(1, "a"), 0, 2),
            (row(1, "b"), 1, 3),
            (row(2, "a"), 0, 1),
            (row(2, "b"), 2, -1),
            (Err("e".into()), 0, 1),
        ];
        let shard = filled(&[(updates, true)]).await;
        let mut options = ReadOptions::default();
        options.columns = Some(vec!["c0".into()]);
        let (batches, _) = snapshot(&shard, 5, options).await.unwrap();
        let [batch] = batches.as_slice() else {
            panic!("{batches:?}")
        };
        let schema = batch.schema();
        let names: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        assert_eq!(names, ["c0", "mv_error", "mv_diff"]);
        let keys = batch.column(0).as_primitive::<Int64Type>();
        let diffs = batch.column(2).as_primitive::<Int64Type>();
        let mut found: Vec<_> = keys.iter().zip(diffs.values()).collect();
        found.sort();
        assert_eq!(found, [(None, &1), (Some(1), &5)]);
    });
}

fn at_least(key: i64) -> Filter {
    Filter::all().and(Predicate::Compare {
        column: "c0".into(),
        comparison: Comparison::GreaterOrEqual,
        literal: Literal::Int(key),
    })
}

/// Counts what is read of data files.
#[derive(Debug, Default)]
struct Counted {
    inner: InMemory,
    reads: Mutex<Vec<(Path, Range<u64>)>>,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("counted")
    }
}

impl Counted {
    fn take(&self) -> Vec<(Path, Range<u64>)> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let range = match &options.range {
            Some(GetRange::Bounded(range)) => range.clone(),
            _ => 0..1,
        };
        if location.as_ref().ends_with(".parquet") && !location.as_ref().contains("_delta_log") {
            self.reads.lock().unwrap().push((location.clone(), range));
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// More than a row group of rows in the order of their keys, so that statistics tell groups apart.
fn ordered(groups: u64) -> EncodedFile {
    const ROWS: u64 = 128 * 1024;
    let codec = codec();
    let mut file = mvsink_persist::FileEncoder::new(codec.schema()).unwrap();
    for group in 0..groups {
        // Text that does not compress.
        let data: Vec<_> = (group * ROWS..(group + 1) * ROWS)
            .map(|key| (key, Some(format!("{:x}", hash_data(&key).unwrap()))))
            .collect();
        let rows = data.iter().map(|row| (row, group as i64, 1));
        file.write(&codec.encode(rows).unwrap()).unwrap();
    }
    file.finish().unwrap()
}

#[test]
fn what_cannot_match_is_not_read() {
    run(async {
        let store = Arc::new(Counted::default());
        let client = client(options(1));
        client.mount("counted", Arc::<Counted>::clone(&store));
        let open = Open::new(codec().schema());
        let shard = client
            .open_or_create("memory://counted", open)
            .await
            .unwrap();
        let early = ordered(3);
        let size = early.bytes.len() as u64;
        assert!(size > 4 << 20);
        let staged = stage(&shard, early).await;
        append(&shard, 10, vec![staged]).await;
        let late = stage(&shard, encode(&[(Ok((1, None)), 15, 1)], false)).await;
        let late_path = late.path.clone();
        append(&shard, UPPER, vec![late]).await;

        let read = async |as_of, filter: Filter| {
            let mut options = ReadOptions::default();
            options.filter = filter;
            store.take();
            let (batches, progress) = snapshot(&shard, as_of, options).await.unwrap();
            let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64;
            let reads = store.take();
            let bytes: u64 = reads.iter().map(|(_, range)| range.end - range.start).sum();
            let late = reads.iter().any(|(path, _)| path.as_ref() == late_path);
            (rows, progress.rows_done, bytes, late)
        };
        const GROUP: u64 = 128 * 1024;
        // All of the early file, nothing of the late one, whose times tell.
        let (rows, decoded, bytes, late) = read(9, Filter::all()).await;
        assert_eq!((rows, decoded, late), (3 * GROUP, 3 * GROUP, false));
        assert!(bytes >= size * 9 / 10, "{bytes} of {size}");
        // The last third.
        let (rows, decoded, bytes, _) = read(9, at_least(2 * GROUP as i64 + 10)).await;
        assert_eq!((rows, decoded), (GROUP - 10, GROUP));
        assert!(bytes < size / 2, "{bytes} of {size}");
        // Nothing but the footer.
        let (rows, decoded, bytes, _) = read(9, at_least(4 * GROUP as i64)).await;
        assert_eq!((rows, decoded), (0, 0));
        assert!(bytes <= 64 << 10, "{bytes} of {size}");
        // By the times of the row groups.
        let (rows, decoded, bytes, _) = read(0, Filter::all()).await;
        assert_eq!((rows, decoded), (GROUP, GROUP));
        assert!(bytes < size / 2, "{bytes} of {size}");
        // Late rows are read where they are asked for.
        let (rows, _, _, late) = read(15, at_least(3 * GROUP as i64 - 1)).await;
        assert_eq!((rows, late), (1, true));
    });
}

/// Puts `bytes` in the place of a file that the log knows with `meta`.
async fn with_file(
    bytes: Bytes,
    meta: FileMeta,
    size: Option<usize>,
) -> Result<(Vec<RecordBatch>, ReadProgress), Error> {
    let store = Arc::new(InMemory::new());
    let client = client(options(1));
    client.mount("damaged", Arc::<InMemory>::clone(&store));
    let open = Open::new(codec().schema());
    let shard = client
        .open_or_create("memory://damaged", open)
        .await
        .unwrap();
    let whole = Bytes::from(vec![0; size.unwrap_or(bytes.len())]);
    let staged = shard.put_file(whole, meta, &quiet).await.unwrap();
    let path = Path::from(staged.path.as_str());
    append(&shard, UPPER, vec![staged]).await;
    object_store::ObjectStoreExt::put(store.as_ref(), &path, bytes.into())
        .await
        .unwrap();
    let result = snapshot(&shard, UPPER - 1, ReadOptions::default()).await;
    if let Err(error) = &result {
        assert!(
            error.to_string().contains(path.as_ref()),
            "{error} names {path}"
        );
        assert!(!error.is_transient());
    }
    result
}

#[test]
fn a_file_that_is_not_what_its_writer_wrote_is_damaged() {
    run(async {
        let one = encode(&[(Ok((1, None)), 3, 1)], true);
        let other = encode(&[(Ok((2, None)), 3, 1)], true);
        let meta = FileMeta::from(&one);
        assert!(
            with_file(one.bytes.clone(), meta.clone(), None)
                .await
                .is_ok()
        );
        for sorted in [true, false] {
            let meta = FileMeta {
                sorted,
                ..meta.clone()
            };
            let error = with_file(other.bytes.clone(), meta, None)
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
        // Rows that are not in the order that the log says.
        let updates: Vec<_> = (0..50).map(|key| (Ok((key, None)), 3, 1)).collect();
        let unsorted = encode(&updates, false);
        assert!(!unsorted.sorted);
        let meta = FileMeta {
            sorted: true,
            ..FileMeta::from(&unsorted)
        };
        let error = with_file(unsorted.bytes, meta, None).await.unwrap_err();
        assert!(error.to_string().contains("order"), "{error}");
    });
}

#[test]
fn a_large_file_that_is_truncated_or_damaged_is_corrupt() {
    let file = ordered(2);
    let size = file.bytes.len();
    assert!(size > 2 << 20);
    let meta = FileMeta::from(&file);
    run(async {
        for cut in [1, 7, 8, 9, 1000, 70_000, size / 2, size - 1] {
            let cut = file.bytes.slice(..size - cut);
            let error = with_file(cut, meta.clone(), Some(size)).await.unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
        for at in [
            4,
            5000,
            size / 2,
            size - 9,
            size - 100,
            size - 2000,
            size - 7,
        ] {
            let mut damaged = file.bytes.to_vec();
            damaged[at] ^= 0x5a;
            let result = with_file(damaged.into(), meta.clone(), None).await;
            // What is flipped may be a name, or a part of a page that nobody reads: never other rows.
            if let Err(error) = result {
                assert!(matches!(error, Error::Corrupt { .. }), "{at}: {error}");
            }
        }
    });
}

#[test]
fn what_other_programs_write_counts() {
    run(async {
        let times: Int64Array = vec![None, Some(-3), Some(4)].into();
        let diffs: Int64Array = vec![Some(2), None, Some(1)].into();
        // No text, no errors, and another type.
        let batch = RecordBatch::try_from_iter([
            ("mv_time", Arc::new(times) as _),
            ("c0", Arc::new(UInt64Array::from(vec![1, 2, 3])) as _),
            ("mv_diff", Arc::new(diffs) as _),
        ])
        .unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let (batches, _) = with_file(bytes.into(), FileMeta::default(), None)
            .await
            .unwrap();
        let expected = Contents::from([(Ok((1, None)), 2), (Ok((2, None)), 1), (Ok((3, None)), 1)]);
        assert_eq!(assert_consolidated(&batches), expected);
    });
}

#[test]
fn diffs_that_no_bigint_holds_come_in_parts() {
    run(async {
        const MOST: i64 = i64::MAX;
        let many = |diff| (vec![(Ok((1, None)), 3, diff)], true);
        for (diffs, parts) in [
            (&[MOST, 1][..], &[1, MOST][..]),
            (&[MOST, MOST, MOST], &[MOST; 3]),
            (&[i64::MIN, i64::MIN], &[-MOST, -MOST, -2]),
            (&[i64::MIN], &[i64::MIN]),
            // On the way they may be beyond.
            (&[MOST, 1, -1], &[MOST]),
            (&[MOST, MOST, -MOST, -MOST], &[]),
        ] {
            let files: Vec<_> = diffs.iter().map(|diff| many(*diff)).collect();
            let shard = filled(&files).await;
            let found = |batches: Vec<RecordBatch>| {
                let diffs = |batch: &RecordBatch| {
                    let diffs = batch.column_by_name("mv_diff").unwrap();
                    diffs.as_primitive::<Int64Type>().values().to_vec()
                };
                let mut found: Vec<i64> = batches.iter().flat_map(diffs).collect();
                found.sort_unstable();
                found
            };
            let read = snapshot(&shard, 5, ReadOptions::default()).await.unwrap();
            assert_eq!(found(read.0), parts, "{diffs:?}");
            let mut options = CompactOptions::default();
            options.full = true;
            let report = shard
                .compact(&options, &|_| ControlFlow::Continue(()))
                .await
                .unwrap();
            // One that is in order already stays.
            let rows = if diffs.len() == 1 { 0 } else { parts.len() };
            assert_eq!(report.rows_out, rows as u64, "{diffs:?}");
            // Nothing is wrong with the files, and what nobody can count is named.
            let beyond = diffs
                .iter()
                .map(|diff| i128::from(*diff))
                .sum::<i128>()
                .abs()
                > i128::from(MOST);
            let findings = shard.verify(&|_| ()).await.unwrap().findings;
            let kinds: Vec<_> = findings
                .iter()
                .map(|finding| finding.difference.kind())
                .collect();
            assert_eq!(
                kinds,
                vec!["multiplicity"; usize::from(beyond)],
                "{diffs:?}"
            );
            let read = snapshot(&shard, 5, ReadOptions::default()).await.unwrap();
            assert_eq!(found(read.0), parts, "{diffs:?}, compacted");
        }
    });
}
