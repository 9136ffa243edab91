//! The task of a source: follows the log, reads and decodes the files that fall to its worker.

use std::convert::Infallible;
use std::sync::Arc;

use mvsink_persist::{
    Codec, DataFile, Error as ShardError, Frontier, Progress, Shard, decode_file,
};
use tokio::sync::{Semaphore, oneshot};

use super::{Mark, Message, OwnCommits};
use crate::bounds::{Data, Diff, Timestamp, frontier_from_i64, time_from_i64, time_to_i64};
use crate::dyncfg::CHUNK_ROWS;
use crate::error::Error;
use crate::wake::Replies;
use crate::worker::Worker;

/// How far a sink's read-back may be ahead of its corrections.
const CHUNKS_AHEAD: usize = 4;

/// What a source reads.
pub(crate) struct Reading<D, E, T> {
    pub(crate) codec: Codec<D, E>,
    /// Where the collection begins; `None` for a sink's read-back, which takes all times as they are.
    pub(crate) as_of: Option<T>,
    /// Whether rows are wanted, or marks and frontiers only.
    pub(crate) rows: bool,
    pub(crate) own: OwnCommits,
}

struct Task<D, E, T, R> {
    worker: Worker,
    shard: Shard,
    reading: Reading<D, E, T>,
    credits: Arc<Semaphore>,
    replies: Replies<Message<D, E, T, R>>,
}

/// Runs the task until the shard's upper is empty, or the source stops.
pub(crate) async fn run<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    reading: Reading<D, E, T>,
    credits: Arc<Semaphore>,
    replies: Replies<Message<D, E, T, R>>,
    gone: oneshot::Receiver<Infallible>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let work = async {
        let shard = worker.shard("open").await?;
        mvsink_persist::schema::check_schema(&shard.schema(), &reading.codec.schema()).map_err(
            |why| ShardError::SchemaMismatch {
                url: shard.url().to_owned(),
                why,
            },
        )?;
        Task {
            worker,
            shard,
            reading,
            credits,
            replies,
        }
        .follow()
        .await
    };
    tokio::select! {
        biased;
        _ = gone => Ok(()),
        ended = stop.or_stop(work) => ended.unwrap_or(Ok(())),
    }
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    async fn follow(self) -> Result<(), Error> {
        let pinned = self.shard.pin();
        let progress = pinned.progress;
        if let Some(as_of) = self.reading.as_of {
            let as_of = time_to_i64(as_of)?;
            if progress.since > Frontier::At(as_of) {
                return Err(ShardError::BeforeSince {
                    as_of,
                    since: progress.since,
                }
                .into());
            }
        }
        self.reply(Message::Mark(Mark::Started));
        if self.reading.rows {
            for file in pinned.files() {
                self.read(file, Frontier::At(0), Taking::all(Sign::Plus))
                    .await?;
            }
        }
        drop(pinned);
        self.pass(progress.upper)?;

        let mut version = progress.version;
        let mut upper = progress.upper;
        while !upper.is_empty() {
            version += 1;
            let entry = match self.shard.entry(version).await {
                Ok(entry) => entry,
                Err(ShardError::EntryGone { .. }) => {
                    Progress { version, upper, .. } = self.jump(upper).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let own = entry.id.filter(|id| self.reading.own.contains(id));
            if let Some(id) = own {
                self.reply(Message::Mark(Mark::Own(id)));
            } else if self.reading.rows {
                for file in &entry.adds {
                    self.read(file, entry.lower, Taking::all(Sign::Plus))
                        .await?;
                }
                for file in &entry.removes {
                    self.read(file, entry.lower, Taking::all(Sign::Minus))
                        .await?;
                }
            } else if entry.foreign {
                // A source has nothing to repair its shard from.
                return Err(ShardError::ForeignEdit {
                    url: self.shard.url().to_owned(),
                    version,
                }
                .into());
            }
            upper = entry.upper;
            self.pass(upper)?;
        }
        self.worker.instance.finished();
        Ok(())
    }

    /// Goes on from the newest version, since the log was cleaned up beyond what was read: takes all rows at or
    /// beyond the upper that was passed. There are no marks for what is skipped: a sink's own rows come as anybody's.
    async fn jump(&self, passed: Frontier<i64>) -> Result<Progress, Error> {
        let pinned = self.shard.pin();
        let progress = pinned.progress;
        let from = passed.time().unwrap_or(i64::MAX);
        // At a since of `from` itself, what was read before may have been moved there.
        pinned.check_readable((from - 1).max(0))?;
        tracing::info!(
            shard = self.shard.url(),
            version = progress.version,
            from,
            "the log was cleaned up, reading on from a snapshot"
        );
        if self.reading.rows {
            for file in pinned.files() {
                if file.max_time.is_none_or(|max| max >= from) {
                    let taking = Taking {
                        sign: Sign::Plus,
                        from,
                    };
                    self.read(file, Frontier::At(0), taking).await?;
                }
            }
        }
        drop(pinned);
        self.pass(progress.upper)?;
        Ok(progress)
    }

    fn pass(&self, upper: Frontier<i64>) -> Result<(), Error> {
        let mut frontier = frontier_from_i64(upper)?;
        if let Some(as_of) = self.reading.as_of {
            frontier = frontier.max(Frontier::At(as_of));
        }
        self.reply(Message::Frontier(frontier));
        Ok(())
    }

    /// Reads a file whose rows came, or went, when the shard's upper was `lower`.
    async fn read(
        &self,
        file: &DataFile,
        lower: Frontier<i64>,
        taking: Taking,
    ) -> Result<(), Error> {
        if route_file(&file.path, self.worker.peers) != self.worker.index {
            return Ok(());
        }
        let client = self.worker.cx.client();
        let bytes = self
            .worker
            .retry("read", || self.shard.read_file(&file.path))
            .await?;
        let rows = CHUNK_ROWS.get(self.worker.cx.configs()).max(1);
        let path = file.path.clone();
        let mut decoder = client
            .cpu()
            .run(move || decode_file(&path, bytes, None, rows))
            .await??;
        // Times below the upper at which a row was seen count as that upper, whatever its writer put there.
        let as_of = self.reading.as_of.map_or(Ok(0), time_to_i64)?;
        let floor = lower.time().map_or(as_of, |lower| lower.max(as_of));
        loop {
            let codec = self.reading.codec.clone();
            let (next, chunk) = client
                .cpu()
                .run(move || {
                    let chunk = decoder
                        .next()
                        .map(|batch| decode(&codec, &batch?, floor, taking));
                    (decoder, chunk)
                })
                .await?;
            decoder = next;
            let Some(chunk) = chunk else { return Ok(()) };
            let (rows, errors): Decoded<D, E, T, R> = chunk?;
            if !rows.is_empty() {
                self.send(Message::Rows(rows)).await;
            }
            if !errors.is_empty() {
                self.send(Message::Errors(errors)).await;
            }
        }
    }

    /// Sends data once the operator has taken up enough of what was sent before.
    async fn send(&self, data: Message<D, E, T, R>) {
        // A sink's corrections may be slower than its read-back.
        let ahead = CHUNKS_AHEAD * CHUNK_ROWS.get(self.worker.cx.configs());
        let meter = &self.worker.instance.meter;
        meter.read_back_at_most(ahead).await;
        if let Ok(permit) = self.credits.acquire().await {
            // The operator gives it back.
            permit.forget();
        }
        self.reply(data);
    }

    fn reply(&self, message: Message<D, E, T, R>) {
        // An operator that is gone ends this task.
        let _ = self.replies.send(message);
    }
}

/// Whether rows come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Plus,
    Minus,
}

/// What is taken from a file.
#[derive(Clone, Copy, Debug)]
struct Taking {
    sign: Sign,
    /// Rows at earlier times are left out.
    from: i64,
}

impl Taking {
    fn all(sign: Sign) -> Self {
        Taking {
            sign,
            from: i64::MIN,
        }
    }
}

type Decoded<D, E, T, R> = (Vec<(D, T, R)>, Vec<(E, T, R)>);

fn decode<D: Data, E: Data, T: Timestamp, R: Diff>(
    codec: &Codec<D, E>,
    batch: &mvsink_persist::RecordBatch,
    floor: i64,
    taking: Taking,
) -> Result<Decoded<D, E, T, R>, Error> {
    let updates = codec.decode(batch)?;
    let ok = typed(updates.ok, floor, taking)?;
    Ok((ok, typed(updates.err, floor, taking)?))
}

fn typed<D, T: Timestamp, R: Diff>(
    updates: Vec<(D, i64, i64)>,
    floor: i64,
    taking: Taking,
) -> Result<Vec<(D, T, R)>, Error> {
    let update = |(data, time, diff): (D, i64, i64)| {
        let time: T = time_from_i64(time.max(floor))?;
        let signed = match taking.sign {
            Sign::Plus => Some(diff),
            Sign::Minus => diff.checked_neg(),
        };
        let diff = signed.and_then(R::from_i64).ok_or(Error::Diff { diff })?;
        Ok((data, time, diff))
    };
    let wanted = |(_, time, _): &(D, i64, i64)| *time >= taking.from;
    updates.into_iter().filter(wanted).map(update).collect()
}

/// The worker that reads a file: the same on all workers, whichever version they start from.
fn route_file(path: &str, peers: usize) -> usize {
    let hash = mvsink_persist::hash_data(path).unwrap_or(0);
    usize::try_from(hash % peers as u128).expect("less than a usize")
}
