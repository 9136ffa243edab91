//! A world of sink instances over a model shard, driven by a seeded schedule.
//!
//! What is real: the states. What is modelled, as simply as possible: the shard (a vector of commits), the
//! files (a map), the channels (queues), the corrections (an ordered map), and Timely's promise that data
//! arrives before the frontier passes it.

mod instance;

use std::collections::BTreeMap;

use instance::Instance;
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
    /// Whether read-backs find the log cleaned up now and then.
    pub jumps: bool,
}

impl Setup {
    /// The time at which the sinks see what is at `time`.
    pub fn round_up(&self, time: Time) -> Option<Time> {
        let next = self.refresh.round_up(time)?;
        self.until.is_none_or(|until| next < until).then_some(next)
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
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: Option<CommitId>,
    pub upper: Frontier<Time>,
    pub files: Vec<FileId>,
}

/// The model of a shard.
#[derive(Debug)]
pub struct Shard {
    pub log: Vec<Entry>,
    pub upper: Frontier<Time>,
    pub files: BTreeMap<FileId, Vec<Update>>,
    next_file: FileId,
    /// What the contents must be: at most one truth a time. `None` if the instances differ.
    truth: Option<Vec<Update>>,
    mode: Mode,
    lost: usize,
    trace: Vec<String>,
    pub rows_read_at_start: usize,
    pub staged_ahead: usize,
    pub recalled: usize,
}

impl Shard {
    pub fn put(&mut self, updates: Vec<Update>) -> FileId {
        let id = self.next_file;
        self.next_file += 1;
        self.files.insert(id, updates);
        id
    }

    pub fn delete(&mut self, files: &[FileId]) {
        for file in files {
            let referenced = self.log.iter().any(|entry| entry.files.contains(file));
            assert!(!referenced, "a file that a commit refers to is deleted");
            assert!(self.files.remove(file).is_some(), "a file is deleted once");
        }
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
            self.lost += 1;
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
        let Some(truth) = &self.truth else { return };
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
pub struct World;

impl World {
    /// Runs a schedule to its end and checks everything.
    pub fn run(setup: Setup) -> Ran {
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let seen = setup.updates.iter();
        let seen = seen.filter_map(|(row, time, diff)| Some((*row, setup.round_up(*time)?, *diff)));
        let mut shard = Shard {
            log: Vec::new(),
            upper: Frontier::At(setup.held_upper),
            files: BTreeMap::new(),
            next_file: 0,
            truth: setup.differing.is_empty().then(|| seen.collect()),
            mode: setup.mode,
            lost: 0,
            trace: Vec::new(),
            rows_read_at_start: 0,
            staged_ahead: 0,
            recalled: 0,
        };
        let at_0 = |(_, time, _): &&Update| *time == 0;
        let right = setup.updates.iter().filter(at_0).take(setup.right);
        let advanced = |(row, time, diff): &Update| (*row, setup.since.max(*time), *diff);
        let held: Vec<Update> = right.chain(&setup.wrong).map(advanced).collect();
        if setup.held_upper > 0 || !held.is_empty() {
            let file = shard.put(held);
            shard.log.push(Entry {
                id: None,
                upper: shard.upper,
                files: vec![file],
            });
        }
        let mut born = 0;
        let mut instances: Vec<Instance> = (0..setup.instances)
            .map(|index| {
                born += 1;
                Instance::new(&setup, index, &shard, born)
            })
            .collect();
        for instance in &mut instances {
            instance.set_read_only(setup.read_only, 0);
        }

        // Trouble for a while, then a fair schedule to the end.
        let trouble = rng.random_range(0..400);
        let mut clock = 0;
        for step in 0..1_000_000u32 {
            let fair = step > trouble;
            clock += rng.random_range(0..3);
            if step == trouble + 1 {
                for instance in &mut instances {
                    instance.set_read_only(false, clock);
                }
            }
            if !fair && setup.read_only && rng.random_ratio(1, 30) {
                let at = rng.random_range(0..instances.len());
                instances[at].set_read_only(rng.random(), clock);
            }
            if !fair && setup.tear_down && rng.random_ratio(1, 40) && instances.len() > 1 {
                instances[0].tear_down(&mut rng);
            }
            if !fair && setup.restart && rng.random_ratio(1, 60) {
                let at = rng.random_range(0..instances.len());
                born += 1;
                let mut new = Instance::new(&setup, at, &shard, born);
                new.set_read_only(false, clock);
                let old = std::mem::replace(&mut instances[at], new);
                old.abandon(&mut shard);
            }
            let at = rng.random_range(0..instances.len());
            instances[at].step(clock, &mut rng, &mut shard);
            if fair && shard.upper.is_empty() && instances.iter().all(|i| i.is_at_rest(&shard)) {
                break;
            }
        }
        assert!(
            instances.iter().all(|i| i.is_at_rest(&shard)),
            "all that was begun ends, and every description has a part of every worker"
        );
        assert!(
            shard.upper.is_empty(),
            "the end is reached; upper {}",
            shard.upper
        );
        let disputed = instances.iter().any(Instance::is_disputed);
        for instance in instances {
            if instance.is_whole() {
                assert!(
                    instance.unreferenced(&shard).is_empty(),
                    "everything staged ends"
                );
            }
            instance.abandon(&mut shard);
        }
        assert_eq!(
            shard.files.len(),
            shard.live().count(),
            "no file is left behind"
        );
        // Who begins beyond the last time of the schedule ends the shard as it is.
        if (setup.as_ofs.iter()).all(|as_of| setup.round_up(*as_of).is_some()) {
            shard.check(Time::MAX - 1, Frontier::Empty);
        }
        Ran {
            trace: shard.trace,
            disputed,
            lost: shard.lost,
            rows_read_at_start: shard.rows_read_at_start,
            staged_ahead: shard.staged_ahead,
            recalled: shard.recalled,
        }
    }
}
