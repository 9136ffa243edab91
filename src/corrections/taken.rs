//! Updates taken out of corrections that may lie on disk.

use std::sync::Arc;

use mvsink_persist::Frontier;

use super::run::{Format, Run, Window, windows};
use super::{Corrections, Drained};
use crate::error::Error;
use crate::time::{Diff, Time};

/// Rows of a window are taken in by containers of this many.
const CONTAINER_ROWS: usize = 4096;

/// Updates taken out of [`Bounded`](super::Bounded) corrections, for one batch: page by page, since they may not fit memory at once.
pub(crate) struct Taken<D, T, R, H> {
    /// Shared with whoever encodes it.
    pub(super) memory: Arc<Drained<D, T, R>>,
    pub(super) runs: Vec<Run<T>>,
    windows: Vec<Window>,
    since: Option<T>,
    hash: H,
    format: Arc<dyn Format<D>>,
    /// The page that was read last, beside the first.
    page: Option<(usize, Drained<D, T, R>)>,
}

/// How far a batch was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bookmark {
    page: usize,
    row: usize,
}

impl<D: Ord, T: Time, R: Diff, H: Fn(&D) -> u64 + Clone> Taken<D, T, R, H> {
    /// What was drained in memory, or on disk, to be read in windows of about `window_bytes` bytes; either is empty.
    pub(super) fn new(
        memory: Drained<D, T, R>,
        runs: Vec<Run<T>>,
        window_bytes: usize,
        since: Option<T>,
        hash: H,
        format: Arc<dyn Format<D>>,
    ) -> Self {
        debug_assert!(memory.is_empty() || runs.is_empty(), "one place");
        Taken {
            memory: Arc::new(memory),
            windows: windows(&runs, window_bytes),
            runs,
            since,
            hash,
            format,
            page: None,
        }
    }

    /// The number of updates, some of which may yet cancel if they are on disk.
    pub(crate) fn len(&self) -> usize {
        self.memory.len() + self.runs.iter().map(Run::rows).sum::<usize>()
    }

    /// All updates; `None` if any is on disk.
    pub(crate) fn in_memory(&self) -> Option<Arc<Drained<D, T, R>>> {
        (!self.has_spilled()).then(|| Arc::clone(&self.memory))
    }

    /// True if any update is on disk.
    pub(crate) fn has_spilled(&self) -> bool {
        !self.runs.is_empty()
    }

    /// The bytes held on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.runs.iter().map(Run::bytes).sum()
    }

    /// The next updates, `rows` of them or fewer; `None` at the end. All of a batch are distinct, none has a zero
    /// difference. What is on disk is read a window at a time, which may fail: then try again.
    pub(crate) fn next(
        &mut self,
        at: &mut Bookmark,
        rows: usize,
    ) -> Result<Option<impl ExactSizeIterator<Item = (&D, T, i64)>>, Error> {
        while at.page <= self.windows.len() {
            let len = self.page(at.page)?.len();
            let begin = at.row;
            if begin < len {
                at.row = len.min(begin.saturating_add(rows));
                let end = at.row;
                return Ok(Some(self.page(at.page)?.range(begin..end)));
            }
            *at = Bookmark {
                page: at.page + 1,
                row: 0,
            };
        }
        Ok(None)
    }

    #[cfg(test)]
    pub(super) fn page_rows(&self) -> usize {
        self.page.as_ref().map_or(0, |(_, rows)| rows.len())
    }

    /// The updates of a page: the first is in memory, the others are windows of the runs.
    fn page(&mut self, page: usize) -> Result<&Drained<D, T, R>, Error> {
        let Some(window) = page.checked_sub(1).and_then(|at| self.windows.get(at)) else {
            return Ok(&self.memory);
        };
        if self.page.as_ref().is_none_or(|(read, _)| *read != page) {
            // Memory is for one.
            self.page = None;
            let hash = self.hash.clone();
            let mut rows = load(&self.runs, *window, self.since, hash, &*self.format)?;
            self.page = Some((page, rows.drain(Frontier::Empty)));
        }
        let (_, drained) = self.page.as_ref().expect("it was just read");
        Ok(drained)
    }
}

/// The rows of a window of hashes, all of them due.
pub(super) fn load<D: Ord, T: Time, R: Diff, H: Fn(&D) -> u64 + Clone>(
    runs: &[Run<T>],
    window: Window,
    since: Option<T>,
    hash: H,
    format: &dyn Format<D>,
) -> Result<Corrections<D, T, R, H>, Error> {
    let mut loaded = Corrections::new(hash.clone());
    if let Some(since) = since {
        loaded.advance(since);
    }
    loaded.make_due_before(Frontier::Empty);
    let mut rows = Vec::new();
    let take_in = |rows: &mut Vec<_>, loaded: &mut Corrections<D, T, R, H>| {
        let (rows, diffs) = typed(std::mem::take(rows));
        loaded.insert_sums(rows, &diffs);
    };
    for run in runs {
        run.read_window(format, hash.clone(), window, |row| {
            if window.contains(loaded.hash_of(&row.0)) {
                rows.push(row);
            }
            if rows.len() == CONTAINER_ROWS {
                take_in(&mut rows, &mut loaded);
            }
        })?;
    }
    take_in(&mut rows, &mut loaded);
    Ok(loaded)
}

/// Rows as memory keeps them. What a difference's type cannot hold is told apart from its row.
pub(super) fn typed<D, T, R: Diff>(rows: Vec<(D, T, i64)>) -> (Vec<(D, T, R)>, Vec<i64>) {
    let diffs: Vec<i64> = rows.iter().map(|(.., diff)| *diff).collect();
    (rows_of(rows), diffs)
}

/// Rows as memory keeps them, with zero for a difference that its type cannot hold.
pub(super) fn rows_of<D, T, R: Diff>(rows: Vec<(D, T, i64)>) -> Vec<(D, T, R)> {
    let zero = || R::from_i64(0).expect("every type of difference holds 0");
    rows.into_iter()
        .map(|(data, time, diff)| (data, time, R::from_i64(diff).unwrap_or_else(zero)))
        .collect()
}
