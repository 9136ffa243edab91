//! `verify`, `repair`: finding damage, and doing about it what can be done without whoever wrote the shard.
//!
//! Both work on a shard that cannot be opened. The result goes to stdout, as text or as one JSON object, whose names
//! scripts depend on; progress goes to stderr.

use std::process::ExitCode;

use mvsink::mvsink_persist::{
    Client, Error as ShardError, Finding, ForeignEdit, Frontier, LostFile, MisstatedFile, Note,
    RepairOptions, RepairReport, RepairStep, VerifyProgress,
};
use serde_json::{Value, json};

use crate::args::{Repair, Verify};
use crate::error::Error;
use crate::meter::Meter;
use crate::read::{Reader, with_client};
use crate::signal::{GRACE, Signals};
use crate::upkeep::print;

/// Reads the whole log and every data file of a shard, and names all damage.
///
/// # Errors
///
/// If there is no such shard, it cannot be read, or there is damage.
pub fn verify(options: &Verify) -> Result<ExitCode, Error> {
    with_client(GRACE, async |client, signals| {
        let work = async |progress: OnProgress<'_>| client.verify(&options.url, progress).await;
        let Some(report) = examined(&client, signals, &options.url, work).await? else {
            return Ok(());
        };
        let findings: Vec<_> = report.findings.iter().map(finding).collect();
        let object = json!({
            "url": options.url,
            "version": report.version,
            "files": report.files,
            "rows": report.rows,
            "bytes": report.bytes,
            "without_fingerprint": report.without_sums,
            "findings": findings,
            "notes": notes(&report.notes),
        });
        print(options.json, &object, || {
            let mut lines = vec![format!(
                "{} files, {} rows, {} bytes",
                report.files, report.rows, report.bytes
            )];
            if report.without_sums > 0 {
                lines.push(format!(
                    "{} files are another program's and have no fingerprint",
                    report.without_sums
                ));
            }
            lines.extend(report.findings.iter().map(Finding::to_string));
            lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
            lines.join("\n") + "\n"
        })?;
        match report.findings.first() {
            None => Ok(()),
            Some(first) => Err(Error::Differs {
                url: options.url.clone(),
                file: first.path.clone(),
                why: first.difference.to_string(),
                count: report.findings.len(),
            }),
        }
    })
}

/// Repairs a shard, and names what is lost and what is left.
///
/// # Errors
///
/// If there is no such shard, it cannot be read or written, or damage is left.
pub fn repair(options: &Repair) -> Result<ExitCode, Error> {
    with_client(GRACE, async |client, signals| {
        let mut repair = RepairOptions::default();
        repair.dry_run = options.dry_run;
        repair.drop_entries = options.drop_entries == Some(None);
        repair.drop_entries_from = options.drop_entries.flatten();
        repair.drop_files = options.drop_files;
        repair.accept_edits = options.accept_edits;
        let url = &options.url;
        // One that is cut off is made again.
        let work = async |progress: OnProgress<'_>| client.repair(url, &repair, progress).await;
        let Some(report) = examined(&client, signals, url, work).await? else {
            return Ok(());
        };
        let left: Vec<_> = report
            .left
            .iter()
            .map(|left| {
                let mut object = finding(&left.finding);
                object["advice"] = left.advice.as_str().into();
                object
            })
            .collect();
        let object = json!({
            "url": options.url,
            "dry_run": options.dry_run,
            "steps": report.steps.iter().map(step_object).collect::<Vec<_>>(),
            "rows_lost": report.rows_lost(),
            "committed": report.committed,
            "accepted": report.accepted,
            "left": left,
            "notes": notes(&report.notes),
        });
        print(options.json, &object, || text(&report, options))?;
        match report.left.first() {
            None => Ok(()),
            Some(first) => Err(Error::Unrepaired {
                url: options.url.clone(),
                finding: first.finding.to_string(),
                advice: first.advice.clone(),
                count: report.left.len(),
            }),
        }
    })
}

type OnProgress<'a> = &'a (dyn Fn(VerifyProgress) + Send + Sync);

/// The report of work that reads a whole shard, with a meter; `None` if a signal came first.
async fn examined<T>(
    client: &Client,
    signals: &Signals,
    url: &str,
    work: impl AsyncFnOnce(OnProgress<'_>) -> Result<T, ShardError>,
) -> Result<Option<T>, Error> {
    let meter = Meter::new("verified", "files");
    let progress =
        |progress: VerifyProgress| meter.show(progress.done as u64, progress.files as u64);
    let done = signals.unless(work(&progress)).await;
    meter.clear();
    match done {
        Err(_) => Ok(None),
        // The error of an opener says which tables are below.
        Ok(Err(ShardError::NoShard { .. })) => {
            Reader::open(client.clone(), url).await.map(drop)?;
            Ok(None)
        }
        Ok(report) => Ok(Some(report?)),
    }
}

fn finding(finding: &Finding) -> Value {
    let Finding {
        path, difference, ..
    } = finding;
    json!({"file": path, "kind": difference.kind(), "why": difference.to_string()})
}

fn notes(notes: &[Note]) -> Vec<Value> {
    let notes = notes.iter();
    notes
        .map(|note| json!({"file": note.path, "why": note.text}))
        .collect()
}

fn lost(file: &LostFile) -> Value {
    json!({
        "file": file.path,
        "kind": file.why.kind(),
        "why": file.why.to_string(),
        "rows": file.rows,
        "times": file.times.map(|(first, last)| [first, last]),
    })
}

fn misstated(file: &MisstatedFile) -> Value {
    let why = file.why.iter();
    let why = why.map(|why| json!({"kind": why.kind(), "why": why.to_string()}));
    json!({"file": file.path, "differences": why.collect::<Vec<_>>()})
}

fn edit(edit: &ForeignEdit) -> Value {
    json!({
        "version": edit.version,
        "operation": edit.operation,
        "engine": edit.engine,
        "files_added": edit.files_added,
        "rows_added": edit.rows_added,
        "files_removed": edit.files_removed,
        "rows_removed": edit.rows_removed,
    })
}

fn step_object(step: &RepairStep) -> Value {
    match step {
        RepairStep::DropEntries {
            from,
            goes_on_as,
            files,
            upper,
            upper_before,
            data_files,
            rows,
            entries_unread,
            holds,
            accepted,
        } => json!({
            "step": "drop entries", "from": from, "goes_on_as": goes_on_as, "files": files, "upper": upper.time(),
            "upper_before": upper_before.and_then(Frontier::time), "data_files": data_files,
            // An entry that cannot be read may have had any number of rows.
            "rows": (*entries_unread == 0).then_some(rows), "entries_unread": entries_unread,
            "holds": holds, "accepted": accepted,
        }),
        RepairStep::RewriteCheckpoint { version } => {
            json!({"step": "rewrite checkpoint", "version": version})
        }
        RepairStep::SetAside { path } => json!({"step": "set aside", "file": path}),
        RepairStep::PointTo { version } => json!({"step": "point to", "version": version}),
        RepairStep::DropFiles { files } => {
            json!({"step": "drop files", "files": files.iter().map(lost).collect::<Vec<_>>()})
        }
        RepairStep::CorrectFiles { files } => {
            json!({"step": "correct files", "files": files.iter().map(misstated).collect::<Vec<_>>()})
        }
        RepairStep::AcceptEdits { edits } => {
            json!({"step": "accept edits", "edits": edits.iter().map(edit).collect::<Vec<_>>()})
        }
        step => json!({"step": format!("{step:?}")}),
    }
}

fn step_lines(step: &RepairStep, dry_run: bool) -> Vec<String> {
    let did = |done: &str, would: &str, what: String| match dry_run {
        true => format!("would {would} {what}"),
        false => format!("{done} {what}"),
    };
    match step {
        RepairStep::DropEntries {
            from,
            goes_on_as,
            files,
            upper,
            upper_before,
            data_files,
            rows,
            entries_unread,
            holds,
            accepted,
        } => {
            let was = match upper_before {
                Some(was) if was > upper => format!(" instead of {was}"),
                _ => String::new(),
            };
            let unread = match entries_unread {
                0 => String::new(),
                1 => ", and the unknown rows of an entry that cannot be read,".to_owned(),
                more => format!(", and the unknown rows of {more} entries that cannot be read,"),
            };
            let what = format!(
                "{} files of the log from entry {from} on: the upper is {upper}{was}, and {data_files} data files with \
                 {rows} rows{unread} are lost as far as no sink writes them again; the table goes on as version {goes_on_as}",
                files.len()
            );
            let mut lines = vec![did("set aside", "set aside", what)];
            lines.extend(files.iter().map(|file| format!("  {file}")));
            let version = from.saturating_sub(1);
            if !holds.is_empty() {
                let holds = holds.join(", ");
                lines.push(format!(
                    "  these holds are as they were in version {version}: {holds}"
                ));
            }
            if let Some(accepted) = accepted {
                lines.push(format!(
                    "  that edits up to version {accepted} were accepted is given up as well"
                ));
            }
            lines
        }
        RepairStep::RewriteCheckpoint { version } => vec![did(
            "wrote",
            "write",
            format!("the checkpoint of version {version} anew, from the log's entries"),
        )],
        RepairStep::SetAside { path } => vec![did(
            "set aside",
            "set aside",
            match path.ends_with("_last_checkpoint") {
                true => format!("{path}, which leads to no checkpoint"),
                false => format!("{path}, for which a later checkpoint stands"),
            },
        )],
        RepairStep::PointTo { version } => vec![did(
            "made",
            "make",
            format!("the log's pointer lead to the checkpoint of version {version}"),
        )],
        RepairStep::DropFiles { files } => {
            let what = format!(
                "the references to {} data files; a view writes their rows again with its next batch, and an input has \
                 lost them",
                files.len()
            );
            let mut lines = vec![did("dropped", "drop", what)];
            lines.extend(files.iter().map(|file| format!("  {file}")));
            lines
        }
        RepairStep::CorrectFiles { files } => {
            let what = format!(
                "what the log says of {} data files, whose rows are as they were",
                files.len()
            );
            let mut lines = vec![did("put right", "put right", what)];
            lines.extend(files.iter().map(|file| format!("  {file}")));
            lines
        }
        RepairStep::AcceptEdits { edits } => {
            let what =
                "these edits of other programs; an ingest sink goes on after them".to_owned();
            let mut lines = vec![did("accepted", "accept", what)];
            lines.extend(edits.iter().map(|edit| format!("  {edit}")));
            lines
        }
        step => vec![format!("{step:?}")],
    }
}

fn text(report: &RepairReport, options: &Repair) -> String {
    let steps = report.steps.iter();
    let mut lines: Vec<_> = steps
        .flat_map(|step| step_lines(step, options.dry_run))
        .collect();
    if report.is_sound() {
        lines.push("nothing to repair".into());
    }
    lines.extend(needless(report, options).into_iter().map(str::to_owned));
    for left in &report.left {
        lines.push(format!("left: {}: {}", left.finding, left.advice));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n") + "\n"
}

/// What was asked for and is needless, where nothing is left to be done.
fn needless(report: &RepairReport, options: &Repair) -> Vec<&'static str> {
    type Asked = (bool, fn(&RepairStep) -> bool, &'static str);
    let asked: [Asked; 3] = [
        (
            options.drop_entries.is_some(),
            |step| matches!(step, RepairStep::DropEntries { .. }),
            "there are no entries to drop: the log can be read to its end",
        ),
        (
            options.drop_files,
            |step| matches!(step, RepairStep::DropFiles { .. }),
            "there are no references to drop: every data file is there",
        ),
        (
            options.accept_edits,
            |step| matches!(step, RepairStep::AcceptEdits { .. }),
            "there are no edits to accept",
        ),
    ];
    let needless = |(is_asked, is_step, _): &&Asked| {
        *is_asked && report.left.is_empty() && !report.steps.iter().any(is_step)
    };
    let needless = asked.iter().filter(needless);
    needless.map(|(_, _, line)| *line).collect()
}
