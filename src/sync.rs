//! What crosses from a Timely thread to a task, or back: queues, signals, atomics, under one name each, so that the tests
//! of interleavings can put instrumented ones in their place (`tests/interleavings.rs`).

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
pub(crate) use tokio::sync::{Notify, mpsc, watch};
pub(crate) use tokio::time::sleep;
