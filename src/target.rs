//! Where a sink writes to, and how.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::refresh::Refresh;

/// What the input of a sink means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// The input is the whole collection from the as-of on, and the shard is made equal to it, whatever it
    /// held before and whoever else writes it.
    #[default]
    View,
    /// The input is a source's changes from the shard's upper on; the shard makes them definite. Nothing is
    /// compared with what is there. Several writers must agree on the updates at every time.
    Ingest,
}

/// A shard to write: its address, and how the sink uses it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Target {
    /// The address: a path, `file:/…`, `memory://…`, or a bucket's (`s3://…`, `gs://…`, `az://…`) with the feature for it.
    pub url: String,
    /// What the input means.
    pub mode: Mode,
    /// Table properties that the shard must have. They are set when it is created; a shard that has another
    /// value of one is refused.
    pub properties: BTreeMap<String, String>,
    /// When what the input holds is made durable.
    pub refresh: Refresh,
    /// The time, as the shard stores it, at which the sink ends its shard.
    pub until: Option<i64>,
    /// Whether the sink adds the columns that its table lacks.
    pub add_columns: bool,
    /// Says `true` while this sink must not write, beside the signal of its context.
    pub read_only: Option<watch::Receiver<bool>>,
}

impl Target {
    /// The shard at this address, kept as a view.
    pub fn new(url: impl Into<String>) -> Self {
        Target {
            url: url.into(),
            mode: Mode::View,
            properties: BTreeMap::new(),
            refresh: Refresh::on_commit(),
            until: None,
            add_columns: true,
            read_only: None,
        }
    }

    /// The same shard, with another meaning of the input.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The same shard, with one more property that it must have.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The same shard, written only at the times of this schedule: an update counts from the first refresh on that
    /// is not before it, the as-of is rounded up in the same way, and between two refreshes the shard repeats the
    /// contents of the first. After the last refresh the shard is final: its upper is the empty frontier. A sink that
    /// begins after the last refresh fails if the shard does not have it.
    pub fn refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }

    /// The same shard, final from this time on, given as the shard stores it: the sink takes no notice of updates at
    /// or beyond `until`. Once its input is complete up to there it ends the shard: the contents at the time before
    /// `until` hold for ever, the upper is the empty frontier, and the sink is [`Finished`](crate::Status::Finished).
    /// A sink that begins at `until` or later, and finds a shard that has not come so far, fails.
    pub fn until(mut self, until: i64) -> Self {
        self.until = Some(until);
        self
    }

    /// The same shard; says whether the sink adds the columns that its table lacks, as it does by default. They are
    /// fields that the type has got since, at its end, each an [`Option`]: in the rows that are there they are null. A
    /// table that differs in another way fails the sink.
    ///
    /// Replicas of the old type go on beside those of the new one. They take no notice of the columns, and leave them
    /// null in what they write, which those of the new type correct.
    pub fn add_columns(mut self, add_columns: bool) -> Self {
        self.add_columns = add_columns;
        self
    }

    /// The same shard, not to be written while this signal says `true`. The signal of the context holds beside it:
    /// a sink writes only if neither says no. Every worker, and every process, is to be given the same signal; a
    /// sender that is dropped has decided for good.
    ///
    /// A sink that may not write keeps up all the same, and takes over as soon as it may. One that may not write any
    /// more is [`ReadOnly`](crate::Status::ReadOnly) once nothing that it began is outstanding.
    pub fn read_only(mut self, read_only: watch::Receiver<bool>) -> Self {
        self.read_only = Some(read_only);
        self
    }
}

impl From<&str> for Target {
    fn from(url: &str) -> Self {
        Target::new(url)
    }
}

impl From<String> for Target {
    fn from(url: String) -> Self {
        Target::new(url)
    }
}
