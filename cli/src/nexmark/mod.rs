//! The NEXMark demo: an auction site's events, and seven views over them.
//!
//! [`model`] has the rows, [`generator`] makes the events, [`views`] defines the views. None of it knows
//! about shards: the host puts a durable shard between the generator and the views, and one behind each view.

pub mod generator;
pub mod model;
pub mod views;
