//! Errors after the entry of a commit was put: they say that it may be in the log.

mod support;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use mvsink_persist::testing::{Fault, FaultOptions, FaultyStore, GateStore, Side};
use mvsink_persist::{Appended, Client, Error, Frontier, Open, Shard, StagedFile};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use support::{append, client, options, run, schema, stage};
use tokio::time::Instant;

const URL: &str = "memory://store/shard";

fn quiet(_: &Error) {}

/// A store in memory that takes its time to put the next log entry once it is armed, and forbids to read the log then.
#[derive(Debug, Default)]
struct Revoking {
    inner: InMemory,
    armed: AtomicBool,
    revoked: AtomicBool,
    /// Log entries may not be put.
    refuses: AtomicBool,
}

fn denied(path: &Path, why: &str) -> object_store::Error {
    object_store::Error::PermissionDenied {
        path: path.to_string(),
        source: why.into(),
    }
}

impl fmt::Display for Revoking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("revoking")
    }
}

#[async_trait]
impl ObjectStore for Revoking {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if to.as_ref().ends_with(".json") && self.refuses.load(Ordering::Relaxed) {
            return Err(denied(to, "refused"));
        }
        let put = self.inner.put_opts(to, payload, options).await?;
        if to.as_ref().ends_with(".json") && self.armed.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(60 * 60)).await;
            self.revoked.store(true, Ordering::Relaxed);
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        if from.as_ref().ends_with(".json") && self.revoked.load(Ordering::Relaxed) {
            return Err(denied(from, "revoked"));
        }
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn client_of(store: &Arc<Revoking>, seed: u64) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 0;
    options.log_min_age = Duration::from_secs(60 * 60);
    let client = client(options);
    client.mount("store", Arc::clone(store) as _);
    client
}

async fn open(store: &Arc<Revoking>) -> Shard {
    let open = Open::new(schema());
    client_of(store, 1).open_or_create(URL, open).await.unwrap()
}

#[test]
fn an_error_after_the_put_says_that_the_commit_may_be_in_the_log() {
    run(async {
        let store = Arc::new(Revoking::default());
        let shard = open(&store).await;
        let file = stage(&shard, 0).await;
        let append = append(1, 0, 1, vec![file.clone()]);
        store.armed.store(true, Ordering::Relaxed);
        let error = shard.append(append.clone(), &quiet).await.unwrap_err();
        assert!(matches!(error, Error::Unconfirmed { .. }), "{error}");
        assert!(!error.is_decided() && !error.is_transient());
        let told = error.to_string();
        assert!(told.contains("may have been committed"), "{told}");
        assert!(told.contains("revoked"), "{told}");
        // Nor does calling again find out while the log cannot be read.
        for _ in 0..2 {
            let again = shard.append(append.clone(), &quiet).await.unwrap_err();
            assert!(!again.is_decided(), "{again}");
            tokio::time::advance(Duration::from_secs(60 * 60)).await;
        }
        store.revoked.store(false, Ordering::Relaxed);
        let reader = client_of(&store, 2).open_existing(URL).await.unwrap();
        assert_eq!(reader.progress().upper, Frontier::At(1));
        // Calling again finds out, and what was committed is not deleted.
        shard
            .delete_files(std::slice::from_ref(&file))
            .await
            .unwrap();
        assert!(shard.read_file(&file.path).await.is_ok());
        let again = shard.append(append, &quiet).await.unwrap();
        assert_eq!(again, Appended::Committed { version: 1 });
    });
}

#[test]
fn an_error_before_the_put_says_that_nothing_was_committed() {
    run(async {
        let store = Arc::new(Revoking::default());
        let shard = open(&store).await;
        store.revoked.store(true, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(60 * 60)).await;
        let append = append(1, 0, 1, Vec::new());
        let error = shard.append(append, &quiet).await.unwrap_err();
        assert!(matches!(error, Error::Store { .. }), "{error}");
        assert!(error.is_decided());
        store.revoked.store(false, Ordering::Relaxed);
        // Nor when the put itself is refused.
        store.refuses.store(true, Ordering::Relaxed);
        let append = support::append(2, 0, 1, Vec::new());
        let error = shard.append(append, &quiet).await.unwrap_err();
        assert!(matches!(error, Error::Store { .. }), "{error}");
        assert!(error.is_decided());
        assert_eq!(shard.refresh().await.unwrap().version, 0);
    });
}

#[test]
fn an_append_that_was_given_up_and_is_known_to_have_landed_is_not_told_to_be_absent() {
    for is_remembered in [true, false] {
        run(async {
            let store = Arc::new(Revoking::default());
            let mut options = options(1);
            options.checkpoint_interval = 0;
            options.log_min_age = Duration::from_secs(60 * 60);
            options.recent_entries = if is_remembered { 16 } else { 1 };
            let client = client(options);
            client.mount("store", Arc::clone(&store) as _);
            let shard = client
                .open_or_create(URL, Open::new(schema()))
                .await
                .unwrap();
            let file = stage(&shard, 0).await;
            let append = append(1, 0, 1, vec![file]);
            store.armed.store(true, Ordering::Relaxed);
            let given_up = shard.append(append.clone(), &quiet);
            let given_up = tokio::time::timeout(Duration::from_secs(1), given_up).await;
            assert!(given_up.is_err(), "{given_up:?}");
            assert_eq!(shard.refresh().await.unwrap().upper, Frontier::At(1));
            let later = support::append(2, 1, 2, Vec::new());
            shard.append(later, &quiet).await.unwrap();
            // The log cannot be read any more when it is due to be.
            store.revoked.store(true, Ordering::Relaxed);
            tokio::time::advance(Duration::from_secs(60 * 60)).await;
            let error = shard.append(append.clone(), &quiet).await.unwrap_err();
            assert!(!error.is_decided(), "remembered: {is_remembered}: {error}");
            store.revoked.store(false, Ordering::Relaxed);
            let again = shard.append(append, &quiet).await.unwrap();
            assert_eq!(again, Appended::Committed { version: 1 });
        });
    }
}

/// A client of this store by whose clock a file is old after a minute.
fn clocked_client(store: Arc<dyn ObjectStore>, seed: u64) -> Client {
    let mut options = options(seed);
    let start = Instant::now();
    options.clock = Arc::new(move || i64::try_from(start.elapsed().as_millis()).unwrap());
    let client = client(options);
    client.mount("store", store);
    client
}

async fn delete(store: &dyn ObjectStore, file: &StagedFile) {
    let path = Path::from(format!("shard/{}", file.path));
    store.delete(&path).await.unwrap();
}

#[test]
fn an_append_that_was_given_up_and_landed_is_committed_though_its_file_is_gone() {
    for by_a_commit in [false, true] {
        run(async {
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let store = GateStore::new(Arc::clone(&inner));
            let client = clocked_client(Arc::clone(&store) as _, 1);
            let open = Open::new(schema());
            let shard = client.open_or_create(URL, open.clone()).await.unwrap();
            let file = stage(&shard, 0).await;
            let append_once = append(1, 0, 1, vec![file.clone()]);
            let hold = store.hold_commit(1, Side::After);
            tokio::select! {
                ended = shard.append(append_once.clone(), &quiet) => panic!("{ended:?}"),
                () = hold.reached() => {}
            }
            hold.release();
            if by_a_commit {
                // A rival removes it, as a view does that rewrites it.
                let rival = clocked_client(Arc::clone(&inner), 2);
                let rival = rival.open_existing(URL).await.unwrap();
                let removes = BTreeSet::from([file.path.clone()]);
                let removing = append(2, 1, 2, Vec::new());
                let removed = rival.append_removing(removing, removes, &quiet).await;
                assert_eq!(removed.unwrap(), Appended::Committed { version: 2 });
            }
            delete(&*inner, &file).await;
            tokio::time::advance(Duration::from_secs(61)).await;
            let again = shard.append(append_once, &quiet).await;
            assert_eq!(again.unwrap(), Appended::Committed { version: 1 });
        });
    }
}

#[test]
fn an_append_that_was_given_up_and_swept_does_not_land_later() {
    run(async {
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut faults = FaultOptions::default();
        faults.later = Duration::from_secs(60 * 60);
        let store = FaultyStore::with_options(Arc::clone(&inner), faults);
        let client = clocked_client(Arc::clone(&store) as _, 1);
        let shard = client
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        let files = vec![stage(&shard, 0).await, stage(&shard, 0).await];
        let append = append(1, 0, 1, files.clone());
        // Its put is answered by an error and still under way when it is given up.
        let mut script = vec![Fault::AppliedLater];
        script.resize(1000, Fault::NotApplied);
        store.script(&script);
        let given_up = shard.append(append.clone(), &quiet);
        let given_up = tokio::time::timeout(Duration::from_secs(1), given_up).await;
        assert!(given_up.is_err(), "{given_up:?}");
        store.script(&[]);
        delete(&*inner, &files[0]).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        let again = shard.append(append.clone(), &quiet).await.unwrap_err();
        assert!(matches!(again, Error::Swept { .. }), "{again}");
        assert!(again.is_decided());
        store.settled().await;
        let reader = clocked_client(Arc::clone(&inner), 2);
        let reader = reader.open_existing(URL).await.unwrap();
        assert_eq!(reader.progress().upper, Frontier::At(0));
        assert_eq!(reader.pin().files().count(), 0);
        // So what it held can be written again.
        let file = stage(&shard, 0).await;
        let next = support::append(2, 0, 1, vec![file]);
        let next = shard.append(next, &quiet).await.unwrap();
        assert!(matches!(next, Appended::Committed { .. }), "{next:?}");
    });
}
