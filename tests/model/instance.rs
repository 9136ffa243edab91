//! One instance of the sink: its states, the queues between them, its share of the faults.

mod read_back;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mvsink::append::{self, Effect as AppendEffect, Input as AppendInput};
use mvsink::description::{Content, Description, Outcome, Part, Staged};
use mvsink::mint::{self, Effect as MintEffect, Input as MintInput, Role};
use mvsink::write::disputes::Disputes;
use mvsink::write::{self, Effect as WriteEffect, Input as WriteInput};
use mvsink::{Frontier, Mode};
use mvsink_persist::CommitId;

use self::read_back::{ReadBack, Reader};
use super::choices::{Aside, Choices};
use super::{FileId, Setup, Shard, Time, Update};

/// What an instance can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deal {
    /// Mint learns how far the shard is.
    Upper,
    /// Mint learns how far the collection is.
    Desired,
    /// The collection is computed a little further.
    Compute,
    /// Write is activated.
    Write,
    /// The read-back goes on.
    Read,
    /// Append takes a description.
    Description,
    /// Append takes a part.
    Part,
    /// Append learns that no more parts come.
    Parts,
    /// Something that was begun ends.
    Deed,
}

impl Deal {
    pub const ALL: [Deal; 9] = [
        Deal::Upper,
        Deal::Desired,
        Deal::Compute,
        Deal::Write,
        Deal::Read,
        Deal::Description,
        Deal::Part,
        Deal::Parts,
        Deal::Deed,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Deed {
    Bump(CommitId, Time, Frontier<Time>),
    Commit(usize, Description<Time>, Vec<FileId>),
    Report(usize, CommitId, Outcome),
    ReportVanished(CommitId),
    ReportBump(CommitId, Outcome),
}

/// A worker: write and append, what is under way to them, and the reader of its share of the shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Worker {
    write: write::State<Time>,
    append: append::State<Time, FileId>,
    corrections: BTreeMap<(u8, Time), i64>,
    since: Time,
    in_flight: Vec<Update>,
    disputes: Aside<Disputes>,
    desired: VecDeque<Update>,
    desired_frontier: Frontier<Time>,
    desired_seen: Frontier<Time>,
    descriptions: VecDeque<Description<Time>>,
    provisional: VecDeque<(Time, bool)>,
    /// The time at which updates may be staged ahead, and what was.
    ahead: Option<Time>,
    staged_ahead: Vec<FileId>,
    to_append: VecDeque<Description<Time>>,
    parts: VecDeque<Part<Time, FileId>>,
    /// Descriptions that write holds a capability for.
    held: BTreeSet<Time>,
    staged: Option<(CommitId, Vec<FileId>)>,
    ready: BTreeMap<CommitId, Vec<FileId>>,
    /// The files that it has put so far.
    puts: u64,
    /// The log entries that were read or skipped.
    read: usize,
    reader: Reader,
    read_frontier: Frontier<Time>,
    inbox: VecDeque<ReadBack>,
    own: BTreeSet<CommitId>,
    alive: bool,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    setup: Aside<Arc<Setup>>,
    as_of: Frontier<Time>,
    mint: mint::State<Time>,
    role: Option<Role>,
    /// How much of the log mint was told of.
    told: usize,
    mint_frontier: Frontier<Time>,
    workers: Vec<Worker>,
    deeds: Vec<Deed>,
    last_minted: Option<Time>,
    /// The lowers of batches that can never be committed: they may be minted again.
    again: BTreeSet<Time>,
    /// It has stopped while a commit of it was under way.
    stopped: bool,
    read_only: bool,
    minted: usize,
    parts_sent: usize,
    put: BTreeSet<FileId>,
    failed: bool,
    /// What tells it from others, and its files.
    born: u128,
}

impl Instance {
    pub fn new(setup: &Arc<Setup>, index: usize, shard: &Shard, born: u128) -> Self {
        // A source resumes at the shard's upper; a finished one has nothing to say.
        let as_of = match setup.mode {
            Mode::View => setup.as_ofs[index],
            Mode::Ingest => shard.upper.time().unwrap_or(Time::MAX - 1),
        };
        let differing: &[Update] = if index == 1 { &setup.differing } else { &[] };
        let mut updates: Vec<Update> = setup.updates.iter().chain(differing).copied().collect();
        match setup.mode {
            Mode::View => updates
                .iter_mut()
                .for_each(|(_, time, _)| *time = as_of.max(*time)),
            Mode::Ingest => updates.retain(|(_, time, _)| *time >= as_of),
        }
        updates.sort_by_key(|(_, time, _)| *time);
        let begins = as_of;
        let as_of = match setup.mode {
            Mode::View => setup.round_up_frontier(Frontier::At(begins)),
            Mode::Ingest => Frontier::At(begins),
        };
        let late = as_of.is_empty().then(|| mint::Late {
            as_of: begins,
            last: setup.last_before(begins),
        });
        let count = setup.workers;
        let worker = |index: usize| Worker {
            write: write::State::new(0),
            append: append::State::new(count),
            corrections: BTreeMap::new(),
            since: 0,
            in_flight: Vec::new(),
            disputes: Aside::default(),
            desired: updates
                .iter()
                .filter(|(r, ..)| usize::from(*r) % count == index)
                .copied()
                .collect(),
            desired_frontier: Frontier::At(0),
            desired_seen: Frontier::At(0),
            descriptions: VecDeque::new(),
            provisional: VecDeque::new(),
            ahead: None,
            staged_ahead: Vec::new(),
            to_append: VecDeque::new(),
            parts: VecDeque::new(),
            held: BTreeSet::new(),
            staged: None,
            ready: BTreeMap::new(),
            puts: 0,
            read: 0,
            reader: Reader::Unpinned,
            read_frontier: Frontier::At(0),
            inbox: VecDeque::new(),
            own: BTreeSet::new(),
            alive: true,
        };
        let mut mint = mint::State::new(setup.mode, as_of, 0, count, born).late(late);
        mint.step(MintInput::Standby(setup.standby), &mut Vec::new());
        Instance {
            setup: Aside(Arc::clone(setup)),
            born,
            as_of,
            mint,
            role: None,
            told: shard.log.len(),
            mint_frontier: Frontier::At(0),
            workers: (0..count).map(worker).collect(),
            deeds: Vec::new(),
            last_minted: None,
            again: BTreeSet::new(),
            stopped: false,
            read_only: true,
            minted: 0,
            parts_sent: 0,
            put: BTreeSet::new(),
            failed: false,
        }
    }

    pub fn set_read_only(&mut self, read_only: bool, clock: u64) {
        self.read_only = read_only;
        if self.workers[0].alive {
            self.mint(MintInput::Clock(clock));
            self.mint(MintInput::ReadOnly(read_only));
        }
    }

    /// True if a worker found that the replicas compute different results.
    pub fn is_disputed(&self) -> bool {
        let disputes = |worker: &Worker| worker.disputes.is_disputed();
        self.workers.iter().any(disputes)
    }

    /// Tears one worker down: its capabilities go, its queues stop.
    pub fn tear_down(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.alive = false;
        worker.held.clear();
        if index == 0 {
            // Mint runs on the first worker.
            self.mint_frontier = Frontier::Empty;
        }
    }

    /// True if it has stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// True if all its workers still run.
    pub fn is_whole(&self) -> bool {
        self.workers.iter().all(|worker| worker.alive)
    }

    /// Nothing is left to do but to wait: all has arrived, every description had its parts, and a shard that is final
    /// has ended the stream of descriptions, so that the dataflow completes.
    pub fn is_at_rest(&self, shard: &Shard) -> bool {
        let answered = self.parts_sent == self.minted * self.workers.len();
        let ended = self.mint_frontier.is_empty() || !shard.upper.is_empty();
        let idle = |worker: &Worker| {
            worker.parts.is_empty() && worker.staged.is_none() && worker.ready.is_empty()
        };
        let collected =
            |worker: &Worker| worker.append.waiting() == 0 && worker.staged_ahead.is_empty();
        self.failed
            || self.deeds.is_empty()
                && self.workers.iter().filter(|worker| worker.alive).all(idle)
                && (!self.is_whole() || ended && answered && self.workers.iter().all(collected))
    }

    /// It was refused.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The files that it staged and that no commit refers to.
    pub fn unreferenced(&self, shard: &Shard) -> Vec<FileId> {
        let referenced = |file: &FileId| shard.log.iter().any(|entry| entry.files.contains(file));
        let left = self
            .put
            .iter()
            .filter(|file| shard.files.contains_key(file) && !referenced(file));
        left.copied().collect()
    }

    /// The instance is gone; what it staged and never committed is the sweeper's. Its puts may be under way.
    pub fn abandon(mut self, shard: &mut Shard) {
        for deed in std::mem::take(&mut self.deeds) {
            match deed {
                Deed::Bump(id, lower, upper) => shard.leave_put(id, lower, upper, None),
                Deed::Commit(_, description, files) => {
                    let Description {
                        id, lower, upper, ..
                    } = description;
                    shard.leave_put(id, lower, upper, Some(files));
                }
                _ => {}
            }
        }
        let mut left = self.unreferenced(shard);
        let late = shard.of_late_puts();
        left.retain(|file| !late.contains(file));
        shard.delete(&left);
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// False of what cannot change anything now.
    pub fn may(&self, index: usize, deal: Deal, shard: &Shard) -> bool {
        let worker = &self.workers[index];
        if self.failed {
            return false;
        }
        match deal {
            Deal::Upper | Deal::Desired => index == 0 && worker.alive,
            Deal::Compute => !worker.desired_frontier.is_empty(),
            Deal::Write | Deal::Parts => worker.alive,
            Deal::Read => {
                let more = match &worker.reader {
                    Reader::Unpinned => true,
                    Reader::Pinned { verdict, .. } => verdict.is_some(),
                    Reader::Following => worker.read < shard.log.len(),
                };
                worker.alive && more
            }
            Deal::Description => worker.alive && !worker.to_append.is_empty(),
            Deal::Part => worker.alive && !worker.parts.is_empty(),
            Deal::Deed => index == 0 && !self.deeds.is_empty(),
        }
    }

    /// Does one thing.
    pub fn act(
        &mut self,
        index: usize,
        deal: Deal,
        clock: u64,
        choices: &mut impl Choices,
        shard: &mut Shard,
    ) {
        match deal {
            Deal::Upper => {
                self.mint(MintInput::Clock(clock));
                for id in shard.log[self.told..].iter().filter_map(|entry| entry.id) {
                    self.mint(MintInput::Committed(id));
                }
                self.told = shard.log.len();
                self.mint(MintInput::Upper(shard.upper));
            }
            Deal::Desired => {
                let workers = self.workers.iter();
                let desired = workers.map(|worker| worker.desired_frontier).min();
                let desired = desired.expect("there is a worker");
                self.mint(MintInput::Clock(clock));
                self.mint(MintInput::Desired(self.setup.round_up_frontier(desired)));
            }
            Deal::Compute => {
                let worker = &mut self.workers[index];
                let next = worker
                    .desired
                    .iter()
                    .map(|(_, time, _)| *time)
                    .find(|time| !worker.desired_frontier.is_complete(time));
                let to = match next {
                    None => Frontier::Empty,
                    // Times with updates are complete only once the frontier is beyond them.
                    Some(time) => Frontier::At(time + [1, 0, 2][choices.degree(3)]),
                };
                worker.desired_frontier = worker.desired_frontier.max(to);
            }
            Deal::Write => self.activate_write(index, choices, shard),
            Deal::Read => {
                if self.setup.jumps && choices.below(8) == 0 {
                    self.jump(index, shard);
                } else {
                    self.read(index, shard);
                }
            }
            Deal::Description => {
                if let Some(description) = self.workers[index].to_append.pop_front() {
                    self.append(index, AppendInput::Description(description), shard);
                }
            }
            Deal::Part => {
                if let Some(part) = self.workers[index].parts.pop_front() {
                    self.append(index, AppendInput::Part(part), shard);
                }
            }
            Deal::Parts => {
                let frontier = self.parts_frontier();
                self.append(index, AppendInput::Parts(frontier), shard);
            }
            Deal::Deed => {
                let deed = self.deeds.swap_remove(choices.below(self.deeds.len()));
                let report = self.perform(deed, choices, shard);
                // The task that has commits done waits for them; a report that comes later is more than it needs.
                match report {
                    Some(report) if choices.degree(2) == 0 => {
                        self.perform(report, choices, shard);
                    }
                    Some(report) => self.deeds.push(report),
                    None => {}
                }
            }
        }
    }

    /// No part below it can still come.
    fn parts_frontier(&self) -> Frontier<Time> {
        let workers = self.workers.iter().flat_map(|worker| {
            let held = worker.held.iter().copied();
            let sent = worker.parts.iter().map(|part| part.description.lower);
            let minted = worker
                .descriptions
                .iter()
                .map(|description| description.lower);
            held.chain(sent)
                .chain(minted.filter(|_| worker.alive))
                .map(Frontier::At)
        });
        workers
            .chain([self.mint_frontier])
            .min()
            .unwrap_or(Frontier::Empty)
    }

    /// Ends it; what there is to report of it is another deed.
    fn perform(
        &mut self,
        deed: Deed,
        choices: &mut impl Choices,
        shard: &mut Shard,
    ) -> Option<Deed> {
        match deed {
            Deed::Bump(id, lower, upper) => {
                let won = shard.append(id, lower, upper, &[]);
                self.check_role(won);
                let outcome = if won { Outcome::Done } else { Outcome::Lost };
                return Some(Deed::ReportBump(id, outcome));
            }
            Deed::Commit(index, description, files) => {
                let Description {
                    id, lower, upper, ..
                } = description;
                let ahead: Vec<FileId> = (self.workers.iter())
                    .flat_map(|worker| worker.staged_ahead.iter().copied())
                    .collect();
                let of_part = files.iter().find(|file| !ahead.contains(file)).copied();
                if let Some(file) = of_part.filter(|_| shard.may_vanish())
                    && choices.flip()
                {
                    shard.vanish(file);
                    // Whose lower is not the upper has lost, whatever is missing.
                    if shard.upper == Frontier::At(lower) {
                        self.again.insert(lower);
                        self.deeds.push(Deed::ReportVanished(id));
                        return Some(Deed::Report(index, id, Outcome::Vanished));
                    }
                }
                if shard.may_be_late() && choices.flip() {
                    // It stops, and waits no longer for the store.
                    shard.leave_put(id, lower, upper, Some(files));
                    self.append(index, AppendInput::Committed(id, Outcome::Cancelled), shard);
                    self.stopped = true;
                    return None;
                }
                let won = shard.append(id, lower, upper, &files);
                self.check_role(won);
                if won {
                    shard.check(lower, upper);
                }
                let outcome = if won { Outcome::Done } else { Outcome::Lost };
                return Some(Deed::Report(index, id, outcome));
            }
            Deed::Report(index, id, outcome) => {
                self.append(index, AppendInput::Committed(id, outcome), shard);
            }
            Deed::ReportVanished(id) => {
                if self.workers[0].alive {
                    self.mint(MintInput::Vanished(id));
                }
            }
            Deed::ReportBump(id, outcome) => self.mint(MintInput::Bumped(id, outcome)),
        }
        None
    }

    fn check_role(&self, won: bool) {
        assert!(
            !won || self.role != Some(Role::ReadOnly),
            "who is read-only has nothing outstanding"
        );
    }

    fn mint(&mut self, input: MintInput<Time>) {
        let mut effects = Vec::new();
        self.mint.step(input, &mut effects);
        for effect in effects {
            let writes = matches!(effect, MintEffect::Mint(_) | MintEffect::Bump { .. });
            assert!(
                !(writes && self.read_only),
                "a read-only sink writes nothing"
            );
            match effect {
                MintEffect::Mint(description) => {
                    self.minted += 1;
                    assert!(
                        self.last_minted < Some(description.lower)
                            || self.last_minted == Some(description.lower)
                                && self.again.remove(&description.lower),
                        "lowers strictly increase"
                    );
                    self.last_minted = Some(description.lower);
                    let upper = self.setup.round_up_frontier(description.upper);
                    assert_eq!(description.upper, upper, "uppers are times of the schedule");
                    for worker in &mut self.workers {
                        worker.descriptions.push_back(description.clone());
                        worker.to_append.push_back(description.clone());
                    }
                }
                MintEffect::Provisional { .. } if !self.setup.ahead => {}
                MintEffect::Provisional { lower, open } => {
                    assert!(!(open && self.read_only), "a read-only sink stages nothing");
                    for worker in &mut self.workers {
                        worker.provisional.push_back((lower, open));
                    }
                }
                MintEffect::Bump { id, lower, upper } => {
                    self.deeds.push(Deed::Bump(id, lower, upper))
                }
                MintEffect::Downgrade(frontier) => self.mint_frontier = frontier,
                MintEffect::Gap { .. } => self.failed = true,
                MintEffect::Wake(_) => {}
                MintEffect::Role(role) => self.role = Some(role),
            }
        }
    }

    fn activate_write(&mut self, index: usize, choices: &mut impl Choices, shard: &mut Shard) {
        let persist = self.workers.iter().map(|worker| worker.read_frontier).min();
        let worker = &mut self.workers[index];
        // Data and frontiers get to write later than the frontier gets to mint.
        if choices.degree(2) == 0 {
            worker.desired_seen = worker.desired_frontier;
        }
        let desired = worker.desired_seen;
        let mut inputs = Vec::new();
        let mut rows = Vec::new();
        for message in worker.inbox.drain(..) {
            match message {
                ReadBack::Pinned(cutoff) => inputs.push(WriteInput::Pinned(cutoff)),
                ReadBack::Settled => inputs.push(WriteInput::Settled),
                ReadBack::Own(id) => inputs.push(WriteInput::Own(id)),
                ReadBack::Rows(updates) => rows.extend(updates),
            }
        }
        inputs.push(WriteInput::Desired(self.setup.round_up_frontier(desired)));
        inputs.push(WriteInput::Persist(persist.expect("there is a worker")));
        // A stream of its own: it may come before the descriptions, or after them.
        if !worker.provisional.is_empty() && choices.flip() {
            let provisional = worker.provisional.drain(..);
            inputs.extend(provisional.map(|(lower, open)| WriteInput::Provisional(lower, open)));
        }
        for description in worker.descriptions.drain(..) {
            worker.held.insert(description.lower);
            inputs.push(WriteInput::Description(description));
        }
        if let Some((id, files)) = worker.staged.take_if(|_| choices.flip()) {
            worker.ready.insert(id, files);
            inputs.push(WriteInput::Staged(id));
        }
        let mut effects = Vec::new();
        for input in inputs {
            worker.write.step(input, &mut effects);
        }
        worker.write.decide(&mut effects);
        // As the task does: settle, take in, compare, advance; then write.
        let (writes, settles): (Vec<_>, Vec<_>) = effects
            .into_iter()
            .partition(|effect| matches!(effect, WriteEffect::Write(_)));
        let (mut rival, mut advance) = (None, None);
        let (mut compares, mut recalls, mut stages_ahead) = (false, false, None);
        let mut sends = Vec::new();
        for effect in settles {
            match effect {
                WriteEffect::SettleOwn(id) => {
                    worker.own.remove(&id);
                    worker.disputes.committed(worker.in_flight.len());
                    worker.in_flight.clear();
                    worker.staged_ahead.clear();
                }
                WriteEffect::SettleLost(id) => {
                    worker.own.remove(&id);
                    for (row, time, diff) in worker.in_flight.drain(..) {
                        *worker.corrections.entry((row, time)).or_default() += diff;
                    }
                    recalls = true;
                }
                WriteEffect::Recall => recalls = true,
                WriteEffect::StageAhead(lower) => stages_ahead = Some(lower),
                WriteEffect::CheckRival(time) => rival = Some(time),
                WriteEffect::Advance(frontier) => advance = Some(frontier),
                WriteEffect::Compare => compares = true,
                WriteEffect::Send(description) => {
                    let files = worker.ready.remove(&description.id).expect("it was staged");
                    let ahead = worker.staged_ahead.clone();
                    sends.push((
                        description,
                        Content::Staged(Staged {
                            files,
                            ahead,
                            removes: Default::default(),
                        }),
                    ));
                }
                WriteEffect::SendObsolete(description) => {
                    sends.push((description, Content::Obsolete))
                }
                WriteEffect::Write(_) => unreachable!(),
            }
        }
        // As the task does: what is recalled is so before anything else.
        if recalls {
            worker.ahead = None;
            for file in std::mem::take(&mut worker.staged_ahead) {
                *shard.recalled += 1;
                for (row, time, diff) in &shard.files[&file] {
                    *worker.corrections.entry((*row, *time)).or_default() += diff;
                }
                // Who reads everything back takes its own commits for a rival's.
                if !shard.log.iter().any(|entry| entry.files.contains(&file)) {
                    shard.delete(&[file]);
                }
            }
        }
        if stages_ahead.is_some() {
            assert!(
                worker.staged_ahead.is_empty(),
                "what was staged was settled"
            );
            worker.ahead = stages_ahead;
        }
        // Data arrives before the frontier passes its time, and perhaps long before.
        let mut early = choices.degree(8).saturating_sub(4);
        let mut arrived = |(_, time, _): &mut Update| {
            let due = desired.is_complete(time);
            let arrives = due || early > 0;
            early -= usize::from(arrives && !due);
            arrives
        };
        while let Some((row, time, diff)) = worker.desired.pop_front_if(&mut arrived) {
            if let Some(time) = self.setup.round_up(time) {
                *worker.corrections.entry((row, time)).or_default() += diff;
            }
        }
        for (row, time, diff) in rows {
            *worker.corrections.entry((row, time)).or_default() -= diff;
        }
        if let Some(time) = rival.filter(|_| worker.disputes.is_due()) {
            let mut left: BTreeMap<(u8, Time), i64> = BTreeMap::new();
            for ((row, at), diff) in worker
                .corrections
                .range(..)
                .filter(|((_, at), _)| *at < time)
            {
                *left.entry((*row, worker.since.max(*at))).or_default() += diff;
            }
            let left = left.values().filter(|diff| **diff != 0).count();
            worker.disputes.compared(left);
        }
        if compares {
            self.compare(index);
        }
        let worker = &mut self.workers[index];
        if let Some(Frontier::At(since)) = advance {
            worker.since = since;
        }
        match self.setup.mode {
            Mode::View => {
                for ((row, time), diff) in std::mem::take(&mut worker.corrections) {
                    *worker
                        .corrections
                        .entry((row, time.max(worker.since)))
                        .or_default() += diff;
                }
            }
            Mode::Ingest => worker
                .corrections
                .retain(|(_, time), _| *time >= worker.since),
        }
        worker.corrections.retain(|_, diff| *diff != 0);
        // Some of what is there, whenever.
        if let Some(lower) = worker.ahead.filter(|_| choices.flip()) {
            let some =
                |(_, time): &(u8, Time), _: &mut i64| *time == lower && choices.degree(2) == 0;
            let some = worker.corrections.extract_if(.., some);
            let some: Vec<Update> = some.map(|((row, time), diff)| (row, time, diff)).collect();
            if !some.is_empty() {
                *shard.staged_ahead += 1;
                let file = next_file(self.born, index, &mut worker.puts);
                shard.put(file, some);
                self.put.insert(file);
                worker.staged_ahead.push(file);
            }
        }
        for write in writes {
            let WriteEffect::Write(description) = write else {
                unreachable!()
            };
            if !self.setup.full_read_back {
                worker.own.insert(description.id);
            }
            assert!(worker.in_flight.is_empty(), "one batch in flight");
            let due = worker
                .corrections
                .extract_if(.., |(_, time), _| description.upper.is_complete(time));
            worker.in_flight = due.map(|((row, time), diff)| (row, time, diff)).collect();
            let files = match worker.in_flight.is_empty() {
                true => Vec::new(),
                false => {
                    let file = next_file(self.born, index, &mut worker.puts);
                    shard.put(file, worker.in_flight.clone());
                    vec![file]
                }
            };
            self.put.extend(&files);
            worker.staged = Some((description.id, files));
            worker.ahead = None;
        }
        for (description, content) in sends {
            self.workers[index].held.remove(&description.lower);
            let part = Part {
                description,
                worker: index,
                content,
            };
            let appender = part.description.appender;
            self.workers[appender].parts.push_back(part);
            self.parts_sent += 1;
        }
    }

    fn append(&mut self, index: usize, input: AppendInput<Time, FileId>, shard: &mut Shard) {
        let mut effects = Vec::new();
        self.workers[index].append.step(input, &mut effects);
        for effect in effects {
            match effect {
                AppendEffect::Commit {
                    description, files, ..
                } => {
                    assert_eq!(description.appender, index, "the one named commits");
                    self.deeds.push(Deed::Commit(index, description, files));
                }
                AppendEffect::Delete(files) => shard.delete(&files),
            }
        }
    }
}

/// The name of a worker's next file: whatever the others do, it is the same.
fn next_file(born: u128, worker: usize, puts: &mut u64) -> FileId {
    *puts += 1;
    let born = FileId::try_from(born).expect("few are born");
    (born * 100 + worker as FileId) * 100_000 + *puts
}
