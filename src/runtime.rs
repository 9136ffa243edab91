//! Whether the runtime that a host gave runs tasks at all, which is found out before anything waits for one.
//!
//! ```text
//!   has shut down, has no clock ──▶ seen as a sink or source is rendered: it fails at once
//!   shuts down later            ──▶ its tasks are dropped where they wait: it fails then
//!   nobody drives it            ──▶ seen by a thread: it is stalled, and fails if that lasts
//! ```
//!
//! A current-thread runtime runs tasks only while a thread blocks on it. That may begin late, so a sink waits for it a
//! while. A client with [`inline_compute`](mvsink_persist::ClientOptions::inline_compute) is not watched: its host
//! drives the runtime step by step.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

/// Why a runtime does not run the tasks of sinks and sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuntimeFault {
    /// It has shut down.
    ShutDown,
    /// It was built without a clock.
    NoClock,
    /// It is a current-thread runtime, and no thread blocks on it.
    Undriven,
}

impl fmt::Display for RuntimeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuntimeFault::ShutDown => "it has shut down: keep it until they have ended",
            RuntimeFault::NoClock => "it has no clock: build it with `enable_time` or `enable_all`",
            RuntimeFault::Undriven => {
                "it is a current-thread runtime, and no thread blocks on it: take a multi-thread runtime, or keep \
                 a thread in `block_on`"
            }
        })
    }
}

/// True if the runtime was built without a clock.
pub(crate) fn lacks_clock(handle: &Handle) -> bool {
    let _runtime = handle.enter();
    // There is no other way to ask.
    catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_err()
}

/// True if the runtime has shut down: a task that is spawned on it is cancelled at once.
pub(crate) fn has_shut_down(handle: &Handle) -> bool {
    let spawned = catch_unwind(AssertUnwindSafe(|| handle.spawn(async {})));
    let Ok(mut probe) = spawned else { return true };
    let polled = Pin::new(&mut probe).poll(&mut Context::from_waker(Waker::noop()));
    matches!(polled, Poll::Ready(Err(_)))
}

/// How long a runtime has run no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Longer than a sink waits for an answer without a word.
    Long,
    /// So long that nobody drives it.
    Lasting,
    /// It has run one, or has shut down.
    Over,
}

/// Has a thread watch until the runtime runs a task, and tells of its silence after `patience`, and once more after
/// `limit`.
pub(crate) fn watch(
    handle: &Handle,
    patience: Duration,
    limit: Duration,
    mut tell: impl FnMut(Silence) + Send + 'static,
) {
    let (probe, answered) = channel::<()>();
    drop(handle.spawn(async move { drop(probe) }));
    let watch = move || {
        let waits = [
            (patience, Silence::Long),
            (limit.saturating_sub(patience), Silence::Lasting),
        ];
        for (wait, silence) in waits {
            if answered.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return tell(Silence::Over);
            }
            tell(silence);
        }
    };
    let thread = std::thread::Builder::new().name("mvsink-runtime".to_owned());
    if let Err(error) = thread.spawn(watch) {
        tracing::warn!(%error, "nobody watches whether a current-thread runtime is driven");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything takes on a machine that is busy with other things.
    const LONG: Duration = Duration::from_secs(1000);

    fn current_thread() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    }

    #[test]
    fn a_runtime_that_is_driven_late_is_silent_until_then() {
        let runtime = current_thread();
        let (said, told) = channel();
        watch(runtime.handle(), Duration::ZERO, LONG, move |silence| {
            said.send(silence).unwrap();
        });
        assert_eq!(told.recv(), Ok(Silence::Long));
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(told.recv(), Ok(Silence::Over));
        assert!(told.recv().is_err(), "there is no more to tell");
    }

    #[test]
    fn a_runtime_that_nobody_drives_is_silent_to_the_end() {
        let runtime = current_thread();
        let (said, told) = channel();
        let patience = Duration::from_millis(1);
        watch(runtime.handle(), patience, 3 * patience, move |silence| {
            said.send(silence).unwrap();
        });
        let told: Vec<_> = told.iter().collect();
        assert_eq!(told, [Silence::Long, Silence::Lasting]);
    }

    #[test]
    fn what_a_runtime_lacks_is_seen() {
        let runtime = current_thread();
        let handle = runtime.handle().clone();
        assert!(!has_shut_down(&handle) && !lacks_clock(&handle));
        drop(runtime);
        assert!(has_shut_down(&handle));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        assert!(!has_shut_down(&handle) && !lacks_clock(&handle));
        drop(runtime);
        assert!(has_shut_down(&handle));
        let clockless = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        assert!(!has_shut_down(clockless.handle()) && lacks_clock(clockless.handle()));
    }
}
