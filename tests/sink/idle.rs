//! Sinks that have nothing to write but the time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use mvsink::Frontier;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};

use crate::support::{Driver, rows_sink, runtime, step_until};

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

on_both_drivers! {
    r19_an_idle_sink_wakes_up_for_its_ticks_only,
}
