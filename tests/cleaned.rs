//! A source that is so slow that the log is cleaned up under it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mvsink::dyncfg::ConfigSet;
use mvsink::{Context, persist_source};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta, Frontier,
    GcOptions, Open, Shard,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;

const URL: &str = "memory://shared/shard";
const ROWS: u64 = 100;

type Row = (String, u64);

fn client_options() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.recent_entries = 1;
    options.checkpoint_interval = 0;
    options.log_min_age = Duration::ZERO;
    options
}

async fn append(shard: &Shard, time: i64, updates: &[(Row, i64)]) {
    let codec = Codec::<Row, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let rows = updates.iter().map(|(row, diff)| (row, time, *diff));
    file.write(&codec.encode(rows).unwrap()).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta {
        rows: file.rows,
        times: Some((time, time)),
        ..FileMeta::default()
    };
    let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
    let append = Append {
        id: CommitId {
            nonce: 5,
            seq: u64::try_from(time).unwrap(),
        },
        lower: Frontier::At(time),
        upper: Frontier::At(time + 1),
        files: vec![staged],
        since: None,
    };
    let appended = shard.append(append, &|_| ()).await.unwrap();
    assert!(matches!(appended, Appended::Committed { .. }));
}

fn row(number: u64) -> Row {
    ("row".to_owned(), number)
}

#[test]
fn a_source_behind_a_cleaned_log_goes_on_from_a_snapshot() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = Client::new(runtime.handle().clone(), client_options());
    writer.mount("shared", Arc::clone(&store));
    let shard = runtime.block_on(async {
        let codec = Codec::<Row, String>::new().unwrap();
        let open = Open::new(codec.schema());
        let shard = writer.open_or_create(URL, open).await.unwrap();
        let first: Vec<_> = (0..ROWS).map(|number| (row(number), 1)).collect();
        append(&shard, 0, &first).await;
        shard
    });

    // One row at a time, and none before the one before it was taken up.
    let configs = ConfigSet::new();
    configs.set("mvsink_source_credits", "1").unwrap();
    configs.set("mvsink_chunk_rows", "1").unwrap();
    let cx = Context::builder(runtime.handle().clone())
        .client_options(client_options())
        .configs(configs)
        .build();
    cx.client().mount("shared", store);
    let handle = runtime.handle().clone();
    let seen = timely::execute_directly(move |worker| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&seen);
        let (probe, source) = worker.dataflow::<u64, _, _>(|scope| {
            let source =
                persist_source::<Row, String, u64, i64>(&cx, scope, "source", URL, 0).unwrap();
            let rows = source
                .ok
                .inspect(move |update| sink.borrow_mut().push(update.clone()));
            (rows.probe().0, source.handle)
        });
        while seen.borrow().is_empty() {
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        // It has pinned the first version, and waits for us.
        handle.block_on(async {
            for time in 1..6 {
                let number = u64::try_from(time).unwrap();
                append(&shard, time, &[(row(number), -1), (row(ROWS + number), 1)]).await;
                shard.checkpoint().await.unwrap();
            }
            let cleaned = shard.collect_garbage(&GcOptions::default(), &|_| ()).await;
            assert!(cleaned.unwrap().log.count >= 4);
        });
        while probe.less_than(&6) {
            let status = source.status();
            assert!(!matches!(status, mvsink::Status::Failed { .. }), "{status}");
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        let index = worker.installed_dataflows()[0];
        drop(source);
        worker.drop_dataflow(index);
        seen.take()
    });
    let mut found: BTreeMap<(u64, u64), i64> = BTreeMap::new();
    for ((_, number), time, diff) in seen {
        *found.entry((number, time)).or_default() += diff;
    }
    let mut expected: BTreeMap<_, _> = (0..ROWS).map(|number| ((number, 0), 1)).collect();
    for time in 1..6 {
        expected.insert((time, time), -1);
        expected.insert((ROWS + time, time), 1);
    }
    assert_eq!(found, expected, "every update once, at its time");
}
