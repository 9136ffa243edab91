//! Durable, definite collections of updates as Delta tables.

mod codec;
mod conform;
mod error;
mod file;
pub mod fingerprint;
mod frontier;
pub mod schema;

pub use codec::{Codec, NO_TIME, Updates};
pub use error::Error;
pub use file::{EncodedFile, FileDecoder, FileEncoder, decode_file};
pub use frontier::Frontier;
