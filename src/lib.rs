//! A sink operator that ends a Timely/Differential Dataflow program with a durable, self-correcting
//! materialized view, kept as a Delta table.
//!
//! A host program maintains a collection `desired`; [`persist_sink`] keeps a *shard* equal to it, at every time,
//! across restarts, replicas and failed writes. The shard is a Delta table: the columns of the rows, then
//! `mv_error`, `mv_time` and `mv_diff`. [`persist_source`] reads one as a collection again.
//!
//! # The contract
//!
//! Let `S(t)` be the multiset of the shard's rows with `mv_time ≤ t`, each as often as its `mv_diff` adds up to; and
//! `D(t)` the contents of `desired` at time t. The shard has two frontiers: its *upper*, below which it is complete,
//! and its *since*, from which on it is exact. For a view with the as-of `a`,
//!
//! ```text
//! S(t) = D(t)   for all t with max(a, since) ≤ t < upper
//! ```
//!
//! A commit moves the upper and adds the rows of all times that it passes, both or neither; so what a reader sees is
//! always whole. What lay between the upper and the as-of when the sink started repeats the contents before it. The
//! frontier of a [`Handle`] is the upper, durable, the same on every worker.
//!
//! A [`Refresh`] schedule or an end ([`Target::until`]) has the sink see its input at other times: `D` is then what it sees.
//! A sink writes while neither its host's signal nor its own ([`Target::read_only`]) says that it is read-only, and in
//! standby ([`mint::standby`]) while no other replica keeps winning.
//!
//! In [`Mode::Ingest`] `desired` holds changes from the upper on, and nothing is compared with what is there.
//!
//! # An example
//!
//! ```no_run
//! use mvsink::differential_dataflow::input::InputSession;
//! use mvsink::{Context, no_errors, persist_sink, timely};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = tokio::runtime::Runtime::new()?;
//! let cx = Context::new(runtime.handle().clone());
//! timely::execute(timely::Config::process(2), move |worker| {
//!     let mut input = InputSession::new();
//!     let sink = worker.dataflow::<u64, _, _>(|scope| {
//!         let words = input.to_collection(scope);
//!         let counts = words.count(); // (String, isize): the columns c0 and c1
//!         let errors = no_errors::<_, String, _>(scope);
//!         persist_sink(&cx, "counts", "data/counts", counts, errors, 0)
//!     })?;
//!     if worker.index() == 0 {
//!         input.insert("durable".to_owned());
//!     }
//!     input.close();
//!     while !sink.status().is_final() {
//!         worker.step_or_park(Some(std::time::Duration::from_millis(10)));
//!     }
//!     Ok::<_, mvsink::Error>(sink.status())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # The operators
//!
//! ```text
//!    desired (ok, err)             persist  <---------------.   what the shard holds, read back
//!         |                           |                     |
//!         v                           v                     |
//!    +--------+                  +---------+           +---------+
//!    |  mint  | --- descs ---+-> |  write  | -batches->|  append |
//!    +--------+   broadcast  |   +---------+           +---------+
//!         |  desired ------------>     ^                    ^
//!         '                  '---------|--------------------'
//! ```
//!
//! - [`mint`], on one worker, decides which batch `(lower, upper)` to write next: a *description*. On all it passes desired on, each
//!   update hashed, once, and with the worker that its bucket lives on.
//! - [`mod@write`], on every worker, keeps the *corrections* `desired − persist` of the rows that are routed to it, and
//!   stages its part of each batch.
//! - [`append`], on one worker for each description, waits for a part of every worker and commits them as one.
//!
//! Each is a pure state and an operator, which one of two drivers runs, as the flag
//! [`ENABLE_SYNC_MV_SINK`](dyncfg::ENABLE_SYNC_MV_SINK) says when the sink is rendered: the *synchronous* driver, whose
//! operators never wait, and each of which has a Tokio task that never touches Timely; or the *asynchronous* one,
//! whose operators are bodies that await in place. Both build the same operators and send the same messages, so that
//! workers and processes may differ in it. Long computations run on a bounded pool ([`mvsink_persist::CpuPool`]), never
//! inline on a task or on a Timely thread.
//!
//! Workers of several processes tell each other beside this when one of them has moved the shard's upper, so that the
//! others need not wait until they next poll the log; and when the sink has failed, so that it fails everywhere.
//!
//! What a sink wrote itself it does not read back: every worker registers a batch's identity with its own read-back
//! before it sends its part. When the read-back meets that identity in the log it says "own" instead of the rows;
//! when it passes the batch's lower without, the batch was lost and is given back to the corrections.
//!
//! Nor does it read what a shard holds already when it starts. Sums of the fingerprints of all rows, by bucket of the hash,
//! are in the log; it sums those of `desired` and reads only buckets that differ. [`Counters`] says how many did.
//!
//! # The invariants
//!
//! Of the channels between an operator and its task, and of the order of the statements where there is none:
//!
//! 1. To mint come strictly increasing frontiers from one producer, the empty frontier last.
//! 2. All that one activation of write saw goes into one command, and only then may the order to write follow. So a
//!    batch contains every update that the operator had seen when it decided to write it.
//! 3. In one activation of append come descriptions, then parts, then the parts' frontier. So a trigger never
//!    overtakes the data that it triggers on.
//! 4. Different workers never share a channel.
//!
//! Of the protocol; the modules assert them under these names:
//!
//! - *lower is the upper*: a description's lower is the shard's actual upper; *bump first*: an upper below the as-of
//!   is moved by a commit without rows before the first description.
//! - *lowers strictly increase, uppers never decrease*: so at most one description is valid at a time.
//! - *one part per description* and worker, empty ones included; *all parts or none* are committed: a frontier never
//!   completes a batch, so a worker that is torn down cannot have the rest committed without it.
//! - *settle before advance*, *one batch in flight*: only the read-back decides what became of a batch.
//! - *everything staged ends*: it is committed, or deleted, or, where a commit's end is unknown, left to a sweeper.
//! - *read-only writes nothing*, and is in mint alone.
//! - Losing a race is ordinary control flow, not an error. Nothing that is torn down lets a frontier pass.
//!
//! # Where to look
//!
//! [`Context`] is what a host gives once, [`Target`] a shard and how it is used, [`Handle`] and [`Status`] what it
//! gets back, [`dyncfg`] the flags, [`corrections`] the multiset at the heart, [`time`] what can be stored.

pub mod append;
mod bounds;
mod channel;
mod comparison;
mod context;
pub mod corrections;
mod count;
mod counters;
pub mod description;
mod differing;
mod driver;
pub mod dyncfg;
mod error;
mod given;
mod handle;
mod holding;
mod instance;
pub mod logging;
mod maintenance;
pub mod mint;
mod read_only;
mod refresh;
mod route;
mod runtime;
mod schedule;
mod share;
mod signal;
mod sink;
mod source;
mod status;
mod stop;
mod sync;
mod target;
pub mod time;
mod wake;
mod worker;
pub mod write;

pub use bounds::{Data, Diff, Timestamp};
pub use context::{Context, ContextBuilder};
pub use counters::{Counters, Latencies};
pub use error::Error;
pub use handle::{Disputed, Handle, Pressure};
pub use refresh::Refresh;
pub use runtime::RuntimeFault;
pub use sink::{no_errors, persist_sink, persist_sink_with};
pub use source::{Source, persist_source, persist_source_with};
pub use status::{Compared, Differs, Phase, Status};
pub use target::{Mode, Target};

pub use differential_dataflow;
pub use mvsink_persist;
pub use mvsink_persist::{Codec, Frontier};
pub use timely;
