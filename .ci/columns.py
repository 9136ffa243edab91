#!/usr/bin/env python3
"""Dates, times, decimals, bytes and other types that our crates write are to other readers what they are.

    columns.py EXAMPLE DIR     EXAMPLE is the built persist/examples/types.rs; DIR is made anew

`deltalake` must declare each column's type, and deltalake, PyArrow, Polars and DuckDB must read the same two rows: as dates,
as moments in UTC, as decimals with all their digits, as bytes.

Exit status: 0 if everything is equal, 1 if something differs.
"""

import json
import shutil
import subprocess
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import polars
import pyarrow.parquet
from deltalake import DeltaTable

DECLARED = {
    "id": "long",
    "day": "date",
    "at": "timestamp",
    "local": "timestamp",
    "shipped": "timestamp",
    "price": "decimal(38,18)",
    "discount": "decimal(38,18)",
    "wide": "decimal(38,0)",
    "grade": "string",
    "key": "binary",
    "blob": "binary",
    "number": "binary",
    "address": "string",
    "days": "array<date>",
    "mv_error": "string",
    "mv_time": "long",
    "mv_diff": "long",
}


def utc(*parts):
    return datetime(*parts, tzinfo=timezone.utc)


def row(number, day, at, price, discount, shipped):
    return {
        "id": number,
        "day": day,
        "at": at,
        "local": at,
        "shipped": shipped,
        "price": Decimal(price),
        "discount": discount and Decimal(discount),
        "wide": Decimal("-" + 38 * "9"),
        "grade": "é",
        "key": bytes([0, 1, 254, 255]),
        "blob": bytes([7, 7, 7]),
        "number": bytes.fromhex("00112233445566778899aabbccddeeff"),
        "address": "2001:db8::1",
        "days": [day],
        "mv_error": None,
        "mv_time": 0,
        "mv_diff": 1,
    }


EXPECTED = [
    row(1, date(2026, 2, 28), utc(2026, 2, 28, 23, 59, 59, 123456), "1.5", None, None),
    row(2, date(1, 1, 1), utc(1969, 12, 31, 23, 59, 59, 500000), "-1e-18", "12.25", utc(2026, 3, 1)),
]


def by_deltalake(table):
    return DeltaTable(table).to_pyarrow_table().to_pylist()


def by_pyarrow(table):
    """The files alone, as the log names them."""
    return [row for file in DeltaTable(table).file_uris() for row in pyarrow.parquet.read_table(file).to_pylist()]


def by_polars(table):
    return polars.read_delta(table).to_dicts()


def by_duckdb(table):
    """The files alone, by its own reader of Parquet."""
    files = DeltaTable(table).file_uris()
    return duckdb.sql("SELECT * FROM read_parquet(?)", params=[files]).to_arrow_table().to_pylist()


def plain(value):
    """Moments and numbers that are equal are one value, whatever the reader's zone; other types differ."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no zone")
        return value.astimezone(timezone.utc)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def declared(field):
    kind = field["type"]
    return f"array<{kind['elementType']}>" if isinstance(kind, dict) else kind


def main():
    example, directory = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([example, directory], check=True)
    table = str(directory)
    fields = json.loads(DeltaTable(table).schema().to_json())["fields"]
    wrong = 0

    def expect(label, found, expected):
        nonlocal wrong
        for name, value in expected.items():
            if name not in found or found[name] != value or type(found[name]) is not type(value):
                wrong += 1
                print(f"{label}: {name} is {found.get(name)!r} instead of {value!r}")

    expect("declared", {field["name"]: declared(field) for field in fields}, DECLARED)
    for reader in [by_deltalake, by_pyarrow, by_polars, by_duckdb]:
        rows = sorted(reader(table), key=lambda row: row["id"])
        if len(rows) != len(EXPECTED):
            sys.exit(f"columns.py: {reader.__name__} finds {len(rows)} rows")
        for found, expected in zip(rows, EXPECTED):
            found = {name: plain(value) for name, value in found.items()}
            expect(f"{reader.__name__}, row {expected['id']}", found, expected)
        print(f"{reader.__name__[3:]}  {len(rows)} rows of {len(DECLARED)} columns", flush=True)
    if wrong:
        sys.exit(f"columns.py: {wrong} values are not what was written")


if __name__ == "__main__":
    main()
