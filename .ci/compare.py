#!/usr/bin/env python3
"""Checks the demo's tables with other people's readers.

    compare.py DIR [--times K]      recompute every view in SQL and compare it, exactly, at K or more times
    compare.py --same A B           two directories: every table has the same contents at every readable time

The tables are read with the `deltalake` package (the live files of the latest version) and compared in DuckDB;
no code of this repository takes part. The views' definitions are those of the demo's documentation, over the
source rows with mv_time <= t. Times t are such that every table is exact and complete there:
max(since) <= t < min(upper), the frontiers being the tables' `txn` versions, and i64::MAX the empty frontier.

Exit status: 0 if everything is equal, 1 if something differs (with up to ten rows) or cannot be read, 2 on bad usage.
"""

import argparse
import sys
from pathlib import Path

import duckdb
from deltalake import DeltaTable

EMPTY = 2**63 - 1
SOURCES = {
    "bid": "auction, bidder, price, channel, url, date_time, extra",
    "auction": "id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra",
    "person": "id, name, email_address, credit_card, city, state, date_time, extra",
}
# The columns of each view, and its rows at time {t} over the views bid_t, auction_t and person_t.
VIEWS = {
    "q0": ("auction, bidder, price, channel, url, date_time, extra", "SELECT * FROM bid_t"),
    "q1": (
        "auction, bidder, price, date_time, extra",
        "SELECT auction, bidder, price*908//1000 AS price, date_time, extra FROM bid_t",
    ),
    "q2": ("auction, price", "SELECT auction, price FROM bid_t WHERE auction % 123 = 0"),
    "q3": (
        "name, city, state, id",
        """SELECT p.name, p.city, p.state, a.id FROM auction_t a JOIN person_t p ON p.id = a.seller
           WHERE a.category = 10 AND p.state IN ('or','id','ca')""",
    ),
    "q4": (
        "category, price",
        """SELECT category, CAST(sum(final)//count(*) AS BIGINT) AS price FROM (
             SELECT a.id, a.category, max(b.price) AS final
             FROM auction_t a JOIN bid_t b ON b.auction = a.id
             WHERE b.date_time >= a.date_time AND b.date_time < a.expires AND a.expires <= {t}
             GROUP BY a.id, a.category)
           GROUP BY category""",
    ),
    "q5": (
        "window_start, auction, num",
        """SELECT window_start, auction, num FROM (
             SELECT *, max(num) OVER (PARTITION BY window_start) AS m FROM (
               SELECT (date_time//2000-k)*2000 AS window_start, auction, count(*) AS num
               FROM bid_t, range(5) r(k) GROUP BY ALL))
           WHERE num = m AND {t} < window_start + 40000""",
    ),
    "q8": (
        "id, name, window_start",
        """SELECT id, name, date_time//10000*10000 AS window_start FROM person_t p WHERE EXISTS (
             SELECT 1 FROM auction_t a
             WHERE a.seller = p.id AND a.date_time//10000 = p.date_time//10000)""",
    ),
}
SHOWN = 10


class Failure(Exception):
    """What is wrong, for the reader of the CI's log."""


class Shard:
    """One table, loaded into DuckDB as `name`, with its frontiers."""

    def __init__(self, db, directory, table, name):
        path = Path(directory) / table
        try:
            delta = DeltaTable(str(path))
            self.since = delta.transaction_version("mvsink.since")
            self.upper = delta.transaction_version("mvsink.upper")
            rows = delta.to_pyarrow_dataset().to_table()
        except Exception as error:
            raise Failure(f"{path}: cannot be read: {error}") from error
        if self.upper is None:
            raise Failure(f"{path}: no mvsink.upper")
        # A shard whose since was never moved is exact at every time.
        self.since = 0 if self.since is None else self.since
        self.table, self.path, self.version = table, path, delta.version()
        self.columns = [column for column in rows.column_names if not column.startswith("mv_")]
        # A copy, so that the scan of the Parquet files happens once.
        db.register("incoming", rows)
        db.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM incoming")
        db.unregister("incoming")
        errors = db.execute(f"SELECT count(*) FROM {name} WHERE mv_error IS NOT NULL").fetchall()[0][0]
        if errors:
            raise Failure(f"{path}: {errors} rows are errors")
        beyond = db.execute(
            f"SELECT count(*) FROM {name} WHERE mv_time IS NULL OR mv_diff IS NULL"
        ).fetchall()[0][0]
        if beyond:
            raise Failure(f"{path}: {beyond} rows without a time or a diff")

    def expect_columns(self, expected):
        if self.columns != expected.split(", "):
            raise Failure(f"{self.path}: columns {', '.join(self.columns)}, expected {expected}")


def frontier(value):
    return "(empty)" if value == EMPTY else value


def differing_rows(db, left, right):
    """Rows of two queries `(row…, mv_diff)` whose multiplicities differ, as left minus right."""
    return db.execute(
        f"""SELECT * EXCLUDE mv_diff, sum(mv_diff) AS mv_diff FROM (
              SELECT * FROM ({left}) UNION ALL SELECT * REPLACE (-mv_diff AS mv_diff) FROM ({right}))
            GROUP BY ALL HAVING sum(mv_diff) <> 0 ORDER BY ALL"""
    )


def report(label, relation):
    """Prints one line, and the first differing rows; true if there are none."""
    rows = relation.fetchall()
    if not rows:
        print(f"{label}  ok", flush=True)
        return True
    print(f"{label}  DIFFERENT in {len(rows)} rows", flush=True)
    names = [column[0] for column in relation.description]
    for row in rows[:SHOWN]:
        print("    " + "  ".join(f"{name}={value!r}" for name, value in zip(names, row)))
    return False


def choose_times(db, first, last, count):
    """At least three times in first..=last: a window's end, an auction's closing, the last; then evenly spread."""

    def newest(query):
        # The first half of the range leaves room for updates after it; fall back on all of it.
        for upto in (first + (last - first) // 2, last):
            time = db.execute(query, [first, upto]).fetchall()[0][0]
            if time is not None:
                return time
        return None

    times = {
        "upper-1": last,
        "window end": newest(
            """SELECT max(date_time//2000*2000 + 2000) FROM bid
               WHERE date_time//2000*2000 + 2000 BETWEEN ? AND ?"""
        ),
        "closing": newest("SELECT max(expires) FROM auction WHERE expires BETWEEN ? AND ?"),
        "window drop": newest(
            """SELECT max(date_time//2000*2000 + 40000) FROM bid
               WHERE date_time//2000*2000 + 40000 BETWEEN ? AND ?"""
        ),
    }
    chosen = {}
    for why, time in times.items():
        if time is not None:
            chosen.setdefault(time, why)
    for required in ("window end", "closing"):
        if times[required] is None:
            print(f"note: no {required} between {first} and {last}")
    spread = count
    while len(chosen) < max(count, 3) and spread < 64 + count:
        for step in range(1, spread):
            chosen.setdefault(first + (last - first) * step // spread, "between")
            if len(chosen) >= max(count, 3):
                break
        spread += 1
    if len(chosen) < 3:
        raise Failure(f"only {len(chosen)} times between {first} and {last} to compare at")
    return sorted(chosen.items())


def compare_views(directory, count):
    db = duckdb.connect()
    shards = []
    for source, columns in SOURCES.items():
        shard = Shard(db, directory, source, source)
        shard.expect_columns(columns)
        shards.append(shard)
    for view, (columns, _) in VIEWS.items():
        shard = Shard(db, directory, view, f"view_{view}")
        shard.expect_columns(columns)
        shards.append(shard)
    for shard in shards:
        print(
            f"{shard.table:<8} version {shard.version}  since {shard.since}  upper {frontier(shard.upper)}"
        )
    for shard in shards[: len(SOURCES)]:
        # Compaction may have advanced a row's time, but not beyond the since.
        wrong = db.execute(
            f"""SELECT count(*) FROM {shard.table} WHERE mv_time <> date_time
                AND NOT (date_time < mv_time AND mv_time <= {shard.since})"""
        ).fetchall()[0][0]
        if wrong:
            raise Failure(f"{shard.path}: {wrong} rows whose mv_time is not their date_time")
    first = max(shard.since for shard in shards)
    upper = min(shard.upper for shard in shards)
    if upper == EMPTY:
        # Nothing ends before the last update of any table.
        tables = [*SOURCES, *(f"view_{view}" for view in VIEWS)]
        union = " UNION ALL ".join(f"SELECT mv_time FROM {table}" for table in tables)
        upper = 1 + (db.execute(f"SELECT max(mv_time) FROM ({union})").fetchall()[0][0] or first)
    # Below the first event everything is empty: no use in comparing there.
    events = db.execute("SELECT min(mv_time) FROM bid").fetchall()[0][0]
    first = max(first, first if events is None else events)
    if first >= upper:
        raise Failure(f"no time is readable in every table: since {first}, upper {upper}")

    equal, seen = True, set()
    for time, why in choose_times(db, first, upper - 1, count):
        for source, columns in SOURCES.items():
            db.execute(
                f"""CREATE OR REPLACE TEMP TABLE {source}_t AS SELECT {columns}, sum(mv_diff) AS mv_diff
                    FROM {source} WHERE mv_time <= {time} GROUP BY ALL HAVING sum(mv_diff) <> 0"""
            )
            odd = db.execute(f"SELECT count(*) FROM {source}_t WHERE mv_diff <> 1").fetchall()[0][0]
            if odd:
                raise Failure(f"{source} at {time}: {odd} rows with a multiplicity other than 1")
            db.execute(f"ALTER TABLE {source}_t DROP COLUMN mv_diff")
        for view, (columns, query) in VIEWS.items():
            # A source row that occurs once may still give equal view rows: counts, not sets.
            expected = f"SELECT {columns}, 1::HUGEINT AS mv_diff FROM ({query.format(t=time)})"
            actual = f"SELECT {columns}, mv_diff::HUGEINT AS mv_diff FROM view_{view} WHERE mv_time <= {time}"
            rows = db.execute(f"SELECT count(*) FROM ({expected})").fetchall()[0][0]
            if rows:
                seen.add(view)
            label = f"{view}  at {time} ({why})  {rows} rows"
            equal &= report(label, differing_rows(db, actual, expected))
    empty = [view for view in VIEWS if view not in seen]
    if empty:
        raise Failure(f"never any rows, so nothing was compared: {', '.join(empty)}")
    return equal


def compare_directories(left, right):
    equal = True
    for table in [*SOURCES, *VIEWS]:
        # A connection a table: memory for one pair at a time.
        db = duckdb.connect()
        a, b = Shard(db, left, table, "a"), Shard(db, right, table, "b")
        b.expect_columns(", ".join(a.columns))
        since, upper = max(a.since, b.since), min(a.upper, b.upper)
        if since >= upper:
            raise Failure(f"{table}: no time is readable in both: since {since}, upper {frontier(upper)}")
        columns = ", ".join(a.columns)

        # Contents are equal at every time since..upper iff the updates are, with those up to the since taken
        # together and those that are not complete in both left out.
        def history(name):
            return f"""SELECT {columns}, greatest(mv_time, {since}) AS mv_time, mv_diff::HUGEINT AS mv_diff
                       FROM {name} WHERE greatest(mv_time, {since}) < {upper}"""

        updates = db.execute(
            f"""SELECT count(*) FROM (SELECT * EXCLUDE mv_diff, sum(mv_diff) AS mv_diff FROM ({history("a")})
                GROUP BY ALL HAVING sum(mv_diff) <> 0)"""
        ).fetchall()[0][0]
        label = f"{table:<8} from {since} until {frontier(upper)}  {updates} updates"
        equal &= report(label, differing_rows(db, history("a"), history("b")))
    return equal


def main():
    parser = argparse.ArgumentParser(
        description="Checks the demo's tables with other people's readers."
    )
    parser.add_argument("directory", nargs="?", metavar="DIR")
    parser.add_argument("--times", type=int, default=4, metavar="K", help="times to compare at (default 4)")
    parser.add_argument("--same", nargs=2, metavar=("A", "B"), help="compare two directories instead")
    options = parser.parse_args()
    if (options.directory is None) == (options.same is None):
        parser.error("either DIR or --same A B")
    if options.times < 3:
        parser.error("--times must be at least 3")
    try:
        equal = compare_directories(*options.same) if options.same else compare_views(options.directory, options.times)
    except Failure as failure:
        print(f"compare.py: {failure}", file=sys.stderr)
        return 1
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
