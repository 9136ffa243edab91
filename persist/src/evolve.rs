//! Adding columns to a shard that exists.
//!
//! ```text
//!   table:  a b mv_error mv_time mv_diff        type: a b c d
//!   after:  a b mv_error mv_time mv_diff c d
//! ```
//!
//! Rows from before have nulls there, so only a column that may be null in the type can be added. Nulls at
//! the end do not count in a fingerprint, so rows keep theirs, and writers of the old type go on beside those of
//! the new one: what they write lacks the columns, which is null.
//!
//! Invariant *prefix*: the columns of data of every type that writes are the table's first ones, in its order.

use arrow_schema::{FieldRef, Schema};

use crate::client::Open;
use crate::commit::{Outcome, Plan, our_info};
use crate::error::Error;
use crate::log::action::{Commit, CommitInfo, Metadata};
use crate::log::state::State;
use crate::schema::{append_columns, check_fields, check_order, from_delta};
use crate::shard::Shard;
use crate::storage::OnRetry;

/// What a user can do about a type whose columns are not the table's.
const WAY_OUT: &str = "a type may get options at its end; its other fields must stay as they are, or the rows go to a new table";

/// The difference, and what to do about it.
pub(crate) fn mismatch(url: &str, why: &str) -> Error {
    Error::SchemaMismatch {
        url: url.to_owned(),
        why: format!("{why} ({WAY_OUT})"),
    }
}

impl Shard {
    /// True if `open` asks for columns that the table lacks, and that can be added to it.
    pub fn lacks_columns(&self, open: &Open) -> bool {
        let Some(columns) = &open.adding else {
            return false;
        };
        let lacking = |state: &State| matches!(wanted(state, columns, open), Ok(Some(_)));
        self.inner().with_state(lacking)
    }

    /// Commits the columns that the table lacks, if `open` asks for it.
    ///
    /// # Errors
    ///
    /// [`Error::SchemaMismatch`] if the columns cannot come to fit, and permanent errors of the store and the log.
    pub(crate) async fn add_columns(
        &self,
        open: &Open,
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        let Some(columns) = &open.adding else {
            return Ok(());
        };
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        let plan = |state: &State| match wanted(state, columns, open) {
            Ok(None) => Plan::Done(Ok(())),
            Ok(Some(metadata)) => {
                let upper = state.progress().upper;
                Plan::Put(Box::new(Commit {
                    info: Some(CommitInfo {
                        operation: "ADD COLUMNS".into(),
                        ..our_info(storage, id, upper, upper)
                    }),
                    metadata: Some(metadata),
                    ..Commit::default()
                }))
            }
            Err(why) => Plan::Done(Err(mismatch(self.url(), &why))),
        };
        match self.commit(id, plan, on_retry).await? {
            Outcome::Committed(version) => {
                tracing::info!(shard = self.url(), version, "added columns");
                Ok(())
            }
            Outcome::Done(done) => done,
        }
    }
}

/// [`extended`], by the type's columns of today or those of an earlier version.
fn wanted(state: &State, columns: &[FieldRef], open: &Open) -> Result<Option<Metadata>, String> {
    extended(state, columns).or_else(|why| match &open.former {
        Some(former) => extended(state, &former.columns).map_err(|_| why),
        None => Err(why),
    })
}

/// The table's metadata with the columns that it lacks; `None` if it has all.
fn extended(state: &State, columns: &[FieldRef]) -> Result<Option<Metadata>, String> {
    let schema = state.schema();
    let is_missing = |column: &&FieldRef| schema.field_with_name(column.name()).is_err();
    let missing: Vec<_> = columns.iter().filter(is_missing).cloned().collect();
    if missing.is_empty() {
        return Ok(None);
    }
    if let Some(column) = missing.iter().find(|column| !column.is_nullable()) {
        return Err(format!(
            "the table has no column {name}, and it cannot be added: rows that are there would be null in it, which the type's {name} cannot be",
            name = column.name()
        ));
    }
    let metadata = Metadata {
        schema_string: append_columns(&state.metadata().schema_string, &missing)?,
        ..state.metadata().clone()
    };
    // Checked before it is written: what is refused here would be refused to everybody.
    let after = from_delta(&metadata.schema_string)?;
    let wanted = Schema::new(columns.to_vec());
    check_fields(after.fields(), wanted.fields(), "")?;
    check_order(&after, &wanted)?;
    Ok(Some(metadata))
}
