//! Why a command failed, in one line.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use arrow_schema::ArrowError;
use mvsink::Frontier;
use mvsink::dyncfg::SetError;
use mvsink::mvsink_persist;

use crate::limits::in_words;
use crate::nexmark::generator::ParameterMismatch;

/// Advice for a process that gets no more threads, memory or open files.
const LIMITS: &str = "raise the limits on processes, memory and open files (ulimit -u, -v, -n), or take fewer workers";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard output did not take the data.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// A flag that does not exist, or a value that it does not take.
    #[error(transparent)]
    Setting(#[from] SetError),
    /// The seed is beyond what the generator takes.
    #[error("the seed is too large")]
    Seed,
    /// The system does not give what every command needs: threads, signals.
    #[error("cannot start: {0}; {LIMITS}")]
    Runtime(#[source] io::Error),
    /// The worker threads cannot be started.
    #[error("cannot start the workers: {}; {LIMITS}", in_words(.0))]
    Workers(String),
    /// The system gives no more threads.
    #[error("cannot start a thread: {0}; {LIMITS}")]
    Threads(String),
    /// The system opens no more files, for signals.
    #[error("cannot wait for signals: {0}; {LIMITS}")]
    Signals(String),
    /// A shard cannot be used.
    #[error(transparent)]
    Shard(Box<mvsink_persist::Error>),
    /// An address that has tables below it, and is none.
    #[error("{url} is a directory of tables: name one of them, as {}", tables.join(", "))]
    Below {
        /// The address.
        url: String,
        /// The addresses of the tables.
        tables: Vec<String>,
    },
    /// A source was written with other generator parameters.
    #[error("cannot go on with {url}")]
    Parameters {
        /// The address of the source.
        url: String,
        /// The parameter that differs.
        #[source]
        mismatch: Box<ParameterMismatch>,
    },
    /// A sink or source cannot be rendered.
    #[error(transparent)]
    Render(Box<mvsink::Error>),
    /// A sink or source has stopped for good.
    #[error("{name} failed: {error}")]
    Sink {
        /// The sink or source.
        name: String,
        /// Why.
        error: Arc<mvsink::Error>,
    },
    /// The table of a view is not what the view is, and no event is left with which it would be repaired.
    #[error(
        "{url} differs from the view {view} in {what}{}; a view repairs its table with the next events: run again with more \
         --events, or delete the table and run again",
        also(others)
    )]
    ViewDiffers {
        /// The view.
        view: String,
        /// The address of its table.
        url: String,
        /// What differs.
        what: String,
        /// The other views of which the same is true.
        others: String,
    },
    /// A table takes no more rows.
    #[error(
        "{url} was finished by another program and takes no more rows: delete the table and run again"
    )]
    Finished {
        /// The address of the table.
        url: String,
    },
    /// The table of a view has times that its sources do not have.
    #[error(
        "the table of the view {view} is written up to {upper}, and its events end at {ends}: run again with more --events, \
         or delete {url} and run again"
    )]
    Ahead {
        /// The view.
        view: String,
        /// The address of its table.
        url: String,
        /// Where the table ends.
        upper: Frontier<i64>,
        /// Where the sources will end.
        ends: Frontier<i64>,
    },
    /// A table was edited or lacks files, and no time is left at which its view could be compared with it.
    #[error(
        "the table of the view {view} was edited or lacks files, and cannot be compared: {url} can be read only from {since} \
         on, where its events end; run again with more --events"
    )]
    Uncompared {
        /// The view.
        view: String,
        /// The address of the source.
        url: String,
        /// Its since.
        since: Frontier<i64>,
    },
    /// A column of a data file is not what the table's schema says.
    #[error("cannot read {path}")]
    Column {
        /// The file.
        path: String,
        /// What does not fit.
        #[source]
        source: ArrowError,
    },
    /// A time that is not complete yet.
    #[error("{}", incomplete(url, *as_of, upper))]
    Incomplete {
        /// The address of the shard.
        url: String,
        /// The time asked for, if one was.
        as_of: Option<i64>,
        /// The shard's upper.
        upper: Frontier<i64>,
    },
    /// What is beyond all times never comes.
    #[error("nothing can come from {time} on: it lies beyond every upper, and the last time that a row can have is {}", time - 1)]
    NoTime {
        /// What was asked for.
        time: i64,
    },
    /// A collection that holds errors has no contents.
    #[error("{}; --ignore-errors prints the rows all the same", in_error(url, *as_of, first, *count))]
    InError {
        /// The address of the shard.
        url: String,
        /// The time.
        as_of: i64,
        /// One of the errors, as JSON.
        first: String,
        /// How many different ones there are.
        count: usize,
    },
    /// A file is damaged, or is not what the log says of it.
    #[error(
        "{url} is damaged: {file}: {why}{}; `mvsink repair {url} --dry-run` says what can be done",
        and_more(*count)
    )]
    Differs {
        /// The address of the shard.
        url: String,
        /// The first such file.
        file: String,
        /// How it differs.
        why: String,
        /// How many there are.
        count: usize,
    },
    /// A hold on times that are not there yet.
    #[error("cannot hold {url} from {frontier} on: its upper is {upper}")]
    HoldBeyond {
        /// The address of the shard.
        url: String,
        /// The first time to be held.
        frontier: Frontier<i64>,
        /// The shard's upper.
        upper: Frontier<i64>,
    },
    /// There is no hold of this name to release.
    #[error("{url} has no hold {name}{}", but_has(held))]
    NoHold {
        /// The address of the shard.
        url: String,
        /// The name.
        name: String,
        /// The names of the holds that it has.
        held: Vec<String>,
    },
    /// Damage is left after a repair.
    #[error("{url} is not repaired: {finding}{}; {advice}", and_more(*count))]
    Unrepaired {
        /// The address of the shard.
        url: String,
        /// The first of what is left.
        finding: String,
        /// Advice for that finding.
        advice: String,
        /// How many findings are left.
        count: usize,
    },
    /// Somebody else writes to the shard of a measurement.
    #[error("somebody else writes to {url}")]
    Rival {
        /// The address of the shard.
        url: String,
    },
    /// Measurements have no place for their shards.
    #[error("cannot make a directory in {directory}")]
    Place {
        /// Where it was to be.
        directory: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A measurement's process did not end well.
    #[error("cannot measure {workload}: {why}")]
    Bench {
        /// What was measured.
        workload: String,
        /// What the process said.
        why: String,
    },
    /// A worker thread panicked: a bug.
    #[error("a worker thread panicked")]
    Panicked,
    /// An error that several threads saw.
    #[error(transparent)]
    Stopped(Arc<Error>),
}

impl From<mvsink_persist::Error> for Error {
    fn from(error: mvsink_persist::Error) -> Self {
        Error::Shard(Box::new(error))
    }
}

impl From<mvsink::Error> for Error {
    fn from(error: mvsink::Error) -> Self {
        Error::Render(Box::new(error))
    }
}

impl Error {
    /// True if the reader of standard output has gone away: it has what it wanted, so that is no failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit status: 2 for bad usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Setting(_) | Error::Seed => 2,
            Error::Stopped(error) => error.exit_code(),
            _ => 1,
        }
    }

    /// The error and its causes, on one line.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries repeat their cause in their own message.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn incomplete(url: &str, as_of: Option<i64>, upper: &Frontier<i64>) -> String {
    match as_of {
        Some(as_of) => {
            format!("cannot read {url} at {as_of}: it is not complete there, its upper is {upper}")
        }
        None => format!("there is nothing to read in {url} yet: its upper is {upper}"),
    }
}

fn also(others: &str) -> String {
    match others {
        "" => String::new(),
        others => format!(", and so do the tables of {others}"),
    }
}

fn but_has(held: &[String]) -> String {
    match held {
        [] => String::new(),
        held => format!("; it has {}", held.join(", ")),
    }
}

/// That a collection holds errors.
pub(crate) fn in_error(url: &str, as_of: i64, first: &str, count: usize) -> String {
    format!("{url} is in error at {as_of}: {first}{}", and_more(count))
}

fn and_more(count: usize) -> String {
    if count > 1 {
        format!(" (and {} more)", count - 1)
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_told_from_other_failures() {
        assert!(Error::Output(io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
        assert!(!Error::Output(io::ErrorKind::StorageFull.into()).is_closed_pipe());
        assert!(!Error::Panicked.is_closed_pipe());
    }

    #[test]
    fn an_error_is_one_line_with_its_causes() {
        let error = Error::Output(io::Error::other("the disk\n  is full"));
        assert_eq!(
            error.line(),
            "cannot write to standard output: the disk is full"
        );
    }
}
