//! Compaction: many small files become few large ones, and updates are added up as far as the since permits.
//!
//! ```text
//!   files ── plan ──> merges ── merge (by hash, since) ──> staged files ── commit ──> removes + adds
//! ```
//!
//! The collection is the same before and after, at every time from the since on: the entry's removes and adds say
//! `dataChange = false`, and a reader of any version finds that version's files as long as they are kept.
//!
//! Several maintainers, and everybody else, may work on the shard at once. A merge is decided by the commit: if any of
//! its inputs is live no more, or the columns have changed, it is given up and its outputs are deleted. Nothing is
//! lost whenever it is interrupted: until the commit nothing refers to the outputs, and the sweeper finds them.
//!
//! Invariants:
//!
//! - *conservation*: the sums of the outputs, hashed as they are encoded, are those of the inputs, or nothing is
//!   committed;
//! - *sorted*: the outputs of a merge are one run, in the order of the rows' hashes across its files;
//! - *no time is invented*: times are taken to the since at most, and never to the upper or beyond;
//! - *nothing unseen*: rows that another program has added are merged once a view has had the chance to refuse them.

mod plan;

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use futures::future::join;

use self::plan::{Planned, plan};
use crate::commit::{Outcome, Plan, our_info, removal};
use crate::data_file::{DataFile, FileMeta, StagedFile, bytes_of, rows_of};
use crate::error::Error;
use crate::file::{EncodedFile, FileEncoder};
use crate::frontier::Frontier;
use crate::log::action::{Add, Commit, CommitId, CommitInfo};
use crate::log::state::{Progress, State};
use crate::merge::{Advance, Budget, Merge, MergeProgress, RUN_TAG, Recipe, Wanted};
use crate::pinned::Pinned;
use crate::read::filter::Filter;
use crate::shard::Shard;
use crate::storage::Storage;
use crate::sums::Sums;

/// Rows that are written at once.
const BATCH_ROWS: usize = 8192;

/// How a shard is compacted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactOptions {
    /// Runs below this size, in bytes, count as equally small. At rest there are fewer than `fan_in` of them.
    pub size_floor_bytes: u64,
    /// So many runs of about one size are merged into one; at least 2. More means less rewriting and more files.
    pub fan_in: usize,
    /// A run is split into files of about this size, in bytes; half of the budget at most.
    pub target_file_bytes: u64,
    /// The memory to use, in bytes: half for what is merged, half for the file that is written. What exceeds it is put
    /// aside on disk ([`ClientOptions::spill_directory`](crate::ClientOptions::spill_directory)).
    pub budget_bytes: usize,
    /// Merge everything into one run, if that changes anything.
    pub full: bool,
    /// Only say what is due.
    pub dry_run: bool,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions {
            size_floor_bytes: 64 << 10,
            fan_in: 4,
            target_file_bytes: 128 << 20,
            budget_bytes: 256 << 20,
            full: false,
            dry_run: false,
        }
    }
}

/// What a compaction did; of a dry run what it would do first, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Merges that were committed.
    pub merges: u64,
    /// Merges that were given up because somebody else removed one of their files, or changed the columns.
    pub lost: u64,
    /// Files that were removed from the table.
    pub files_in: u64,
    /// Files that took their place.
    pub files_out: u64,
    /// Rows of the files that were removed, as far as their writers said how many.
    pub rows_in: u64,
    /// Rows of the files that took their place.
    pub rows_out: u64,
    /// Bytes of the files that were removed.
    pub bytes_in: u64,
    /// Bytes of the files that took their place.
    pub bytes_out: u64,
    /// Files that another program has added, and that are left as they are until a view, if there is one, has looked at
    /// their rows: it has appended twice by then.
    pub left_alone: u64,
}

/// How far a compaction is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactProgress {
    /// What was committed before the merge that is under way.
    pub done: CompactReport,
    /// The files that it merges.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows, as far as their writers said how many.
    pub rows: u64,
    /// The rows decoded so far. Each is decoded once.
    pub rows_read: u64,
    /// The rows that were put aside on disk so far for want of memory, as often as they were.
    pub rows_spilled: u64,
    /// The rows that have been merged into what is written so far.
    pub rows_done: u64,
    /// The rows written so far.
    pub rows_out: u64,
}

impl CompactProgress {
    fn take(&mut self, merge: &MergeProgress) {
        self.rows_read = merge.rows_read;
        self.rows_spilled = merge.rows_spilled;
        self.rows_done = merge.rows_merged;
    }
}

/// Is told how far a compaction is, and says whether it is to go on.
type OnCompact<'a> = &'a (dyn Fn(CompactProgress) -> ControlFlow<()> + Send + Sync);

impl CompactReport {
    fn add_inputs(&mut self, files: &[Arc<DataFile>]) {
        self.merges += 1;
        self.files_in += files.len() as u64;
        self.rows_in = self.rows_in.saturating_add(rows_of(files));
        self.bytes_in = self.bytes_in.saturating_add(bytes_of(files));
    }

    fn add_outputs(&mut self, files: &[StagedFile]) {
        self.files_out += files.len() as u64;
        self.rows_out += files.iter().map(|file| file.meta.rows).sum::<u64>();
        self.bytes_out += files.iter().map(|file| file.size).sum::<u64>();
    }
}

impl Shard {
    /// Merges files until no merge is due. The contents stay the same at every time from the since on. If anything was
    /// merged, or all was to be, a checkpoint is written in the end, so that the shard is quick to open.
    ///
    /// Errors that may pass are retried for ever, with a warning each. If `progress` breaks, the merge that is under
    /// way is given up, and what it had staged is deleted. Dropping the future is safe at any time: what was committed
    /// stays, and what was staged is left to the sweeper.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::MissingFile`] by the name of a file that is not what it must be, and permanent
    /// errors of the store and the log. What was committed before stays.
    pub async fn compact(
        &self,
        options: &CompactOptions,
        progress: OnCompact<'_>,
    ) -> Result<CompactReport, Error> {
        let mut report = CompactReport::default();
        self.refresh().await?;
        // What other programs have merged with the same rows may be merged again.
        self.check_rewrites().await?;
        'rounds: loop {
            let pinned = self.pin();
            // What a view cannot decode it removes: that must not hide in what it can.
            let (unseen, files): (Vec<_>, Vec<_>) = self.inner().with_state(|state| {
                let files = pinned.files().cloned();
                files.partition(|file| state.is_unseen(&file.path))
            });
            report.left_alone = unseen.len() as u64;
            let due = plan(files.iter(), advance_to(&pinned.progress), options);
            if options.dry_run {
                for merge in &due {
                    report.add_inputs(&merge.files);
                }
                return Ok(report);
            }
            if due.is_empty() || (options.full && report.merges > 0) {
                break;
            }
            for merge in due {
                let merged = self.run_merge(&pinned, merge, options, &mut report, progress);
                if merged.await?.is_break() {
                    break 'rounds;
                }
            }
        }
        if (report.merges > 0 || options.full)
            && let Err(error) = self.checkpoint().await
        {
            // It is for those who open the shard; the next one serves as well.
            tracing::warn!(shard = self.url(), %error, "could not write a checkpoint after compaction");
        }
        Ok(report)
    }

    /// One merge, from reading to the commit.
    async fn run_merge(
        &self,
        pinned: &Pinned,
        merge: Planned,
        options: &CompactOptions,
        report: &mut CompactReport,
        progress: OnCompact<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let inputs = merge.files;
        let mut run = RunWriter {
            shard: self,
            schema: self.schema(),
            run: self.inner().storage.env.uuid(),
            staged: Vec::new(),
            sums: Sums::default(),
        };
        let now = CompactProgress {
            done: report.clone(),
            files: inputs.len() as u64,
            bytes: bytes_of(&inputs),
            rows: rows_of(&inputs),
            ..CompactProgress::default()
        };
        let written = run.write(pinned, &inputs, options, now, progress).await;
        let stopped = matches!(written, Ok(ControlFlow::Break(())));
        let committed = match written {
            Ok(ControlFlow::Continue(())) => {
                self.commit_merge(&run.schema, &inputs, &run.staged).await
            }
            Ok(ControlFlow::Break(())) => Ok(None),
            Err(error) => Err(error),
        };
        let failed = match committed {
            Ok(Some(version)) => {
                report.add_inputs(&inputs);
                report.add_outputs(&run.staged);
                tracing::debug!(
                    shard = self.url(),
                    version,
                    files_in = inputs.len(),
                    files_out = run.staged.len(),
                    "compacted"
                );
                return Ok(ControlFlow::Continue(()));
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        // No commit of them is under way: it has returned, or was never tried.
        if let Err(left) = self.delete_files(&run.staged).await {
            tracing::warn!(shard = self.url(), error = %left, "files of a merge that was given up may be left behind");
        }
        if stopped {
            return Ok(ControlFlow::Break(()));
        }
        match failed {
            // Somebody else was faster, and has cleaned up as well.
            Some(error) if matches!(error, Error::MissingFile { .. }) => {
                self.refresh().await?;
                let inner = self.inner();
                if inner.with_state(|state| live(state, &inputs).is_some()) {
                    return Err(error);
                }
            }
            // It took so long that its files were taken for somebody's who is gone.
            Some(Error::Swept { .. }) | None => {}
            Some(error) => return Err(error),
        }
        report.lost += 1;
        Ok(ControlFlow::Continue(()))
    }

    /// Puts the entry that replaces `inputs`; `None` if that is not possible any more.
    async fn commit_merge(
        &self,
        schema: &SchemaRef,
        inputs: &[Arc<DataFile>],
        outputs: &[StagedFile],
    ) -> Result<Option<u64>, Error> {
        let storage = &self.inner().storage;
        let on_retry = &Storage::warn_of_retry;
        self.check_staged(outputs, on_retry).await?;
        let id = self.fresh_id();
        let plan = |state: &State| {
            let swept = outputs.iter().any(|file| state.is_removed(&file.path));
            match live(state, inputs) {
                Some(inputs) if !swept && state.schema() == *schema => {
                    Plan::Put(Box::new(merge_commit(storage, state, id, &inputs, outputs)))
                }
                _ => Plan::Done(()),
            }
        };
        match self.commit(id, plan, on_retry).await? {
            Outcome::Committed(version) => Ok(Some(version)),
            Outcome::Done(()) => Ok(None),
        }
    }
}

/// The time that earlier ones are taken to: the since, but never the upper or beyond.
fn advance_to(progress: &Progress) -> i64 {
    let since = progress.since.to_version().min(i64::MAX - 1);
    match progress.upper {
        Frontier::At(upper) => since.min(upper - 1),
        Frontier::Empty => since,
    }
}

/// These files as they are live, which may be under another spelling by now; `None` if one is not, or if another file has
/// been put in its place.
fn live<'s>(state: &'s State, files: &[Arc<DataFile>]) -> Option<Vec<&'s Arc<DataFile>>> {
    let live = files.iter().map(|file| {
        let live = state.file(&file.path)?;
        (live.size == file.size).then_some(live)
    });
    live.collect()
}

fn merge_commit(
    storage: &Storage,
    state: &State,
    id: CommitId,
    inputs: &[&Arc<DataFile>],
    outputs: &[StagedFile],
) -> Commit {
    let upper = state.progress().upper;
    let removes = inputs.iter().map(|file| removal(storage, file, false));
    let adds = outputs.iter().map(|file| Add {
        data_change: false,
        ..file.to_add()
    });
    Commit {
        info: Some(CommitInfo {
            operation: "OPTIMIZE".into(),
            ..our_info(storage, id, upper, upper)
        }),
        removes: removes.collect(),
        adds: adds.collect(),
        ..Commit::default()
    }
}

/// The files of one run, as they are staged.
struct RunWriter<'a> {
    shard: &'a Shard,
    /// The columns, which must be the table's in the end as well.
    schema: SchemaRef,
    /// The run's name.
    run: String,
    staged: Vec<StagedFile>,
    /// Of all rows staged.
    sums: Sums,
}

impl Drop for RunWriter<'_> {
    fn drop(&mut self) {
        // Committed, deleted, or, if this is interrupted, to be found by the sweeper.
        for file in &self.staged {
            self.shard.inner().staging.forget(&file.path);
        }
    }
}

/// A file that goes on, or is complete.
enum Encoded {
    Open(Box<FileEncoder>),
    Full(EncodedFile),
}

impl RunWriter<'_> {
    /// Merges the inputs into staged files. If it fails, or is told to break, [`RunWriter::staged`] has those that
    /// are there.
    async fn write(
        &mut self,
        pinned: &Pinned,
        inputs: &[Arc<DataFile>],
        options: &CompactOptions,
        mut now: CompactProgress,
        progress: OnCompact<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        let storage = &self.shard.inner().storage;
        let half = options.budget_bytes / 2;
        let file_bytes = usize::try_from(options.target_file_bytes)
            .unwrap_or(usize::MAX)
            .min(half);
        let wanted = Wanted {
            columns: None,
            filter: &Filter::all(),
            since: advance_to(&pinned.progress),
            min_time: None,
            max_time: None,
            with_time: true,
        };
        let recipe = Recipe::new(&storage.url, &self.schema, &wanted)?;
        let budget = Budget {
            bytes: half,
            batch_rows: BATCH_ROWS,
        };
        let mut merge = Merge::new(storage, inputs.iter().cloned(), recipe, budget)?;
        let mut open = None;
        let mut first = merge.advance().await?;
        while matches!(first, Advance::Working) {
            // What memory has room for does not take long.
            if merge.progress().rows_spilled > 0 {
                now.take(&merge.progress());
                if progress(now.clone()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            first = merge.advance().await?;
        }
        let mut next = match first {
            Advance::Rows(batch) => Some(batch),
            Advance::Working | Advance::End => None,
        };
        while let Some(batch) = next {
            let mut encoder = match open.take() {
                Some(encoder) => encoder,
                None => Box::new(FileEncoder::new(Arc::clone(&self.schema))?),
            };
            now.rows_out += batch.num_rows() as u64;
            let encode = storage.env.cpu.run(move || {
                encoder.write(&batch)?;
                Ok::<_, Error>(if encoder.estimated_size() < file_bytes {
                    Encoded::Open(encoder)
                } else {
                    Encoded::Full(encoder.finish()?)
                })
            });
            // While one batch is encoded the next is merged.
            let (encoded, merged) = join(encode, merge.next()).await;
            match encoded?? {
                Encoded::Open(encoder) => open = Some(encoder),
                Encoded::Full(file) => self.stage(file).await?,
            }
            next = merged?;
            now.take(&merge.progress());
            if progress(now.clone()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if let Some(encoder) = open {
            let file = storage.env.cpu.run(move || encoder.finish()).await??;
            self.stage(file).await?;
        }
        // *conservation*
        if Some(&self.sums) != merge.sums() {
            return Err(Error::Corrupt {
                path: storage.url.to_string(),
                why:
                    "the rows that compaction wrote are not those that it read; nothing was changed"
                        .into(),
            });
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn stage(&mut self, file: EncodedFile) -> Result<(), Error> {
        let mut meta = FileMeta::from(&file);
        let place = format!("{}/{}", self.run, self.staged.len());
        meta.tags.insert(RUN_TAG.to_owned(), place);
        self.sums.merge(&file.sums);
        let staged = self
            .shard
            .put_file(file.bytes, meta, &Storage::warn_of_retry)
            .await?;
        self.staged.push(staged);
        Ok(())
    }
}
