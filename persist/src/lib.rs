//! Durable, definite collections of updates as Delta tables.
//!
//! A *shard* is a Delta table whose rows are updates `(data, time, diff)`: the user's columns, then `mv_error`,
//! `mv_time` and `mv_diff`. Beside its files it has two frontiers, `txn` actions in the log: the *upper* (it is
//! complete for times below) and the *since* (reads are exact at times from it on).
//!
//! ```text
//!   Client ── open ──> Shard ── put_file ──> StagedFile ─┐
//!                        │                               v
//!                        ├── append: [lower, upper), if the upper is still `lower`
//!                        ├── pin:    the files that add up to the collection at one version
//!                        ├── entry:  what one version after that added
//!                        └── watch:  the progress made, here and in other processes
//! ```
//!
//! Everything is decided by one thing, the put of log entry `n + 1` if it is absent: many writers on many
//! machines need no other coordination, and any reader of Delta tables reads the result.

mod client;
mod codec;
mod commit;
mod conform;
mod cpu;
mod data_file;
mod error;
mod file;
pub mod fingerprint;
mod follow;
mod frontier;
mod location;
mod log;
mod open;
mod retry;
pub mod schema;
mod shard;
mod storage;

pub use arrow_array::RecordBatch;
pub use client::{Client, ClientOptions, Clock, Open};
pub use codec::{Codec, NO_TIME, Updates};
pub use commit::{Append, Appended};
pub use cpu::CpuPool;
pub use data_file::{DataFile, FileMeta, StagedFile};
pub use error::Error;
pub use file::{EncodedFile, FileDecoder, FileEncoder, decode_file};
pub use fingerprint::{bucket, hash_data, hash_error};
pub use follow::Watcher;
pub use frontier::Frontier;
pub use log::action::{CommitId, ParseCommitIdError};
pub use log::state::{Entry, Progress};
pub use retry::RetryPolicy;
pub use schema::TIME_COLUMN;
pub use shard::{Pinned, Shard};
pub use storage::OnRetry;

/// Locks a mutex that protects plain data, which is whole even if a holder panicked.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
