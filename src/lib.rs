//! The sink.

pub mod corrections;
pub mod time;
