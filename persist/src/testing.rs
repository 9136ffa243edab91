//! For tests, of this crate and of its users: stores that fail, count and stop on purpose, the suite that every store
//! must pass, and the parsers with bytes for input. With the cargo feature `testing`.
//!
//! The stores wrap any [`ObjectStore`], each other included, and are used through
//! [`Client::mount`](crate::Client::mount):
//!
//! ```
//! use std::sync::Arc;
//!
//! use mvsink_persist::testing::{Call, CountingStore, FaultyStore};
//! use mvsink_persist::{Client, ClientOptions, Codec, Open};
//! use object_store::memory::InMemory;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let counting = CountingStore::new(Arc::new(InMemory::new()));
//! // One call in ten fails, as seed 7 decides.
//! let faulty = FaultyStore::new(counting.clone(), 7, 10);
//! let client = Client::new(tokio::runtime::Handle::current(), ClientOptions::default());
//! client.mount("store", faulty);
//! let schema = Codec::<u64, String>::new()?.schema();
//! client.open_or_create("memory://store/shard", Open::new(schema)).await?;
//! assert!(counting.count(Call::Create) >= 1);
//! # Ok(())
//! # })
//! # }
//! ```

mod clocked;
pub mod conformance;
mod counting;
mod faulty;
pub mod fuzz;
mod gate;
pub mod law;

pub use clocked::ClockedStore;
pub use counting::CountingStore;
pub use faulty::{Fault, FaultOptions, FaultyStore, Traced};
pub use gate::{GateStore, Hold, Side};

use std::sync::Arc;

use object_store::{GetOptions, ObjectStore, PutMode, PutOptions};

use crate::client::Client;
use crate::error::Error;
use crate::shard::Shard;

/// Runs `meanwhile` while this process's view of a shard's log is locked, as it is while a large entry is built of it. Who
/// then waits for the log waits until `meanwhile` has returned.
pub fn while_the_log_is_locked<T>(shard: &Shard, meanwhile: impl FnOnce() -> T) -> T {
    shard.inner().with_state(|_| meanwhile())
}

/// How many cases a property is tried with: `PROPTEST_CASES`, or so many.
pub fn cases(default: u32) -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    wanted
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}

/// The objects below an address, by paths relative to it: what a shard there would consist of.
///
/// # Errors
/// [`Error::Url`] if the client knows no store for the address.
pub fn store_at(client: &Client, url: &str) -> Result<Arc<dyn ObjectStore>, Error> {
    client.store_at(url)
}

/// The kinds of calls that the stores here tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// A put of what must not exist.
    Create,
    /// A put that replaces.
    Put,
    /// A read of a whole object.
    Get,
    /// A read of a part of an object.
    GetRange,
    /// A question for size and age.
    Head,
    /// The deletion of one object.
    Delete,
    /// A listing, whatever its length.
    List,
    /// A copy within the store.
    Copy,
}

impl Call {
    fn of_put(options: &PutOptions) -> Self {
        match options.mode {
            PutMode::Overwrite => Call::Put,
            PutMode::Create | PutMode::Update(_) => Call::Create,
        }
    }

    fn of_get(options: &GetOptions) -> Self {
        match (options.head, &options.range) {
            (true, _) => Call::Head,
            (false, Some(_)) => Call::GetRange,
            (false, None) => Call::Get,
        }
    }
}
