//! Fingerprints of rows, and whether what is written is what they are of.

use arrow_array::RecordBatch;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::form::Form;
use super::layout::{Layout, Shape};
use super::store::Notes;
use super::{Codec, Single, column_error, type_error};
use crate::error::Error;
use crate::fingerprint::{check_options, hash_data};
use crate::row_hash::RowHasher;

impl<D, E> Codec<D, E>
where
    D: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    /// The fingerprint of a row: that of its columns, whichever codec writes them.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] as from [`Codec::encode`].
    #[inline]
    pub fn hash(&self, data: &D) -> Result<u128, Error> {
        self.hash_in(self.hashed.as_ref().unwrap_or(&self.layout), data)
    }

    /// Whether [`Codec::hash`] is [`hash_data`](crate::hash_data) for this type, which needs no codec.
    pub fn hashes_plainly(&self) -> bool {
        self.hashed.as_ref().unwrap_or(&self.layout).form == Form::Plain
    }

    /// The fingerprint of the columns in which this codec stores a row.
    pub(super) fn hash_stored(&self, data: &D) -> Result<u128, Error> {
        self.hash_in(&self.layout, data)
    }

    #[inline]
    fn hash_in(&self, layout: &Layout, data: &D) -> Result<u128, Error> {
        match layout.form == Form::Plain {
            true => hash_data(data),
            false => self.hash_formed(layout, data),
        }
    }

    #[inline(never)]
    fn hash_formed(&self, layout: &Layout, data: &D) -> Result<u128, Error> {
        let notes = Notes::default();
        let hash = match layout.shape {
            Shape::Record => hash_data(&layout.stored_as(data, &notes)),
            Shape::Value => hash_data(&layout.stored_as(&Single { value: data }, &notes)),
        };
        let hash = hash.map_err(|error| match (notes.unfit.take(), error) {
            (Some((path, why)), _) => column_error::<D>(&path, &why),
            (None, Error::Type { why, .. }) => type_error::<D>(why),
            (None, error) => error,
        })?;
        match layout.is_given && notes.reordered.get() {
            true => self.hash_of_columns(data),
            false => Ok(hash),
        }
    }

    /// The fingerprint of a row by its columns: slow, and right for every type.
    #[cold]
    fn hash_of_columns(&self, data: &D) -> Result<u128, Error> {
        let batch = self.encode([(data, 0, 1)].into_iter())?;
        let hashes = RowHasher::new(batch.schema_ref())?.hash(&batch)?;
        hashes
            .first()
            .copied()
            .ok_or_else(|| type_error::<D>("a row makes no columns".into()))
    }

    /// That columns by hand are those that fingerprints of rows are taken to be of. One row shows a difference.
    pub(super) fn check_by_hand(&self, rows: &[&D], batch: &RecordBatch) -> Result<(), Error> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let hashes = RowHasher::new(batch.schema_ref())?.hash(&batch.slice(0, 1))?;
        if hashes.first() == Some(&self.hash_stored(first)?) {
            return Ok(());
        }
        Err(type_error::<D>(
            "its columns by hand are not those that serde makes of it, so its fingerprint is another; `columnar::check` names the column"
                .into(),
        ))
    }

    /// What a row says beyond its columns: how it serialises, or the zones of its timestamps.
    pub(super) fn said(&self, data: &D, notes: &Notes) -> Result<u128, Error> {
        match self.layout.is_lossy {
            true => hash_data(data),
            false => Ok(u128::from(notes.zones.get())),
        }
    }

    /// That the rows at these places are read back as they were.
    pub(super) fn check_read_back(
        &self,
        batch: &RecordBatch,
        said: &[(usize, u128)],
    ) -> Result<(), Error> {
        let (Some((first, _)), Some((last, _))) = (said.first(), said.last()) else {
            return Ok(());
        };
        let updates = self
            .decode(&batch.slice(*first, last - first + 1))
            .map_err(|error| type_error::<D>(format!("a row does not read back: {error}")))?;
        for (place, expected) in said {
            let Some((data, ..)) = updates.ok.get(place - first) else {
                return Err(type_error::<D>(format!(
                    "the row {place} of the batch does not read back"
                )));
            };
            let notes = Notes::default();
            let again = match self.layout.shape {
                Shape::Record => check_options(&self.layout.stored_as(data, &notes)),
                Shape::Value => {
                    check_options(&self.layout.stored_as(&Single { value: data }, &notes))
                }
            };
            if again.is_err() || self.said(data, &notes)? != *expected {
                let back = serde_json::to_string(data).unwrap_or_default();
                return Err(type_error::<D>(format!(
                    "the row {place} of the batch would read back as another value, {back}"
                )));
            }
        }
        Ok(())
    }
}
