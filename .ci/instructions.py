#!/usr/bin/env python3
"""Counts the instructions of the hot paths under callgrind, and compares them with those that are committed.

    .ci/instructions.py [--update]

Counts do not depend on what else the machine does. Fails if a path takes a tenth more than benches/instructions.json says;
--update writes down what is counted. A compiler or a library may change them too: then update, and say why.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/instructions.json"
# How many times as many are too many.
RATIO_MAX = 1.1


def built():
    """The benchmark's executable."""
    command = ["cargo", "bench", "--workspace", "--bench", "instructions", "--no-run", "--message-format", "json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = (json.loads(line) for line in lines if line.startswith("{"))
    executables = [message["executable"] for message in messages if message.get("target", {}).get("name") == "instructions"]
    return executables[-1]


def counted(executable, path):
    """The instructions of a path, for each row."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]
    command += [f"--toggle-collect=*measured_{path}*", executable, path]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    collected = re.search(r"Collected : (\d+)", run.stdout)
    rows = re.search(rf"{path}: (\d+) rows", run.stdout)
    if run.returncode != 0 or not collected or not rows:
        sys.exit(f"{' '.join(command)}\n{run.stdout}")
    return int(collected.group(1)) / int(rows.group(1))


def main():
    parser = argparse.ArgumentParser(description="Counts the instructions of the hot paths.")
    parser.add_argument("--update", action="store_true", help="writes down what is counted")
    options = parser.parse_args()
    executable = built()
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    counts = {path: round(counted(executable, path), 1) for path in ["insert", "drain", "encode", "route"]}
    if options.update:
        BASELINE.write_text(json.dumps(counts, indent=2) + "\n")
    slower = False
    print(f"{'path':<8} {'per row':>10} {'before':>10} {'ratio':>7}")
    for path, count in counts.items():
        before = baseline.get(path)
        ratio = count / before if before else None
        slower |= ratio is None or ratio > RATIO_MAX
        print(f"{path:<8} {count:>10.1f} {before or '-':>10} {f'{ratio:.3f}' if ratio else '-':>7}")
    sys.exit(1 if slower and not options.update else 0)


if __name__ == "__main__":
    main()
