//! Whether another program has edited the data before the version that a checkpoint is of.
//!
//! A checkpoint says which files there are, and not who put them there. So every commit of ours says in a `txn`, which
//! checkpoints keep, whoever writes them, up to which version all edits are answered: up to its own, unless one is still
//! to be. With that,
//!
//! ```text
//!   an entry beyond, up to the checkpoint, is an edit                ⇒  there is an edit to be answered
//!   such entries are cleaned up or damaged, and there are other
//!   files now                                                        ⇒  there is taken to be one
//! ```
//!
//! Where somebody has accepted edits that are not answered, the same is known of these.
//!
//! What entries do that say they change no data, and are there, is found out when it is asked for ([`crate::rewrite`]).
//!
//! The second may be mistaken: another program may have merged files, whose entry told so. A view is then read where it
//! need not be.

use crate::error::Error;
use crate::log::state::is_foreign;
use crate::replay::{Log, next_ahead};
use crate::rewrite::{Rewrite, is_of_known_files};
use crate::storage::{OnRetry, Storage};

impl Storage {
    /// Finds out whether a log that was just read from a checkpoint has an edit that is not answered.
    pub(crate) async fn review(&self, log: &mut Log, on_retry: OnRetry<'_>) -> Result<(), Error> {
        log.state.forget_what_was_seen();
        let Some(reviewed) = log.state.unreviewed() else {
            return Ok(());
        };
        let accepted = log.state.accepted();
        let last = log.state.progress().version;
        let (mut version, mut ahead) = (reviewed, 1);
        while version < last {
            let ahead_now = ahead.min(last - version);
            let (entries, mut end) = self.read_beyond(version, ahead_now, on_retry).await?;
            for (found, bytes) in entries {
                let commit = match self.parse(found, bytes).await {
                    // Nobody needs it who can read the checkpoint.
                    Err(Error::Corrupt { .. }) => {
                        end = true;
                        break;
                    }
                    parsed => parsed?,
                };
                if is_foreign(&commit) && !is_of_known_files(&commit) {
                    log.state.set_edited(found);
                    if Some(found) > accepted {
                        log.state.set_unaccepted(found);
                    }
                } else if let Some(rewrite) =
                    Rewrite::of_entry(found, log.state.progress().upper, &commit)
                {
                    log.state.add_rewrite(rewrite);
                }
                version = found;
            }
            if end {
                if !log.state.has_reviewed_files() {
                    log.state.set_edited(version + 1);
                    // What comes up to there is not in question.
                    if Some(version) > accepted || !log.state.has_accepted_files() {
                        log.state
                            .set_unaccepted(Some(version).max(accepted).map_or(0, |it| it + 1));
                    }
                }
                return Ok(());
            }
            ahead = next_ahead(ahead);
        }
        Ok(())
    }
}
