//! Changes flags while a sink runs: what each flag does, and when it takes effect, is in its description.
//!
//! `cargo run --release --example flags -- DIRECTORY [NAME=VALUE]...`

use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::dyncfg::ConfigSet;
use mvsink::{Context, Error, Frontier, no_errors, persist_sink};

/// Words at each time.
const WORDS: u64 = 10_000;

/// Whatever went wrong.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or("data/flags".into());
    // The host keeps a clone, and may change flags from any thread: by an HTTP endpoint, say, or a file it watches.
    let configs = ConfigSet::new();
    for argument in arguments {
        let (name, value) = argument.split_once('=').ok_or("flags are NAME=VALUE")?;
        configs.set(name, value)?;
    }
    for (name, entry) in configs.entries() {
        println!("{name} = {}: {}", entry.value, entry.description);
    }
    // Which driver a sink has is decided when it is rendered. Everything else below takes effect while it runs.
    configs.set("enable_sync_mv_sink", "true")?;
    // A flag that there is not, and a value that it cannot have, are errors that say so.
    for (name, value) in [("no_such_flag", "1"), ("mvsink_chunk_rows", "many")] {
        if let Err(error) = configs.set(name, value) {
            println!("{error}");
        }
    }

    let runtime = tokio::runtime::Runtime::new()?;
    let cx = Context::builder(runtime.handle().clone())
        .configs(configs.clone())
        .build();
    timely::execute_directly(move |worker| {
        let (mut words, sink) = worker.dataflow(|scope| {
            let mut words = InputSession::<u64, String, isize>::new();
            let rows = words.to_collection(scope).map(|word| (word,));
            let errors = no_errors::<_, String, _>(scope);
            let sink = persist_sink(&cx, "flags", &*directory, rows, errors, 0)?;
            Ok::<_, Error>((words, sink))
        })?;
        let mut files = 0;
        // The files of the second batch are cut where the flag says by then.
        for (time, file_bytes) in (0..).zip(["134217728", "10000"]) {
            configs.set("mvsink_target_file_bytes", file_bytes)?;
            for number in 0..WORDS {
                words.update((time * WORDS + number).to_string(), 1);
            }
            words.advance_to(time + 1);
            words.flush();
            while sink.frontier() < Frontier::At(time + 1) && !sink.status().is_final() {
                worker.step_or_park(Some(Duration::from_millis(10)));
            }
            let staged = sink.counters().files_staged;
            println!(
                "mvsink_target_file_bytes = {file_bytes}: {} files for {WORDS} words, {}",
                staged - files,
                sink.status()
            );
            files = staged;
        }
        Ok(())
    })
}
