//! The NEXMark demo: an auction site's events, and seven views over them.
//!
//! [`model`] has the rows, [`generator`] makes the events, [`views`] defines the views; none of it knows about
//! shards. [`run`] puts a durable shard between the generator and the views, and one behind each view, with the
//! threads of [`dataflow`] under the oversight of [`control`], and [`holds`] on the sources; [`progress`] and [`report`] say how it goes.

pub mod control;
pub mod dataflow;
pub mod differs;
pub mod generator;
pub mod holds;
pub mod model;
pub mod progress;
pub mod report;
pub mod run;
pub mod views;
