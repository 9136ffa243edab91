//! The task of a source: follows the log, reads and decodes the files that fall to its worker.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mvsink_persist::{
    Codec, DataFile, Entry, Error as ShardError, Frontier, Progress, Shard, Summed,
};
use tokio::sync::{mpsc, oneshot};

use super::condemned::Condemned;
use super::files::{Sign, Taking, Wanted};
use super::first::{Agreement, First};
use super::multiplicity::Multiplicities;
use super::read::OnDamage;
use super::seen::{Changed, Seen};
use super::{Credits, Mark, Message, OwnCommits, Piece};
use crate::bounds::{Data, Diff, Timestamp, frontier_from_i64, time_to_i64};
use crate::comparison::{Again, Buckets, HeldEnd, Totals};
use crate::dyncfg::CHUNK_ROWS;
use crate::dyncfg::FULL_READ_BACK;
use crate::error::Error;
use crate::holding::Holding;
use crate::wake::Replies;
use crate::worker::Worker;

/// How far a sink's read-back may be ahead of its corrections.
const CHUNKS_AHEAD: usize = 4;

/// What a source reads.
pub(crate) struct Reading<D, E, T> {
    pub(crate) codec: Codec<D, E>,
    pub(crate) purpose: Purpose<T>,
    pub(crate) own: OwnCommits,
    pub(crate) credits: Credits,
}

/// What a source reads for, which says what of it falls to a worker.
pub(crate) enum Purpose<T> {
    /// A collection from this time on; each file is read by one worker.
    Collection {
        /// Earlier times count as this.
        as_of: T,
    },
    /// A view's read-back: the rows of the worker's own buckets, with all times as they are.
    View {
        /// The as-of of the view.
        as_of: Frontier<T>,
        /// The comparison that it begins with.
        end: HeldEnd<T>,
    },
    /// An ingest sink's read-back: marks and frontiers only.
    Ingest,
}

impl<D, E, T: Copy> Reading<D, E, T> {
    /// Where the collection begins; `None` for a sink's read-back.
    pub(crate) fn as_of(&self) -> Option<T> {
        match self.purpose {
            Purpose::Collection { as_of } => Some(as_of),
            Purpose::View { .. } | Purpose::Ingest => None,
        }
    }
}

/// How the rows of a shard are shared among the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Each file is one worker's.
    Files,
    /// Each bucket is one worker's.
    Buckets,
    /// Rows are nobody's.
    Nothing,
}

pub(super) struct Task<D, E, T, R> {
    pub(super) worker: Worker,
    pub(super) shard: Shard,
    pub(super) codec: Codec<D, E>,
    own: OwnCommits,
    pub(super) share: Share,
    /// Earlier times count as this.
    floor: i64,
    /// What was read, where that tells how to go on from a later version.
    seen: Option<Seen>,
    /// How many updates were read.
    pub(super) read: AtomicU64,
    /// How often the rows of a collection are there.
    pub(super) multiplicities: Mutex<Multiplicities>,
    /// The live files that the next batch is to remove, by their keys, each with the path that it was condemned by.
    pub(super) condemned: Mutex<BTreeMap<String, (String, Condemned)>>,
    holding: Option<Holding>,
    /// Where a view's read-back compares again once it was left behind.
    pub(super) again: Option<mpsc::Sender<Again<T>>>,
    credits: Credits,
    replies: Replies<Message<D, E, T, R>>,
}

/// Runs the task until the shard's upper is empty, or the source stops.
pub(crate) async fn run<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    reading: Reading<D, E, T>,
    agreement: Option<Agreement>,
    replies: Replies<Message<D, E, T, R>>,
    gone: oneshot::Receiver<Infallible>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let work = async {
        let shard = worker.shard("open").await?;
        let floor = reading.as_of().map_or(Ok(0), time_to_i64)?;
        let Reading {
            codec,
            purpose,
            own,
            credits,
        } = reading;
        let codec = codec.for_table(&shard.schema());
        let table = shard.schema();
        let readable = match purpose {
            // Of its own table a sink needs all columns.
            Purpose::View { .. } | Purpose::Ingest => {
                mvsink_persist::schema::check_schema(&table, &codec.schema())
            }
            Purpose::Collection { .. } => codec.check_readable(&table).map_err(|e| e.to_string()),
        };
        readable.map_err(|why| ShardError::SchemaMismatch {
            url: shard.url().to_owned(),
            why,
        })?;
        let multiplicities = Multiplicities::new::<R>(worker.peers);
        let mut task = Task {
            worker,
            shard,
            codec,
            own,
            share: match purpose {
                Purpose::Collection { .. } => Share::Files,
                Purpose::View { .. } => Share::Buckets,
                Purpose::Ingest => Share::Nothing,
            },
            floor,
            seen: None,
            read: AtomicU64::new(0),
            multiplicities: Mutex::new(multiplicities),
            condemned: Mutex::default(),
            holding: None,
            again: match &purpose {
                Purpose::View { end, .. } => Some(end.again.clone()),
                Purpose::Collection { .. } | Purpose::Ingest => None,
            },
            credits,
            replies,
        };
        let progress = Box::pin(task.start(purpose, agreement)).await?;
        task.follow(progress).await
    };
    tokio::select! {
        biased;
        _ = gone => Ok(()),
        ended = stop.or_stop(work) => ended.unwrap_or(Ok(())),
    }
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// Sends what there is at a version; returns that.
    async fn start(
        &mut self,
        purpose: Purpose<T>,
        agreement: Option<Agreement>,
    ) -> Result<Progress, Error> {
        self.hold().await?;
        let pinned = self.shard.pin();
        let mut progress = pinned.progress;
        self.seen = self
            .shares_no_files()
            .then(|| Seen::all_of(pinned.file_set()));
        match purpose {
            Purpose::Collection { .. } => {
                pinned.check_readable(self.floor)?;
                let first = match agreement {
                    None => First::from(&pinned),
                    Some(agreement) => agreement.first(&self.shard, self.floor).await?,
                };
                progress.version = first.version;
                progress.upper = first.upper;
                let all = self.all(Sign::Plus, Frontier::At(0));
                for file in &first.files {
                    if let Err(error) = self.read_mine(file, first.version, all).await {
                        let files = [file.path.as_str()].into_iter();
                        return Err(self.behind_if_removed(error, files, first.version).await?);
                    }
                }
            }
            Purpose::View { as_of, end } => self.compare(&pinned, as_of, end).await?,
            Purpose::Ingest => {
                // Made while nobody ran.
                self.shard.check_rewrites().await?;
                if let Some(version) = self.shard.unaccepted_edit() {
                    return Err(self.foreign_edit(version));
                }
                // It has nothing to write their rows from.
                let damaged = self.damaged(&pinned).await?;
                if let Some((path, damage)) = damaged.first_key_value() {
                    return Err(self.damage(path, *damage));
                }
                self.mark(Mark::Settled);
            }
        }
        if let Some(holding) = &self.holding {
            holding.has_read_first();
        }
        self.pass(progress)?;
        Ok(progress)
    }

    /// Has what is to be read now, and the since that goes with it, kept.
    async fn hold(&mut self) -> Result<(), Error> {
        let from = match self.share {
            Share::Files => self.floor,
            // A shard without files has nothing to be read.
            Share::Buckets if self.shard.pin().files().len() > 0 => {
                match self.shard.progress().upper.time() {
                    Some(upper) => (upper - 1).max(0),
                    None => return Ok(()),
                }
            }
            Share::Buckets | Share::Nothing => return Ok(()),
        };
        self.holding = Holding::take(&self.worker, &self.shard, from).await?;
        Ok(())
    }

    /// Sends what each later entry of the log brings.
    async fn follow(mut self, mut progress: Progress) -> Result<(), Error> {
        while !progress.upper.is_empty() {
            if self.share == Share::Buckets && self.shard.progress().version == progress.version {
                // From here on a sink reads what comes as it comes.
                self.holding = None;
            }
            let version = progress.version + 1;
            // What an idle task waits for takes no more room than that.
            let entry = match Box::pin(self.shard.entry(version)).await {
                // What it names may have been there before, or not at all.
                Ok(entry) if !entry.exact && self.seen.is_some() => {
                    progress = Box::pin(self.jump(progress)).await?;
                    continue;
                }
                // Nor can it be told by what was read: another worker may have that.
                Ok(entry) if !entry.exact => return Err(self.behind(progress.version)),
                Ok(entry) => entry,
                Err(ShardError::EntryGone { .. }) => {
                    progress = Box::pin(self.jump(progress)).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let read = self.read.load(Ordering::Relaxed);
            match Box::pin(self.take(&entry)).await {
                // What it adds was merged and deleted before it was read.
                Err(Error::Shard(ShardError::MissingFile { .. }))
                    if self.read.load(Ordering::Relaxed) == read && self.shares_no_files() =>
                {
                    let refresh = || self.shard.refresh();
                    self.worker.retry("follow", refresh).await?;
                    progress = Box::pin(self.jump(progress)).await?;
                    continue;
                }
                Err(error) => {
                    let files = entry.adds.iter().chain(&entry.removes);
                    let files = files.map(|file| file.path.as_str());
                    let last = progress.version;
                    return Err(self.behind_if_removed(error, files, last).await?);
                }
                Ok(()) => {}
            }
            if let Some(seen) = &mut self.seen {
                seen.entry(&entry, self.shard.file_set());
            }
            progress = Progress {
                version,
                upper: entry.upper,
                ..progress
            };
            self.pass(progress)?;
        }
        // A collection is finished when its operators have given it to the dataflow, and a view whose shard was finished
        // before when that holds its input.
        if self.share != Share::Files && !self.worker.instance.was_finished() {
            self.worker.instance.finished();
        }
        Ok(())
    }

    fn behind(&self, version: u64) -> Error {
        let url = self.shard.url().to_owned();
        Error::Behind { url, version }
    }

    /// The error of reading these files: another one if somebody has removed and deleted one of them, so that nothing of
    /// the table is missing.
    async fn behind_if_removed<'f>(
        &self,
        error: Error,
        mut files: impl Iterator<Item = &'f str>,
        version: u64,
    ) -> Result<Error, Error> {
        if !matches!(error, Error::Shard(ShardError::MissingFile { .. })) {
            return Ok(error);
        }
        let refresh = || self.shard.refresh();
        self.worker.retry("follow", refresh).await?;
        Ok(match files.all(|path| self.shard.has_live_file(path)) {
            true => error,
            false => self.behind(version),
        })
    }

    async fn take(&self, entry: &Entry) -> Result<(), Error> {
        if let Some(id) = entry.id.filter(|id| self.own.contains(id)) {
            if self.share == Share::Nothing || !FULL_READ_BACK.get(self.worker.cx.configs()) {
                self.mark(Mark::Own(id));
                // Who has counted rows of a file that the batch removes has them no more.
                return self.take_removed(entry).await;
            }
            self.worker.instance.metrics.own_commits_read_back.add(1);
        }
        if self.share == Share::Nothing {
            return match entry.foreign && !self.shard.has_accepted(entry.version) {
                true => Err(self.foreign_edit(entry.version)),
                false => Ok(()),
            };
        }
        let read = self.read.load(Ordering::Relaxed);
        self.check_overwritten(&entry.adds, &entry.removes, entry.version)?;
        // Before what is new is condemned: a batch that removes a file adds back all that belongs to the view.
        self.take_removed(entry).await?;
        for file in &entry.adds {
            let taking = self.all(Sign::Plus, entry.lower);
            let condemn = OnDamage::Condemn;
            self.read(file, entry.version, entry.upper, taking, condemn)
                .await?;
        }
        if entry.foreign && self.read.load(Ordering::Relaxed) > read {
            self.edited();
        }
        Ok(())
    }

    /// What a view's read-back has sent is not what the view wrote.
    pub(super) fn edited(&self) {
        if self.share == Share::Buckets {
            self.worker.instance.edited(self.worker.index);
            self.mark(Mark::Edited);
        }
    }

    /// Takes away the rows of the files that an entry removes.
    async fn take_removed(&self, entry: &Entry) -> Result<(), Error> {
        for file in &entry.removes {
            let taking = self.all(Sign::Minus, entry.lower);
            self.read(file, entry.version, entry.upper, taking, OnDamage::Fail)
                .await?;
        }
        Ok(())
    }

    /// An ingest sink has nothing to repair its shard from.
    fn foreign_edit(&self, version: u64) -> Error {
        let url = self.shard.url().to_owned();
        ShardError::ForeignEdit { url, version }.into()
    }

    /// Goes on from the newest version, since the log, or the next file, was cleaned up beyond what was read: takes what
    /// the files that are there now hold beyond those that were read. There are no marks for what is skipped: a sink's
    /// own rows come as anybody's.
    async fn jump(&mut self, passed: Progress) -> Result<Progress, Error> {
        let pinned = self.shard.pin();
        let progress = pinned.progress;
        let from = passed.upper.time().unwrap_or(i64::MAX);
        if self.share == Share::Files {
            // At a since of `from` itself, what was read before may have been moved there.
            pinned.check_readable((from - 1).max(0))?;
        }
        let behind = || self.behind(passed.version);
        let files = pinned.file_set();
        let changed = self.seen.as_ref().and_then(|seen| seen.changes_to(&files));
        let changed = changed.ok_or_else(behind)?;
        tracing::info!(
            shard = self.shard.url(),
            version = progress.version,
            from,
            "what comes next was cleaned up, reading on from a snapshot"
        );
        if self.share == Share::Nothing {
            // An edit that was answered meanwhile was another's to report.
            self.shard.check_rewrites().await?;
            if let Some(version) = self.shard.unaccepted_edit() {
                return Err(self.foreign_edit(version));
            }
        } else {
            self.check_overwritten(&changed.added, &changed.removed, progress.version)?;
            if self.share == Share::Buckets {
                self.condemn_damaged(&pinned, &changed.added).await?;
            }
            let taken = async {
                // What is new cannot be told by its times from what was there before.
                let mixed = progress.since > Frontier::At(from.saturating_sub(1))
                    && !FULL_READ_BACK.get(self.worker.cx.configs());
                if mixed && self.compare_again(&changed, progress).await? {
                    return Ok(());
                }
                self.take_changed(&changed, passed.upper, progress).await?;
                self.edited();
                Ok(())
            };
            match taken.await {
                Err(Error::Shard(ShardError::MissingFile { path }))
                    if changed
                        .removed
                        .iter()
                        .any(|file| path.ends_with(&file.path)) =>
                {
                    return Err(behind());
                }
                taken => taken?,
            }
        }
        drop(pinned);
        self.seen = Some(Seen::all_of(files));
        self.pass(progress)?;
        Ok(progress)
    }

    /// Takes the rows by which two versions differ. Rows at times from `from` on are new; below, they were read, but for
    /// those that another program has added or removed. Where the sums say that there are none of these, because files
    /// were merged and no more, the rows below are not read.
    async fn take_changed(
        &self,
        Changed { added, removed }: &Changed,
        from: Frontier<i64>,
        Progress { version, upper, .. }: Progress,
    ) -> Result<(), Error> {
        let last = from.time().map_or(i64::MAX, |from| from.saturating_sub(1));
        let (now, before) = (
            self.below(added, version, last).await?,
            self.below(removed, version, last).await?,
        );
        let edited = now.differing(&before, self.mine());
        for (files, sign) in [(added, Sign::Plus), (removed, Sign::Minus)] {
            let all = self.all(sign, from);
            let wanted = Wanted {
                and: Some((all.wanted.buckets, last)),
                ..Wanted::of(edited)
            };
            for file in files {
                let taking = Taking { wanted, ..all };
                self.read(file, version, upper, taking, OnDamage::Fail)
                    .await?;
            }
        }
        Ok(())
    }

    /// The sums of the rows of these files at times up to `last`, in the buckets of this worker at least.
    async fn below(
        &self,
        files: &[Arc<DataFile>],
        version: u64,
        last: i64,
    ) -> Result<Totals, Error> {
        let mut totals = Totals::new();
        for file in files.iter().filter(|file| !self.is_absent(&file.path)) {
            match self.summed(file) {
                Some(Summed { times: None, .. }) => {}
                Some(Summed {
                    sums,
                    times: Some((_, max)),
                }) if max <= last => totals.add_sums(sums),
                Some(Summed {
                    times: Some((min, _)),
                    ..
                }) if min > last => {}
                _ => totals.merge(&self.totals(file, version, last).await?),
            }
        }
        Ok(totals)
    }

    /// A file that another program has put in the place of one of the same path: what that held is gone.
    fn check_overwritten(
        &self,
        added: &[Arc<DataFile>],
        removed: &[Arc<DataFile>],
        version: u64,
    ) -> Result<(), Error> {
        let key = |file: &'_ Arc<DataFile>| self.shard.file_key(&file.path).into_owned();
        let removed: BTreeSet<String> = removed.iter().map(key).collect();
        let is_removed = |file: &&Arc<DataFile>| removed.contains(&key(file));
        match added.iter().find(is_removed) {
            None => Ok(()),
            Some(file) => Err(ShardError::Corrupt {
                path: format!("{}/{}", self.shard.url(), file.path),
                why: format!(
                    "another file was put in its place by version {version}, and what it held is not \
                     known any more: start again to compare anew"
                ),
            }
            .into()),
        }
    }

    /// True if no other worker may have read from a file what lies in another one in a later version.
    fn shares_no_files(&self) -> bool {
        self.share != Share::Files || self.worker.peers == 1
    }

    fn pass(&self, Progress { version, upper, .. }: Progress) -> Result<(), Error> {
        if let (Some(holding), Frontier::At(upper)) = (&self.holding, upper) {
            // After a jump it reads from the upper on, at a since below.
            holding.advance(upper - 1);
        }
        if self.share == Share::Buckets {
            self.report_condemned(upper);
        }
        let frontier = match self.share {
            Share::Files => upper.max(Frontier::At(self.floor)),
            Share::Buckets | Share::Nothing => upper,
        };
        self.reply(Message::Frontier(frontier_from_i64(frontier)?));
        if self.share == Share::Buckets {
            self.worker.instance.read(self.worker.index, version, upper);
        }
        Ok(())
    }

    /// The buckets that are this worker's.
    pub(super) fn mine(&self) -> Buckets {
        match self.share {
            Share::Files => Buckets::ALL,
            Share::Buckets => Buckets::of_worker(self.worker.index, self.worker.peers),
            Share::Nothing => Buckets::default(),
        }
    }

    /// All rows that fall to this worker. Times below the upper at which they were seen count as that upper, whatever
    /// their writer put there.
    fn all(&self, sign: Sign, seen_at: Frontier<i64>) -> Taking {
        let seen_at = seen_at.time().unwrap_or(self.floor);
        Taking {
            wanted: Wanted::of(self.mine()),
            sign,
            floor: self.floor.max(seen_at),
            ceiling: i64::MAX,
        }
    }

    /// What the log says of the rows of a file, if that can be relied on: rows of a table with more columns than
    /// the type, or in columns of an earlier version, have other fingerprints.
    pub(super) fn summed<'f>(&self, file: &'f DataFile) -> Option<Summed<'f>> {
        let table = self.shard.schema();
        file.summed().filter(|_| self.codec.has_sums_of(&table))
    }

    /// Sends data once the operator has taken up enough of what was sent before.
    pub(super) async fn send(&self, data: Piece<D, E, T, R>) {
        // A sink's corrections may be slower than its read-back.
        let ahead = CHUNKS_AHEAD * CHUNK_ROWS.get(self.worker.cx.configs());
        let meter = &self.worker.instance.meter;
        meter.read_back_at_most(ahead).await;
        self.credits.take().await;
        self.reply(Message::Piece(data));
    }

    /// Says something beside the rows.
    pub(super) fn mark(&self, mark: Mark<T>) {
        self.reply(Message::Piece(Piece::Mark(mark)));
    }

    fn reply(&self, message: Message<D, E, T, R>) {
        // An operator that is gone ends this task.
        let _ = self.replies.send(message);
    }
}
