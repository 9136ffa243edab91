//! What the workers of one process know of what the table of a view differs in from its collection.

use std::collections::{BTreeMap, BTreeSet};

/// What the workers have found out, until a batch has repaired it.
#[derive(Debug, Default)]
pub(crate) struct Differing {
    /// Workers that have read rows of an edit, or rows in which the table differed at the start, and not counted yet what
    /// is left of them.
    counting: BTreeSet<usize>,
    /// The rows of each worker, and the upper at which they were counted.
    rows: BTreeMap<usize, (Option<u64>, i64)>,
    /// The files that the next batch is to remove, and the upper up to which each worker has read.
    files: BTreeMap<usize, (BTreeSet<String>, i64)>,
}

/// What a table differs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Differs {
    /// The rows, if all were counted.
    pub(crate) rows: Option<u64>,
    pub(crate) files: Vec<String>,
    /// The upper at which that was so, on the worker that has read least.
    pub(crate) upper: i64,
}

impl Differing {
    /// This worker has read rows that are still to be counted.
    pub(crate) fn count(&mut self, worker: usize) {
        self.counting.insert(worker);
    }

    /// This worker has counted its rows; `None` if there are none. True if that is news.
    pub(crate) fn counted(&mut self, worker: usize, rows: Option<(Option<u64>, i64)>) -> bool {
        let counting = self.counting.remove(&worker);
        let before = match rows {
            Some(rows) => self.rows.insert(worker, rows),
            None => self.rows.remove(&worker),
        };
        counting || before != rows
    }

    /// The files that the next batch is to remove, by what this worker has read up to this upper. True if that is news.
    pub(crate) fn condemned(&mut self, worker: usize, files: BTreeSet<String>, upper: i64) -> bool {
        let files = Some((files, upper)).filter(|(files, _)| !files.is_empty());
        let before = match &files {
            Some(files) => self.files.insert(worker, files.clone()),
            None => self.files.remove(&worker),
        };
        before != files
    }

    /// True if some worker has still to count.
    pub(crate) fn is_counting(&self) -> bool {
        !self.counting.is_empty()
    }

    /// What the table differs in, if it does.
    pub(crate) fn differs(&self) -> Option<Differs> {
        let counted = self.rows.values().map(|(_, upper)| *upper);
        let read = self.files.values().map(|(_, upper)| *upper);
        let upper = counted.chain(read).min()?;
        let rows = self.rows.values().map(|(rows, _)| *rows);
        let files = self.files.values().flat_map(|(files, _)| files);
        let files: BTreeSet<_> = files.cloned().collect();
        Some(Differs {
            rows: rows.sum(),
            files: files.into_iter().collect(),
            upper,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_workers_found_is_added_up_and_files_are_named_once() {
        let mut differing = Differing::default();
        assert_eq!(differing.differs(), None);
        differing.count(0);
        assert!(differing.is_counting() && differing.differs().is_none());
        assert!(differing.counted(0, Some((Some(2), 7))));
        assert!(!differing.counted(0, Some((Some(2), 7))));
        differing.counted(1, Some((Some(3), 8)));
        for worker in [0, 1] {
            let files = BTreeSet::from(["a".to_owned()]);
            assert!(differing.condemned(worker, files, 8));
        }
        let differs = differing.differs().unwrap();
        assert_eq!((differs.rows, differs.upper), (Some(5), 7));
        assert_eq!(differs.files, ["a"]);
        // One that has put rows aside on disk has not counted them.
        differing.counted(1, Some((None, 8)));
        assert_eq!(differing.differs().unwrap().rows, None);
        for worker in [0, 1] {
            differing.counted(worker, None);
            differing.condemned(worker, BTreeSet::new(), 9);
        }
        assert_eq!(differing.differs(), None);
    }
}
