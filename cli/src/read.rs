//! Looking at a shard without its Rust type: its files as batches of the table's columns.
//!
//! The table's schema is the user's columns, then `mv_error`, `mv_time` and `mv_diff`; a row is data exactly if
//! its `mv_error` is null.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{RecordBatch, new_null_array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use mvsink::mvsink_persist::schema::DIFF_COLUMN;
use mvsink::mvsink_persist::{
    Client, ClientOptions, DataFile, Error as ShardError, Pinned, Shard, decode_file, report_retry,
};

use crate::error::Error;
use crate::signal::{GRACE, Signal, Signals};

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
    let work = async |client: Client, signals: &Signals| {
        let work = async { look(Reader::open(client, url).await?).await };
        signals.unless(work).await.unwrap_or(Ok(()))
    };
    with_client(GRACE, work)
}

/// Opens a shard for `change`, and runs that until it ends: a signal leaves it the grace, to finish what it has begun.
/// `change` is given the signals, should it be able to end sooner.
///
/// # Errors
///
/// If there is no such shard, or `change` fails.
pub fn with_shard_within(
    url: &str,
    grace: Duration,
    change: impl AsyncFnOnce(Reader, &Signals) -> Result<(), Error>,
) -> Result<ExitCode, Error> {
    with_client(
        GRACE,
        async |client: Client, signals: &Signals| match signals
            .unless(Reader::open(client, url))
            .await
        {
            Ok(opened) => {
                signals.allow(grace);
                change(opened?, signals).await
            }
            Err(_signal) => Ok(()),
        },
    )
}

/// Runs `work`, which ends when a signal comes. If one has come, the exit status says which.
///
/// # Errors
///
/// If the system gives no threads, or `work` fails.
pub fn with_client(
    grace: Duration,
    work: impl AsyncFnOnce(Client, &Signals) -> Result<(), Error>,
) -> Result<ExitCode, Error> {
    let signals = Signals::within(grace)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("mvsink-io")
        .build()
        .map_err(Error::Runtime)?;
    let client = Client::new(runtime.handle().clone(), ClientOptions::default());
    let worked = runtime.block_on(work(client, &signals));
    runtime.shutdown_background();
    worked.map(|()| signals.first().map_or(ExitCode::SUCCESS, Signal::exit_code))
}

/// The tables directly below an address.
///
/// # Errors
///
/// If it cannot be listed.
pub async fn tables_below(client: &Client, url: &str) -> Result<Vec<String>, Error> {
    let stalled = |error: &ShardError| {
        if report_retry(url, error).is_some() {
            tracing::warn!(url, %error, "cannot list for now, trying again");
        }
    };
    Ok(client.shards_below(url, &stalled).await?)
}

/// Reads a shard's files.
#[derive(Clone)]
pub struct Reader {
    client: Client,
    shard: Shard,
}

impl Reader {
    /// Opens a shard.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be read.
    pub async fn open(client: Client, url: &str) -> Result<Self, Error> {
        match client.open_existing(url).await {
            Ok(shard) => Ok(Reader { client, shard }),
            Err(none @ ShardError::NoShard { .. }) => {
                let tables = tables_below(&client, url).await.unwrap_or_default();
                Err(match tables.is_empty() {
                    true => Error::from(none),
                    false => Error::Below {
                        url: url.to_owned(),
                        tables,
                    },
                })
            }
            Err(error) => Err(Error::from(error)),
        }
    }

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
        let stalled = |error: &ShardError| {
            if let Some(report) = report_retry(self.shard.url(), error) {
                let tries = report.tries;
                tracing::warn!(path, %error, tries, "cannot read for now, trying again");
            }
        };
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
