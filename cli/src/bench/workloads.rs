//! The workloads of sinks, each as one measured run.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mvsink::timely;
use mvsink::timely::worker::Worker;
use mvsink::{Context, dyncfg};
use tokio::runtime::Runtime;

use super::floor::Floor;
use super::host::Host;
use super::report::Measured;
use super::rows::{Row, Rows};
use super::usage::{Usage, Used, percentile_ms};
use super::{Driver, Name, Scale, Spec};
use crate::error::Error;

/// Updates of a tick of `steady`, half of them retractions.
const TICK_UPDATES: usize = 5000;

/// Ticks before the clock starts.
const WARM_TICKS: usize = 3;

/// How often an idle sink's input advances.
const IDLE_TICK: Duration = Duration::from_millis(100);

/// How many sinks are idle beside each other.
const IDLE_SINKS: usize = 50;

/// Measures a workload of sinks once, with shards below `url`.
///
/// # Errors
///
/// If a sink fails.
pub fn measure(spec: &Spec, scale: &Scale, url: &str) -> Result<Measured, Error> {
    let runtime = Runtime::new().map_err(Error::Runtime)?;
    let cx = Context::new(runtime.handle().clone());
    let configs = cx.configs();
    let sync = spec.driver != Some(Driver::Async);
    configs.set(dyncfg::ENABLE_SYNC_MV_SINK.name(), &sync.to_string())?;
    let compaction = spec.workload != Name::SteadyNocompact;
    configs.set(dyncfg::COMPACTION.name(), &compaction.to_string())?;
    let run = Run { spec, cx, url };
    let measured = match spec.workload {
        Name::Bulk => run.rows(scale, (0, 1), From::FirstRow),
        // As a host does that starts again: from the last time that is complete.
        Name::Restart => run.rows(scale, (0, 2), From::Rendering),
        Name::Steady | Name::SteadyNocompact => run.steady(scale),
        Name::Latency => run.latency(scale, "memory://latency", "memory://floor"),
        Name::LatencyDurable => run.latency(scale, &run.shard("view"), &run.shard("floor")),
        Name::Idle => run.idle(scale),
        Name::CorrectionsSnapshot
        | Name::CorrectionsRehydrate
        | Name::CorrectionsTemporal
        | Name::CorrectionsSmall => unreachable!("no workload of sinks"),
    };
    runtime.block_on(run.cx.settled());
    measured
}

/// Where the clock starts.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Rendering,
    FirstRow,
}

struct Run<'a> {
    spec: &'a Spec,
    cx: Context,
    url: &'a str,
}

impl Run<'_> {
    fn shard(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn measured(&self, updates: usize, used: Used) -> Measured {
        Measured {
            updates_per_s: Some(updates as f64 / used.wall.as_secs_f64()),
            cpu_s: Some(used.cpu.as_secs_f64()),
            peak_bytes: used.peak_bytes,
            ..Measured::of(self.spec)
        }
    }

    /// Runs the workers; gives what the first of them gives.
    fn execute<O: Send + 'static>(
        &self,
        run: impl Fn(&mut Worker, &Context) -> Result<O, Error> + Send + Sync + 'static,
    ) -> Result<O, Error> {
        let cx = self.cx.clone();
        let workers = timely::execute(timely::Config::process(self.spec.workers), move |worker| {
            run(worker, &cx)
        });
        let workers = workers.map_err(Error::Workers)?;
        let mut ended = workers.join().into_iter();
        let first = ended.next().ok_or(Error::Panicked)?;
        for other in ended {
            other.map_err(|_| Error::Panicked)??;
        }
        first.map_err(|_| Error::Panicked)?
    }

    /// Feeds the rows at the as-of, until the shard's upper is `upper`.
    fn rows(
        &self,
        scale: &Scale,
        (as_of, upper): (u64, u64),
        from: From,
    ) -> Result<Measured, Error> {
        let rows = Arc::new(Rows::new(scale.rows));
        let (together, arrivals) = (Barrier::new(self.spec.workers), AtomicUsize::new(0));
        let (url, fed) = (self.shard("view"), Arc::clone(&rows));
        let used = self.execute(move |worker, cx| {
            together.wait();
            let mut usage = Usage::begin();
            let mut host = Host::render(worker, cx, "bench", &url, as_of)?;
            if from == From::FirstRow {
                host.until_started(worker)?;
                usage = Usage::begin();
            }
            host.meet(worker, &arrivals, 1)?;
            let mine = (worker.index()..fed.len()).step_by(worker.peers());
            host.feed(worker, mine.map(|number| (fed.get(number), 1)))?;
            host.advance(upper);
            host.until(worker, upper)?;
            let used = usage.end();
            host.meet(worker, &arrivals, 2)?;
            host.stop(worker);
            Ok(used)
        })?;
        let floor = self.floor((0..rows.len()).map(|number| (rows.get(number), 1)))?;
        Ok(Measured {
            floor_cpu_s: Some(floor.cpu.as_secs_f64()),
            floor_updates_per_s: Some(rows.len() as f64 / floor.wall.as_secs_f64()),
            ..self.measured(rows.len(), used)
        })
    }

    /// What the same updates take at the least.
    fn floor(&self, updates: impl Iterator<Item = (Row, i64)>) -> Result<Used, Error> {
        let mut floor = Floor::new(&self.cx, &self.shard("floor"))?;
        let usage = Usage::begin();
        let file = floor.encode(updates)?;
        floor.commit(file)?;
        Ok(usage.end())
    }

    /// Ticks of many updates, as fast as they are committed.
    fn steady(&self, scale: &Scale) -> Result<Measured, Error> {
        let half = TICK_UPDATES / 2;
        let ticks = scale.ticks + WARM_TICKS;
        let rows = Arc::new(Rows::new(ticks * half));
        let tick = move |rows: &Arc<Rows>, number: usize| {
            let new = number * half..(number + 1) * half;
            // What the tick before had brought.
            let old = number.saturating_sub(1) * half..number * half;
            let rows = Arc::clone(rows);
            let updates = new.map(|at| (at, 1)).chain(old.map(|at| (at, -1)));
            updates.map(move |(at, diff)| (rows.get(at), diff))
        };
        let fed = Arc::clone(&rows);
        let (took, used) = self.ticks(&self.shard("view"), ticks, move |number| {
            Box::new(tick(&fed, number))
        })?;
        let floor = self.floor((WARM_TICKS..ticks).flat_map(|number| tick(&rows, number)))?;
        let updates = scale.ticks * TICK_UPDATES;
        Ok(Measured {
            p50_ms: percentile_ms(&took, 50),
            p99_ms: percentile_ms(&took, 99),
            floor_cpu_s: Some(floor.cpu.as_secs_f64()),
            floor_updates_per_s: Some(updates as f64 / floor.wall.as_secs_f64()),
            ..self.measured(updates, used)
        })
    }

    /// Ticks of one update, from advancing the input to the upper advanced.
    fn latency(&self, scale: &Scale, url: &str, floor_url: &str) -> Result<Measured, Error> {
        let ticks = scale.latency_ticks + WARM_TICKS;
        let rows = Arc::new(Rows::new(ticks));
        let fed = Arc::clone(&rows);
        let (took, used) = self.ticks(url, ticks, move |number| {
            Box::new(std::iter::once((fed.get(number), 1)))
        })?;
        let mut floor = Floor::new(&self.cx, floor_url)?;
        let usage = Usage::begin();
        let mut floors = Vec::with_capacity(ticks);
        for number in 0..ticks {
            let file = floor.encode(std::iter::once((rows.get(number), 1)))?;
            let begun = Instant::now();
            floor.commit(file)?;
            floors.push(begun.elapsed());
        }
        let floor_used = usage.end();
        Ok(Measured {
            p50_ms: percentile_ms(&took, 50),
            p99_ms: percentile_ms(&took, 99),
            floor_cpu_s: Some(floor_used.cpu.as_secs_f64()),
            floor_p50_ms: percentile_ms(&floors[WARM_TICKS..], 50),
            ..self.measured(scale.latency_ticks, used)
        })
    }

    /// Feeds ticks on one worker, each when the one before it is committed; gives how long each took.
    fn ticks(
        &self,
        url: &str,
        ticks: usize,
        updates: impl Fn(usize) -> Box<dyn Iterator<Item = (Row, i64)>> + Send + Sync + 'static,
    ) -> Result<(Vec<Duration>, Used), Error> {
        let url = url.to_owned();
        self.execute(move |worker, cx| {
            let mut host = Host::render(worker, cx, "bench", &url, 0)?;
            host.until_started(worker)?;
            let mut usage = Usage::begin();
            let mut took = Vec::with_capacity(ticks);
            for tick in 0..ticks {
                if tick == WARM_TICKS {
                    usage = Usage::begin();
                }
                let begun = Instant::now();
                host.feed(worker, updates(tick))?;
                let upper = tick as u64 + 1;
                host.advance(upper);
                host.until(worker, upper)?;
                took.push(begun.elapsed());
            }
            let used = usage.end();
            host.stop(worker);
            Ok((took.split_off(WARM_TICKS), used))
        })
    }

    /// Sinks whose inputs advance ten times a second, and bring nothing.
    fn idle(&self, scale: &Scale) -> Result<Measured, Error> {
        let (url, ticks) = (self.url.to_owned(), scale.idle_ticks);
        let (arrivals, start) = (AtomicUsize::new(0), Mutex::new(None));
        let used = self.execute(move |worker, cx| {
            let mut hosts = Vec::with_capacity(IDLE_SINKS);
            for sink in 0..IDLE_SINKS {
                let (name, url) = (format!("idle-{sink}"), format!("{url}/idle-{sink}"));
                hosts.push(Host::render(worker, cx, &name, &url, 0)?);
            }
            for host in &hosts {
                host.until_started(worker)?;
            }
            let mut upper = 0;
            let mut tick = |worker: &mut Worker, hosts: &mut Vec<Host>| {
                upper += 1;
                hosts.iter_mut().for_each(|host| host.advance(upper));
                worker.step();
                upper
            };
            for _ in 0..WARM_TICKS {
                let upper = tick(worker, &mut hosts);
                for host in &hosts {
                    host.until(worker, upper)?;
                }
            }
            hosts[0].meet(worker, &arrivals, 1)?;
            // The same moments on all workers.
            let start = *start
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(Instant::now);
            let usage = Usage::begin();
            let mut last = 0;
            for number in 0..ticks {
                last = tick(worker, &mut hosts);
                let next = start + IDLE_TICK * (number as u32 + 1);
                hosts[0].until_moment(worker, next)?;
            }
            let used = usage.end();
            for host in &hosts {
                host.until(worker, last)?;
            }
            hosts[0].meet(worker, &arrivals, 2)?;
            hosts.into_iter().for_each(|host| host.stop(worker));
            Ok(used)
        })?;
        let sink_ticks = (IDLE_SINKS * scale.idle_ticks) as f64;
        Ok(Measured {
            cpu_s: Some(used.cpu.as_secs_f64()),
            peak_bytes: used.peak_bytes,
            tick_cpu_us: Some(used.cpu.as_secs_f64() * 1e6 / sink_ticks),
            ..Measured::of(self.spec)
        })
    }
}
