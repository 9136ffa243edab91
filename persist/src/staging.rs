//! The files that this process has staged and not yet committed or deleted: the sweeper leaves them alone.
//!
//! ```text
//!   put_file ──> staged ──> append or delete_files has returned ──> known no more
//!       └── dropped, or failed ──> known no more: left to the sweeper
//! ```

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::lock;

/// Staged files by their paths.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    paths: Mutex<HashSet<String>>,
}

impl Staging {
    /// A file is about to be written.
    pub(crate) fn begin(self: &Arc<Self>, path: &str) -> Writing {
        lock(&self.paths).insert(path.to_owned());
        Writing {
            staging: Arc::clone(self),
            path: Some(path.to_owned()),
        }
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        lock(&self.paths).contains(path)
    }

    /// The file is committed, or deleted, or given up.
    pub(crate) fn forget(&self, path: &str) {
        lock(&self.paths).remove(path);
    }
}

/// A file that is being written; forgotten unless it is [`done`](Writing::done).
pub(crate) struct Writing {
    staging: Arc<Staging>,
    path: Option<String>,
}

impl Writing {
    /// The file is staged, and its name is given away.
    pub(crate) fn done(mut self) {
        self.path = None;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            self.staging.forget(path);
        }
    }
}
