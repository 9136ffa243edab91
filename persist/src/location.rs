//! From an address to the store that holds the shard.
//!
//! Addresses: a plain path or `file://` URL (a local directory), and `memory://name[/path]` (a store that
//! lives as long as the client, or one that was [mounted](crate::Client::mount) under that name). Two addresses
//! of the same place have the same key: local paths are made absolute, and symbolic links are followed as far as
//! the path exists. Nothing is created here: a directory appears with the first object put into it.

use std::collections::HashMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex};

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreScheme};
use url::Url;

use crate::error::Error;
use crate::lock;

/// The stores of a process, by the beginning of an address.
pub(crate) struct Stores {
    local: Arc<LocalFileSystem>,
    memory: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

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
    pub(crate) fn new(fsync: bool) -> Self {
        Stores {
            local: Arc::new(LocalFileSystem::new().with_fsync(fsync)),
            memory: Mutex::default(),
        }
    }

    pub(crate) fn mount(&self, name: &str, store: Arc<dyn ObjectStore>) {
        lock(&self.memory).insert(name.to_owned(), store);
    }

    pub(crate) fn locate(&self, url: &str) -> Result<Location, Error> {
        let shown = url.trim_end_matches('/').to_owned();
        let refuse = |why: String| Error::Url {
            url: without_credentials(url),
            why,
        };
        if !url.contains("://") {
            if url.is_empty() {
                return Err(refuse("it is empty".into()));
            }
            return self.local(shown, FsPath::new(url)).map_err(refuse);
        }
        let parsed = Url::parse(url).map_err(|error| refuse(error.to_string()))?;
        match parsed.scheme() {
            "file" => {
                let path = parsed.to_file_path().map_err(|()| {
                    refuse("a file URL must name an absolute path of this machine".into())
                })?;
                self.local(shown, &path).map_err(refuse)
            }
            "memory" => {
                let name = parsed
                    .host_str()
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| {
                        refuse("an in-memory store needs a name: memory://name".into())
                    })?;
                let root = Arc::clone(
                    lock(&self.memory)
                        .entry(name.to_owned())
                        .or_insert_with(|| Arc::new(InMemory::new())),
                );
                let prefix = Path::from_url_path(parsed.path())
                    .map_err(|error| refuse(error.to_string()))?;
                Ok(Location {
                    url: shown,
                    key: format!("memory://{name}/{prefix}"),
                    local: None,
                    store: Arc::new(PrefixStore::new(root, prefix)),
                })
            }
            scheme => Err(refuse(match ObjectStoreScheme::parse(&parsed) {
                Ok(_) => format!("this build has no support for {scheme}:// stores"),
                Err(_) => format!("{scheme}:// is not a kind of store"),
            })),
        }
    }

    fn local(&self, url: String, path: &FsPath) -> Result<Location, String> {
        let path = canonical(path).map_err(|error| error.to_string())?;
        let prefix = Path::from_absolute_path(&path).map_err(|error| error.to_string())?;
        Ok(Location {
            url,
            key: format!("file:///{prefix}"),
            local: Some(path),
            store: Arc::new(PrefixStore::new(Arc::clone(&self.local), prefix)),
        })
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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(path)
}

/// The address for a message: a password in a URL is never repeated.
fn without_credentials(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            // Both fail only for URLs that cannot have credentials.
            let _ = parsed.set_username("");
            let _ = parsed.set_password(None);
            parsed.set_query(None);
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_directory_have_one_key_and_create_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b").join("shard");
        let stores = Stores::new(true);
        let plain = stores.locate(path.to_str().unwrap()).unwrap();
        let slash = stores
            .locate(&format!("{}/", path.to_str().unwrap()))
            .unwrap();
        let url = stores
            .locate(Url::from_file_path(&path).unwrap().as_str())
            .unwrap();
        assert_eq!(plain.key, slash.key);
        assert_eq!(plain.key, url.key);
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
        let stores = Stores::new(false);
        for url in [
            "",
            "memory://",
            "gopher://x",
            "s3://bucket/x",
            "file://relative/x",
        ] {
            assert!(
                matches!(stores.locate(url), Err(Error::Url { .. })),
                "{url}"
            );
        }
        let message = stores
            .locate("ftp://me:secret@host/x")
            .err()
            .unwrap()
            .to_string();
        assert!(!message.contains("secret"), "{message}");
    }
}
