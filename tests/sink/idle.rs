//! Sinks that have nothing to write but the time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use mvsink::{Frontier, Status};
use mvsink_persist::testing::while_the_log_is_locked;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};

use crate::support::{Driver, row, rows_sink, runtime, step_until, step_until_so};

fn r19_an_idle_sink_wakes_up_for_its_ticks_only(driver: Driver) {
    const SINKS: u64 = 20;
    const TICKS: u64 = 20;
    let runtime = runtime();
    let cx = driver.context(&runtime);
    // Merging files is no tick.
    cx.configs().set("mvsink_compaction", "false").unwrap();
    timely::execute_directly(move |worker| {
        let ours: Rc<RefCell<BTreeSet<usize>>> = Rc::default();
        let scheduled = Rc::new(Cell::new(0));
        let (operators, count) = (Rc::clone(&ours), Rc::clone(&scheduled));
        let logger = move |_: &Duration, data: &mut Option<Vec<(Duration, TimelyEvent)>>| {
            for (_, event) in data.iter_mut().flat_map(|data| data.drain(..)) {
                match event {
                    TimelyEvent::Operates(operator) if operator.name.starts_with("mvsink::") => {
                        operators.borrow_mut().insert(operator.id);
                    }
                    TimelyEvent::Schedule(turn)
                        if turn.start_stop == StartStop::Start
                            && operators.borrow().contains(&turn.id) =>
                    {
                        count.set(count.get() + 1);
                    }
                    _ => {}
                }
            }
        };
        let register = worker.log_register();
        register
            .unwrap()
            .insert::<TimelyEventBuilder, _>("timely", logger);

        let mut sinks: Vec<_> = (0..SINKS)
            .map(|number| {
                let url = format!("memory://idle/view-{number}");
                rows_sink(worker, &cx, "idle", url.as_str())
            })
            .collect();
        let steps = |worker: &mut timely::worker::Worker, steps: u64| {
            let before = scheduled.get();
            for _ in 0..steps {
                worker.step_or_park(Some(Duration::from_millis(1)));
            }
            scheduled.get() - before
        };
        let mut tick = |worker: &mut timely::worker::Worker, time| {
            for (input, _) in &mut sinks {
                input.advance_to(time);
                input.flush();
            }
            for (_, handle) in &sinks {
                step_until(worker, handle, Frontier::At(time));
            }
        };
        tick(worker, 1);
        let before = scheduled.get();
        for time in 2..=1 + TICKS {
            tick(worker, time);
        }
        // What the last tick sets off ends.
        let begun = std::time::Instant::now();
        while steps(worker, 50) > 0 {
            assert!(begun.elapsed() < Duration::from_secs(120), "never quiet");
        }
        let woken = scheduled.get() - before;
        println!("{woken} wake-ups in {SINKS} sinks and {TICKS} ticks");
        assert!(woken > 0, "the control");
        assert!(woken <= 30 * SINKS * TICKS, "{woken}");
        assert_eq!(steps(worker, 300), 0);
    });
}

/// A worker steps its sink, and asks it for all that can be asked, while a large entry is built of the log, say.
fn workers_do_not_wait_for_the_log(driver: Driver) {
    const URL: &str = "memory://locked/view";
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let handle = runtime.handle().clone();
    timely::execute_directly(move |worker| {
        let (mut input, sink) = rows_sink(worker, &cx, "view", URL);
        for time in 0..2 {
            step_until_so(worker, "the shard is open", || {
                !matches!(sink.status(), Status::Starting)
            });
            let shard = handle.block_on(cx.client().open_existing(URL)).unwrap();
            let (locked, is_locked) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            let lock = std::thread::spawn(move || {
                while_the_log_is_locked(&shard, || {
                    locked.send(()).unwrap();
                    released.recv_timeout(Duration::from_secs(120)).is_ok()
                })
            });
            is_locked.recv().unwrap();
            input.update_at(row(time), time, 1);
            if driver == Driver::Sync {
                // In the other one the worker itself commits.
                input.advance_to(time + 1);
            }
            input.flush();
            for _ in 0..200 {
                worker.step_or_park(Some(Duration::from_millis(1)));
                assert_eq!(sink.frontier(), Frontier::At(time));
                let (status, counters) = (sink.status(), sink.counters());
                assert!(!status.is_final() && counters.rows_read_back == 0);
                assert!(sink.pressure().held_updates <= 2);
            }
            release.send(()).unwrap();
            assert!(lock.join().unwrap(), "it waited for the log");
            input.advance_to(time + 1);
            input.flush();
            step_until(worker, &sink, Frontier::At(time + 1));
        }
    });
}

on_both_drivers! {
    workers_do_not_wait_for_the_log,
    r19_an_idle_sink_wakes_up_for_its_ticks_only,
}
