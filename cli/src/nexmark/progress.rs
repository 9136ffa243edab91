//! Shows how a run is getting on: bars on a terminal, a line every now and then otherwise. All on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::control::{Control, SOURCES};
use super::generator::Generator;
use super::views::VIEWS;
use crate::stderr::say;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The display of one run.
#[derive(Debug)]
pub struct Progress {
    generator: Generator,
    events: u64,
    /// The events that were there when the run began.
    before: u64,
    start: Instant,
    display: Display,
}

#[derive(Debug)]
enum Display {
    Bars {
        all: MultiProgress,
        events: ProgressBar,
        views: Vec<ProgressBar>,
    },
    Lines {
        last: Instant,
    },
}

impl Progress {
    /// The display of a run that is to have `events` events, and has `before` now.
    pub fn new(generator: Generator, events: u64, before: u64) -> Self {
        let start = Instant::now();
        let display = if std::io::stderr().is_terminal() {
            bars(events)
        } else {
            Display::Lines { last: start }
        };
        Progress {
            generator,
            events,
            before,
            start,
            display,
        }
    }

    /// Shows how far the run is now.
    pub fn show(&mut self, control: &Control) {
        let base = self.generator.base_time();
        let sources = control.sources_upper().max(base);
        let lag = |view: usize| {
            sources
                .saturating_sub(control.upper(SOURCES.len() + view).max(base))
                .max(0)
        };
        match &mut self.display {
            Display::Bars { events, views, .. } => {
                events.set_position(self.generator.first_at(sources).min(self.events));
                let made = events.position().saturating_sub(self.before);
                let rate = made as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
                events.set_message(format!("{rate:.0} events/s"));
                for (view, bar) in views.iter().enumerate() {
                    bar.set_message(behind(lag(view)));
                }
            }
            Display::Lines { last } => {
                if last.elapsed() < LINE_INTERVAL {
                    return;
                }
                *last = Instant::now();
                let done = self.generator.first_at(sources).min(self.events);
                let made = done.saturating_sub(self.before);
                let rate = made as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
                let slowest = (0..VIEWS.len()).max_by_key(|view| lag(*view)).unwrap_or(0);
                say(format_args!(
                    "{done} of {} events, {rate:.0} events/s; {} is {}",
                    self.events,
                    VIEWS[slowest],
                    behind(lag(slowest)),
                ));
            }
        }
    }

    /// Says something beside the bars.
    pub fn note(&self, text: &str) {
        match &self.display {
            Display::Bars { events, .. } => events.println(format!("mvsink: {text}")),
            Display::Lines { .. } => say(text),
        }
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        if let Display::Bars { all, .. } = &self.display {
            // A terminal that is gone shows nothing anyway.
            let _ = all.clear();
        }
    }
}

fn bars(events: u64) -> Display {
    let all = MultiProgress::new();
    let bar = all.add(ProgressBar::new(events));
    bar.set_style(style(
        "{elapsed_precise} [{bar:40}] {human_pos} of {human_len} {msg}",
    ));
    let views = VIEWS.map(|view| {
        let line = all.add(ProgressBar::no_length());
        line.set_style(style("   {prefix} {msg}"));
        line.set_prefix(view);
        line
    });
    Display::Bars {
        all,
        events: bar,
        views: views.into(),
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are right; should one not be, the default style shows the same numbers.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn behind(lag_ms: i64) -> String {
    if lag_ms == 0 {
        "up to date".to_owned()
    } else {
        format!("{:.1} s of events behind", lag_ms as f64 / 1e3)
    }
}
