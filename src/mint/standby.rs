//! Standby: whether a replica leaves the writing to its rivals for now.
//!
//! Replicas that write one shard stage everything, each of them, and only one of each round's batches is committed.
//! With standby, one that sees its rivals win again and again stops writing, and starts again when they have been
//! silent for a while though there is something to write:
//!
//! ```text
//!              LOSSES commits of rivals, none of ours between
//!   writing ───────────────────────────────────────────────────▶ standing by
//!      ▲                                                              │
//!      └──── one of ours ──── mints ◀──── silence, from the moment that there is something to write
//! ```
//!
//! Invariants, by name:
//!
//! - *bounded silence*: what there is to write is written at the latest when the upper has not moved for the silence;
//! - *somebody writes*: who stands by has seen a commit of somebody else after the last of its own.
//!
//! The clock is an input, milliseconds from any origin.

/// Commits of rivals, with none of ours between, after which a replica stands by. One is what losing a single race
/// looks like.
pub const LOSSES: u32 = 2;

/// Pure, as [`super::State`] is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Standby {
    /// How long rivals may be silent, in ms; `None` while this replica never stands by.
    silence_ms: Option<u64>,
    now_ms: u64,
    /// Commits of rivals since the last of ours.
    losses: u32,
    /// Since when there is something to write, and the upper has not moved.
    waiting_ms: Option<u64>,
}

impl Standby {
    pub(super) fn configure(&mut self, silence_ms: Option<u64>) {
        self.silence_ms = silence_ms;
    }

    pub(super) fn clock(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// The upper was moved by a commit of ours, or of a rival.
    pub(super) fn committed(&mut self, ours: bool) {
        self.losses = match ours {
            true => 0,
            false => self.losses.saturating_add(1),
        };
    }

    /// The upper has moved: the silence is broken.
    pub(super) fn moved(&mut self) {
        self.waiting_ms = None;
    }

    /// True if rivals are to write for now.
    pub(super) fn stands_by(&self) -> bool {
        self.silence_ms.is_some() && self.losses >= LOSSES
    }

    /// There is something to write: `None` if it is to be written now, else when to ask again.
    pub(super) fn wait(&mut self) -> Option<u64> {
        let silence = self.silence_ms.filter(|_| self.losses >= LOSSES)?;
        let since = *self.waiting_ms.get_or_insert(self.now_ms);
        let end = since.saturating_add(silence);
        (self.now_ms < end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use mvsink_persist::{CommitId, Frontier};

    use crate::mint::{Effect, Input, Role, State};
    use crate::target::Mode;

    const OURS: u128 = 7;
    const SILENCE_MS: u64 = 1000;

    /// A mint that may write and stand by, driven by hand.
    struct Mint {
        state: State<u64>,
        upper: u64,
    }

    impl Mint {
        fn new() -> Self {
            let state = State::new(Mode::View, Frontier::At(0), 0, 1, OURS);
            let mut mint = Mint { state, upper: 0 };
            mint.step(Input::Standby(Some(SILENCE_MS)));
            mint.step(Input::ReadOnly(false));
            mint.step(Input::Upper(Frontier::At(0)));
            mint
        }

        fn step(&mut self, input: Input<u64>) -> Vec<Effect<u64>> {
            let mut effects = Vec::new();
            self.state.step(input, &mut effects);
            effects.retain(|effect| !matches!(effect, Effect::Downgrade(_)));
            effects
        }

        /// The upper is moved on by one.
        fn commit(&mut self, nonce: u128) -> Vec<Effect<u64>> {
            self.upper += 1;
            let seq = self.upper;
            let mut effects = self.step(Input::Committed(CommitId { nonce, seq }));
            effects.extend(self.step(Input::Upper(Frontier::At(self.upper))));
            effects
        }
    }

    fn mints(effects: &[Effect<u64>]) -> bool {
        let mint = |effect: &Effect<u64>| matches!(effect, Effect::Mint(_));
        effects.iter().any(mint)
    }

    #[test]
    fn a_replica_that_keeps_losing_waits_for_a_silence_of_its_length() {
        let mut mint = Mint::new();
        assert!(mints(&mint.step(Input::Desired(Frontier::At(100)))));
        // One loss is nothing.
        assert!(mints(&mint.commit(1)));
        mint.step(Input::Clock(50));
        let effects = mint.commit(2);
        let wake = Effect::Wake(50 + SILENCE_MS);
        assert_eq!(effects, [wake, Effect::Role(Role::StandingBy)]);
        // A commit breaks the silence.
        mint.step(Input::Clock(900));
        assert_eq!(mint.commit(1), [Effect::Wake(900 + SILENCE_MS)]);
        assert_eq!(mint.step(Input::Clock(900 + SILENCE_MS - 1)), []);
        let effects = mint.step(Input::Clock(900 + SILENCE_MS));
        assert!(mints(&effects));
        assert_eq!(effects[1], Effect::Role(Role::Writing));
        // Who wins writes on, who loses stands by again.
        let mut loser = Mint {
            state: mint.state.clone(),
            upper: mint.upper,
        };
        assert!(mints(&mint.commit(OURS)));
        assert!(mints(&mint.commit(OURS)));
        assert!(!mints(&loser.commit(1)));
    }

    #[test]
    fn silence_counts_only_while_there_is_something_to_write() {
        let mut mint = Mint::new();
        mint.commit(1);
        assert_eq!(mint.commit(1), [Effect::Role(Role::StandingBy)]);
        mint.step(Input::Clock(5000));
        let effects = mint.step(Input::Desired(Frontier::At(3)));
        assert_eq!(effects, [Effect::Wake(5000 + SILENCE_MS)]);
    }

    #[test]
    fn without_standby_losing_changes_nothing() {
        let mut mint = Mint::new();
        mint.step(Input::Desired(Frontier::At(100)));
        mint.commit(1);
        assert!(!mints(&mint.commit(1)));
        // Switched off while it stands by.
        let effects = mint.step(Input::Standby(None));
        assert!(mints(&effects));
        assert!((0..10).all(|_| mints(&mint.commit(1))));
    }
}
