//! Every store that a shard can live in does what a shard needs, with faults and without.
//!
//! Stores on the network are emulators, which `.ci/run` starts:
//!
//! | variable | what |
//! |---|---|
//! | `MVSINK_TEST_S3` | an S3 server, `http://127.0.0.1:PORT`, with the bucket `mvsink` |
//! | `MVSINK_TEST_AZURE` | Azurite's blob service, `http://127.0.0.1:PORT`, with the container `mvsink` |
//! | `MVSINK_TEST_STORES` | `required`: that one of these is missing is a failure; otherwise its test is skipped |
//! | `MVSINK_SEED` | replays what is drawn; printed by each run |

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use mvsink_persist::testing::conformance::{Setup, run};
use mvsink_persist::testing::{FaultOptions, store_at};
use mvsink_persist::{Client, ClientOptions};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::{Builder, Handle};

/// The account and the key that Azurite is built with, as its documentation has them.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

fn fresh() -> u64 {
    StdRng::from_os_rng().random()
}

fn seed() -> u64 {
    let seed = std::env::var("MVSINK_SEED").ok();
    let seed = seed.map_or_else(fresh, |seed| seed.parse().unwrap());
    println!("MVSINK_SEED={seed}");
    seed
}

/// One call in five has a fault; waits are as short as they can be without the order of events being fixed.
fn faults(seed: u64) -> FaultOptions {
    let mut faults = FaultOptions::default();
    (faults.seed, faults.percent) = (seed, 20);
    faults.latency = Duration::from_millis(1);
    faults.slow = Duration::from_millis(8);
    faults.later = Duration::from_millis(5);
    faults
}

fn client(mut options: ClientOptions, seed: u64) -> Client {
    options.seed = Some(seed);
    options.checkpoint_interval = 5;
    options.retry.max = Duration::from_millis(200);
    Client::new(Handle::current(), options)
}

/// The suite with threads and time as they are.
fn suite(test: impl FnOnce(u64) -> Setup) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let setup = test(seed());
        run(&setup).await;
        run(&setup.with_faults(faults(setup.seed))).await;
    });
}

#[test]
fn memory_conforms() {
    // Time jumps here, so that many races fit.
    support::run(async {
        let seed = seed();
        let store: Arc<InMemory> = Arc::default();
        let setup = Setup::new("memory://store/below", move |seed| {
            let client = client(ClientOptions::default(), seed);
            client.mount("store", store.clone());
            client
        });
        let setup = Setup {
            writers: 6,
            rounds: 1000,
            seed,
            ..setup.unwrap()
        };
        run(&setup).await;
        let setup = Setup {
            rounds: 200,
            ..setup
        };
        run(&setup.with_faults(faults(seed))).await;
    });
}

#[test]
fn a_local_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    suite(|seed| {
        let make = |seed| client(ClientOptions::default(), seed);
        let setup = Setup::new(dir.path().to_str().unwrap(), make).unwrap();
        Setup {
            rounds: 100,
            seed,
            ..setup
        }
    });
}

/// The suite over HTTP, in a folder that no earlier run has used.
fn emulated(variable: &str, bucket: &str, options: impl Fn(&str) -> Vec<(&'static str, String)>) {
    let Ok(endpoint) = std::env::var(variable) else {
        let required = std::env::var("MVSINK_TEST_STORES").is_ok_and(|value| value == "required");
        assert!(
            !required,
            "{variable} is not set, and MVSINK_TEST_STORES=required"
        );
        println!("skipped: {variable} is not set");
        return;
    };
    let options = options(&endpoint);
    let make = move |seed| {
        let mut all = ClientOptions::default();
        all.store_options.insert("allow_http".into(), "true".into());
        let options = options.iter();
        all.store_options
            .extend(options.map(|(key, value)| ((*key).into(), value.clone())));
        client(all, seed)
    };
    suite(|seed| {
        let url = format!("{bucket}/conformance-{:016x}", fresh());
        println!("in {url}");
        let setup = Setup::new(&url, make).unwrap();
        Setup {
            rounds: 30,
            big_bytes: 8 << 20,
            seed,
            ..setup
        }
    });
}

#[test]
fn s3_conforms() {
    emulated("MVSINK_TEST_S3", "s3://mvsink", |endpoint| {
        vec![
            ("aws_endpoint", endpoint.to_owned()),
            ("aws_access_key_id", "test".to_owned()),
            ("aws_secret_access_key", "test".to_owned()),
        ]
    });
}

#[test]
fn azure_conforms() {
    emulated("MVSINK_TEST_AZURE", "az://mvsink", |endpoint| {
        vec![
            (
                "azure_storage_endpoint",
                format!("{endpoint}/{AZURITE_ACCOUNT}"),
            ),
            ("azure_storage_account_name", AZURITE_ACCOUNT.to_owned()),
            ("azure_storage_account_key", AZURITE_KEY.to_owned()),
        ]
    });
}

#[test]
fn a_store_that_replaces_what_must_not_be_replaced_is_found_out() {
    let caught = std::panic::catch_unwind(|| {
        support::run(async {
            let make = |seed| {
                let client = client(ClientOptions::default(), seed);
                client.mount("store", Arc::new(Replacing::default()));
                client
            };
            assert!(store_at(&make(0), "memory://store").is_ok());
            run(&Setup::new("memory://store", make).unwrap()).await;
        });
    });
    let message = caught.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("a_create_happens_once fails"), "{message}");
}

/// A store without conditional puts: a create replaces what is there.
#[derive(Debug, Default)]
pub struct Replacing(InMemory);

impl std::fmt::Display for Replacing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("replacing")
    }
}

#[async_trait]
impl ObjectStore for Replacing {
    async fn put_opts(&self, to: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.0.put(to, payload).await
    }
    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, options).await
    }
    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(from, options).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
