//! The modes of a sink: schedules, ends, read-only and standby, replicas that do not agree; and what a sink says of
//! itself meanwhile.

mod read_only;
mod replicas;
mod schedules;
mod starts;
mod statuses;

use crate::support::{Row, until, view};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Target, no_errors, persist_sink};
use mvsink_persist::{Append, Appended, Codec, CommitId, FileEncoder, FileMeta, Open};
use timely::worker::Worker;
use tokio::sync::watch;

/// A view of words in a dataflow of its own, and what feeds it.
struct Replica {
    // First, so that dropping a replica stops it before its input ends.
    handle: Handle<u64>,
    words: InputSession<u64, String, i64>,
}

impl Replica {
    fn new(worker: &mut Worker, cx: &Context, target: &Target) -> Self {
        Replica::with(worker, cx, "view", target, |row| row)
    }

    /// A view that makes something else of each row.
    fn with(
        worker: &mut Worker,
        cx: &Context,
        name: &str,
        target: &Target,
        row: fn(Row) -> Row,
    ) -> Self {
        worker.dataflow(|scope| {
            let mut words = InputSession::new();
            let rows = view(words.to_collection(scope)).map(row);
            let errors = no_errors::<u64, String, i64>(scope);
            let handle = persist_sink(cx, name, target.clone(), rows, errors, 0).unwrap();
            Replica { handle, words }
        })
    }

    fn insert(&mut self, word: &str) {
        self.words.update(word.to_owned(), 1);
    }

    fn advance(&mut self, to: u64) {
        self.words.advance_to(to);
        self.words.flush();
    }

    fn upper(&self) -> Frontier<u64> {
        self.handle.frontier()
    }

    fn is_at(&self, status: &str) -> bool {
        self.handle.status().to_string() == status
    }
}

fn signal(read_only: bool) -> (watch::Sender<bool>, watch::Receiver<bool>) {
    watch::channel(read_only)
}

/// Every upper that the shard has had.
fn uppers(cx: &Context, url: &str) -> Vec<Frontier<i64>> {
    let client = cx.client();
    client.handle().block_on(async {
        let shard = client.open_existing(url).await.unwrap();
        let mut uppers = Vec::new();
        for version in 1..=shard.progress().version {
            uppers.push(shard.entry(version).await.unwrap().upper);
        }
        uppers
    })
}

fn version(cx: &Context, url: &str) -> u64 {
    let client = cx.client();
    client.handle().block_on(async {
        let shard = client.open_existing(url).await.unwrap();
        shard.refresh().await.unwrap().version
    })
}

/// The rows of the second version of a view.
fn tenfold((letter, count): Row) -> Row {
    (letter, 10 * count)
}

/// A shard that another program has written: these rows at time 0, or at its since.
fn prepare(cx: &Context, url: &str, since: i64, upper: i64, rows: &[(Row, i64)]) {
    let client = cx.client();
    client.handle().block_on(async {
        let codec = Codec::<Row, String>::new().unwrap();
        let mut open = Open::new(codec.schema());
        open.since = Frontier::At(since);
        let shard = client.open_or_create(url, open).await.unwrap();
        let mut file = FileEncoder::new(codec.schema()).unwrap();
        let updates = rows.iter().map(|(row, diff)| (row, since, *diff));
        file.write(&codec.encode(updates).unwrap()).unwrap();
        let encoded = file.finish().unwrap();
        let meta = FileMeta::from(&encoded);
        let staged = shard.put_file(encoded.bytes, meta, &|_| ()).await.unwrap();
        let append = Append {
            id: CommitId { nonce: 1, seq: 0 },
            lower: shard.progress().upper,
            upper: Frontier::At(upper),
            files: vec![staged],
            since: None,
        };
        let appended = shard.append(append, &|_| ()).await.unwrap();
        assert!(
            matches!(appended, Appended::Committed { .. }),
            "{appended:?}"
        );
    });
}
