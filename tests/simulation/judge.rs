//! What must hold at every step, judged from the table alone: its log and its files, read as any other program would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::TryStreamExt;
use mvsink::Frontier;
use mvsink_persist::{Codec, decode_file};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::plan::{Contents, Plan, Row, Table};

type Updates = Vec<(Result<Row, String>, i64, i64)>;

/// Follows a table, and fails at the first thing that must not be.
#[derive(Clone)]
pub struct Judge {
    store: Arc<InMemory>,
    table: Table,
    /// The version that comes next.
    next: u64,
    upper: Frontier<u64>,
    since: i64,
    live: BTreeMap<String, Updates>,
    /// What was added once, or condemned: it must not come again.
    added: BTreeSet<String>,
    ids: BTreeSet<String>,
    /// Live files that the store has lost: until a batch removes them, and adds their rows again, their rows count.
    lost: BTreeSet<String>,
    /// Another program has edited the table, so that until the next batch it may hold anything.
    edited: bool,
    /// No sink seals times below this one without their contents.
    from: u64,
    /// Commits that moved the upper, and all of them.
    pub batches: usize,
    pub commits: usize,
    /// What was seen, in words.
    pub trace: Vec<String>,
}

/// The result of a call of a store in memory, which never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory does not wait")
}

impl Judge {
    pub fn new(store: Arc<InMemory>, table: Table, plan: &Plan) -> Self {
        let begins = plan.replicas.iter().filter_map(|of| match table {
            Table::View => plan.written(of.as_of),
            Table::Source => None,
        });
        Judge {
            store,
            table,
            from: begins.max().unwrap_or(0),
            next: 0,
            upper: Frontier::At(0),
            since: 0,
            live: BTreeMap::new(),
            added: BTreeSet::new(),
            ids: BTreeSet::new(),
            lost: BTreeSet::new(),
            edited: false,
            batches: 0,
            commits: 0,
            trace: Vec::new(),
        }
    }

    /// Of the same table, created again.
    pub fn anew(&self, plan: &Plan) -> Self {
        Judge {
            batches: self.batches,
            commits: self.commits,
            ..Judge::new(Arc::clone(&self.store), self.table, plan)
        }
    }

    /// Where something of the table is in the store.
    pub fn path(&self, of: &str) -> Path {
        Path::from(format!("{}/{of}", self.table.name()))
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        let path = self.path(path);
        match now(self.store.get(&path)) {
            Ok(got) => Some(now(got.bytes()).unwrap().to_vec()),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The shard's upper, as its log says.
    pub fn upper(&self) -> Frontier<u64> {
        self.upper
    }

    /// The version that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// A repair has given up what lies after the last version that was judged, and ended with this one.
    pub fn go_on_after(&mut self, version: u64) {
        self.next = self.next.max(version + 1);
    }

    /// A file that the log refers to, and its size.
    pub fn file(&self) -> Option<(String, usize)> {
        let path = self.live.keys().next()?;
        Some((path.clone(), self.get(path)?.len()))
    }

    /// Judges what has been committed since the last time.
    pub fn look(&mut self, plan: &Plan) {
        while let Some(entry) = self.get(&format!("_delta_log/{:020}.json", self.next)) {
            self.entry(plan, &String::from_utf8(entry).unwrap());
            self.next += 1;
        }
    }

    /// The store has lost this live file.
    pub fn lose(&mut self, path: &str) {
        now(self.store.delete(&self.path(path))).unwrap();
        self.lost.insert(path.to_owned());
    }

    /// No file that the log refers to may be missing, but for one that was lost.
    pub fn look_for_files(&self) {
        for path in self.live.keys().filter(|path| !self.lost.contains(*path)) {
            let path = self.path(path);
            assert!(
                now(self.store.head(&path)).is_ok(),
                "{path} is gone, to which the log refers"
            );
        }
    }

    /// The data files to which the log does not refer, and never has.
    pub fn never_referenced(&self) -> Vec<Path> {
        self.stored(|name| !self.added.contains(name))
    }

    /// The data files to which the log does not refer.
    pub fn unreferenced(&self) -> Vec<Path> {
        self.stored(|name| !self.live.contains_key(name))
    }

    /// The data files of such names.
    fn stored(&self, of: impl Fn(&str) -> bool) -> Vec<Path> {
        let within = self.path("");
        let objects: Vec<_> = now(self.store.list(Some(&within)).try_collect()).unwrap();
        let paths = objects.into_iter().map(|object| object.location);
        let is_one = |path: &Path| {
            let name = path.as_ref().strip_prefix(within.as_ref());
            let name = name.and_then(|name| name.strip_prefix('/'));
            name.is_some_and(|name| {
                name.ends_with(".parquet") && !name.starts_with("_delta_log") && of(name)
            })
        };
        paths.filter(is_one).collect()
    }

    fn entry(&mut self, plan: &Plan, entry: &str) {
        let actions: Vec<Value> = entry
            .lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let info = actions.iter().find_map(|action| action.get("commitInfo"));
        let id = info.and_then(|info| info["mvsink.id"].as_str());
        let mut words = format!("{} {}", self.table.name(), self.next);
        self.commits += 1;
        if let Some(id) = id {
            words += &format!(" by {id}");
            assert!(self.ids.insert(id.to_owned()), "{id} was committed twice");
        }
        let before = self.upper;
        let lower = info.and_then(|info| info["mvsink.lower"].as_u64());
        for action in &actions {
            if let Some(txn) = action.get("txn") {
                let version = || txn["version"].as_i64().unwrap();
                match txn["appId"].as_str().unwrap() {
                    "mvsink.upper" => {
                        self.upper = match version() {
                            i64::MAX => Frontier::Empty,
                            version => Frontier::At(u64::try_from(version).unwrap()),
                        }
                    }
                    "mvsink.since" => self.since = version(),
                    _ => {}
                }
            }
        }
        let moved = self.next > 0 && self.upper != before;
        if moved {
            self.batches += 1;
            words += &format!(" from {before} to {}", self.upper);
            assert!(self.upper > before, "the upper goes back{words}");
            assert_eq!(
                lower.map(Frontier::At),
                Some(before),
                "a batch begins where the one before it ended: {words}"
            );
        }
        let mut changed = false;
        for action in &actions {
            if let Some(remove) = action.get("remove") {
                let path = &plain(remove["path"].as_str().unwrap());
                // A sweeper condemns what nobody has added, in a commit, before it deletes it.
                let condemned = self.added.insert(path.to_owned());
                let removed = self.live.remove(path);
                assert!(
                    condemned || removed.is_some(),
                    "{path} is removed twice: {words}"
                );
                words += &format!(", less {path}");
                changed = true;
            }
        }
        for action in &actions {
            if let Some(add) = action.get("add") {
                let path = plain(add["path"].as_str().unwrap());
                if id.is_some()
                    && add["dataChange"] == false
                    && let Some(known) = self.live.get(&path)
                {
                    // It tells what the rows add up to, of a file that may be lost by then.
                    let is_lost = self.lost.contains(&path);
                    assert!(
                        is_lost || *known == self.decode(&path),
                        "{path} is another: {words}"
                    );
                    words += &format!(", again {path}");
                    continue;
                }
                let updates = self.decode(&path);
                words += &format!(", plus {path} with {} updates", updates.len());
                if moved {
                    for (row, time, _) in &updates {
                        let staged = u64::try_from(*time).unwrap();
                        assert!(
                            before <= Frontier::At(staged),
                            "{row:?} at {time} is below its lower: {words}"
                        );
                        assert!(
                            self.upper.is_complete(&staged),
                            "{row:?} at {time} is beyond its upper: {words}"
                        );
                    }
                }
                // Another program may name what is there again.
                assert!(
                    self.added.insert(path.clone()) || id.is_none(),
                    "{path} comes back: {words}"
                );
                self.live.insert(path, updates);
                changed = true;
            }
        }
        self.trace.push(words);
        if id.is_none() {
            self.edited = true;
        }
        // A batch seals its times; what merges files changes none of those that are sealed.
        if !self.edited && (moved || changed) {
            let first = match (moved, before) {
                (true, Frontier::At(before)) => before,
                _ => 0,
            };
            self.check(plan, first.max(self.from));
        }
    }

    /// From this time on, as far as times are sealed, the table holds what it must.
    fn check(&self, plan: &Plan, first: u64) {
        let first = first.max(u64::try_from(self.since).unwrap_or(0));
        for time in (first..=plan.end).filter(|time| self.upper.is_complete(time)) {
            assert_eq!(
                self.contents(time),
                plan.truth(self.table, time),
                "the contents at {time}, after {}",
                self.trace.last().unwrap()
            );
        }
    }

    /// The table is final and holds what it must in the end.
    pub fn check_end(&self, plan: &Plan) {
        let name = self.table.name();
        assert_eq!(self.upper, Frontier::Empty, "the {name} has ended");
        let mut lost = self.lost.iter();
        let dangling = lost.find(|path| self.live.contains_key(*path));
        assert_eq!(
            dangling, None,
            "the log of the {name} refers to a lost file"
        );
        assert_eq!(
            self.contents(u64::MAX),
            plan.truth(self.table, u64::MAX),
            "the contents of the {name} in the end"
        );
    }

    fn contents(&self, time: u64) -> Contents {
        // Another program's rows, and what takes them back, may be more than one can say.
        let mut sums = BTreeMap::<_, i128>::new();
        for (row, at, diff) in self.live.values().flatten() {
            if u64::try_from(*at).unwrap() <= time {
                *sums.entry(row.clone()).or_default() += i128::from(*diff);
            }
        }
        sums.retain(|_, diff| *diff != 0);
        let sums = sums.into_iter();
        sums.map(|(row, diff)| (row, i64::try_from(diff).expect("no row is there so often")))
            .collect()
    }

    fn decode(&self, path: &str) -> Updates {
        let bytes = self.get(path);
        let bytes = bytes.unwrap_or_else(|| panic!("{path} is committed, and not there"));
        // Another program may have put nulls there.
        let codec = Codec::<(Option<String>, Option<u64>), String>::new().unwrap();
        let mut updates = Vec::new();
        for batch in decode_file(path, bytes.into(), None, 1024).unwrap() {
            let decoded = codec.decode(&batch.unwrap()).unwrap();
            let rows = decoded.ok.into_iter();
            let row = |(name, number): (Option<String>, Option<u64>)| -> Row {
                (name.unwrap_or_default(), number.unwrap_or(u64::MAX))
            };
            updates.extend(rows.map(|(data, time, diff)| (Ok(row(data)), time, diff)));
            let errors = decoded.err.into_iter();
            updates.extend(errors.map(|(error, time, diff)| (Err(error), time, diff)));
        }
        updates
    }
}

/// A path of the log in the words that this program uses.
fn plain(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    path.replace("%2D", "-")
}
