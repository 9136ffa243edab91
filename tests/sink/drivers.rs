//! Which driver a sink has, what it does where, and sinks that have both.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{
    self, Driver, Program, assert_exact, cluster, execute, row, rows_sink, runtime, step_until,
    step_until_so, stop_while_it_stages, unreferenced, until, words,
};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Status, Target, no_errors, persist_sink};
use mvsink_persist::testing::{Call, FaultyStore, GateStore, Hold, Side};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use timely::Config;
use timely::worker::Worker;

const URL: &str = "memory://shared";

/// A call that puts a data file of a view, or an entry of its log after the first.
fn writes(call: Call, path: &Path) -> bool {
    let path = path.as_ref();
    let log = path.contains("_delta_log/");
    let entry = log && path.ends_with(".json") && !path.ends_with("00000000000000000000.json");
    matches!(call, Call::Create | Call::Put) && (entry || !log && path.ends_with(".parquet"))
}

/// The kinds of threads on which sinks write.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<BTreeSet<&'static str>>>);

impl Places {
    /// A store that notes them, for as long as what comes with it lives.
    fn note(&self) -> (Arc<GateStore>, Hold) {
        let store = GateStore::new(Arc::new(InMemory::new()));
        let places = Arc::clone(&self.0);
        let noted = store.hold(1, Side::Before, move |call, path| {
            if writes(call, path) {
                let thread = std::thread::current();
                let task = thread.name().is_some_and(|name| name.starts_with("tokio"));
                let place = if task { "task" } else { "worker" };
                places.lock().unwrap().insert(place);
            }
            // Nothing stops.
            false
        });
        (store, noted)
    }

    fn seen(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().iter().copied().collect()
    }
}

impl Driver {
    /// Where its operators write.
    fn place(self) -> &'static str {
        match self {
            Driver::Sync => "task",
            Driver::Async => "worker",
        }
    }
}

/// A context over this store, in which nothing but sinks writes.
fn quiet(driver: Driver, runtime: &tokio::runtime::Runtime, store: Arc<GateStore>) -> Context {
    let cx = driver.contexts(runtime, 1, store as Arc<dyn ObjectStore>);
    cx[0].configs().set("mvsink_compaction", "false").unwrap();
    cx[0].clone()
}

fn a_driver_writes_where_it_says(driver: Driver) {
    let runtime = runtime();
    let places = Places::default();
    let (store, _noted) = places.note();
    let cx = quiet(driver, &runtime, store);
    // It bumps too.
    let program = Program {
        as_of: 3,
        ..Program::new(words(71, 300, 30))
    };
    let status = execute(2, &cx, &Target::new(URL), &program);
    assert!(matches!(status, Status::Finished), "{status}");
    assert_eq!(places.seen(), [driver.place()]);
    assert_exact(&cx, URL, &program.updates, 3);
}

/// An address that changes the flag when it is looked at, which is while the sink is rendered.
struct Flip(Context, Driver);

impl From<Flip> for Target {
    fn from(flip: Flip) -> Target {
        flip.1.choose(flip.0.configs());
        Target::new(URL)
    }
}

fn r04_a_flag_flipped_while_a_sink_is_rendered_changes_nothing(driver: Driver) {
    let other = match driver {
        Driver::Sync => Driver::Async,
        Driver::Async => Driver::Sync,
    };
    let runtime = runtime();
    let places = Places::default();
    let (store, _noted) = places.note();
    let cx = quiet(driver, &runtime, store);
    let check = cx.clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let view = support::view(input.to_collection(scope));
            let errors = no_errors::<u64, String, i64>(scope);
            let target = Flip(cx.clone(), other);
            let handle = persist_sink(&cx, "view", target, view, errors, 0).unwrap();
            (input, handle)
        });
        for time in 0..20 {
            input.update_at(format!("word {time}"), time, 1);
            input.advance_to(time + 1);
            input.flush();
            step_until(worker, &handle, Frontier::At(time + 1));
        }
        input.close();
        step_until(worker, &handle, Frontier::Empty);
    });
    runtime.block_on(check.settled());
    assert_eq!(places.seen(), [driver.place()]);
}

/// Appends so many rows from the upper of the shard to the next time.
async fn append_rows(client: &Client, rows: u64) {
    let shard = client.open_existing(URL).await.unwrap();
    let lower = shard.refresh().await.unwrap().upper;
    let time = lower.time().unwrap();
    let codec = Codec::<support::Row, String>::new().unwrap();
    let rows: Vec<_> = (0..rows).map(support::row).collect();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let batch = codec.encode(rows.iter().map(|row| (row, time, 1)));
    file.write(&batch.unwrap()).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta::from(&file);
    let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
    let append = Append {
        id: CommitId { nonce: 77, seq: 0 },
        lower,
        upper: Frontier::At(time + 1),
        files: vec![staged],
        since: None,
    };
    let appended = shard.append(append, &|_| ()).await.unwrap();
    assert!(matches!(appended, Appended::Committed { .. }));
}

/// A rival writes much while this sink is staging, and looks at nothing: no more is read than may wait.
fn what_is_read_back_waits_for_who_takes_it_up(driver: Driver) {
    const CHUNK: u64 = 4;
    const CREDITS: u64 = 2;
    const ROWS: u64 = 100 * CHUNK;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let store = GateStore::new(Arc::new(InMemory::new()));
    let client = |seed| {
        let mut options = ClientOptions::default();
        options.inline_compute = true;
        options.seed = Some(seed);
        options
    };
    let rival = Client::new(runtime.handle().clone(), client(1));
    let builder = Context::builder(runtime.handle().clone()).client_options(client(2));
    let cx = builder.configs(driver.configs()).build();
    for client in [cx.client(), &rival] {
        client.mount("shared", Arc::clone(&store) as Arc<dyn ObjectStore>);
    }
    for (flag, value) in [
        ("mvsink_chunk_rows", CHUNK),
        ("mvsink_source_credits", CREDITS),
    ] {
        cx.configs().set(flag, &value.to_string()).unwrap();
    }
    timely::execute_directly(move |worker| {
        // Everything happens on this thread, in turns.
        let turns = |times: usize, worker: &mut Worker, so: &dyn Fn() -> bool| {
            for _ in 0..times {
                runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
                worker.step();
                if so() {
                    return true;
                }
            }
            false
        };
        let (mut input, handle) = support::rows_sink(worker, &cx, "view", URL);
        input.advance_to(1);
        input.flush();
        let sealed = &handle;
        let upper = |upper| move || sealed.frontier() >= Frontier::At(upper);
        assert!(turns(1000, worker, &upper(1)), "the first time is sealed");
        let staging = store.hold(1, Side::Before, |call, path| {
            matches!(call, Call::Create | Call::Put) && support::is_data(path)
        });
        input.update((String::from("ours"), 1), 1);
        input.advance_to(2);
        input.flush();
        assert!(turns(1000, worker, &|| staging.is_reached()), "it stages");
        runtime.block_on(append_rows(&rival, ROWS));

        let read = || handle.counters().rows_read_back;
        turns(1000, worker, &|| false);
        let waiting = match driver {
            Driver::Sync => 4 * CHUNK,
            Driver::Async => 0,
        };
        let bound = (CREDITS + 2) * CHUNK + waiting;
        assert!((1..=bound).contains(&read()), "{} rows were read", read());
        staging.release();
        assert!(
            turns(10_000, worker, &|| read() == ROWS),
            "all is read in the end"
        );
        input.close();
        let ended = || handle.frontier() == Frontier::Empty;
        assert!(turns(10_000, worker, &ended), "it goes on");
    });
}

/// Renders the view with this driver. All workers of a process share the flag, so they take turns.
fn render(
    worker: &mut Worker,
    cx: &Context,
    driver: Driver,
) -> (InputSession<u64, String, i64>, Handle<u64>) {
    static RENDERING: Mutex<()> = Mutex::new(());
    let _alone = RENDERING.lock().unwrap();
    driver.choose(cx.configs());
    worker.dataflow(|scope| {
        let mut input = InputSession::new();
        let view = support::view(input.to_collection(scope));
        let errors = no_errors::<u64, String, i64>(scope);
        let handle = persist_sink(cx, "view", URL, view, errors, 0).unwrap();
        (input, handle)
    })
}

/// Runs the view on workers whose drivers alternate, the first one's given.
fn alternating(
    worker: &mut Worker,
    cx: &Context,
    first: Driver,
    updates: &[support::Update],
) -> Status {
    let sync = worker.index().is_multiple_of(2) == (first == Driver::Sync);
    let driver = if sync { Driver::Sync } else { Driver::Async };
    let (mut input, handle) = render(worker, cx, driver);
    for time in 0..40 {
        for (index, (word, at, diff)) in updates.iter().enumerate() {
            if *at == time && index % worker.peers() == worker.index() {
                input.update_at(word.clone(), *at, *diff);
            }
        }
        input.advance_to(time + 1);
        input.flush();
        if time % 5 == 0 {
            step_until(worker, &handle, Frontier::At(time + 1));
        }
    }
    input.close();
    step_until(worker, &handle, Frontier::Empty)
}

fn r04_workers_of_one_dataflow_may_have_different_drivers(first: Driver) {
    let runtime = runtime();
    let updates = words(73, 400, 40);
    for workers in [2, 3, 4] {
        let places = Places::default();
        let (store, _noted) = places.note();
        let cx = quiet(first, &runtime, store);
        let (context, words) = (cx.clone(), updates.clone());
        let guards = timely::execute(Config::process(workers), move |worker| {
            alternating(worker, &context, first, &words)
        });
        for status in guards.unwrap().join() {
            let status = status.unwrap();
            assert!(matches!(status, Status::Finished), "{status}");
        }
        assert_eq!(places.seen(), ["task", "worker"]);
        assert_exact(&cx, URL, &updates, 0);
    }
}

fn r04_processes_of_one_cluster_may_have_different_drivers(first: Driver) {
    let runtime = runtime();
    let updates = words(79, 400, 40);
    let contexts = first.contexts(&runtime, 2, Arc::new(InMemory::new()));
    let words = updates.clone();
    let statuses = cluster(&contexts, 2, move |worker, cx| {
        alternating(worker, cx, first, &words)
    });
    for status in statuses {
        assert!(matches!(status, Status::Finished), "{status}");
    }
    assert_exact(&contexts[0], URL, &updates, 0);
}

fn r11_a_stop_winds_up_what_is_being_staged(driver: Driver) {
    let runtime = runtime();
    let inner = Arc::new(InMemory::new());
    let store = GateStore::new(Arc::clone(&inner) as Arc<dyn ObjectStore>);
    // The file is there, and the sink does not know.
    let hold = store.hold(1, Side::After, |call, path| {
        writes(call, path) && path.extension() == Some("parquet")
    });
    let cx = quiet(driver, &runtime, store);
    let check = cx.clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = render(worker, &cx, driver);
        input.update_at("word".to_owned(), 0, 1);
        input.advance_to(1);
        input.flush();
        stop_while_it_stages(worker, &cx, handle, hold);
    });
    assert_eq!(unreferenced(&check, URL, &*inner), Vec::<String>::new());
}

fn a_panic_fails_the_sink_on_all_workers_and_nothing_else(driver: Driver) {
    let runtime = runtime();
    let store = GateStore::new(Arc::new(InMemory::new()));
    let _panics = store.hold(1, Side::Before, |call, path| {
        let staging = writes(call, path) && path.extension() == Some("parquet");
        assert!(!staging, "a bug, on purpose");
        false
    });
    let cx = quiet(driver, &runtime, store);
    let guards = timely::execute(Config::process(2), move |worker| {
        let (mut input, handle) = render(worker, &cx, driver);
        input.update_at(format!("word {}", worker.index()), 0, 1);
        input.close();
        step_until_so(worker, "the sink has failed", || handle.status().is_final());
        (handle.status().to_string(), handle.frontier())
    });
    for ended in guards.unwrap().join() {
        let (status, frontier) = ended.unwrap();
        assert!(
            status.contains("panicked: a bug, on purpose"),
            "the worker goes on, and knows why: {status}"
        );
        assert_eq!(frontier, Frontier::At(0));
    }
}

/// Panics where a sink of this name says this: inside of the operator that says it.
struct Panics {
    sink: &'static str,
    at: &'static str,
}

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut said = String::new();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                said += &format!("{field}={value:?};");
            },
        );
        let of_sink = said.contains(&format!("sink={};", self.sink));
        assert!(
            !(of_sink && said.contains(self.at)),
            "a broken invariant, on purpose"
        );
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn a_panic_in_an_operator_fails_its_sink_and_no_other(driver: Driver) {
    // An event that is new to the process while a subscriber is set may escape it: let each be known.
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let program = Program::new(words(5, 20, 4));
    support::execute(1, &cx, &Target::new("memory://first"), &program);
    // Where mint and where write reports what it does: in the operators, never in their tasks.
    for at in ["goes on", "past the as-of"] {
        for workers in [1, 2] {
            let cx = driver.context(&runtime);
            let guards = timely::execute(Config::process(workers), move |worker| {
                let panics = Panics { sink: "broken", at };
                let _panics = tracing::subscriber::set_default(panics);
                let [mut broken, mut sound] = ["broken", "sound"]
                    .map(|name| rows_sink(worker, &cx, name, format!("memory://{name}").as_str()));
                for (input, _) in [&mut broken, &mut sound] {
                    input.update(row(worker.index() as u64), 1);
                    input.advance_to(1);
                    input.flush();
                }
                until(worker, || broken.1.status().is_final());
                // The worker goes on, and the other sink on all workers.
                for tick in 2..5 {
                    sound.0.advance_to(tick);
                    sound.0.flush();
                    until(worker, || {
                        let status = sound.1.status();
                        assert!(!status.is_final(), "{status}");
                        sound.1.frontier() >= Frontier::At(tick)
                    });
                }
                sound.0.close();
                broken.0.close();
                until(worker, || sound.1.status().is_final());
                [broken.1, sound.1].map(|handle| handle.status().to_string())
            });
            // Its dataflow ends as well.
            for ended in guards.unwrap().join() {
                let [broken, sound] = ended.unwrap();
                assert!(
                    broken.contains("a broken invariant, on purpose"),
                    "{broken}"
                );
                assert_eq!(sound, "finished");
            }
        }
    }
}

#[test]
fn the_end_of_the_runtime_fails_a_sink_that_awaits() {
    let runtime = runtime();
    // Nothing answers, so that it waits to try again.
    let store = FaultyStore::new(Arc::new(InMemory::new()), 7, 0);
    store.set_down(Some(Path::ROOT));
    let cx = Driver::Async.contexts(&runtime, 1, store.clone())[0].clone();
    let status = timely::execute_directly(move |worker| {
        let (_input, handle) = render(worker, &cx, Driver::Async);
        step_until_so(worker, "the store is asked", || store.trace().len() > 1);
        runtime.shutdown_background();
        step_until_so(worker, "the sink has ended", || handle.status().is_final());
        handle.status()
    });
    assert!(status.to_string().contains("it has shut down"), "{status}");
}

on_both_drivers! {
    a_driver_writes_where_it_says,
    r04_a_flag_flipped_while_a_sink_is_rendered_changes_nothing,
    r04_workers_of_one_dataflow_may_have_different_drivers,
    r04_processes_of_one_cluster_may_have_different_drivers,
    r11_a_stop_winds_up_what_is_being_staged,
    what_is_read_back_waits_for_who_takes_it_up,
    a_panic_fails_the_sink_on_all_workers_and_nothing_else,
    a_panic_in_an_operator_fails_its_sink_and_no_other,
}
