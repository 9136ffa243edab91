//! Entries of other programs that say they change no data.
//!
//! A merge of files by another program says `dataChange = false`, and changes nothing. So may an entry that has other rows,
//! by a fault of its writer. What no sink wrote is not believed, but looked at:
//!
//! ```text
//!   the same   ⇔   Σ hash(row) × diff, by bucket, and the least and the greatest time of the rows
//!                  are alike for the files that it brings and for those that it takes away
//! ```
//!
//! An entry that only names live files again is looked at too, whatever it says of itself: where a size in it is another, the rows
//! tell; with the same size a file is the one that is there, and brings nothing. A time of modification tells nothing: whoever names a file again
//! may give any.
//!
//! Of the files of sinks the log says both, so that only the new files are read. What cannot be compared, since a file is
//! gone, counts as an edit. So the log is told of the new files as well, by the next commit of whoever has read them
//! ([`crate::log::state::State::tell_sums`]): they may be merged again, and be gone, before the next look.
//!
//! Whoever needs to know has an entry looked at: a reader that comes to it ([`Inner::judged`]), and what goes by edits that
//! nobody has answered ([`Shard::check_rewrites`]). Until then it keeps commits from saying that all edits are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::data_file::{Adder, DataFile, Summed, has_drawn_name};
use crate::error::Error;
use crate::file::{BATCH_ROWS, decode_file};
use crate::frontier::Frontier;
use crate::lock;
use crate::log::action::Commit;
use crate::log::entry_path;
use crate::log::state::Entry;
use crate::row_hash::Fingerprints;
use crate::shard::{Inner, Shard};
use crate::storage::{OnRetry, Storage};
use crate::sums::Sums;
use crate::verify::examine::{join_ranges, range};

/// How many entries before one are searched for what the log says of a file.
const ENTRIES_BEFORE_MAX: u64 = 1000;
/// Of entries with more files than this it is not kept what each of them adds up to: that takes kilobytes a file.
const SUMMED_FILES_MAX: usize = 64;

/// What an entry does that says it changes no data.
#[derive(Debug)]
pub(crate) struct Rewrite {
    pub(crate) version: u64,
    /// Where the upper was.
    pub(crate) upper: Frontier<i64>,
    pub(crate) added: Vec<Arc<DataFile>>,
    pub(crate) removed: Vec<Arc<DataFile>>,
    /// False if it is not known which of its files were in the table before it.
    is_exact: bool,
    verdict: OnceCell<Verdict>,
    /// What the rows of the files add up to that it brings, as they were read: they are the rows of sinks.
    summed: OnceLock<Vec<(Arc<DataFile>, Total)>>,
}

/// Whether the rows are the same after an entry as before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    Other,
}

impl Rewrite {
    /// What the rows of this file add up to, if it brought it and that is known.
    pub(crate) fn total_of(&self, file: &DataFile) -> Option<&Total> {
        let mut summed = self.summed.get()?.iter();
        summed.find_map(|(brought, total)| (**brought == *file).then_some(total))
    }

    pub(crate) fn new(
        version: u64,
        upper: Frontier<i64>,
        added: Vec<Arc<DataFile>>,
        removed: Vec<Arc<DataFile>>,
    ) -> Self {
        Rewrite {
            version,
            upper,
            added,
            removed,
            is_exact: true,
            verdict: OnceCell::new(),
            summed: OnceLock::new(),
        }
    }

    /// True if it is known which of its files were in the table before it.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_exact
    }

    /// What an entry does for all that it says of itself; `None` if it is a sink's, or names no files.
    pub(crate) fn of_entry(version: u64, upper: Frontier<i64>, commit: &Commit) -> Option<Self> {
        let is_nothing = commit.adds.is_empty() && commit.removes.is_empty();
        if Adder::of(commit) == Adder::Sink || is_nothing {
            return None;
        }
        let added = commit.adds.iter();
        let added = added.map(|add| Arc::new(DataFile::from_add(add, Adder::Other)));
        let removed = commit.removes.iter();
        let removed = removed.map(|remove| Arc::new(DataFile::from_remove(remove)));
        Some(Rewrite {
            is_exact: false,
            ..Rewrite::new(version, upper, added.collect(), removed.collect())
        })
    }
}

/// True if another program's entry does nothing but add files, by names as sinks draw them: these may be live already, and then
/// they bring no rows.
pub(crate) fn is_of_known_files(commit: &Commit) -> bool {
    let mut names = commit.adds.iter().map(|add| &add.path);
    commit.removes.is_empty() && !commit.adds.is_empty() && names.all(|path| has_drawn_name(path))
}

/// What rows add up to, and their least and greatest time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    sums: Sums,
    times: Option<(i64, i64)>,
}

impl Total {
    fn add(&mut self, other: &Total) {
        self.sums.merge(&other.sums);
        self.times = join_ranges(self.times, other.times);
    }
}

/// What earlier entries say of files.
#[derive(Debug, Default)]
pub(crate) struct FilesBefore {
    /// How a file was in the table, or that it was not, by its key.
    pub(crate) files: BTreeMap<String, Option<Arc<DataFile>>>,
    /// All entries were searched: a file of which they say nothing was not in the table.
    is_whole: bool,
}

/// Why a file's rows cannot be added up.
enum Unread {
    /// It is not there.
    Missing,
    /// It cannot be read.
    Unreadable,
}

impl Inner {
    /// The entry as readers are to take it: one that says it changes no data, and does, is an edit.
    ///
    /// # Errors
    /// [`Error::EntryGone`] if another program has taken away what the entry brought before anybody looked at it.
    pub(crate) async fn judged(
        &self,
        entry: Arc<Entry>,
        on_retry: OnRetry<'_>,
    ) -> Result<Arc<Entry>, Error> {
        let Some(rewrite) = &entry.rewrite else {
            return Ok(entry);
        };
        Ok(match self.judge(rewrite, on_retry).await? {
            Verdict::Same => entry,
            Verdict::Other => Arc::new(Entry {
                adds: rewrite.added.clone(),
                removes: rewrite.removed.clone(),
                foreign: true,
                rewrite: None,
                ..entry.as_ref().clone()
            }),
        })
    }

    async fn judge(&self, rewrite: &Rewrite, on_retry: OnRetry<'_>) -> Result<Verdict, Error> {
        let verdict = rewrite.verdict.get_or_try_init(|| async {
            let exact = match rewrite.is_exact {
                true => None,
                false => Some(self.storage.made_exact(rewrite, on_retry).await?),
            };
            let (added, removed) = match &exact {
                Some((added, removed)) => (added, removed),
                None => (&rewrite.added, &rewrite.removed),
            };
            let verdict = match self.compare(rewrite, added, removed, on_retry).await? {
                Some(verdict) => verdict,
                None => self.compare_chain(rewrite, on_retry).await?,
            };
            if verdict == Verdict::Other {
                tracing::warn!(
                    shard = %self.storage.url,
                    version = rewrite.version,
                    "another program's entry says that it changes no rows, or only names files again, and has other rows: it \
                     counts as an edit"
                );
            }
            Ok::<_, Error>(verdict)
        });
        verdict.await.copied()
    }

    /// `None` if a file that was brought is gone since somebody took it away again.
    async fn compare(
        &self,
        rewrite: &Rewrite,
        added: &[Arc<DataFile>],
        removed: &[Arc<DataFile>],
        on_retry: OnRetry<'_>,
    ) -> Result<Option<Verdict>, Error> {
        let schema = self.with_state(|state| state.schema());
        let read = async |file: &DataFile| self.storage.read_total(file, &schema, on_retry).await;
        let mut brought = Vec::new();
        for file in added {
            match read(file).await? {
                Ok(total) => brought.push((Arc::clone(file), total)),
                Err(Unread::Unreadable) => return Ok(Some(Verdict::Other)),
                Err(Unread::Missing) => {
                    self.catch_up(on_retry).await?;
                    let is_live = self.with_state(|state| state.is_live(&file.path));
                    return Ok(is_live.then_some(Verdict::Other));
                }
            }
        }
        let mut sum = Total::default();
        brought.iter().for_each(|(_, total)| sum.add(total));
        let root = &self.storage.root;
        let brought_keys: BTreeSet<_> = added.iter().map(|file| root.key(&file.path)).collect();
        let known: Vec<_> = removed.iter().map(|file| self.known_total(file)).collect();
        // Rows of a table whose columns have changed may have other fingerprints than when they were written.
        for trusting in [true, false] {
            let mut taken = Total::default();
            let mut all = true;
            for (file, known) in removed.iter().zip(&known) {
                if let Some(total) = known.as_ref().filter(|_| trusting) {
                    taken.add(total);
                    continue;
                }
                if brought_keys.contains(&root.key(&file.path)) {
                    // Another file may be in its place, whose rows are not its own.
                    let is_it = trusting
                        && self.storage.length_of(file, on_retry).await? == Some(file.size);
                    if !is_it {
                        all = false;
                        continue;
                    }
                }
                match read(file).await? {
                    Ok(total) => taken.add(&total),
                    Err(_) => all = false,
                }
            }
            if all && taken == sum {
                if known.iter().all(Option::is_some) {
                    self.remember(rewrite, brought);
                }
                return Ok(Some(Verdict::Same));
            }
        }
        Ok(Some(Verdict::Other))
    }

    /// What is known of the rows of a file without reading it: by the log, or since it was read here as it came.
    fn known_total(&self, file: &DataFile) -> Option<Total> {
        match file.summed() {
            Some(Summed { sums, times }) => Some(Total {
                sums: sums.clone(),
                times,
            }),
            None => lock(&self.log).total_of(file),
        }
    }

    /// Keeps what the rows of these files add up to, which have been rows of sinks before.
    fn remember(&self, rewrite: &Rewrite, brought: Vec<(Arc<DataFile>, Total)>) {
        let state = &mut lock(&self.log).state;
        for (file, Total { sums, times }) in &brought {
            if let Some(times) = times {
                state.sum_up(file, sums, *times);
            }
        }
        if brought.len() <= SUMMED_FILES_MAX {
            // Another look at the same time has found the same.
            let _ = rewrite.summed.set(brought);
        }
    }

    /// Compares all at once what this entry and the later ones of its kind do, which took away what it brought.
    async fn compare_chain(
        &self,
        first: &Rewrite,
        on_retry: OnRetry<'_>,
    ) -> Result<Verdict, Error> {
        let gone = || Error::EntryGone {
            url: self.storage.url.to_string(),
            version: first.version,
        };
        let chain = lock(&self.log).rewrites_from(first.version);
        if chain.iter().all(|rewrite| rewrite.version != first.version) {
            // It was read from the log again: its kind is not known from there on.
            return Err(gone());
        }
        let root = &self.storage.root;
        let (mut added, mut removed) = (BTreeMap::new(), BTreeMap::new());
        for rewrite in &chain {
            for file in &rewrite.removed {
                let key = root.key(&file.path).into_owned();
                if added.remove(&key).is_none() {
                    removed.insert(key, Arc::clone(file));
                }
            }
            let files = rewrite.added.iter();
            added.extend(files.map(|file| (root.key(&file.path).into_owned(), Arc::clone(file))));
        }
        let added: Vec<_> = added.into_values().collect();
        let removed: Vec<_> = removed.into_values().collect();
        match self.compare(first, &added, &removed, on_retry).await? {
            Some(Verdict::Same) => {
                let later = chain.iter().filter(|later| later.version > first.version);
                for later in later {
                    // If somebody looks at it at the same time, that finds the same, or that files are gone.
                    let _ = later.verdict.set(Verdict::Same);
                }
                Ok(Verdict::Same)
            }
            _ => Err(gone()),
        }
    }
}

impl Shard {
    /// Looks at the entries of other programs that say they change no data, and that nobody has looked at: reads the files
    /// that they bring. One that does change data counts as an edit from then on, to [`Shard::edited`] and
    /// [`Shard::unaccepted_edit`]; before that it does not. Free if there are none.
    ///
    /// # Errors
    /// Permanent ones of the log, and [`Error::Shutdown`].
    pub async fn check_rewrites(&self) -> Result<(), Error> {
        self.check_rewrites_with(&Storage::warn_of_retry).await
    }

    /// The same; errors that may pass are told to `on_retry`.
    pub(crate) async fn check_rewrites_with(&self, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let inner = self.inner();
        loop {
            let pending = inner.with_state(|state| state.rewrites().to_vec());
            let Some(last) = pending.last() else {
                return Ok(());
            };
            let mut other = None;
            for rewrite in &pending {
                match inner.judge(rewrite, on_retry).await {
                    Ok(Verdict::Same) => {}
                    Ok(Verdict::Other) | Err(Error::EntryGone { .. }) => other = Some(rewrite),
                    Err(error) => return Err(error),
                }
            }
            let mut log = lock(&inner.log);
            log.state.settle_rewrites(last.version, other);
        }
    }
}

impl Storage {
    /// The entry's files as they were new to the table, and as they were there before, for all that earlier entries say.
    async fn made_exact(
        &self,
        rewrite: &Rewrite,
        on_retry: OnRetry<'_>,
    ) -> Result<(Vec<Arc<DataFile>>, Vec<Arc<DataFile>>), Error> {
        let key = |file: &Arc<DataFile>| self.root.key(&file.path).into_owned();
        let mut after: BTreeMap<_, _> = rewrite.removed.iter().map(|it| (key(it), None)).collect();
        after.extend(rewrite.added.iter().map(|it| (key(it), Some(it))));
        let keys = after.keys().cloned().collect();
        let before = self.find_files(rewrite.version, keys, on_retry).await?;
        let is_known = |key: &String| before.is_whole || before.files.contains_key(key);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for file in &rewrite.removed {
            // The log may have said of it that it is there.
            if !is_known(&key(file)) {
                removed.push(Arc::clone(file));
            }
        }
        for (key, after) in after {
            let before = before.files.get(&key).and_then(Option::as_ref);
            if let (Some(before), Some(after)) = (before, after)
                && before.size == after.size
            {
                continue;
            }
            added.extend(after.cloned());
            removed.extend(before.cloned());
        }
        Ok((added, removed))
    }

    /// What the entries before `version` say last of the files with these keys: that they are in the table, and how, or, by
    /// `None`, that they are not. Each entry is read once.
    pub(crate) async fn find_files(
        &self,
        version: u64,
        mut keys: BTreeSet<String>,
        on_retry: OnRetry<'_>,
    ) -> Result<FilesBefore, Error> {
        let mut found = FilesBefore::default();
        let oldest = version.saturating_sub(ENTRIES_BEFORE_MAX);
        found.is_whole = oldest == 0;
        for before in (oldest..version).rev() {
            if keys.is_empty() {
                break;
            }
            let Some(bytes) = self.get_retrying(&entry_path(before), on_retry).await? else {
                found.is_whole = false;
                break;
            };
            let commit = match self.parse(before, bytes).await {
                Err(Error::Corrupt { .. }) => {
                    found.is_whole = false;
                    break;
                }
                parsed => parsed?,
            };
            let adder = Adder::of(&commit);
            for add in &commit.adds {
                let key = self.root.key(&add.path);
                if keys.remove(&*key) {
                    let file = Arc::new(DataFile::from_add(add, adder));
                    found.files.insert(key.into_owned(), Some(file));
                }
            }
            for remove in &commit.removes {
                let key = self.root.key(&remove.path);
                if keys.remove(&*key) {
                    found.files.insert(key.into_owned(), None);
                }
            }
        }
        Ok(found)
    }

    /// The size of what lies in the place of a file.
    async fn length_of(
        &self,
        file: &DataFile,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<u64>, Error> {
        let Ok(location) = self.data_location(&file.path) else {
            return Ok(None);
        };
        let found = self.head(&location, on_retry).await?;
        Ok(found.map(|found| found.size))
    }

    /// Reads what the rows of a file add up to.
    async fn read_total(
        &self,
        file: &DataFile,
        schema: &SchemaRef,
        on_retry: OnRetry<'_>,
    ) -> Result<Result<Total, Unread>, Error> {
        let Ok(location) = self.data_location(&file.path) else {
            return Ok(Err(Unread::Unreadable));
        };
        // That the store refuses to give it says nothing of the file.
        let Some(bytes) = self.get_retrying(&location, on_retry).await? else {
            return Ok(Err(Unread::Missing));
        };
        let (path, schema) = (file.path.clone(), Arc::clone(schema));
        let sum_up = move || sum_up(&path, bytes, &schema);
        Ok(match self.env.cpu.run(sum_up).await? {
            Ok(total) => Ok(total),
            Err(_) => Err(Unread::Unreadable),
        })
    }
}

fn sum_up(path: &str, bytes: Bytes, schema: &Schema) -> Result<Total, Error> {
    let mut fingerprints = Fingerprints::new(schema)?;
    let mut times = None;
    for batch in decode_file(path, bytes, None, BATCH_ROWS)? {
        let batch = batch?;
        fingerprints.add(&batch)?;
        times = join_ranges(times, range(&batch, true)?);
    }
    Ok(Total {
        sums: fingerprints.sums(),
        times,
    })
}
