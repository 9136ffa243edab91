//! The workloads of sinks, each as one measured run.

use std::iter;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mvsink::timely;
use mvsink::timely::worker::Worker;
use mvsink::{Context, Status, dyncfg};
use tokio::runtime::Runtime;

use super::floor::Floor;
use super::host::{FED_AT_ONCE, Host};
use super::report::Measured;
use super::rows::{Row, Rows};
use super::usage::{Usage, Used, percentile_ms};
use super::{Driver, Name, Scale, Spec};
use crate::error::Error;

/// Ticks before the clock starts.
const WARM_TICKS: usize = 3;

/// Rows that are written again and again until one of two replicas stands by.
const TAKEOVER_ROWS: usize = 1000;

/// How often an idle sink's input advances.
const IDLE_TICK: Duration = Duration::from_millis(100);

/// Measures a workload of sinks once, with shards below `url`.
///
/// # Errors
///
/// If a sink fails.
pub fn measure(spec: &Spec, scale: &Scale, url: &str) -> Result<Measured, Error> {
    let runtime = Runtime::new().map_err(Error::Runtime)?;
    let replicas = match spec.workload {
        Name::Bulk => scale.replicas,
        Name::Takeover => 2,
        _ => 1,
    };
    let replicas: Result<Vec<_>, _> = (0..replicas).map(|_| context(spec, &runtime)).collect();
    let run = Run {
        spec,
        replicas: replicas?,
        url,
    };
    let measured = match spec.workload {
        Name::Bulk => run.rows(scale, (0, scale.times as u64), From::FirstRow),
        // As a host does that starts again: from the last time that is complete.
        Name::Restart | Name::RestartReadBack => {
            let upper = scale.times as u64;
            run.rows(scale, (upper - 1, upper + 1), From::Rendering)
        }
        Name::Steady | Name::SteadyNocompact => run.steady(scale),
        Name::Latency => run.latency(scale, "memory://latency", "memory://floor"),
        Name::LatencyDurable => run.latency(scale, &run.shard("view"), &run.shard("floor")),
        Name::Takeover => run.takeover(),
        Name::Idle => run.idle(scale),
        Name::CorrectionsSnapshot
        | Name::CorrectionsRehydrate
        | Name::CorrectionsTemporal
        | Name::CorrectionsSmall => unreachable!("no workload of sinks"),
    };
    for cx in &run.replicas {
        runtime.block_on(cx.settled());
    }
    measured
}

/// The surroundings of one replica.
fn context(spec: &Spec, runtime: &Runtime) -> Result<Context, Error> {
    let cx = Context::new(runtime.handle().clone());
    let flags = [
        (
            dyncfg::ENABLE_SYNC_MV_SINK.name(),
            spec.driver != Some(Driver::Async),
        ),
        (
            dyncfg::COMPACTION.name(),
            spec.workload != Name::SteadyNocompact,
        ),
        (
            dyncfg::FULL_READ_BACK.name(),
            spec.workload == Name::RestartReadBack,
        ),
        (dyncfg::STANDBY.name(), spec.workload == Name::Takeover),
    ];
    for (flag, is_on) in flags {
        cx.configs().set(flag, &is_on.to_string())?;
    }
    Ok(cx)
}

/// Where the clock starts.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Rendering,
    FirstRow,
}

struct Run<'a> {
    spec: &'a Spec,
    replicas: Vec<Context>,
    url: &'a str,
}

impl Run<'_> {
    fn shard(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn used(&self, used: Used) -> Measured {
        Measured {
            wall_s: Some(used.wall.as_secs_f64()),
            cpu_s: Some(used.cpu.as_secs_f64()),
            peak_bytes: used.peak_bytes,
            ..Measured::of(self.spec)
        }
    }

    fn measured(&self, updates: usize, used: Used) -> Measured {
        Measured {
            updates_per_s: Some(updates as f64 / used.wall.as_secs_f64()),
            ..self.used(used)
        }
    }

    /// Runs the workers; gives what the first of them gives.
    fn execute<O: Send + 'static>(
        &self,
        run: impl Fn(&mut Worker, &[Context]) -> Result<O, Error> + Send + Sync + 'static,
    ) -> Result<O, Error> {
        let replicas = self.replicas.clone();
        let workers = timely::execute(timely::Config::process(self.spec.workers), move |worker| {
            run(worker, &replicas)
        });
        let workers = workers.map_err(Error::Workers)?;
        let mut ended = workers.join().into_iter();
        let first = ended.next().ok_or(Error::Panicked)?;
        for other in ended {
            other.map_err(|_| Error::Panicked)??;
        }
        first.map_err(|_| Error::Panicked)?
    }

    /// Feeds the rows, evenly at the times from the as-of on, until the shard's upper is `upper`.
    fn rows(
        &self,
        scale: &Scale,
        (as_of, upper): (u64, u64),
        from: From,
    ) -> Result<Measured, Error> {
        let rows = Arc::new(Rows::new(scale.rows));
        let (together, arrivals) = (Barrier::new(self.spec.workers), AtomicUsize::new(0));
        let (url, fed) = (self.shard("view"), Arc::clone(&rows));
        let times = match from {
            From::FirstRow => scale.times,
            From::Rendering => 1,
        };
        let count = rows.len();
        let time = move |number: usize| as_of + (number * times / count) as u64;
        let used = self.execute(move |worker, replicas| {
            together.wait();
            let mut usage = Usage::begin();
            let hosts = replicas
                .iter()
                .map(|cx| Host::render(worker, cx, "bench", &url, as_of));
            let mut hosts = hosts.collect::<Result<Vec<_>, _>>()?;
            if from == From::FirstRow {
                hosts
                    .iter()
                    .try_for_each(|host| host.until_started(worker))?;
                usage = Usage::begin();
            }
            hosts[0].meet(worker, &arrivals, 1)?;
            // Replicas get the same at the same time.
            for first in (0..fed.len()).step_by(FED_AT_ONCE * worker.peers()) {
                let last = fed.len().min(first + FED_AT_ONCE * worker.peers());
                let mine = (first + worker.index()..last).step_by(worker.peers());
                for host in &mut hosts {
                    let updates = mine
                        .clone()
                        .map(|number| (fed.get(number), time(number), 1));
                    host.feed(worker, updates)?;
                }
            }
            hosts.iter_mut().for_each(|host| host.advance(upper));
            hosts
                .iter()
                .try_for_each(|host| host.until(worker, upper))?;
            let used = usage.end();
            hosts[0].meet(worker, &arrivals, 2)?;
            hosts.into_iter().for_each(|host| host.stop(worker));
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
        let mut floor = Floor::new(&self.replicas[0], &self.shard("floor"))?;
        let usage = Usage::begin();
        let file = floor.encode(updates)?;
        floor.commit(file)?;
        Ok(usage.end())
    }

    /// Ticks of many updates, as fast as they are committed.
    fn steady(&self, scale: &Scale) -> Result<Measured, Error> {
        let half = scale.tick_updates.div_ceil(2);
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
        let mut each = Floor::new(&self.replicas[0], &self.shard("floor-ticks"))?;
        let mut floors = Vec::with_capacity(ticks);
        for number in 0..ticks {
            let updates = tick(&rows, number);
            let begun = Instant::now();
            let file = each.encode(updates)?;
            each.commit(file)?;
            floors.push(begun.elapsed());
        }
        let updates = scale.ticks * 2 * half;
        Ok(Measured {
            p50_ms: percentile_ms(&took, 50),
            p99_ms: percentile_ms(&took, 99),
            floor_cpu_s: Some(floor.cpu.as_secs_f64()),
            floor_updates_per_s: Some(updates as f64 / floor.wall.as_secs_f64()),
            floor_p50_ms: percentile_ms(&floors[WARM_TICKS..], 50),
            ..self.measured(updates, used)
        })
    }

    /// Ticks of one update, from advancing the input to the upper advanced.
    fn latency(&self, scale: &Scale, url: &str, floor_url: &str) -> Result<Measured, Error> {
        let ticks = scale.latency_ticks + WARM_TICKS;
        let rows = Arc::new(Rows::new(ticks));
        let fed = Arc::clone(&rows);
        let (took, used) = self.ticks(url, ticks, move |number| {
            Box::new(iter::once((fed.get(number), 1)))
        })?;
        let mut floor = Floor::new(&self.replicas[0], floor_url)?;
        let usage = Usage::begin();
        let mut floors = Vec::with_capacity(ticks);
        for number in 0..ticks {
            let file = floor.encode(iter::once((rows.get(number), 1)))?;
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
        self.execute(move |worker, replicas| {
            let mut host = Host::render(worker, &replicas[0], "bench", &url, 0)?;
            host.until_started(worker)?;
            let mut usage = Usage::begin();
            let mut took = Vec::with_capacity(ticks);
            for tick in 0..ticks {
                if tick == WARM_TICKS {
                    usage = Usage::begin();
                }
                let begun = Instant::now();
                let (time, upper) = (tick as u64, tick as u64 + 1);
                host.feed(worker, updates(tick).map(|(row, diff)| (row, time, diff)))?;
                host.advance(upper);
                host.until(worker, upper)?;
                took.push(begun.elapsed());
            }
            let used = usage.end();
            host.stop(worker);
            Ok((took.split_off(WARM_TICKS), used))
        })
    }

    /// Two replicas write until one of them stands by; how long that one takes to commit a tick after the other has gone.
    fn takeover(&self) -> Result<Measured, Error> {
        let url = self.shard("view");
        let (took, used) = self.execute(move |worker, replicas| {
            let hosts = replicas
                .iter()
                .map(|cx| Host::render(worker, cx, "bench", &url, 0));
            let mut hosts = hosts.collect::<Result<Vec<_>, _>>()?;
            hosts
                .iter()
                .try_for_each(|host| host.until_started(worker))?;
            let mut tick = 0;
            let rows = Rows::new(TAKEOVER_ROWS);
            let stands_by = |host: &Host| matches!(host.handle.status(), Status::StandingBy);
            let second = loop {
                if let Some(second) = hosts.iter().position(stands_by) {
                    break second;
                }
                for host in &mut hosts {
                    host.feed(
                        worker,
                        iter::once((rows.get(tick % TAKEOVER_ROWS), tick as u64, 1)),
                    )?;
                    host.advance(tick as u64 + 1);
                }
                tick += 1;
                let upper = tick as u64;
                hosts
                    .iter()
                    .try_for_each(|host| host.until(worker, upper))?;
            };
            let mut host = hosts.swap_remove(second);
            hosts.into_iter().for_each(|gone| gone.stop(worker));
            let usage = Usage::begin();
            host.feed(
                worker,
                iter::once((rows.get(tick % TAKEOVER_ROWS), tick as u64, 1)),
            )?;
            host.advance(tick as u64 + 1);
            host.until(worker, tick as u64 + 1)?;
            let used = usage.end();
            host.stop(worker);
            Ok((vec![used.wall], used))
        })?;
        Ok(Measured {
            p50_ms: percentile_ms(&took, 50),
            ..self.used(used)
        })
    }

    /// Sinks whose inputs advance ten times a second, and bring nothing.
    fn idle(&self, scale: &Scale) -> Result<Measured, Error> {
        let (url, ticks, sinks) = (self.url.to_owned(), scale.idle_ticks, scale.sinks);
        let (arrivals, start) = (AtomicUsize::new(0), Mutex::new(None));
        let used = self.execute(move |worker, replicas| {
            let mut hosts = Vec::with_capacity(sinks);
            for sink in 0..sinks {
                let (name, url) = (format!("idle-{sink}"), format!("{url}/idle-{sink}"));
                hosts.push(Host::render(worker, &replicas[0], &name, &url, 0)?);
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
        let mut floor = Floor::new(&self.replicas[0], &self.shard("floor"))?;
        let sink_ticks = sinks * ticks;
        let usage = Usage::begin();
        for _ in 0..sink_ticks {
            floor.commit_nothing()?;
        }
        Ok(Measured {
            floor_cpu_s: Some(usage.end().cpu.as_secs_f64()),
            tick_cpu_us: Some(used.cpu.as_secs_f64() * 1e6 / sink_ticks as f64),
            ..self.used(used)
        })
    }
}
