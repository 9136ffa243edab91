//! Disputes: replicas of one view that do not agree on its contents.
//!
//! A view that computes other results on another replica (it reads a clock, a random number, the order in which rows
//! arrive) has the replicas correct each other's rows for ever. Each of them sees, round by round:
//!
//! ```text
//!   it commits rows;  a rival moves the upper on to u;  desired is complete up to u,
//!   and desired − persist is not empty before u
//! ```
//!
//! Replicas that agree leave nothing there: what the rival committed is what this one would have. One round may be
//! somebody else's fault (an edit by another program just before; a rival that starts from a later as-of), so a round
//! that ends in disagreement adds to a score, one that ends in agreement takes half of that away again.

/// What a round of disagreement adds.
const DISAGREEMENT: u32 = 2;

/// What a round of agreement takes away.
const AGREEMENT: u32 = 1;

/// The score from which on the view counts as not deterministic: three rounds in a row.
const DISPUTED: u32 = 3 * DISAGREEMENT;

/// The rounds of one worker. Pure: no clock, no I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disputes {
    /// Rows of this worker were committed, and no rival has disagreed since.
    committed: bool,
    score: u32,
    rounds: u64,
    updates: u64,
}

impl Disputes {
    /// A batch of ours was committed, with so many updates of this worker's.
    pub fn committed(&mut self, updates: usize) {
        self.committed |= updates > 0;
    }

    /// True if the next commit of a rival is to be compared with what we hold. Who has committed nothing has nothing
    /// to dispute: a view that is to replace another may differ from it as it likes until it writes.
    pub fn is_due(&self) -> bool {
        self.committed
    }

    /// A rival's commit left so many updates of this worker's to be corrected.
    pub fn compared(&mut self, updates: usize) {
        if updates == 0 {
            self.score = self.score.saturating_sub(AGREEMENT);
        } else {
            self.committed = false;
            self.score = (self.score + DISAGREEMENT).min(2 * DISPUTED);
            self.rounds += 1;
            self.updates += updates as u64;
        }
    }

    /// True if agreement would count.
    pub fn is_open(&self) -> bool {
        self.score > 0
    }

    /// True if the replicas compute different results.
    pub fn is_disputed(&self) -> bool {
        self.score >= DISPUTED
    }

    /// Rounds that ended in disagreement so far.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// The updates that were to be corrected after them.
    pub fn updates(&self) -> u64 {
        self.updates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(disputes: &mut Disputes, left: usize) {
        disputes.committed(1);
        if disputes.is_due() {
            disputes.compared(left);
        }
    }

    #[test]
    fn r25_three_rounds_of_disagreement_are_a_dispute() {
        let mut disputes = Disputes::default();
        (0..2).for_each(|_| round(&mut disputes, 5));
        assert!(!disputes.is_disputed());
        round(&mut disputes, 5);
        assert!(disputes.is_disputed());
        assert_eq!((disputes.rounds(), disputes.updates()), (3, 15));
        // It passes, when whatever it was has been put right.
        (0..20).for_each(|_| round(&mut disputes, 0));
        assert!(!disputes.is_disputed());
    }

    #[test]
    fn r25_an_agreement_between_takes_two_disagreements_more() {
        let mut disputes = Disputes::default();
        for left in [5, 5, 0, 5] {
            round(&mut disputes, left);
            assert!(!disputes.is_disputed());
        }
        round(&mut disputes, 5);
        assert!(disputes.is_disputed());
    }

    #[test]
    fn r25_a_disagreement_now_and_then_is_none() {
        let mut disputes = Disputes::default();
        for _ in 0..100 {
            round(&mut disputes, 1);
            (0..2).for_each(|_| round(&mut disputes, 0));
        }
        assert!(!disputes.is_disputed());
    }

    #[test]
    fn r25_who_commits_nothing_disputes_nothing() {
        let mut disputes = Disputes::default();
        disputes.committed(0);
        assert!(!disputes.is_due());
        disputes.committed(1);
        disputes.compared(1);
        // Corrected, and not the other way round yet.
        assert!(!disputes.is_due());
    }
}
