//! A chain of views, each in a shard of its own, read at one time at which they agree.
//!
//! `cargo run --release --example views_on_views -- DIRECTORY`
//!
//! ```text
//!   words ──▶ counts (word, how often) ──▶ lengths (length, words of it, occurrences)
//! ```

use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::mvsink_persist::{self, Codec, ReadOptions, Shard, common_time};
use mvsink::{Context, Error, Handle, no_errors, persist_sink, persist_source};
use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::worker::Worker;

/// The input.
type Words = InputSession<u64, String, isize>;
/// The first view: of words.
type Counts = (String, i64);
/// The second: of counts.
type Lengths = (i64, i64, i64);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).unwrap_or("data/views".into());
    let (counts, lengths) = (
        format!("{directory}/counts"),
        format!("{directory}/lengths"),
    );
    let runtime = tokio::runtime::Runtime::new()?;
    let cx = Context::new(runtime.handle().clone());
    let (context, urls) = (cx.clone(), [counts.clone(), lengths.clone()]);
    let workers = timely::execute(timely::Config::process(2), move |worker| {
        let [counts, lengths] = &urls;
        let (mut input, first) = count_words(worker, &context, counts)?;
        let words = ["durable", "views", "on", "durable", "views"];
        if worker.index() == 0 {
            for (word, time) in words.into_iter().zip(0..) {
                input.advance_to(time);
                input.insert(word.to_owned());
            }
        }
        input.close();
        // It reads the shard of the first, which need not be complete, but must be there.
        step_until(worker, || first.frontier() > mvsink::Frontier::At(0));
        let (_source, second) = measure_counts(worker, &context, counts, lengths)?;
        step_until(worker, || {
            first.status().is_final() && second.status().is_final()
        });
        Ok::<_, Error>((first.status(), second.status()))
    })?;
    for statuses in workers.join() {
        let (first, second) = statuses??;
        println!("counts: {first}, lengths: {second}");
    }

    runtime.block_on(async {
        let client = cx.client();
        let shards = [
            client.open_existing(&counts).await?,
            client.open_existing(&lengths).await?,
        ];
        let common = common_time(&shards, 0, Duration::from_secs(60)).await?;
        println!("both at {}:", common.time());
        print::<Counts>(&shards[0], common.time()).await?;
        print::<Lengths>(&shards[1], common.time()).await?;
        common.release().await?;
        Ok(())
    })
}

fn count_words(worker: &mut Worker, cx: &Context, to: &str) -> Result<(Words, Handle<u64>), Error> {
    worker.dataflow(|scope| {
        let mut input = InputSession::new();
        let counts = input.to_collection(scope).count();
        let counts = counts.map(|(word, count)| -> Counts { (word, count as i64) });
        let errors = no_errors::<_, String, _>(scope);
        Ok((input, persist_sink(cx, "counts", to, counts, errors, 0)?))
    })
}

fn measure_counts(
    worker: &mut Worker,
    cx: &Context,
    from: &str,
    to: &str,
) -> Result<(Handle<u64>, Handle<u64>), Error> {
    worker.dataflow(|scope| {
        let source = persist_source::<Counts, String, u64, isize>(cx, scope, "counts", from, 0)?;
        let lengths = source.ok.map(|(word, count)| (word.len() as i64, count));
        let lengths = lengths.reduce(|_, counts, output| {
            let words: isize = counts.iter().map(|(_, times)| times).sum();
            let occurrences: i64 = counts
                .iter()
                .map(|(count, times)| **count * *times as i64)
                .sum();
            output.push(((words as i64, occurrences), 1));
        });
        let lengths = lengths
            .map(|(length, (words, occurrences))| -> Lengths { (length, words, occurrences) });
        // The source lives as long as its handle.
        Ok((
            source.handle,
            persist_sink(cx, "lengths", to, lengths, source.err, 0)?,
        ))
    })
}

async fn print<D>(shard: &Shard, time: i64) -> Result<(), mvsink_persist::Error>
where
    D: Serialize + DeserializeOwned + std::fmt::Debug,
{
    println!("{}", shard.url());
    let codec = Codec::<D, String>::new()?;
    let mut snapshot = shard.snapshot(time, ReadOptions::default())?;
    while let Some(batch) = snapshot.next().await? {
        for (row, _, _) in codec.decode(&batch)?.ok {
            println!("  {row:?}");
        }
    }
    Ok(())
}

fn step_until(worker: &mut Worker, mut done: impl FnMut() -> bool) {
    while !done() {
        worker.step_or_park(Some(Duration::from_millis(10)));
    }
}
