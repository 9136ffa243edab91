//! What was measured, as a table or as JSON.

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::{Driver, Name, Spec};

/// What one row says. `--json` prints it; scripts depend on the names. What does not apply is null.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What is done.
    pub workload: Name,
    /// Who runs the sink's operators.
    pub driver: Option<Driver>,
    /// How many worker threads.
    pub workers: usize,
    /// Updates in a second of real time.
    pub updates_per_s: Option<f64>,
    /// How long a tick takes: half of them no longer.
    pub p50_ms: Option<f64>,
    /// 99 of 100 no longer.
    pub p99_ms: Option<f64>,
    /// Processor time of the whole process.
    pub cpu_s: Option<f64>,
    /// Processor time of the floor: the same rows encoded and committed once, in a plain loop.
    pub floor_cpu_s: Option<f64>,
    /// The most memory above what there was before: resident, or allocated where that is counted.
    pub peak_bytes: Option<u64>,
    /// Processor time of one tick of one idle sink.
    pub tick_cpu_us: Option<f64>,
    /// Real time of the whole, in seconds.
    pub wall_s: Option<f64>,
    /// The longest tick.
    pub max_ms: Option<f64>,
    /// Updates in a second of the floor.
    pub floor_updates_per_s: Option<f64>,
    /// How long a tick takes in a plain loop, of `latency` its file operations alone: half of them no longer.
    pub floor_p50_ms: Option<f64>,
}

impl Measured {
    /// Nothing yet.
    pub fn of(spec: &Spec) -> Self {
        Measured {
            workload: spec.workload,
            driver: spec.driver,
            workers: spec.workers,
            updates_per_s: None,
            p50_ms: None,
            p99_ms: None,
            cpu_s: None,
            floor_cpu_s: None,
            peak_bytes: None,
            tick_cpu_us: None,
            wall_s: None,
            max_ms: None,
            floor_updates_per_s: None,
            floor_p50_ms: None,
        }
    }

    /// The median of runs of one row, number by number; `None` of none.
    pub fn median(runs: &[Measured]) -> Option<Self> {
        let of = |field: fn(&Measured) -> Option<f64>| {
            let mut all: Vec<f64> = runs.iter().filter_map(field).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        let peak = of(|run| run.peak_bytes.map(|bytes| bytes as f64));
        runs.first().map(|run| Measured {
            updates_per_s: of(|run| run.updates_per_s),
            p50_ms: of(|run| run.p50_ms),
            p99_ms: of(|run| run.p99_ms),
            cpu_s: of(|run| run.cpu_s),
            floor_cpu_s: of(|run| run.floor_cpu_s),
            peak_bytes: peak.map(|bytes| bytes as u64),
            tick_cpu_us: of(|run| run.tick_cpu_us),
            wall_s: of(|run| run.wall_s),
            max_ms: of(|run| run.max_ms),
            floor_updates_per_s: of(|run| run.floor_updates_per_s),
            floor_p50_ms: of(|run| run.floor_p50_ms),
            ..run.clone()
        })
    }
}

/// All rows as a table.
pub fn table(rows: &[Measured]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "workload",
        "driver",
        "workers",
        "updates/s",
        "floor",
        "p50 ms",
        "p99 ms",
        "floor p50",
        "max ms",
        "cpu s",
        "floor",
        "ratio",
        "peak MiB",
        "µs a tick",
    ]);
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    for row in rows {
        let ratio = row
            .cpu_s
            .zip(row.floor_cpu_s)
            .map(|(cpu, floor)| cpu / floor);
        let mib = row
            .peak_bytes
            .map(|bytes| bytes as f64 / f64::from(1 << 20));
        table.add_row([
            row.workload.to_string(),
            row.driver
                .map_or_else(|| "-".to_owned(), |driver| driver.to_string()),
            row.workers.to_string(),
            number(row.updates_per_s, 0),
            number(row.floor_updates_per_s, 0),
            number(row.p50_ms, 3),
            number(row.p99_ms, 3),
            number(row.floor_p50_ms, 3),
            number(row.max_ms, 3),
            number(row.cpu_s, 2),
            number(row.floor_cpu_s, 2),
            number(ratio, 2),
            number(mib, 0),
            number(row.tick_cpu_us, 1),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_number_by_number() {
        let spec = Spec {
            workload: Name::Steady,
            driver: Some(Driver::Sync),
            workers: 1,
        };
        let run = |updates_per_s, p99_ms| Measured {
            updates_per_s: Some(updates_per_s),
            p99_ms: Some(p99_ms),
            ..Measured::of(&spec)
        };
        let median = Measured::median(&[run(1.0, 30.0), run(3.0, 10.0), run(2.0, 20.0)]).unwrap();
        assert_eq!(
            (median.updates_per_s, median.p99_ms),
            (Some(2.0), Some(20.0))
        );
        assert_eq!((median.p50_ms, median.peak_bytes), (None, None));
        assert!(Measured::median(&[]).is_none());
        assert!(table(&[median]).contains("steady"));
    }

    #[test]
    fn the_names_are_those_that_scripts_know() {
        let spec = Spec {
            workload: Name::SteadyNocompact,
            driver: None,
            workers: 2,
        };
        let json = serde_json::to_string(&Measured::of(&spec)).unwrap();
        let head = r#"{"workload":"steady_nocompact","driver":null,"workers":2,"updates_per_s":null,"p50_ms":null,"#;
        let tail = r#""p99_ms":null,"cpu_s":null,"floor_cpu_s":null,"peak_bytes":null,"tick_cpu_us":null,"#;
        assert!(json.starts_with(&format!("{head}{tail}")), "{json}");
    }
}
