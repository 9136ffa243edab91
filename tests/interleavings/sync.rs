//! Shuttle's own, by the names of `src/sync.rs`.

pub use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub use shuttle::sync::mpsc::{Receiver, TryRecvError};
pub use shuttle::sync::{Arc, Mutex};
pub use shuttle_tokio::sync::{Notify, mpsc, watch};
pub use shuttle_tokio::time::sleep;
pub use std::sync::PoisonError;

/// The standard library's, by the interface of crossbeam's.
pub struct Sender<M>(shuttle::sync::mpsc::Sender<M>);

pub struct SendError<M>(M);

impl<M> SendError<M> {
    pub fn into_inner(self) -> M {
        self.0
    }
}

impl<M> Sender<M> {
    pub fn send(&self, message: M) -> Result<(), SendError<M>> {
        self.0.send(message).map_err(|error| SendError(error.0))
    }
}

pub fn unbounded<M>() -> (Sender<M>, Receiver<M>) {
    let (sender, receiver) = shuttle::sync::mpsc::channel();
    (Sender(sender), receiver)
}
