//! What a piece of work took: time, processor time of all threads, and memory above what was in use before.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;

/// What counts the bytes that the program has allocated, if its allocator does.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// Bytes that are allocated now.
    pub now: fn() -> usize,
    /// The most there were since it began anew.
    pub peak: fn() -> usize,
    /// Begins the peak anew.
    pub reset: fn(),
}

static HEAP: OnceLock<Heap> = OnceLock::new();

impl Heap {
    /// From now on memory is what this counts, and not what the system says that is resident.
    pub fn count_by(self) {
        // Counted already, then.
        let _ = HEAP.set(self);
    }
}

/// A piece of work that is being measured.
#[derive(Debug)]
pub struct Usage {
    begun: Instant,
    cpu: ProcessTime,
    /// Memory in use, in bytes; `None` where the system does not tell.
    before: Option<u64>,
}

/// What it took.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// From beginning to end.
    pub wall: Duration,
    /// Processor time of the whole process.
    pub cpu: Duration,
    /// The most memory in use, in bytes above what there was at the beginning.
    pub peak_bytes: Option<u64>,
}

impl Usage {
    /// Begins now.
    pub fn begin() -> Self {
        // The peak is measured anew from here on.
        let before = if let Some(heap) = HEAP.get() {
            (heap.reset)();
            Some((heap.now)() as u64)
        } else {
            let reset = fs::write("/proc/self/clear_refs", "5");
            reset.ok().and_then(|()| status("VmRSS:"))
        };
        Usage {
            before,
            cpu: ProcessTime::now(),
            begun: Instant::now(),
        }
    }

    /// Ends now.
    pub fn end(&self) -> Used {
        let (wall, cpu) = (self.begun.elapsed(), self.cpu.elapsed());
        let peak = match HEAP.get() {
            Some(heap) => Some((heap.peak)() as u64),
            None => status("VmHWM:"),
        };
        let peak = self.before.zip(peak);
        Used {
            wall,
            cpu,
            peak_bytes: peak.map(|(before, peak)| peak.saturating_sub(before)),
        }
    }
}

/// A field of Linux's description of this process, in bytes.
fn status(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// The least of the durations that so many of a hundred do not exceed, in milliseconds; `None` if there is none.
pub fn percentile_ms(took: &[Duration], percent: usize) -> Option<f64> {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    let at = sorted.get(rank.saturating_sub(1))?;
    Some(at.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let took: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&took, 50), Some(100.0));
        assert_eq!(percentile_ms(&took, 99), Some(198.0));
        assert_eq!(percentile_ms(&took, 100), Some(200.0));
        assert_eq!(percentile_ms(&took[..1], 50), Some(200.0));
        assert_eq!(percentile_ms(&[], 50), None);
    }

    #[test]
    fn memory_and_processor_time_are_seen() {
        let usage = Usage::begin();
        let taken = vec![1u8; 64 << 20];
        let sum: u64 = taken.iter().map(|byte| u64::from(*byte)).sum();
        let used = usage.end();
        assert_eq!(sum, 64 << 20);
        assert!(used.cpu > Duration::ZERO && used.wall > Duration::ZERO);
        if let Some(peak) = used.peak_bytes {
            // Other tests free some meanwhile.
            assert!(peak >= 32 << 20, "{peak}");
        }
    }
}
