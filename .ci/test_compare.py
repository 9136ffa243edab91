#!/usr/bin/env python3
"""Tests compare.py: right and wrong tables, written by the `deltalake` package alone."""

import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, Transaction, write_deltalake

COMPARE = Path(__file__).with_name("compare.py")
TEXT, INT = pa.string(), pa.int64()
SCHEMAS = {
    "bid": dict(auction=INT, bidder=INT, price=INT, channel=TEXT, url=TEXT, date_time=INT, extra=TEXT),
    "auction": dict(
        id=INT, item_name=TEXT, description=TEXT, initial_bid=INT, reserve=INT, date_time=INT,
        expires=INT, seller=INT, category=INT, extra=TEXT,
    ),
    "person": dict(
        id=INT, name=TEXT, email_address=TEXT, credit_card=TEXT, city=TEXT, state=TEXT, date_time=INT,
        extra=TEXT,
    ),
    "q1": dict(auction=INT, bidder=INT, price=INT, date_time=INT, extra=TEXT),
    "q2": dict(auction=INT, price=INT),
    "q3": dict(name=TEXT, city=TEXT, state=TEXT, id=INT),
    "q4": dict(category=INT, price=INT),
    "q5": dict(window_start=INT, auction=INT, num=INT),
    "q8": dict(id=INT, name=TEXT, window_start=INT),
}  # fmt: skip
SCHEMAS["q0"] = SCHEMAS["bid"]
VIEWS = ["q0", "q1", "q2", "q3", "q4", "q5", "q8"]
UPPER = 60_000


def sources(seed):
    """Distinct random rows, as tuples in column order."""
    rng = random.Random(seed)
    bids = [
        (rng.choice([123, 124, 125, 126]), rng.randrange(9), rng.randrange(100, 9999), "c", "u", rng.randrange(20_000), f"b{n}")
        for n in range(120)
    ]
    auctions = []
    for n in range(8):
        opens = rng.randrange(10_000)
        expires = opens + rng.randrange(1, 20_000)
        auctions.append((123 + n, "i", "d", 1, 2, opens, expires, rng.randrange(4), 10 + n % 2, "x"))
    people = [
        (n, f"p{n}", "e", "c", "town", rng.choice(["or", "id", "ca", "wa"]), rng.randrange(10_000), "x")
        for n in range(4)
    ]
    people[0] = people[0][:5] + ("or",) + people[0][6:]
    auctions[0] = auctions[0][:7] + (0, 10, "x")
    return {"bid": bids, "auction": auctions, "person": people}


def views(rows, t):
    """The contents of each view at t, by loops."""
    bids = [b for b in rows["bid"] if b[5] <= t]
    auctions = [a for a in rows["auction"] if a[5] <= t]
    people = [p for p in rows["person"] if p[6] <= t]
    result = {view: Counter() for view in VIEWS}
    for b in bids:
        result["q0"][b] += 1
        result["q1"][(b[0], b[1], b[2] * 908 // 1000, b[5], b[6])] += 1
        if b[0] % 123 == 0:
            result["q2"][(b[0], b[2])] += 1
    finals = {}
    for a in auctions:
        for p in people:
            if p[0] == a[7] and a[8] == 10 and p[5] in ("or", "id", "ca"):
                result["q3"][(p[1], p[4], p[5], a[0])] += 1
        prices = [b[2] for b in bids if b[0] == a[0] and a[5] <= b[5] < a[6] <= t]
        if prices:
            finals.setdefault(a[8], []).append(max(prices))
    for category, prices in finals.items():
        result["q4"][(category, sum(prices) // len(prices))] += 1
    counts = Counter((b[5] // 2000 * 2000 - 2000 * k, b[0]) for b in bids for k in range(5))
    for (window, auction), num in counts.items():
        most = max(n for (w, _), n in counts.items() if w == window)
        if num == most and t < window + 40_000:
            result["q5"][(window, auction, num)] += 1
    for p in people:
        if any(a[7] == p[0] and a[5] // 10_000 == p[6] // 10_000 for a in auctions):
            result["q8"][(p[0], p[1], p[6] // 10_000 * 10_000)] += 1
    return result


def histories(rows):
    """The updates of every table: [(row, time, diff)]."""
    updates = {"bid": [(r, r[5], 1) for r in rows["bid"]]}
    updates["auction"] = [(r, r[5], 1) for r in rows["auction"]]
    updates["person"] = [(r, r[6], 1) for r in rows["person"]]
    times = {time for table in updates.values() for _, time, _ in table}
    times |= {a[6] for a in rows["auction"]}
    times |= {b[5] // 2000 * 2000 - 2000 * k + 40_000 for b in rows["bid"] for k in range(5)}
    before = {view: Counter() for view in VIEWS}
    for view in VIEWS:
        updates[view] = []
    for time in sorted(times):
        after = views(rows, time)
        for view in VIEWS:
            change = Counter(after[view])
            change.subtract(before[view])
            updates[view] += [(row, time, diff) for row, diff in change.items() if diff]
        before = after
    return updates


def write(directory, updates, since=0, upper=UPPER, pieces=2, name_errors=()):
    for table, rows in updates.items():
        fields = [pa.field(name, kind) for name, kind in SCHEMAS[table].items()]
        fields += [pa.field("mv_error", TEXT), pa.field("mv_time", INT), pa.field("mv_diff", INT)]
        for piece in range(pieces):
            records = [
                (*row, "boom" if table in name_errors else None, time, diff)
                for row, time, diff in rows[piece::pieces]
            ]
            columns = list(zip(*records)) or [()] * len(fields)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, fields)]
            frontiers = [Transaction("mvsink.upper", upper), Transaction("mvsink.since", since)]
            write_deltalake(
                str(Path(directory) / table),
                pa.Table.from_arrays(arrays, schema=pa.schema(fields)),
                mode="append",
                commit_properties=CommitProperties(app_transactions=frontiers),
            )


def compare(*arguments):
    done = subprocess.run(
        [sys.executable, str(COMPARE), *map(str, arguments)], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def check(what, got, status, *texts):
    code, out, err = got
    ok = code == status and all(text in out + err for text in texts)
    print(f"{'ok  ' if ok else 'FAIL'} {what}")
    if not ok:
        print(f"exit {code}, expected {status} and {texts}\n{out}{err}")
        sys.exit(1)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        rows = sources(1)
        good = histories(rows)
        write(scratch / "good", good)
        check("right tables", compare(scratch / "good"), 0, "window end", "closing", "upper-1", "q8 ")
        check("more times", compare(scratch / "good", "--times", 9), 0)

        write(scratch / "open", good, upper=2**63 - 1)
        check("the empty frontier", compare(scratch / "open"), 0, "(empty)")

        for view in VIEWS:
            bad = {table: list(updates) for table, updates in good.items()}
            row, _, _ = bad[view][0]
            bad[view].append((row, 100, 1))
            write(scratch / f"bad-{view}", bad, pieces=1)
            check(f"a row too many in {view}", compare(scratch / f"bad-{view}"), 1, f"{view}  at", "DIFFERENT in 1 rows", "mv_diff=1\n")  # fmt: skip
            check(f"told apart: {view}", compare("--same", scratch / "good", scratch / f"bad-{view}"), 1, "DIFFERENT in 1 rows")  # fmt: skip

        late = {table: list(updates) for table, updates in good.items()}
        row, time, diff = late["q2"][0]
        late["q2"][0] = (row, time + 1, diff)
        write(scratch / "late", late)
        check("a millisecond late", compare("--same", scratch / "good", scratch / "late"), 1, "q2 ", "DIFFERENT in 2 rows")  # fmt: skip

        twice = {table: list(updates) for table, updates in good.items()}
        twice["bid"].append(twice["bid"][0])
        write(scratch / "twice", twice)
        check("a source row twice", compare(scratch / "twice"), 1, "multiplicity other than 1")

        check("the same", compare("--same", scratch / "good", scratch / "open"), 0)
        since = 20_000
        moved = {
            table: [(row, max(time, since), diff) for row, time, diff in updates if time < 50_000]
            for table, updates in good.items()
        }
        write(scratch / "moved", moved, since=since, upper=50_000, pieces=3)
        check("other frontiers, same contents", compare("--same", scratch / "good", scratch / "moved"), 0, f"from {since} until 50000")  # fmt: skip
        check("views above a since", compare(scratch / "moved"), 0, f"since {since}")

        early = {table: list(updates) for table, updates in good.items()}
        row, time, diff = early["bid"][0]
        early["bid"][0] = (row, time + 1, diff)
        write(scratch / "early", early)
        check("a source row at another time", compare(scratch / "early"), 1, "is not their date_time")

        write(scratch / "error", good, name_errors=["q4"])
        check("errors in a view", compare(scratch / "error"), 1, "are errors")
        never = {table: [] if table in ("person", "q3", "q8") else updates for table, updates in good.items()}
        write(scratch / "never", never)
        check("a view without rows", compare(scratch / "never"), 1, "never any rows", "q3, q8")
        check("no tables", compare(scratch / "absent"), 1, "cannot be read")
        check("bad usage", compare(), 2)
    print("compare.py does what it says")


if __name__ == "__main__":
    main()
