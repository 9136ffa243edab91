//! What a run has written: one line a shard, and the commands to look at it.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use mvsink::mvsink_persist::{Client, Frontier, Shard, for_shell};

use crate::error::Error;
use crate::read::{Reader, sum};

/// What a run has made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Events, without those that were there before.
    pub events: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What is in a shard.
#[derive(Clone, Debug)]
pub struct Surveyed {
    url: String,
    /// `None` if they cannot be read.
    rows: Option<i128>,
    updates: u64,
    commits: u64,
    bytes: u64,
    upper: Frontier<i64>,
}

/// Looks at shards as they are now, and says why the rows of the first that cannot be read could not.
pub async fn survey(client: &Client, shards: &[Shard]) -> (Vec<Surveyed>, Option<Error>) {
    let (mut surveyed, mut failed) = (Vec::with_capacity(shards.len()), None);
    for shard in shards {
        let pinned = shard.pin();
        let reader = Reader::new(client.clone(), shard.clone());
        let rows = reader.sum_of_diffs(&pinned).await;
        surveyed.push(Surveyed {
            url: shard.url().to_owned(),
            rows: rows.map_err(|error| failed.get_or_insert(error)).ok(),
            updates: sum(pinned.files().filter_map(|file| file.rows)),
            commits: pinned.progress.version,
            bytes: sum(pinned.files().map(|file| file.size)),
            upper: pinned.progress.upper,
        });
    }
    (surveyed, failed)
}

/// The report as text: of a run that has failed, with the error in one line.
pub fn render(shards: &[Surveyed], made: Option<Made>, failed: Option<&str>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["shard", "rows", "updates", "commits", "bytes", "upper"]);
    for shard in shards {
        let upper = shard
            .upper
            .time()
            .map_or("(empty)".to_owned(), |upper| upper.to_string());
        table.add_row([
            shard.url.clone(),
            shard
                .rows
                .map_or("(unreadable)".to_owned(), |rows| rows.to_string()),
            shard.updates.to_string(),
            shard.commits.to_string(),
            shard.bytes.to_string(),
            upper,
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n");
    if made.is_none() && failed.is_none() {
        text.push_str("\nnothing to do: all events are there already, and so are the views\n");
    }
    if let Some(Made { events, elapsed }) = made {
        let seconds = elapsed.as_secs_f64().max(1e-3);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n{events} events in {seconds:.1} s, {:.0} events/s",
            events as f64 / seconds
        );
    }
    if let Some(failed) = failed {
        let _ = writeln!(text, "\nfailed: {failed}");
    }
    // What was in memory is gone with the process.
    let kept = |shard: &&Surveyed| shard.url.ends_with("q4") && !shard.url.starts_with("memory:");
    if let Some(example) = shards.iter().find(kept) {
        let url = for_shell(&example.url);
        let _ = write!(
            text,
            "\nTo look at a shard:\n  mvsink inspect {url}\n  mvsink snapshot {url}\n  mvsink tail {url}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(url: &str) -> String {
        let shard = Surveyed {
            url: url.to_owned(),
            rows: Some(1),
            updates: 1,
            commits: 1,
            bytes: 1,
            upper: Frontier::At(1),
        };
        let text = render(&[shard], None, None);
        let hints = text.split_once("To look at a shard:");
        hints.map_or(String::new(), |(_, hints)| hints.to_owned())
    }

    #[test]
    fn hints_can_be_pasted_into_a_shell() {
        assert!(hints("data/q4").contains("mvsink tail data/q4\n"));
        assert!(hints("my data/q4").contains("mvsink tail 'my data/q4'\n"));
        let quoted = hints("it's $HOME/q4");
        assert!(
            quoted.contains(r"mvsink tail 'it'\''s $HOME/q4'"),
            "{quoted}"
        );
    }

    #[test]
    fn a_table_that_is_gone_with_the_process_is_no_hint() {
        assert_eq!(hints("memory://demo/q4"), "");
    }
}
