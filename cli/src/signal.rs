//! The signals that end a command: interrupt and terminate.
//!
//! ```text
//!   first signal   ─> the command ends what it waits for, and finishes what it has promised to
//!   second signal  ─> the process ends at once
//!   first + grace  ─> the process ends, whatever the command does
//! ```
//!
//! A thread of its own receives them, so that nothing that blocks keeps a signal from its effect: a store that does not
//! answer, a pipe that nobody reads, a log that is not taken.

use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;

/// How long a command that has nothing to finish may take to end after the first signal.
pub const GRACE: Duration = Duration::from_secs(1);

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// From the keyboard.
    Interrupt,
    /// From another program.
    Terminate,
}

impl Signal {
    /// The exit status of a command that a signal has ended, as shells have it.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self.status())
    }

    fn status(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
        }
    }
}

/// Receives signals, instead of what they would do by default.
///
/// The process goes on receiving them after this is dropped: then the first one ends it.
#[derive(Debug)]
pub struct Signals {
    first: watch::Receiver<Option<Signal>>,
    grace: watch::Sender<Duration>,
}

impl Signals {
    /// Receives signals from now on. A command that has not ended this long after the first one is ended.
    ///
    /// # Errors
    ///
    /// If the system does not let us.
    pub fn within(grace: Duration) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let (tell, first) = watch::channel(None);
        let (grace, allowed) = watch::channel(grace);
        let received = {
            let _entered = runtime.enter();
            Received::new()?
        };
        std::thread::Builder::new()
            .name("mvsink-signals".to_owned())
            .spawn(move || runtime.block_on(end_the_process(received, &tell, allowed)))
            .map_err(Error::Runtime)?;
        tracing::debug!("receives signals");
        Ok(Signals { first, grace })
    }

    /// From now on, a command that has not ended this long after the first signal is ended.
    pub fn allow(&self, grace: Duration) {
        self.grace.send_replace(grace);
    }

    /// The first signal, if it has come.
    pub fn first(&self) -> Option<Signal> {
        *self.first.borrow()
    }

    /// Waits for the first signal.
    pub async fn wait(&self) -> Signal {
        let mut first = self.first.clone();
        match first.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(signal)) => *signal,
            // Nobody receives signals any more: that thread lives as long as the process.
            _ => std::future::pending().await,
        }
    }

    /// What `work` comes to, unless a signal comes first: then it is dropped where it waits.
    ///
    /// # Errors
    ///
    /// The signal.
    pub async fn unless<F: Future>(&self, work: F) -> Result<F::Output, Signal> {
        tokio::select! {
            biased;
            signal = self.wait() => Err(signal),
            output = work => Ok(output),
        }
    }
}

/// Tells of the first signal, and ends the process at the second, or when time is up.
async fn end_the_process(
    mut received: Received,
    first: &watch::Sender<Option<Signal>>,
    mut grace: watch::Receiver<Duration>,
) {
    let signal = received.next().await;
    let begun = Instant::now();
    first.send_replace(Some(signal));
    loop {
        let end = begun + *grace.borrow_and_update();
        tokio::select! {
            _ = received.next() => break,
            () = tokio::time::sleep_until(end) => break,
            Ok(()) = grace.changed() => {}
        }
    }
    std::process::exit(i32::from(signal.status()));
}

/// Where the system's signals arrive.
struct Received {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Received {
    /// To be called within a runtime.
    fn new() -> Result<Self, Error> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Received {
                interrupt: signal(SignalKind::interrupt()).map_err(Error::Runtime)?,
                terminate: signal(SignalKind::terminate()).map_err(Error::Runtime)?,
            })
        }
        #[cfg(not(unix))]
        Ok(Received {})
    }

    /// The next signal. Dropping the future loses none.
    async fn next(&mut self) -> Signal {
        #[cfg(unix)]
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.terminate.recv() => Signal::Terminate,
            else => std::future::pending().await,
        }
        #[cfg(not(unix))]
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::Interrupt,
            Err(_) => std::future::pending().await,
        }
    }
}
