//! What can go wrong with a shard, and whether trying again can help.

use std::sync::Arc;

use crate::data_file::has_drawn_name;
use crate::frontier::Frontier;
use crate::location::{for_shell, make_room};
use crate::log::action::CommitId;

/// An error of a shard: what was being done, to what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shard's address is not one that this build understands.
    #[error("cannot use {url} as a shard: {why}")]
    Url {
        /// The address as given, without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no shard at this address.
    #[error("there is no shard at {url}")]
    NoShard {
        /// The address of the shard.
        url: String,
    },
    /// The type's columns are not those of the table.
    #[error("the shard {url} has another schema: {why}; {}", make_room(url))]
    SchemaMismatch {
        /// The address of the shard.
        url: String,
        /// The first difference.
        why: String,
    },
    /// A Rust type has no Delta schema, or a value does not fit its column.
    #[error("{} cannot be stored: {why}", without_paths(type_name))]
    Type {
        /// The Rust type.
        type_name: String,
        /// Why it, or a value of it, does not fit.
        why: String,
    },
    /// A row of the table is no value of the Rust type: another program wrote it.
    #[error("a row of the table is no {}: {why}", without_paths(type_name))]
    Row {
        /// The Rust type.
        type_name: String,
        /// Which column or value does not fit.
        why: String,
    },
    /// The table needs something that this version does not understand; nothing was changed.
    #[error("the shard {url} is refused: {why}")]
    Unsupported {
        /// The address of the shard.
        url: String,
        /// What is not understood.
        why: String,
    },
    /// A file of the shard does not say what it must.
    #[error("{path} is damaged: {why}{}", what_helps(path))]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Entries of the log are missing below one that is there: a copy or a restore is not complete, or they were
    /// deleted by hand. Nobody writes into such a log.
    #[error(
        "the log of the shard {url} has a gap: {} missing, and entry {next} is there; nothing was written. \
         Put back what is missing, or wait for a copy that is under way; `mvsink repair {}` says what can be done without it",
        entries(*first, *last),
        for_shell(url)
    )]
    LogGap {
        /// The address of the shard.
        url: String,
        /// The first entry that is missing.
        first: u64,
        /// The last entry before `next` that is missing.
        last: u64,
        /// The first entry beyond that is there.
        next: u64,
    },
    /// A file has a form that this version cannot read: a codec, an encryption, a type. It may be as it should.
    #[error("{path} cannot be read: {why}")]
    UnsupportedFile {
        /// The file.
        path: String,
        /// What is not supported.
        why: String,
    },
    /// A file has rows that the Rust type cannot hold: another program wrote them, or this one with another type.
    #[error(
        "{path}, in version {version} of the shard, has {rows} rows that cannot be read as {}: {why}; \
         a view repairs that itself, from any other shard another program must delete them",
        without_paths(type_name)
    )]
    UnfitRows {
        /// The file.
        path: String,
        /// The version of the log in which it was met.
        version: u64,
        /// How many rows.
        rows: u64,
        /// The Rust type.
        type_name: String,
        /// What is wrong with the first of them.
        why: String,
    },
    /// A file that the log refers to is not there.
    #[error(
        "{path} is missing, though the log of the shard refers to it: put it back, or drop the reference with \
         `{}`, of an input with --drop-files, whose rows are lost then; a view that is started again does so by itself with \
         its next batch, and writes its rows once more",
        repair_of(path)
    )]
    MissingFile {
        /// The file.
        path: String,
    },
    /// The log names a data file that does not lie in the table's folder, or lies in the log itself. Nobody reads it.
    #[error(
        "{path} is named in the log of the shard and does not lie among its data files, so it is not read: drop the \
         reference with `mvsink repair`; a view does so by itself with its next batch"
    )]
    OutsideFile {
        /// The address of the shard, and the path as in its log.
        path: String,
    },
    /// The disk that rows are put aside on, for want of memory, does not do what it should.
    #[error(
        "cannot {action} a file in {folder}, where rows are put aside that memory has no room for: {source}"
    )]
    Spill {
        /// What was to be done.
        action: &'static str,
        /// The folder of temporary files.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A read below the since.
    #[error("cannot read {url} at {as_of}: it can be read only from its since {since} on")]
    BeforeSince {
        /// The address of the shard.
        url: String,
        /// The time asked for.
        as_of: i64,
        /// The shard's since.
        since: Frontier<i64>,
    },
    /// A read at a time that is not complete yet.
    #[error("cannot read {url} at {as_of} yet: it is complete for times below its upper {upper}")]
    NotComplete {
        /// The address of the shard.
        url: String,
        /// The time asked for.
        as_of: i64,
        /// The shard's upper.
        upper: Frontier<i64>,
    },
    /// What is to be read does not fit the shard's columns.
    #[error("cannot read the shard {url} like that: {why}")]
    InvalidRead {
        /// The address of the shard.
        url: String,
        /// Which option does not fit, and why.
        why: String,
    },
    /// A property of the table is not what its user expects.
    #[error(
        "the shard {url} was created with {name} = {}, not {expected}",
        found.as_deref().unwrap_or("(nothing)")
    )]
    PropertyMismatch {
        /// The address of the shard.
        url: String,
        /// The property.
        name: String,
        /// Its value as asked for.
        expected: String,
        /// Its value in the table.
        found: Option<String>,
    },
    /// An append whose parts contradict each other; nothing was written.
    #[error("cannot append to the shard {url}: {why}")]
    InvalidAppend {
        /// The address of the shard.
        url: String,
        /// The contradiction.
        why: String,
    },
    /// A frontier that this cannot be set to; nothing was written.
    #[error("the {what} of the shard {url} cannot be {frontier}")]
    InvalidFrontier {
        /// The address of the shard.
        url: String,
        /// What was to be set.
        what: &'static str,
        /// The frontier asked for.
        frontier: Frontier<i64>,
    },
    /// A staged file is gone or is about to go: it counted as left behind, or another program has deleted it.
    #[error(
        "the staged file {path} of the shard {url} was deleted before it was committed: its rows must be staged again, \
         as a sink that is started again does"
    )]
    Swept {
        /// The address of the shard.
        url: String,
        /// The file, relative to the shard.
        path: String,
    },
    /// An append was interrupted, and by now the log entries that tell how it ended are cleaned up.
    #[error(
        "whether {id} was committed to the shard {url} cannot be told: the log is cleaned up beyond it"
    )]
    Undecided {
        /// The address of the shard.
        url: String,
        /// The append.
        id: CommitId,
    },
    /// What failed did so after the entry of a commit was put, or may have been: it may be in the log. Who tries the same
    /// append again, or opens the shard again, finds out.
    #[error("{source}; {id} may have been committed to the shard {url} all the same")]
    Unconfirmed {
        /// The address of the shard.
        url: String,
        /// The commit.
        id: CommitId,
        /// What failed.
        source: Box<Error>,
    },
    /// A staged file was never written: its writer gave it up, or is another process.
    #[error("{path} cannot be committed to the shard {url}: it was not written")]
    Unwritten {
        /// The address of the shard.
        url: String,
        /// The file.
        path: String,
    },
    /// A log entry was cleaned up.
    #[error(
        "entry {version} of the log of the shard {url} was cleaned up: read a snapshot instead"
    )]
    EntryGone {
        /// The address of the shard.
        url: String,
        /// The entry.
        version: u64,
    },
    /// The table is not the one that was opened.
    #[error(
        "the shard {url} was replaced: {why}. Nothing more is written to it; to go on with what is there now, start again"
    )]
    Replaced {
        /// The address of the shard.
        url: String,
        /// How that shows.
        why: String,
    },
    /// A hold's name is not 1 to 100 letters, digits, `_`, `.` and `-`.
    #[error("{name:?} cannot name a hold: 1 to 100 letters, digits, '_', '.' and '-' can")]
    HoldName {
        /// The name.
        name: String,
    },
    /// Another reader has the hold.
    #[error("the hold {name} of the shard {url} is taken, at {frontier}")]
    HoldTaken {
        /// The address of the shard.
        url: String,
        /// The hold.
        name: String,
        /// What it protects.
        frontier: Frontier<i64>,
    },
    /// A hold was not renewed in time, or was released by force: what it protected may be gone.
    #[error("the hold {name} of the shard {url} is lost: {why}; take it again and begin anew")]
    HoldLost {
        /// The address of the shard.
        url: String,
        /// The hold.
        name: String,
        /// How that shows.
        why: String,
    },
    /// The Tokio runtime that does the work is shutting down.
    #[error("the runtime is shutting down")]
    Shutdown,
    /// An error that several waiters receive.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// Another program changed the table's data.
    #[error(
        "the data of the shard {url} was edited by another program in version {version}: a reader of changes begins anew; an \
         ingest sink goes on after the edit once somebody accepts it with `mvsink repair {url} --accept-edits`"
    )]
    ForeignEdit {
        /// The address of the shard.
        url: String,
        /// The version of the log that holds the edit.
        version: u64,
    },
    /// Something that is no file has the name of a file of the shard.
    #[error("{path} is {found} where a file of the shard belongs: move it away")]
    NoFile {
        /// The file that belongs there.
        path: String,
        /// What is there.
        found: &'static str,
    },
    /// Something that is no directory is in the place of a directory of the shard.
    #[error(
        "{path} is {found} where a directory of a shard belongs: move it away, or give another address"
    )]
    NoFolder {
        /// The directory that belongs there.
        path: String,
        /// What is there.
        found: &'static str,
    },
    /// The store asks for credentials, and none are set.
    #[error("cannot {action} {path}: no credentials were found: {advice} ({source})")]
    NoCredentials {
        /// What was being done, as a verb.
        action: &'static str,
        /// The object.
        path: String,
        /// Where credentials can come from.
        advice: &'static str,
        /// The store's own error.
        source: Box<object_store::Error>,
    },
    /// The store failed.
    #[error("cannot {action} {path}: {source}")]
    Store {
        /// What was being done, as a verb.
        action: &'static str,
        /// The object.
        path: String,
        /// The store's own error.
        source: object_store::Error,
    },
}

impl Error {
    /// True if trying the same again may succeed: the store is unreachable, slow, or full. False if only
    /// somebody's action can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Store { source, .. } => store_error_is_transient(source),
            Error::NoCredentials { source, .. } => store_error_is_transient(source),
            Error::Shared(error) => error.is_transient(),
            // A full disk may be emptied.
            Error::Spill { action, .. } => *action != "read",
            Error::Unconfirmed { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// True if what was to be committed is not in the log and will not be; false if it may be there.
    pub fn is_decided(&self) -> bool {
        match self {
            Error::Unconfirmed { .. }
            | Error::Undecided { .. }
            | Error::Replaced { .. }
            | Error::Shutdown => false,
            Error::Shared(error) => error.is_decided(),
            _ => true,
        }
    }
}

/// What to do about a damaged file of this name: a data file is one of many.
fn what_helps(path: &str) -> String {
    match path.ends_with(".parquet") && !path.contains("_delta_log/") {
        true => format!(
            "; put it back as it was, or drop the reference with `{}`, after which a view writes its rows once more with \
             its next batch, and an input, which needs --drop-files, has lost them; where the file is missing or has \
             another size, a view that is started again does so by itself",
            repair_of(path)
        ),
        false => " (`mvsink repair` says what can be done)".to_owned(),
    }
}

/// The command that repairs the table of this data file. Only sinks' files are known to lie in its directory itself.
fn repair_of(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((url, _)) if has_drawn_name(path) => format!("mvsink repair {}", for_shell(url)),
        _ => "mvsink repair".to_owned(),
    }
}

/// The name of a Rust type without the modules that its parts are from.
fn without_paths(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let part = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        match part {
            0 => {
                short.push(first);
                rest = &rest[first.len_utf8()..];
            }
            _ => {
                let last = rest[..part].rsplit("::").next();
                short.push_str(last.unwrap_or_default());
                rest = &rest[part..];
            }
        }
    }
    short
}

/// True of the error of a symbolic link that leads to itself.
pub(crate) fn is_link_loop(error: &std::io::Error) -> bool {
    // The kind has no stable name.
    format!("{:?}", error.kind()) == "FilesystemLoop"
}

/// True if a store fails at a symbolic link that leads to itself.
pub(crate) fn meets_link_loop(error: &object_store::Error) -> bool {
    io_error(error).is_some_and(is_link_loop)
}

fn entries(first: u64, last: u64) -> String {
    match first == last {
        true => format!("entry {first} is"),
        false => format!("entries {first} to {last} are"),
    }
}

/// Whether a store's error may pass by itself.
///
/// Local file systems report everything that is not "not found" or "exists" as a generic error around
/// [`std::io::Error`], so that is looked for in the chain of sources. Stores on the network report as generic what
/// has no variant: there the status of the answer decides, and what got no answer may pass.
fn store_error_is_transient(error: &object_store::Error) -> bool {
    use object_store::Error as Store;
    match error {
        Store::Generic {
            store: "S3" | "GCS" | "MicrosoftAzure",
            source,
        } => http_failure_is_transient(&source.to_string()),
        Store::Generic { source, .. } => io_error(source.as_ref()).is_none_or(io_is_transient),
        // Local files are created without this error, so that it is an HTTP 409: another request is under way.
        Store::AlreadyExists { source, .. } => io_error(source.as_ref()).is_none(),
        Store::NotFound { .. }
        | Store::InvalidPath { .. }
        | Store::NotSupported { .. }
        | Store::NotImplemented { .. }
        | Store::Precondition { .. }
        | Store::NotModified { .. }
        | Store::PermissionDenied { .. }
        | Store::Unauthenticated { .. }
        | Store::UnknownConfigurationKey { .. } => false,
        _ => true,
    }
}

/// Where credentials can come from, if a store has found none but the machine's identity, which does not answer.
pub(crate) fn credentials_advice(error: &object_store::Error) -> Option<&'static str> {
    // The addresses at which the providers' machines ask for their identities.
    const METADATA: [&str; 4] = [
        "169.254.169.254",
        "169.254.170.2",
        "metadata.google.internal",
        "metadata/identity",
    ];
    let object_store::Error::Generic { store, source } = error else {
        return None;
    };
    let advice = match *store {
        "S3" => "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
        "GCS" => "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
        "MicrosoftAzure" => {
            "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or give the machine an identity"
        }
        _ => return None,
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
    while let Some(error) = cause {
        let said = error.to_string();
        if METADATA.iter().any(|address| said.contains(address)) {
            return Some(advice);
        }
        cause = error.source();
    }
    None
}

fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

fn io_is_transient(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    !is_link_loop(error)
        && !matches!(
            error.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::AlreadyExists
                | ErrorKind::InvalidFilename
                | ErrorKind::FileTooLarge
                | ErrorKind::NotFound
                | ErrorKind::InvalidInput
                | ErrorKind::Unsupported
        )
}

/// By the message of a failed request: `object_store` keeps the type of such errors to itself. Tests against a server
/// hold the wording.
fn http_failure_is_transient(message: &str) -> bool {
    if message.contains("redirect without LOCATION") {
        // The region is another.
        return false;
    }
    let status = message
        .split_once("status code: ")
        .and_then(|(_, rest)| rest.get(..3)?.parse::<u16>().ok());
    match status {
        // Too slow, too early, too many; a conflict with another request.
        Some(408 | 409 | 425 | 429) => true,
        // Amazon says so of a body that came too slowly.
        Some(400) => message.contains("RequestTimeout"),
        // It does not know what it was asked for, conditional puts for example.
        Some(501) => false,
        Some(status) => !(300..500).contains(&status),
        None => true,
    }
}

/// True if there can be no such file, since what would be its directory is a file.
pub(crate) fn is_below_a_file(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else {
        return false;
    };
    let io = io_error(source.as_ref());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::NotADirectory)
}

/// True if it is the bucket that was not found, and not an object in it.
pub(crate) fn bucket_is_missing(error: &object_store::Error) -> bool {
    const SAYS: [&str; 3] = [
        "NoSuchBucket",
        "ContainerNotFound",
        "The specified bucket does not exist",
    ];
    let object_store::Error::NotFound { source, .. } = error else {
        return false;
    };
    let message = source.to_string();
    SAYS.iter().any(|says| message.contains(says))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_machine_without_an_identity_is_told_which_credentials_to_set() {
        let source = || {
            let timeout = io::Error::from(io::ErrorKind::TimedOut);
            Box::new(Said("http://169.254.169.254/latest/api/token", timeout))
        };
        let failed = |store: &'static str| object_store::Error::Generic {
            store,
            source: source(),
        };
        let advice = credentials_advice(&failed("S3")).expect("advice");
        assert!(advice.contains("AWS_ACCESS_KEY_ID"), "{advice}");
        assert!(credentials_advice(&failed("GCS")).is_some());
        assert!(credentials_advice(&failed("MicrosoftAzure")).is_some());
        assert!(credentials_advice(&failed("LocalFileSystem")).is_none());
    }

    /// An error of another library.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}: {1}")]
    struct Said(&'static str, #[source] io::Error);

    #[test]
    fn a_local_disk_may_be_full_for_a_while_but_not_forbidden() {
        let transient = |kind: io::ErrorKind| {
            let source = Box::new(io::Error::from(kind));
            Error::Store {
                action: "write",
                path: "x".into(),
                source: object_store::Error::Generic {
                    store: "local",
                    source,
                },
            }
            .is_transient()
        };
        use io::ErrorKind::*;
        for kind in [
            StorageFull,
            QuotaExceeded,
            Interrupted,
            TimedOut,
            ResourceBusy,
            Other,
        ] {
            assert!(transient(kind), "{kind}");
        }
        for kind in [
            PermissionDenied,
            ReadOnlyFilesystem,
            NotADirectory,
            IsADirectory,
            InvalidFilename,
            FileTooLarge,
        ] {
            assert!(!transient(kind), "{kind}");
        }
    }
}
