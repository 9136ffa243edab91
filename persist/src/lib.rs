//! Durable, definite collections of updates as Delta tables.

mod error;
mod frontier;

pub use error::Error;
pub use frontier::Frontier;
