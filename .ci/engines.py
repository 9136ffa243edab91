#!/usr/bin/env python3
"""Other people's engines on the demo's tables: they read what we read, and we survive what they write.

    engines.py MVSINK DIR       DIR is made anew; MVSINK is the command line's binary

Readers: Polars, DuckDB, PyArrow and `deltalake` find the same contents as `mvsink snapshot`, before and after a
compaction by us, and by them. Writers: `deltalake` appends, deletes, updates, merges, optimizes, vacuums, restores and
writes checkpoints, on tables of views that our sinks then go on writing, and while they are written; in the end every
view is what a directory holds that nobody has edited.

Exit status: 0 if everything is equal, 1 if something differs.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import polars
import pyarrow
import pyarrow.parquet
from deltalake import DeltaTable, write_deltalake

OURS = ["mv_error", "mv_time", "mv_diff"]
EVENTS = [40_000, 60_000, 80_000, 100_000, 120_000]


def mvsink(*arguments):
    run = subprocess.run([MVSINK, *map(str, arguments)], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"engines.py: {' '.join(map(str, arguments))}: {run.stderr.strip()}")
    return run.stdout


def demo(directory, events):
    mvsink("run", "nexmark", "--dir", directory, "--events", events, "--workers", 2)


def upper(table):
    return json.loads(mvsink("inspect", table, "--json"))["upper"]


def consolidated(rows):
    """Rows `(columns…, diff)` as a multiset."""
    counts = Counter()
    for *row, diff in rows:
        counts[tuple(row)] += diff
    return {row: count for row, count in counts.items() if count}


def snapshot(table, at):
    lines = mvsink("snapshot", table, "--as-of", at, "--format", "ndjson").splitlines()
    return consolidated(tuple(json.loads(line).values()) for line in lines)


def columns(table):
    return [field.name for field in DeltaTable(str(table)).schema().fields if field.name not in OURS]


def by_deltalake(table, at):
    return of_arrow(DeltaTable(str(table)).to_pyarrow_table(), columns(table), at)


def by_pyarrow(table, at):
    """The files alone, as the log names them."""
    tables = [pyarrow.parquet.read_table(file) for file in DeltaTable(str(table)).file_uris()]
    return of_arrow(pyarrow.concat_tables([without_views(table) for table in tables]), columns(table), at)


def without_views(table):
    """With strings as strings, however the writer of the file had them in memory."""
    text = pyarrow.string()
    fields = [field.with_type(text) if pyarrow.types.is_string_view(field.type) else field for field in table.schema]
    return table.cast(pyarrow.schema(fields))


def by_polars(table, at):
    names = columns(table)
    rows = polars.scan_delta(str(table)).filter(polars.col("mv_time") <= at).select(*names, "mv_diff").collect()
    return consolidated(rows.rows())


def by_duckdb(table, at):
    names = ", ".join(columns(table))
    dataset = DeltaTable(str(table)).to_pyarrow_dataset()
    db = duckdb.connect()
    db.register("t", dataset)
    return consolidated(db.execute(f"SELECT {names}, mv_diff FROM t WHERE mv_time <= {at}").fetchall())


def of_arrow(arrow, names, at):
    lists = [arrow.column(name).to_pylist() for name in ["mv_time", *names, "mv_diff"]]
    return consolidated(row[1:] for row in zip(*lists) if row[0] is not None and row[0] <= at)


READERS = {"deltalake": by_deltalake, "pyarrow": by_pyarrow, "polars": by_polars, "duckdb": by_duckdb}


def expect(label, found, expected):
    if found == expected:
        print(f"{label}  {len(expected)} rows  ok", flush=True)
        return
    odd = [row for row in found.keys() | expected.keys() if found.get(row) != expected.get(row)]
    for row in odd[:10]:
        print(f"    {row}: {found.get(row, 0)} instead of {expected.get(row, 0)}")
    sys.exit(f"engines.py: {label}: {len(odd)} rows differ")


def readers_agree(directory):
    """The same contents for everybody, whoever has rewritten the files."""
    for name in ["q0", "q4", "person"]:
        table = directory / name
        last = upper(table) - 1
        expected = {at: snapshot(table, at) for at in (last, last - last % 10_000)}
        steps = {
            "as written": lambda: None,
            "after our compaction": lambda: mvsink("compact", table, "--full"),
            "after their optimize": lambda: DeltaTable(str(table)).optimize.compact(target_size=1 << 40),
            "after their z-order": lambda: DeltaTable(str(table)).optimize.z_order(columns(table)[:1]),
            "after our compaction again": lambda: mvsink("compact", table, "--full"),
        }
        for step, rewrite in steps.items():
            rewrite()
            for at, rows in expected.items():
                expect(f"{name} {step}, mvsink at {at}", snapshot(table, at), rows)
                for reader, read in READERS.items():
                    expect(f"{name} {step}, {reader} at {at}", read(table, at), rows)
        mvsink("verify", table)


def live(table):
    return DeltaTable(str(table)).to_pyarrow_table()


def append(table):
    """Rows of theirs: copies at an old time, and some without a time."""
    some = live(table).slice(0, 5)
    write_deltalake(str(table), some, mode="append")
    timeless = some
    for name in ["mv_time", "mv_diff"]:
        index = timeless.schema.get_field_index(name)
        timeless = timeless.set_column(index, name, pyarrow.nulls(len(some), pyarrow.int64()))
    write_deltalake(str(table), timeless, mode="append")


def delete(table):
    DeltaTable(str(table)).delete("mv_time % 3 = 0")


def update(table):
    DeltaTable(str(table)).update(updates={"mv_diff": "mv_diff + 1"}, predicate="mv_time % 5 = 1")


def merge(table):
    column = columns(table)[0]
    # A row of the source may match many of the table's, and not the other way round.
    source = polars.from_arrow(live(table)).unique([column, "mv_time"], maintain_order=True).head(20).to_arrow()
    (
        DeltaTable(str(table))
        .merge(source, predicate=f"s.{column} = t.{column} AND s.mv_time = t.mv_time", source_alias="s", target_alias="t")
        .when_matched_delete(predicate="t.mv_diff = 1")
        .execute()
    )


def optimize(table):
    DeltaTable(str(table)).optimize.compact()


def vacuum(table):
    DeltaTable(str(table)).vacuum(dry_run=False)


def checkpoint(table):
    delta = DeltaTable(str(table))
    delta.create_checkpoint()
    delta.cleanup_metadata()


def restore(table):
    delta = DeltaTable(str(table))
    delta.restore(max(delta.version() - 2, 0))


def overwrite(table):
    write_deltalake(str(table), live(table).slice(0, 3), mode="overwrite")


EDITS = [append, delete, update, merge, optimize, vacuum, checkpoint, restore, overwrite]
# How a run ends that has found an edit when it had written all its times.
TOLD = re.compile(r"differs? from the view .* a view repairs its table with the next events: run again", re.DOTALL)
VIEWS = ["q0", "q1", "q2", "q3", "q4", "q8"]


def same_views(edited, whole, label):
    for name in VIEWS:
        at = min(upper(edited / name), upper(whole / name)) - 1
        expected = snapshot(whole / name, at)
        expect(f"{name} {label}, mvsink at {at}", snapshot(edited / name, at), expected)
        # What has no time is in no SQL's reckoning until a compaction has given it one.
        mvsink("compact", edited / name, "--full")
        for reader, read in READERS.items():
            expect(f"{name} {label}, {reader} at {at}", read(edited / name, at), expected)


def edits_are_repaired(directory):
    edited, whole = directory / "edited", directory / "whole"
    demo(edited, EVENTS[0])
    for index, events in enumerate(EVENTS[1:]):
        # Another edit for each table in each round, so that each table has seen most of them.
        for place, name in enumerate(VIEWS):
            edit = EDITS[(place + index * 3) % len(EDITS)]
            edit(edited / name)
            print(f"{name}: {edit.__name__}", flush=True)
        demo(edited, events)
    demo(whole, EVENTS[-1])
    same_views(edited, whole, "after edits between runs")


def upkeep_is_followed(directory):
    """Merges of all files, which are deleted at once, between runs: no table loses its past, and no input stops."""
    kept, whole = directory / "kept", directory / "kept-whole"
    for events in EVENTS[:4]:
        demo(kept, events)
        for table in sorted(kept.iterdir()):
            optimize(table)
            DeltaTable(str(table)).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    demo(kept, EVENTS[4])
    demo(whole, EVENTS[4])
    for table in sorted(kept.iterdir()):
        since = json.loads(mvsink("inspect", table, "--json"))["since"]
        if since != 0:
            sys.exit(f"engines.py: {table.name}: a merge was taken for an edit, its since is {since}")
    same_views(kept, whole, "after merges and vacuums between runs")


def edits_beside_a_run(directory):
    edited, whole = directory / "beside", directory / "beside-whole"
    demo(edited, 20_000)
    events = 150_000
    # A pipe that nobody reads would stop it.
    said = directory / "beside.stderr"
    run = subprocess.Popen(
        [MVSINK, "run", "nexmark", "--dir", edited, "--events", str(events), "--workers", "2", "--rate", "15000"],
        stdout=subprocess.DEVNULL,
        stderr=said.open("w"),
    )
    done = Counter()
    while run.poll() is None:
        for name in ["q0", "q3", "q8"]:
            edit = EDITS[(sum(done.values())) % len(EDITS)]
            try:
                edit(edited / name)
                done[edit.__name__] += 1
            except Exception as error:
                # They may lose the race with our commits: that is theirs to try again.
                done[f"{edit.__name__} failed: {type(error).__name__}"] += 1
            time.sleep(0.05)
    errors = said.read_text().strip()
    # An edit after the last time is told: nothing is left to repair it with.
    if run.returncode != 0 and not TOLD.search(errors):
        sys.exit(f"engines.py: the run beside the edits failed: {errors}")
    print(f"beside the run: {dict(done)}")
    # The last edits came when nobody was there to repair them.
    demo(edited, events + 10_000)
    demo(whole, events + 10_000)
    same_views(edited, whole, "after edits beside a run")


def main():
    directory = Path(sys.argv[2])
    shutil.rmtree(directory, ignore_errors=True)
    demo(directory / "read", 60_000)
    readers_agree(directory / "read")
    edits_are_repaired(directory)
    upkeep_is_followed(directory)
    edits_beside_a_run(directory)
    print("engines.py: all equal")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: engines.py MVSINK DIR")
    MVSINK = str(Path(sys.argv[1]).resolve())
    main()
