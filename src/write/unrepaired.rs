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

/// Pure: no clock, no I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unrepaired<T> {
    /// Rows of an edit were taken in since the last batch was drained.
    pub(super) edited: bool,
    in_flight: bool,
    /// The frontier of the read-back.
    pub(super) upper: Option<T>,
    found: Option<Found<T>>,
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
            edited: false,
            in_flight: false,
            upper: None,
            found: None,
        }
    }
}

impl<T: Copy> Unrepaired<T> {
    /// True if no edit is waiting to be repaired.
    pub(super) fn is_nothing(&self) -> bool {
        !self.edited && !self.in_flight
    }

    /// What was taken in so far is part of the next batch.
    pub(super) fn drained(&mut self) {
        self.in_flight |= std::mem::take(&mut self.edited);
    }

    /// What was drained is still to be written.
    pub(super) fn lost(&mut self) {
        self.edited |= std::mem::take(&mut self.in_flight);
    }

    /// What was drained is in the table.
    pub(super) fn committed(&mut self) {
        if std::mem::take(&mut self.in_flight) && !self.edited {
            self.found = Some(Found::Nothing);
        }
    }

    /// So many rows are left to be corrected; `None` if they were not counted.
    pub(super) fn found(&mut self, left: Option<usize>) {
        if left == Some(0) {
            self.edited = false;
        }
        self.found = match self.upper {
            _ if self.is_nothing() => Some(Found::Nothing),
            Some(upper) if self.edited => Some(Found::Rows(left, upper)),
            // A batch with it is under way.
            _ => return,
        };
    }

    pub(super) fn take_found(&mut self) -> Option<Found<T>> {
        self.found.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited() -> Unrepaired<u64> {
        let mut unrepaired = Unrepaired {
            edited: true,
            upper: Some(5),
            ..Unrepaired::default()
        };
        unrepaired.found(Some(3));
        assert_eq!(unrepaired.take_found(), Some(Found::Rows(Some(3), 5)));
        assert_eq!(unrepaired.take_found(), None);
        unrepaired
    }

    #[test]
    fn an_edit_is_repaired_when_the_batch_with_it_is_committed() {
        let mut unrepaired = edited();
        unrepaired.drained();
        assert!(!unrepaired.is_nothing());
        unrepaired.lost();
        unrepaired.found(Some(3));
        assert_eq!(unrepaired.take_found(), Some(Found::Rows(Some(3), 5)));
        unrepaired.drained();
        unrepaired.committed();
        assert_eq!(unrepaired.take_found(), Some(Found::Nothing));
        assert!(unrepaired.is_nothing());
    }

    #[test]
    fn an_edit_that_came_after_the_batch_was_drained_is_not_repaired_by_it() {
        let mut unrepaired = edited();
        unrepaired.drained();
        unrepaired.edited = true;
        unrepaired.committed();
        assert_eq!(unrepaired.take_found(), None);
        unrepaired.upper = Some(6);
        unrepaired.found(Some(1));
        assert_eq!(unrepaired.take_found(), Some(Found::Rows(Some(1), 6)));
    }

    #[test]
    fn an_edit_that_a_rival_has_repaired_is_none() {
        let mut unrepaired = edited();
        unrepaired.found(Some(0));
        assert_eq!(unrepaired.take_found(), Some(Found::Nothing));
        assert!(unrepaired.is_nothing());
    }
}
