//! A world of sink instances over a model shard, driven by a seeded schedule.
//!
//! What is real: the states. What is modelled, as simply as possible: the shard (a vector of commits), the
//! files (a map), the channels (queues), the corrections (an ordered map), and Timely's promise that data
//! arrives before the frontier passes it.

#![allow(dead_code, reason = "each test crate uses its part")]

pub mod choices;
mod instance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use choices::{Aside, Choices};
pub use instance::{Deal, Instance};
use mvsink::{Frontier, Mode, Refresh};
use mvsink_persist::CommitId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub type Time = u64;
pub type Update = (u8, Time, i64);
pub type FileId = u64;

/// One run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Draws the schedule.
    pub seed: u64,
    pub mode: Mode,
    pub workers: usize,
    pub instances: usize,
    /// The collection, as every instance computes it.
    pub updates: Vec<Update>,
    /// What the second instance computes beside it, if it is not deterministic.
    pub differing: Vec<Update>,
    /// What the shard holds before anybody begins and should not; what is at or beyond its upper then, another
    /// program has put there.
    pub wrong: Vec<Update>,
    /// How many of the collection's updates at time 0 the shard holds too, before anybody begins.
    pub right: usize,
    /// The shard's since and upper before anybody begins.
    pub since: Time,
    pub held_upper: Time,
    /// The schedule of all instances.
    pub refresh: Refresh,
    pub until: Option<Time>,
    /// The as-of of each instance, in view mode.
    pub as_ofs: Vec<Time>,
    /// Whether workers of all instances but the last are torn down on the way.
    pub tear_down: bool,
    /// Whether instances are replaced by new ones on the way.
    pub restart: bool,
    /// Whether instances begin read-only, and are promoted and demoted for a while.
    pub read_only: bool,
    /// How long rivals may be silent, if instances stand by.
    pub standby: Option<u64>,
    pub full_read_back: bool,
    /// Whether first snapshots may be staged ahead.
    pub ahead: bool,
    /// Whether read-backs find the log cleaned up now and then.
    pub jumps: bool,
    /// How many staged files vanish before they are committed.
    pub vanish: u8,
    /// How many puts of those who stop or die may still land, long after.
    pub late: u8,
}

impl Setup {
    /// One instance of so many workers over an empty shard, without updates and without trouble.
    pub fn quiet(mode: Mode, workers: usize) -> Self {
        Setup {
            seed: 0,
            mode,
            workers,
            instances: 1,
            updates: Vec::new(),
            differing: Vec::new(),
            wrong: Vec::new(),
            right: 0,
            since: 0,
            held_upper: 0,
            refresh: Refresh::on_commit(),
            until: None,
            as_ofs: vec![0],
            tear_down: false,
            restart: false,
            read_only: false,
            standby: None,
            full_read_back: false,
            ahead: false,
            jumps: false,
            vanish: 0,
            late: 0,
        }
    }

    /// The time at which the sinks see what is at `time`.
    pub fn round_up(&self, time: Time) -> Option<Time> {
        let next = self.refresh.round_up(time)?;
        self.until.is_none_or(|until| next < until).then_some(next)
    }

    /// The last time before `time` at which the sinks see anything.
    pub fn last_before(&self, time: Time) -> Option<Time> {
        (0..time).rfind(|last| self.round_up(*last) == Some(*last))
    }

    /// How far the sinks see an input that is at this frontier.
    pub fn round_up_frontier(&self, frontier: Frontier<Time>) -> Frontier<Time> {
        frontier.time().and_then(|time| self.round_up(time)).into()
    }
}

/// What a run has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// All appends, in order.
    pub trace: Vec<String>,
    /// Whether some instance found that the replicas compute different results.
    pub disputed: bool,
    /// Batches that were staged and lost.
    pub lost: usize,
    /// The rows of the versions that read-backs started from which they read.
    pub rows_read_at_start: usize,
    /// Files that were staged ahead of their descriptions, and those of them that were recalled.
    pub staged_ahead: usize,
    pub recalled: usize,
}

/// One entry of the model's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub id: Option<CommitId>,
    pub upper: Frontier<Time>,
    pub files: Vec<FileId>,
}

/// A put of somebody who has stopped or died: it may land, as long as its slot is free.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LatePut {
    slot: usize,
    id: CommitId,
    lower: Time,
    upper: Frontier<Time>,
    /// `None` of a bump: what it seals repeats what there was.
    files: Option<Vec<FileId>>,
}

/// The model of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    pub log: Vec<Entry>,
    pub upper: Frontier<Time>,
    pub files: BTreeMap<FileId, Vec<Update>>,
    /// Files that others have deleted before they were committed, and how many more may be.
    vanished: BTreeSet<FileId>,
    vanish: u8,
    /// Puts that may still land, and how many more there may be.
    late: Vec<LatePut>,
    later: u8,
    /// What the contents must be: at most one truth a time. `None` if the instances differ.
    truth: Aside<Option<Vec<Update>>>,
    mode: Mode,
    lost: Aside<usize>,
    trace: Aside<Vec<String>>,
    pub rows_read_at_start: Aside<usize>,
    pub staged_ahead: Aside<usize>,
    pub recalled: Aside<usize>,
}

impl Shard {
    pub fn put(&mut self, id: FileId, updates: Vec<Update>) {
        let before = self.files.insert(id, updates);
        assert!(before.is_none(), "a file is put once");
    }

    pub fn delete(&mut self, files: &[FileId]) {
        for file in files {
            let referenced = self.log.iter().any(|entry| entry.files.contains(file));
            assert!(!referenced, "a file that a commit refers to is deleted");
            let was_there = self.files.remove(file).is_some() || self.vanished.remove(file);
            assert!(was_there, "a file is deleted once");
        }
    }

    /// True if another of the staged files may vanish.
    pub fn may_vanish(&self) -> bool {
        self.vanish > 0
    }

    /// Another program deletes a staged file.
    pub fn vanish(&mut self, file: FileId) {
        self.vanish -= 1;
        assert!(self.files.remove(&file).is_some(), "it was staged");
        self.vanished.insert(file);
    }

    /// True if a put may be left under way.
    pub fn may_be_late(&self) -> bool {
        self.later > 0
    }

    /// Nobody waits any more for this commit, whose put is under way.
    pub fn leave_put(
        &mut self,
        id: CommitId,
        lower: Time,
        upper: Frontier<Time>,
        files: Option<Vec<FileId>>,
    ) {
        if self.later == 0 || self.upper != Frontier::At(lower) {
            return;
        }
        self.later -= 1;
        self.late.push(LatePut {
            slot: self.log.len(),
            id,
            lower,
            upper,
            files,
        });
    }

    /// The puts that may still land.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// The files of puts that may still land: no sweeper deletes them before it has occupied their slot.
    fn of_late_puts(&self) -> BTreeSet<FileId> {
        let late = self.late.iter().flat_map(|put| put.files.iter().flatten());
        late.copied().collect()
    }

    /// A put lands at last, or does not. If its slot is taken, it cannot.
    pub fn decide_late(&mut self, put: usize, lands: bool) {
        let LatePut {
            slot,
            id,
            lower,
            upper,
            files,
        } = self.late.remove(put);
        let is_bump = files.is_none();
        let files = files.unwrap_or_default();
        if lands && slot == self.log.len() {
            for file in &files {
                let there = self.files.contains_key(file);
                assert!(there, "a commit that lands late refers to a deleted file");
            }
            assert!(
                self.append(id, lower, upper, &files),
                "nothing has moved the upper"
            );
            if !is_bump {
                self.check(lower, upper);
            }
            return;
        }
        // Its slot is the sweeper's, if nobody else's: then its files may go.
        let left: Vec<FileId> = files
            .into_iter()
            .filter(|file| self.files.contains_key(file))
            .collect();
        self.delete(&left);
    }

    /// Compare-and-append; true if it won.
    pub fn append(
        &mut self,
        id: CommitId,
        lower: Time,
        upper: Frontier<Time>,
        files: &[FileId],
    ) -> bool {
        self.trace.push(format!(
            "append {}: {lower}..{upper} {files:?} at {}",
            id.seq, self.upper
        ));
        assert!(Frontier::At(lower) < upper, "lower < upper");
        assert!(
            self.log.iter().all(|entry| entry.id != Some(id)),
            "no batch twice"
        );
        if self.upper != Frontier::At(lower) {
            assert!(
                self.upper > Frontier::At(lower),
                "nobody writes beyond the upper"
            );
            *self.lost += 1;
            return false;
        }
        for (row, time, _) in files.iter().flat_map(|file| &self.files[file]) {
            assert!(*time >= lower, "{row}: no staged time below its lower");
            assert!(
                upper.is_complete(time) || self.mode == Mode::View,
                "no staged time beyond its upper"
            );
            assert!(
                upper.is_complete(time),
                "{row}: staged at {time}, beyond {upper}"
            );
        }
        self.log.push(Entry {
            id: Some(id),
            upper,
            files: files.to_vec(),
        });
        self.upper = upper;
        true
    }

    /// The files of all commits.
    pub fn live(&self) -> impl Iterator<Item = FileId> {
        self.log.iter().flat_map(|entry| &entry.files).copied()
    }

    /// The rows of all commits up to time `at`, added up.
    fn contents(&self, at: Time) -> BTreeMap<u8, i64> {
        sum(self.live().flat_map(|file| &self.files[&file]), at)
    }

    /// The times `lower ≤ t < upper` were sealed by a batch: they hold what they must.
    pub fn check(&self, lower: Time, upper: Frontier<Time>) {
        let Some(truth) = &*self.truth else { return };
        let last = truth.iter().map(|(_, time, _)| time + 1).max();
        let last = last.unwrap_or(0).max(lower);
        for time in (lower..=last).filter(|time| upper.is_complete(time)) {
            assert_eq!(
                self.contents(time),
                sum(truth, time),
                "the contents at {time}"
            );
        }
    }
}

fn sum<'a>(updates: impl IntoIterator<Item = &'a Update>, at: Time) -> BTreeMap<u8, i64> {
    let mut sums = BTreeMap::new();
    for (row, time, diff) in updates {
        if *time <= at {
            *sums.entry(*row).or_default() += diff;
        }
    }
    sums.retain(|_, diff| *diff != 0);
    sums
}

/// Instances, and the shard that they share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    setup: Aside<Arc<Setup>>,
    pub shard: Shard,
    pub instances: Vec<Instance>,
    /// How many instances there have been.
    born: u128,
}

impl World {
    /// The instances, which know of nothing yet, and what was there before them.
    pub fn new(setup: Setup) -> Self {
        let setup = Arc::new(setup);
        let seen = setup.updates.iter();
        let seen = seen.filter_map(|(row, time, diff)| Some((*row, setup.round_up(*time)?, *diff)));
        let mut shard = Shard {
            log: Vec::new(),
            upper: Frontier::At(setup.held_upper),
            files: BTreeMap::new(),
            truth: Aside(setup.differing.is_empty().then(|| seen.collect())),
            vanished: BTreeSet::new(),
            vanish: setup.vanish,
            late: Vec::new(),
            later: setup.late,
            mode: setup.mode,
            lost: Aside::default(),
            trace: Aside::default(),
            rows_read_at_start: Aside::default(),
            staged_ahead: Aside::default(),
            recalled: Aside::default(),
        };
        let at_0 = |(_, time, _): &&Update| *time == 0;
        let right = setup.updates.iter().filter(at_0).take(setup.right);
        let advanced = |(row, time, diff): &Update| (*row, setup.since.max(*time), *diff);
        let held: Vec<Update> = right.chain(&setup.wrong).map(advanced).collect();
        if setup.held_upper > 0 || !held.is_empty() {
            shard.put(0, held);
            shard.log.push(Entry {
                id: None,
                upper: shard.upper,
                files: vec![0],
            });
        }
        let mut world = World {
            setup: Aside(setup),
            shard,
            instances: Vec::new(),
            born: 0,
        };
        for index in 0..world.setup.instances {
            let mut instance = world.bear(index);
            instance.set_read_only(world.setup.read_only, 0);
            world.instances.push(instance);
        }
        world
    }

    fn bear(&mut self, index: usize) -> Instance {
        self.born += 1;
        Instance::new(&self.setup, index, &self.shard, self.born)
    }

    /// Another instance takes the place of one, which dies as it is.
    pub fn restart(&mut self, at: usize, clock: u64) {
        let mut new = self.bear(at);
        new.set_read_only(false, clock);
        let old = std::mem::replace(&mut self.instances[at], new);
        old.abandon(&mut self.shard);
    }

    /// An instance does one thing.
    pub fn act(
        &mut self,
        instance: usize,
        worker: usize,
        deal: Deal,
        clock: u64,
        choices: &mut impl Choices,
    ) {
        self.instances[instance].act(worker, deal, clock, choices, &mut self.shard);
        if self.instances[instance].is_stopped() {
            self.restart(instance, clock);
        }
    }

    /// A put that nobody waits for lands, or does not.
    pub fn decide_late(&mut self, put: usize, lands: bool) {
        self.shard.decide_late(put, lands);
    }

    /// A rival of whom nothing is known but that it is right seals the times up to here, if it may.
    pub fn rival(&mut self, upper: Frontier<Time>) {
        let Frontier::At(lower) = self.shard.upper else {
            return;
        };
        let truth = self.shard.truth.as_ref().expect("there is one truth");
        let last = truth.iter().map(|(_, time, _)| *time).max().unwrap_or(0);
        let (mut held, mut updates) = (self.shard.contents(lower), Vec::new());
        for time in (lower..=last).filter(|time| upper.is_complete(time)) {
            let right = sum(truth, time);
            let mut missing = right.clone();
            for (row, diff) in held {
                *missing.entry(row).or_default() -= diff;
            }
            missing.retain(|_, diff| *diff != 0);
            updates.extend(missing.into_iter().map(|(row, diff)| (row, time, diff)));
            held = right;
        }
        let seq = self.shard.log.len() as u64;
        let id = CommitId {
            nonce: u128::MAX,
            seq,
        };
        let mut files = Vec::new();
        if !updates.is_empty() {
            files.push(FileId::MAX - seq);
            self.shard.put(files[0], updates);
        }
        assert!(self.shard.append(id, lower, upper, &files), "it is alone");
        self.shard.check(lower, upper);
    }

    /// Nothing that was begun is left to do, and the shard has ended, or nobody is left to end it.
    pub fn is_at_its_end(&self) -> bool {
        let at_rest = |instance: &Instance| instance.is_at_rest(&self.shard);
        self.has_ended() && self.shard.late.is_empty() && self.instances.iter().all(at_rest)
    }

    fn has_ended(&self) -> bool {
        let goes_on = |instance: &Instance| instance.is_whole() && !instance.has_failed();
        self.shard.upper.is_empty() || !self.instances.iter().any(goes_on)
    }

    /// What must hold in the end.
    pub fn end(mut self) -> Ran {
        let disputed = self.instances.iter().any(Instance::is_disputed);
        for instance in self.instances {
            if instance.is_whole() {
                assert!(
                    instance.unreferenced(&self.shard).is_empty(),
                    "everything staged ends"
                );
            }
            instance.abandon(&mut self.shard);
        }
        let shard = self.shard;
        assert_eq!(
            shard.files.len(),
            shard.live().count(),
            "no file is left behind"
        );
        // Who begins beyond the last time of the schedule ends the shard as it is, if it is at all.
        let setup = &self.setup;
        if (setup.as_ofs.iter()).all(|as_of| setup.round_up(*as_of).is_some()) {
            shard.check(Time::MAX - 1, Frontier::Empty);
        }
        Ran {
            trace: shard.trace.0,
            disputed,
            lost: *shard.lost,
            rows_read_at_start: *shard.rows_read_at_start,
            staged_ahead: *shard.staged_ahead,
            recalled: *shard.recalled,
        }
    }

    /// Runs a random schedule to its end and checks everything.
    pub fn run(setup: Setup) -> Ran {
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let mut world = World::new(setup);
        let setup = Arc::clone(&world.setup);
        // Trouble for a while, then a fair schedule to the end.
        let trouble = rng.random_range(0..400);
        let mut clock = 0;
        for step in 0..1_000_000u32 {
            let fair = step > trouble;
            clock += rng.random_range(0..3);
            if step == trouble + 1 {
                for instance in &mut world.instances {
                    instance.set_read_only(false, clock);
                }
            }
            if !fair && setup.read_only && rng.random_ratio(1, 30) {
                let at = rng.random_range(0..world.instances.len());
                world.instances[at].set_read_only(rng.random(), clock);
            }
            if !fair && setup.tear_down && rng.random_ratio(1, 40) && world.instances.len() > 1 {
                let worker = rng.random_range(0..world.instances[0].workers());
                world.instances[0].tear_down(worker);
            }
            if !fair && setup.restart && rng.random_ratio(1, 60) {
                world.restart(rng.random_range(0..world.instances.len()), clock);
            }
            let late = world.shard.late();
            if late > 0 && rng.random_ratio(1, 50) {
                world.decide_late(rng.random_range(0..late), rng.random());
            }
            let at = rng.random_range(0..world.instances.len());
            let worker = rng.random_range(0..world.instances[at].workers());
            let deal = Deal::ALL[rng.random_range(0..Deal::ALL.len())];
            // Mint runs on the first worker, and what was begun belongs to none.
            let worker = match deal {
                Deal::Upper | Deal::Desired | Deal::Deed => 0,
                _ => worker,
            };
            if world.instances[at].may(worker, deal, &world.shard) {
                world.act(at, worker, deal, clock, &mut rng);
            }
            if fair && world.is_at_its_end() {
                break;
            }
        }
        let at_rest = |instance: &Instance| instance.is_at_rest(&world.shard);
        assert!(
            world.instances.iter().all(at_rest),
            "all that was begun ends, and every description has a part of every worker"
        );
        let upper = world.shard.upper;
        assert!(world.has_ended(), "the end is reached; upper {upper}");
        world.end()
    }
}
