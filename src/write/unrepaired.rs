//! What the table of a view differs in from its collection, as one worker knows, until a batch repairs it.
//!
//! ```text
//!   an edit is read back ──▶ edited ── drained ──▶ in flight ── committed ──▶ nothing
//!                              ▲                       │
//!                              '───────── lost ────────'
//! ```
//!
//! How many rows that are is counted when the edit comes, and whenever the read-back has come further: before times are
//! advanced exactly, later with what is still to come at the upper. A rival may have repaired it: then nothing is left.

/// Where the rows of the edits are that were read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    /// Some were taken in since the last batch was drained.
    pub(super) waiting: bool,
    /// Some are in the batch in flight, or staged ahead of one.
    in_flight: bool,
}

impl Edits {
    /// True if no edit is waiting to be repaired.
    pub(super) fn is_nothing(&self) -> bool {
        !self.waiting && !self.in_flight
    }

    /// What was taken in so far is part of the next batch.
    pub(super) fn drained(&mut self) {
        self.in_flight |= std::mem::take(&mut self.waiting);
    }

    /// What was drained is still to be written.
    pub(super) fn lost(&mut self) {
        self.waiting |= std::mem::take(&mut self.in_flight);
    }

    /// What was drained is in the table. True if that repairs all.
    pub(super) fn committed(&mut self) -> bool {
        std::mem::take(&mut self.in_flight) && !self.waiting
    }
}

/// Pure: no clock, no I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unrepaired<T> {
    pub(super) edits: Edits,
    /// How many edits were taken in.
    taken: u64,
    /// The frontier of the read-back.
    pub(super) upper: Option<T>,
    /// With how many edits had been taken in when that was found.
    found: Option<(Found<T>, u64)>,
}

/// What one worker has found its table to differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// Nothing, or nothing any more.
    Nothing,
    /// So many rows at the upper; `None` if they were not counted.
    Rows(Option<usize>, T),
}

impl<T> Default for Unrepaired<T> {
    fn default() -> Self {
        Unrepaired {
            edits: Edits::default(),
            taken: 0,
            upper: None,
            found: None,
        }
    }
}

impl<T: Copy> Unrepaired<T> {
    /// The rows of so many edits were taken in.
    pub(super) fn take_in(&mut self, edits: u64) {
        self.edits.waiting |= edits > 0;
        self.taken += edits;
    }

    /// What was drained is in the table.
    pub(super) fn committed(&mut self) {
        if self.edits.committed() {
            self.found = Some((Found::Nothing, self.taken));
        }
    }

    /// So many rows are left to be corrected; `None` if they were not counted.
    pub(super) fn found(&mut self, left: Option<usize>) {
        if left == Some(0) {
            self.edits.waiting = false;
        }
        let found = match self.upper {
            _ if self.edits.is_nothing() => Found::Nothing,
            Some(upper) if self.edits.waiting => Found::Rows(left, upper),
            // A batch with it is under way.
            _ => return,
        };
        self.found = Some((found, self.taken));
    }

    /// What was found out since this was last asked, and of how many edits: later ones are still to be counted.
    pub(super) fn take_found(&mut self) -> Option<(Found<T>, u64)> {
        self.found.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited() -> Unrepaired<u64> {
        let mut unrepaired = Unrepaired {
            upper: Some(5),
            ..Unrepaired::default()
        };
        unrepaired.take_in(1);
        unrepaired.found(Some(3));
        assert_eq!(unrepaired.take_found(), Some((Found::Rows(Some(3), 5), 1)));
        assert_eq!(unrepaired.take_found(), None);
        unrepaired
    }

    #[test]
    fn an_edit_is_repaired_when_the_batch_with_it_is_committed() {
        let mut unrepaired = edited();
        unrepaired.edits.drained();
        assert!(!unrepaired.edits.is_nothing());
        unrepaired.edits.lost();
        unrepaired.found(Some(3));
        assert_eq!(unrepaired.take_found(), Some((Found::Rows(Some(3), 5), 1)));
        unrepaired.edits.drained();
        unrepaired.committed();
        assert_eq!(unrepaired.take_found(), Some((Found::Nothing, 1)));
        assert!(unrepaired.edits.is_nothing());
    }

    #[test]
    fn an_edit_that_came_after_the_batch_was_drained_is_not_repaired_by_it() {
        let mut unrepaired = edited();
        unrepaired.edits.drained();
        unrepaired.take_in(1);
        unrepaired.committed();
        assert_eq!(unrepaired.take_found(), None);
        unrepaired.upper = Some(6);
        unrepaired.found(Some(1));
        assert_eq!(unrepaired.take_found(), Some((Found::Rows(Some(1), 6), 2)));
    }

    #[test]
    fn an_edit_that_comes_with_the_commit_before_it_is_still_to_be_counted() {
        let mut unrepaired = edited();
        unrepaired.edits.drained();
        unrepaired.committed();
        unrepaired.take_in(1);
        assert_eq!(unrepaired.take_found(), Some((Found::Nothing, 1)));
    }

    #[test]
    fn an_edit_that_a_rival_has_repaired_is_none() {
        let mut unrepaired = edited();
        unrepaired.found(Some(0));
        assert_eq!(unrepaired.take_found(), Some((Found::Nothing, 1)));
        assert!(unrepaired.edits.is_nothing());
    }
}
