//! Durable, definite collections of updates as Delta tables.
//!
//! # A shard
//!
//! A *shard* is a collection of updates `(data, time, diff)` that is stored as a Delta Lake table: the user's
//! columns, then `mv_error`, `mv_time` and `mv_diff`. Beside its files it has two frontiers: the *upper* (it is
//! complete for times below) and the *since* (reads are exact at times from it on). Its contents at a time `t` are
//!
//! ```text
//!   contents(t) = sum of the diffs of each row with mv_time ≤ t,    since ≤ t < upper
//! ```
//!
//! and every reader, at any moment, of any program, finds the same: the collection is *definite*. In SQL it is
//! `SELECT columns, sum(mv_diff) … WHERE mv_time <= t GROUP BY columns HAVING sum(mv_diff) <> 0`. A row is data if
//! its `mv_error` is null, and otherwise an error, as JSON, with its columns null.
//!
//! # Overview
//!
//! ```text
//!   Client ── open ──> Shard ── put_file ──> StagedFile ──┐
//!                        │                                v
//!     write              ├── append                            [lower, upper), if the upper is still `lower`
//!     read at a time     ├── snapshot                          the contents at a time, added up
//!     read on            ├── changes · watch · entry           updates, progress, log entries, as they come
//!     keep               ├── hold · pin · advance_since        the past, for as long as somebody needs it; of several
//!                        │                                     shards at one time: common_time
//!     look after         ├── compact · collect_garbage         fewer files; nothing that nobody needs
//!                        ├── maintain                          both, and the since, again and again
//!                        └── verify                            whether the files are what the log says of them
//! ```
//!
//! Everything is decided by one thing, the put of log entry `n + 1` if it is absent: many writers on many
//! machines need no other coordination. One of them wins each step, and the others are told
//! [`Lost`](Appended::Lost). The other commits (a since, a hold, a merge, a sweep) go on by themselves when
//! another one was faster, after a look at whether they still make sense.
//!
//! - **Rows.** A [`Codec`] makes Arrow columns of any serde type, and takes them apart again; a type may lay out its
//!   columns itself ([`columnar`]). Columns can be added later ([`Open::adding_columns`]). A [`FileEncoder`] makes
//!   Parquet of them, and knows the bounds of their times and the sums of their fingerprints.
//! - **Writing.** [`Shard::put_file`] stages files ([`Shard::begin_file`] while others go on), [`Shard::append`] commits
//!   any number of them as one, together with the upper. What a store left uncertain is decided before it returns.
//! - **Reading.** [`Shard::snapshot`] and [`Shard::changes`] give consolidated rows in bounded memory, with columns and
//!   a [`Filter`] of one's choice ([`ReadOptions`]). [`Shard::pin`], [`Shard::entry`] and [`decode_file`] are for
//!   those who follow the files themselves.
//! - **Keeping.** [`Shard::advance_since`] gives up old times, [`Shard::permitted_since`] says how far a [`Retention`]
//!   and the live holds let it. A [`Hold`] is a lease: it keeps the since, and the files of the version at which it was
//!   taken, until it is released or lapses.
//! - **Looking after.** [`Shard::compact`] merges files in the order of their rows' hashes, [`Shard::collect_garbage`]
//!   deletes what was merged, what was staged and never committed, and old log entries. Nobody needs to stand still
//!   for either. [`Shard::maintain`] does both while a program runs. [`Shard::verify`] reads every file.
//! - **Edits.** Other programs may change the table: [`Entry::foreign`] tells such commits.
//!
//! Features, all off by default: `aws`, `gcp` and `azure` for shards in buckets; `testing` for the module `testing`,
//! with stores that fail, count and stop on purpose, the suite that every store must pass, and the targets of
//! the fuzzers.
//!
//! # On disk
//!
//! ```text
//!   shard/_delta_log/00000000000000000000.json                  the schema, the format, upper 0
//!   shard/_delta_log/00000000000000000001.json                  a commit: new files, the new upper
//!   shard/_delta_log/00000000000000000100.checkpoint.parquet    all that the log says up to here
//!   shard/_delta_log/_last_checkpoint                           where to begin to read
//!   shard/9f1c….parquet                                         updates
//! ```
//!
//! The table needs reader version 1 and writer version 2 of the Delta protocol and no features, so other engines
//! read it as it is. The property `mvsink.format` is the version of what follows; a greater one than 1 is refused.
//!
//! The `add` of a file has the number of its rows as statistics, and these tags, which others ignore:
//!
//! | tag | value |
//! |---|---|
//! | `mvsink.min_time`, `mvsink.max_time` | the least and the greatest `mv_time` |
//! | `mvsink.sums` | the [`Sums`] of its rows' fingerprints by bucket, not zero ones, as text |
//! | `mvsink.sorted` | `true` if its rows are in the order of their fingerprints |
//! | `mvsink.run` | of a file that a merge wrote: the name of the run, `/`, and its place in it |
//! | `mvsink.file` | the name of the file, `:`, and its size: with another file the tags are a copy, and do not count |
//!
//! `txn` actions survive checkpoints and the maintenance of other programs. Their versions are:
//!
//! | application | version |
//! |---|---|
//! | `mvsink.upper`, `mvsink.since` | the frontier: its time, or `i64::MAX` for the empty one |
//! | `mvsink.hold.NAME` | the frontier that a hold keeps; `i64::MAX`: released. Each renewal changes `lastUpdated` |
//! | `mvsink.pin.NAME` | files that were removed after this version of the log are kept; `i64::MAX`: none |
//! | `mvsink.lease.NAME` | the lease in milliseconds |
//! | `mvsink.owner.NAME` | a random number, the identity of who took it; 0 if it was released |
//!
//! The `commitInfo` of a commit of this crate has `timestamp`, `operation` (`CREATE TABLE`, `ADD COLUMNS`, `WRITE`,
//! `SET SINCE`, `HOLD`, `RELEASE HOLD`, `OPTIMIZE`, `SWEEP`, `REPAIR`), `operationParameters`, `engineInfo`, and of its own
//! `mvsink.id` (the [`CommitId`]) and `mvsink.lines` (the lines of the entry, so that one that is cut off is noticed).
//! All but the first entry also have `mvsink.lower` and `mvsink.upper` (the shard's upper before and after) and
//! `mvsink.table` (the table's identity: tells entries of one that was deleted and created again).
//!
//! Merges and sweeps say `dataChange = false`: the collection is what it was. Names that end in `#` and a number are a
//! local write that was cut off. Entries before a checkpoint go after a while by themselves, everything else that
//! is not needed any more by [`Shard::collect_garbage`].
//!
//! # Example
//!
//! ```
//! use mvsink_persist::{
//!     Append, Appended, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta, Frontier, Open, decode_file,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let client = Client::new(tokio::runtime::Handle::current(), ClientOptions::default());
//! let codec = Codec::<(String, u64), String>::new()?;
//! let shard = client.open_or_create("memory://fruit", Open::new(codec.schema())).await?;
//!
//! // Stage: one apple row comes at time 3.
//! let row = ("apple".to_owned(), 7);
//! let mut file = FileEncoder::new(codec.schema())?;
//! file.write(&codec.encode([(&row, 3, 1)].into_iter())?)?;
//! let file = file.finish()?;
//! let meta = FileMeta::from(&file);
//! let report = |error: &_| eprintln!("trying again: {error}");
//! let staged = shard.put_file(file.bytes, meta, &report).await?;
//!
//! // Commit: times below 10 are complete now.
//! let append = Append {
//!     id: CommitId { nonce: client.random_u128(), seq: 0 },
//!     lower: Frontier::At(0),
//!     upper: Frontier::At(10),
//!     files: vec![staged],
//!     since: None,
//! };
//! assert_eq!(shard.append(append, &report).await?, Appended::Committed { version: 1 });
//!
//! // Read.
//! let pinned = shard.pin();
//! assert_eq!(pinned.progress.upper, Frontier::At(10));
//! for file in pinned.files() {
//!     let bytes = shard.read_file(&file.path).await?;
//!     for batch in decode_file(&file.path, bytes, None, 1024)? {
//!         assert_eq!(codec.decode(&batch?)?.ok, [(row.clone(), 3, 1)]);
//!     }
//! }
//! # Ok(())
//! # })
//! # }
//! ```

mod accept;
mod acceptable;
mod below;
mod beyond;
mod changes;
mod clean;
mod client;
mod codec;
pub mod columnar;
mod commit;
mod common;
mod compact;
mod conform;
mod cpu;
mod damage;
mod data_file;
mod error;
mod evolve;
mod file;
pub mod fingerprint;
mod follow;
mod frontier;
mod gc;
mod history;
mod hold;
pub mod ipc;
mod json;
mod local;
mod location;
mod log;
mod maintain;
mod merge;
mod multiplicity;
mod open;
mod pages;
mod pinned;
mod read;
mod repair;
mod replay;
mod retention;
mod retry;
mod review;
mod rewrite;
mod row_hash;
pub mod schema;
mod shard;
mod snapshot;
mod staging;
mod storage;
mod store_time;
mod sums;
mod survey;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod unnamed;
mod upkeep;
mod verify;

pub use accept::ForeignEdit;
pub use arrow_array::{self, RecordBatch};
pub use arrow_schema::{self, Schema};
pub use bytes::Bytes;
pub use changes::{Change, ChangesReader};
pub use client::{Client, ClientOptions, Clock, Open};
pub use codec::{Codec, NO_TIME, Unfit, Updates};
pub use columnar::Columnar;
pub use commit::{Append, Appended};
pub use common::{CommonTime, common_time};
pub use compact::{CompactOptions, CompactProgress, CompactReport};
pub use cpu::CpuPool;
pub use damage::Damage;
pub use data_file::{DataFile, FileMeta, StagedFile, Summed};
pub use error::Error;
pub use file::{EncodedFile, FileDecoder, FileEncoder, decode_file};
pub use fingerprint::{bucket, hash_data, hash_error};
pub use follow::Watcher;
pub use frontier::Frontier;
pub use gc::{GcFiles, GcOptions, GcPhase, GcProgress, GcReport, GcSpared};
pub use hold::{Hold, HoldInfo, HoldToken};
pub use location::{for_shell, local_directory};
pub use log::action::{CommitId, ParseCommitIdError};
pub use log::state::{Entry, Progress};
pub use maintain::Maintenance;
pub use pinned::{FileSet, Pinned};
pub use read::filter::{Comparison, Filter, Literal, Predicate};
pub use read::options::{ReadOptions, ReadProgress, ReadProgressFn};
pub use repair::{LostFile, MisstatedFile, RepairOptions, RepairReport, RepairStep, Unrepaired};
pub use retention::Retention;
pub use retry::{RetryPolicy, RetryReport, report_retry, report_retry_of};
pub use row_hash::sums_of;
pub use schema::TIME_COLUMN;
pub use shard::Shard;
pub use snapshot::SnapshotReader;
pub use staging::PutFile;
pub use storage::OnRetry;
pub use sums::Sums;
pub use unnamed::unnamed_file;
pub use verify::{Difference, Finding, Note, VerifyProgress, VerifyReport};

/// Locks a mutex that protects plain data, which is whole even if a holder panicked.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
