//! From an address to the store that holds the shard.
//!
//! Addresses ([`address`]): a plain path or `file:` URL (a local directory), `memory://name[/path]` (a store that lives
//! as long as the client, or one that was [mounted](crate::Client::mount) under that name), and the URLs of buckets
//! ([`bucket`]), as far as the cargo features allow. Two addresses of the same place have the same key: local paths
//! are made absolute, and symbolic links are followed as far as the path exists. Nothing is created here: a directory
//! appears with the first object put into it, and a bucket must be there.
//!
//! The shards of a client in one bucket share one store, and so its connections.

mod address;
mod advice;
mod bucket;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod cloud;

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::error::{Error, is_link_loop};
use crate::local::RegularFiles;
use crate::lock;
pub(crate) use address::Address;
pub use address::local_directory;
use address::without_credentials;
pub use advice::for_shell;
pub(crate) use advice::make_room;
pub(crate) use bucket::Bucket;

/// The stores of a process, by the beginning of an address.
pub(crate) struct Stores {
    local: Arc<RegularFiles>,
    memory: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    buckets: Mutex<HashMap<String, Built>>,
    options: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
}

/// The store of a bucket, and the account that it uses if it has one.
type Built = (Arc<dyn ObjectStore>, Option<String>);

/// A place that can hold a shard.
pub(crate) struct Location {
    /// The address as its user wrote it, for messages.
    pub(crate) url: String,
    /// The same for all addresses of this place.
    pub(crate) key: String,
    /// The directory, if it is a local one.
    pub(crate) local: Option<PathBuf>,
    /// The objects of the shard, by paths relative to it.
    pub(crate) store: Arc<dyn ObjectStore>,
}

impl Stores {
    /// Stores with these options by hand and this environment, see [`crate::ClientOptions::store_options`].
    pub(crate) fn new(
        fsync: bool,
        options: BTreeMap<String, String>,
        environment: Vec<(String, String)>,
    ) -> Self {
        Stores {
            local: Arc::new(RegularFiles::new(LocalFileSystem::new().with_fsync(fsync))),
            memory: Mutex::default(),
            buckets: Mutex::default(),
            options,
            environment,
        }
    }

    pub(crate) fn mount(&self, name: &str, store: Arc<dyn ObjectStore>) {
        lock(&self.memory).insert(name.to_owned(), store);
    }

    pub(crate) fn locate(&self, url: &str) -> Result<Location, Error> {
        let shown = address::shown(url).to_owned();
        let located = Address::parse(url).and_then(|address| match address {
            Address::Directory(path) => self.local(shown, &path),
            Address::Memory(url) => self.memory(shown, &url),
            Address::Bucket(bucket) => self.bucket(shown, bucket),
        });
        located.map_err(|why| Error::Url {
            url: without_credentials(url),
            why,
        })
    }

    fn memory(&self, shown: String, url: &Url) -> Result<Location, String> {
        let name = url
            .host_str()
            .filter(|name| !name.is_empty())
            .ok_or("an in-memory store needs a name: memory://name")?;
        let root = Arc::clone(
            lock(&self.memory)
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(InMemory::new())),
        );
        let prefix = Path::from_url_path(url.path()).map_err(|error| error.to_string())?;
        Ok(Location {
            url: shown,
            key: format!("memory://{name}/{prefix}"),
            local: None,
            store: Arc::new(PrefixStore::new(root, prefix)),
        })
    }

    fn bucket(&self, shown: String, bucket: Bucket) -> Result<Location, String> {
        let mut buckets = lock(&self.buckets);
        let (store, account) = match buckets.get(&bucket.root) {
            Some(built) => built.clone(),
            None => {
                let built = self.build(&bucket)?;
                buckets.insert(bucket.root.clone(), built.clone());
                built
            }
        };
        Ok(Location {
            url: shown,
            key: bucket.key(account.as_deref()),
            local: None,
            store: Arc::new(PrefixStore::new(store, bucket.path)),
        })
    }

    #[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
    fn build(&self, bucket: &Bucket) -> Result<Built, String> {
        cloud::build(bucket, &self.options, &self.environment)
    }

    #[cfg(not(any(feature = "aws", feature = "azure", feature = "gcp")))]
    fn build(&self, bucket: &Bucket) -> Result<Built, String> {
        let _ = (&self.options, &self.environment, &bucket.name);
        Err(bucket.provider.unsupported())
    }

    fn local(&self, url: String, path: &FsPath) -> Result<Location, String> {
        let path = canonical(path).map_err(|error| match is_link_loop(&error) {
            true => "its path leads through a symbolic link that leads to itself: remove the link"
                .to_owned(),
            false => unnameable(path, &error),
        })?;
        let prefix = Path::from_absolute_path(&path).map_err(|error| unnameable(&path, &error))?;
        Ok(Location {
            url,
            key: format!("file:///{prefix}"),
            local: Some(path),
            store: Arc::new(PrefixStore::new(Arc::clone(&self.local), prefix)),
        })
    }
}

/// Why there can be no table at this path, in words.
fn unnameable(path: &FsPath, error: &dyn std::fmt::Display) -> String {
    /// Of a part of a path, on the file systems that are in use.
    const NAME_BYTES_MAX: usize = 255;
    let is_long = |part: std::path::Component<'_>| part.as_os_str().len() > NAME_BYTES_MAX;
    let odd = path
        .to_str()
        .map(|path| path.chars().find(|c| c.is_control()));
    match odd {
        None => "its path is no text in UTF-8: give the directory another name".to_owned(),
        Some(Some(odd)) => {
            format!("its path has the character {odd:?}: give the directory a name without it")
        }
        _ if path.components().any(is_long) => format!(
            "a part of its path is longer than the {NAME_BYTES_MAX} bytes that a name may have"
        ),
        _ => error.to_string(),
    }
}

/// The absolute path with the links of its existing part followed; the rest may not exist yet.
fn canonical(path: &FsPath) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for ancestor in path.ancestors() {
        match ancestor.canonicalize() {
            Ok(existing) => {
                let rest = path.strip_prefix(ancestor).unwrap_or(FsPath::new(""));
                return Ok(if rest.as_os_str().is_empty() {
                    existing
                } else {
                    existing.join(rest)
                });
            }
            // Below a file, there is nothing either.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(path)
}

/// What must hold of any text that is taken for an address.
#[cfg(feature = "testing")]
pub(crate) fn fuzz(text: &str) {
    let shown = without_credentials(text);
    if let Ok(url) = Url::parse(text) {
        let secret = url.password().filter(|_| text.contains("://"));
        if let Some(secret) = secret.filter(|secret| secret.len() > 8) {
            // It may be a part of what is no secret as well.
            let twice = url.as_str().matches(secret).count() > 1;
            assert!(
                twice || !shown.contains(secret),
                "{shown} repeats a password"
            );
        }
        if let Some(Ok(bucket)) = Bucket::parse(&url) {
            // Its key, which is made of decoded names, is no URL, but its root is one of the same bucket.
            let root = Url::parse(&bucket.root)
                .ok()
                .and_then(|root| Bucket::parse(&root));
            let root = root
                .and_then(Result::ok)
                .unwrap_or_else(|| panic!("{} is no bucket", bucket.root));
            assert_eq!(
                (root.provider, root.account, root.name),
                (bucket.provider, bucket.account, bucket.name)
            );
            return;
        }
    }
    // Buckets are built from settings, which are no input here.
    let located = Stores::new(false, BTreeMap::new(), Vec::new()).locate(text);
    if let Ok(location) = located {
        assert!(!location.key.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(options: &[(&str, &str)], environment: &[(&str, &str)]) -> Stores {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        Stores::new(false, own(options).into_iter().collect(), own(environment))
    }

    fn refusal(stores: &Stores, url: &str) -> String {
        match stores.locate(url) {
            Err(error @ Error::Url { .. }) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(location) => panic!("{} is accepted", location.url),
        }
    }

    #[test]
    fn addresses_of_one_directory_have_one_key_and_create_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b").join("shard");
        let stores = stores(&[], &[]);
        let plain = stores.locate(path.to_str().unwrap()).unwrap();
        let slash = stores
            .locate(&format!("{}/", path.to_str().unwrap()))
            .unwrap();
        let url = Url::from_file_path(&path).unwrap();
        for url in [
            url.as_str(),
            &url.as_str().replace("file://", "file:"),
            &url.as_str().replace("file://", "FILE://localhost"),
            &format!("file:{}", path.display()),
        ] {
            assert_eq!(stores.locate(url).unwrap().key, plain.key, "{url}");
        }
        assert_eq!(plain.key, slash.key);
        assert!(!path.parent().unwrap().exists());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
            let linked = stores
                .locate(dir.path().join("link/a b/shard").to_str().unwrap())
                .unwrap();
            assert_eq!(plain.key, linked.key);
        }
    }

    #[test]
    fn refuses_what_it_does_not_know_without_repeating_secrets() {
        let stores = stores(&[], &[]);
        for url in [
            "",
            "memory://",
            "gopher://x",
            "http://example.com/x",
            "https://example.com/x",
            "file://relative/x",
            "s3://",
            "s3:///x",
            "ftp://me:secret@host/x",
            "memory://me:secret@name/x",
            "s3://me:secret@bucket/x",
            "s3://secret@bucket/x",
            "gs://secret@bucket/x",
            "s3://me:secret@bucket:nine/x",
            "abfss://container:secret@account.dfs.core.windows.net/x",
            "https://account.blob.core.windows.net/container/x?sig=secret",
            "https://me:secret@bucket.s3.eu-west-1.amazonaws.com/x?sig=secret",
            "az://container/x#secret",
        ] {
            let message = refusal(&stores, url);
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[cfg(not(any(feature = "aws", feature = "azure", feature = "gcp")))]
    #[test]
    fn a_build_without_a_provider_says_which_feature_has_it() {
        let message = refusal(&stores(&[], &[]), "s3://bucket/x");
        let expected = "this build has no support for s3:// stores (feature aws)";
        assert!(message.contains(expected), "{message}");
    }

    #[cfg(all(feature = "aws", feature = "azure", feature = "gcp"))]
    mod cloud {
        use super::*;

        const AZURE: [(&str, &str); 2] = [
            ("azure_storage_account_name", "me"),
            ("azure_storage_account_key", "c2VjcmV0"),
        ];

        #[test]
        fn shards_of_one_bucket_share_a_store() {
            let stores = stores(&AZURE, &[]);
            for (a, b) in [
                ("s3://bucket/a", "s3a://bucket/b"),
                ("gs://bucket/a", "gs://bucket/b"),
                ("az://box/a", "abfss://box/b"),
            ] {
                let (a, b) = (stores.locate(a).unwrap(), stores.locate(b).unwrap());
                assert_ne!(a.key, b.key);
            }
            assert_eq!(lock(&stores.buckets).len(), 3);
            // The account of the options is that of the URL.
            let spelled = "https://me.blob.core.windows.net/box/a";
            assert_eq!(
                stores.locate("az://box/a").unwrap().key,
                stores.locate(spelled).unwrap().key
            );
        }

        #[test]
        fn options_are_known_or_refused_and_the_environment_is_read() {
            let with = |options: &[(&str, &str)]| stores(options, &[]);
            let message = refusal(&with(&[("aws_regoin", "x")]), "s3://bucket/x");
            assert!(
                message.contains("aws_regoin is not an option of s3:// stores"),
                "{message}"
            );
            refusal(&with(&[("bucket", "x")]), "s3://bucket/x");
            refusal(&with(&[("container_name", "x")]), "az://box/x");
            refusal(&with(&[("conditional_put", "disabled")]), "s3://bucket/x");
            refusal(&with(&[("timeout", "soon")]), "s3://bucket/x");
            // Another provider's, and another program's.
            let several = [
                ("azure_nonsense", "x"),
                ("aws_region", "eu-west-1"),
                ("AWS_TIMEOUT", "5s"),
            ];
            stores(&several, &[("AWS_NONSENSE", "x")])
                .locate("s3://bucket/x")
                .unwrap();
            // An account there must be; from any of these.
            assert!(
                refusal(&with(&[]), "az://box/x")
                    .to_lowercase()
                    .contains("account")
            );
            for (name, value) in [
                ("AZURE_STORAGE_ACCOUNT_NAME", "me"),
                ("AZURE_STORAGE_ACCOUNT", "me"),
                ("AZURE_STORAGE_USE_EMULATOR", "true"),
            ] {
                let location = stores(&[], &[(name, value)]).locate("az://box/x").unwrap();
                assert!(
                    location.key.starts_with("az://me/")
                        || location.key.starts_with("az://devstoreaccount1/"),
                    "{}",
                    location.key
                );
            }
        }

        #[test]
        fn plain_http_must_be_asked_for() {
            let endpoint = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
            let message = refusal(&stores(&[], &[endpoint]), "s3://bucket/x");
            assert!(message.contains("allow_http"), "{message}");
            for asked in [("AWS_ALLOW_HTTP", "true"), ("AWS_ALLOW_HTTP", "1")] {
                stores(&[], &[endpoint, asked])
                    .locate("s3://bucket/x")
                    .unwrap();
            }
            stores(&[("allow_http", "true")], &[endpoint])
                .locate("s3://bucket/x")
                .unwrap();
            refusal(
                &stores(&[("base_url", "http://127.0.0.1:1")], &[]),
                "gs://bucket/x",
            );
            let azure = [
                AZURE[0],
                AZURE[1],
                ("azure_storage_endpoint", "http://127.0.0.1:1"),
            ];
            refusal(&stores(&azure, &[]), "az://box/x");
        }

        #[test]
        fn messages_about_settings_have_no_secrets() {
            for (options, url) in [
                (
                    &[("endpoint", "https://me:hush-hush@host")][..],
                    "s3://bucket/x",
                ),
                (&[("secret_access_key", "hush-hush")], "s3://bucket/x"),
                (&[("service_account_key", "\"hush-hush\"")], "gs://bucket/x"),
                (
                    &[("service_account_key", "{\"private_key\":\"hush-hush\"}")],
                    "gs://bucket/x",
                ),
                (&[AZURE[0], ("account_key", "hush-hush!")], "az://box/x"),
                (&[AZURE[0], ("sas_token", "hush-hush")], "az://box/x"),
            ] {
                let message = refusal(&stores(options, &[]), url);
                assert!(!message.contains("hush-hush"), "{message}");
            }
        }

        #[test]
        fn a_server_that_is_away_is_waited_for_and_its_errors_have_no_secrets() {
            // A port that was free just now.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}/me", listener.local_addr().unwrap());
            drop(listener);
            let stores = stores(
                &[
                    ("allow_http", "true"),
                    ("aws_endpoint", &endpoint),
                    ("aws_access_key_id", "me"),
                    ("aws_secret_access_key", "hush-hush"),
                    ("aws_session_token", "hush-hush"),
                    ("google_base_url", &endpoint),
                    ("google_skip_signature", "true"),
                    ("azure_endpoint", &endpoint),
                    ("azure_storage_account_name", "me"),
                    ("azure_storage_sas_token", "?sig=hush-hush"),
                ],
                &[],
            );
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                for url in ["s3://bucket/x", "gs://bucket/x", "az://box/x"] {
                    let store = stores.locate(url).unwrap().store;
                    let source =
                        object_store::ObjectStoreExt::get(store.as_ref(), &Path::from("y"))
                            .await
                            .unwrap_err();
                    let error = Error::Store {
                        action: "read",
                        path: url.into(),
                        source,
                    };
                    assert!(error.is_transient(), "{error}");
                    let message = format!("{error} {error:?}");
                    assert!(!message.contains("hush-hush"), "{message}");
                }
            });
        }
    }
}
