//! What the shard costs beside the floor below it, in one run, alternating: commits beside the same puts made by hand,
//! files beside plain `parquet` on the same arrays. Prints medians and their ratio.
//!
//! `cargo bench -p mvsink-persist --bench floor [-- --quick]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use bytes::Bytes;
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, Error, FileEncoder, FileMeta, Open,
    Shard, decode_file,
};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

type Row = (u64, String, u64, u64);

fn main() {
    // `--test` is how all benchmarks are asked whether they run at all.
    let smoke = std::env::args().any(|argument| argument == "--test");
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (commits, files, rows) = match (smoke, quick) {
        (true, _) => (5, 2, 1000),
        (false, true) => (100, 11, 64 * 1024),
        (false, false) => (400, 41, 256 * 1024),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(latency(commits));
    throughput(files, rows);
}

/// Prints the medians of two ways to do the same.
fn report(what: &str, unit: &str, ours: &mut [f64], floor: &mut [f64]) {
    let median = |samples: &mut [f64]| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    };
    let (ours, floor) = (median(ours), median(floor));
    println!(
        "{what:<28} {ours:>9.3} {unit:<7} floor {floor:>9.3} {unit:<7} ratio {:.3}",
        ours / floor
    );
}

fn quiet(_: &Error) {}

async fn latency(commits: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let url = dir.path().join("shard");
    let client = Client::new(tokio::runtime::Handle::current(), ClientOptions::default());
    let codec = Codec::<Row, String>::new().expect("the record has a schema");
    let shard = client
        .open_or_create(url.to_str().expect("UTF-8"), Open::new(codec.schema()))
        .await
        .expect("a fresh directory");
    let raw = LocalFileSystem::new_with_prefix(dir.path())
        .expect("a directory")
        .with_fsync(true);
    let file = encode(&codec, &batch(&codec, 100));
    for with_file in [true, false] {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for number in 0..commits {
            let start = Instant::now();
            let put = commit(&shard, with_file.then(|| file.clone())).await;
            ours.push(start.elapsed().as_secs_f64() * 1e3);
            // The entry that was written, once more by hand, and a file of the same bytes.
            let name = format!("_delta_log/{put:020}.json");
            let entry = std::fs::read(url.join(&name)).expect("the entry is there");
            let start = Instant::now();
            if with_file {
                let path = Path::from(format!("raw/{number}.parquet"));
                let payload = PutPayload::from(file.0.clone());
                raw.put(&path, payload).await.expect("the disk takes it");
            }
            let create = PutOptions::from(PutMode::Create);
            let path = Path::from(format!("raw/{name}"));
            raw.put_opts(&path, PutPayload::from(Bytes::from(entry)), create)
                .await
                .expect("the disk takes it");
            floor.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let what = match with_file {
            true => "commit with a file",
            false => "commit of a frontier",
        };
        report(what, "ms", &mut ours, &mut floor);
    }
}

/// Commits one time; returns the version.
async fn commit(shard: &Shard, file: Option<(Bytes, FileMeta)>) -> u64 {
    let lower = shard.progress().upper;
    let mut files = Vec::new();
    if let Some((bytes, mut meta)) = file {
        meta.times = None;
        let staged = shard.put_file(bytes, meta, &quiet).await;
        files.push(staged.expect("the disk takes it"));
    }
    let append = Append {
        id: CommitId {
            nonce: 1,
            seq: shard.progress().version,
        },
        lower,
        upper: lower.map(|time| time + 1),
        files,
        since: None,
    };
    match shard.append(append, &quiet).await {
        Ok(Appended::Committed { version }) => version,
        other => panic!("nobody else writes: {other:?}"),
    }
}

fn batch(codec: &Codec<Row, String>, rows: u64) -> RecordBatch {
    let rows: Vec<Row> = (0..rows)
        .map(|i| {
            let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1;
            let text = format!("{key:020}{:020}", key.rotate_left(17) >> 1);
            (key, text, i % 1000, i)
        })
        .collect();
    let updates = rows.iter().map(|row| (row, 7, 1));
    codec.encode(updates).expect("the rows fit")
}

fn encode(codec: &Codec<Row, String>, batch: &RecordBatch) -> (Bytes, FileMeta) {
    let mut encoder = FileEncoder::new(codec.schema()).expect("the schema fits");
    encoder.write(batch).expect("the batch fits");
    let file = encoder.finish().expect("the file is complete");
    let meta = FileMeta::from(&file);
    (file.bytes, meta)
}

/// By `parquet` alone, as it comes.
fn encode_by_default(batch: &RecordBatch) -> Bytes {
    write(batch, WriterProperties::default())
}

fn write(batch: &RecordBatch, properties: WriterProperties) -> Bytes {
    let schema = batch.schema();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).expect("a schema");
    writer.write(batch).expect("the batch fits");
    writer.into_inner().expect("the file is complete").into()
}

/// The same encoding, by `parquet` alone: no fingerprints, and no bounds on row groups.
fn encode_plainly(batch: &RecordBatch) -> Bytes {
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::LZ4_RAW)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for field in batch.schema().fields() {
        let column = ColumnPath::from(field.name().as_str());
        properties = match field.data_type() {
            arrow_schema::DataType::Utf8 => properties.set_column_dictionary_enabled(column, true),
            _ => properties.set_column_encoding(column, Encoding::DELTA_BINARY_PACKED),
        };
    }
    write(batch, properties.build())
}

fn throughput(times: usize, rows: u64) {
    let codec = Codec::<Row, String>::new().expect("the record has a schema");
    let batch = batch(&codec, rows);
    let seconds = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let rate = |time: Duration| rows as f64 / 1e6 / time.as_secs_f64();
    for (what, plain) in [
        (
            "encode, the same encoding",
            encode_plainly as fn(&RecordBatch) -> Bytes,
        ),
        ("encode, parquet's defaults", encode_by_default),
    ] {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..times {
            ours.push(rate(seconds(&|| drop(black_box(encode(&codec, &batch))))));
            floor.push(rate(seconds(&|| drop(black_box(plain(&batch))))));
        }
        report(what, "M row/s", &mut ours, &mut floor);
    }

    let file = encode_plainly(&batch);
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..times {
        ours.push(rate(seconds(&|| {
            let batches =
                decode_file("bench", file.clone(), None, 8192).expect("the file is whole");
            batches.for_each(|batch| drop(black_box(batch.expect("the file is whole"))));
        })));
        floor.push(rate(seconds(&|| {
            let builder =
                ParquetRecordBatchReaderBuilder::try_new(file.clone()).expect("the file is whole");
            let batches = builder.with_batch_size(8192).build().expect("a reader");
            batches.for_each(|batch| drop(black_box(batch.expect("the file is whole"))));
        })));
    }
    report("decode", "M row/s", &mut ours, &mut floor);
}
