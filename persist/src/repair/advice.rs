//! What a person can do about damage for which a repair has no step.

use object_store::path::Path;

use super::LostFile;
use crate::location::{for_shell, local_directory};
use crate::survey::{BreakOff, Survey};
use crate::verify::{Difference, Finding};

/// Nothing can be committed yet.
pub(super) const LOG_FIRST: &str = "repair the log first, then make the repair again";
/// Something changed between the look and the step.
pub(super) const AGAIN: &str =
    "somebody writes to the table, or copies it: make the repair again once that is done";

/// Sources would fail at what was to be accepted.
pub(super) const UNACCEPTABLE: &str = "no edit was accepted, since sources would fail at these rows: have another program \
     delete them, or give them other values, and accept the edits then";

/// What to do about what the steps of a repair do not help.
pub(super) fn on(finding: &Finding, survey: &Survey) -> String {
    let is_log = finding.path.starts_with("_delta_log");
    let text = match &finding.difference {
        Difference::Folder => "move the directory away",
        Difference::NoFile { .. } => "move it away",
        Difference::Pointer { .. } => "it is of no use without what it leads to",
        Difference::Order => {
            "a view can be written anew, to another address or here once the table is deleted"
        }
        Difference::Unfit { .. } | Difference::Multiplicity { .. } => {
            "a view repairs that itself with its next batch; elsewhere another program must delete the rows"
        }
        Difference::Nulls { .. } => {
            "a view answers that itself with its next batch; elsewhere another program must delete the rows, or give them \
             values"
        }
        Difference::Ahead { end } => {
            return format!(
                "nothing here tells whether the entries after {end} were lost or an older log was copied back: put them back \
                 from a copy; or move this checkpoint away, if the table is to be as its entries say; or the entries up to \
                 {end}, if it is to be as the checkpoint says, which is what readers take it for"
            );
        }
        Difference::Contradicts { .. } => {
            "nothing here tells which of them is right, and readers believe the checkpoint: replace the wrong one by that \
             of a copy"
        }
        Difference::Frontier { .. } => {
            "the rows are read all the same: a view can be written anew, to another address or here once the table is deleted"
        }
        Difference::Refused { .. } if finding.path.contains(".checkpoint.") => {
            "it is not damaged, as far as can be told: have the program that wrote it write a classic checkpoint, in one file \
             (without checkpoints in parts, and with `delta.checkpointPolicy` = `classic`)"
        }
        Difference::Refused { .. } => {
            "it may be as it should: read it with a version that understands it, or with permission to"
        }
        Difference::Schema { .. } => {
            "no file is dropped for that: put the columns back that the table had, in the `metaData` of its log or by a copy \
             of that; a view can be written anew, to another address or here once the table is deleted"
        }
        Difference::Missing if is_log => return without_end("put it back from a copy", survey),
        Difference::Unreadable { .. } if is_log && survey.end.is_none() => {
            return without_end("replace it by that of a copy", survey);
        }
        _ => "nothing that is there stands for it",
    };
    text.to_owned()
}

/// What to do where the log breaks off, and its later files are still to be given up.
pub(super) fn to_drop(finding: &Finding, broken: Option<&BreakOff>, survey: &Survey) -> String {
    let from_copy = match &finding.difference {
        Difference::EntriesMissing { .. } | Difference::Missing => "put it back from a copy",
        _ => "replace it by that of a copy",
    };
    let (Some(broken), Some(end)) = (broken, &survey.end) else {
        return match &finding.difference {
            Difference::Refused { .. } => on(finding, survey),
            _ => without_end(from_copy, survey),
        };
    };
    let upper = end.progress().upper;
    let was = match broken.upper {
        Some(was) if was > upper => format!(" instead of {was}"),
        _ => String::new(),
    };
    let unread = match broken.unread {
        0 => String::new(),
        1 => ", and the unknown rows of an entry that cannot be read,".to_owned(),
        more => format!(", and the unknown rows of {more} entries that cannot be read,"),
    };
    let back = format!(
        "goes back to version {}, with an upper of {upper}{was}: {} data files with {} rows{unread} are lost as far as no \
         sink writes them again",
        end.version, broken.files, broken.rows
    );
    let from = broken.version;
    match &finding.difference {
        Difference::Refused { .. } if broken.is_unknown => on(finding, survey),
        Difference::Refused { .. } if finding.path.contains(".checkpoint.") => format!(
            "{}; if nothing from there on is needed, `mvsink repair --drop-entries={from}` {back}",
            on(finding, survey)
        ),
        Difference::Refused { .. } => format!(
            "it may be as it should: switch off what is not supported with the program that switched it on, or read the \
             table with that; if nothing from there on is needed, `mvsink repair --drop-entries={from}` {back}"
        ),
        Difference::Frontier { .. } | Difference::CutOff { .. } => {
            format!("`mvsink repair --drop-entries` {back}")
        }
        _ => format!(
            "{from_copy}, or wait for a copy that is under way; `mvsink repair --drop-entries` {back}"
        ),
    }
}

/// What to do where no state of the table can be read.
fn without_end(from_copy: &str, survey: &Survey) -> String {
    let again = "a view can be written anew, to another address or here once the table is deleted";
    let is_entry = |path: &&Path| path.as_ref().ends_with(".json");
    if survey.objects.keys().all(|path| is_entry(&path)) {
        let entries = survey.objects.len();
        let remove = match local_directory(&survey.url) {
            Ok(Some(folder)) => {
                format!(" with `rm -r {}`", for_shell(&folder.display().to_string()))
            }
            _ => String::new(),
        };
        return format!(
            "{from_copy}; where the table was deleted while somebody wrote to it, nothing is left of it but the {entries} \
             later entries of its log: remove the directory{remove}; {again}"
        );
    }
    format!("the columns and the frontiers of the table are lost with it: {from_copy}; {again}")
}

/// What to do about a file of an input.
pub(super) fn of_input(file: &LostFile) -> String {
    let rows = match file.rows {
        Some(rows) => format!("{rows} rows"),
        None => "its rows".to_owned(),
    };
    let times = match file.times {
        Some((first, last)) => format!(" of times {first} to {last}"),
        None => String::new(),
    };
    if file.why == Difference::Outside {
        return "`mvsink repair --drop-files` drops the reference; nobody has read its rows here"
            .to_owned();
    }
    format!(
        "put a sound one in its place from a copy: the table holds an input, whose rows nobody writes again; `mvsink repair \
         --drop-files` drops the reference, and {rows}{times} are lost for good"
    )
}
