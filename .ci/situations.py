#!/usr/bin/env python3
"""What another tool, or a person, may do to a view's table, and how mvsink answers.

    situations.py [--check]     writes docs/other-tools.md, or checks that it is what this file says

`answers.py` brings each of these about, at rest and some of them beside a run, and checks the answer. The edits are in
`edits.py`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import edits

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/other-tools.md"

# The view's next commit makes the table what it was to be.
REPAIRS = "repairs"
# Nothing that a reader sees has changed, and the view goes on.
FOLLOWS = "follows"
# One line says what is wrong and what to do, and nothing is written.
REFUSES = "refuses"
# `mvsink verify` names the damage, and after `mvsink repair` the view's next run makes the table what it was to be.
MENDS = "mends"


@dataclass
class Situation:
    """An edit, and the answer to it."""

    edit: str
    answer: str
    how: str
    # What the error says, where the answer is one.
    error: str = ""
    # The edit that ends the situation: the view goes on after it.
    undo: str = ""
    # The command that ends it; `{}` is the table.
    command: str = "repair {}"
    # The kinds of damage that `mvsink verify` names.
    kinds: tuple = ()
    # Whether `mvsink verify` finds it, where the answer is an error: the table itself is sound if not.
    damage: bool = True
    # Whether other readers open the table before the view's next commits.
    others: bool = True
    # Whether older releases of the writer make the edit too.
    old_writers: bool = False
    # Whether it is made beside a run as well, and what that run then says if it ends.
    beside: bool = False
    ends: str = ""
    # Tests beside `engines.py`.
    tests: str = ""

    @property
    def what(self):
        return edits.EDITS[self.edit].__doc__.splitlines()[0].rstrip(".")


GROUPS = {
    "Rows": [
        Situation("append", REPAIRS, "retracts the rows", old_writers=True, beside=True),
        Situation("append_by_polars", REPAIRS, "retracts the rows"),
        Situation("append_by_duckdb", REPAIRS, "retracts the rows"),
        Situation("append_without_times", REPAIRS, "takes them as rows at the upper, once each, and retracts them"),
        Situation("append_of_the_first_time", REPAIRS, "takes them as rows at the upper, and retracts them"),
        Situation("append_of_the_last_time", REPAIRS, "retracts the rows", beside=True),
        Situation("delete", REPAIRS, "writes the rows again", old_writers=True, beside=True),
        Situation("delete_everything", REPAIRS, "writes the rows again"),
        Situation("update", REPAIRS, "takes the difference back", old_writers=True),
        Situation("merge", REPAIRS, "writes the rows again"),
        Situation("overwrite", REPAIRS, "writes the rows again", old_writers=True, beside=True),
        Situation("largest_multiplicities", REPAIRS, "retracts them, in as many rows as it takes", beside=True),
        Situation("least_multiplicity", REPAIRS, "retracts it, in as many rows as it takes"),
        Situation("null_where_none_is_meant", REPAIRS, "removes the file that has them, and adds back the rest", beside=True),
        Situation("only_some_columns", REPAIRS, "removes the file that has them, and adds back the rest"),
        Situation("an_error_of_another_form", REPAIRS, "removes the file that has them, and adds back the rest"),
        Situation("other_codecs", REPAIRS, "reads every codec of the format, and retracts the rows", beside=True),
    ],
    "Columns": [
        Situation("another_column", REPAIRS, "retracts the rows; the column stays, null in the view's own rows"),
        Situation("another_case", REPAIRS, "takes the columns by their names in any case, and retracts the rows"),
        Situation("a_column_renamed", REFUSES, "names the column", error="column", damage=False),
        Situation("a_column_dropped", REFUSES, "names the column", error="column", damage=False),
        Situation("a_column_of_another_type", REFUSES, "names the column and both types", error="id", damage=False),
    ],
    "Upkeep": [
        Situation("optimize", FOLLOWS, "the contents are the same", old_writers=True, beside=True),
        Situation("z_order", FOLLOWS, "the contents are the same"),
        Situation("vacuum", FOLLOWS, "the contents are the same", old_writers=True, beside=True),
        Situation("vacuum_of_everything", FOLLOWS, "the contents are the same; a source that had still to read a deleted file ends, and reads anew when it is started again"),
        Situation("checkpoint", FOLLOWS, "opens from it", old_writers=True, beside=True),
        Situation("checkpoint_and_clean", FOLLOWS, "opens from it", old_writers=True),
        Situation("append_checkpoint", REPAIRS, "finds the rows in the checkpoint, and retracts them", old_writers=True, beside=True),
        Situation("restore", REPAIRS, "writes again what is missing; the frontiers stay"),
    ],
    "Features and properties": [
        Situation("deletion_vectors", REFUSES, "names the feature", error="deletionVectors"),
        Situation("change_data_feed", REFUSES, "names what the writer would have to keep", error="writer"),
        Situation("constraint", REFUSES, "names what the writer would have to keep", error="writer"),
        Situation("append_only", FOLLOWS, "appends; it deletes no rows of others then"),
        Situation("property_of_theirs", FOLLOWS, "keeps it"),
    ],
    "The log": [
        Situation("hint_with_parts", FOLLOWS, "the checkpoint that is there decides"),
        Situation("hint_to_nothing", MENDS, "makes the hint lead to the newest checkpoint, or sets it aside; without that the entries decide, and the next commit writes a checkpoint", kinds=("pointer",)),
        Situation("hint_damaged", MENDS, "makes the hint lead to the newest checkpoint, or sets it aside; without that the entries decide", kinds=("pointer",)),
        Situation("odd_entries", FOLLOWS, "reads only what it needs"),
        Situation("paths_of_another_form", MENDS, "adds files again whose paths others do not resolve, by plain ones, and retracts the rows; not all other readers find absolute ones", kinds=("path",), others=False),
        Situation("size_of_none", MENDS, "adds them again with their sizes, by a commit that changes no data", kinds=("size",), tests="mend: `a_wrong_size_of_a_whole_file_is_named_and_put_right`"),
        Situation("counts_that_are_wrong", MENDS, "adds them again with their numbers of rows, and no bounds", kinds=("rows", "statistics"), tests="mend: `wrong_statistics_of_other_programs_are_named_and_put_right`"),
        Situation("tags_that_are_wrong", MENDS, "adds them again with true ones; until then tags that are about the same file, by its name and size, are believed", kinds=("tags",), tests="mend: `wrong_tags_of_a_whole_file_of_a_sink_are_named_and_put_right`"),
        Situation("column_twice", REFUSES, "names the column, and how the entry is given up; no file is dropped", error="two columns.*--drop-entries=", kinds=("refused",), tests="metadata: `metadata_that_is_refused_costs_no_file_and_can_be_given_up`"),
        Situation("upper_moved_by_hand", MENDS, "refuses to go on from it; with `--drop-entries`, sets the entry aside", command="repair {} --drop-entries", kinds=("frontier",), tests="forged: `whoever_opens_or_follows_refuses_forged_frontiers_by_the_name_of_their_entry`"),
        Situation("entry_far_ahead", MENDS, "refuses the gap; with `--drop-entries`, sets the entry aside", command="repair {} --drop-entries", kinds=("entries missing",), tests="gaps: `a_sink_that_commits_all_the_time_notices_an_entry_far_ahead_within_half_a_minute`"),
        Situation("live_file_added_again", FOLLOWS, "a file is live once", beside=True),
        Situation("absent_file_removed", FOLLOWS, "nothing is subtracted", beside=True),
        Situation("other_rows_called_no_change", REPAIRS, "compares the rows, and takes the difference back", beside=True),
        Situation("rows_gone_called_no_change", REPAIRS, "compares the rows, and writes them again", beside=True),
        Situation("tags_copied", REPAIRS, "believes no tags that are about another file, and takes the difference back", beside=True),
        Situation("entry_lost", REFUSES, "names the gap; the entry can be put back", error="missing|gap", undo="entry_found", kinds=("entries missing",)),
        Situation("entry_lost_for_good", MENDS, "with `--drop-entries`, sets aside what follows the gap", command="repair {} --drop-entries", kinds=("entries missing",)),
        Situation("entry_damaged", REFUSES, "names the entry", error="damaged|JSON", undo="entry_mended", kinds=("unreadable",)),
        Situation("entry_damaged_for_good", MENDS, "with `--drop-entries`, sets the entry aside", command="repair {} --drop-entries", kinds=("unreadable",)),
        Situation("first_entries_lost", REFUSES, "names the gap", error="missing|gap|gone", undo="first_entries_found", kinds=("entries missing",)),
        Situation("checkpoint_damaged", MENDS, "writes the checkpoint anew; without that the entries decide", kinds=("unreadable",)),
        Situation("checkpoint_of_another_table", MENDS, "writes the checkpoint anew", kinds=("unreadable",)),
        Situation("last_entries_lost", REPAIRS, "writes again what is missing"),
    ],
    "Files and folders": [
        Situation("data_file_lost", MENDS, "drops the reference", kinds=("missing",)),
        Situation("data_file_cut_short", MENDS, "drops the reference", kinds=("size", "unreadable")),
        Situation("data_file_damaged", MENDS, "drops the reference; until then a run that reads it names the command", kinds=("unreadable",), tests="altered: `a_view_with_a_file_that_is_damaged_at_its_size_names_the_command_that_mends_it`"),
        Situation("data_file_replaced", MENDS, "drops the reference", kinds=("sums",)),
        Situation("data_file_of_the_future", FOLLOWS, "one file does not move the time of the store", beside=True),
        Situation("files_outside", REPAIRS, "reads none of them, and removes the references", beside=True),
        Situation("files_of_others", FOLLOWS, "leaves them where they are"),
        Situation("moved", REPAIRS, "makes the table anew; a run that is under way ends with an error", beside=True, ends="deleted|moved|replaced|gone"),
        Situation("moved_and_back", FOLLOWS, "goes on"),
        Situation("deleted", REPAIRS, "makes the table anew; a run that is under way ends with an error", beside=True, ends="deleted|moved|replaced|gone"),
        Situation("older_copy", REPAIRS, "goes on from the older upper; a run that is under way ends with an error", beside=True, ends="deleted|moved|replaced|gone|older"),
        Situation("another_table_of_the_kind", REPAIRS, "compares it with the view, and writes the differences"),
        Situation("another_table", REFUSES, "names the columns that differ, and the command that moves it away", error="column.*`mv ", damage=False),
        Situation("table_of_another_program", REFUSES, "says so, and names the command that moves it away", error="another program.*`mv ", damage=False),
    ],
}

HEAD = """\
# What other tools may do to a table

<!-- Written by `.ci/situations.py`, which `.ci/answers.py` holds true. Edit that file, not this one. -->

A view's table is an ordinary Delta table, and other tools may write to it. mvsink **repairs** an edit (the view's next
commit makes the table what it was to be), **follows** it (readers see the same contents, and the view goes on),
**refuses** (one line says what is wrong; nothing is written), or **mends** it: `mvsink verify` names the damage, `mvsink repair`
does what can be done without the writer, and the view's next run writes again what was lost. An ingest table has nothing to compare itself
with: there an edit of rows is an error that names the edit, until somebody accepts it with `mvsink repair --accept-edits`. A file that
is added again is one file: it is no edit.

Two programs that merge the files of one table at the same time do not know of each other: `optimize` of a table whose
files mvsink has merged since it was opened there adds their rows once more, and so does one of another such program. A view repairs
that; an ingest table refuses it as an edit, and `DeltaTable.restore` to the version before the `optimize`, and then
`mvsink repair --accept-edits`, bring the rows back to what they were. Leave merging to mvsink, or switch its own off with
`--set mvsink_compaction=false`.

A repair is part of a view's next batch. A run that has no new events for one says that the table differs, and exits 1; the
status of an embedded sink is then `Unrepaired`.

`.ci/answers.py` brings each situation about on the demo's tables, between two runs and, where the third column says so,
beside one that is under way; then the view must equal one that nobody has edited. A run without new events that comes first
must say that the table differs, or find that it does not.
"""


def document():
    lines = [HEAD]
    for group, situations in GROUPS.items():
        lines.append(f"## {group}\n")
        lines.append("| somebody may … | mvsink | also beside a run | more tests |")
        lines.append("|---|---|---|---|")
        for situation in situations:
            what = situation.what[0].lower() + situation.what[1:]
            how = f"**{situation.answer}**: {situation.how}"
            beside = "yes" if situation.beside else ""
            lines.append(f"| {what} (`{situation.edit}`) | {how} | {beside} | {situation.tests} |")
        lines.append("")
    return "\n".join(lines)


def main():
    if sys.argv[1:] == ["--check"]:
        if DOCUMENT.read_text() != document():
            sys.exit(f"{DOCUMENT.name} is not what situations.py says: run it")
    elif sys.argv[1:]:
        sys.exit("usage: situations.py [--check]")
    else:
        DOCUMENT.write_text(document())


if __name__ == "__main__":
    main()
