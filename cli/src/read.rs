//! Reading a shard without its Rust type: batches of the table's columns.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch, new_null_array};
use arrow_schema::SchemaRef;
use mvsink::mvsink_persist::{DataFile, Pinned, Shard, decode_file, schema::DIFF_COLUMN};

use crate::error::Error;

/// How many rows a batch has at most.
const BATCH_ROWS: usize = 8192;

/// Reads a data file, and gives its batches with the columns of `schema` to `each`.
///
/// Columns are found by name: one that the file lacks is null, one of another type is converted.
///
/// # Errors
///
/// If the file is not there or damaged, a column does not fit, or `each` fails.
pub async fn read_file(
    shard: &Shard,
    file: &DataFile,
    schema: &SchemaRef,
    mut each: impl FnMut(RecordBatch) -> Result<(), Error>,
) -> Result<(), Error> {
    let bytes = shard.read_file(&file.path).await.map_err(Error::Shard)?;
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    let path = format!("{}/{}", shard.url(), file.path);
    for batch in decode_file(&path, bytes, Some(&names), BATCH_ROWS).map_err(Error::Shard)? {
        each(conform(&batch.map_err(Error::Shard)?, schema, &path)?)?;
    }
    Ok(())
}

fn conform(batch: &RecordBatch, schema: &SchemaRef, path: &str) -> Result<RecordBatch, Error> {
    let unfit = |source| Error::Column {
        path: path.to_owned(),
        source,
    };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => arrow_cast::cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(unfit)?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(unfit)
}

/// The number of rows that the collection has, each as often as it is there.
///
/// # Errors
///
/// If a file cannot be read.
pub async fn sum_of_diffs(shard: &Shard, pinned: &Pinned) -> Result<i128, Error> {
    let schema = shard.schema();
    let index = schema
        .index_of(DIFF_COLUMN)
        .map_err(|source| Error::Column {
            path: shard.url().to_owned(),
            source,
        })?;
    let diffs = schema.project(&[index]).map_err(|source| Error::Column {
        path: shard.url().to_owned(),
        source,
    })?;
    let diffs: SchemaRef = Arc::new(diffs);
    let mut sum = 0;
    for file in pinned.files() {
        read_file(shard, file, &diffs, |batch| {
            let diffs = batch.column(0).as_primitive::<Int64Type>();
            sum += diffs
                .iter()
                .map(|diff| i128::from(diff.unwrap_or(1)))
                .sum::<i128>();
            Ok(())
        })
        .await?;
    }
    Ok(sum)
}
