//! A bounded pool for work that computes: consolidation, encoding, decoding.
//!
//! At most `permits` closures run at once in the whole process, each on a thread of Tokio's blocking pool;
//! what waits for its turn waits as a future and holds no thread. So the number of threads does not grow with
//! sinks × workers, and a long computation never runs on a thread that polls tasks.
//!
//! It cannot deadlock, by one rule that callers keep: **a closure computes and returns; it waits for nothing**,
//! no lock held across work, no channel, no other closure of the pool. A closure that has a permit therefore
//! always finishes and gives the permit back, whatever the store or the other tasks do; by induction every
//! closure in the (fair) queue gets its turn. Long work that produces results piece by piece is a sequence of
//! closures, with the bounded channel between them on the asynchronous side.
//!
//! The queue is fair, so a permit is given to whoever is next, and would stay with a future that nobody polls: one
//! that was set aside, or whose thread is busy with something else. So what has to wait for its turn waits as a task,
//! which the runtime polls.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::error::Error;

/// The bounded pool for computations that all shards and sinks of a process share.
///
/// What runs on it computes and returns: it waits for no lock, no channel and no other work of the pool. So every
/// computation ends, and the pool cannot deadlock.
#[derive(Clone, Debug)]
pub struct CpuPool {
    handle: Handle,
    /// `None` if computations run where they are awaited.
    permits: Option<Arc<Semaphore>>,
    width: usize,
}

impl CpuPool {
    /// A pool that runs at most `permits` (at least one) closures at a time on `handle`'s blocking threads.
    pub fn new(handle: Handle, permits: usize) -> Self {
        CpuPool {
            handle,
            permits: Some(Arc::new(Semaphore::new(permits.max(1)))),
            width: permits.max(1),
        }
    }

    /// No pool: computations run where they are awaited, one after the other on a runtime of one thread.
    pub fn inline(handle: Handle) -> Self {
        CpuPool {
            handle,
            permits: None,
            width: 1,
        }
    }

    /// How many computations may run at once.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Runs `compute`, which must not wait for anything, and returns its result.
    ///
    /// Dropping the future before the closure has started means that it never starts; once started it runs to
    /// its end, and its permit is held until then.
    ///
    /// # Errors
    /// [`Error::Shutdown`] if the runtime is shutting down.
    ///
    /// # Panics
    /// If `compute` panics, with its payload.
    pub async fn run<R: Send + 'static>(
        &self,
        compute: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Error> {
        let Some(permits) = &self.permits else {
            // As elsewhere, others have a turn first.
            tokio::task::yield_now().await;
            return Ok(compute());
        };
        let handle = self.handle.clone();
        let start = move |permit: OwnedSemaphorePermit| {
            handle.spawn_blocking(move || {
                // Held by the computation, not by the future: a caller that gives up frees no thread.
                let _permit = permit;
                compute()
            })
        };
        let ended = match Arc::clone(permits).try_acquire_owned() {
            Ok(permit) => start(permit).await,
            Err(_) => {
                let turn = Arc::clone(permits).acquire_owned();
                let mut waiting = JoinSet::new();
                let task = async move { Ok::<_, AcquireError>(start(turn.await?).await) };
                waiting.spawn_on(task, &self.handle);
                match waiting.join_next().await {
                    Some(Ok(Ok(ended))) => ended,
                    _ => return Err(Error::Shutdown),
                }
            }
        };
        match ended {
            Ok(result) => Ok(result),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => std::panic::resume_unwind(payload),
                Err(_) => Err(Error::Shutdown),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn r02_no_more_computations_at_once_than_permits_and_all_finish() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let pool = CpuPool::new(runtime.handle().clone(), 2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        runtime.block_on(async {
            let work = (0..64).map(|i| {
                let (pool, now, most) = (pool.clone(), now.clone(), most.clone());
                async move {
                    pool.run(move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        i
                    })
                    .await
                    .unwrap()
                }
            });
            let sum: usize = futures::future::join_all(work).await.into_iter().sum();
            assert_eq!(sum, 64 * 63 / 2);
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn r02_an_unrelated_task_runs_while_every_computation_is_slow() {
        const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let pool = CpuPool::new(runtime.handle().clone(), 2);
        runtime.block_on(async {
            // More than there are threads, and each goes on only once the other task has run since it began.
            let (began, beginnings) = tokio::sync::mpsc::unbounded_channel();
            let slow = (0..8).map(|_| {
                let (pool, began) = (pool.clone(), began.clone());
                tokio::spawn(async move {
                    let compute = move || {
                        let (run, ran) = std::sync::mpsc::channel::<()>();
                        began.send(run).unwrap();
                        ran.recv_timeout(WAIT_MAX)
                    };
                    pool.run(compute).await.unwrap()
                })
            });
            let slow: Vec<_> = slow.collect();
            drop(began);
            let unrelated = tokio::spawn(async move {
                let mut beginnings = beginnings;
                while let Some(run) = beginnings.recv().await {
                    let _ = run.send(());
                }
            });
            for computation in slow {
                let ran = computation.await.unwrap();
                ran.expect("the other task was polled meanwhile");
            }
            unrelated.await.unwrap();
        });
    }

    #[test]
    fn r03_who_waits_and_is_not_polled_keeps_nobody_from_the_pool() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let pool = CpuPool::new(runtime.handle().clone(), 1);
        runtime.block_on(async {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let mut first = Box::pin(pool.run(move || held.recv()));
            let mut set_aside = Box::pin(pool.run(|| ()));
            assert!(futures::poll!(&mut first).is_pending());
            assert!(futures::poll!(&mut set_aside).is_pending());
            // It is the next one's turn, and it is not polled.
            release.send(()).unwrap();
            let late = tokio::time::timeout(std::time::Duration::from_secs(60), pool.run(|| 7));
            assert_eq!(late.await.expect("its turn comes").unwrap(), 7);
            drop(set_aside);
        });
    }
}
