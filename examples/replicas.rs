//! Two replicas of one view on one table: one of them writes, the other comes to stand by, and takes over when the
//! first is gone.
//!
//! `cargo run --release --example replicas -- DIRECTORY`
//!
//! Replicas are fed the same and share nothing but the table. Here each is a dataflow with a context of its own;
//! they may as well be processes on different machines.

use std::time::{Duration, Instant};

use differential_dataflow::input::InputSession;
use mvsink::dyncfg::SetError;
use mvsink::{Context, Error, Frontier, Handle, Status, no_errors, persist_sink};
use serde::{Deserialize, Serialize};
use timely::worker::Worker;

/// A row of the view. Its fields are the columns of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Count {
    word: String,
    count: isize,
}

/// One replica: its sink, and what feeds it.
struct Replica {
    // First, so that dropping a replica stops its sink before the input ends.
    sink: Handle<u64>,
    words: InputSession<u64, String, isize>,
}

impl Replica {
    fn new(worker: &mut Worker, cx: &Context, name: &str, directory: &str) -> Result<Self, Error> {
        worker.dataflow(|scope| {
            let mut words = InputSession::new();
            let counts = words.to_collection(scope).count();
            let counts = counts.map(|(word, count)| Count { word, count });
            let errors = no_errors::<_, String, _>(scope);
            let sink = persist_sink(cx, name, directory, counts, errors, 0)?;
            Ok(Replica { sink, words })
        })
    }

    /// One more word, at a time of its own.
    fn feed(&mut self, word: &str) {
        self.words.insert(word.to_owned());
        self.words.advance_to(self.words.time() + 1);
        self.words.flush();
    }

    fn stands_by(&self) -> bool {
        matches!(self.sink.status(), Status::StandingBy)
    }

    fn report(&self) {
        let counters = self.sink.counters();
        println!(
            "{}: {} at {}, {} batches committed, {} lost",
            self.sink.name(),
            self.sink.status(),
            self.sink.frontier(),
            counters.batches_committed,
            counters.batches_lost
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or("data/replicas".into());
    let runtime = tokio::runtime::Runtime::new()?;
    let replica = || {
        let cx = Context::new(runtime.handle().clone());
        // Who keeps losing stands by, until there was something to write for 300 ms that nobody wrote.
        cx.configs().set("mvsink_standby", "true")?;
        cx.configs().set("mvsink_standby_silence_ms", "300")?;
        Ok::<_, SetError>(cx)
    };
    let contexts = [replica()?, replica()?];
    timely::execute_directly(move |worker| {
        let mut replicas = Vec::new();
        for (cx, name) in contexts.iter().zip(["first", "second"]) {
            replicas.push(Replica::new(worker, cx, name, &directory)?);
        }
        // Whoever commits a batch, the frontier is the table's, and so both replicas'.
        let until = |worker: &mut Worker, replicas: &[Replica], time| {
            let there = |replica: &Replica| {
                replica.sink.frontier() >= Frontier::At(time) || replica.sink.status().is_final()
            };
            while !replicas.iter().all(there) {
                worker.step_or_park(Some(Duration::from_millis(10)));
            }
        };
        let mut time = 0;
        while !replicas.iter().any(Replica::stands_by) {
            for replica in &mut replicas {
                replica.feed("durable");
            }
            time += 1;
            until(worker, &replicas, time);
            if replicas
                .iter()
                .any(|replica| replica.sink.status().is_final())
            {
                break;
            }
        }
        replicas.iter().for_each(Replica::report);

        let winner = replicas.iter().position(|replica| !replica.stands_by());
        drop(replicas.remove(winner.unwrap_or(0)));
        let begun = Instant::now();
        replicas[0].feed("views");
        until(worker, &replicas, time + 1);
        println!("one is gone; {} ms later:", begun.elapsed().as_millis());
        replicas[0].report();
        Ok::<_, Error>(())
    })?;
    Ok(())
}
