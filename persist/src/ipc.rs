//! Batches of rows as bytes in Arrow's own format, for rows that a process sets aside and reads again itself.
//!
//! ```text
//!   read_batch(write_batch(batch)) = batch
//! ```
//!
//! Beside Parquet it is cheap to write and to read, and large. It is no format of shards: nothing here outlives the
//! process.

use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;

use crate::error::Error;
use crate::file::{corrupt, guard};

/// Appends the batch, with its schema, to `bytes`.
///
/// # Errors
///
/// [`Error::Type`] if the format has no place for the batch. What `bytes` ends with is then unspecified.
pub fn write_batch(batch: &RecordBatch, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let write = |bytes| {
        let mut writer = StreamWriter::try_new(bytes, &batch.schema())?;
        writer.write(batch)?;
        writer.finish()
    };
    write(bytes).map_err(|error: ArrowError| Error::Type {
        type_name: "a batch of rows".into(),
        why: error.to_string(),
    })
}

/// The batch that [`write_batch`] made these bytes of. `path` is for errors only.
///
/// # Errors
///
/// [`Error::Corrupt`] if the bytes are not those of one batch.
pub fn read_batch(path: &str, bytes: &[u8]) -> Result<RecordBatch, Error> {
    guard(path, || {
        let mut reader = StreamReader::try_new(Cursor::new(bytes), None)
            .map_err(|error| corrupt(path, &error))?;
        match reader.next() {
            Some(batch) => batch.map_err(|error| corrupt(path, &error)),
            None => Err(corrupt(path, &"it ends before the batch")),
        }
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn batches_come_back_whole_and_damage_is_told() {
        let codec = Codec::<(u64, Option<String>, Vec<i32>), String>::new().unwrap();
        let rows: Vec<_> = (0..100u64)
            .map(|n| {
                let text = (n % 3 > 0).then(|| format!("row {n}"));
                (n, text, vec![n as i32; n as usize % 4])
            })
            .collect();
        let updates = rows.iter().map(|row| (row, row.0 as i64, -1));
        let batch = codec.encode(updates).unwrap();
        let errors = ["one".to_owned(), "two".to_owned()];
        let errors = codec.encode_errors(errors.iter().map(|error| (error, 7, 1)));
        for batch in [batch, errors.unwrap()] {
            let mut bytes = b"before".to_vec();
            write_batch(&batch, &mut bytes).unwrap();
            let bytes = &bytes[6..];
            assert_eq!(read_batch("x", bytes).unwrap(), batch);
            for end in [0, 4, bytes.len() / 2] {
                let error = read_batch("x", &bytes[..end]).unwrap_err();
                assert!(matches!(error, Error::Corrupt { .. }), "{end}: {error}");
            }
        }
    }
}
