//! A shard with a long history is as quick to open as a new one, and its log stays short.
//!
//! `COMMITS` is how long the history is (default 5000).

mod support;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use mvsink_persist::testing::{Call, CountingStore, law};
use mvsink_persist::{
    Append, Appended, ClientOptions, Codec, CommitId, CompactOptions, Error, FileEncoder, FileMeta,
    Frontier, Open, Shard,
};
use object_store::ObjectStore;
use object_store::path::Path;

const URL: &str = "memory://store/shard";
/// Between two commits, by the test's clock.
const PERIOD: Duration = Duration::from_millis(10);
/// How long entries of the log stay at least.
const LOG_AGE: Duration = Duration::from_secs(5);
const CHECKPOINTS: u64 = 100;

fn quiet(_: &Error) {}

fn codec() -> Codec<law::Row, String> {
    Codec::new().unwrap()
}

fn options() -> ClientOptions {
    let mut options = support::options(1);
    options.checkpoint_interval = CHECKPOINTS;
    options.log_min_age = LOG_AGE;
    options
}

/// Commits one time more; every tenth brings the updates since the last that did.
async fn commit(shard: &Shard, time: i64) {
    let mut files = Vec::new();
    if time % 10 == 9 {
        let mut file = FileEncoder::new(codec().schema()).unwrap();
        let updates = law::updates(time, time + 1);
        let rows = updates.iter().map(|(row, at, diff)| (row, *at, *diff));
        file.write(&codec().encode(rows).unwrap()).unwrap();
        let file = file.finish().unwrap();
        let meta = FileMeta::from(&file);
        files.push(shard.put_file(file.bytes, meta, &quiet).await.unwrap());
    }
    let append = Append {
        id: CommitId {
            nonce: 1,
            seq: u64::try_from(time).unwrap(),
        },
        lower: Frontier::At(time),
        upper: Frontier::At(time + 1),
        files,
        since: None,
    };
    let appended = shard.append(append, &quiet).await.unwrap();
    assert!(matches!(appended, Appended::Committed { .. }));
}

/// The objects in the folder of the log.
async fn log(store: &dyn ObjectStore) -> usize {
    let folder = Path::from("shard/_delta_log");
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    listed.len()
}

#[test]
fn a_long_history_costs_no_more_than_a_short_one() {
    let commits = std::env::var("COMMITS").map_or(5000, |text| text.parse::<i64>().unwrap());
    support::run(async {
        let store = CountingStore::new(support::clocked());
        let client = support::client(options());
        client.mount("store", store.clone());
        let open = Open::new(codec().schema());
        let shard = client.open_or_create(URL, open).await.unwrap();
        let mut longest = 0;
        for time in 0..commits {
            commit(&shard, time).await;
            tokio::time::sleep(PERIOD).await;
            if time % 500 == 499 {
                shard
                    .compact(&CompactOptions::default(), &|_| ControlFlow::Continue(()))
                    .await
                    .unwrap();
                longest = longest.max(log(&store).await);
            }
        }
        // What is too young to go, twice over since it is not looked at all the time, and what checkpoints cover.
        let kept = LOG_AGE.div_duration_f64(PERIOD) as usize;
        let bound = 2 * kept + 20 * usize::try_from(CHECKPOINTS).unwrap();
        println!("{longest} objects in the log at the most, {commits} commits");
        assert!(
            longest <= bound,
            "{longest} objects in the log, more than {bound}"
        );

        let mut compact = CompactOptions::default();
        compact.full = true;
        shard
            .compact(&compact, &|_| ControlFlow::Continue(()))
            .await
            .unwrap();
        let expected = shard.progress();
        drop((shard, client));

        store.reset();
        let client = support::client(options());
        client.mount("store", store.clone());
        let start = Instant::now();
        let shard = client.open_existing(URL).await.unwrap();
        let elapsed = start.elapsed();
        let reads = [Call::Get, Call::GetRange, Call::Head, Call::List]
            .map(|call| store.count(call))
            .iter()
            .sum::<usize>();
        println!("opened {commits} commits with {reads} reads in {elapsed:?}");
        assert_eq!(shard.progress(), expected);
        // The pointer, the checkpoint and its entry, the next entry, a listing of what lies beyond, and the entry again.
        assert!(reads <= 6, "{reads} reads");
    });
}
