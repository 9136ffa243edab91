#!/usr/bin/env python3
"""Edits of one Delta table: by other people's writers, and by hand.

    edits.py NAME TABLE         makes the edit NAME, with whichever packages are first on PYTHONPATH

Each function below is an edit of that name; its first line says what somebody does to the table. `situations.py` says
how mvsink answers, and `answers.py` makes them with several released versions of the writers.
"""

import json
import os
import shutil
import sys
from pathlib import Path

EDITS = {}
# Columns of ours, beside those of the view.
OURS = ["mv_error", "mv_time", "mv_diff"]
INT_MAX = (1 << 63) - 1
INT_MIN = -(1 << 63)
# Codecs that Parquet names and that a writer of today offers.
CODECS = ["UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "LZ4_RAW", "ZSTD"]


def edit(function):
    EDITS[function.__name__] = function
    return function


# --- what they all need ---------------------------------------------------------------------------------------------


def table_of(path):
    from deltalake import DeltaTable

    return DeltaTable(str(path))


def rows_of(path):
    """All rows, as `pyarrow` has them: older and newer versions of `deltalake` agree on it."""
    import pyarrow

    rows = table_of(path).to_pyarrow_table()
    return rows if isinstance(rows, pyarrow.Table) else pyarrow.table(rows)


def append_rows(path, rows, **options):
    from deltalake import write_deltalake

    write_deltalake(str(path), rows, mode="append", **options)


def with_column(rows, name, values):
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, name, values)


def constant(rows, name, value):
    """`rows` with the same value in one column."""
    import pyarrow

    return with_column(rows, name, pyarrow.array([value] * len(rows), rows.schema.field(name).type))


def log(path):
    return Path(path) / "_delta_log"


def entries(path):
    """The entries of the log, oldest first."""
    return sorted(entry for entry in log(path).glob("*.json") if entry.stem.isdigit())


def checkpoints(path):
    return sorted(log(path).glob("*.checkpoint.parquet"))


def actions(entry):
    return [json.loads(line) for line in entry.read_text().splitlines() if line.strip()]


def live_adds(path):
    """The `add` actions of the live files, by path, from the entries alone: the table must have no checkpoint."""
    adds = {}
    for entry in entries(path):
        for action in actions(entry):
            if "remove" in action:
                adds.pop(action["remove"]["path"], None)
        for action in actions(entry):
            if "add" in action:
                adds[action["add"]["path"]] = action["add"]
    return adds


def put_entry(path, *lines):
    """Puts the next entry of the log, as a writer of no particular make does."""
    version = int(entries(path)[-1].stem) + 1
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    with open(log(path) / f"{version:020}.json", "x") as entry:
        entry.write(text)


def copy_over(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


# --- rows ------------------------------------------------------------------------------------------------------------


@edit
def append(path):
    """Append copies of rows, at old times."""
    append_rows(path, rows_of(path).slice(0, 5))


@edit
def append_without_times(path):
    """Append rows that have neither a time nor a multiplicity."""
    append_rows(path, constant(constant(rows_of(path).slice(0, 5), "mv_time", None), "mv_diff", None))


@edit
def append_of_the_last_time(path):
    """Append rows at the largest time there is."""
    append_rows(path, constant(rows_of(path).slice(0, 5), "mv_time", INT_MAX))


@edit
def append_of_the_first_time(path):
    """Append rows at the least time there is."""
    append_rows(path, constant(rows_of(path).slice(0, 5), "mv_time", INT_MIN))


@edit
def append_by_polars(path):
    """Append rows with Polars."""
    import polars

    polars.from_arrow(rows_of(path).slice(0, 3)).write_delta(str(path), mode="append")


@edit
def append_by_duckdb(path):
    """Append rows with DuckDB."""
    import duckdb
    import duckdb_extension_delta

    extension = next(Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension"))
    db = duckdb.connect()
    db.execute(f"LOAD '{extension}'")
    db.execute(f"ATTACH '{path}' AS t (TYPE delta)")
    db.execute("INSERT INTO t SELECT * FROM t LIMIT 3")


@edit
def delete(path):
    """Delete some rows."""
    table_of(path).delete("mv_time % 3 = 0")


@edit
def delete_everything(path):
    """Delete all rows."""
    table_of(path).delete()


@edit
def update(path):
    """Update the multiplicities of some rows."""
    table_of(path).update(updates={"mv_diff": "mv_diff + 1"}, predicate="mv_time % 5 = 1")


@edit
def merge(path):
    """Merge a table into it: delete what matches."""
    import polars

    rows = rows_of(path)
    column = rows.column_names[0]
    # A row of the source may match many of the table's, and not the other way round.
    source = polars.from_arrow(rows).unique([column, "mv_time"], maintain_order=True).head(20).to_arrow()
    (
        table_of(path)
        .merge(source, predicate=f"s.{column} = t.{column} AND s.mv_time = t.mv_time", source_alias="s", target_alias="t")
        .when_matched_delete(predicate="t.mv_diff = 1")
        .execute()
    )


@edit
def overwrite(path):
    """Overwrite it with three of its rows."""
    from deltalake import write_deltalake

    write_deltalake(str(path), rows_of(path).slice(0, 3), mode="overwrite")


@edit
def largest_multiplicities(path):
    """Append rows whose multiplicities are the largest there is, so that they add up to more."""
    some = constant(rows_of(path).slice(0, 2), "mv_diff", INT_MAX)
    append_rows(path, some)
    append_rows(path, some)


@edit
def least_multiplicity(path):
    """Append a row whose multiplicity is the least there is."""
    append_rows(path, constant(rows_of(path).slice(0, 1), "mv_diff", INT_MIN))


@edit
def null_where_none_is_meant(path):
    """Append a null in a column that is never null."""
    rows = rows_of(path).slice(0, 2)
    append_rows(path, constant(rows, rows.column_names[0], None))


@edit
def only_some_columns(path):
    """Append rows that lack most columns."""
    import pyarrow

    append_rows(path, pyarrow.table({"name": ["Zed"]}), schema_mode="merge")


@edit
def an_error_of_another_form(path):
    """Append a row with text in `mv_error` that no view writes."""
    append_rows(path, constant(rows_of(path).slice(0, 2), "mv_error", "not { of our form"))


@edit
def other_codecs(path):
    """Append files in each codec that Parquet has."""
    from deltalake import WriterProperties

    for codec in CODECS:
        append_rows(path, rows_of(path).slice(0, 2), writer_properties=WriterProperties(compression=codec))


# --- columns ---------------------------------------------------------------------------------------------------------


@edit
def another_column(path):
    """Append rows with one more column, which the table takes up."""
    import pyarrow

    rows = rows_of(path).slice(0, 2)
    append_rows(path, rows.append_column("note", pyarrow.array(["a", "b"])), schema_mode="merge")


@edit
def another_case(path):
    """Add a file whose column names are in upper case, as readers that ignore the case accept it."""
    import pyarrow.parquet

    rows = rows_of(path).slice(0, 2)
    file = Path(path) / "upper-case.parquet"
    names = [name if name in OURS else name.upper() for name in rows.column_names]
    pyarrow.parquet.write_table(rows.rename_columns(names), file)
    add = {"path": file.name, "partitionValues": {}, "size": file.stat().st_size, "modificationTime": 0, "dataChange": True}
    put_entry(path, {"commitInfo": {"operation": "WRITE"}}, {"add": add})


@edit
def a_column_renamed(path):
    """Overwrite it with a column renamed."""
    overwrite_schema(path, lambda rows: rows.rename_columns(["renamed", *rows.column_names[1:]]))


@edit
def a_column_dropped(path):
    """Overwrite it without a column."""
    overwrite_schema(path, lambda rows: rows.drop_columns(rows.column_names[:1]))


@edit
def a_column_of_another_type(path):
    """Overwrite it with a column of another type."""
    import pyarrow

    def change(rows):
        return with_column(rows, "id", rows.column("id").cast(pyarrow.string()))

    overwrite_schema(path, change)


def overwrite_schema(path, change):
    from deltalake import write_deltalake

    write_deltalake(str(path), change(rows_of(path)), mode="overwrite", schema_mode="overwrite")


# --- upkeep ----------------------------------------------------------------------------------------------------------


@edit
def optimize(path):
    """Optimize: merge its files."""
    table_of(path).optimize.compact(target_size=1 << 40)


@edit
def z_order(path):
    """Z-order it."""
    table_of(path).optimize.z_order([rows_of(path).column_names[0]])


@edit
def vacuum(path):
    """Vacuum it as the writer does by default."""
    table_of(path).vacuum(dry_run=False)


@edit
def vacuum_of_everything(path):
    """Merge its files, and vacuum whatever is removed, however young."""
    optimize(path)
    table_of(path).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


@edit
def checkpoint(path):
    """Write a checkpoint."""
    table_of(path).create_checkpoint()


@edit
def checkpoint_and_clean(path):
    """Write a checkpoint and delete every older log entry."""
    delta = table_of(path)
    delta.create_checkpoint()
    for entry in entries(path):
        # Others may have gone on meanwhile: what lies beyond the checkpoint is still needed.
        if int(entry.stem) < delta.version():
            entry.unlink()


@edit
def append_checkpoint(path):
    """Append rows, write a checkpoint, and delete every older log entry."""
    append(path)
    checkpoint_and_clean(path)


@edit
def restore(path):
    """Restore an older version."""
    delta = table_of(path)
    delta.restore(max(delta.version() - 2, 0))


# --- features and properties ------------------------------------------------------------------------------------------


@edit
def deletion_vectors(path):
    """Switch deletion vectors on."""
    from deltalake import TableFeatures

    table_of(path).alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)


@edit
def change_data_feed(path):
    """Switch the change data feed on."""
    table_of(path).alter.set_table_properties({"delta.enableChangeDataFeed": "true"})


@edit
def constraint(path):
    """Add a constraint."""
    table_of(path).alter.add_constraint({"positive": "mv_time >= 0"})


@edit
def append_only(path):
    """Make it append-only."""
    table_of(path).alter.set_table_properties({"delta.appendOnly": "true"})


@edit
def property_of_theirs(path):
    """Set a property that says nothing to a view."""
    table_of(path).alter.set_table_properties({"delta.logRetentionDuration": "interval 60 days"})


# --- the log, by hand -------------------------------------------------------------------------------------------------


@edit
def hint_with_parts(path):
    """Write a checkpoint, and a hint that says it has one part."""
    table_of(path).create_checkpoint()
    version = int(checkpoints(path)[-1].name.split(".")[0])
    (log(path) / "_last_checkpoint").write_text(json.dumps({"version": version, "size": 6, "parts": 1}))


@edit
def hint_to_nothing(path):
    """Leave a hint to checkpoints that are not there: of several parts, of the second form, of the future."""
    hint = {"version": 1 << 40, "size": 6, "parts": 3, "v2Checkpoint": {"path": "gone.parquet"}}
    (log(path) / "_last_checkpoint").write_text(json.dumps(hint))


@edit
def hint_damaged(path):
    """Damage the hint."""
    (log(path) / "_last_checkpoint").write_text('{"version": ')


@edit
def odd_entries(path):
    """Put entries that the format allows and few write: `commitInfo` of any form, unknown actions, blank lines."""
    nest = '{"a":' * 200 + "1" + "}" * 200
    put_entry(path, '{"commitInfo":"a string"}')
    put_entry(path, '{"commitInfo":{"operation":"A","operation":"B","timestamp":1.5e3,"isBlindAppend":"yes"}}')
    put_entry(path, '{"commitInfo":{"operation":"DEEP","operationParameters":' + nest + "}}")
    put_entry(path, '{"txn":{"appId":"theirs","version":1.0,"lastUpdated":2.0}}', "", '{"action of tomorrow":[1,2]}')
    put_entry(path, '{"commitInfo":null}', '{"cdc":{"path":"x","size":1e0,"partitionValues":{},"dataChange":false}}')


@edit
def paths_of_another_form(path):
    """Add copies of its files by absolute paths, `file:` URLs, and `./`."""
    for number, (name, add) in enumerate(list(live_adds(path).items())[:3]):
        copy = f"copy-{number}.parquet"
        shutil.copy(Path(path) / name, Path(path) / copy)
        form = [f"./{copy}", str(Path(path).resolve() / copy), (Path(path).resolve() / copy).as_uri()][number % 3]
        add = {key: add[key] for key in ["partitionValues", "size", "modificationTime", "dataChange"]}
        put_entry(path, {"add": {**add, "path": form, "dataChange": True}})


@edit
def size_of_none(path):
    """Add its files again with a size of 0, or below that."""
    for number, add in enumerate(live_adds(path).values()):
        put_entry(path, {"add": {**add, "size": -(number % 2), "dataChange": False}})


@edit
def counts_that_are_wrong(path):
    """Add its files again with wrong numbers of rows, and bounds that no value keeps."""
    for add in live_adds(path).values():
        stats = {"numRecords": 1 << 40, "minValues": {"id": INT_MAX - 1}, "maxValues": {"id": INT_MAX - 1}}
        put_entry(path, {"add": {**add, "stats": json.dumps(stats), "dataChange": False}})


@edit
def data_file_damaged(path):
    """Damage the end of a data file, which keeps its size."""
    file = Path(path) / next(iter(live_adds(path)))
    whole = bytearray(file.read_bytes())
    for place in (-60, -40):
        whole[place] ^= 0xFF
    file.write_bytes(whole)


@edit
def tags_that_are_wrong(path):
    """Add its files again with wrong tags of mvsink's."""
    adds = live_adds(path)
    for add in adds.values():
        tags = {**add["tags"], "mvsink.min_time": add["tags"]["mvsink.max_time"], "mvsink.sums": "1:AAE" + "A" * 20}
        put_entry(path, {"add": {**add, "tags": tags, "dataChange": False}})


@edit
def column_twice(path):
    """Put a schema into the log in which a column stands twice, but for the case."""
    metadata = [action["metaData"] for entry in entries(path) for action in actions(entry) if "metaData" in action][-1]
    schema = json.loads(metadata["schemaString"])
    first = schema["fields"][0]
    schema["fields"].append({**first, "name": first["name"].upper()})
    put_entry(path, {"metaData": {**metadata, "schemaString": json.dumps(schema)}})


@edit
def upper_moved_by_hand(path):
    """Move the upper by hand."""
    put_entry(path, {"txn": {"appId": "mvsink.upper", "version": INT_MAX - 1}})


@edit
def entry_far_ahead(path):
    """Leave an entry of a version far ahead."""
    shutil.copy(entries(path)[-1], log(path) / f"{900_000:020}.json")


@edit
def live_file_added_again(path):
    """Add files again that are there."""
    for add in live_adds(path).values():
        put_entry(path, {"add": {**add, "dataChange": True}})


@edit
def absent_file_removed(path):
    """Remove files that are not there."""
    remove = {"path": "never-there.parquet", "deletionTimestamp": 1, "dataChange": True, "size": 999}
    put_entry(path, {"remove": remove})


def replace_first(path, name, changes, tags):
    """Puts a copy of the first file with one row less in its place; gives its actions."""
    import pyarrow.parquet

    add = next(iter(live_adds(path).values()))
    file = Path(path) / name
    rows = pyarrow.parquet.read_table(Path(path) / add["path"]).slice(1)
    pyarrow.parquet.write_table(rows, file)
    remove = {"path": add["path"], "deletionTimestamp": 1, "dataChange": changes}
    other = {**add, "path": name, "size": file.stat().st_size, "dataChange": changes, "tags": add.get("tags") if tags else None,
             "stats": json.dumps({"numRecords": rows.num_rows})}
    return {"remove": remove}, {"add": other}


@edit
def other_rows_called_no_change(path):
    """Put a file with other rows in the place of one, and say that it changes no data."""
    put_entry(path, *replace_first(path, "other-rows.parquet", changes=False, tags=False))


@edit
def rows_gone_called_no_change(path):
    """Remove a file, and say that it changes no data."""
    add = next(iter(live_adds(path).values()))
    put_entry(path, {"remove": {"path": add["path"], "deletionTimestamp": 1, "dataChange": False}})


@edit
def tags_copied(path):
    """Write a file anew with a row less, and copy its tags."""
    put_entry(path, *replace_first(path, "copied-tags.parquet", changes=True, tags=True))


def remove_checkpoints(path):
    """Removes the checkpoints, which stand for the entries before them: a merge writes one now and then."""
    for file in [*log(path).glob("*.checkpoint.parquet"), *log(path).glob("_last_checkpoint")]:
        file.unlink()


@edit
def entry_lost(path):
    """Lose a log entry in the middle."""
    remove_checkpoints(path)
    middle = entries(path)[-2]
    shutil.move(middle, Path(path).parent / f"{Path(path).name}.lost")


@edit
def entry_lost_for_good(path):
    """Lose a log entry in the middle for good."""
    remove_checkpoints(path)
    entries(path)[-2].unlink()


@edit
def entry_found(path):
    """Put the lost log entry back."""
    last = int(entries(path)[-1].stem)
    shutil.move(Path(path).parent / f"{Path(path).name}.lost", log(path) / f"{last - 1:020}.json")


@edit
def entry_damaged(path):
    """Cut a log entry short."""
    remove_checkpoints(path)
    last = entries(path)[-1]
    shutil.copy(last, Path(path).parent / f"{Path(path).name}.whole")
    last.write_bytes(last.read_bytes()[:-20])


@edit
def entry_damaged_for_good(path):
    """Empty the last log entry for good."""
    remove_checkpoints(path)
    entries(path)[-1].write_bytes(b"")


@edit
def entry_mended(path):
    """Put the whole log entry in the place of the short one."""
    shutil.move(Path(path).parent / f"{Path(path).name}.whole", entries(path)[-1])


@edit
def first_entries_lost(path):
    """Lose the first log entries, where no checkpoint stands for them."""
    remove_checkpoints(path)
    shutil.move(entries(path)[0], Path(path).parent / f"{Path(path).name}.first")


@edit
def first_entries_found(path):
    """Put the first log entries back."""
    shutil.move(Path(path).parent / f"{Path(path).name}.first", log(path) / f"{0:020}.json")


@edit
def checkpoint_damaged(path):
    """Damage the newest checkpoint."""
    table_of(path).create_checkpoint()
    newest = checkpoints(path)[-1]
    newest.write_bytes(newest.read_bytes()[:200])


@edit
def checkpoint_of_another_table(path):
    """Put another table's checkpoint in the place of its own."""
    table_of(path).create_checkpoint()
    other = f"{path}.other"
    table_of(other).create_checkpoint()
    shutil.copy(checkpoints(other)[-1], checkpoints(path)[-1])


@edit
def last_entries_lost(path):
    """Lose the last log entries."""
    entries(path)[-1].unlink()


# --- files and folders ------------------------------------------------------------------------------------------------


@edit
def data_file_lost(path):
    """Lose a data file."""
    (Path(path) / next(iter(live_adds(path)))).unlink()


@edit
def data_file_cut_short(path):
    """Cut a data file short."""
    file = Path(path) / next(iter(live_adds(path)))
    file.write_bytes(file.read_bytes()[:100])


@edit
def data_file_replaced(path):
    """Put another of its data files in the place of one."""
    first, second, *_ = live_adds(path)
    (Path(path) / first).write_bytes((Path(path) / second).read_bytes())


@edit
def data_file_of_the_future(path):
    """Leave a file that was changed in the year 2096."""
    for name in ["stray.parquet", "notes.txt", "_delta_log/00000000000000000000.crc"]:
        file = Path(path) / name
        file.write_bytes(b"stray")
        os.utime(file, (3_976_214_400, 3_976_214_400))


@edit
def files_outside(path):
    """Name files in the log that lie outside of the table, or in its log."""
    outside = Path(path).parent / "outside.parquet"
    add = next(iter(live_adds(path).values()))
    shutil.copy(Path(path) / add["path"], outside)
    paths = [str(outside), f"file://{outside}", "../outside.parquet", "%2E%2E/outside.parquet", "s3://bucket/x.parquet",
             "", "_delta_log/00000000000000000000.json"]
    put_entry(path, *({"add": {**add, "path": other}} for other in paths[::2]))
    put_entry(path, *({"add": {**add, "path": other, "tags": None}} for other in paths[1::2]))


@edit
def files_of_others(path):
    """Leave files and folders of no writer."""
    for name in [".DS_Store", "_SUCCESS", "notes/readme.txt", "_delta_log/.tmp", "_delta_log/readme.md"]:
        file = Path(path) / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("stray")


@edit
def moved(path):
    """Move it elsewhere."""
    shutil.move(path, f"{path}.moved")


@edit
def moved_and_back(path):
    """Move it elsewhere, and back."""
    shutil.move(path, f"{path}.moved")
    shutil.move(f"{path}.moved", path)


@edit
def deleted(path):
    """Delete it."""
    shutil.rmtree(path)


@edit
def older_copy(path):
    """Put an older copy of it in its place."""
    copy_over(f"{path}.older", path)


@edit
def another_table(path):
    """Put another view's table in its place."""
    copy_over(f"{Path(path).parent}/q4", path)


@edit
def table_of_another_program(path):
    """Put a table of another program in its place."""
    rows = rows_of(path).select(["name", "city"])
    shutil.rmtree(path)
    append_rows(path, rows)


@edit
def another_table_of_the_kind(path):
    """Put the same view's table of another run in its place."""
    copy_over(f"{path}.other", path)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in EDITS:
        sys.exit("usage: edits.py NAME TABLE")
    EDITS[sys.argv[1]](Path(sys.argv[2]))
    # The edit is done. Libraries with threads of their own may abort a process that tears them down at its end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
