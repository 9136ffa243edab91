//! Replaces a view by another version of itself on the same table, without a gap: the new version hydrates beside the
//! running one and may not write; then they change places.
//!
//! `cargo run --release --example read_only_swap -- DIRECTORY`

use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Status, Target, no_errors, persist_sink};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;
use tokio::sync::watch;

/// A row of the view. Its fields are the columns of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Count {
    word: String,
    count: isize,
}

/// A version of the view: its sink, and what feeds it.
struct Version {
    // First, so that dropping a version stops its sink before the input ends.
    sink: Handle<u64>,
    words: InputSession<u64, String, isize>,
}

impl Version {
    /// Counts words as `spell` spells them, into the target, from the time `start` on.
    fn new(
        worker: &mut Worker,
        cx: &Context,
        name: &str,
        target: Target,
        spell: fn(String) -> String,
        start: u64,
    ) -> Result<Self, mvsink::Error> {
        worker.dataflow(|scope| {
            let mut words = InputSession::new();
            let counts = words.to_collection(scope).map(spell).count();
            let counts = counts.map(|(word, count)| Count { word, count });
            let errors = no_errors::<_, String, _>(scope);
            let sink = persist_sink(cx, name, target, counts, errors, start)?;
            words.advance_to(start);
            Ok(Version { sink, words })
        })
    }

    /// A word at each time, until the last is complete.
    fn feed(&mut self, words: &[&str]) {
        for word in words {
            self.words.insert((*word).to_owned());
            self.words.advance_to(self.words.time() + 1);
        }
        self.words.flush();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or("data/swap".into());
    let runtime = tokio::runtime::Runtime::new()?;
    let cx = Context::new(runtime.handle().clone());
    // Another run goes on where the table ends.
    let opened = runtime.block_on(cx.client().open_existing(&directory));
    let start = match opened.map(|shard| shard.progress().upper) {
        Ok(upper) => upper.time().unwrap_or(0).try_into()?,
        Err(_) => 0,
    };
    timely::execute_directly(move |worker| {
        let step = |worker: &mut Worker| worker.step_or_park(Some(Duration::from_millis(10)));
        let until = |worker: &mut Worker, sink: &Handle<u64>, upper| {
            while sink.frontier() < upper && !sink.status().is_final() {
                step(worker);
            }
            println!("{}: {} at {}", sink.name(), sink.status(), sink.frontier());
        };
        let words = ["Durable", "views", "durable", "Views", "sinks"];

        // The first version tells "Durable" and "durable" apart.
        let (old_signal, read_only) = watch::channel(false);
        let target = Target::new(&*directory).read_only(read_only);
        let mut old = Version::new(worker, &cx, "first", target, |word| word, start)?;
        old.feed(&words);
        until(worker, &old.sink, Frontier::At(start + 5));

        // The second one does not. It gets to where the first one is, and writes nothing.
        let (new_signal, read_only) = watch::channel(true);
        let target = Target::new(&*directory).read_only(read_only);
        let lower_case = |word: String| word.to_lowercase();
        let mut new = Version::new(worker, &cx, "second", target, lower_case, start)?;
        new.feed(&words);
        while !new.sink.is_hydrated() && !new.sink.status().is_final() {
            step(worker);
        }
        println!("second: {}, and hydrated", new.sink.status());

        // The first one ends what it has begun, and the second one takes over.
        old_signal.send_replace(true);
        while !matches!(old.sink.status(), Status::ReadOnly) && !old.sink.status().is_final() {
            step(worker);
        }
        new_signal.send_replace(false);
        new.feed(&["Sinks"]);
        until(worker, &new.sink, Frontier::At(start + 6));
        Ok::<_, mvsink::Error>(())
    })?;
    Ok(())
}
