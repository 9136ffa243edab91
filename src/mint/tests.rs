//! What the schedules of the protocol's tests cannot tell apart, step by step.

use mvsink_persist::{CommitId, Frontier};

use super::{Effect, Input, State};
use crate::description::Outcome;
use crate::target::Mode;

fn bumps(effects: &[Effect<u64>]) -> Option<CommitId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Bump { id, .. } => Some(*id),
        _ => None,
    })
}

#[test]
fn a_bump_that_was_cancelled_is_begun_again_and_no_other() {
    let mut state = State::new(Mode::View, Frontier::At(5), 0, 1, 7);
    let mut step = |input| {
        let mut effects = Vec::new();
        state.step(input, &mut effects);
        bumps(&effects)
    };
    assert_eq!(step(Input::Upper(Frontier::At(0))), None);
    let first = step(Input::ReadOnly(false)).expect("the upper is below the as-of");
    let other = CommitId {
        seq: first.seq + 1,
        ..first
    };
    assert_eq!(step(Input::Bumped(other, Outcome::Cancelled)), None);
    let second = step(Input::Bumped(first, Outcome::Cancelled));
    assert!(second.is_some_and(|second| second != first), "{second:?}");
}
