//! The asynchronous driver: each operator is a body that awaits in place, on the Timely thread, what it has ordered.
//!
//! What arrives meanwhile waits in Timely's channels, unseen and not metered, and frontiers wait with it. Of what is read
//! back no more arrives than there are credits ([`crate::source::Credits`]), since write gives them back. Long
//! computations run on the pool all the same: the body only awaits them. There is no channel between who decides and
//! who does the work, so the order of [`crate::channel`] is that of the statements here.
//!
//! A dataflow that is dropped while a body awaits drops it there, as a crash does.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mvsink_persist::{Codec, Frontier};

use super::body::{Body, Turns};
use super::{Logic, guarded};
use crate::append;
use crate::bounds::{Data, Diff, Timestamp, frontier_of};
use crate::error::Error;
use crate::mint::{self, Watch};
use crate::wake::Waker;
use crate::worker::Worker;
use crate::write;

/// Drives mint. The desired collection is passed through by the operator, so it does not wait for the body.
pub(crate) fn mint<D: Data, E: Data, T: Timestamp, R: Diff>(
    operator: mint::Operator<D, E, T, R>,
    waker: Arc<Waker>,
) -> Logic<T> {
    let worker = operator.worker().clone();
    let mints = operator.mints();
    let operator = Rc::new(RefCell::new(operator));
    let mut body = mints.then(|| {
        let share = worker.clone();
        let operator = Rc::clone(&operator);
        Body::new(&worker, waker, |turns| mint_body(share, operator, turns))
    });
    Box::new(move |frontiers| {
        guarded(&worker, || operator.borrow_mut().pass_through());
        let Some(running) = &mut body else {
            return false;
        };
        let busy = running.turn(frontiers);
        if running.has_ended() {
            operator.borrow_mut().stop();
            body = None;
        }
        busy
    })
}

async fn mint_body<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    operator: Rc<RefCell<mint::Operator<D, E, T, R>>>,
    mut turns: Turns<T>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let work = async {
        let mut watch = Watch::open(worker).await?;
        while operator.borrow().mints() {
            let mut inputs = tokio::select! {
                biased;
                input = watch.next() => vec![input?],
                () = turns.next() => Vec::new(),
            };
            // One bump may be the answer to what became of another.
            loop {
                let frontier = |input| turns.frontier(input);
                let orders = operator.borrow_mut().activate(inputs, frontier);
                inputs = Vec::new();
                for order in orders {
                    inputs.extend(watch.follow(order).await?);
                }
                if inputs.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    };
    stop.or_stop(work).await.unwrap_or(Ok(()))
}

/// Drives write.
pub(crate) fn write<D: Data, E: Data, T: Timestamp, R: Diff>(
    operator: write::Operator<D, E, T, R>,
    waker: Arc<Waker>,
    codec: Codec<D, E>,
    store: write::Store<D, E, T, R>,
) -> Logic<T> {
    let worker = operator.worker().clone();
    let operator = Rc::new(RefCell::new(operator));
    let of_body = Rc::clone(&operator);
    let mut body = Body::new(&worker.clone(), waker, |turns| {
        write_body(worker, of_body, turns, codec, store)
    });
    Box::new(move |frontiers| {
        let busy = body.turn(frontiers);
        if body.has_ended() {
            operator.borrow_mut().wind_up(false);
        }
        busy
    })
}

async fn write_body<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    operator: Rc<RefCell<write::Operator<D, E, T, R>>>,
    mut turns: Turns<T>,
    codec: Codec<D, E>,
    store: write::Store<D, E, T, R>,
) -> Result<(), Error> {
    let size = Arc::clone(operator.borrow().size());
    let Some(mut task) = write::Task::open(worker, codec, store, size).await? else {
        return Ok(());
    };
    loop {
        turns.next().await;
        // A stop interrupts the waiting, not the work.
        if turns.is_stopped() {
            break;
        }
        let orders = operator
            .borrow_mut()
            .activate(|input| turns.frontier(input));
        if let Some(batch) = orders.batch
            && !task.apply(batch).await?
        {
            break;
        }
        if let Some(description) = orders.write {
            let id = description.id;
            let Some(staged) = task.write(description).await? else {
                break;
            };
            operator.borrow_mut().staged(id, staged);
            if !task.finish().await? {
                break;
            }
            turns.again();
        }
    }
    task.end().await;
    Ok(())
}

/// Drives append.
pub(crate) fn append<T: Timestamp>(operator: append::Operator<T>, waker: Arc<Waker>) -> Logic<T> {
    let worker = operator.worker().clone();
    let operator = Rc::new(RefCell::new(operator));
    let of_body = Rc::clone(&operator);
    let mut body = Body::new(&worker.clone(), waker, |turns| {
        append_body(worker, of_body, turns)
    });
    Box::new(move |frontiers| {
        let busy = body.turn(frontiers);
        let mut operator = operator.borrow_mut();
        if body.is_stopped() {
            operator.stopped();
        }
        if body.has_ended() {
            // What still comes is for nobody.
            operator.activate(|input| frontier_of(&frontiers[input]));
            if operator.has_all_parts() {
                operator.finish();
            }
        }
        busy
    })
}

/// Goes on when the sink was stopped: the files of the parts that still come are somebody's to commit or to delete.
async fn append_body<T: Timestamp>(
    worker: Worker,
    operator: Rc<RefCell<append::Operator<T>>>,
    mut turns: Turns<T>,
) -> Result<(), Error> {
    let Some(mut task) = append::Task::open(worker).await? else {
        return Ok(());
    };
    loop {
        turns.next().await;
        let seen = operator
            .borrow_mut()
            .activate(|input| turns.frontier(input));
        let last = seen.frontier == Some(Frontier::Empty);
        for input in seen.inputs() {
            if let Some(news) = task.step(input).await? {
                operator.borrow_mut().tell(news);
            }
        }
        if last {
            return Ok(());
        }
    }
}
