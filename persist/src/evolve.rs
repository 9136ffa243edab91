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

impl Shard {
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
        let extended = |state: &State| {
            extended(state, columns).or_else(|why| match &open.former {
                Some(former) => extended(state, &former.columns).map_err(|_| why),
                None => Err(why),
            })
        };
        let plan = |state: &State| match extended(state) {
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
            Err(why) => Plan::Done(Err(Error::SchemaMismatch {
                url: self.url().to_owned(),
                why,
            })),
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
