//! Why a command failed, in one line.

use std::error::Error as _;
use std::io;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard output did not take the data.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// The command is understood, but this build has no implementation of it.
    #[error("`{0}` is not available in this build")]
    Unavailable(&'static str),
}

impl Error {
    /// True if the reader of standard output has gone away: it has what it wanted, so that is no failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_told_from_other_failures() {
        assert!(Error::Output(io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
        assert!(!Error::Output(io::ErrorKind::StorageFull.into()).is_closed_pipe());
        assert!(!Error::Unavailable("tail").is_closed_pipe());
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
