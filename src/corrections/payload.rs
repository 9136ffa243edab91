//! The payloads of the corrections: rows, left in the containers in which they arrived.
//!
//! Entries name a row by its [`Place`]. Invariants:
//!
//! - *plain*: every entry that names a row of a plain container has the difference that its row says.
//! - *live*: a container's `live` is the number of entries that name a row of it; no two entries name the same row.
//! - *freed*: a container whose `live` falls to zero is let go at once.
//! - *dense*: after [`Payload::rewrite_due`] has been acted upon, rows that nobody names are at most as many as those
//!   that are named, besides containers that a drained batch still shares.

use std::sync::Arc;

use super::heap::sampled;
use crate::time::{Diff, Time};

/// An update as it arrives.
pub(super) type Row<D, T, R> = (D, T, R);

/// Rows of one container, shared with the batches drained from it.
pub(super) type Rows<D, T, R> = Arc<Vec<Row<D, T, R>>>;

/// Where a row lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub container: u32,
    pub row: u32,
}

/// Containers of fewer rows than this are packed into a common one: the bookkeeping of a container costs as much as
/// several rows.
const PACK_BELOW: usize = 64;

/// A packed container is closed at this size: large enough to make bookkeeping vanish, small enough for an idle sink.
const PACKED_BYTES: usize = 32 << 10;

/// Rows without an entry that are put up with, whatever the number of those that have one.
const DEAD_ROWS_MIN: usize = 1024;

/// More rows than this in one container could not be named by a [`Place`].
pub(super) const CONTAINER_ROWS_MAX: usize = u32::MAX as usize;

struct Slot<D, T, R> {
    rows: Option<Rows<D, T, R>>,
    live: u32,
    /// About what its rows own on the heap, in bytes.
    heap: usize,
    /// Scratch for passes that number containers; zero between passes.
    mark: u32,
    plain: bool,
}

/// All containers, the since under which their times are read, and the meter of copied entries.
pub(super) struct Payload<D, T, R> {
    slots: Vec<Slot<D, T, R>>,
    free: Vec<u32>,
    /// The packed container that still takes rows.
    open: Option<u32>,
    live: usize,
    rows: usize,
    row_capacity: usize,
    /// About what all rows own on the heap, in bytes; 0 if nobody estimates it.
    heap: usize,
    heap_of: Option<fn(&D) -> usize>,
    /// Dead rows that the last rewriting could not get rid of.
    dead_floor: usize,
    since: Option<T>,
    /// Entries written or moved so far, for tests of complexity.
    pub copied: u64,
}

/// Which containers are being rewritten, and where their rows go.
pub(super) struct Rewrite {
    containers: Vec<u32>,
    places: Vec<Vec<Option<Place>>>,
}

impl<D: Ord, T: Time, R: Diff> Payload<D, T, R> {
    pub fn new() -> Self {
        Payload {
            slots: Vec::new(),
            free: Vec::new(),
            open: None,
            live: 0,
            rows: 0,
            row_capacity: 0,
            heap: 0,
            heap_of: None,
            dead_floor: 0,
            since: None,
            copied: 0,
        }
    }

    /// From now on, estimates what rows own on the heap.
    pub fn estimate_heap(&mut self, heap_of: fn(&D) -> usize) {
        self.heap_of = Some(heap_of);
    }

    /// What the rows own, from that of a few of them.
    fn heap_of_rows(&self, rows: &[Row<D, T, R>]) -> usize {
        let data = rows.iter().map(|(data, ..)| data);
        self.heap_of.map_or(0, |heap_of| sampled(heap_of, data))
    }

    pub fn since(&self) -> Option<T> {
        self.since
    }

    pub fn set_since(&mut self, since: T) {
        self.since = Some(since);
    }

    /// The time as which `time` counts: advanced to the since.
    #[inline]
    pub fn effective(&self, time: T) -> T {
        self.since.map_or(time, |since| since.max(time))
    }

    #[inline]
    pub fn row(&self, place: Place) -> &Row<D, T, R> {
        &self.rows(place.container)[place.row as usize]
    }

    #[inline]
    pub fn rows(&self, container: u32) -> &Rows<D, T, R> {
        self.slots[container as usize]
            .rows
            .as_ref()
            .expect("a container with live entries is held")
    }

    #[inline]
    pub fn time(&self, place: Place) -> T {
        self.effective(self.row(place).1)
    }

    /// Takes `container`, all rows of it counted as live. Returns where its rows lie: a container and the first row.
    pub fn take_in(&mut self, mut container: Vec<Row<D, T, R>>) -> Place {
        let added = container.len();
        let heap = self.heap_of_rows(&container);
        let place = if added < PACK_BELOW {
            self.pack(container)
        } else {
            if container.capacity() > added + added / 2 {
                container.shrink_to_fit();
            }
            let container = self.hold(Arc::new(container));
            Place { container, row: 0 }
        };
        let slot = &mut self.slots[place.container as usize];
        slot.live += added as u32;
        slot.heap += heap;
        self.live += added;
        self.heap += heap;
        place
    }

    /// Moves the rows into the open packed container, or into a new one if that is full or shared.
    fn pack(&mut self, mut rows: Vec<Row<D, T, R>>) -> Place {
        let packed_rows = (PACKED_BYTES / size_of::<Row<D, T, R>>().max(1)).clamp(PACK_BELOW, 4096);
        let added = rows.len();
        let open = self.open.and_then(|open| {
            let target = Arc::get_mut(self.slots[open as usize].rows.as_mut()?)?;
            (target.len() + added <= packed_rows).then_some((open, target))
        });
        if let Some((container, target)) = open {
            let row = target.len() as u32;
            let capacity = target.capacity();
            if capacity - target.len() < added {
                // Grows by doubling, but never beyond the size at which it is closed.
                let more = target.len().min(packed_rows - target.len()).max(added);
                target.reserve_exact(more);
            }
            target.extend(rows);
            self.rows += added;
            self.row_capacity += target.capacity() - capacity;
            return Place { container, row };
        }
        if rows.capacity() > packed_rows {
            rows.shrink_to_fit();
        }
        let container = self.hold(Arc::new(rows));
        self.open = Some(container);
        Place { container, row: 0 }
    }

    /// Puts a container into a slot of its own, with nothing live in it yet.
    pub fn hold(&mut self, rows: Rows<D, T, R>) -> u32 {
        self.rows += rows.len();
        self.row_capacity += rows.capacity();
        let slot = Slot {
            rows: Some(rows),
            live: 0,
            heap: 0,
            mark: 0,
            plain: true,
        };
        match self.free.pop() {
            Some(free) => {
                self.slots[free as usize] = slot;
                free
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("slots of 2^32 containers exceed memory")
            }
        }
    }

    /// The slot to give back rows to: `slot`, if it still holds the same container, or else a new one.
    pub fn hold_again(&mut self, slot: u32, rows: &Rows<D, T, R>) -> u32 {
        match self
            .slots
            .get(slot as usize)
            .and_then(|slot| slot.rows.as_ref())
        {
            Some(held) if Arc::ptr_eq(held, rows) => slot,
            _ => {
                let heap = self.heap_of_rows(rows);
                let slot = self.hold(Arc::clone(rows));
                self.slots[slot as usize].heap = heap;
                self.heap += heap;
                slot
            }
        }
    }

    pub fn retain(&mut self, container: u32, entries: u32) {
        self.slots[container as usize].live += entries;
        self.live += entries as usize;
    }

    /// The entry that named a row is gone.
    #[inline]
    pub fn release(&mut self, container: u32) {
        let slot = &mut self.slots[container as usize];
        debug_assert!(slot.live > 0, "live");
        slot.live -= 1;
        self.live -= 1;
        if slot.live == 0 {
            self.let_go(container);
        }
    }

    fn let_go(&mut self, container: u32) {
        let slot = &mut self.slots[container as usize];
        if let Some(rows) = slot.rows.take() {
            self.rows -= rows.len();
            self.row_capacity -= rows.capacity();
            self.heap -= std::mem::take(&mut slot.heap);
        }
        self.free.push(container);
        if self.open == Some(container) {
            self.open = None;
        }
        if self.free.len() == self.slots.len() {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }

    /// True if entries have the differences that their rows say, all those of this container.
    #[inline]
    pub fn is_plain(&self, container: u32) -> bool {
        self.slots[container as usize].plain
    }

    /// An entry has a difference of its own.
    #[inline]
    pub fn alter(&mut self, container: u32) {
        self.slots[container as usize].plain = false;
    }

    /// Numbers containers in the order in which they are met: the number of `container`, after `next` if it is new.
    #[inline]
    pub fn number(&mut self, container: u32, next: usize) -> usize {
        let mark = &mut self.slots[container as usize].mark;
        if *mark == 0 {
            *mark = next as u32 + 1;
        }
        *mark as usize - 1
    }

    /// Ends a numbering, for one container.
    pub fn unnumber(&mut self, container: u32) {
        self.slots[container as usize].mark = 0;
    }

    /// Drops `entries` live entries of one container at once.
    pub fn release_many(&mut self, container: u32, entries: u32) {
        let slot = &mut self.slots[container as usize];
        debug_assert!(slot.live >= entries, "live");
        slot.live -= entries;
        self.live -= entries as usize;
        if slot.live == 0 {
            self.let_go(container);
        }
    }

    /// True if dead rows have come to outweigh the live ones enough to pay for rewriting.
    pub fn rewrite_due(&mut self) -> bool {
        let dead = self.rows - self.live;
        self.dead_floor = self.dead_floor.min(dead);
        dead > self.dead_floor + 2 * self.live + DEAD_ROWS_MIN
    }

    /// True if a third of the rows are dead: worth a rewriting to somebody who needs the memory.
    pub fn is_sparse(&self) -> bool {
        2 * (self.rows - self.live) > self.live
    }

    /// Chooses the sparse containers that nobody shares. The caller then names every live row with
    /// [`Payload::rewrite_mark`], calls [`Payload::rewrite_move`], and asks [`Payload::rewritten`] for the new places.
    pub fn rewrite_begin(&mut self) -> Rewrite {
        let mut rewrite = Rewrite {
            containers: Vec::new(),
            places: Vec::new(),
        };
        for (container, slot) in self.slots.iter_mut().enumerate() {
            let Some(rows) = slot.rows.as_mut() else {
                continue;
            };
            if rows.len() <= 2 * slot.live as usize || Arc::get_mut(rows).is_none() {
                continue;
            }
            rewrite.containers.push(container as u32);
            rewrite.places.push(vec![None; rows.len()]);
            slot.mark = rewrite.containers.len() as u32;
        }
        rewrite
    }

    pub fn rewrite_mark(&self, rewrite: &mut Rewrite, place: Place) {
        let mark = self.slots[place.container as usize].mark as usize;
        if mark != 0 {
            rewrite.places[mark - 1][place.row as usize] = Some(place);
        }
    }

    /// Moves the marked rows of the chosen containers together, and drops the others.
    pub fn rewrite_move(&mut self, rewrite: &mut Rewrite) {
        // The chosen slots stay reserved until the end, so that no new container takes the number of an old one.
        self.open = None;
        for (container, places) in rewrite.containers.iter().zip(&mut rewrite.places) {
            let slot = &mut self.slots[*container as usize];
            let Some(rows) = slot.rows.take() else {
                continue;
            };
            self.rows -= rows.len();
            self.row_capacity -= rows.capacity();
            self.heap -= std::mem::take(&mut slot.heap);
            self.live -= slot.live as usize;
            slot.live = 0;
            let plain = slot.plain;
            let Some(rows) = Arc::into_inner(rows) else {
                continue;
            };
            let mut kept = Vec::new();
            for (row, place) in rows.into_iter().zip(places.iter_mut()) {
                if place.is_some() {
                    *place = Some(Place {
                        container: 0,
                        row: kept.len() as u32,
                    });
                    kept.push(row);
                }
            }
            if kept.is_empty() {
                continue;
            }
            let first = self.take_in(kept);
            if !plain {
                self.alter(first.container);
            }
            for place in places.iter_mut().flatten() {
                place.container = first.container;
                place.row += first.row;
            }
        }
    }

    /// Where a live row lies now.
    pub fn rewritten(&self, rewrite: &Rewrite, place: Place) -> Place {
        match self.slots[place.container as usize].mark as usize {
            0 => place,
            mark => rewrite.places[mark - 1][place.row as usize].unwrap_or(place),
        }
    }

    pub fn rewrite_end(&mut self, rewrite: Rewrite) {
        for container in rewrite.containers {
            self.slots[container as usize].mark = 0;
            self.let_go(container);
        }
        self.dead_floor = self.rows - self.live;
    }

    /// Bytes held, without what the rows point to.
    pub fn bytes(&self) -> usize {
        let held = self.slots.len() - self.free.len();
        self.row_capacity * size_of::<Row<D, T, R>>()
            + self.slots.capacity() * size_of::<Slot<D, T, R>>()
            + self.free.capacity() * size_of::<u32>()
            + held * (size_of::<Vec<Row<D, T, R>>>() + 2 * size_of::<usize>())
    }

    /// About the bytes that the rows own on the heap, if that is estimated.
    pub fn heap(&self) -> usize {
        self.heap
    }

    /// The number of entries.
    pub fn live(&self) -> usize {
        self.live
    }

    /// True if no rewriting is under way.
    #[cfg(test)]
    pub fn is_at_rest(&self) -> bool {
        self.slots.iter().all(|slot| slot.mark == 0)
    }

    #[cfg(test)]
    pub fn containers(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
