//! A world of sink instances over a model shard, driven by a seeded schedule.
//!
//! What is real: the states. What is modelled, as simply as possible: the shard (a vector of commits), the
//! files (a map), the channels (queues), the corrections (an ordered map), and Timely's promise that data
//! arrives before the frontier passes it.

mod instance;

use std::collections::BTreeMap;

use instance::Instance;
use mvsink::{Frontier, Mode};
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
    /// What the shard holds before anybody begins and should not; what is at or beyond its upper then, another
    /// program has put there.
    pub wrong: Vec<Update>,
    /// How many of the collection's updates at time 0 the shard holds too, before anybody begins.
    pub right: usize,
    /// The upper of the shard before anybody begins, if it holds anything.
    pub held_upper: Time,
    /// The as-of of each instance, in view mode.
    pub as_ofs: Vec<Time>,
    /// Whether workers of all instances but the last are torn down on the way.
    pub tear_down: bool,
    /// Whether instances are replaced by new ones on the way.
    pub restart: bool,
    /// Whether instances are read-only for a while.
    pub read_only: bool,
    pub full_read_back: bool,
    /// Whether read-backs find the log cleaned up now and then.
    pub jumps: bool,
}

/// What a run has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// All appends, in order.
    pub trace: Vec<String>,
    /// The rows of the versions that read-backs started from which they read.
    pub rows_read_at_start: usize,
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
    /// What the contents must be: at most one truth a time.
    truth: Vec<Update>,
    mode: Mode,
    trace: Vec<String>,
    pub rows_read_at_start: usize,
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
        let last = self
            .truth
            .iter()
            .map(|(_, time, _)| time + 1)
            .max()
            .unwrap_or(0)
            .max(lower);
        for time in (lower..=last).filter(|time| upper.is_complete(time)) {
            assert_eq!(
                self.contents(time),
                sum(&self.truth, time),
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
        let mut shard = Shard {
            log: Vec::new(),
            upper: Frontier::At(0),
            files: BTreeMap::new(),
            next_file: 0,
            truth: setup.updates.clone(),
            mode: setup.mode,
            trace: Vec::new(),
            rows_read_at_start: 0,
        };
        let at_0 = |(_, time, _): &&Update| *time == 0;
        let right = setup.updates.iter().filter(at_0).take(setup.right);
        let held: Vec<Update> = right.chain(&setup.wrong).copied().collect();
        if !held.is_empty() {
            let file = shard.put(held);
            shard.log.push(Entry {
                id: None,
                upper: Frontier::At(setup.held_upper),
                files: vec![file],
            });
            shard.upper = Frontier::At(setup.held_upper);
        }
        let mut born = 0;
        let mut instances: Vec<Instance> = (0..setup.instances)
            .map(|index| {
                born += 1;
                Instance::new(&setup, &shard, setup.as_ofs[index], born)
            })
            .collect();
        if setup.read_only {
            instances
                .iter_mut()
                .for_each(|instance| instance.set_read_only(true));
        }

        // Trouble for a while, then a fair schedule to the end.
        let trouble = rng.random_range(0..400);
        for step in 0..1_000_000u32 {
            let fair = step > trouble;
            if fair && setup.read_only {
                instances
                    .iter_mut()
                    .for_each(|instance| instance.set_read_only(false));
            }
            if !fair && setup.tear_down && rng.random_ratio(1, 40) && instances.len() > 1 {
                instances[0].tear_down(&mut rng);
            }
            if !fair && setup.restart && rng.random_ratio(1, 60) {
                let at = rng.random_range(0..instances.len());
                born += 1;
                let as_of = setup.as_ofs[at % setup.as_ofs.len()];
                let new = Instance::new(&setup, &shard, as_of, born);
                let old = std::mem::replace(&mut instances[at], new);
                old.abandon(&mut shard);
            }
            let at = rng.random_range(0..instances.len());
            instances[at].step(&mut rng, &mut shard);
            if fair && shard.upper.is_empty() && instances.iter().all(Instance::is_at_rest) {
                break;
            }
        }
        assert!(
            instances.iter().all(Instance::is_at_rest),
            "all that was begun ends, and every description has a part of every worker"
        );
        assert!(
            shard.upper.is_empty(),
            "the end is reached; upper {}",
            shard.upper
        );
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
        shard.check(Time::MAX - 1, Frontier::Empty);
        Ran {
            trace: shard.trace,
            rows_read_at_start: shard.rows_read_at_start,
        }
    }
}
