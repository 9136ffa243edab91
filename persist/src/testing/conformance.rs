//! What every store must do so that shards can live in it, as a suite that any store can be run through.
//!
//! A [`Setup`] says how to reach the store; [`run`] calls every check of [`CHECKS`] and says which one failed:
//!
//! ```
//! use mvsink_persist::testing::{FaultOptions, conformance};
//! use mvsink_persist::{Client, ClientOptions};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! let dir = tempfile::tempdir().unwrap();
//! let client = |seed| {
//!     let mut options = ClientOptions::default();
//!     options.seed = Some(seed);
//!     Client::new(tokio::runtime::Handle::current(), options)
//! };
//! let setup = conformance::Setup::new(dir.path().to_str().unwrap(), client).unwrap();
//! # let setup = conformance::Setup { writers: 2, rounds: 4, big_bytes: 1000, ..setup };
//! conformance::run(&setup).await;
//! # });
//! ```
//!
//! The checks of the store itself are in [`objects`], those of shards on it in [`shards`]. Each uses a folder of its
//! own, which must be empty, and panics with what the store did wrong.

pub mod objects;
pub mod shards;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;

use super::{FaultOptions, FaultyStore, store_at};
use crate::client::Client;
use crate::error::Error;

/// Makes a client as another process would have it.
type MakeClient = Arc<dyn Fn(u64) -> Client + Send + Sync>;

/// The store under test, and how much of it.
#[derive(Clone)]
pub struct Setup {
    /// Makes a client as another process would have it, from a seed.
    pub client: MakeClient,
    /// Where shards go: a folder each below this address.
    pub url: String,
    /// The objects below the address, without faults.
    pub truth: Arc<dyn ObjectStore>,
    /// The faults in between, if there are any.
    pub faults: Option<Arc<FaultyStore>>,
    /// Writers that race (default 4).
    pub writers: u64,
    /// Commits that they race for (default 20).
    pub rounds: i64,
    /// The size of what counts as big (default 16 MiB).
    pub big_bytes: usize,
    /// Draws what the checks draw (default 0).
    pub seed: u64,
}

impl Setup {
    /// The store at `url`, as the clients of `client` reach it.
    ///
    /// # Errors
    /// [`Error::Url`] if they do not.
    pub fn new(
        url: &str,
        client: impl Fn(u64) -> Client + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Ok(Setup {
            truth: store_at(&client(0), url)?,
            client: Arc::new(client),
            url: url.trim_end_matches('/').to_owned(),
            faults: None,
            writers: 4,
            rounds: 20,
            big_bytes: 16 << 20,
            seed: 0,
        })
    }

    /// The same store with faults before it, in a folder of its own.
    pub fn with_faults(&self, options: FaultOptions) -> Self {
        let truth: Arc<dyn ObjectStore> =
            Arc::new(PrefixStore::new(Arc::clone(&self.truth), "with-faults"));
        let faults = FaultyStore::with_options(Arc::clone(&truth), options);
        let (client, mounted) = (Arc::clone(&self.client), Arc::clone(&faults));
        Setup {
            client: Arc::new(move |seed| {
                let client = client(seed);
                client.mount("faulty", mounted.clone());
                client
            }),
            url: "memory://faulty".into(),
            truth,
            faults: Some(faults),
            ..self.clone()
        }
    }

    fn client(&self, seed: u64) -> Client {
        (self.client)(self.seed ^ seed)
    }

    fn shard_url(&self, folder: &str) -> String {
        format!("{}/{folder}", self.url)
    }

    fn folder(&self, folder: &str) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(Arc::clone(&self.truth), folder))
    }

    /// Waits until what the faults delayed has happened.
    async fn settle(&self) {
        if let Some(faults) = &self.faults {
            faults.settled().await;
        }
    }
}

/// One check: its name, and what it does.
pub type Check = (&'static str, fn(&Setup) -> BoxFuture<'_, ()>);

macro_rules! checks {
    ($($module:ident::$check:ident),* $(,)?) => {
        &[$((stringify!($check), |setup| Box::pin($module::$check(setup)))),*]
    };
}

/// All checks, in the order in which [`run`] calls them.
pub const CHECKS: &[Check] = checks![
    objects::a_create_happens_once,
    objects::of_racing_creates_one_wins,
    objects::what_was_put_is_listed_and_read,
    objects::what_was_deleted_is_gone,
    objects::ranges_are_of_the_object,
    objects::odd_names_are_names,
    objects::big_objects_come_back,
    shards::one_of_many_creations_counts,
    shards::of_racing_appends_one_wins_each_round,
    shards::uncertain_puts_are_resolved,
    shards::an_append_waits_for_its_files,
    shards::rows_come_back,
    shards::frontiers_are_durable,
    shards::another_process_follows,
    shards::a_checkpoint_is_as_good_as_the_log,
    shards::what_is_staged_can_be_deleted,
    shards::what_is_missing_is_said_to_be,
    shards::odd_places_hold_shards,
];

/// Calls every check.
///
/// # Panics
/// With the name of the check that failed, and what the store did wrong.
pub async fn run(setup: &Setup) {
    for (name, check) in CHECKS {
        if let Err(panic) = AssertUnwindSafe(check(setup)).catch_unwind().await {
            let message = panic
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("it panicked");
            panic!("{name} fails on {}: {message}", setup.truth);
        }
    }
}
