//! `run nexmark`: opens the shards, starts the workers, oversees them, and says how it went.
//!
//! ```text
//!   open all shards ──▶ workers feed, step ──▶ every upper at U ──▶ views compared ──▶ report
//!           '── every upper is at U already: nothing is written ──────────^
//! ```
//!
//! Everything that can be wrong with a directory is found while the shards are opened, before anything runs.
//! The first signal ends the input: what has been fed is finished, so that all shards are at one time and
//! nothing staged is left. If the store takes nothing more, the run ends without that, in a bounded time. The second
//! signal ends the process.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mvsink::dyncfg::ConfigSet;
use mvsink::mvsink_persist::{Client, Codec, Open, Shard};
use mvsink::{Context, Data};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::control::{Control, SHARDS, SOURCES, shard_names};
use super::dataflow::{self, Job, Pace};
use super::differs;
use super::generator::{Generator, ParameterMismatch, Parameters};
use super::holds;
use super::model::{Auction, Bid, Person, Q1, Q2, Q3, Q4, Q5, Q8};
use super::progress::Progress;
use super::report;
use super::views::VIEWS;
use crate::args::Nexmark;
use crate::error::Error;
use crate::signal::{GRACE, Signal, Signals};

/// How long a run that has failed looks at what it has written.
const SURVEY_MAX: Duration = Duration::from_secs(10);

/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(200);

/// How long, after a signal, nothing may be written while a shard is stalled.
const STALLED_MAX: Duration = Duration::from_secs(5);
/// How long, after a signal, nothing may be written while nobody says why: a view may be compared with what is there.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// How long a run may take to end after a signal, whatever it finishes.
const END_MAX: Duration = Duration::from_secs(60);

/// Runs the demo until all shards are complete up to the last event, or a signal ends it.
///
/// # Errors
///
/// Bad settings, shards that cannot be used, and whatever stops a sink for good.
pub fn run(options: &Nexmark) -> Result<ExitCode, Error> {
    let configs = ConfigSet::new();
    for (flag, value) in &options.set {
        configs.set(flag, value)?;
    }
    let parameters = Parameters::new(options.seed).ok_or(Error::Seed)?;
    let generator = Generator::new(parameters);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("mvsink-io")
        .build()
        .map_err(Error::Runtime)?;
    let read_only = watch::Sender::new(false);
    let cx = Context::builder(runtime.handle().clone())
        .configs(configs)
        .read_only(read_only.subscribe())
        .build();
    let ended = with_runtime(&runtime, options, cx, &read_only, generator);
    // Nothing that is still under way matters: it was finished or given up.
    runtime.shutdown_background();
    ended
}

fn with_runtime(
    runtime: &Runtime,
    options: &Nexmark,
    cx: Context,
    read_only: &watch::Sender<bool>,
    generator: Generator,
) -> Result<ExitCode, Error> {
    // What is waited for before and after the work itself has nothing to finish.
    let signals = Signals::within(GRACE)?;
    let urls = urls(dir(options));
    let client = cx.client().clone();
    let opened = runtime.block_on(signals.unless(open(&cx, &urls, generator.parameters())));
    let shards = match opened {
        Ok(shards) => shards?,
        Err(signal) => return Ok(signal.exit_code()),
    };

    let start = Instant::now();
    let limit = generator.upper(options.events);
    // Read once: the sinks begin where the input does.
    let uppers: [i64; SHARDS] =
        std::array::from_fn(|index| shards[index].progress().upper.to_version());
    let control = Control::new(uppers, limit, options.workers);
    for (index, shard) in shards.iter().enumerate() {
        runtime.spawn(Arc::clone(&control).follow(index, shard.clone()));
    }
    let before = generator.first_at(uppers[..SOURCES.len()].iter().copied().min().unwrap_or(0));
    if let Some(error) = differs::stuck(&shards, limit) {
        return Err(error);
    }
    let (as_ofs, nothing_new) = (
        as_ofs(&shards, &uppers, limit),
        uppers.iter().all(|upper| *upper >= limit),
    );
    if nothing_new {
        let altered = match runtime.block_on(signals.unless(differs::look(&shards))) {
            Ok(altered) => altered?,
            Err(signal) => return Ok(signal.exit_code()),
        };
        // What a view had at its last time can be read no more.
        let left_behind = |index: usize| as_ofs[index].cast_signed() >= uppers[index];
        if !altered && (SOURCES.len()..SHARDS).any(left_behind) {
            return summary(runtime, &signals, &client, &shards, Summary::NothingToDo);
        }
    }
    if let Some(error) = differs::uncompared(&shards, limit) {
        return Err(error);
    }

    // Before anything runs that would move a since.
    let holds = match nothing_new {
        true => {
            read_only.send_replace(true);
            Vec::new()
        }
        false => match runtime.block_on(signals.unless(holds::take(&shards, &control))) {
            Ok(holds) => holds?,
            // What was taken lapses.
            Err(signal) => return Ok(signal.exit_code()),
        },
    };
    let holds = Arc::new(holds);
    let holding = runtime.spawn(holds::keep(Arc::clone(&holds), Arc::clone(&control)));

    let job = Job {
        as_ofs,
        shards: shards.clone(),
        cx,
        urls,
        pace: options.rate.map(|rate| Pace {
            rate,
            first: before,
            start,
        }),
        generator: generator.clone(),
    };
    let workers = options.workers;
    let guards = {
        let control = Arc::clone(&control);
        mvsink::timely::execute(mvsink::timely::Config::process(workers), move |worker| {
            dataflow::work(worker, &job, &control);
        })
        .map_err(Error::Workers)?
    };
    let mut progress = Progress::new(generator.clone(), options.events, before);
    signals.allow(END_MAX);
    let ended = runtime.block_on(oversee(&control, &signals, &mut progress));
    holding.abort();
    drop(runtime.block_on(holding));
    progress.clear();
    // A worker that panicked has said so, and failed the run.
    drop(guards.join());
    let within = match ended {
        Ended::AtRest => holds::RELEASE_MAX,
        Ended::Stopped => holds::STALLED_RELEASE_MAX,
    };
    runtime.block_on(holds::release(holds, within));
    let after = generator.first_at(control.sources_upper());
    let made = report::Made {
        events: after.saturating_sub(before),
        elapsed: start.elapsed(),
    };
    signals.allow(GRACE);
    let failed = |error: Error| {
        // What cannot be read, or not in time, is no news beside the error.
        let _ = summary(
            runtime,
            &signals,
            &client,
            &shards,
            Summary::Failed(made, &error.line()),
        );
        Err(error)
    };
    if let Some(error) = control.failure() {
        if nothing_new && runtime.block_on(have_moved(&shards, &uppers)) {
            // Another run writes them, and says what they are worth.
            return summary(runtime, &signals, &client, &shards, Summary::NothingToDo);
        }
        return failed(Error::Stopped(error));
    }
    if let (Ended::Stopped, Some(signal)) = (ended, signals.first()) {
        // The store that has taken nothing is not asked what it holds.
        return Ok(signal.exit_code());
    }
    let wrong = control.wrong().into_iter();
    let wrong = wrong.map(|(view, wrong)| (VIEWS[view], wrong));
    let wrong = wrong.map(|(view, wrong)| (view, format!("{}/{view}", dir(options)), wrong));
    if let (None, Some(error)) = (signals.first(), differs::failure(wrong.collect())) {
        return failed(error);
    }
    let all = match nothing_new {
        true => Summary::NothingToDo,
        false => Summary::Made(made),
    };
    summary(runtime, &signals, &client, &shards, all)
}

/// True if somebody has written one of these tables since.
async fn have_moved(shards: &[Shard], uppers: &[i64; SHARDS]) -> bool {
    let mut moved = false;
    for (shard, upper) in shards.iter().zip(uppers) {
        let now = tokio::time::timeout(SURVEY_MAX, shard.refresh()).await;
        moved |= matches!(now, Ok(Ok(now)) if now.upper.to_version() != *upper);
    }
    moved
}

/// How the overseeing ended.
enum Ended {
    /// All workers have ended, at rest: a signal may have asked for it.
    AtRest,
    /// A signal asked for it, and the store does not take what is under way.
    Stopped,
}

async fn oversee(control: &Control, signals: &Signals, progress: &mut Progress) -> Ended {
    let mut ticks = tokio::time::interval(TICK);
    let mut draining: Option<Draining> = None;
    let mut stopped = false;
    loop {
        tokio::select! {
            () = control.ended() => return if stopped { Ended::Stopped } else { Ended::AtRest },
            _ = signals.wait(), if draining.is_none() => {
                draining = Some(Draining::new(control));
                progress.note("finishing what is under way; once more to end at once");
                control.drain();
            }
            _ = ticks.tick() => progress.show(control),
        }
        if let Some(draining) = &mut draining
            && !stopped
            && let Some(why) = draining.is_stuck(control)
        {
            stopped = true;
            progress.note(&format!(
                "ending without finishing what is under way: {why}"
            ));
            control.stop();
        }
    }
}

/// Watches whether a run that is to end still gets on.
struct Draining {
    /// The sum of the shards' uppers, and when it last grew.
    uppers: i128,
    since: Instant,
}

impl Draining {
    fn new(control: &Control) -> Self {
        Draining {
            uppers: control.sum_of_uppers(),
            since: Instant::now(),
        }
    }

    /// Why there is no use in waiting, if there is none.
    fn is_stuck(&mut self, control: &Control) -> Option<String> {
        let uppers = control.sum_of_uppers();
        if uppers > self.uppers {
            *self = Draining::new(control);
        }
        let silent = self.since.elapsed();
        match control.stalled() {
            Some(stalled) if silent >= STALLED_MAX => Some(stalled),
            None if silent >= SILENT_MAX => {
                Some(format!("nothing was written for {} s", silent.as_secs()))
            }
            _ => None,
        }
    }
}

/// The directory of all shards.
fn dir(options: &Nexmark) -> &str {
    let dir = options.dir.as_str();
    dir.strip_suffix('/').unwrap_or(dir)
}

/// The addresses of all shards, in order.
fn urls(dir: &str) -> [String; SHARDS] {
    let mut names = shard_names();
    std::array::from_fn(|_| format!("{dir}/{}", names.next().unwrap_or_default()))
}

/// Opens all shards, and creates those that are not there.
async fn open(
    cx: &Context,
    urls: &[String; SHARDS],
    parameters: Parameters,
) -> Result<Vec<Shard>, Error> {
    let own = parameters.properties();
    Ok(vec![
        open_one::<Bid>(cx, &urls[0], Some(&own)).await?,
        open_one::<Auction>(cx, &urls[1], Some(&own)).await?,
        open_one::<Person>(cx, &urls[2], Some(&own)).await?,
        open_one::<Bid>(cx, &urls[3], None).await?,
        open_one::<Q1>(cx, &urls[4], None).await?,
        open_one::<Q2>(cx, &urls[5], None).await?,
        open_one::<Q3>(cx, &urls[6], None).await?,
        open_one::<Q4>(cx, &urls[7], None).await?,
        open_one::<Q5>(cx, &urls[8], None).await?,
        open_one::<Q8>(cx, &urls[9], None).await?,
    ])
}

/// Opens a shard, or creates it: as an input with these properties if it is a source.
async fn open_one<D: Data>(
    cx: &Context,
    url: &str,
    source: Option<&BTreeMap<String, String>>,
) -> Result<Shard, Error> {
    use mvsink::mvsink_persist::Error as ShardError;
    let codec = Codec::<D, String>::new().map_err(Error::from)?;
    let mut open = Open::for_codec(&codec);
    if let Some(properties) = source {
        open = open.as_input();
        open.properties = properties.clone();
    }
    let shard = cx
        .client()
        .open_or_create(url, open)
        .await
        .map_err(|error| match error {
            ShardError::PropertyMismatch {
                url,
                name,
                expected,
                found,
            } => Error::Parameters {
                url,
                mismatch: Box::new(ParameterMismatch {
                    property: name,
                    found,
                    expected,
                }),
            },
            other => Error::from(other),
        })?;
    // Where a view can begin depends on what others have edited.
    shard.check_rewrites().await.map_err(Error::from)?;
    Ok(shard)
}

/// The first time of each sink. A view begins at the last time that its shard has, so that it is compared with
/// what is there, and reads its sources from then on.
fn as_ofs(shards: &[Shard], uppers: &[i64; SHARDS], limit: i64) -> [u64; SHARDS] {
    let readable = shards[..SOURCES.len()]
        .iter()
        .map(|shard| holds::readable_from(shard, limit).to_version());
    let since = readable.max().unwrap_or(0);
    std::array::from_fn(|index| {
        let upper = uppers[index];
        let first = if index < SOURCES.len() {
            upper
        } else if differs::is_finished(&shards[index]) {
            // As a whole it is what the view is at the end, or it is not.
            since.max(limit - 1)
        } else {
            since.max(upper - 1)
        };
        u64::try_from(first).unwrap_or(0)
    })
}

/// What a summary is of.
#[derive(Clone, Copy)]
enum Summary<'a> {
    /// A run that has found all there.
    NothingToDo,
    /// One that has made this.
    Made(report::Made),
    /// One that has made this, and failed with this error.
    Failed(report::Made, &'a str),
}

/// Prints what was written; a shard that cannot be read does not keep the others from being shown.
///
/// # Errors
///
/// If a shard cannot be read, or nothing can be printed.
fn summary(
    runtime: &Runtime,
    signals: &Signals,
    client: &Client,
    shards: &[Shard],
    of: Summary<'_>,
) -> Result<ExitCode, Error> {
    let (made, failed) = match of {
        Summary::NothingToDo => (None, None),
        Summary::Made(made) => (Some(made), None),
        Summary::Failed(made, error) => (Some(made), Some(error)),
    };
    // What has failed may be the store.
    let within = failed.map_or(Duration::MAX, |_| SURVEY_MAX);
    let survey = async { tokio::time::timeout(within, report::survey(client, shards)).await };
    let surveyed = runtime.block_on(signals.unless(survey));
    if let Ok(Ok((rows, unreadable))) = surveyed {
        let text = report::render(&rows, made, failed);
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::Output)?;
        if let Some(error) = unreadable {
            return Err(error);
        }
    }
    Ok(signals.first().map_or(ExitCode::SUCCESS, Signal::exit_code))
}

#[cfg(test)]
mod tests {
    use mvsink::mvsink_persist::testing::{Call, GateStore, Side};
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    use serde_json::{Value, json};

    use super::*;

    const DIR: &str = "memory://gated/demo";

    fn runtime() -> Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().build().unwrap()
    }

    /// A run over this store, as a process of its own.
    fn run_on(store: Arc<dyn ObjectStore>, events: u64) -> Result<ExitCode, Error> {
        let runtime = runtime();
        let read_only = watch::Sender::new(false);
        let configs = ConfigSet::new();
        // What a view's log gets is its batches alone.
        for flag in ["mvsink_hold_lease_s=0", "mvsink_compaction=false"] {
            let (flag, value) = flag.split_once('=').unwrap();
            configs.set(flag, value).unwrap();
        }
        let cx = Context::builder(runtime.handle().clone())
            .configs(configs)
            .read_only(read_only.subscribe())
            .build();
        cx.client().mount("gated", store);
        let options = Nexmark {
            dir: DIR.to_owned(),
            events,
            workers: 1,
            rate: None,
            seed: 0,
            set: Vec::new(),
        };
        let generator = Generator::new(Parameters::new(0).unwrap());
        let ended = with_runtime(&runtime, &options, cx, &read_only, generator);
        runtime.shutdown_background();
        ended
    }

    fn entry(version: u64) -> Path {
        Path::from(format!("demo/q3/_delta_log/{version:020}.json"))
    }

    /// Puts the next entry of q3's log, as another program does, with a copy of a file of it beside; gives its version.
    async fn edit(store: &Arc<dyn ObjectStore>, actions: fn(&str, u64) -> Vec<Value>) -> u64 {
        let runtime = tokio::runtime::Handle::current();
        let client = Client::new(runtime, Default::default());
        client.mount("gated", Arc::clone(store));
        let shard = client.open_existing(&format!("{DIR}/q3")).await.unwrap();
        let live = shard.pin().files().next().unwrap().clone();
        let at = |name: &str| Path::from(format!("demo/q3/{name}"));
        let bytes = store.get(&at(&live.path)).await.unwrap().bytes();
        let bytes = bytes.await.unwrap();
        store
            .put(&at("theirs.parquet"), bytes.into())
            .await
            .unwrap();
        let lines: Vec<_> = actions("theirs.parquet", live.size)
            .iter()
            .map(Value::to_string)
            .collect();
        let version = shard.progress().version + 1;
        let path = entry(version);
        store.put(&path, lines.join("\n").into()).await.unwrap();
        version
    }

    /// How a run ends, and the next one, where this happens while its last batch of q3 is on its way.
    fn last_batch_meets(actions: fn(&str, u64) -> Vec<Value>) -> [Result<ExitCode, Error>; 2] {
        for _ in 0..20 {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            run_on(Arc::clone(&store), 3000).unwrap();
            let gated = GateStore::new(Arc::clone(&store));
            let put = gated.hold(1, Side::Before, |call, path| {
                call == Call::Create && path.as_ref().contains("q3/_delta_log/")
            });
            let run = std::thread::spawn(move || run_on(gated, 6000));
            let version = runtime().block_on(async {
                put.reached().await;
                edit(&store, actions).await
            });
            put.release();
            let ended = run.join().unwrap();
            // On a busy machine another batch may follow, which repairs the table.
            let later = runtime().block_on(async { store.head(&entry(version + 2)).await });
            if later.is_err() {
                return [ended, run_on(store, 6000)];
            }
        }
        panic!("no batch was the last");
    }

    #[test]
    fn an_edit_that_comes_before_the_last_commit_is_told_by_that_run_and_the_next() {
        let ends = last_batch_meets(|path, size| {
            vec![json!({"add": {
                "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
            }})]
        });
        for ended in ends {
            let line = ended.unwrap_err().line();
            assert!(line.contains("the view q3 in "), "{line}");
        }
    }

    #[test]
    fn a_view_that_is_finished_before_the_last_commit_is_told_by_that_run_and_the_next() {
        fn finish() -> Value {
            json!({"txn": {"appId": "mvsink.upper", "version": i64::MAX}})
        }
        // No sink has, and then nobody goes on.
        for ended in last_batch_meets(|_, _| vec![finish()]) {
            let line = ended.unwrap_err().line();
            assert!(line.contains("/q3/_delta_log/"), "{line}");
        }
        // As if one had.
        let ends = last_batch_meets(|_, _| {
            let id = format!("{:032x}-0", 7);
            vec![json!({"commitInfo": {"mvsink.id": id}}), finish()]
        });
        for ended in ends {
            let line = ended.unwrap_err().line();
            assert!(
                line.contains("/q3 ") && line.contains("delete the table"),
                "{line}"
            );
        }
    }
}
