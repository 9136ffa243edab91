//! What the schedules of the protocol's tests cannot tell apart, step by step.

use mvsink_persist::{CommitId, Frontier};

use super::{Effect, Input, State};
use crate::description::Description;

fn step(state: &mut State<u64>, input: Input<u64>) -> Vec<Effect<u64>> {
    let mut effects = Vec::new();
    state.step(input, &mut effects);
    state.decide(&mut effects);
    effects
}

/// A write that had nothing to compare with.
fn fresh() -> State<u64> {
    let mut state = State::new(0);
    assert_eq!(step(&mut state, Input::Settled), []);
    state
}

#[test]
fn what_is_staged_ahead_is_recalled_when_its_lower_is_closed() {
    let mut state = fresh();
    let opened = step(&mut state, Input::Provisional(0, true));
    assert_eq!(opened, [Effect::StageAhead(0)]);
    // Nothing is closed by this, nor by another lower.
    assert_eq!(step(&mut state, Input::Provisional(0, true)), []);
    assert_eq!(step(&mut state, Input::Provisional(1, false)), []);
    let closed = step(&mut state, Input::Provisional(0, false));
    assert_eq!(closed, [Effect::Recall]);
    // Once.
    assert_eq!(step(&mut state, Input::Provisional(0, false)), []);
}

#[test]
fn a_read_back_that_was_left_behind_compares_before_anything_is_written() {
    let mut state = fresh();
    let description = |seq: u64| Description {
        id: CommitId { nonce: 7, seq },
        lower: 10 * seq,
        upper: Frontier::At(10 * seq + 10),
        appender: 0,
    };
    step(&mut state, Input::Desired(Frontier::At(10)));
    let first = description(0);
    step(&mut state, Input::Description(first.clone()));
    let sent = step(&mut state, Input::Staged(first.id));
    assert_eq!(sent, [Effect::Send(first.clone())]);
    // What became of it is not told any more.
    let lost = step(&mut state, Input::Pinned(19));
    assert_eq!(lost, [Effect::SettleLost(first.id)]);
    // Other workers may still come to where this one was.
    let passed = step(&mut state, Input::Persist(Frontier::At(5)));
    let expected = [Effect::CheckRival(5), Effect::Advance(Frontier::At(5))];
    assert_eq!(passed, expected);
    let next = description(2);
    assert_eq!(step(&mut state, Input::Description(next.clone())), []);
    let complete = step(&mut state, Input::Desired(Frontier::At(30)));
    assert_eq!(complete, [Effect::Compare]);
    assert_eq!(step(&mut state, Input::Settled), []);
    let passed = step(&mut state, Input::Persist(Frontier::At(20)));
    let expected = [
        Effect::CheckRival(20),
        Effect::Advance(Frontier::At(20)),
        Effect::Write(next),
    ];
    assert_eq!(passed, expected);
}

#[test]
fn a_batch_is_being_staged_until_its_part_is_sent() {
    let mut state = fresh();
    let description = Description {
        id: CommitId { nonce: 7, seq: 3 },
        lower: 0,
        upper: Frontier::At(1),
        appender: 0,
    };
    step(&mut state, Input::Desired(Frontier::At(1)));
    assert_eq!(state.staging(), None);
    let effects = step(&mut state, Input::Description(description.clone()));
    assert_eq!(effects, [Effect::Write(description.clone())]);
    assert_eq!(state.staging(), Some(&description));
    let effects = step(&mut state, Input::Staged(description.id));
    assert_eq!(effects, [Effect::Send(description)]);
    assert_eq!(state.staging(), None);
}
