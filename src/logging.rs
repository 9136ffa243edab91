//! What Timely's logging says of sinks: how large their corrections are.
//!
//! A worker on which a logger of the name [`CORRECTIONS`] is registered when a sink is rendered is told every change,
//! as the write operator runs next; what was told is taken back when the operator is dropped, so that the events of
//! all operators add up to what is held.

use std::sync::Arc;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::logging_core::Logger;
use timely::progress::Timestamp;

use crate::counters::{Held, Size};

/// The name that the logger is registered under.
pub const CORRECTIONS: &str = "mvsink/corrections";

/// A change in the size of the corrections of one worker and sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CorrectionsEvent {
    /// The write operator's identifier, as Timely's own events name it.
    pub operator: usize,
    /// How many more updates are held.
    pub updates_diff: i64,
    /// How many more bytes in memory, about.
    pub bytes_diff: i64,
    /// How many more bytes on disk.
    pub spilled_bytes_diff: i64,
}

/// The container builder of the logger.
pub type CorrectionsEventBuilder = CapacityContainerBuilder<Vec<(Duration, CorrectionsEvent)>>;

/// Tells a logger the changes of one worker's corrections.
pub(crate) struct CorrectionsLog {
    logger: Logger<CorrectionsEventBuilder>,
    operator: usize,
    size: Arc<Size>,
    told: Held,
}

impl CorrectionsLog {
    /// For the operator with this identifier; `None` if no logger is registered.
    pub(crate) fn new<T: Timestamp>(
        scope: &timely::dataflow::Scope<'_, T>,
        operator: usize,
        size: Arc<Size>,
    ) -> Option<Self> {
        let logger = scope
            .worker()
            .logger_for::<CorrectionsEventBuilder>(CORRECTIONS)?;
        Some(CorrectionsLog {
            logger,
            operator,
            size,
            told: Held::default(),
        })
    }

    /// Tells what has changed since it was told last.
    pub(crate) fn tell(&mut self) {
        self.told(self.size.get());
    }

    fn told(&mut self, now: Held) {
        if now != self.told {
            let told = self.told;
            let diff = |now: u64, told: u64| now.wrapping_sub(told) as i64;
            self.logger.log(CorrectionsEvent {
                operator: self.operator,
                updates_diff: diff(now.updates, told.updates),
                bytes_diff: diff(now.bytes, told.bytes),
                spilled_bytes_diff: diff(now.spilled_bytes, told.spilled_bytes),
            });
            self.told = now;
        }
    }
}

impl Drop for CorrectionsLog {
    fn drop(&mut self) {
        self.told(Held::default());
    }
}
