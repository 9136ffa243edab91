//! The state that a log replays to.
//!
//! `state(n) = apply(state(n-1), entry n)`, and the first state is made of all actions of entry 0 or of a
//! checkpoint. Invariants, checked before anything is changed, so that a refused entry leaves the state as it was:
//!
//! - *progress*: upper and since never go back;
//! - *possible frontiers*: they move as sinks move them, and not otherwise ([`super::frontiers`]);
//! - *one table*: a commit of ours names the table that it was made for;
//! - *lower is the upper*: a commit of ours starts where the shard's upper was;
//! - *one schema*: no column goes or changes its type or place; some that allow nulls may come at the end;
//! - *gates*: every protocol and table property in force is one that this version understands ([`super::gates`]).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use object_store::path::Path;
use xxhash_rust::xxh3::xxh3_64;

use crate::data_file::{Adder, DataFile};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::location::make_room;
use crate::log::action::{Commit, CommitId, Metadata, Protocol, Remove, Txn};
use crate::log::entry_path;
use crate::log::frontiers::impossible;
use crate::log::gates::{
    Refusal, check_adds, check_columns, check_metadata, check_protocol, check_txn, to_give_up,
};
use crate::log::holds::Holds;
use crate::log::path_map::PathMap;
use crate::log::table_root::TableRoot;
use crate::rewrite::Rewrite;
use crate::schema::{check_order, check_schema};
use crate::sums::Sums;

/// The `txn` action that holds the shard's upper.
pub(crate) const UPPER: &str = "mvsink.upper";
/// The `txn` action that holds the shard's since.
pub(crate) const SINCE: &str = "mvsink.since";
/// The `txn` action that says up to which version the edits of other programs are answered: the since is where the upper
/// was. A checkpoint holds it, whoever writes that, and not which entries were edits.
pub(crate) const REVIEWED: &str = "mvsink.reviewed";
/// The `txn` action with a hash of the paths that were live in that version.
pub(crate) const REVIEWED_FILES: &str = "mvsink.reviewed.files";
/// The `txn` action that says up to which version somebody has accepted the edits of other programs, though they are not
/// answered: ingest sinks go on after them.
pub(crate) const ACCEPTED: &str = "mvsink.accepted";
/// The `txn` action with a hash of the paths that were live in that version.
pub(crate) const ACCEPTED_FILES: &str = "mvsink.accepted.files";
/// The table property with the version of the format.
pub(crate) const FORMAT_PROPERTY: &str = "mvsink.format";
/// The version of the format that this version of the crate writes, and the newest that it reads.
pub(crate) const FORMAT: u64 = 1;

/// The table property that says what the table holds, if that is an input.
pub(crate) const MODE_PROPERTY: &str = "mvsink.mode";
/// Its value then.
pub(crate) const INPUT_MODE: &str = "ingest";

/// The tag of a removed file in a checkpoint: the store's time by which it was removed, in milliseconds since 1970.
const REMOVED_BY: &str = "mvsink.removed_by";
/// How long removed files are remembered: Delta's default for `delta.deletedFileRetentionDuration`.
pub(crate) const TOMBSTONE_RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Uppers that are remembered, for the retention of a number of times.
pub(crate) const UPPERS_MAX: usize = 4096;

/// How many files a commit tells the sums of that are not its own.
const SUMMED_UP_MAX: usize = 64;

/// After so many appends a view has looked at a file: the first may have been on its way when it came.
const APPENDS_SEEN: u8 = 2;

/// How far a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// The last log entry.
    pub version: u64,
    /// The shard is complete for times below this.
    pub upper: Frontier<i64>,
    /// Reads are exact at times from this on.
    pub since: Frontier<i64>,
}

/// One log entry, as far as it concerns the collection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its place in the log.
    pub version: u64,
    /// Who committed it, if it was a sink.
    pub id: Option<CommitId>,
    /// The shard's upper before it.
    pub lower: Frontier<i64>,
    /// The shard's upper after it.
    pub upper: Frontier<i64>,
    /// The files whose rows it adds to the collection.
    pub adds: Vec<Arc<DataFile>>,
    /// The files whose rows it takes from the collection: another program deleted or changed some.
    pub removes: Vec<Arc<DataFile>>,
    /// True if another program changed the data. Rows then count from [`Entry::lower`] on, whatever their times.
    pub foreign: bool,
    /// False if it is not known which of the files it names were in the table before it: it was read again, long after.
    /// Some may then bring nothing, or take nothing.
    pub exact: bool,
    /// What it does if it says that it changes no data, and no sink made it.
    pub(crate) rewrite: Option<Arc<Rewrite>>,
}

/// The live data files by path.
pub(crate) type Files = PathMap<Arc<DataFile>>;

/// What a log says up to and with one version.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) version: u64,
    protocol: Protocol,
    metadata: Arc<Metadata>,
    schema: SchemaRef,
    txns: BTreeMap<String, Txn>,
    upper: Frontier<i64>,
    since: Frontier<i64>,
    /// The last edit by another program, until the since is where the upper was: earlier contents are as that
    /// program left them, and not as they were.
    edited: Option<Edit>,
    /// The last of them that nobody has accepted, until then too.
    unaccepted: Option<Edit>,
    /// The entries of other programs that say they change no data, and that nobody has looked at.
    rewrites: Vec<Arc<Rewrite>>,
    files: Files,
    /// A hash of the paths of the live files, whatever their order.
    paths_hash: u64,
    /// The keys of the live files of other programs that no view can have looked at yet, each with the appends since it
    /// came.
    unseen: BTreeMap<String, u8>,
    /// The keys of live files of which it is known here what they add up to, and of which the log does not say it: another
    /// program has merged them from those of sinks, and they were read, or it has named them again without tags.
    summed_up: BTreeSet<String>,
    tombstones: PathMap<Tombstone>,
    holds: Holds,
    /// The last uppers beside the empty one, ascending: those seen since the checkpoint that this began with.
    uppers: VecDeque<i64>,
}

/// A change of the data by another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// The entry that made it.
    pub(crate) version: u64,
    /// Where the upper was.
    pub(crate) upper: Frontier<i64>,
}

/// A file that was removed, and must not be added again.
#[derive(Clone, Debug)]
pub(crate) struct Tombstone {
    pub(crate) remove: Remove,
    /// The version that removed it, or the checkpoint's that told of it.
    pub(crate) version: u64,
    /// The store's time, in milliseconds, by which it was removed; known once there was a checkpoint after that.
    pub(crate) removed_by_ms: Option<i64>,
}

impl State {
    /// The state of a log's first entry, or of a checkpoint at `version`; `path` is what was read.
    pub(crate) fn first(
        root: &Arc<TableRoot>,
        path: &str,
        version: u64,
        commit: &Commit,
    ) -> Result<Self, Error> {
        let url = root.url();
        let corrupt = |why: &str| Error::Corrupt {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        let protocol = commit
            .protocol
            .clone()
            .ok_or_else(|| corrupt("it has no protocol"))?;
        let metadata = commit
            .metadata
            .clone()
            .ok_or_else(|| corrupt("it has no metadata"))?;
        if !metadata.configuration.contains_key(FORMAT_PROPERTY) {
            // That it is another program's says more than what it needs.
            check_metadata(url, &metadata).map_err(|refused| refused.at_first(url))?;
        }
        let schema = check_protocol(&protocol)
            .and_then(|()| check_metadata(url, &metadata))
            .and_then(|schema| check_columns(&schema).map(|()| schema))
            .map_err(|refused| refused.at_first(url))?;
        let mut txns = BTreeMap::new();
        for txn in &commit.txns {
            check_txn(|| path.to_owned(), txn)?;
            txns.insert(txn.app_id.clone(), txn.clone());
        }
        let frontier = |name: &str| {
            txns.get(name)
                .map(|txn| Frontier::from_version(txn.version))
                .ok_or_else(|| {
                    corrupt(&format!(
                        "it has no {name}, so another program has made the table, or made it anew; {}",
                        make_room(url)
                    ))
                })
        };
        let (upper, since) = (frontier(UPPER)?, frontier(SINCE)?);
        let mut state = State {
            version,
            protocol,
            metadata: Arc::new(metadata),
            schema,
            txns,
            upper,
            since,
            edited: None,
            unaccepted: None,
            rewrites: Vec::new(),
            files: Files::new(Arc::clone(root)),
            paths_hash: 0,
            unseen: BTreeMap::new(),
            summed_up: BTreeSet::new(),
            tombstones: PathMap::new(Arc::clone(root)),
            holds: Holds::default(),
            uppers: upper.time().into_iter().collect(),
        };
        check_adds(commit).map_err(|refused| refused.at_first(url))?;
        state.holds.update(&state.txns, commit.txns.iter());
        state.change_files(commit, Adder::Checkpoint);
        // Of a checkpoint.
        let by = |remove: &Remove| {
            remove
                .tags
                .as_ref()?
                .get(REMOVED_BY)?
                .as_ref()?
                .parse()
                .ok()
        };
        let by: BTreeMap<&str, i64> = commit
            .removes
            .iter()
            .filter_map(|remove| Some((remove.path.as_str(), by(remove)?)))
            .collect();
        state.tombstones.update(|tombstone| {
            Some(Tombstone {
                removed_by_ms: Some(*by.get(tombstone.remove.path.as_str())?),
                ..tombstone.clone()
            })
        });
        Ok(state)
    }

    /// Applies the next log entry.
    pub(crate) fn apply(&mut self, url: &str, commit: &Commit) -> Result<Entry, Error> {
        let version = self.version + 1;
        let path = || format!("{url}/{}", entry_path(version));
        let table = commit.info.as_ref().and_then(|info| info.table.as_ref());
        if table.is_some_and(|table| *table != self.metadata.id) {
            return Err(Error::Replaced {
                url: url.to_owned(),
                why: "its table was deleted and created again".into(),
            });
        }
        if let Some(restored) = commit.info.as_ref().and_then(|info| info.restored) {
            return Err(Error::Replaced {
                url: url.to_owned(),
                why: format!(
                    "a repair went back to its version {restored}; opened again, it goes on from there"
                ),
            });
        }
        let refuse = |refused: Refusal| refused.in_version(url, version);
        if let Some(protocol) = &commit.protocol {
            check_protocol(protocol).map_err(refuse)?;
        }
        let mut schema = None;
        if let Some(metadata) = &commit.metadata {
            let changed = check_metadata(url, metadata).map_err(refuse)?;
            let unfit = check_schema(&changed, &self.schema)
                .and_then(|()| check_order(&changed, &self.schema));
            unfit.map_err(|why| Error::SchemaMismatch {
                url: url.to_owned(),
                why: format!(
                    "{why}, since another program changed it in version {version}: {}",
                    to_give_up(url, version)
                ),
            })?;
            schema = Some(changed);
        }
        check_adds(commit).map_err(refuse)?;
        if let Some(why) = impossible(commit, &self.progress()) {
            return Err(Error::Corrupt { path: path(), why });
        }
        let (mut upper, mut since) = (self.upper, self.since);
        for txn in &commit.txns {
            check_txn(path, txn)?;
            let known = match txn.app_id.as_str() {
                UPPER => &mut upper,
                SINCE => &mut since,
                _ => continue,
            };
            let new = Frontier::from_version(txn.version);
            if new < *known {
                return Err(Error::Corrupt {
                    path: path(),
                    why: format!("it moves {} back from {known} to {new}", txn.app_id),
                });
            }
            *known = new;
        }
        let id = commit.info.as_ref().and_then(|info| info.id);
        let lower = commit.info.as_ref().and_then(|info| info.lower);
        if let (Some(_), Some(lower)) = (id, lower)
            && Frontier::from_version(lower) != self.upper
        {
            return Err(Error::Corrupt {
                path: path(),
                why: format!(
                    "it starts at {} where the shard's upper is {}",
                    Frontier::from_version(lower),
                    self.upper
                ),
            });
        }

        // Nothing fails from here on.
        let lower = self.upper;
        if let Frontier::At(time) = upper
            && upper > lower
        {
            self.uppers.push_back(time);
            if self.uppers.len() > UPPERS_MAX {
                self.uppers.pop_front();
            }
        }
        (self.upper, self.since, self.version) = (upper, since, version);
        let (mut adds, mut removes) = self.change_files(commit, Adder::of(commit));
        let is_nothing = adds.is_empty() && removes.is_empty();
        // Live files that are only named again bring rows if they are others now.
        let foreign = is_foreign(commit) && !is_nothing && !self.are_same_paths(&adds, &removes);
        if foreign {
            let edit = Edit {
                version,
                upper: lower,
            };
            self.edited = Some(edit);
            // A repair beside an edit is not what is to be named.
            if table.is_none() || self.unaccepted.is_none() {
                self.unaccepted = Some(edit);
            }
        }
        self.edited = self.edited.filter(|edit| edit.upper > since);
        if let Some(protocol) = &commit.protocol {
            self.protocol = protocol.clone();
        }
        if let Some(metadata) = &commit.metadata {
            self.metadata = Arc::new(metadata.clone());
        }
        if let Some(schema) = schema {
            self.schema = schema;
        }
        for txn in &commit.txns {
            self.txns.insert(txn.app_id.clone(), txn.clone());
        }
        self.forget_accepted();
        self.holds.update(&self.txns, commit.txns.iter());
        let is_new = id.is_none();
        self.look(commit, &adds, is_new, id.is_some() && upper > lower);
        let mut rewrite = None;
        if is_new && !foreign && !is_nothing {
            let (added, removed) = (std::mem::take(&mut adds), std::mem::take(&mut removes));
            let found = Arc::new(Rewrite::new(version, lower, added, removed));
            self.rewrites.push(Arc::clone(&found));
            rewrite = Some(found);
        }
        self.forget_reviewed_rewrites();
        Ok(Entry {
            version,
            id,
            lower,
            upper,
            adds,
            removes,
            foreign,
            exact: true,
            rewrite,
        })
    }

    /// True if the files have the same paths.
    fn are_same_paths(&self, added: &[Arc<DataFile>], removed: &[Arc<DataFile>]) -> bool {
        let root = self.files.root();
        let keys = |files: &[Arc<DataFile>]| -> BTreeSet<String> {
            let keys = files.iter().map(|file| root.key(&file.path).into_owned());
            keys.collect()
        };
        added.len() == removed.len() && keys(added) == keys(removed)
    }

    /// Keeps count of what views have looked at. An append may have been on its way when a file came; whoever makes the
    /// next one has read it before.
    fn look(&mut self, commit: &Commit, adds: &[Arc<DataFile>], is_new: bool, append: bool) {
        let root = self.files.root();
        for remove in &commit.removes {
            let key = root.key(&remove.path);
            if self.files.get_key(&key).is_none() {
                self.unseen.remove(&*key);
            }
        }
        if is_new {
            let untagged = adds.iter().filter(|file| file.sums.is_none());
            let keys = untagged.map(|file| root.key(&file.path).into_owned());
            self.unseen.extend(keys.map(|key| (key, 0)));
        } else if append {
            self.unseen.retain(|_, appends| {
                *appends += 1;
                *appends < APPENDS_SEEN
            });
        }
    }

    /// True if another program added the file so recently that no view can be known to have looked at its rows.
    pub(crate) fn is_unseen(&self, path: &str) -> bool {
        self.unseen.contains_key(&*self.files.root().key(path))
    }

    /// Removes, then adds; returns the files that bring data, and those that take data away, whatever another program says
    /// of that. A path is one file: one that was live before and is after brings nothing, however often it is named, but if
    /// it has another size.
    fn change_files(
        &mut self,
        commit: &Commit,
        adder: Adder,
    ) -> (Vec<Arc<DataFile>>, Vec<Arc<DataFile>>) {
        // By path, what was live before; of those that change data.
        let root = Arc::clone(self.files.root());
        let mut changed: BTreeMap<Cow<'_, str>, Option<Arc<DataFile>>> = BTreeMap::new();
        let removes = commit.removes.iter();
        let removes = removes.map(|remove| (remove.path.as_str(), remove.data_change));
        let adds = commit.adds.iter();
        let adds = adds.map(|add| (add.path.as_str(), add.data_change));
        let is_other = adder == Adder::Other;
        for (path, _) in removes
            .chain(adds)
            .filter(|(_, change)| *change || is_other)
        {
            let before = || self.files.get(path).cloned();
            changed.entry(root.key(path)).or_insert_with(before);
        }
        let before_commit: BTreeMap<_, _> = match is_other {
            true => changed
                .iter()
                .filter_map(|(key, file)| Some((key.clone(), file.clone()?)))
                .collect(),
            false => BTreeMap::new(),
        };
        for remove in &commit.removes {
            if let Some(file) = self.files.remove(&remove.path) {
                self.summed_up.remove(&*root.key(&remove.path));
                self.paths_hash ^= path_hash(&file.path);
            }
            let tombstone = Tombstone {
                remove: Remove {
                    tags: None,
                    ..remove.clone()
                },
                version: self.version,
                removed_by_ms: None,
            };
            self.tombstones.insert(remove.path.clone(), tombstone);
        }
        for add in &commit.adds {
            self.tombstones.remove(&add.path);
            let key = root.key(&add.path);
            self.summed_up.remove(&*key);
            let known = before_commit.get(&*key);
            let adder = match known.is_some_and(|file| file.is_repeated_by(add)) {
                true => Adder::Sink,
                false => adder,
            };
            let mut file = DataFile::from_add(add, adder);
            // With the same size it is the file that is there.
            if let Some(known) = known
                && let Some(summed) = known.summed()
                && let Some(times) = summed.times
                && known.size == file.size
                && file.sums.is_none()
            {
                file = DataFile {
                    sorted: known.sorted,
                    ..file.with_sums(summed.sums.clone(), times)
                };
                self.summed_up.insert(key.into_owned());
            }
            let file = Arc::new(file);
            self.paths_hash ^= path_hash(&add.path);
            if let Some(before) = self.files.insert(add.path.clone(), file) {
                self.paths_hash ^= path_hash(&before.path);
            }
        }
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (path, before) in changed {
            let after = self.files.get_key(&path);
            if let (Some(before), Some(after)) = (&before, after)
                && before.size == after.size
            {
                continue;
            }
            added.extend(after.cloned());
            removed.extend(before);
        }
        (added, removed)
    }

    /// The review that this commit of ours carries as the next entry: all edits by other programs are answered up to its
    /// version; or, if one is still to be, or it is an edit itself, all are accepted. `None` if not even that.
    pub(crate) fn review(&self, commit: &Commit) -> Option<[(&'static str, i64); 2]> {
        let since = commit.txns.iter().filter(|txn| txn.app_id == SINCE);
        let since = since.map(|txn| Frontier::from_version(txn.version));
        let since = since.fold(self.since, Frontier::max);
        let is_left = |edit: &Edit| edit.upper > since;
        let is_judged = self.rewrites.is_empty();
        let answers =
            !is_foreign(commit) && is_judged && !self.edited.as_ref().is_some_and(is_left);
        let accepted = commit.txns.iter().find(|txn| txn.app_id == ACCEPTED);
        let accepted = accepted.and_then(|txn| u64::try_from(txn.version).ok());
        let is_left = |edit: &Edit| is_left(edit) && Some(edit.version) > accepted;
        if !answers && (!is_judged || self.unaccepted.as_ref().is_some_and(is_left)) {
            return None;
        }
        let mut hash = self.paths_hash;
        let removes = commit.removes.iter().map(|remove| &remove.path);
        let adds = commit.adds.iter().map(|add| &add.path);
        let gone: BTreeSet<_> = removes
            .chain(adds.clone())
            .filter_map(|path| Some(&self.files.get(path)?.path))
            .collect();
        for path in gone.into_iter().chain(adds) {
            hash ^= path_hash(path);
        }
        let version = i64::try_from(self.version + 1).ok()?;
        let (version_in, files_in) = match answers {
            true => (REVIEWED, REVIEWED_FILES),
            false => (ACCEPTED, ACCEPTED_FILES),
        };
        Some([(version_in, version), (files_in, txn_hash(hash))])
    }

    /// Up to which version edits are accepted, if any were.
    pub(crate) fn accepted(&self) -> Option<u64> {
        u64::try_from(self.txns.get(ACCEPTED)?.version).ok()
    }

    /// The version of the last edit that is neither answered nor accepted.
    pub(crate) fn unaccepted(&self) -> Option<u64> {
        self.unaccepted.map(|edit| edit.version)
    }

    /// The first version that may hold such an edit.
    pub(crate) fn first_unaccepted(&self) -> u64 {
        self.accepted()
            .max(self.reviewed())
            .map_or(0, |last| last + 1)
    }

    /// The version up to which all edits are answered, as the last commit of a sink says.
    fn reviewed(&self) -> Option<u64> {
        u64::try_from(self.txns.get(REVIEWED)?.version).ok()
    }

    fn forget_reviewed_rewrites(&mut self) {
        let reviewed = self.reviewed();
        self.rewrites
            .retain(|rewrite| Some(rewrite.version) > reviewed);
    }

    /// The entries of other programs that say they change no data, and that nobody has looked at.
    pub(crate) fn rewrites(&self) -> &[Arc<Rewrite>] {
        &self.rewrites
    }

    /// There is one to be looked at, at or before the version of this state.
    pub(crate) fn add_rewrite(&mut self, rewrite: Rewrite) {
        self.rewrites.push(Arc::new(rewrite));
    }

    /// Those up to this version were looked at, and this one is an edit, if any is.
    pub(crate) fn settle_rewrites(&mut self, version: u64, other: Option<&Arc<Rewrite>>) {
        let is_settled = |rewrite: &Arc<Rewrite>| rewrite.version <= version;
        let settled = self.rewrites.iter().filter(|rewrite| is_settled(rewrite));
        if other.is_none() {
            let root = self.files.root();
            for file in settled.flat_map(|rewrite| &rewrite.added) {
                self.unseen.remove(&*root.key(&file.path));
            }
        }
        // They may have been answered meanwhile.
        let other = other.filter(|other| self.rewrites.iter().any(|it| Arc::ptr_eq(it, other)));
        self.rewrites.retain(|rewrite| !is_settled(rewrite));
        let Some(edit) = other.map(|rewrite| Edit {
            version: rewrite.version,
            upper: rewrite.upper,
        }) else {
            return;
        };
        let later = |known: Option<Edit>| known.filter(|known| known.version > edit.version);
        let is_open = |edit: &Edit| edit.upper > self.since;
        self.edited = later(self.edited).or(Some(edit).filter(is_open));
        if Some(edit.version) > self.accepted() {
            self.unaccepted = later(self.unaccepted).or(Some(edit).filter(is_open));
        }
    }

    /// What the rows of this file, if it is live, add up to, and their least and greatest time, was read.
    pub(crate) fn sum_up(&mut self, file: &DataFile, sums: &Sums, times: (i64, i64)) {
        let Some(live) = self.files.get(&file.path) else {
            return;
        };
        if **live != *file || live.summed().is_some() {
            return;
        }
        let key = self.files.root().key(&file.path).into_owned();
        let file = Arc::new(live.with_sums(sums.clone(), times));
        self.files.insert(file.path.clone(), file);
        self.summed_up.insert(key);
    }

    /// Lets a sink's commit tell what the rows of some files add up to, beside what it does: it names them as they are, and
    /// changes nothing of them. Gives their paths.
    pub(crate) fn tell_sums(&self, commit: &mut Commit) -> BTreeSet<String> {
        if Adder::of(commit) != Adder::Sink || self.summed_up.is_empty() {
            return BTreeSet::new();
        }
        let root = self.files.root();
        let adds = commit.adds.iter().map(|add| root.key(&add.path));
        let removes = commit.removes.iter().map(|remove| root.key(&remove.path));
        let named: BTreeSet<_> = adds.chain(removes).collect();
        let keys = self.summed_up.iter();
        let keys = keys.filter(|key| !named.contains(key.as_str()));
        let files = keys.filter_map(|key| self.files.get_key(key));
        let told: Vec<_> = files.take(SUMMED_UP_MAX).cloned().collect();
        commit.adds.extend(told.iter().map(|file| file.to_add()));
        told.iter().map(|file| file.path.clone()).collect()
    }

    fn forget_accepted(&mut self) {
        let (accepted, since) = (self.accepted(), self.since);
        self.unaccepted = self
            .unaccepted
            .filter(|edit| edit.upper > since && Some(edit.version) > accepted);
    }

    /// True if the files are those of the version up to which edits were accepted.
    pub(crate) fn has_accepted_files(&self) -> bool {
        let known = self.txns.get(ACCEPTED_FILES).map(|txn| txn.version);
        known == Some(txn_hash(self.paths_hash))
    }

    /// The last version of which it is known that all edits up to it are answered, if any later one may hold one that is
    /// not: this was read from a checkpoint, which does not say.
    pub(crate) fn unreviewed(&self) -> Option<u64> {
        let reviewed = self.reviewed()?;
        (reviewed < self.version && self.upper > self.since).then_some(reviewed)
    }

    /// True if the files are those of the version that was reviewed last.
    pub(crate) fn has_reviewed_files(&self) -> bool {
        let known = self.txns.get(REVIEWED_FILES).map(|txn| txn.version);
        known == Some(txn_hash(self.paths_hash))
    }

    /// Another program edited the data in this version, at or before that of this state.
    pub(crate) fn set_edited(&mut self, version: u64) {
        let upper = self.upper;
        self.edited = Some(Edit { version, upper }).filter(|edit| edit.upper > self.since);
        if self.edited.is_some() {
            // It may have brought any of those that no sink of ours wrote.
            self.unseen = self.untagged(0);
        }
    }

    /// This was read from a checkpoint, which does not say how many appends have followed a file. If the edit is
    /// answered, one has.
    pub(crate) fn forget_what_was_seen(&mut self) {
        if self.upper != Frontier::Empty {
            self.unseen = self.untagged(1);
        }
    }

    fn untagged(&self, appends: u8) -> BTreeMap<String, u8> {
        let untagged = self.files.values().filter(|file| file.sums.is_none());
        let keys = untagged.map(|file| self.files.root().key(&file.path).into_owned());
        keys.map(|key| (key, appends)).collect()
    }

    /// The same of one that nobody has accepted.
    pub(crate) fn set_unaccepted(&mut self, version: u64) {
        let upper = self.upper;
        self.unaccepted = Some(Edit { version, upper }).filter(|edit| edit.upper > self.since);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            version: self.version,
            upper: self.upper,
            since: self.since,
        }
    }

    /// The edit whose upper the next append must move the since to, whatever is held.
    pub(crate) fn edited(&self) -> Option<Edit> {
        self.edited
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(crate) fn files(&self) -> Files {
        self.files.clone()
    }

    /// The live file with this path.
    pub(crate) fn file(&self, path: &str) -> Option<&Arc<DataFile>> {
        self.files.get(path)
    }

    /// True if this very reference to a file is in the table, whatever is known of the file's rows.
    pub(crate) fn refers_to(&self, file: &DataFile) -> bool {
        let live = self.file(&file.path);
        live.is_some_and(|live| live.is_same_reference(file))
    }

    pub(crate) fn is_live(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// The live file that lies there below the table, whatever its path in the log.
    pub(crate) fn file_at(&self, location: &Path) -> Option<&Arc<DataFile>> {
        self.files.get_at(location)
    }

    /// True if a commit that is remembered has removed the file, and its rows with it.
    pub(crate) fn is_removed_with_its_rows(&self, path: &str) -> bool {
        let tombstone = self.tombstones.get(path);
        tombstone.is_some_and(|tombstone| tombstone.remove.data_change)
    }

    /// True if a commit removed the file, so that no commit may add it any more.
    pub(crate) fn is_removed(&self, path: &str) -> bool {
        self.tombstones.contains(path)
    }

    /// The files that commits removed, as far as they are remembered.
    pub(crate) fn removed_files(&self) -> PathMap<Tombstone> {
        self.tombstones.clone()
    }

    /// True if files were removed in this version, or before the checkpoint of it.
    pub(crate) fn has_removed_in(&self, version: u64) -> bool {
        let mut tombstones = self.tombstones.values();
        tombstones.any(|tombstone| tombstone.version <= version)
    }

    /// The tombstone of what lies there below the table, whatever its path in the log.
    pub(crate) fn tombstone_at(&self, location: &Path) -> Option<&Tombstone> {
        self.tombstones.get_at(location)
    }

    pub(crate) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// The versions of this crate's own `txn` actions.
    pub(crate) fn own_txns(&self) -> BTreeMap<&str, i64> {
        let txns = self
            .txns
            .values()
            .map(|txn| (txn.app_id.as_str(), txn.version));
        txns.filter(|(app_id, _)| app_id.starts_with("mvsink."))
            .collect()
    }

    /// True if the table says that it holds an input, which nobody writes again.
    pub(crate) fn is_input(&self) -> bool {
        let mode = self.metadata.configuration.get(MODE_PROPERTY);
        mode.and_then(Option::as_deref) == Some(INPUT_MODE)
    }

    /// The last uppers known, ascending.
    pub(crate) fn uppers(&self) -> &VecDeque<i64> {
        &self.uppers
    }

    /// Takes over from an earlier state of the same log what is not in the log: when its holds were seen, an edit that is
    /// not answered, what files were found to add up to, and the uppers before those known here.
    pub(crate) fn go_on_from(&mut self, earlier: &State) {
        self.holds.go_on_from(&earlier.holds);
        let pending = earlier.edited.filter(|edit| edit.upper > self.since);
        self.edited = self.edited.or(pending);
        self.unaccepted = self.unaccepted.or(earlier.unaccepted);
        self.forget_accepted();
        let known = |rewrite: &&Arc<Rewrite>| {
            let mut here = self.rewrites.iter();
            !here.any(|here| here.version == rewrite.version)
        };
        let pending: Vec<_> = earlier.rewrites.iter().filter(known).cloned().collect();
        self.rewrites.extend(pending);
        self.rewrites
            .sort_unstable_by_key(|rewrite| rewrite.version);
        self.forget_reviewed_rewrites();
        for key in &earlier.summed_up {
            if let (Some(known), Some(live)) = (earlier.files.get_key(key), self.files.get_key(key))
                && live.summed().is_none()
                && live.is_same_reference(known)
            {
                let (path, known) = (live.path.clone(), Arc::clone(known));
                self.files.insert(path, known);
                self.summed_up.insert(key.clone());
            }
        }
        let first = self.uppers.front().copied().unwrap_or(i64::MAX);
        for time in earlier.uppers.iter().rev().filter(|time| **time < first) {
            if self.uppers.len() < UPPERS_MAX {
                self.uppers.push_front(*time);
            }
        }
    }

    /// Forgets the files that were removed up to this version, as far as no hold pins them.
    pub(crate) fn forget_removed(&mut self, version: u64) {
        let pin = self.holds.oldest_pin();
        self.tombstones
            .retain(|tombstone| tombstone.version > version || is_pinned(tombstone, pin));
    }

    /// Notes that what was removed up to this version was so at `now_ms`, by the store's clock.
    pub(crate) fn date_removed(&mut self, version: u64, now_ms: i64) {
        self.tombstones.update(|tombstone| {
            let known = tombstone.removed_by_ms.is_some_and(|by_ms| by_ms <= now_ms);
            (!known && tombstone.version <= version).then(|| Tombstone {
                removed_by_ms: Some(now_ms),
                ..tombstone.clone()
            })
        });
    }

    /// Forgets the files that were removed longer ago than they are remembered, by the store's clock, which says that it
    /// is `now_ms`; as far as no hold pins them.
    pub(crate) fn forget_dated(&mut self, now_ms: i64) {
        let pin = self.holds.oldest_pin();
        let oldest_ms = now_ms.saturating_sub(TOMBSTONE_RETENTION_MS);
        self.tombstones.retain(|tombstone| {
            let remembered = tombstone
                .removed_by_ms
                .is_none_or(|by_ms| by_ms > oldest_ms);
            remembered || is_pinned(tombstone, pin)
        });
    }

    /// About how many actions a checkpoint of this state has.
    pub(crate) fn size(&self) -> u64 {
        (self.files.len() + self.tombstones.len()) as u64
    }

    /// What a checkpoint of this state holds.
    pub(crate) fn to_commit(&self) -> Commit {
        let tombstones = self.tombstones.values();
        let removes = tombstones.map(|tombstone| Remove {
            data_change: false,
            tags: tombstone
                .removed_by_ms
                .map(|by_ms| BTreeMap::from([(REMOVED_BY.to_owned(), Some(by_ms.to_string()))])),
            ..tombstone.remove.clone()
        });
        Commit {
            info: None,
            protocol: Some(self.protocol.clone()),
            metadata: Some(self.metadata.as_ref().clone()),
            txns: self.txns.values().cloned().collect(),
            adds: self.files.values().map(|file| file.to_add()).collect(),
            removes: removes.collect(),
        }
    }
}

/// Whether a hold pins the file.
fn is_pinned(tombstone: &Tombstone, pin: Option<u64>) -> bool {
    pin.is_some_and(|pin| tombstone.version > pin)
}

/// True if the entry changes data and no sink of ours made it.
pub(crate) fn is_foreign(commit: &Commit) -> bool {
    let ours = commit.info.as_ref().is_some_and(|info| info.id.is_some());
    let changes = commit.adds.iter().any(|add| add.data_change)
        || commit.removes.iter().any(|remove| remove.data_change);
    changes && !ours
}

fn path_hash(path: &str) -> u64 {
    xxh3_64(path.as_bytes())
}

/// A hash as a `txn` holds it: not negative, and never the greatest version.
fn txn_hash(hash: u64) -> i64 {
    (hash >> 2) as i64
}

/// Where a commit moves the upper to.
pub(crate) fn upper_of(commit: &Commit) -> Option<Frontier<i64>> {
    let txn = commit.txns.iter().rev().find(|txn| txn.app_id == UPPER)?;
    Some(Frontier::from_version(txn.version))
}

/// True if a commit finishes the shard: whoever has seen that looks at the log no more.
pub(crate) fn is_last(commit: &Commit) -> bool {
    upper_of(commit).is_some_and(|upper| upper.is_empty())
}
