//! Limits that the system sets to a process, as far as they end a command.
//!
//! A runtime panics if the system gives it no thread, or opens no more files for it, on whichever thread asks; what waits
//! for that thread may wait for ever. That is no bug: it ends the process, and is told as other errors are.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::stderr::say;

/// The exit status after a panic, as Rust has it.
pub const PANICKED: u8 = 101;

/// The panic of a Timely worker whose peer could not be started. Whoever starts the workers reports that.
const OTHER_WORKER_GONE: &str = "Failed to send buzzer";

/// Has every panic of the process reported on one line, and ends the process if it is for lack of threads.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let words = |why: &str| in_words(why).to_owned();
        let threads = no_thread(message).map(|why| Error::Threads(words(why)));
        let signals = || no_signals(message).map(|why| Error::Signals(words(why)));
        if let Some(error) = threads.or_else(signals) {
            claim_the_end();
            say(error.line());
            std::process::exit(i32::from(error.exit_code()));
        }
        if message.starts_with(OTHER_WORKER_GONE) {
            return;
        }
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name").to_owned();
        let place = panic.location();
        let place = place.map_or(String::new(), |at| format!(" at {at}"));
        say(format_args!(
            "a bug: the thread {thread} panicked{place}: {message}"
        ));
    }));
}

/// Returns on one thread only, which ends the process; a limit is often met by several. Allocates nothing.
pub(crate) fn claim_the_end() {
    static CLAIMED: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static MINE: Cell<bool> = const { Cell::new(false) };
    }
    if CLAIMED.swap(true, Ordering::Relaxed) && !MINE.get() {
        loop {
            std::thread::park();
        }
    }
    MINE.set(true);
}

/// What the system said, if this is the message of a runtime that could not start a thread.
fn no_thread(message: &str) -> Option<&str> {
    const SAYS: [&str; 2] = ["OS can't spawn worker thread: ", "failed to spawn thread: "];
    SAYS.into_iter()
        .find_map(|says| Some(message.split_once(says)?.1))
}

/// What the system said, if a runtime panicked with this message because it could not open a socket for signals.
fn no_signals(message: &str) -> Option<&str> {
    Some(message.split_once("failed to create UnixStream: ")?.1)
}

/// The system's own words in the debug form of an error of its: `Os { code: 11, kind: …, message: "…" }`.
pub(crate) fn in_words(error: &str) -> &str {
    let quoted = error.split_once("message: \"").map(|(_, rest)| rest);
    quoted.map_or(error, |rest| rest.split('"').next().unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_found_in_other_peoples_messages() {
        let error =
            "Os { code: 11, kind: WouldBlock, message: \"Resource temporarily unavailable\" }";
        assert_eq!(in_words(error), "Resource temporarily unavailable");
        assert_eq!(in_words("no such thing"), "no such thing");
        let panic = "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)";
        assert_eq!(
            no_thread(panic),
            Some("Resource temporarily unavailable (os error 11)")
        );
        let panic = format!("failed to spawn thread: {error}");
        let words = no_thread(&panic).map(in_words);
        assert_eq!(words, Some("Resource temporarily unavailable"));
        assert_eq!(no_thread("index out of bounds"), None);
    }
}
