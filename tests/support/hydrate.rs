//! A snapshot of any size into a shard, made as it is fed, and the heap that this takes.
//!
//! For programs whose global allocator is [`PeakAlloc`].
#![allow(dead_code)]

use std::path::Path;
use std::time::{Duration, Instant};

use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Status, Target, no_errors, persist_sink};
use mvsink_persist::{ClientOptions, Sums};
use peak_alloc::PeakAlloc;
use timely::worker::Worker;

/// A key that looks random, a string of forty bytes, and two numbers.
pub type Row = (u64, String, u64, u64);

/// Rows that are fed in between two steps of the worker.
const FED_AT_ONCE: u64 = 4096;

/// The source waits while so many updates are queued, as the sink's pressure asks of it.
const QUEUED_MAX: usize = 32 * 1024;

/// The row of this number, the same in each run (the finalizer of splitmix64).
pub fn row(number: u64) -> Row {
    let mut x = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x = (x ^ (x >> 31)) >> 1;
    let text = format!("{x:020}{:020}", x.rotate_left(17) >> 1);
    (x, text, number % 1000, number)
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The most heap, in bytes, above what was in use before.
    pub peak: usize,
    /// The most that was on disk for want of memory, in bytes.
    pub spilled: u64,
    pub elapsed: Duration,
}

/// How a snapshot is hydrated.
#[derive(Clone, Copy, Debug)]
pub struct Hydrate<'a> {
    pub dir: &'a Path,
    pub rows: u64,
    pub workers: usize,
    /// In bytes; 0 for none.
    pub budget: usize,
    /// What gathers before it is staged, in bytes, if not as usual.
    pub ahead: Option<usize>,
    /// The rows of a chunk, and how many chunks are read ahead, if not as usual: for a small budget.
    pub chunks: Option<(usize, usize)>,
}

impl Hydrate<'_> {
    fn url(&self) -> String {
        let path = self.dir.join("shard");
        path.to_str().unwrap().to_owned()
    }

    /// Feeds the rows at time 0 until the shard, in a context of its own, has got to `upper`.
    pub fn run(&self, upper: u64) -> Measured {
        let runtime = super::runtime();
        let mut options = ClientOptions::default();
        options.fsync = false;
        let cx = Context::builder(runtime.handle().clone())
            .client_options(options)
            .spill_directory(self.dir.join("spill"))
            .build();
        let configs = cx.configs();
        let budget = self.budget.to_string();
        configs.set("mvsink_corrections_bytes", &budget).unwrap();
        if let Some(bytes) = self.ahead {
            let set = configs.set("mvsink_stage_ahead_bytes", &bytes.to_string());
            set.unwrap();
        }
        if let Some((chunk_rows, credits)) = self.chunks {
            let set = |name, value: usize| configs.set(name, &value.to_string()).unwrap();
            set("mvsink_chunk_rows", chunk_rows);
            set("mvsink_source_credits", credits);
            // Merging files has a budget of its own, which is larger.
            configs.set("mvsink_compaction", "false").unwrap();
        }

        let idle = PeakAlloc.current_usage();
        PeakAlloc.reset_peak_usage();
        let start = Instant::now();
        let (context, url, rows) = (cx.clone(), self.url(), self.rows);
        let config = timely::Config::process(self.workers);
        let guards = timely::execute(config, move |worker| {
            feed(worker, &context, &url, rows, upper)
        });
        let spilled = guards.unwrap().join().into_iter();
        let spilled = spilled.map(|most| most.unwrap()).max().unwrap_or(0);
        runtime.block_on(cx.settled());
        Measured {
            peak: PeakAlloc.peak_usage().saturating_sub(idle),
            spilled,
            elapsed: start.elapsed(),
        }
    }

    /// The shard holds each row once, and nothing else: by the sums of fingerprints, and by reading every file.
    pub fn assert_exact(&self) {
        let runtime = super::runtime();
        let cx = Context::new(runtime.handle().clone());
        let mut expected = Sums::default();
        for number in 0..self.rows {
            expected.add(mvsink_persist::hash_data(&row(number)).unwrap(), 1);
        }
        runtime.block_on(async {
            let shard = cx.client().open_existing(&self.url()).await.unwrap();
            let report = shard.verify(&|_| ()).await.unwrap();
            assert!(report.is_clean(), "{:?}", report.findings);
            assert_eq!((report.without_sums, report.rows), (0, self.rows));
            assert_eq!(report.sums, expected);
        });
    }
}

/// Feeds this worker's share of the rows; gives the most that was spilled, as seen from here.
fn feed(worker: &mut Worker, cx: &Context, url: &str, rows: u64, upper: u64) -> u64 {
    let (mut input, handle) = worker.dataflow(|scope| {
        let mut input = InputSession::<u64, Row, i64>::new();
        let rows = input.to_collection(scope);
        let errors = no_errors::<_, String, _>(scope);
        let handle = persist_sink(cx, "view", Target::new(url), rows, errors, 0).unwrap();
        (input, handle)
    });
    let mut spilled = 0;
    let mut look = |handle: &Handle<u64>| {
        let pressure = handle.pressure();
        spilled = pressure.spilled_bytes.max(spilled);
        pressure.queued_updates > QUEUED_MAX
    };
    let (index, peers) = (worker.index() as u64, worker.peers() as u64);
    for (fed, number) in (index..rows).step_by(peers as usize).enumerate() {
        if (fed as u64).is_multiple_of(FED_AT_ONCE) {
            input.flush();
            worker.step();
            while look(&handle) {
                worker.step_or_park(Some(Duration::from_millis(1)));
            }
        }
        input.update(row(number), 1);
    }
    input.advance_to(upper);
    input.flush();
    while handle.frontier() < Frontier::At(upper) {
        assert!(
            !matches!(handle.status(), Status::Failed { .. }),
            "{}",
            handle.status()
        );
        worker.step_or_park(Some(Duration::from_millis(1)));
        look(&handle);
    }
    drop(handle);
    worker.drop_dataflow(worker.installed_dataflows()[0]);
    spilled
}
