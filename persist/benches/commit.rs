//! What a commit costs beside the files that the shard has already, with and without a reader that has just
//! pinned them.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mvsink_persist::{
    Append, Client, ClientOptions, Codec, CommitId, Error, FileMeta, Frontier, Open, Shard,
};

fn quiet(_: &Error) {}

async fn append(shard: &Shard, seq: u64, files: usize) {
    let mut staged = Vec::new();
    for _ in 0..files {
        let put = shard.put_file(Bytes::new(), FileMeta::default(), &quiet);
        staged.push(put.await.expect("memory takes it"));
    }
    let lower = shard.progress().upper;
    let append = Append {
        id: CommitId { nonce: 1, seq },
        lower,
        upper: lower.map(|time| time + 1),
        files: staged,
        since: None,
    };
    let appended = shard.append(append, &quiet).await;
    appended.expect("nobody else writes");
}

/// A shard with this many files, in a store of its own.
async fn filled(files: usize) -> Shard {
    let mut options = ClientOptions::default();
    options.checkpoint_interval = 0;
    let client = Client::new(tokio::runtime::Handle::current(), options);
    let codec = Codec::<(u64, String), String>::new().expect("the type has columns");
    let open = Open::new(codec.schema());
    let shard = client.open_or_create("memory://shard", open).await;
    let shard = shard.expect("memory takes it");
    append(&shard, 0, files).await;
    assert_eq!(shard.progress().upper, Frontier::At(1));
    shard
}

fn commits(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("commit");
    for files in [100, 10_000] {
        for pinned in [false, true] {
            let name = if pinned { "pinned" } else { "not pinned" };
            group.bench_function(format!("{files} files, {name}"), |bencher| {
                bencher.iter_batched_ref(
                    || {
                        let shard = runtime.block_on(filled(files));
                        let pin = pinned.then(|| shard.pin());
                        (shard, pin)
                    },
                    |(shard, _)| runtime.block_on(append(shard, 1, 1)),
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

criterion_group!(benches, commits);
criterion_main!(benches);
