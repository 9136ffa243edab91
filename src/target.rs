//! Where a sink writes to, and how.

use std::collections::BTreeMap;

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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The address: a path, `file://…`, `memory://…`, or a bucket's (`s3://…`, `gs://…`, `az://…`) with the feature for it.
    pub url: String,
    /// What the input means.
    pub mode: Mode,
    /// Table properties that the shard must have. They are set when it is created; a shard that has another
    /// value of one is refused.
    pub properties: BTreeMap<String, String>,
}

impl Target {
    /// The shard at this address, kept as a view.
    pub fn new(url: impl Into<String>) -> Self {
        Target {
            url: url.into(),
            mode: Mode::View,
            properties: BTreeMap::new(),
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
