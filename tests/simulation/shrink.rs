//! Of a plan that fails, the least that still does.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use mvsink::Refresh;

use super::plan::Plan;
use super::world::{self, Ran};

/// How often a failing plan is run again to make it smaller.
const RUNS: usize = 150;

/// One failure is told at a time.
static TELLING: Mutex<()> = Mutex::new(());

fn attempt(plan: &Plan) -> Result<Ran, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| world::run(plan)));
    ran.map_err(|panic| message(panic.as_ref()))
}

/// What a panic says.
pub fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Runs a plan. If it fails, tells in words the least that fails, and panics.
pub fn run(plan: &Plan) -> Ran {
    let failure = match attempt(plan) {
        Ok(ran) => return ran,
        Err(failure) => failure,
    };
    let _telling = TELLING.lock();
    eprintln!("seed {} fails: {failure}", plan.seed);
    eprintln!("making it smaller; more messages follow");
    let (least, failure) = least(plan.clone(), failure);
    let mut words = format!(
        "SIMULATION_SEED={} fails: {failure}\nthe least that fails, of {} events:\n",
        plan.seed,
        plan.events.len()
    );
    if least.until.is_some() || least.refresh != Refresh::on_commit() {
        words += &format!("  refresh {:?}, until {:?}\n", least.refresh, least.until);
    }
    for (index, replica) in least.replicas.iter().enumerate() {
        words += &format!("  replica {index}: {replica:?}\n");
    }
    for event in &least.events {
        words += &format!("  {event}\n");
    }
    words += "  and all goes to its end, without trouble";
    panic!("{words}");
}

/// Leaves out part after part, as long as it still fails, whatever the message.
fn least(mut plan: Plan, mut failure: String) -> (Plan, String) {
    let mut size = plan.events.len().div_ceil(2);
    let mut runs = 0;
    while size > 0 && runs < RUNS {
        let mut from = 0;
        let mut smaller = false;
        while from < plan.events.len() && runs < RUNS {
            let to = (from + size).min(plan.events.len());
            let mut less = plan.clone();
            less.events.drain(from..to);
            runs += 1;
            match attempt(&less) {
                Err(how) => {
                    (plan, failure) = (less, how);
                    smaller = true;
                }
                Ok(_) => from = to,
            }
        }
        if !smaller || size > 1 {
            size /= 2;
        }
    }
    (plan, failure)
}
