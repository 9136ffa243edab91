//! The read-back of an instance: each worker's reader pins a version, has it compared bucket by bucket, and follows the
//! log from there.

use std::collections::{BTreeMap, BTreeSet};

use mvsink::{Frontier, Mode};
use mvsink_persist::CommitId;

use super::Instance;
use crate::model::{FileId, Shard, Time, Update};

/// What a reader tells its write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReadBack {
    Pinned(Time),
    Settled,
    Rows(Vec<Update>),
    Own(CommitId),
}

/// How far a read-back is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    Unpinned,
    /// Waits for the verdict, with the rows of its buckets in the version that it has pinned.
    Pinned {
        cutoff: Time,
        rows: Vec<Update>,
        upper: Frontier<Time>,
        /// The buckets that differ.
        verdict: Option<BTreeSet<u8>>,
    },
    Following,
}

impl Instance {
    /// The rows of these files that are routed to a worker.
    fn local(&self, index: usize, shard: &Shard, files: &[FileId]) -> Vec<Update> {
        let count = self.workers.len();
        let rows = files.iter().flat_map(|file| &shard.files[file]);
        rows.filter(|(row, ..)| usize::from(*row) % count == index)
            .copied()
            .collect()
    }

    /// The bucket of a row: two for each worker, so that there are rows that share one.
    fn bucket(&self, row: u8) -> u8 {
        row % u8::try_from(2 * self.workers.len()).expect("few workers")
    }

    /// Pins a version to start from, sends what differs from it, or reads one more entry of the log.
    pub(super) fn read(&mut self, index: usize, shard: &mut Shard) {
        let worker = &mut self.workers[index];
        match &mut worker.reader {
            Reader::Unpinned => {
                worker.read = shard.log.len();
                let files: Vec<FileId> = shard.live().collect();
                let rows = self.local(index, shard, &files);
                let worker = &mut self.workers[index];
                // Nothing is there to compare with, or nothing left to write.
                let Some(upper) = (shard.upper.time())
                    .filter(|_| self.setup.mode == Mode::View && !files.is_empty())
                else {
                    worker.read_frontier = shard.upper;
                    worker.reader = Reader::Following;
                    worker.inbox.push_back(ReadBack::Settled);
                    return;
                };
                let cutoff = upper.saturating_sub(1).max(self.as_of.time().unwrap_or(0));
                worker.inbox.push_back(ReadBack::Pinned(cutoff));
                worker.reader = Reader::Pinned {
                    cutoff,
                    rows,
                    upper: shard.upper,
                    verdict: None,
                };
            }
            Reader::Pinned {
                cutoff,
                rows,
                upper,
                verdict: Some(differ),
            } => {
                let (cutoff, upper, differ) = (*cutoff, *upper, std::mem::take(differ));
                let rows = std::mem::take(rows);
                let differs =
                    |(row, time, _): &Update| *time > cutoff || differ.contains(&self.bucket(*row));
                let rows: Vec<Update> = rows.into_iter().filter(differs).collect();
                *shard.rows_read_at_start += rows.len();
                let worker = &mut self.workers[index];
                worker.inbox.push_back(ReadBack::Rows(rows));
                worker.inbox.push_back(ReadBack::Settled);
                worker.read_frontier = upper;
                worker.reader = Reader::Following;
            }
            Reader::Pinned { verdict: None, .. } => {}
            Reader::Following => {
                let Some(entry) = shard.log.get(worker.read) else {
                    return;
                };
                worker.read += 1;
                worker.read_frontier = entry.upper;
                let message = match entry.id.filter(|id| worker.own.contains(id)) {
                    Some(id) => ReadBack::Own(id),
                    None if self.setup.mode == Mode::Ingest => return,
                    None => ReadBack::Rows(self.local(index, shard, &entry.files)),
                };
                self.workers[index].inbox.push_back(message);
            }
        }
    }

    /// Goes on from the newest version, as one whose next entry was cleaned up.
    pub(super) fn jump(&mut self, index: usize, shard: &Shard) {
        let worker = &self.workers[index];
        let (Reader::Following, Frontier::At(from)) = (&worker.reader, worker.read_frontier) else {
            return;
        };
        if worker.read == shard.log.len() {
            return;
        }
        let files: Vec<FileId> = shard.live().collect();
        let mut rows = self.local(index, shard, &files);
        rows.retain(|(_, time, _)| *time >= from);
        let worker = &mut self.workers[index];
        if self.setup.mode == Mode::View {
            worker.inbox.push_back(ReadBack::Rows(rows));
        }
        worker.read = shard.log.len();
        worker.read_frontier = shard.upper;
    }

    /// As the task does: drops what agrees, and tells the reader which buckets differ.
    pub(super) fn compare(&mut self, index: usize) {
        let (bucket, full_read_back) = (|row| self.bucket(row), self.setup.full_read_back);
        let worker = &self.workers[index];
        let Reader::Pinned { cutoff, rows, .. } = &worker.reader else {
            panic!("a version is pinned");
        };
        let cutoff = *cutoff;
        let mut differences: BTreeMap<u8, i64> = BTreeMap::new();
        let desired = worker
            .corrections
            .iter()
            .map(|((row, time), diff)| (row, time, *diff));
        let held = rows.iter().map(|(row, time, diff)| (row, time, -diff));
        for (row, time, diff) in desired.chain(held) {
            if *time <= cutoff {
                *differences.entry(*row).or_default() += diff;
            }
        }
        let differ: BTreeSet<u8> = differences
            .into_iter()
            .filter(|(_, diff)| *diff != 0 || full_read_back)
            .map(|(row, _)| bucket(row))
            .collect();
        let agreed: Vec<(u8, Time)> = worker
            .corrections
            .keys()
            .filter(|(row, time)| *time <= cutoff && !differ.contains(&bucket(*row)))
            .copied()
            .collect();
        let worker = &mut self.workers[index];
        for key in agreed {
            worker.corrections.remove(&key);
        }
        let Reader::Pinned { verdict, .. } = &mut worker.reader else {
            unreachable!()
        };
        assert!(verdict.replace(differ).is_none(), "it compares once");
    }
}
