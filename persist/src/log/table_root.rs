//! The place of a table, as paths in its log may name it.
//!
//! ```text
//!   one file:   x%20y.parquet   ./x y.parquet   file:///table/x%20y.parquet   file:/table/x%20y.parquet   /table/x y.parquet
//! ```
//!
//! The protocol has a path relative to the table or absolute, as a URI and so percent-encoded. Writers take liberties
//! with that, and one may remove under another spelling what a second one added. So files are told apart by their
//! path below the table, decoded; what is written of a file repeats the spelling of its add, by which others find it.

use std::borrow::Cow;
use std::path::PathBuf;

use url::Url;

use crate::location::{Address, Bucket};

/// A table's address, and the ways in which absolute paths may begin that lie below it.
#[derive(Debug, Default)]
pub(crate) struct TableRoot {
    url: String,
    /// The directory as it was given and with its links followed.
    folders: Vec<String>,
    bucket: Option<Bucket>,
    /// The address itself, of stores that have no other.
    prefix: Option<String>,
}

impl TableRoot {
    /// The place at `url`, whose directory is `folder` if it is a local one.
    pub(crate) fn new(url: &str, folder: Option<&PathBuf>) -> Self {
        let mut root = TableRoot {
            url: url.to_owned(),
            ..TableRoot::default()
        };
        match Address::parse(url) {
            Ok(Address::Directory(given)) => {
                let given = std::path::absolute(given).ok();
                for folder in given.iter().chain(folder) {
                    root.folders.extend(folder.to_str().map(normal));
                }
            }
            Ok(Address::Bucket(bucket)) => root.bucket = Some(bucket),
            Ok(Address::Memory(_)) => root.prefix = Some(url.to_owned()),
            // It was opened, so it is one.
            Err(_) => {}
        }
        root
    }

    /// The table's address, for messages.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A path in the log, decoded and relative to the table; `None` if it lies outside.
    pub(crate) fn relative<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        if is_plain(path) {
            return Some(Cow::Borrowed(path));
        }
        let below = match scheme(path) {
            Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
                let path = &path["file:".len()..];
                let path = path.strip_prefix("//localhost").unwrap_or(path);
                self.below_folder(path.strip_prefix("//").unwrap_or(path))?
            }
            Some(_) => self.below_url(path)?,
            None if path.starts_with('/') => self.below_folder(path)?,
            None => normal(&decoded(path)),
        };
        let above = below.split('/').next() == Some("..");
        (!below.is_empty() && !above).then_some(Cow::Owned(below))
    }

    /// What tells files apart: the relative path, or the path itself if it lies outside.
    pub(crate) fn key<'p>(&self, path: &'p str) -> Cow<'p, str> {
        self.relative(path).unwrap_or(Cow::Borrowed(path))
    }

    /// The path that others can follow, percent-encoded, in the place of one in the table with an empty segment, `.` or `..`,
    /// which not all of them resolve; `None` if it is as it should be.
    pub(crate) fn plain(&self, path: &str) -> Option<String> {
        let below = match scheme(path) {
            Some(scheme) => path[scheme.len() + 1..].trim_start_matches('/'),
            None => path.strip_prefix('/').unwrap_or(path),
        };
        let is_odd = |segment: &str| ["", ".", ".."].contains(&segment);
        if is_plain(path) || !decoded(below).split('/').any(is_odd) {
            return None;
        }
        Some(encoded(&self.relative(path)?))
    }

    fn below_folder(&self, path: &str) -> Option<String> {
        let path = normal(&decoded(path));
        let mut folders = self.folders.iter();
        folders.find_map(|folder| {
            Some(
                path.strip_prefix(folder.as_str())?
                    .strip_prefix('/')?
                    .to_owned(),
            )
        })
    }

    fn below_url(&self, path: &str) -> Option<String> {
        if let Some(bucket) = &self.bucket {
            let other = Bucket::parse(&Url::parse(path).ok()?)?.ok()?;
            let accounts = bucket.account.as_ref().zip(other.account.as_ref());
            let same = bucket.provider == other.provider
                && bucket.name == other.name
                && accounts.is_none_or(|(a, b)| a == b);
            let (table, file) = (bucket.path.as_ref(), other.path.as_ref());
            let below = match table.is_empty() {
                true => Some(file),
                false => file
                    .strip_prefix(table)
                    .and_then(|rest| rest.strip_prefix('/')),
            };
            return below.filter(|_| same).map(str::to_owned);
        }
        let rest = path.strip_prefix(self.prefix.as_deref()?)?;
        Some(normal(&decoded(rest.strip_prefix('/')?)))
    }
}

/// True of paths that are what they decode to, as all of ours are.
fn is_plain(path: &str) -> bool {
    !path.contains(['%', ':'])
        && !path.starts_with(['/', '.'])
        && !path.contains("//")
        && !path.contains("/.")
}

/// The scheme of an absolute URI; `file:x` is taken for one, but not every name with a colon.
fn scheme(path: &str) -> Option<&str> {
    let (scheme, rest) = path.split_once(':')?;
    let named = scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (named && rest.starts_with('/')).then_some(scheme)
}

/// The path without empty segments, `.`, and `..` as far as there is something before it.
fn normal(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." if segments.last().is_some_and(|last| *last != "..") => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let absolute = if path.starts_with('/') { "/" } else { "" };
    format!("{absolute}{}", segments.join("/"))
}

/// What a percent-encoded text stands for; what is no encoding stands for itself.
fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let digit = |at: usize| {
        bytes
            .get(at)
            .and_then(|byte| char::from(*byte).to_digit(16))
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                at += 2;
                u8::try_from(high * 16 + low).unwrap_or(b'%')
            }
            (byte, _, _) => byte,
        };
        plain.push(byte);
        at += 1;
    }
    String::from_utf8(plain).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// A path, percent-encoded where it must be.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'=' | b'+' | b',' | b'@' => {
                text.push(char::from(byte));
            }
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relative(root: &TableRoot, path: &str) -> Option<String> {
        root.relative(path).map(Cow::into_owned)
    }

    #[test]
    fn spellings_of_one_file_are_one_path() {
        let folder = PathBuf::from("/data/my table");
        for url in [
            "/data/my table",
            "file:///data/my%20table",
            "file:/data/my%20table/",
            "FILE://localhost/data/my%20table",
            "/data/x/../my table",
        ] {
            let root = TableRoot::new(url, Some(&folder));
            for (path, expected) in [
                ("x.parquet", Some("x.parquet")),
                ("./x.parquet", Some("x.parquet")),
                ("a/../x.parquet", Some("x.parquet")),
                ("a//x.parquet", Some("a/x.parquet")),
                ("x%2Eparquet", Some("x.parquet")),
                ("a%20b%.parquet", Some("a b%.parquet")),
                ("..x.parquet", Some("..x.parquet")),
                ("%2e%2e/x.parquet", None),
                ("t=1:2/x.parquet", Some("t=1:2/x.parquet")),
                ("/data/my table/x.parquet", Some("x.parquet")),
                ("/data/my%20table//x.parquet", Some("x.parquet")),
                ("file:/data/my%20table/x.parquet", Some("x.parquet")),
                ("file:///data/my%20table/a/x.parquet", Some("a/x.parquet")),
                ("FILE:/data/my%20table/x.parquet", Some("x.parquet")),
                (
                    "file://localhost/data/my%20table/x.parquet",
                    Some("x.parquet"),
                ),
                ("/data/my table 2/x.parquet", None),
                ("/data/my table", None),
                ("../x.parquet", None),
                ("a/../../x.parquet", None),
                ("file:///data/x.parquet", None),
                ("s3://data/my%20table/x.parquet", None),
            ] {
                assert_eq!(
                    relative(&root, path).as_deref(),
                    expected,
                    "{path} in {url}"
                );
            }
        }
    }

    #[test]
    fn absolute_paths_in_buckets() {
        let root = TableRoot::new("s3://bucket/a/b", None);
        let x = Some("x y.parquet".to_owned());
        for path in [
            "s3://bucket/a/b/x%20y.parquet",
            "s3a://bucket/a/b/x%20y.parquet",
        ] {
            assert_eq!(relative(&root, path), x, "{path}");
        }
        for path in [
            "s3://bucket/a/bb/x.parquet",
            "s3://other/a/b/x.parquet",
            "gs://bucket/a/b/x.parquet",
            "/a/b/x.parquet",
        ] {
            assert_eq!(relative(&root, path), None, "{path}");
        }
        let root = TableRoot::new("s3://bucket", None);
        assert_eq!(relative(&root, "s3://bucket/x%20y.parquet"), x);
        let root = TableRoot::new("az://container/a", None);
        let path = "abfss://container@account.dfs.core.windows.net/a/x%20y.parquet";
        assert_eq!(relative(&root, path), x);
        let root = TableRoot::new("memory://store/a", None);
        assert_eq!(relative(&root, "memory://store/a/x%20y.parquet"), x);
        assert_eq!(relative(&root, "memory://store/x.parquet"), None);
    }
}
