#!/usr/bin/env python3
"""Brings each situation of `situations.py` about on a view's table, and checks mvsink's answer.

    answers.py MVSINK DIR [NAME…]     DIR is made anew; NAME: only the situations whose edit is named like that

Other releases of the writers, and DuckDB with its extension, are installed below DIR's parent once: `WRITERS` says which.
Exit status: 0 if every answer is the expected one, 1 otherwise; every situation is tried either way.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet
from deltalake import DeltaTable

from situations import FOLLOWS, GROUPS, MENDS, REFUSES, REPAIRS

HERE = Path(__file__).resolve().parent
# Releases of `deltalake` beside that of requirements.txt: the last of the line before the kernel, and one that writes
# `"parts": 1` into the hint. DuckDB's extension fits one release of DuckDB only.
WRITERS = {
    "deltalake 0.25.5": ["deltalake==0.25.5"],
    "deltalake 1.0.2": ["deltalake==1.0.2"],
    "duckdb 1.5.5": ["duckdb==1.5.5", "duckdb-extension-delta==1.5.5"],
}
VIEW = "q3"
BEGUN, DONE, LATER = 20_000, 40_000, 50_000
# A run beside which a table is edited: about three seconds of it.
BESIDE, RATE = 60_000, 15_000
# A run must notice within half a minute that its table is another one.
ENDS_SECONDS_MAX = 60
RUN_SECONDS_MAX = 120


class Wrong(Exception):
    pass


def mvsink(*arguments):
    return subprocess.run([MVSINK, *map(str, arguments)], capture_output=True, text=True, timeout=RUN_SECONDS_MAX)


def must(*arguments):
    run = mvsink(*arguments)
    if run.returncode != 0:
        raise Wrong(f"`mvsink {' '.join(map(str, arguments))}` exits {run.returncode}: {run.stderr.strip()[-600:]}")
    return run.stdout


def demo(directory, events):
    return "run", "nexmark", "--dir", directory, "--events", events, "--workers", "2"


def upper(table):
    return json.loads(must("inspect", table, "--json"))["upper"]


def contents(table, at):
    """The multiset at a time, as `pyarrow` reads the live files that the log names."""
    counts = Counter()
    for file in DeltaTable(str(table)).file_uris():
        rows = pyarrow.parquet.ParquetFile(file).read()
        lists = [
            rows.column(name).to_pylist() if name in rows.column_names else [None] * len(rows)
            for name in ["mv_time", "name", "city", "state", "id", "mv_error", "mv_diff"]
        ]
        for when, *row, diff in zip(*lists):
            # A row without a time is at the upper, one without a multiplicity is there once.
            if when is None or when <= at:
                counts[tuple(row)] += 1 if diff is None else diff
    return {row: count for row, count in counts.items() if count}


def expect_view(table, label, others=True):
    """The view is the one that nobody has edited, for us and for another reader, and its files are what they should be."""
    at = min(upper(table), upper(WHOLE / VIEW)) - 1
    expected = contents(WHOLE / VIEW, at)
    lines = must("snapshot", table, "--as-of", at, "--format", "ndjson").splitlines()
    ours = Counter()
    for line in lines:
        row = json.loads(line)
        ours[tuple(row[name] for name in ["name", "city", "state", "id"]) + (None,)] += row["mv_diff"]
    readers = [("mvsink", dict(ours))] + ([("pyarrow", contents(table, at))] if others else [])
    for reader, found in readers:
        odd = [row for row in found.keys() | expected.keys() if found.get(row) != expected.get(row)]
        if odd:
            raise Wrong(f"{label}: {reader} finds {len(odd)} of {len(expected)} rows wrong, e.g. {odd[0]}: "
                        f"{found.get(odd[0], 0)} instead of {expected.get(odd[0], 0)}")
    must("verify", table)


def edit(name, table, writer=None):
    paths = [str(INSTALLED / writer)] if writer else []
    if name.endswith("duckdb"):
        paths = [str(INSTALLED / "duckdb 1.5.5")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, HERE / "edits.py", name, table], capture_output=True, text=True, env=environment)
    return run.returncode, run.stderr.strip()


def edited(name, table, writer=None):
    status, error = edit(name, table, writer)
    if status != 0:
        raise Wrong(f"the edit itself failed: {error[-600:]}")


def listing(table):
    """All files of the table, with hashes of what is in them."""
    return {
        str(file.relative_to(table)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(table).rglob("*")) if file.is_file()
    }


def prepare(directory):
    """A directory with the demo begun, an older copy of the view's table, and one of another run's."""
    shutil.copytree(BASE, directory)
    shutil.copytree(OLDER / VIEW, directory / f"{VIEW}.older")
    shutil.copytree(OTHER / VIEW, directory / f"{VIEW}.other")
    return directory / VIEW


def at_rest(situation, directory, writer=None):
    table = prepare(directory)
    edited(situation.edit, table, writer)
    if situation.answer == FOLLOWS:
        expect_view(table, "before the next run", situation.others)
    if situation.answer == REFUSES:
        refused(situation, table, directory)
        if not situation.undo:
            return
        edited(situation.undo, table)
    if situation.answer == MENDS:
        mended(situation, table)
    if situation.answer == REPAIRS:
        without_new_events(table, directory)
    # What others cannot read they can after the next run, but for rows of theirs that are only retracted.
    others = situation.others or situation.answer == FOLLOWS
    must(*demo(directory, DONE))
    expect_view(table, "after the next run", others)
    must(*demo(directory, LATER))
    expect_view(table, "after the run after that", others)


def without_new_events(table, directory):
    """A run that has nothing new to write says that the table differs, unless it does not."""
    run = mvsink(*demo(directory, BEGUN))
    if run.returncode == 0:
        expect_view(table, "after a run without new events", others=False)
    elif run.returncode != 1 or not re.search(f"differs from the view {VIEW} in .*--events", run.stderr):
        raise Wrong(f"a run without new events exits {run.returncode} and says: {run.stderr.strip()[-600:]}")


def expect_damage(situation, table):
    run = mvsink("verify", table, "--json")
    if run.returncode != 1 or len(run.stderr.splitlines()) != 1:
        raise Wrong(f"`mvsink verify` exits {run.returncode}: {run.stderr.strip()[-600:]}")
    kinds = {finding["kind"] for finding in json.loads(run.stdout)["findings"]}
    if not kinds or not set(situation.kinds) <= kinds:
        raise Wrong(f"`mvsink verify` names {sorted(kinds)}: {run.stdout[-600:]}")


def mended(situation, table):
    """The damage is named, and repaired once, as a dry run says."""
    expect_damage(situation, table)
    before = listing(table)
    command = situation.command.format(table).split()
    planned = json.loads(must(*command, "--dry-run", "--json"))
    if listing(table) != before:
        raise Wrong("a dry run changes the table")
    done = json.loads(must(*command, "--json"))
    if done["steps"] != planned["steps"] or not done["steps"]:
        raise Wrong(f"it is repaired by {done['steps']}, planned was {planned['steps']}")
    must("verify", table)
    before = listing(table)
    if not must(*command).startswith("nothing to repair\n") or listing(table) != before:
        raise Wrong("it is repaired twice")


def refused(situation, table, directory):
    before = listing(table)
    commands = [demo(directory, DONE), ("gc", table)]
    # A sound table, though not the view's, is merged as any other.
    if situation.edit != "another_table":
        commands.append(("compact", table))
    if situation.damage:
        expect_damage(situation, table)
    for command in commands:
        run = mvsink(*command)
        if run.returncode != 1:
            # Only what reads or writes rows meets what is wrong with rows.
            if command[0] in ("gc", "compact"):
                continue
            raise Wrong(f"`mvsink {command[0]}` exits {run.returncode} instead of 1: {run.stderr.strip()[-300:]}")
        errors = [line for line in run.stderr.splitlines() if line.startswith(("error", "mvsink"))] or run.stderr.splitlines()
        if command[0] == "run" and not re.search(situation.error, " ".join(errors), re.IGNORECASE):
            raise Wrong(f"`mvsink {command[0]}` says: {run.stderr.strip()[-600:]}")
        if "panicked" in run.stderr:
            raise Wrong(f"`mvsink {command[0]}` panics: {run.stderr.strip()[-600:]}")
    changed = {name for name, _ in before.items() ^ listing(table).items()}
    if changed:
        raise Wrong(f"it was written to although it was refused: {sorted(changed)[:5]}")


def beside(situation, directory, writer=None):
    table = prepare(directory)
    run = subprocess.Popen(
        [MVSINK, *map(str, demo(directory, BESIDE)), "--rate", str(RATE)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )
    try:
        # The run is under way when it has written to the view.
        known = len(list((table / "_delta_log").glob("*.json")))
        deadline = time.monotonic() + ENDS_SECONDS_MAX
        while run.poll() is None and len(list((table / "_delta_log").glob("*.json"))) == known:
            if time.monotonic() > deadline:
                raise Wrong("the run beside the edit writes nothing")
            time.sleep(0.01)
        for _ in range(20):
            # A writer that loses a race with our commits tries again.
            status, error = edit(situation.edit, table, writer)
            if status == 0:
                break
        else:
            raise Wrong(f"the edit itself failed: {error[-600:]}")
        if run.poll() is not None:
            raise Wrong("the run was over before the edit")
        seconds = ENDS_SECONDS_MAX if situation.ends else RUN_SECONDS_MAX
        try:
            _, errors = run.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Wrong(f"the run beside the edit still runs after {seconds} s") from None
    finally:
        run.kill()
        run.communicate()
    if situation.ends:
        if run.returncode != 1 or not re.search(situation.ends, errors, re.IGNORECASE):
            raise Wrong(f"the run exits {run.returncode} and says: {errors.strip()[-600:]}")
        if situation.edit in ("moved", "deleted") and table.exists():
            raise Wrong("the run made the table's directory again")
    elif run.returncode != 0:
        raise Wrong(f"the run beside the edit exits {run.returncode}: {errors.strip()[-600:]}")
    must(*demo(directory, BESIDE + 10_000))
    expect_view(table, "after a run beside the edit")


def install():
    for name, packages in WRITERS.items():
        if not (INSTALLED / name).is_dir():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", INSTALLED / f"{name}.new", *packages]
            subprocess.run(command, check=True)
            (INSTALLED / f"{name}.new").rename(INSTALLED / name)


def tried(case):
    """Tries one case and prints how it went; its name if the answer was wrong."""
    situation, label, function, writer = case
    name = f"{situation.edit} {label}"
    directory = DIR / re.sub("[^a-z0-9.]+", "-", name)
    begun = time.monotonic()
    try:
        function(situation, directory, writer)
    # Another reader that cannot read the table is as wrong as one that finds other rows.
    except Exception as error:
        print(f"{name}: {situation.answer}  WRONG: {type(error).__name__}: {error}", flush=True)
        return name
    print(f"{name}: {situation.answer}  {time.monotonic() - begun:.1f} s  ok", flush=True)
    shutil.rmtree(directory)
    return None


def run(binary, directory, names=()):
    global MVSINK, DIR, INSTALLED, BASE, OLDER, OTHER, WHOLE
    MVSINK, DIR = str(Path(binary).resolve()), Path(directory).resolve()
    INSTALLED = DIR.parent / "writers"
    shutil.rmtree(DIR, ignore_errors=True)
    DIR.mkdir(parents=True)
    install()
    BASE, OLDER, OTHER, WHOLE = DIR / "base", DIR / "older", DIR / "other", DIR / "whole"
    must(*demo(OLDER, BEGUN // 2))
    shutil.copytree(OLDER, BASE)
    for events in [BEGUN * 3 // 4, BEGUN]:
        must(*demo(BASE, events))
    must(*demo(OTHER, BEGUN))
    must(*demo(WHOLE, BESIDE + 20_000))
    cases = []
    for situation in (situation for situations in GROUPS.values() for situation in situations):
        wanted = not names or any(name in situation.edit for name in names)
        if not wanted:
            continue
        cases.append((situation, "at rest", at_rest, None))
        cases += [(situation, f"at rest, by {writer}", at_rest, writer) for writer in WRITERS
                  if situation.old_writers and writer.startswith("deltalake")]
        if situation.beside:
            cases.append((situation, "beside a run", beside, None))
    # Those beside a run mostly wait for it, so as many as there are cores go on at once.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wrong = [name for name in pool.map(tried, cases) if name]
    tries = len(cases)
    print(f"answers.py: {tries - len(wrong)} of {tries} answers as expected")
    if wrong:
        sys.exit("answers.py: wrong: " + ", ".join(wrong))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: answers.py MVSINK DIR [NAME…]")
    run(sys.argv[1], sys.argv[2], sys.argv[3:])
