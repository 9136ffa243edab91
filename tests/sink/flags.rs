//! What flags take, and that a sink and a source bear with everything that they take.

use std::collections::BTreeSet;
use std::sync::{Mutex, Once, PoisonError};

use differential_dataflow::input::InputSession;
use mvsink::dyncfg::{ConfigSet, Default};
use mvsink::{Context, Frontier, Source, Status, persist_sink, persist_source};

use crate::support::{Driver, Row, row, step_until, step_until_so};

/// The name of the threads of these tests' runtimes.
const THREAD: &str = "flags";

/// What panicked on the threads of that name: a runtime keeps it to itself.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes note of panics from now on.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() == Some(THREAD) {
                let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
                panics.push(panic.to_string());
            }
            before(panic);
        }));
    });
}

/// Texts that a number may be set to: the ends of all ranges, what lies beyond them, and what is no number.
fn texts(least: usize, most: usize) -> BTreeSet<String> {
    let numbers = [
        0,
        1,
        2,
        least,
        most,
        least.saturating_sub(1),
        most.saturating_add(1),
        u32::MAX as usize,
        i64::MAX as usize,
        usize::MAX >> 3,
        usize::MAX,
    ];
    let numbers = numbers.map(|number| number.to_string());
    let others = ["18446744073709551616", "-1", "1.5", "1e3", "inf", ""].map(str::to_owned);
    numbers.into_iter().chain(others).collect()
}

/// Feeds a sink of two rows a tick and a source of its shard until all is there.
fn run_sink_and_source(cx: &Context, case: &str) {
    const URL: &str = "memory://flags";
    const TICKS: u64 = 3;
    let sum = timely::execute_directly({
        let (cx, case) = (cx.clone(), case.to_owned());
        move |worker| {
            let (mut input, mut errors, sink) = worker.dataflow(|scope| {
                let (mut input, mut errors) = (InputSession::new(), InputSession::new());
                let (ok, err) = (input.to_collection(scope), errors.to_collection(scope));
                let sink = persist_sink(&cx, "flags", URL, ok, err, 0).unwrap();
                (input, errors, sink)
            });
            let status = |status: Status| {
                assert!(!status.is_final(), "{case}: {status}");
            };
            for tick in 0..TICKS {
                for number in [2 * tick, 2 * tick + 1] {
                    input.update(row(number), 1);
                }
                errors.update_at("gone".to_owned(), tick, 1);
                errors.update_at("gone".to_owned(), tick + 1, -1);
                input.advance_to(tick + 1);
                errors.advance_to(tick + 1);
                input.flush();
                errors.flush();
                status(step_until(worker, &sink, Frontier::At(tick + 1)));
            }
            input.advance_to(TICKS + 1);
            errors.advance_to(TICKS + 1);
            input.flush();
            errors.flush();
            status(step_until(worker, &sink, Frontier::At(TICKS + 1)));
            let sum = std::rc::Rc::new(std::cell::Cell::new(0));
            let source = worker.dataflow(|scope| {
                let source: Source<'_, Row, String, u64, i64> =
                    persist_source(&cx, scope, "source", URL, 0).unwrap();
                let sum = std::rc::Rc::clone(&sum);
                source
                    .ok
                    .inspect(move |(_, _, diff)| sum.set(sum.get() + diff));
                source.handle
            });
            step_until_so(worker, "the source is there", || {
                status(source.status());
                source.frontier() >= Frontier::At(TICKS + 1)
            });
            worker.step();
            drop((sink, source));
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            sum.get()
        }
    });
    cx.client().handle().block_on(cx.settled());
    assert_eq!(sum, 2 * TICKS as i64, "{case}");
}

fn every_flag_takes_its_extremes_or_says_its_range(driver: Driver) {
    watch_panics();
    let mut runs = 0;
    for (flag, entry) in ConfigSet::new().entries() {
        let texts = match entry.value {
            Default::Usize(_) => texts(entry.least, entry.most),
            _ => texts(0, 1),
        };
        for text in texts {
            let case = format!("{driver:?}, {flag}={text}");
            let configs = driver.configs();
            for (flag, value) in [
                ("mvsink_maintenance_interval_ms", "1"),
                ("mvsink_standby", "true"),
                ("mvsink_compaction_fan_in", "2"),
            ] {
                configs.set(flag, value).unwrap();
            }
            let before = configs.entries()[flag].value;
            if let Err(error) = configs.set(flag, &text) {
                let said = error.to_string();
                let range = match entry.value {
                    Default::Usize(_) => format!("from {} to {}", entry.least, entry.most),
                    _ => "true or false".to_owned(),
                };
                assert!(said.contains(flag) && said.contains(&range), "{said}");
                assert!(said.contains(&format!("not {text:?}")), "{said}");
                assert_eq!(configs.entries()[flag].value, before, "{case}");
                continue;
            }
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).thread_name(THREAD).enable_all();
            let runtime = runtime.build().unwrap();
            let cx = Context::builder(runtime.handle().clone());
            run_sink_and_source(&cx.configs(configs).build(), &case);
            let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(*panics, Vec::<String>::new(), "{case}");
            runs += 1;
        }
    }
    assert!(runs > 100, "{runs}");
}

on_both_drivers! {
    every_flag_takes_its_extremes_or_says_its_range,
}
