//! A map by path whose clones share what neither has changed since.
//!
//! ```text
//!   map = segment 0 ∪ segment 1 ∪ …,   path p in segment hash(p) mod 256
//! ```
//!
//! A reader that pins a version holds a clone. The next change copies the one segment that it falls in, not the
//! map: a commit beside a pin costs the files of one segment in 256, and not all that the shard has.
//!
//! All spellings of one path are the same key ([`TableRoot::key`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::path::Path;
use xxhash_rust::xxh3::xxh3_64;

use super::table_root::TableRoot;

/// Doubling it halves what a change copies, and makes every clone 8 times that many bytes larger.
const SEGMENTS: u64 = 256;

type Segment<V> = BTreeMap<String, V>;

/// A map from paths; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PathMap<V> {
    root: Arc<TableRoot>,
    segments: Arc<[Arc<Segment<V>>]>,
}

impl<V> Default for PathMap<V> {
    fn default() -> Self {
        PathMap::new(Arc::default())
    }
}

impl<V> PathMap<V> {
    /// An empty map of paths in the log of the table there.
    pub(crate) fn new(root: Arc<TableRoot>) -> Self {
        let empty = Arc::new(Segment::new());
        PathMap {
            root,
            segments: (0..SEGMENTS).map(|_| Arc::clone(&empty)).collect(),
        }
    }
}

fn index(key: &str) -> usize {
    // Below SEGMENTS, so it fits.
    (xxh3_64(key.as_bytes()) % SEGMENTS) as usize
}

impl<V: Clone> PathMap<V> {
    /// Returns what was there, under whatever spelling.
    pub(crate) fn insert(&mut self, path: String, value: V) -> Option<V> {
        let spelled = match self.root.key(&path) {
            Cow::Owned(key) => Some(key),
            Cow::Borrowed(_) => None,
        };
        let key = spelled.unwrap_or(path);
        self.segment(&key).insert(key, value)
    }

    pub(crate) fn remove(&mut self, path: &str) -> Option<V> {
        // Looked up first: a segment is not copied for nothing.
        let root = Arc::clone(&self.root);
        let key = root.key(path);
        if self.segments[index(&key)].contains_key(&*key) {
            self.segment(&key).remove(&*key)
        } else {
            None
        }
    }

    /// Puts what `change` says in the place of a value.
    pub(crate) fn update(&mut self, change: impl Fn(&V) -> Option<V>) {
        let changes = |segment: &Segment<V>| segment.values().any(|value| change(value).is_some());
        if !self.segments.iter().any(|segment| changes(segment)) {
            return;
        }
        for segment in Arc::make_mut(&mut self.segments) {
            if changes(segment) {
                for value in Arc::make_mut(segment).values_mut() {
                    if let Some(changed) = change(value) {
                        *value = changed;
                    }
                }
            }
        }
    }

    /// Keeps what `keep` says.
    pub(crate) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        if self.values().all(&keep) {
            return;
        }
        for segment in Arc::make_mut(&mut self.segments) {
            if !segment.values().all(&keep) {
                Arc::make_mut(segment).retain(|_, value| keep(value));
            }
        }
    }

    fn segment(&mut self, key: &str) -> &mut Segment<V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.segments)[index(key)])
    }
}

impl<V> PathMap<V> {
    /// The table that its paths are of.
    pub(crate) fn root(&self) -> &Arc<TableRoot> {
        &self.root
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum()
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        self.get(path).is_some()
    }

    pub(crate) fn get(&self, path: &str) -> Option<&V> {
        self.get_key(&self.root.key(path))
    }

    /// The value of the paths with this key, as [`TableRoot::key`] gives it.
    pub(crate) fn get_key(&self, key: &str) -> Option<&V> {
        self.segments[index(key)].get(key)
    }

    /// The value of the object that lies there below the table: its place is the key. Some programs do not encode what
    /// they should, so its place may be its path as well.
    pub(crate) fn get_at(&self, location: &Path) -> Option<&V> {
        let name = location.as_ref();
        self.get_key(name).or_else(|| self.get(name))
    }

    /// The paths with other values in the two maps, by `same`, in no order: what this one has of each, and the other.
    /// Segments that both maps share are skipped whole.
    pub(crate) fn differences<'a>(
        &'a self,
        other: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> Vec<(Option<&'a V>, Option<&'a V>)> {
        let mut found = Vec::new();
        for (mine, theirs) in self.segments.iter().zip(other.segments.iter()) {
            if Arc::ptr_eq(mine, theirs) {
                continue;
            }
            for (path, value) in mine.iter() {
                match theirs.get(path) {
                    Some(their) if same(value, their) => {}
                    their => found.push((Some(value), their)),
                }
            }
            let only_theirs = theirs.iter().filter(|(path, _)| !mine.contains_key(*path));
            found.extend(only_theirs.map(|(_, their)| (None, Some(their))));
        }
        found
    }

    /// The values, in an order that depends on the paths alone.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.segments.iter().flat_map(|segment| segment.values())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u8),
        Remove(u8),
        Retain(u8),
        Clone,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => any::<(u8, u8)>().prop_map(|(path, value)| Step::Insert(path, value)),
            4 => any::<u8>().prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::Retain),
            2 => Just(Step::Clone),
        ]
    }

    proptest! {
        /// Against the plain map; clones keep what they had.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec(step(), 0..200)) {
            let mut both = (PathMap::default(), BTreeMap::new());
            let mut clones = Vec::new();
            for step in steps {
                let (map, model) = &mut both;
                match step {
                    Step::Insert(path, value) => {
                        map.insert(path.to_string(), value);
                        model.insert(path.to_string(), value);
                    }
                    Step::Remove(path) => {
                        map.remove(&path.to_string());
                        model.remove(&path.to_string());
                    }
                    Step::Retain(least) => {
                        map.retain(|value| *value >= least);
                        model.retain(|_, value| *value >= least);
                    }
                    Step::Clone => clones.push(both.clone()),
                }
            }
            clones.push(both);
            for (map, model) in clones {
                let sorted = |mut values: Vec<u8>| { values.sort_unstable(); values };
                let values = sorted(map.values().copied().collect());
                prop_assert_eq!(values, sorted(model.values().copied().collect()));
                for path in 0..=u8::MAX {
                    let path = path.to_string();
                    prop_assert_eq!(map.contains(&path), model.contains_key(&path));
                }
            }
        }
    }

    #[test]
    fn a_change_copies_one_segment() {
        let mut map = PathMap::default();
        for path in 0..10_000 {
            map.insert(path.to_string(), path);
        }
        let pinned = map.clone();
        map.remove("none");
        map.insert("one more".into(), 0);
        let pairs = map.segments.iter().zip(pinned.segments.iter());
        let copied: Vec<_> = pairs
            .filter(|(now, then)| !Arc::ptr_eq(now, then))
            .map(|(_, then)| then.len())
            .collect();
        assert_eq!(copied.len(), 1);
        assert!(copied[0] < 100, "{copied:?}");
    }
}
