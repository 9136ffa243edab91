//! What a simulation is to do: drawn from its seed before it begins, so that it can be told in words, and made smaller.

use std::fmt;

use mvsink::{Refresh, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub type Row = (String, u64);

/// One update of the collection: a row, or an error of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub row: Result<Row, String>,
    pub time: u64,
    pub diff: i64,
    /// The host knows of it this early.
    pub known: u64,
}

/// One replica of the view.
#[derive(Clone, Debug)]
pub struct ReplicaPlan {
    pub workers: usize,
    pub processes: usize,
    pub as_of: u64,
    /// Whether each process has the synchronous driver.
    pub sync: Vec<bool>,
    /// Flags from the start.
    pub flags: Vec<(&'static str, String)>,
    /// Whether it begins read-only.
    pub read_only: bool,
}

/// When a simulation begins: in 2023.
pub const START_MS: i64 = 1_700_000_000_000;

/// What another program does to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// It adds a row that is in nobody's view.
    Insert,
    /// It removes one data file's rows.
    Delete,
    /// It adds a file with a row that the view's type cannot hold, beside one that it can.
    Unfit,
    /// It adds a row in an entry that is written as the format allows and few do: free-form `commitInfo`, a path in other
    /// words, a number with a point.
    Odd,
    /// It names a file that is there once more, without a change, or as one that goes and comes.
    Again {
        /// Whether the file goes in the same entry.
        goes: bool,
    },
    /// It adds rows as often as one can say.
    Huge {
        /// Or takes them away.
        less: bool,
    },
    /// A data file is gone from the store, though nobody has removed it, and all replicas start again.
    Lose,
    /// An object gets this time, in milliseconds since 1970, by a copy or by a clock that is wrong.
    Touch(Touched, i64),
}

/// What somebody does to the whole table while sinks write into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// A copy of it is made.
    Keep,
    /// The copy takes its place.
    Older,
    /// It is deleted.
    Delete,
    /// It is moved away, and back once everybody has noticed.
    Move,
    /// A log entry below the last one is missing for a while, in which everybody starts again, as in a copy that is
    /// under way.
    Gap,
}

/// Whose time is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// An object that is not of the table.
    Stray,
    /// The newest log entry.
    Entry,
    /// What points to the newest checkpoint.
    Hint,
    /// A data file.
    File,
}

/// What a maintainer, a process of its own, does to the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    Compact,
    Collect,
    Checkpoint,
}

/// One decision of the schedule. What cannot be done is passed over, so that any part of a plan is a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A worker steps its dataflows.
    Step {
        replica: usize,
        worker: usize,
        times: u32,
    },
    /// A process's tasks, or the maintainer's, are polled, one poll at a time.
    Poll {
        replica: Option<usize>,
        process: usize,
        polls: u32,
    },
    /// All of a replica have a turn or several, as when nothing is wrong.
    Turns { replica: usize, times: u32 },
    /// A worker is fed.
    Feed {
        replica: usize,
        worker: usize,
        steps: u32,
    },
    /// Time goes by.
    Pass { ms: u64 },
    /// The wall clocks are set, forward or back.
    SetClock { ms: i64 },
    /// From now on so many of a hundred calls of the store have a fault.
    Faults { percent: u32 },
    /// All processes of a replica are killed, and started again.
    Crash { replica: usize },
    /// A worker of a replica goes, with its dataflow.
    Leave { replica: usize, worker: usize },
    /// All handles of a replica are dropped.
    Cancel { replica: usize },
    /// A replica may not write, or may again.
    ReadOnly { replica: usize, read_only: bool },
    /// A flag is changed while a replica runs.
    Flag {
        replica: usize,
        name: &'static str,
        value: String,
    },
    /// Another program edits the table.
    Edit(Edit),
    /// Somebody does this to the whole table.
    Swap(Swap),
    /// The maintainer begins something.
    Upkeep(Upkeep),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Step {
                replica,
                worker,
                times,
            } => write!(f, "replica {replica}: worker {worker} steps {times} times"),
            Event::Poll {
                replica: Some(replica),
                process,
                polls,
            } => write!(
                f,
                "replica {replica}: the tasks of process {process} are polled {polls} times"
            ),
            Event::Turns { replica, times } => {
                write!(f, "replica {replica}: all have {times} turns")
            }
            Event::Poll { polls, .. } => write!(f, "the maintainer is polled {polls} times"),
            Event::Feed {
                replica,
                worker,
                steps,
            } => write!(
                f,
                "replica {replica}: worker {worker} is fed {steps} updates or times"
            ),
            Event::Pass { ms } => write!(f, "{ms} ms go by"),
            Event::SetClock { ms } => write!(f, "the wall clocks are set by {ms} ms"),
            Event::Faults { percent } => {
                write!(
                    f,
                    "{percent} % of the store's calls have a fault from now on"
                )
            }
            Event::Crash { replica } => write!(f, "replica {replica} is killed and started again"),
            Event::Leave { replica, worker } => {
                write!(
                    f,
                    "replica {replica}: worker {worker} goes, with its dataflow"
                )
            }
            Event::Cancel { replica } => write!(f, "replica {replica}: its handles are dropped"),
            Event::ReadOnly {
                replica,
                read_only: true,
            } => write!(f, "replica {replica} must not write"),
            Event::ReadOnly { replica, .. } => write!(f, "replica {replica} may write"),
            Event::Flag {
                replica,
                name,
                value,
            } => write!(f, "replica {replica}: {name} is set to {value}"),
            Event::Edit(Edit::Insert) => write!(f, "another program inserts a row"),
            Event::Edit(Edit::Delete) => write!(f, "another program deletes the rows of a file"),
            Event::Edit(Edit::Unfit) => write!(f, "another program inserts a row of nulls"),
            Event::Edit(Edit::Odd) => write!(f, "another program inserts a row by an odd entry"),
            Event::Swap(Swap::Keep) => write!(f, "the table is copied"),
            Event::Swap(Swap::Older) => write!(f, "the copy takes the table's place"),
            Event::Swap(Swap::Delete) => write!(f, "the table is deleted"),
            Event::Swap(Swap::Move) => write!(f, "the table is moved away, and back"),
            Event::Swap(Swap::Gap) => write!(f, "a log entry is missing for a while"),
            Event::Edit(Edit::Lose) => write!(f, "a data file is lost, and everybody starts again"),
            Event::Edit(edit) => write!(f, "another program edits: {edit:?}"),
            Event::Upkeep(upkeep) => write!(f, "the maintainer begins: {upkeep:?}"),
        }
    }
}

/// The tables of a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    View,
    /// What the view is of, made definite: see [`Plan::chained`].
    Source,
}

impl Table {
    /// Its directory in the store.
    pub fn name(self) -> &'static str {
        match self {
            Table::View => "view",
            Table::Source => "source",
        }
    }

    pub fn url(self) -> String {
        format!("memory://simulated/{}", self.name())
    }
}

/// A whole simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub updates: Vec<Update>,
    /// No update is at this time or later.
    pub end: u64,
    /// When the view is refreshed.
    pub refresh: Refresh,
    /// The view sees nothing from this time on.
    pub until: Option<u64>,
    /// The updates are made definite in a table of their own first, from which the view has them.
    pub chained: bool,
    /// Log entries are cleaned up when they are two seconds old, so that whoever is slow skips some.
    pub hasty: bool,
    pub replicas: Vec<ReplicaPlan>,
    pub events: Vec<Event>,
}

/// How many times of a table stay readable.
const RETAIN: &str = "mvsink_retain_times";

/// Flags that change how much is done, and when, and never what comes of it.
fn flag(rng: &mut StdRng) -> (&'static str, String) {
    let (name, values): (_, &[&str]) = match rng.random_range(0..10) {
        0 => ("mvsink_standby", &["true", "false"]),
        1 => ("mvsink_standby_silence_ms", &["1", "20", "200"]),
        2 => ("mvsink_stage_ahead_bytes", &["0", "1", "200"]),
        3 => ("mvsink_full_read_back", &["true", "false"]),
        4 => ("mvsink_compaction", &["true", "false"]),
        5 => ("mvsink_compaction_fan_in", &["2", "4"]),
        6 => ("mvsink_target_file_bytes", &["1", "100000"]),
        7 => ("mvsink_chunk_rows", &["1", "3", "8192"]),
        8 => (RETAIN, &["1", "4"]),
        _ => ("mvsink_maintenance_interval_ms", &["1", "50", "1000"]),
    };
    (name, values[rng.random_range(0..values.len())].to_owned())
}

fn replica(rng: &mut StdRng, end: u64) -> ReplicaPlan {
    let workers = rng.random_range(1..=3);
    let processes = match rng.random_range(0..3) {
        0 if workers > 1 => 2,
        _ => 1,
    };
    let mut flags: Vec<_> = (0..rng.random_range(0..4)).map(|_| flag(rng)).collect();
    if rng.random_ratio(1, 40) {
        // Beyond its memory, on a real disk.
        flags.push(("mvsink_corrections_bytes", "1".to_owned()));
    }
    ReplicaPlan {
        workers,
        processes,
        as_of: match rng.random_range(0..3) {
            0 => rng.random_range(0..end / 2),
            _ => 0,
        },
        sync: (0..processes).map(|_| rng.random_ratio(2, 3)).collect(),
        flags,
        read_only: rng.random_ratio(1, 6),
    }
}

/// Mostly at once; or every so often; or at some times, of which the first is early.
fn refresh(rng: &mut StdRng, end: u64) -> Refresh {
    let mut times = |count: usize, below: u64| {
        let below = i64::try_from(below).unwrap();
        let times = (0..count).map(|_| rng.random_range(0..below));
        times.collect::<Vec<_>>()
    };
    match times(1, 12)[0] {
        0 | 1 => Refresh::every(times(1, 5)[0] + 2, times(1, 6)[0]),
        2 => Refresh::at(times(1, end / 2)).and(Refresh::at(times(5, end + 3))),
        _ => Refresh::on_commit(),
    }
}

impl Plan {
    /// What the seed decides.
    pub fn draw(seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed);
        let end = rng.random_range(16..32);
        let mut updates = Vec::new();
        for time in 0..end {
            for _ in 0..rng.random_range(0..5) {
                let row = match rng.random_ratio(1, 12) {
                    true => Err(format!("error {}", rng.random_range(0..2))),
                    false => {
                        let key = rng.random_range(0..6);
                        Ok((format!("row {key}"), key))
                    }
                };
                let known = time - rng.random_range(0..=3.min(time)) / 2;
                let diff = [1, 1, 1, 2, -1][rng.random_range(0..5)];
                updates.push(Update {
                    row,
                    time,
                    diff,
                    known,
                });
            }
        }
        let replicas = match rng.random_range(0..4) {
            0 => 1,
            1 | 2 => 2,
            _ => 3,
        };
        let replicas: Vec<_> = (0..replicas).map(|_| replica(&mut rng, end)).collect();
        let events = (0..rng.random_range(200..400))
            .map(|_| event(&mut rng, &replicas))
            .collect();
        let mut plan = Plan {
            seed,
            updates,
            end,
            refresh: refresh(&mut rng, end),
            until: (rng.random_ratio(1, 8)).then(|| rng.random_range(end / 2..=end)),
            chained: rng.random_ratio(1, 4),
            hasty: rng.random_ratio(1, 4),
            replicas,
            events,
        };
        plan.conform();
        plan
    }

    /// Leaves out what the schedule rules out: who begins beyond the last time is refused, and what another
    /// program does to a shard that has ended nobody repairs.
    fn conform(&mut self) {
        for index in 0..self.replicas.len() {
            if self.written(self.replicas[index].as_of).is_none() {
                self.replicas[index].as_of = 0;
            }
        }
        if self.written(self.end - 1).is_none() {
            self.events.retain(|event| !matches!(event, Event::Edit(_)));
        }
        if self.hasty {
            // What is two seconds old by the clock was there for two seconds.
            let keeps = |event: &Event| !matches!(event, Event::SetClock { .. });
            self.events.retain(keeps);
            for event in &mut self.events {
                if let Event::Pass { ms } = event {
                    *ms *= 10;
                }
            }
        }
        if self.chained {
            // A replica that is started again reads the source from where it began before.
            let keeps = |flag: &str| flag != RETAIN;
            for of in &mut self.replicas {
                of.flags.retain(|(name, _)| keeps(name));
            }
            let keeps = |event: &Event| !matches!(event, Event::Flag { name, .. } if !keeps(name));
            self.events.retain(keeps);
        }
    }

    /// The time at which the view has what is in the collection at `time`, if it ever has.
    pub fn written(&self, time: u64) -> Option<u64> {
        let written = self.refresh.round_up(time)?;
        self.until
            .is_none_or(|until| written < until)
            .then_some(written)
    }

    /// Where the view is kept, and when.
    pub fn target(&self) -> Target {
        let target = Target::new(Table::View.url()).refresh(self.refresh.clone());
        match self.until {
            Some(until) => target.until(i64::try_from(until).unwrap()),
            None => target,
        }
    }

    /// The tables that there are.
    pub fn tables(&self) -> &'static [Table] {
        match self.chained {
            true => &[Table::View, Table::Source],
            false => &[Table::View],
        }
    }

    /// What a table holds at `time`.
    pub fn truth(&self, table: Table, time: u64) -> Contents {
        let mut sums = Contents::new();
        let there = |update: &&Update| match table {
            Table::View => self.written(update.time).is_some_and(|at| at <= time),
            Table::Source => update.time <= time,
        };
        for update in self.updates.iter().filter(there) {
            *sums.entry(update.row.clone()).or_default() += update.diff;
        }
        sums.retain(|_, diff| *diff != 0);
        sums
    }
}

/// How often each row, or error, is there.
pub type Contents = std::collections::BTreeMap<Result<Row, String>, i64>;

fn event(rng: &mut StdRng, replicas: &[ReplicaPlan]) -> Event {
    let replica = rng.random_range(0..replicas.len());
    let worker = rng.random_range(0..replicas[replica].workers);
    let process = rng.random_range(0..replicas[replica].processes);
    match rng.random_range(0..1000) {
        0..100 => Event::Turns {
            replica,
            times: rng.random_range(1..8),
        },
        100..350 => Event::Step {
            replica,
            worker,
            times: rng.random_range(1..4),
        },
        350..600 => Event::Poll {
            replica: Some(replica).filter(|_| rng.random_ratio(9, 10)),
            process,
            polls: rng.random_range(1..60),
        },
        600..780 => Event::Feed {
            replica,
            worker,
            steps: rng.random_range(1..4),
        },
        780..949 => Event::Pass {
            ms: [1, 5, 10, 30, 100][rng.random_range(0..5)],
        },
        949 => Event::Swap(match rng.random_range(0..8) {
            0..3 => Swap::Keep,
            3..5 => Swap::Older,
            5 => Swap::Delete,
            6 => Swap::Move,
            _ => Swap::Gap,
        }),
        950..955 => Event::SetClock {
            ms: rng.random_range(-60_000..120_000),
        },
        955..962 => Event::Faults {
            percent: [0, 5, 20, 50][rng.random_range(0..4)],
        },
        962..967 => Event::Crash { replica },
        967..969 => Event::Leave { replica, worker },
        969..971 => Event::Cancel { replica },
        971..978 => Event::ReadOnly {
            replica,
            read_only: rng.random(),
        },
        978..984 => {
            let (name, value) = flag(rng);
            Event::Flag {
                replica,
                name,
                value,
            }
        }
        984..986 => Event::Edit(Edit::Touch(
            match rng.random_range(0..4) {
                0 => Touched::Stray,
                1 => Touched::Entry,
                2 => Touched::Hint,
                _ => Touched::File,
            },
            START_MS
                + match rng.random_range(0..4) {
                    // In 2096, a day ahead, a week ago, and in 1970.
                    0 => 2_300_000_000_000,
                    1 => 25 * 60 * 60 * 1000,
                    2 => -7 * 24 * 60 * 60 * 1000,
                    _ => -START_MS,
                },
        )),
        986..990 => Event::Edit(match rng.random_range(0..7) {
            0 => Edit::Insert,
            1 => Edit::Delete,
            2 => Edit::Unfit,
            3 => Edit::Again { goes: rng.random() },
            4 => Edit::Huge { less: rng.random() },
            5 => Edit::Odd,
            _ => Edit::Lose,
        }),
        _ => Event::Upkeep(match rng.random_range(0..3) {
            0 => Upkeep::Compact,
            1 => Upkeep::Collect,
            _ => Upkeep::Checkpoint,
        }),
    }
}
