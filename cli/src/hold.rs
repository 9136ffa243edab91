//! `hold`: keeping old times of a shard readable.

use std::process::ExitCode;
use std::time::Duration;

use mvsink::mvsink_persist::{Frontier, HoldInfo};
use serde_json::{Value, json};

use crate::args::{Hold, HoldList, HoldRelease, HoldTake};
use crate::error::Error;
use crate::read::{with_shard, with_shard_within};
use crate::upkeep::print;

/// How long a commit that is under way may take to end after a signal.
const FINISH: Duration = Duration::from_secs(2);

/// Lists, takes or releases a hold.
///
/// # Errors
///
/// If there is no such shard, the name is in use, unknown or not one, or the time cannot be read any more or not yet.
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
    with_shard_within(&options.url, FINISH, async |reader, _| {
        let shard = reader.shard();
        let progress = shard.progress();
        let frontier = options.at.map_or(progress.since, Frontier::At);
        if frontier > progress.upper {
            return Err(Error::HoldBeyond {
                url: shard.url().to_owned(),
                frontier,
                upper: progress.upper,
            });
        }
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
    with_shard_within(&options.url, FINISH, async |reader, _| {
        let shard = reader.shard();
        let name = &options.name;
        if !shard.release_hold(name).await.map_err(Error::from)? {
            return Err(Error::NoHold {
                url: shard.url().to_owned(),
                name: name.clone(),
                held: shard.holds().into_iter().map(|hold| hold.name).collect(),
            });
        }
        let object = json!({"name": name, "released": true});
        print(options.json, &object, || format!("released {name}\n"))
    })
}
