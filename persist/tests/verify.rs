//! Verification finds every file that is not what the log says of it, and names it.

mod support;

use std::sync::{Arc, Mutex};

use arrow_array::{Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use mvsink_persist::{
    Client, Codec, Difference, EncodedFile, Error, FileEncoder, FileMeta, Frontier, Open, Shard,
    StagedFile, Sums, VerifyReport, decode_file, hash_data,
};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use support::{append, client, options, run};

const URL: &str = "memory://store/shard";

type Row = (u64, Option<String>);

fn quiet(_: &Error) {}

fn codec() -> Codec<Row, String> {
    Codec::new().unwrap()
}

fn row(key: u64) -> Row {
    (key, (!key.is_multiple_of(3)).then(|| format!("row {key}")))
}

fn encode(rows: impl IntoIterator<Item = (Row, i64)>) -> EncodedFile {
    let rows: Vec<_> = rows.into_iter().collect();
    let mut file = FileEncoder::new(codec().schema()).unwrap();
    let batch = codec().encode(rows.iter().map(|(row, time)| (row, *time, 1)));
    file.write(&batch.unwrap()).unwrap();
    file.finish().unwrap()
}

/// The rows of the file at each time, two of them.
fn rows_at(time: i64) -> [(Row, i64); 2] {
    let key = time as u64 * 10;
    [(row(key), time), (row(key + 1), time)]
}

/// A shard that is in memory.
struct Fixture {
    store: Arc<InMemory>,
    _client: Client,
    shard: Shard,
}

impl Fixture {
    async fn empty() -> Self {
        let store = Arc::new(InMemory::new());
        let client = client(options(1));
        client.mount("store", Arc::clone(&store) as _);
        let shard = client
            .open_or_create(URL, Open::new(codec().schema()))
            .await
            .unwrap();
        Fixture {
            store,
            _client: client,
            shard,
        }
    }

    /// With a file at each of five times.
    async fn filled() -> Self {
        let fixture = Fixture::empty().await;
        for time in 0..5 {
            let file = encode(rows_at(time));
            let meta = FileMeta::from(&file);
            fixture.commit(file.bytes, meta).await;
        }
        fixture
    }

    async fn commit(&self, bytes: Bytes, meta: FileMeta) -> StagedFile {
        let Frontier::At(lower) = self.shard.progress().upper else {
            panic!("the shard is complete");
        };
        let file = self.shard.put_file(bytes, meta, &quiet).await.unwrap();
        let commit = append(lower as u64, lower, lower + 1, vec![file.clone()]);
        self.shard.append(commit, &quiet).await.unwrap();
        file
    }

    fn path(&self, file: usize) -> String {
        self.shard.pin().files().nth(file).unwrap().path.clone()
    }

    /// The time of the rows of a file.
    fn time(&self, file: usize) -> i64 {
        self.shard
            .pin()
            .files()
            .nth(file)
            .unwrap()
            .min_time
            .unwrap()
    }

    fn object(&self, file: usize) -> Path {
        Path::from(format!("shard/{}", self.path(file)))
    }

    async fn replace(&self, file: usize, bytes: Bytes) {
        let object = self.object(file);
        self.store.head(&object).await.expect("it is there");
        self.store.put(&object, bytes.into()).await.unwrap();
    }

    async fn verify(&self) -> VerifyReport {
        self.shard.verify(&|_| ()).await.unwrap()
    }

    /// The differences, all of which must be in this file.
    async fn differences(&self, file: usize) -> Vec<Difference> {
        let report = self.verify().await;
        let path = self.path(file);
        assert!(
            report.findings.iter().all(|finding| finding.path == path),
            "{report:?}"
        );
        assert_eq!(
            (report.files, report.is_clean()),
            (5, report.findings.is_empty())
        );
        report
            .findings
            .into_iter()
            .map(|finding| finding.difference)
            .collect()
    }
}

#[test]
fn a_clean_shard_is_clean() {
    run(async {
        let fixture = Fixture::filled().await;
        let seen = Mutex::new(Vec::new());
        let progress = |progress: mvsink_persist::VerifyProgress| {
            seen.lock()
                .unwrap()
                .push((progress.done, progress.files, progress.rows));
        };
        let report = fixture.shard.verify(&progress).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.version, report.files, report.rows), (5, 5, 10));
        assert_eq!(
            (report.without_sums, report.without_times, report.removed),
            (0, 0, 0)
        );
        let sizes: u64 = fixture.shard.pin().files().map(|file| file.size).sum();
        assert_eq!(report.bytes, sizes);
        let mut sums = Sums::default();
        for (row, _) in (0..5).flat_map(rows_at) {
            sums.add(hash_data(&row).unwrap(), 1);
        }
        assert_eq!(report.sums, sums);
        let expected: Vec<_> = (1..=5).map(|done| (done, 5, 2 * done as u64)).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
        assert!(Fixture::empty().await.verify().await.is_clean());
    });
}

/// Every bit of a file: either it is found, or the rows are what they were.
#[test]
fn every_flipped_bit_that_changes_a_row_is_found() {
    run(async {
        let fixture = Fixture::filled().await;
        let rows: Vec<_> = rows_at(fixture.time(2))
            .map(|(row, time)| (row, time, 1))
            .to_vec();
        let whole = fixture.shard.read_file(&fixture.path(2)).await.unwrap();
        let (mut found, mut in_sums) = (0, 0);
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let bytes = Bytes::from(bytes);
            let read = decode_file("x", bytes.clone(), None, 100).and_then(|decoder| {
                let mut read = Vec::new();
                for batch in decoder {
                    read.extend(codec().decode(&batch?)?.ok);
                }
                Ok(read)
            });
            let same = read.as_ref().is_ok_and(|read| *read == rows);
            fixture.replace(2, bytes).await;
            let differences = fixture.differences(2).await;
            found += usize::from(!differences.is_empty());
            in_sums += usize::from(matches!(differences[..], [Difference::Sums { .. }]));
            assert!(
                same || !differences.is_empty(),
                "bit {bit} was not noticed: {read:?}"
            );
        }
        assert!(
            found > 1000 && in_sums > 100,
            "{found} found, {in_sums} by sums alone"
        );
        fixture.replace(2, whole).await;
        assert!(fixture.verify().await.is_clean());
    });
}

#[test]
fn a_replaced_file_is_named_with_all_that_differs() {
    run(async {
        let fixture = Fixture::filled().await;
        let time = fixture.time(1);
        // One row is another one.
        let mut rows = rows_at(time);
        rows[0].0.0 += 1000;
        fixture.replace(1, encode(rows).bytes).await;
        let differences = fixture.differences(1).await;
        assert!(
            matches!(differences.last(), Some(Difference::Sums { .. })),
            "{differences:?}"
        );
        // There is one more, at another time.
        let [a, b] = rows_at(time);
        fixture.replace(1, encode([a, b, (row(7), 99)]).bytes).await;
        let differences = fixture.differences(1).await;
        let rows = Difference::Rows {
            expected: 2,
            found: 3,
        };
        assert!(differences.contains(&rows), "{differences:?}");
        let times = Difference::Times {
            expected: (time, time),
            found: (time, 99),
        };
        assert!(differences.contains(&times), "{differences:?}");
        assert!(
            differences
                .iter()
                .any(|d| matches!(d, Difference::Size { .. }))
        );
        assert!(
            differences
                .iter()
                .any(|d| matches!(d, Difference::Sums { buckets } if buckets.len() == 1))
        );
        // It is no Parquet file at all.
        fixture
            .replace(1, Bytes::from_static(b"something else"))
            .await;
        let differences = fixture.differences(1).await;
        assert!(matches!(
            differences[..],
            [Difference::Size { .. }, Difference::Unreadable { .. }]
        ));
        let text = fixture.verify().await.findings[1].to_string();
        assert!(
            text.starts_with(&fixture.path(1)) && text.contains("cannot be read"),
            "{text}"
        );
    });
}

/// Sums ignore times.
#[test]
fn rows_at_other_times_are_found_by_their_bounds() {
    run(async {
        let fixture = Fixture::filled().await;
        let time = fixture.time(3);
        let moved = rows_at(time).map(|(row, time)| (row, time + 1));
        fixture.replace(3, encode(moved).bytes).await;
        let differences = fixture.differences(3).await;
        let found = (time + 1, time + 1);
        let times = Difference::Times {
            expected: (time, time),
            found,
        };
        assert!(differences.contains(&times), "{differences:?}");
        assert!(
            !differences
                .iter()
                .any(|d| matches!(d, Difference::Sums { .. }))
        );
    });
}

#[test]
fn missing_files_are_all_named() {
    run(async {
        let fixture = Fixture::filled().await;
        for file in [1, 4] {
            fixture.store.delete(&fixture.object(file)).await.unwrap();
        }
        let report = fixture.verify().await;
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|f| (f.path.clone(), f.difference.clone()))
            .collect();
        let missing = |file| (fixture.path(file), Difference::Missing);
        assert_eq!(found, [missing(1), missing(4)]);
        assert_eq!((report.rows, report.removed), (6, 0));
    });
}

#[test]
fn a_wrong_tag_is_found_and_files_without_are_counted() {
    run(async {
        let fixture = Fixture::empty().await;
        let unsorted = |time| {
            let mut rows = rows_at(time);
            rows.sort_by_key(|(row, _)| std::cmp::Reverse(hash_data(row).unwrap()));
            encode(rows)
        };
        // Right, of another program, with a wrong sum, with a wrong order.
        for time in 0..4 {
            let file = unsorted(time);
            let mut meta = FileMeta::from(&file);
            assert!(!meta.sorted);
            match time {
                1 => (meta.sums, meta.times) = (None, None),
                2 => meta
                    .sums
                    .as_mut()
                    .unwrap()
                    .add(hash_data(&row(500)).unwrap(), 1),
                3 => meta.sorted = true,
                _ => {}
            }
            let staged = fixture.commit(file.bytes, meta).await;
            let report = fixture.verify().await;
            let of_this = report
                .findings
                .iter()
                .filter(|finding| finding.path == staged.path);
            let of_this: Vec<_> = of_this.map(|finding| finding.difference.clone()).collect();
            let hash = hash_data(&row(500)).unwrap();
            let expected = match time {
                2 => vec![Difference::Sums {
                    buckets: vec![mvsink_persist::bucket(hash)],
                }],
                3 => vec![Difference::Order],
                _ => vec![],
            };
            assert_eq!(of_this, expected);
        }
        let report = fixture.verify().await;
        assert_eq!((report.without_sums, report.without_times), (1, 1));
        assert_eq!(report.findings.len(), 2);
    });
}

#[test]
fn rows_that_no_sink_can_read_are_named() {
    run(async {
        let fixture = Fixture::empty().await;
        let batch = RecordBatch::try_new(
            codec().schema(),
            vec![
                Arc::new(Int64Array::from(vec![Some(1), None, Some(2)])),
                Arc::new(StringArray::from(vec![None::<&str>; 3])),
                Arc::new(StringArray::from(vec![None, Some("no JSON"), None])),
                Arc::new(Int64Array::from(vec![0, 0, i64::MAX])),
                Arc::new(Int64Array::from(vec![1, 1, 1])),
            ],
        );
        let mut file = FileEncoder::new(codec().schema()).unwrap();
        file.write(&batch.unwrap()).unwrap();
        // As the file of another program, of whose rows nothing is known.
        let meta = FileMeta {
            rows: 3,
            ..FileMeta::default()
        };
        let file = fixture.commit(file.finish().unwrap().bytes, meta).await;
        let report = fixture.shard.verify(&|_| ()).await.unwrap();
        let [finding] = &report.findings[..] else {
            panic!("{:?}", report.findings)
        };
        assert_eq!(finding.path, file.path);
        let Difference::Unfit { rows: 2, why } = &finding.difference else {
            panic!("{finding}")
        };
        assert!(why.contains("mv_error") && why.contains("no JSON"), "{why}");
    });
}
