//! `inspect`: what the log of a shard says, without a look at its data.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use arrow_schema::Schema;
use mvsink::mvsink_persist::schema::to_delta;
use mvsink::mvsink_persist::{Client, Error as ShardError, Shard};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::error::Error;
use crate::read::{sum, tables_below, with_client};
use crate::signal::GRACE;

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
    columns: Vec<Value>,
    properties: BTreeMap<String, String>,
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
            columns: columns(&shard.schema()),
            properties: shard.properties().into_iter().collect(),
        }
    }
}

/// The columns by name and type, in the words of Delta.
fn columns(schema: &Schema) -> Vec<Value> {
    let delta = to_delta(schema).unwrap_or_default();
    let mut delta: Value = serde_json::from_str(&delta).unwrap_or_default();
    let fields = delta["fields"].as_array_mut().map(std::mem::take);
    let column =
        |mut field: Value| json!({"name": field["name"].take(), "type": field["type"].take()});
    fields.unwrap_or_default().into_iter().map(column).collect()
}

/// Describes a shard, or lists those in a directory.
///
/// # Errors
///
/// If there is no shard.
pub fn run(options: &Inspect) -> Result<ExitCode, Error> {
    with_client(GRACE, async |client, signals| {
        let described = signals.unless(describe(&client, options)).await;
        let text = match described {
            Ok(text) => text?,
            Err(_signal) => return Ok(()),
        };
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::Output)
    })
}

async fn describe(client: &Client, options: &Inspect) -> Result<String, Error> {
    let one = match client.open_existing(&options.url).await {
        Ok(shard) => shard,
        Err(none @ ShardError::NoShard { .. }) => {
            let tables = tables_below(client, &options.url).await?;
            return match tables.is_empty() {
                true => Err(Error::from(none)),
                false => list(client, options, tables).await,
            };
        }
        Err(error) => return Err(Error::from(error)),
    };
    let description = Description::of(&one);
    match options.json {
        true => line(&description),
        false => Ok(as_text(&description, &one)),
    }
}

/// A line for each table. One that cannot be opened says why.
async fn list(client: &Client, options: &Inspect, tables: Vec<String>) -> Result<String, Error> {
    let mut listed = Vec::new();
    let mut text = String::new();
    for url in tables {
        match client.open_existing(&url).await {
            Ok(shard) => {
                let table = Description::of(&shard);
                let upper = table
                    .upper
                    .map_or("(empty)".to_owned(), |upper| upper.to_string());
                let (files, rows, bytes) = (table.files, table.rows, table.bytes);
                text +=
                    &format!("{url}  upper {upper}, {files} files, {rows} rows, {bytes} bytes\n");
                listed.push(serde_json::to_value(&table).map_err(unwritten)?);
            }
            Err(error) => {
                let error = Error::from(error).line();
                text += &format!("{url}  {error}\n");
                listed.push(json!({"url": url, "error": error}));
            }
        }
    }
    match options.json {
        true => line(&json!({"url": options.url, "tables": listed})),
        false => Ok(text),
    }
}

fn line(value: &impl Serialize) -> Result<String, Error> {
    Ok(serde_json::to_string(value).map_err(unwritten)? + "\n")
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::Output(error.into())
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
