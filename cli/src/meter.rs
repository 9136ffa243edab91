//! The progress of one long piece of work, on stderr: a bar on a terminal, a line every now and then otherwise.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::stderr::say;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows how much is done.
#[derive(Debug)]
pub struct Meter {
    verb: &'static str,
    unit: &'static str,
    display: Display,
}

#[derive(Debug)]
enum Display {
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
}

impl Meter {
    /// Nothing is done yet: `verb` 3 of 5 `unit`.
    pub fn new(verb: &'static str, unit: &'static str) -> Self {
        let display = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
            let bar = ProgressBar::new(0);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(verb);
            Display::Bar(bar)
        } else {
            Display::Lines(Mutex::new(Instant::now()))
        };
        Meter {
            verb,
            unit,
            display,
        }
    }

    /// So much is done. Of how much may be what others have said, and too little.
    pub fn show(&self, done: u64, of: u64) {
        let of = of.max(done);
        match &self.display {
            Display::Bar(bar) => {
                bar.set_length(of);
                bar.set_position(done);
            }
            Display::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    say(format_args!("{} {done} of {of} {}", self.verb, self.unit));
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}
