//! What data, times and differences a sink takes; and frontiers between Timely, this crate and the shard.

use std::fmt::Debug;
use std::sync::Arc;

use differential_dataflow::difference::Semigroup;
use mvsink_persist::{Codec, Frontier};
use serde::Serialize;
use serde::de::DeserializeOwned;
use timely::order::TotalOrder;
use timely::progress::frontier::MutableAntichain;

use crate::error::Error;
use crate::time::Time;

/// Rows and errors: any serde type that can be compared.
///
/// Equal values must serialize alike, and deserialize to equal values: rows are routed and compared by a
/// hash of what they serialize to.
pub trait Data: Serialize + DeserializeOwned + Ord + Clone + Debug + Send + Sync + 'static {}

impl<D: Serialize + DeserializeOwned + Ord + Clone + Debug + Send + Sync + 'static> Data for D {}

/// A totally ordered timestamp of a dataflow that a shard can store.
pub trait Timestamp: timely::progress::Timestamp + TotalOrder + Time {}

impl<T: timely::progress::Timestamp + TotalOrder + Time> Timestamp for T {}

/// A difference of a dataflow that a shard can store.
pub trait Diff: crate::time::Diff + Semigroup + Serialize + DeserializeOwned {}

impl<R: crate::time::Diff + Semigroup + Serialize + DeserializeOwned> Diff for R {}

/// The frontier of an input of a Timely operator.
pub(crate) fn frontier_of<T: Timestamp>(antichain: &MutableAntichain<T>) -> Frontier<T> {
    Frontier::from(antichain.frontier().iter().next().copied())
}

/// The frontier at which both are.
pub(crate) fn meet<T: Ord>(a: Frontier<T>, b: Frontier<T>) -> Frontier<T> {
    a.min(b)
}

/// A time as the shard stores it.
pub(crate) fn time_to_i64<T: Time>(time: T) -> Result<i64, Error> {
    time.to_i64().ok_or_else(|| Error::Time {
        time: format!("{time:?}"),
    })
}

/// A time that the shard stored. One beyond the type's greatest is that of somebody's edit, or of a program
/// with a wider type.
pub(crate) fn time_from_i64<T: Time>(stored: i64) -> Result<T, Error> {
    T::from_i64(stored).ok_or_else(|| Error::Time {
        time: stored.to_string(),
    })
}

/// A frontier as the shard stores it.
pub(crate) fn frontier_to_i64<T: Time>(frontier: Frontier<T>) -> Result<Frontier<i64>, Error> {
    Ok(match frontier {
        Frontier::At(time) => Frontier::At(time_to_i64(time)?),
        Frontier::Empty => Frontier::Empty,
    })
}

/// A frontier that the shard stored.
pub(crate) fn frontier_from_i64<T: Time>(stored: Frontier<i64>) -> Result<Frontier<T>, Error> {
    Ok(match stored {
        Frontier::At(time) => Frontier::At(time_from_i64(time)?),
        Frontier::Empty => Frontier::Empty,
    })
}

/// Takes the fingerprints of rows, or of errors. Cheap to clone.
///
/// A row that cannot be stored is an error where it is encoded; until then any hash will do.
pub(crate) enum Fingerprinter<D> {
    /// Of rows that are stored as they serialise. The compiler knows the function, and a row costs no more than that.
    Plain,
    /// Of errors, and of rows that a codec stores in another form.
    By(Arc<dyn Fn(&D) -> u128 + Send + Sync>),
}

impl<D> Clone for Fingerprinter<D> {
    fn clone(&self) -> Self {
        match self {
            Fingerprinter::Plain => Fingerprinter::Plain,
            Fingerprinter::By(take) => Fingerprinter::By(Arc::clone(take)),
        }
    }
}

impl<D: Data> Fingerprinter<D> {
    /// Of rows, as the codec stores them.
    pub(crate) fn of_rows<E: Data>(codec: &Codec<D, E>) -> Self {
        if codec.hashes_plainly() {
            return Fingerprinter::Plain;
        }
        let codec = codec.clone();
        Fingerprinter::By(Arc::new(move |data| codec.hash(data).unwrap_or(0)))
    }

    /// Of errors.
    pub(crate) fn of_errors() -> Self {
        Fingerprinter::By(Arc::new(fingerprint_error))
    }

    /// The fingerprint.
    #[inline]
    pub(crate) fn take(&self, data: &D) -> u128 {
        match self {
            Fingerprinter::Plain => fingerprint_data(data),
            Fingerprinter::By(take) => take(data),
        }
    }

    /// Takes 64 bits of fingerprints.
    pub(crate) fn hash(&self) -> Hash64<D> {
        match self.clone() {
            Fingerprinter::Plain => Box::new(|data: &D| high_bits(fingerprint_data(data))),
            Fingerprinter::By(take) => Box::new(move |data: &D| high_bits(take(data))),
        }
    }
}

/// A hash function that can be cloned.
pub(crate) type Hash64<D> = Box<dyn CloneHash<D>>;

/// A hash function behind a pointer.
pub(crate) trait CloneHash<D>: Fn(&D) -> u64 + Send + Sync {
    fn boxed(&self) -> Hash64<D>;
}

impl<D, H: Fn(&D) -> u64 + Clone + Send + Sync + 'static> CloneHash<D> for H {
    fn boxed(&self) -> Hash64<D> {
        Box::new(self.clone())
    }
}

impl<D> Clone for Hash64<D> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

/// The fingerprint of a row that is stored as it serialises.
fn fingerprint_data<D: Serialize>(data: &D) -> u128 {
    mvsink_persist::hash_data(data).unwrap_or(0)
}

/// The fingerprint of an error.
pub(crate) fn fingerprint_error<E: Serialize>(error: &E) -> u128 {
    mvsink_persist::hash_error(error).unwrap_or(0)
}

/// The 64 bits of a fingerprint that hashes are.
pub(crate) fn high_bits(hash: u128) -> u64 {
    (hash >> 64) as u64
}

/// The bucket of a row or error of which these are the 64 bits.
pub(crate) fn bucket(hash: u64) -> u8 {
    mvsink_persist::bucket(u128::from(hash) << 64)
}
