//! Parquet files in memory: what they say about themselves, and what damage does.

use arrow_array::RecordBatch;
use bytes::Bytes;
use mvsink_persist::{Codec, EncodedFile, Error, FileEncoder, Updates, decode_file};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use proptest::prelude::*;

type Row = (u64, String, Option<i32>, Vec<f64>);

const PATH: &str = "some/file.parquet";

fn codec() -> Codec<Row, String> {
    Codec::new().unwrap()
}

fn row(i: u64) -> Row {
    let list = vec![i as f64; i as usize % 3];
    (
        i,
        format!("name {}", i % 10),
        i.is_multiple_of(3).then_some(i as i32),
        list,
    )
}

fn file(rows: u64) -> EncodedFile {
    let codec = codec();
    let mut encoder = FileEncoder::new(codec.schema()).unwrap();
    let data: Vec<Row> = (0..rows).map(row).collect();
    for chunk in data.chunks(100) {
        let updates = chunk.iter().map(|row| (row, 10 + row.0 as i64, 1));
        encoder.write(&codec.encode(updates).unwrap()).unwrap();
    }
    assert_eq!(encoder.rows(), rows);
    encoder.finish().unwrap()
}

#[test]
fn a_file_knows_its_rows_and_times() {
    let full = file(250);
    assert_eq!((full.rows, full.min_time, full.max_time), (250, 10, 259));
    let empty = file(0);
    assert_eq!(
        (empty.rows, empty.min_time, empty.max_time),
        (0, i64::MAX, i64::MIN)
    );
    assert_eq!(decode_file(PATH, empty.bytes, None, 10).unwrap().count(), 0);
}

#[test]
fn the_size_grows_with_the_rows() {
    let codec = codec();
    let mut encoder = FileEncoder::new(codec.schema()).unwrap();
    let start = encoder.estimated_size();
    let row = (1, "x".repeat(1000), None, vec![]);
    encoder
        .write(&codec.encode([(&row, 0, 1)].into_iter()).unwrap())
        .unwrap();
    assert!(encoder.estimated_size() >= start + 1000);
}

#[test]
fn the_encoding_is_the_designed_one() {
    let reader = SerializedFileReader::new(file(1000).bytes).unwrap();
    let metadata = reader.metadata();
    let keys = metadata.file_metadata().key_value_metadata();
    assert!(keys.is_none_or(|keys| keys.iter().all(|pair| pair.key != "ARROW:schema")));
    let mut names = Vec::new();
    for column in metadata.row_group(0).columns() {
        let path = column.column_path().string();
        assert_eq!(column.compression(), Compression::LZ4_RAW, "{path}");
        assert!(column.statistics().is_some(), "{path}");
        let encodings: Vec<_> = column.encodings().collect();
        let text = path == "c1";
        let integers = ["c0", "c2", "mv_time", "mv_diff"].contains(&path.as_str());
        if path != "mv_error" {
            assert_eq!(
                column.dictionary_page_offset().is_some(),
                text,
                "{path}: {encodings:?}"
            );
        }
        let packed = encodings.contains(&Encoding::DELTA_BINARY_PACKED);
        assert_eq!(packed, integers, "{path}: {encodings:?}");
        names.push(path);
    }
    assert_eq!(
        names,
        [
            "c0",
            "c1",
            "c2",
            "c3.list.element",
            "mv_error",
            "mv_time",
            "mv_diff"
        ]
    );
}

#[test]
fn strings_that_repeat_have_a_dictionary_and_others_none() {
    let codec = Codec::<(String, String, Option<String>), String>::new().unwrap();
    let has_dictionaries = |rows: u64| {
        let rows: Vec<_> = (0..rows)
            .map(|i| (format!("{i:040}"), format!("{}", i % 500), None))
            .collect();
        let mut encoder = FileEncoder::new(codec.schema()).unwrap();
        let updates = rows.iter().map(|row| (row, 0, 1));
        encoder.write(&codec.encode(updates).unwrap()).unwrap();
        // What comes later does not change the file's mind.
        let again = rows.iter().map(|_| (&rows[0], 0, 1));
        encoder.write(&codec.encode(again).unwrap()).unwrap();
        let reader = SerializedFileReader::new(encoder.finish().unwrap().bytes).unwrap();
        let group = reader.metadata().row_group(0);
        let dictionary = |column: usize| group.column(column).dictionary_page_offset();
        [0, 1, 2].map(|column| dictionary(column).is_some())
    };
    assert_eq!(has_dictionaries(4000), [false, true, true]);
    // Too few to tell: a dictionary of few costs little.
    assert_eq!(has_dictionaries(100), [true, true, true]);
}

#[test]
fn strings_that_compression_hardly_shortens_are_stored_as_they_are() {
    let codec = Codec::<(String, String), String>::new().unwrap();
    let compression = |rows: u64| {
        let row = |i: u64| {
            // Letters that look random, and a text that is always nearly the same.
            let random = (0..8).map(|at| mvsink_persist::hash_data(&(i, at)).unwrap() as u64);
            let letters = random.map(|hash| char::from(33 + (hash % 90) as u8));
            (
                letters.collect(),
                format!("this is the row with number {i}"),
            )
        };
        let rows: Vec<(String, String)> = (0..rows).map(row).collect();
        let mut encoder = FileEncoder::new(codec.schema()).unwrap();
        let updates = rows.iter().map(|row| (row, 0, 1));
        encoder.write(&codec.encode(updates).unwrap()).unwrap();
        let file = encoder.finish().unwrap().bytes;
        let decoded = decode_file(PATH, file.clone(), None, 8192).unwrap();
        let decoded: Vec<_> = decoded
            .flat_map(|batch| codec.decode(&batch.unwrap()).unwrap().ok)
            .map(|(row, _, _)| row)
            .collect();
        assert_eq!(decoded, rows);
        let reader = SerializedFileReader::new(file).unwrap();
        let group = reader.metadata().row_group(0);
        [0, 1].map(|column| group.column(column).compression())
    };
    let (none, lz4) = (Compression::UNCOMPRESSED, Compression::LZ4_RAW);
    assert_eq!(compression(4000), [none, lz4]);
    // Too few to tell.
    assert_eq!(compression(100), [lz4, lz4]);
}

#[test]
fn batches_have_the_rows_and_columns_asked_for() {
    let names = ["mv_time", "c1", "no_such_column"];
    let decoder = decode_file(PATH, file(250).bytes, Some(&names), 100).unwrap();
    assert_eq!(decoder.rows(), 250);
    let batches: Vec<_> = decoder.map(Result::unwrap).collect();
    assert_eq!(
        batches
            .iter()
            .map(|batch| batch.num_rows())
            .collect::<Vec<_>>(),
        [100, 100, 50]
    );
    let schema = batches[0].schema();
    let columns: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(columns, ["c1", "mv_time"]);
}

fn assert_corrupt(error: &Error) {
    assert!(
        matches!(error, Error::Corrupt { path, .. } if path == PATH),
        "{error}"
    );
    assert!(!error.is_transient());
}

#[test]
fn what_is_no_parquet_file_is_corrupt() {
    for bytes in [
        &b""[..],
        b"PAR1",
        b"PAR1PAR1",
        b"{\"protocol\":{}}",
        &[0; 64],
    ] {
        assert_corrupt(
            &decode_file(PATH, Bytes::from_static(bytes), None, 1)
                .err()
                .unwrap(),
        );
    }
}

/// That the error names the file, and says either that it is damaged or what of it is not known.
fn assert_unreadable(error: &Error) {
    match error {
        Error::UnsupportedFile { path, .. } => assert_eq!(path, PATH),
        error => assert_corrupt(error),
    }
}

/// Every outcome but a panic, and every error names the file. Flipped bits may well be other rows.
fn read_all(bytes: Bytes) {
    let decoder = match decode_file(PATH, bytes, None, 64) {
        Ok(decoder) => decoder,
        Err(error) => return assert_unreadable(&error),
    };
    for batch in decoder {
        match batch {
            Ok(batch) => drop(codec().decode(&batch)),
            Err(error) => assert_unreadable(&error),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(256)))]

    #[test]
    fn a_truncated_file_is_corrupt(at in any::<prop::sample::Index>()) {
        let bytes = file(300).bytes;
        let decoder = decode_file(PATH, bytes.slice(..at.index(bytes.len())), None, 64);
        assert_corrupt(&decoder.err().unwrap());
    }

    #[test]
    fn a_damaged_file_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = file(300).bytes.to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_all(bytes.into());
    }
}

/// The rows of [`file`] as a batch.
fn batch(rows: u64) -> RecordBatch {
    let data: Vec<Row> = (0..rows).map(row).collect();
    let updates = data.iter().map(|row| (row, 10 + row.0 as i64, 1));
    codec().encode(updates).unwrap()
}

/// All that compress, of those that are read.
fn compressions() -> [Compression; 6] {
    [
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::ZSTD(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ]
}

fn compressed(rows: &RecordBatch, compression: Compression) -> Bytes {
    let properties = WriterProperties::builder().set_compression(compression);
    let properties = Some(properties.build());
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), properties).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap().into()
}

#[test]
fn every_codec_of_other_writers_is_read() {
    let rows = batch(5000);
    let expected = codec().decode(&rows).unwrap();
    for compression in compressions()
        .into_iter()
        .chain([Compression::UNCOMPRESSED])
    {
        let bytes = compressed(&rows, compression);
        let decoder = decode_file(PATH, bytes, None, 10_000).unwrap();
        let mut read = Updates::default();
        for batch in decoder {
            let updates = codec().decode(&batch.unwrap()).unwrap();
            read.ok.extend(updates.ok);
        }
        assert_eq!(read, expected, "{compression}");
    }
}

#[test]
fn what_compresses_as_well_as_a_codec_can_is_no_damage() {
    let codec = Codec::<(String, u64), String>::new().unwrap();
    let rows: Vec<_> = (0..500).map(|_| ("x".repeat(20_000), 0)).collect();
    let rows = codec.encode(rows.iter().map(|row| (row, 0, 1))).unwrap();
    for compression in compressions() {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_dictionary_enabled(false)
            .set_data_page_size_limit(64 << 20);
        let properties = Some(properties.build());
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), properties).unwrap();
        writer.write(&rows).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        let decoder = decode_file(PATH, bytes, None, 1000).unwrap();
        let read: usize = decoder.map(|batch| batch.unwrap().num_rows()).sum();
        assert_eq!(read, 500, "{compression}");
    }
}

/// A file whose footer says that its columns are compressed with LZO.
fn lzo() -> Bytes {
    let bytes = compressed(&batch(10), Compression::UNCOMPRESSED);
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&bytes)
        .unwrap();
    let mut builder = metadata.into_builder();
    let groups = builder.take_row_groups();
    let groups = groups.into_iter().map(|group| {
        let mut builder = group.into_builder();
        let columns = builder.take_columns().into_iter();
        let columns = columns.map(|column| {
            let column = column.into_builder().set_compression(Compression::LZO);
            column.build().unwrap()
        });
        builder
            .set_column_metadata(columns.collect())
            .build()
            .unwrap()
    });
    let metadata = builder.set_row_groups(groups.collect()).build();
    let mut file = bytes.to_vec();
    ParquetMetaDataWriter::new(&mut file, &metadata)
        .finish()
        .unwrap();
    file.into()
}

/// A file whose footer is encrypted, as far as its last bytes say.
fn encrypted() -> Bytes {
    let mut bytes = file(10).bytes.to_vec();
    let magic = bytes.len() - 4;
    bytes[magic..].copy_from_slice(b"PARE");
    bytes.into()
}

#[test]
fn what_of_a_file_is_not_known_is_unsupported_and_no_damage() {
    for (bytes, says) in [(lzo(), "LZO"), (encrypted(), "encrypt")] {
        let error = decode_file(PATH, bytes, None, 10).err().unwrap();
        let message = error.to_string();
        assert!(
            matches!(&error, Error::UnsupportedFile { path, .. } if path == PATH),
            "{message}"
        );
        assert!(
            message.contains(says) && !message.contains("damaged"),
            "{message}"
        );
        assert!(!error.is_transient());
    }
}
