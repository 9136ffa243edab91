//! Every schedule there is, on a small scale: the states of mint, write and append over a model shard, beside rivals,
//! with kills and lost races, searched by Stateright.
//!
//! The rival is one of whom nothing is known but that it is right: at any moment it may seal any times with the exact
//! contents. It stands for any number of replicas, since each of them is checked to be such a rival; two whole
//! instances beside each other are searched too, on a smaller scale.
//!
//! Where an outcome is unknown to whoever began something, all outcomes are searched: what somebody who stops or dies had
//! under way happens at any later time, or never.
//!
//! Each state that can be reached is exact at all sealed times, with everything else that the model asserts; and one
//! from which nothing goes on is the end: the shard final, every batch answered, no file left behind. So progress is a
//! safety property here, and needs no fairness.
//!
//! What is left out for the sake of size is what differs in degree: data arrives when its time is complete, and write
//! sees the frontier of the collection as mint does. Random schedules have those (`tests/protocol.rs`).
//!
//! `EXHAUSTIVE` names the searches: `small` (the default) or `large`.

mod model;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use model::choices::Choices;
use model::{Deal, Setup, World};
use mvsink::{Frontier, Mode};
use stateright::{Checker, Model, Property};

/// What can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    /// How many instances may still be killed.
    crashes: u8,
    /// What must not be, in words.
    failure: Option<String>,
}

/// What an instance does, and what comes of it.
#[derive(Clone, PartialEq)]
struct Step {
    words: String,
    next: Box<State>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// One way to decide: what was decided before, and the first of everything after that.
#[derive(Default)]
struct Decided {
    picks: Vec<(usize, usize)>,
    next: usize,
}

impl Decided {
    /// The next way to decide; false after the last.
    fn advance(&mut self) -> bool {
        self.next = 0;
        while let Some((pick, of)) = self.picks.pop() {
            if pick + 1 < of {
                self.picks.push((pick + 1, of));
                return true;
            }
        }
        false
    }
}

impl Choices for Decided {
    fn below(&mut self, n: usize) -> usize {
        if self.next == self.picks.len() {
            self.picks.push((0, n));
        }
        let (pick, of) = self.picks[self.next];
        assert_eq!(of, n, "the same is decided in the same order");
        self.next += 1;
        pick
    }

    fn degree(&mut self, _: usize) -> usize {
        0
    }
}

/// A search.
#[derive(Clone)]
struct Search {
    setup: Setup,
    crashes: u8,
    /// Whether there is a rival beside the instances of whom nothing is known but that what it writes is right: it
    /// stands for any number of others.
    rival: bool,
    /// Updates are at the times below this one.
    times: u64,
}

/// Does something to a copy of the state; a panic is a failure of what comes of it.
fn after(state: &State, act: impl FnOnce(&mut State)) -> State {
    let mut next = state.clone();
    let done = catch_unwind(AssertUnwindSafe(|| act(&mut next)));
    if let Err(panic) = done {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        next.failure = Some(text.unwrap_or_else(|| "a panic".to_owned()));
    }
    next
}

impl Model for Search {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            world: World::new(self.setup.clone()),
            crashes: self.crashes,
            failure: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        if state.failure.is_some() {
            return;
        }
        let mut add = |words: &dyn Fn() -> String, next: State| {
            if next != *state {
                actions.push(Step {
                    words: words(),
                    next: Box::new(next),
                });
            }
        };
        let instances = || state.world.instances.iter().enumerate();
        let may = |at: usize, worker, deal| {
            let instance = &state.world.instances[at];
            instance.may(worker, deal, &state.world.shard)
        };
        // A description that has come to append is taken up first: what goes on elsewhere meanwhile makes no difference
        // to it, nor it to that.
        let mut workers = instances().flat_map(|(at, it)| (0..it.workers()).map(move |w| (at, w)));
        let urgent = workers.find(|(at, worker)| may(*at, *worker, Deal::Description));
        if let Some((at, worker)) = urgent {
            let next = after(state, |next| {
                let mut decided = Decided::default();
                next.world
                    .act(at, worker, Deal::Description, 0, &mut decided);
            });
            return add(
                &|| format!("instance {at}, worker {worker}: {:?}", Deal::Description),
                next,
            );
        }
        for (at, instance) in instances() {
            for worker in 0..instance.workers() {
                for deal in Deal::ALL {
                    if !may(at, worker, deal) {
                        continue;
                    }
                    let mut decided = Decided::default();
                    loop {
                        let next = after(state, |next| {
                            next.world.act(at, worker, deal, 0, &mut decided);
                        });
                        let picks: Vec<_> = decided.picks.iter().map(|(pick, _)| *pick).collect();
                        add(
                            &|| format!("instance {at}, worker {worker}: {deal:?} {picks:?}"),
                            next,
                        );
                        if !decided.advance() {
                            break;
                        }
                    }
                }
            }
            if state.crashes > 0 {
                let next = after(state, |next| {
                    next.crashes -= 1;
                    next.world.restart(at, 0);
                });
                add(&|| format!("instance {at} is killed"), next);
            }
        }
        if let (true, Frontier::At(upper)) = (self.rival, state.world.shard.upper) {
            let later = (upper + 1..=self.times).map(Frontier::At);
            for to in later.chain([Frontier::Empty]) {
                let next = after(state, |next| next.world.rival(to));
                add(&|| format!("the rival seals up to {to}"), next);
            }
        }
        for put in 0..state.world.shard.late() {
            for (lands, words) in [(true, "lands"), (false, "never lands")] {
                let next = after(state, |next| next.world.decide_late(put, lands));
                add(&|| format!("late put {put} {words}"), next);
            }
        }
        let stuck = state.crashes == 0 && actions.is_empty();
        if stuck {
            let end = after(state, |end| {
                assert!(end.world.is_at_its_end(), "nothing goes on before the end");
                end.world.clone().end();
            });
            if end.failure.is_some() {
                actions.push(Step {
                    words: "the end".to_owned(),
                    next: Box::new(end),
                });
            }
        }
    }

    fn next_state(&self, _: &State, step: Step) -> Option<State> {
        Some(*step.next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(
            "all is as it must be",
            |_, state: &State| state.failure.is_none(),
        )]
    }
}

impl Search {
    /// So many instances of a view of a row for each worker, which comes at one time and goes at another.
    fn new(instances: usize, workers: usize, times: u64) -> Self {
        let updates = (0..times).flat_map(|time| {
            // Each worker has an update at the first time, and they take turns after that.
            let rows = 0..u8::try_from(workers).unwrap();
            rows.filter(move |row| time == 0 || u64::from(*row) == time % workers as u64)
                .map(move |row| (row, time, if time % 2 == 0 { 1 } else { -1 }))
        });
        Search {
            setup: Setup {
                instances,
                updates: updates.collect(),
                as_ofs: vec![0; instances],
                ..Setup::quiet(Mode::View, workers)
            },
            times,
            crashes: 0,
            rival: false,
        }
    }

    fn run(self) {
        let begun = Instant::now();
        let rival = if self.rival { ", any rival" } else { "" };
        let words = format!(
            "{} instances of {} workers, {} times, {} kills{rival}",
            self.setup.instances, self.setup.workers, self.times, self.crashes
        );
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let checker = self.checker().threads(threads).spawn_dfs().join();
        println!(
            "{words}: {} states, {} steps between them, {} deep, {:.0} s",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            begun.elapsed().as_secs_f64()
        );
        checker.assert_properties();
    }
}

/// Runs these searches, one after the other. Panics are what a search finds, and told by it.
fn search(all: impl IntoIterator<Item = Search>) {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let all: Vec<_> = all.into_iter().collect();
    let ran = catch_unwind(AssertUnwindSafe(|| all.into_iter().for_each(Search::run)));
    std::panic::set_hook(told);
    if let Err(panic) = ran {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_schedule_is_exact_and_comes_to_its_end() {
    let beside_any_rival = |workers, times| Search {
        rival: true,
        ..Search::new(1, workers, times)
    };
    // A staged file vanishes, and a put lands when nobody waits for it any more.
    let vanishing = |mut search: Search| {
        search.setup.vanish = 1;
        search
    };
    let late = |mut search: Search| {
        search.setup.late = 1;
        search
    };
    match std::env::var("EXHAUSTIVE").as_deref() {
        Ok("large") => search([
            Search {
                crashes: 1,
                ..beside_any_rival(1, 3)
            },
            beside_any_rival(1, 4),
            beside_any_rival(2, 1),
            Search::new(2, 1, 1),
            vanishing(beside_any_rival(1, 2)),
            late(beside_any_rival(1, 2)),
        ]),
        Ok("small") | Err(_) => search([
            beside_any_rival(1, 2),
            vanishing(beside_any_rival(1, 1)),
            late(beside_any_rival(1, 1)),
        ]),
        Ok(other) => panic!("EXHAUSTIVE={other} is neither small nor large"),
    }
}
