//! `inspect`: what the log of a shard says, without a look at its data.

use std::io::Write;
use std::process::ExitCode;

use mvsink::mvsink_persist::Shard;
use serde::Serialize;
use serde_json::Value;

use crate::args::Inspect;
use crate::error::Error;
use crate::read::{sum, with_shard};

/// What `--json` prints. Scripts depend on the names; the empty frontier is null.
#[derive(Debug, Serialize)]
struct Description {
    url: String,
    upper: Option<i64>,
    since: Option<i64>,
    holds: Vec<Value>,
    version: u64,
    files: usize,
    rows: u64,
    bytes: u64,
}

impl Description {
    fn of(shard: &Shard) -> Self {
        let pinned = shard.pin();
        Description {
            url: shard.url().to_owned(),
            upper: pinned.progress.upper.time(),
            since: pinned.progress.since.time(),
            holds: shard.holds().iter().map(crate::hold::object).collect(),
            version: pinned.progress.version,
            files: pinned.files().len(),
            rows: sum(pinned.files().filter_map(|file| file.rows)),
            bytes: sum(pinned.files().map(|file| file.size)),
        }
    }
}

/// Describes a shard.
///
/// # Errors
///
/// If there is no such shard.
pub fn run(options: &Inspect) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let shard = reader.shard();
        let description = Description::of(shard);
        let text = if options.json {
            serde_json::to_string(&description).map_err(|error| Error::Output(error.into()))? + "\n"
        } else {
            as_text(&description, shard)
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::Output)
    })
}

fn as_text(description: &Description, shard: &Shard) -> String {
    let frontier = |time: Option<i64>| time.map_or("(empty)".to_owned(), |time| time.to_string());
    let columns = shard.schema();
    let columns = columns
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), field.data_type()));
    let mut lines = vec![
        format!("shard    {}", description.url),
        format!("upper    {}", frontier(description.upper)),
        format!("since    {}", frontier(description.since)),
        format!("version  {}", description.version),
        format!("files    {}", description.files),
        format!("rows     {}", description.rows),
        format!("bytes    {}", description.bytes),
        format!("columns  {}", columns.collect::<Vec<_>>().join(", ")),
    ];
    let holds = shard.holds();
    lines.extend(
        holds
            .iter()
            .map(|hold| format!("hold     {}", crate::hold::line(hold))),
    );
    let properties = shard.properties();
    lines.extend(
        properties
            .iter()
            .map(|(name, value)| format!("property {name} = {value}")),
    );
    lines.join("\n") + "\n"
}
