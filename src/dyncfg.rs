//! Flags that can be changed while a program runs.
//!
//! A [`Config`] is a name, a default and a description, declared as a constant; a [`ConfigSet`] holds the
//! values in force, shared by everything that was given a clone of it. Whoever needs a value reads it where
//! it is used, so that a change takes effect without a restart.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock};

/// Chooses the driver of a sink when it is rendered: operators that never wait, each with a task (on), or operators
/// that await in place (off). Workers and processes that read it at different moments fit together.
pub const ENABLE_SYNC_MV_SINK: Config<bool> = Config::new(
    "enable_sync_mv_sink",
    Default::Bool(true),
    "render sinks as synchronous operators, each with a task; read once per sink and worker",
);

/// How much a sink puts into one data file.
pub const TARGET_FILE_BYTES: Config<usize> = Config::new(
    "mvsink_target_file_bytes",
    Default::Usize(128 << 20),
    "the size in bytes, encoded, at which a sink begins another data file",
)
.at_least(1);

/// How much of a shard waits to be taken up by a dataflow.
pub const SOURCE_CREDITS: Config<usize> = Config::new(
    "mvsink_source_credits",
    Default::Usize(16),
    "how many decoded chunks of a shard wait for one worker at the most; read once per source",
)
.at_least(1)
.at_most(1 << 20);

/// How many rows a chunk has.
pub const CHUNK_ROWS: Config<usize> = Config::new(
    "mvsink_chunk_rows",
    Default::Usize(8192),
    "how many rows are encoded or decoded at once",
)
.at_least(1)
.at_most(1 << 20);

/// The number of updates that a task handles itself.
pub const INLINE_UPDATES: Config<usize> = Config::new(
    "mvsink_inline_updates",
    Default::Usize(256),
    "how many updates a task handles itself; more go to the pool for computations",
);

/// Reads everything back, one's own commits included.
pub const FULL_READ_BACK: Config<bool> = Config::new(
    "mvsink_full_read_back",
    Default::Bool(false),
    "read one's own commits back as if they were a rival's, for checking",
);

/// Merges a shard's small files beside its sinks and sources.
pub const COMPACTION: Config<bool> = Config::new(
    "mvsink_compaction",
    Default::Bool(true),
    "merge the small files of shards in the background",
);

/// How many files of a size are merged into one.
pub const COMPACTION_FAN_IN: Config<usize> = Config::new(
    "mvsink_compaction_fan_in",
    Default::Usize(4),
    "how many files of about one size are merged into one",
)
.at_least(2);

/// What counts as the smallest size.
pub const COMPACTION_FLOOR_BYTES: Config<usize> = Config::new(
    "mvsink_compaction_floor_bytes",
    Default::Usize(64 << 10),
    "the size in bytes, encoded, below which all files count as of one size",
)
.at_least(1);

/// The memory of a merge.
pub const COMPACTION_MEMORY_BYTES: Config<usize> = Config::new(
    "mvsink_compaction_memory_bytes",
    Default::Usize(64 << 20),
    "how much memory in bytes a merge of files may take for their rows",
)
.at_least(1);

/// The window of time that stays readable.
pub const RETAIN_TIME: Config<usize> = Config::new(
    "mvsink_retain_time",
    Default::Usize(0),
    "how far behind the upper, in units of time, a shard stays readable; 0 keeps everything",
);

/// The number of times that stay readable.
pub const RETAIN_TIMES: Config<usize> = Config::new(
    "mvsink_retain_times",
    Default::Usize(0),
    "how many of the last committed times of a shard stay readable; 0 keeps everything",
);

/// Deletes what no reader needs any more.
pub const GARBAGE_COLLECTION: Config<bool> = Config::new(
    "mvsink_garbage_collection",
    Default::Bool(true),
    "delete merged files after a grace period, and files that were staged and never committed",
);

/// How long merged files stay.
pub const GARBAGE_GRACE_S: Config<usize> = Config::new(
    "mvsink_garbage_grace_s",
    Default::Usize(3600),
    "how many seconds a file stays after a merge has replaced it, for readers that are not known here",
);

/// How old a staged file must be to count as left behind.
pub const ORPHAN_AGE_S: Config<usize> = Config::new(
    "mvsink_orphan_age_s",
    Default::Usize(24 * 3600),
    "how many seconds after it was staged a file that was never committed counts as left behind",
);

/// How often garbage is collected.
pub const GARBAGE_INTERVAL_S: Config<usize> = Config::new(
    "mvsink_garbage_interval_s",
    Default::Usize(600),
    "how many seconds pass between two collections of garbage",
)
.at_least(1);

/// How often a shard is maintained.
pub const MAINTENANCE_INTERVAL_MS: Config<usize> = Config::new(
    "mvsink_maintenance_interval_ms",
    Default::Usize(1000),
    "how many milliseconds pass between two looks for files to merge, about",
)
.at_least(1);

/// Leaves the writing to a rival that keeps winning.
pub const STANDBY: Config<bool> = Config::new(
    "mvsink_standby",
    Default::Bool(false),
    "let a replica that keeps losing stand by: it writes again when the others have been silent for a while",
);

/// How long rivals may be silent.
pub const STANDBY_SILENCE_MS: Config<usize> = Config::new(
    "mvsink_standby_silence_ms",
    Default::Usize(1000),
    "how many milliseconds there may be something to write before a replica that stands by writes it",
)
.at_least(1);

/// How long a store may take to answer.
pub const STALL_AFTER_MS: Config<usize> = Config::new(
    "mvsink_stall_after_ms",
    Default::Usize(10_000),
    "how many milliseconds a sink waits for an answer of the store before it counts as stalled",
)
.at_least(1);

/// How long a reader that has died keeps a shard's past.
pub const HOLD_LEASE_S: Config<usize> = Config::new(
    "mvsink_hold_lease_s",
    Default::Usize(120),
    "how many seconds a reader's hold on a shard's past outlives it; 0 takes none; read as reading begins",
);

/// The memory for updates that are not written yet.
pub const CORRECTIONS_BYTES: Config<usize> = Config::new(
    "mvsink_corrections_bytes",
    Default::Usize(256 << 20),
    "the memory in bytes that each sink may take in a process for updates that are not written yet; more go to disk, 0 means no bound",
);

/// How much of a first snapshot is gathered before some of it is staged.
pub const STAGE_AHEAD_BYTES: Config<usize> = Config::new(
    "mvsink_stage_ahead_bytes",
    Default::Usize(24 << 20),
    "how much memory in bytes the rows of a first snapshot may take in a process before they are staged, while more of it arrives; 0 stages nothing ahead",
);

/// The default of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Default {
    /// On or off.
    Bool(bool),
    /// A number.
    Usize(usize),
}

impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Default::Bool(value) => value.fmt(f),
            Default::Usize(value) => value.fmt(f),
        }
    }
}

/// The type of a flag's value.
pub trait Value: Copy + fmt::Display {
    /// What a value of it looks like, for messages.
    const FORM: &'static str;
    /// The value that this text says, if it is one.
    fn read(text: &str) -> Option<Self>;
    /// The value in this default; `None` if it is of another type.
    fn of(default: Default) -> Option<Self>;
}

impl Value for bool {
    const FORM: &'static str = "true or false";
    fn read(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        }
    }
    fn of(default: Default) -> Option<Self> {
        match default {
            Default::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl Value for usize {
    const FORM: &'static str = "a whole number";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn of(default: Default) -> Option<Self> {
        match default {
            Default::Usize(value) => Some(value),
            _ => None,
        }
    }
}

/// A flag of type `V`.
#[derive(Clone, Copy, Debug)]
pub struct Config<V> {
    name: &'static str,
    default: Default,
    description: &'static str,
    /// The least number that it takes.
    least: usize,
    /// The greatest.
    most: usize,
    value: PhantomData<V>,
}

impl<V> Config<V> {
    /// Declares a flag.
    pub const fn new(name: &'static str, default: Default, description: &'static str) -> Self {
        Config {
            name,
            default,
            description,
            least: 0,
            most: usize::MAX,
            value: PhantomData,
        }
    }

    /// The same flag, which takes no number below this one.
    #[must_use]
    pub const fn at_least(mut self, least: usize) -> Self {
        self.least = least;
        self
    }

    /// The same flag, which takes no number above this one.
    #[must_use]
    pub const fn at_most(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// The name of the flag.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What the flag does.
    pub const fn description(&self) -> &'static str {
        self.description
    }
}

impl<V: Value> Config<V> {
    /// The value in force: the one set, else the default.
    ///
    /// # Panics
    ///
    /// If the flag was declared with a default of another type than its own.
    pub fn get(&self, set: &ConfigSet) -> V {
        let set = set.values.read().unwrap_or_else(PoisonError::into_inner);
        let value = set.get(self.name).map_or(self.default, |entry| entry.value);
        V::of(value).expect("a flag's values are of its type")
    }
}

/// A flag as a set knows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// What the flag does.
    pub description: &'static str,
    /// The value in force.
    pub value: Default,
    /// The least number that it takes, if it takes numbers.
    pub least: usize,
    /// The greatest number that it takes, if it takes numbers.
    pub most: usize,
}

impl Entry {
    /// The values that the flag takes, in words.
    pub fn form(&self) -> String {
        match self.value {
            Default::Bool(_) => bool::FORM.to_owned(),
            Default::Usize(_) => format!("{} from {} to {}", usize::FORM, self.least, self.most),
        }
    }
}

/// Why a flag was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// No flag has this name.
    #[error("there is no flag {name}; the flags are {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The value is not of the flag's type.
    #[error("the flag {name} takes {form}, not {value:?}")]
    Value {
        /// The flag.
        name: String,
        /// What its values look like.
        form: String,
        /// The value given.
        value: String,
    },
}

/// The values in force, shared by all clones.
#[derive(Clone, Debug)]
pub struct ConfigSet {
    values: Arc<RwLock<BTreeMap<&'static str, Entry>>>,
}

impl std::default::Default for ConfigSet {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigSet {
    /// All flags of this crate, with their defaults.
    pub fn new() -> Self {
        ConfigSet {
            values: Arc::default(),
        }
        .with(&ENABLE_SYNC_MV_SINK)
        .with(&TARGET_FILE_BYTES)
        .with(&SOURCE_CREDITS)
        .with(&CHUNK_ROWS)
        .with(&INLINE_UPDATES)
        .with(&FULL_READ_BACK)
        .with(&COMPACTION)
        .with(&COMPACTION_FAN_IN)
        .with(&COMPACTION_FLOOR_BYTES)
        .with(&COMPACTION_MEMORY_BYTES)
        .with(&RETAIN_TIME)
        .with(&RETAIN_TIMES)
        .with(&GARBAGE_COLLECTION)
        .with(&GARBAGE_GRACE_S)
        .with(&ORPHAN_AGE_S)
        .with(&GARBAGE_INTERVAL_S)
        .with(&MAINTENANCE_INTERVAL_MS)
        .with(&STANDBY)
        .with(&STANDBY_SILENCE_MS)
        .with(&STALL_AFTER_MS)
        .with(&HOLD_LEASE_S)
        .with(&CORRECTIONS_BYTES)
        .with(&STAGE_AHEAD_BYTES)
    }

    /// The same set with one more flag, such as one of the host's own.
    pub fn with<V>(self, config: &Config<V>) -> Self {
        let entry = Entry {
            description: config.description,
            value: config.default,
            least: config.least,
            most: config.most,
        };
        self.values
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(config.name, entry);
        self
    }

    /// Sets a flag by its name, from text. Every reader sees it from its next look on.
    ///
    /// # Errors
    ///
    /// If there is no such flag, or the value is not of its type or outside of its range; nothing changes then.
    pub fn set(&self, name: &str, value: &str) -> Result<(), SetError> {
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        let known = || values.keys().copied().collect::<Vec<_>>().join(", ");
        let Some(entry) = values.get(name) else {
            return Err(SetError::Unknown {
                name: name.to_owned(),
                known: known(),
            });
        };
        let parsed = match entry.value {
            Default::Bool(_) => bool::read(value.trim()).map(Default::Bool),
            Default::Usize(_) => usize::read(value.trim())
                .filter(|number| (entry.least..=entry.most).contains(number))
                .map(Default::Usize),
        };
        let Some(parsed) = parsed else {
            return Err(SetError::Value {
                name: name.to_owned(),
                form: entry.form(),
                value: value.to_owned(),
            });
        };
        if let Some(entry) = values.get_mut(name) {
            entry.value = parsed;
        }
        Ok(())
    }

    /// All flags, by name.
    pub fn entries(&self) -> BTreeMap<&'static str, Entry> {
        self.values
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_every_clone() {
        let set = ConfigSet::new();
        let clone = set.clone();
        assert!(ENABLE_SYNC_MV_SINK.get(&clone));
        set.set("enable_sync_mv_sink", "false").unwrap();
        assert!(!ENABLE_SYNC_MV_SINK.get(&clone));
        set.set("mvsink_chunk_rows", "17").unwrap();
        assert_eq!(CHUNK_ROWS.get(&clone), 17);
    }

    #[test]
    fn a_switch_is_set_as_people_write_it() {
        let set = ConfigSet::new();
        for (text, on) in [
            ("0", false),
            ("1", true),
            ("off", false),
            ("on", true),
            ("No", false),
            ("YES", true),
        ] {
            set.set("mvsink_compaction", text).unwrap();
            assert_eq!(COMPACTION.get(&set), on, "{text}");
        }
    }

    #[test]
    fn nothing_is_refused_where_something_is_needed() {
        let set = ConfigSet::new();
        for (flag, least) in [
            ("mvsink_chunk_rows", 1),
            ("mvsink_compaction_fan_in", 2),
            ("mvsink_source_credits", 1),
        ] {
            let error = set.set(flag, "0").unwrap_err().to_string();
            assert!(
                error.contains(&format!("{flag} takes a whole number from {least} to ")),
                "{error}"
            );
            set.set(flag, &least.to_string()).unwrap();
        }
        for flag in [
            "mvsink_retain_time",
            "mvsink_corrections_bytes",
            "mvsink_garbage_grace_s",
        ] {
            set.set(flag, "0").unwrap();
        }
        // Every default is one that can be set.
        for (name, entry) in set.entries() {
            ConfigSet::new()
                .set(name, &entry.value.to_string())
                .unwrap();
        }
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let set = ConfigSet::new();
        let unknown = set.set("no_such_flag", "1").unwrap_err().to_string();
        assert!(unknown.contains("no_such_flag") && unknown.contains("enable_sync_mv_sink"));
        let value = set
            .set("enable_sync_mv_sink", "maybe")
            .unwrap_err()
            .to_string();
        assert_eq!(
            value,
            "the flag enable_sync_mv_sink takes true or false, not \"maybe\""
        );
        assert!(ENABLE_SYNC_MV_SINK.get(&set));
    }
}
