//! Counts words, and keeps the counts as a Delta table.
//!
//! `cargo run --release --example embed -- DIRECTORY`

use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::{Context, no_errors, persist_sink};
use serde::{Deserialize, Serialize};

/// A row of the view. Its fields are the columns of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Count {
    word: String,
    count: isize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or("data/embed".into());
    let runtime = tokio::runtime::Runtime::new()?;
    let cx = Context::new(runtime.handle().clone());
    let shard = directory.clone();
    let workers = timely::execute(timely::Config::process(2), move |worker| {
        let mut input = InputSession::new();
        // An ordinary differential dataflow that ends in a sink.
        let sink = worker.dataflow::<u64, _, _>(|scope| {
            let words = input.to_collection(scope);
            let counts = words.count().map(|(word, count)| Count { word, count });
            let errors = no_errors::<_, String, _>(scope);
            persist_sink(&cx, "counts", shard.as_str(), counts, errors, 0)
        })?;
        // One worker has all the input here: a word or two at each time, until the last is complete.
        let words = ["durable", "views", "durable", "sinks"];
        if worker.index() == 0 {
            for (word, time) in words.into_iter().zip(0..) {
                input.advance_to(time);
                input.insert(word.to_owned());
            }
        }
        input.close();
        while !sink.status().is_final() {
            worker.step_or_park(Some(Duration::from_millis(10)));
        }
        Ok::<_, mvsink::Error>(sink.status())
    })?;
    for status in workers.join() {
        println!("{}: {}", directory, status??);
    }
    Ok(())
}
