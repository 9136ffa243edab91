//! Reading data files piece by piece, and only what is asked for.
//!
//! [`file`] reads one file a row group at a time, [`window`] is the part of it that is in memory, and [`filter`]
//! says which groups and rows count. [`options`] is what users say.

pub(crate) mod file;
pub(crate) mod filter;
pub(crate) mod options;
mod window;
