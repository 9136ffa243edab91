//! Looking at a shard without its Rust type: its files as batches of the table's columns.
//!
//! The table's schema is the user's columns, then `mv_error`, `mv_time` and `mv_diff`; a row is data exactly if
//! its `mv_error` is null.

use std::process::ExitCode;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{RecordBatch, new_null_array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use mvsink::mvsink_persist::schema::DIFF_COLUMN;
use mvsink::mvsink_persist::{
    Client, ClientOptions, DataFile, Error as ShardError, Pinned, Shard, decode_file,
};

use crate::error::Error;
use crate::signal::Signals;

/// How many rows a batch has at most.
pub const BATCH_ROWS: usize = 8192;

/// Opens a shard for `look`, and runs that until it ends or a signal comes.
///
/// # Errors
///
/// If there is no such shard, or `look` fails.
pub fn with_shard<F: Future<Output = Result<(), Error>>>(
    url: &str,
    look: impl FnOnce(Reader) -> F,
) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("mvsink-io")
        .build()
        .map_err(Error::Runtime)?;
    let looked = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let work = async {
            let client = Client::new(runtime.handle().clone(), ClientOptions::default());
            let shard = client.open_existing(url).await.map_err(Error::from)?;
            look(Reader { client, shard }).await
        };
        tokio::select! {
            looked = work => looked.map(|()| ExitCode::SUCCESS),
            signal = signals.next() => Ok(signal.exit_code()),
        }
    });
    runtime.shutdown_background();
    looked
}

/// Reads a shard's files.
#[derive(Clone)]
pub struct Reader {
    client: Client,
    shard: Shard,
}

impl Reader {
    /// A reader of a shard that this client has open.
    pub fn new(client: Client, shard: Shard) -> Self {
        Reader { client, shard }
    }

    /// The shard.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Reads a data file, and gives its batches with the columns of `schema` to `each`.
    ///
    /// Columns are found by name: one that the file lacks is null, one of another type is converted. Errors of
    /// the store that may pass are waited for, with a warning each.
    ///
    /// # Errors
    ///
    /// If the file is not there or damaged, a column does not fit, or `each` fails.
    pub async fn file(
        &self,
        file: &DataFile,
        schema: &SchemaRef,
        mut each: impl FnMut(RecordBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let path = format!("{}/{}", self.shard.url(), file.path);
        let stalled =
            |error: &ShardError| tracing::warn!(path, %error, "cannot read for now, trying again");
        let bytes = self
            .client
            .retry(&stalled, || self.shard.read_file(&file.path));
        let bytes = bytes.await.map_err(Error::from)?;
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        let batches = decode_file(&path, bytes, Some(&names), BATCH_ROWS).map_err(Error::from)?;
        for batch in batches {
            let batch = batch.map_err(Error::from)?;
            each(conform(&batch, schema).map_err(|source| unfit(&path, source))?)?;
        }
        Ok(())
    }

    /// The number of rows that the collection has, each counted as often as it is there.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub async fn sum_of_diffs(&self, pinned: &Pinned) -> Result<i128, Error> {
        let schema = self.shard.schema();
        let fields: Vec<_> = schema
            .fields()
            .iter()
            .filter(|field| field.name() == DIFF_COLUMN)
            .cloned()
            .collect();
        let diffs: SchemaRef = Arc::new(Schema::new(fields));
        let mut sum = 0;
        for file in pinned.files() {
            let add = |batch: RecordBatch| {
                let diffs = batch.column(0).as_primitive::<Int64Type>();
                sum += diffs
                    .iter()
                    .map(|diff| i128::from(diff.unwrap_or(1)))
                    .sum::<i128>();
                Ok(())
            };
            self.file(file, &diffs, add).await?;
        }
        Ok(sum)
    }
}

/// What files say of themselves, added up: other programs may say anything.
pub fn sum(said: impl Iterator<Item = u64>) -> u64 {
    said.fold(0, u64::saturating_add)
}

/// That a column of `path` is not what the table's schema says.
pub fn unfit(path: &str, source: ArrowError) -> Error {
    Error::Column {
        path: path.to_owned(),
        source,
    }
}

fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => arrow_cast::cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}
