#!/usr/bin/env python3
"""Runs the README's example and its Python blocks as a reader would.

    readme.py EMBED      EMBED is the built examples/embed.rs

The two commands must be in the README; each Python block must print the view's three rows, read from the table that
the example wrote. (That the README quotes examples/embed.rs, and every flag, is a test of the workspace.)
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

COMMANDS = [
    "cargo run --release -p mvsink-cli -- run nexmark --dir data/nexmark --events 1000000 --workers 2",
    "cargo test --workspace",
]
WORDS = {"durable": 2, "sinks": 1, "views": 1}


def main():
    readme = Path(__file__).resolve().parent.parent.joinpath("README.md").read_text()
    for command in COMMANDS:
        if f"\n{command}\n" not in readme:
            sys.exit(f"readme.py: the README lacks the command {command}")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    if len(blocks) < 2:
        sys.exit("readme.py: the README has no Python blocks")
    embed = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as directory:
        # Twice: the second finds the view done.
        for _ in range(2):
            subprocess.run([embed, "data/embed"], cwd=directory, check=True)
        for block in blocks:
            run = subprocess.run([sys.executable, "-c", block], cwd=directory, capture_output=True, text=True)
            print(run.stdout, run.stderr, sep="", end="", flush=True)
            rows = {
                cells[0]: int(cells[1])
                for line in run.stdout.splitlines()
                if (cells := [cell.strip() for cell in re.split("[│┆]", line) if cell.strip()]) and cells[0] in WORDS
            }
            if run.returncode != 0 or rows != WORDS:
                sys.exit(f"readme.py: expected {WORDS}, got {rows} from\n{block}")


if __name__ == "__main__":
    main()
