//! Durable, definite collections of updates as Delta tables.

mod client;
mod commit;
mod cpu;
mod data_file;
mod error;
mod follow;
mod frontier;
mod location;
mod log;
mod open;
mod retry;
mod shard;
mod storage;

pub use client::{Client, ClientOptions, Clock, Open};
pub use commit::{Append, Appended};
pub use cpu::CpuPool;
pub use data_file::{DataFile, FileMeta, StagedFile, TIME_COLUMN};
pub use error::Error;
pub use follow::Watcher;
pub use frontier::Frontier;
pub use log::action::{CommitId, ParseCommitIdError};
pub use log::state::{Entry, Progress};
pub use retry::RetryPolicy;
pub use shard::{Pinned, Shard};
pub use storage::OnRetry;

/// Locks a mutex that protects plain data, which is whole even if a holder panicked.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
