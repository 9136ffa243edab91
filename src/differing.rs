//! What the workers of one process know of what the table of a view differs in from its collection, and as of when.

use std::collections::{BTreeMap, BTreeSet};

use mvsink_persist::Frontier;

use crate::status::{Compared, Differs};

/// What the workers have found out, until a batch has repaired it.
#[derive(Debug, Default)]
pub(crate) struct Differing {
    /// How many times each worker has read rows of an edit, or rows in which the table differed at the start.
    read_edits: BTreeMap<usize, u64>,
    /// Of how many of these it has counted what is left.
    counted_edits: BTreeMap<usize, u64>,
    /// What each worker has read.
    read: BTreeMap<usize, Read>,
    /// How far each has compared its input with a table that was finished before.
    verified: BTreeMap<usize, Frontier<i64>>,
    /// The rows of each worker, and the upper at which they were counted.
    rows: BTreeMap<usize, (Option<u64>, i64)>,
    /// The files that the next batch is to remove, and the upper up to which each worker has read.
    files: BTreeMap<usize, (BTreeSet<String>, i64)>,
}

/// What one worker has read of a table: a version, and its upper.
type Read = (u64, Frontier<i64>);

impl Differing {
    /// This worker has read rows that are still to be counted.
    pub(crate) fn count(&mut self, worker: usize) {
        *self.read_edits.entry(worker).or_default() += 1;
    }

    /// This worker has counted its rows, with so many edits taken in; `None` if there are none. True if that is news.
    pub(crate) fn counted(
        &mut self,
        worker: usize,
        rows: Option<(Option<u64>, i64)>,
        edits: u64,
    ) -> bool {
        let edits_before = self.counted_edits.insert(worker, edits);
        let before = match rows {
            Some(rows) => self.rows.insert(worker, rows),
            None => self.rows.remove(&worker),
        };
        edits_before != Some(edits) || before != rows
    }

    /// This worker has read all up to a version.
    pub(crate) fn read(&mut self, worker: usize, version: u64, upper: Frontier<i64>) {
        self.read.insert(worker, (version, upper));
    }

    /// This worker has found its input before this frontier in a table that was finished before.
    pub(crate) fn verified(&mut self, worker: usize, frontier: Frontier<i64>) {
        self.verified.insert(worker, frontier);
    }

    /// How far all of these workers have compared; `None` while one of them has still to. A table that was finished before is
    /// compared as the input comes.
    pub(crate) fn compared(
        &self,
        workers: impl Iterator<Item = usize>,
        was_finished: bool,
    ) -> Option<Compared> {
        if self.is_counting() {
            return None;
        }
        let one = |worker| {
            let (version, upper) = *self.read.get(&worker)?;
            let frontier = match was_finished {
                true => *self.verified.get(&worker)?,
                false => upper,
            };
            Some((version, frontier))
        };
        let least = workers.map(one).reduce(|least, next| {
            let ((version, frontier), next) = (least?, next?);
            Some((version.min(next.0), frontier.min(next.1)))
        });
        let (version, frontier) = least??;
        Some(Compared {
            version,
            frontier,
            differs: self.differs(),
        })
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
        let counted = |worker| self.counted_edits.get(worker).copied().unwrap_or(0);
        let mut read = self.read_edits.iter();
        read.any(|(worker, edits)| counted(worker) < *edits)
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
        assert!(differing.counted(0, Some((Some(2), 7)), 1));
        assert!(!differing.counted(0, Some((Some(2), 7)), 1));
        differing.counted(1, Some((Some(3), 8)), 0);
        for worker in [0, 1] {
            let files = BTreeSet::from(["a".to_owned()]);
            assert!(differing.condemned(worker, files, 8));
        }
        let differs = differing.differs().unwrap();
        assert_eq!((differs.rows, differs.upper), (Some(5), 7));
        assert_eq!(differs.files, ["a"]);
        // One that has put rows aside on disk has not counted them.
        differing.counted(1, Some((None, 8)), 0);
        assert_eq!(differing.differs().unwrap().rows, None);
        for worker in [0, 1] {
            differing.counted(worker, None, 1);
            differing.condemned(worker, BTreeSet::new(), 9);
        }
        assert_eq!(differing.differs(), None);
    }

    #[test]
    fn a_worker_that_has_counted_one_edit_may_have_read_the_next() {
        let mut differing = Differing::default();
        let compared = |differing: &Differing| differing.compared(0..2, false);
        differing.read(0, 7, Frontier::At(4));
        assert_eq!(compared(&differing), None, "the other has read nothing");
        differing.read(1, 6, Frontier::At(4));
        let right = Compared {
            version: 6,
            frontier: Frontier::At(4),
            differs: None,
        };
        assert_eq!(compared(&differing), Some(right.clone()));
        differing.count(0);
        differing.count(0);
        differing.counted(0, None, 1);
        assert_eq!(compared(&differing), None);
        differing.counted(0, None, 2);
        assert_eq!(compared(&differing), Some(right));
        // What was finished before counts as far as the input has come.
        assert_eq!(differing.compared(0..2, true), None);
        differing.verified(0, Frontier::At(9));
        differing.verified(1, Frontier::Empty);
        let verified = differing.compared(0..2, true).unwrap();
        assert_eq!((verified.version, verified.frontier), (6, Frontier::At(9)));
    }
}
