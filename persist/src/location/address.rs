//! What an address names, as RFC 3986 and RFC 8089 have it. No I/O is needed to tell.
//!
//! ```text
//!   address = scheme ":" rest | path          scheme = letter { letter | digit | "+" | "-" | "." }
//! ```
//!
//! So a path is everything that does not begin with a scheme: `a/b:c`, `./a:b`, `2024:x`. What begins with one that is
//! not known is refused, and not taken for a path: a slip like `htp://…` would otherwise make a directory of that name.
//!
//! | form | what it names |
//! |---|---|
//! | `/path`, `path`, `./a:b` | a directory; the path is taken as it is, without decoding |
//! | `file:/path`, `file:///path`, `file://localhost/path` | a directory; `%20` and the like are decoded |
//! | `memory://name/path` | a store of the process |
//! | the URLs of [`bucket`](super::bucket) | a path in a bucket |

use std::path::PathBuf;

use url::Url;

use super::bucket::{self, Bucket};

/// What an address names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A directory, by a path that may be relative.
    Directory(PathBuf),
    /// A store in memory.
    Memory(Url),
    /// A place in a bucket.
    Bucket(Bucket),
}

/// Schemes of other stores than local directories.
const REMOTE: [&str; 11] = [
    "memory", "s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "https", "http",
];

impl Address {
    /// What this text names.
    ///
    /// # Errors
    /// Why it is no address, without what it says.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".into());
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return match text.split_once("://") {
                Some((before, _)) if !before.contains('/') => {
                    Err("what is before :// is not the name of a kind of store".into())
                }
                _ => Ok(Address::Directory(text.into())),
            };
        };
        if cfg!(windows) && scheme.len() == 1 {
            // The letter of a drive.
            return Ok(Address::Directory(text.into()));
        }
        let named = scheme.to_ascii_lowercase();
        if named == "file" {
            return directory(text, rest).map(Address::Directory);
        }
        if !REMOTE.contains(&named.as_str()) {
            return Err(unknown(scheme, rest));
        }
        if !rest.starts_with("//") {
            return Err(format!(
                "{named}: is followed by //, as in {named}://name/path"
            ));
        }
        let url = parse_url(text)?;
        match url.scheme() {
            "memory" => Ok(Address::Memory(url)),
            named => match Bucket::parse(&url) {
                Some(bucket) => bucket.map(Address::Bucket),
                None if named.starts_with("http") => {
                    Err("a plain web server cannot hold a shard: it has no conditional puts".into())
                }
                None => Err(unknown(scheme, rest)),
            },
        }
    }
}

fn unknown(scheme: &str, rest: &str) -> String {
    let directory = match rest.starts_with("//") {
        true => String::new(),
        false => format!("; a directory whose name begins so is ./{scheme}:…"),
    };
    format!("{scheme}: is not a kind of store, as file:, memory:, s3:, gs: and az: are{directory}")
}

/// The directory that a `file:` URL names.
fn directory(text: &str, rest: &str) -> Result<PathBuf, String> {
    if !rest.starts_with('/') {
        return Err("a file URL names an absolute path, as in file:///path".into());
    }
    let path = parse_url(text)?.to_file_path();
    path.map_err(|()| "a file URL must name an absolute path of this machine".into())
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if has_credentials(&url) {
        return Err("credentials come from the environment or from options, not from a URL".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an address has no query and no fragment".into());
    }
    Ok(url)
}

/// The scheme that the text begins with, and what follows it.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(is_part);
    is_scheme.then_some((scheme, rest))
}

/// The directory of this machine that an address names, as an absolute path; `None` if it names another kind of store.
/// The directory need not exist.
///
/// # Errors
/// [`Error::Url`](crate::Error::Url) if it is no address.
pub fn local_directory(url: &str) -> Result<Option<PathBuf>, crate::Error> {
    let refuse = |why| crate::Error::Url {
        url: without_credentials(url),
        why,
    };
    match Address::parse(url).map_err(refuse)? {
        Address::Directory(path) => std::path::absolute(path)
            .map(Some)
            .map_err(|error| refuse(error.to_string())),
        _ => Ok(None),
    }
}

/// An address as its user wrote it, without slashes at its end as far as it stays one.
pub(super) fn shown(text: &str) -> &str {
    let trimmed = text.trim_end_matches('/');
    match trimmed.is_empty() || trimmed.ends_with(':') {
        true => text,
        false => trimmed,
    }
}

fn has_credentials(url: &Url) -> bool {
    url.password().is_some() || (!url.username().is_empty() && !bucket::user_is_container(url))
}

/// The address for a message, without what may be a credential: those in a URL are never repeated.
pub(super) fn without_credentials(url: &str) -> String {
    if let Some((scheme, rest)) = split_scheme(url)
        && !rest.starts_with("//")
        && !scheme.eq_ignore_ascii_case("file")
        && rest.contains(['@', '?', '#'])
    {
        return format!("{scheme}:…");
    }
    match Url::parse(url) {
        Ok(mut parsed) => {
            if has_credentials(&parsed) {
                // Both fail only for URLs that cannot have credentials.
                let _ = parsed.set_username("");
                let _ = parsed.set_password(None);
            }
            let shown = parsed.to_string();
            if shown.contains(['?', '#']) {
                parsed.set_query(None);
                parsed.set_fragment(None);
                return format!("{parsed} (and more)");
            }
            match parsed.username().is_empty() && !url.contains('@') {
                // As it was written.
                true => url.to_owned(),
                false => shown,
            }
        }
        // What cannot be taken apart may hold anything.
        Err(_) => match url.split_once("://") {
            Some((scheme, rest)) if rest.contains(['@', '?', '#']) => format!("{scheme}://…"),
            _ => url.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_by_paths_and_by_file_urls() {
        for (text, path) in [
            ("/tmp/x", "/tmp/x"),
            ("x", "x"),
            ("./data:v2", "./data:v2"),
            ("../c:x/y", "../c:x/y"),
            ("a/b:c", "a/b:c"),
            ("a/s3://b", "a/s3://b"),
            ("2024-01-01T10:00", "2024-01-01T10:00"),
            ("my data:x", "my data:x"),
            ("_file:/x", "_file:/x"),
            ("/tmp/a%20b", "/tmp/a%20b"),
            ("/file:/x", "/file:/x"),
            (":x", ":x"),
        ] {
            let expected = Ok(Address::Directory(path.into()));
            assert_eq!(Address::parse(text), expected, "{text}");
        }
        for text in [
            "file:/tmp/x",
            "file:///tmp/x",
            "file://localhost/tmp/x",
            "FILE:/tmp/x",
            "File:///tmp/x",
            "file:/tmp/y/../x",
            "file:/tmp/%78",
        ] {
            let expected = Ok(Address::Directory("/tmp/x".into()));
            assert_eq!(Address::parse(text), expected, "{text}");
        }
        for (text, path) in [
            ("file:/tmp/a b", "/tmp/a b"),
            ("file:///tmp/a%20b", "/tmp/a b"),
            ("file:/tmp/a%23b%3Fc", "/tmp/a#b?c"),
            ("file:/tmp/a%25b", "/tmp/a%b"),
            ("file:/tmp/ä", "/tmp/ä"),
            ("file:/tmp/%C3%A4", "/tmp/ä"),
            ("file:/tmp/t:1", "/tmp/t:1"),
            ("file:/tmp/me@home", "/tmp/me@home"),
        ] {
            let expected = Ok(Address::Directory(path.into()));
            assert_eq!(Address::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_looks_like_a_scheme_and_is_none_is_refused() {
        for (text, why) in [
            ("", "empty"),
            ("file:x", "absolute path"),
            ("file:", "absolute path"),
            ("file:./x", "absolute path"),
            ("file:\\tmp\\x", "absolute path"),
            ("file://host/x", "of this machine"),
            ("file:/tmp/x?y", "no query"),
            ("file:/tmp/x#y", "no fragment"),
            ("s3:/bucket/x", "s3://name/path"),
            ("s3:bucket", "s3://name/path"),
            ("S3:/bucket/x", "s3://name/path"),
            ("memory:x", "memory://name/path"),
            ("htp://bucket/x", "htp: is not a kind of store"),
            ("ftp://host/x", "ftp: is not a kind of store"),
            ("hdfs://host/x", "hdfs: is not a kind of store"),
            ("dbfs:/x", "./dbfs:…"),
            ("c:\\x", "c: is not a kind of store"),
            ("C:/x", "./C:…"),
            ("data:v2", "./data:…"),
            ("localhost:9000/x", "./localhost:…"),
            ("my.host:/data", "./my.host:…"),
            (" s3://bucket/x", "before ://"),
            ("1s3://bucket/x", "before ://"),
            ("my_s3://bucket/x", "before ://"),
            ("://x", "before ://"),
            ("http://example.com/x", "web server"),
            ("HTTPS://example.com/x", "web server"),
        ] {
            // There it is a drive.
            if cfg!(windows) && text.to_ascii_lowercase().starts_with("c:") {
                continue;
            }
            let refused = Address::parse(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn schemes_are_the_same_in_any_case() {
        let bucket = Address::parse("s3://Bucket/A").unwrap();
        assert_eq!(Address::parse("S3://Bucket/A").unwrap(), bucket);
        assert!(matches!(bucket, Address::Bucket(Bucket { name, .. }) if name == "Bucket"));
        let memory = Address::parse("MEMORY://x/y").unwrap();
        assert_eq!(memory, Address::parse("memory://x/y").unwrap());
    }

    #[test]
    fn an_address_is_shown_as_it_was_written() {
        for (text, expected) in [
            ("/tmp/x//", "/tmp/x"),
            ("/", "/"),
            ("file:///", "file:///"),
            ("file:/tmp/x/", "file:/tmp/x"),
        ] {
            assert_eq!(shown(text), expected);
        }
        for text in ["s3:/bucket/x", "C:\\x", "file:x", "htp://b/x", "data:v2"] {
            assert_eq!(without_credentials(text), text);
        }
        for text in [
            "htp://me:secret@host/x",
            "htp:me:secret@host/x",
            "s3:/me:secret@bucket/x",
            "s3:bucket/x?sig=secret",
            "az:/container/x#secret",
            "my_s3://me:secret@bucket/x",
        ] {
            let shown = without_credentials(text);
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
