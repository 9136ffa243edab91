//! Which bucket of which provider a URL names. No feature and no I/O is needed to tell.
//!
//! | provider | forms |
//! |---|---|
//! | Amazon S3 | `s3://bucket/path`, `s3a://…`, `https://s3.region.amazonaws.com/bucket/path`, `https://bucket.s3.region.amazonaws.com/path`, `https://account.r2.cloudflarestorage.com/bucket/path` |
//! | Google Cloud Storage | `gs://bucket/path` |
//! | Azure | `az://container/path`, `azure://…`, `adl://…`, `abfs[s]://container/path`, `abfs[s]://container@account.dfs.core.windows.net/path`, `https://account.blob.core.windows.net/container/path`, and those of Fabric |

use std::fmt;

use object_store::path::Path;
use url::Url;

/// Who keeps the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    S3,
    Gcs,
    Azure,
}

impl Provider {
    /// What to say where the cargo feature that brings it is off.
    pub(crate) fn unsupported(self) -> String {
        let feature = match self {
            Provider::S3 => "aws",
            Provider::Gcs => "gcp",
            Provider::Azure => "azure",
        };
        format!("this build has no support for {self} stores (feature {feature})")
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provider::S3 => "s3://",
            Provider::Gcs => "gs://",
            Provider::Azure => "az://",
        })
    }
}

/// A bucket, or a container of Azure, and a path in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) provider: Provider,
    /// The URL of the bucket in the form that `object_store` takes.
    pub(crate) root: String,
    /// What the URL says of the account: two accounts may have containers of one name.
    pub(crate) account: Option<String>,
    /// The bucket's name.
    pub(crate) name: String,
    pub(crate) path: Path,
}

const AMAZON: &str = ".amazonaws.com";
const CLOUDFLARE: &str = ".r2.cloudflarestorage.com";
const AZURE: [&str; 2] = [".dfs.core.windows.net", ".blob.core.windows.net"];
const FABRIC: [&str; 2] = [".dfs.fabric.microsoft.com", ".blob.fabric.microsoft.com"];

impl Bucket {
    /// The bucket that `url` names, `None` if it is none of a provider's, and why not if it is one but wrong.
    pub(crate) fn parse(url: &Url) -> Option<Result<Self, String>> {
        let host = url.host_str().unwrap_or_default();
        let provider = match url.scheme() {
            "s3" | "s3a" => Provider::S3,
            "gs" => Provider::Gcs,
            "az" | "azure" | "adl" | "abfs" | "abfss" => Provider::Azure,
            "https" if host.ends_with(AMAZON) || host.ends_with(CLOUDFLARE) => Provider::S3,
            "https" if AZURE.iter().chain(&FABRIC).any(|end| host.ends_with(end)) => {
                Provider::Azure
            }
            _ => return None,
        };
        Some(Self::parse_of(provider, host, url))
    }

    fn parse_of(provider: Provider, host: &str, url: &Url) -> Result<Self, String> {
        if url.port().is_some() {
            return Err("a port belongs to the option `endpoint`".into());
        }
        let (name, root, account, path) = match (provider, url.scheme()) {
            (Provider::S3, "https") if host.ends_with(CLOUDFLARE) => {
                let (bucket, path) = first_segment(url);
                let root = format!("https://{host}/{bucket}");
                (bucket, root, Some(host.to_owned()), path)
            }
            (Provider::S3, "https") => match host.find(".s3.") {
                Some(end) => (&host[..end], format!("https://{host}"), None, url.path()),
                None => {
                    let (bucket, path) = first_segment(url);
                    (bucket, format!("https://{host}/{bucket}"), None, path)
                }
            },
            (Provider::S3, _) => (host, format!("s3://{host}"), None, url.path()),
            (Provider::Gcs, _) => (host, format!("gs://{host}"), None, url.path()),
            (Provider::Azure, "https") => {
                let (container, path) = first_segment(url);
                let root = format!("https://{host}/{container}");
                (container, root, Some(account_of(host)), path)
            }
            (Provider::Azure, _) if !url.username().is_empty() => {
                let container = url.username();
                let root = format!("abfss://{container}@{host}");
                (container, root, Some(account_of(host)), url.path())
            }
            (Provider::Azure, _) => (host, format!("az://{host}"), None, url.path()),
        };
        if name.is_empty() {
            return Err("it names no bucket".into());
        }
        Ok(Bucket {
            provider,
            root,
            account,
            name: name.to_owned(),
            path: Path::from_url_path(path).map_err(|error| error.to_string())?,
        })
    }

    /// The same for all URLs of this place; `account` is the one in use if the URL names none.
    pub(crate) fn key(&self, account: Option<&str>) -> String {
        let account = self.account.as_deref().or(account);
        let account = account.map_or_else(String::new, |account| format!("{account}/"));
        format!("{}{account}{}/{}", self.provider, self.name, self.path)
    }
}

/// True for the one kind of URL whose part before the `@` is no credential: Azure's `container@account`.
pub(crate) fn user_is_container(url: &Url) -> bool {
    matches!(url.scheme(), "az" | "abfs" | "abfss") && url.password().is_none()
}

fn first_segment(url: &Url) -> (&str, &str) {
    let path = url.path().trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

/// The storage account. Its two endpoints, `dfs` and `blob`, show the same objects.
fn account_of(host: &str) -> String {
    for end in AZURE {
        if let Some(account) = host.strip_suffix(end) {
            return account.to_owned();
        }
    }
    host.replacen(".dfs.", ".blob.", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(url: &str) -> Bucket {
        Bucket::parse(&Url::parse(url).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn spellings_of_one_place_have_one_key_and_places_have_their_own() {
        let same: &[&[&str]] = &[
            &[
                "s3://bucket/a/b",
                "s3a://bucket/a/b/",
                "s3://bucket/x/../a/b",
                "https://s3.eu-west-1.amazonaws.com/bucket/a/b",
                "https://bucket.s3.eu-west-1.amazonaws.com/a/b",
                "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/a/b",
            ],
            &["s3://bucket/a%20b", "s3a://bucket/a b"],
            &["s3://bucket/a%23b"],
            &["https://me.r2.cloudflarestorage.com/bucket/a/b"],
            &["gs://bucket/a/b", "gs://bucket/a/b/"],
            &[
                "az://container/a",
                "abfs://container/a",
                "abfss://container/a",
                "adl://container/a",
                "azure://container/a",
                "abfss://container@account.dfs.core.windows.net/a",
                "abfs://container@account.blob.core.windows.net/a",
                "https://account.blob.core.windows.net/container/a",
                "https://account.dfs.core.windows.net/container/a",
            ],
            &["abfss://container@other.dfs.core.windows.net/a"],
            &[
                "https://account.dfs.fabric.microsoft.com/container/a",
                "https://account.blob.fabric.microsoft.com/container/a",
            ],
        ];
        let mut keys = std::collections::BTreeSet::new();
        for places in same {
            let key =
                |url: &&str| bucket(url).key(url.contains("://container/").then_some("account"));
            let first = key(&places[0]);
            for place in *places {
                assert_eq!(key(place), first, "{place}");
            }
            assert!(keys.insert(first.clone()), "{first} is two places");
        }
    }

    #[test]
    fn what_is_no_bucket_is_told_from_what_is_a_wrong_one() {
        let parse = |url: &str| Bucket::parse(&Url::parse(url).unwrap());
        for url in [
            "http://bucket.s3.eu-west-1.amazonaws.com/x",
            "https://example.com/x",
            "ftp://x/y",
        ] {
            assert_eq!(parse(url), None, "{url}");
        }
        for url in [
            "s3://bucket:9000/x",
            "https://account.blob.core.windows.net/",
            "s3://bucket//x",
        ] {
            assert!(parse(url).unwrap().is_err(), "{url}");
        }
    }
}
