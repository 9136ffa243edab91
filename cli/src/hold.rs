//! `hold`: keeping old times of a shard readable.

use std::process::ExitCode;

use mvsink::mvsink_persist::{Frontier, HoldInfo};
use serde_json::{Value, json};

use crate::args::{Hold, HoldList, HoldRelease, HoldTake};
use crate::error::Error;
use crate::read::with_shard;
use crate::upkeep::print;

/// Lists, takes or releases a hold.
///
/// # Errors
///
/// If there is no such shard, the name is in use or not one, or the time cannot be read any more.
pub fn run(command: &Hold) -> Result<ExitCode, Error> {
    match command {
        Hold::List(options) => list(options),
        Hold::Take(options) => take(options),
        Hold::Release(options) => release(options),
    }
}

/// A hold as JSON.
pub(crate) fn object(hold: &HoldInfo) -> Value {
    json!({
        "name": hold.name,
        "at": hold.frontier.time(),
        "pin": hold.pin,
        "lease_s": hold.lease.as_secs_f64(),
    })
}

/// A hold in words.
pub(crate) fn line(hold: &HoldInfo) -> String {
    let frontier = match hold.frontier {
        Frontier::At(time) => time.to_string(),
        Frontier::Empty => "(empty)".to_owned(),
    };
    let pin = match hold.pin {
        Some(version) => format!(", and the files of version {version}"),
        None => String::new(),
    };
    let lease = hold.lease.as_secs_f64();
    format!(
        "{} keeps times from {frontier} on{pin}; its lease is {lease} s",
        hold.name
    )
}

fn list(options: &HoldList) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        for hold in reader.shard().holds() {
            print(options.json, &object(&hold), || line(&hold) + "\n")?;
        }
        Ok(())
    })
}

fn take(options: &HoldTake) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let shard = reader.shard();
        let frontier = options.at.map_or(shard.progress().since, Frontier::At);
        let hold = shard
            .hold(&options.name, frontier, options.lease)
            .await
            .map_err(Error::from)?;
        let info = hold.info();
        // It lives on when this process ends: until it lapses, or is released by name.
        hold.leave();
        match info {
            Some(info) => print(options.json, &object(&info), || line(&info) + "\n"),
            None => Ok(()),
        }
    })
}

fn release(options: &HoldRelease) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let shard = reader.shard();
        let released = shard
            .release_hold(&options.name)
            .await
            .map_err(Error::from)?;
        let object = json!({"name": options.name, "released": released});
        print(options.json, &object, || match released {
            true => format!("released {}\n", options.name),
            false => format!("there is no hold {}\n", options.name),
        })
    })
}
