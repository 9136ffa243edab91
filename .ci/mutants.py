#!/usr/bin/env python3
"""Changes the code in small ways, one at a time, in a copy; a test must fail each time. By cargo-mutants.

    .ci/mutants.py [GROUP…] [--shard K/N]

The groups are states, corrections and shard; all of them if none is named. A shard is every Nth mutant from the Kth on, which is
a sample that can be had again, and how a long run is cut into stages. Fails if fewer than 95 of 100 are caught, and lists
those that are not, with what docs/mutants.md says of them. The copy, and all that is built of it, is in target/mutants.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target/tools"
WORK = ROOT / "target/mutants"
TREE = WORK / "tree"
VERSION = "27.0.0"
# Of those that compile.
CAUGHT_PERCENT_MIN = 95
# A mutant that goes on for ever is caught too.
TEST_SECONDS_MAX = 400
KNOWN = ROOT / "docs/mutants.md"

# The package, what is changed, and the tests that are to notice.
GROUPS = {
    "states": (
        "mvsink",
        ["src/mint.rs", "src/mint/standby.rs", "src/write.rs", "src/append.rs", "src/channel.rs", "src/write/disputes.rs"],
        ["--lib", "--test", "protocol", "--test", "exhaustive", "--test", "interleavings", "--", "--skip", "corrections::"],
    ),
    "corrections": (
        "mvsink",
        ["src/corrections.rs", "src/corrections/**/*.rs"],
        ["--lib", "--", "corrections::"],
    ),
    "shard": (
        "mvsink-persist",
        ["persist/src/commit.rs", "persist/src/follow.rs", "persist/src/compact.rs", "persist/src/compact/**/*.rs", "persist/src/gc.rs"],
        ["--lib", "--tests"],
    ),
}


def prepare():
    """The committed tree, beside what was built of an earlier one."""
    tool = TOOLS / "bin/cargo-mutants"
    if not tool.exists():
        install = ["cargo", "install", "--locked", "cargo-mutants", "--version", VERSION, "--root", TOOLS]
        subprocess.run(install, cwd=ROOT, check=True)
    TREE.mkdir(parents=True, exist_ok=True)
    for entry in TREE.iterdir():
        if entry.name != "target":
            subprocess.run(["rm", "-rf", entry], check=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", TREE], input=archive, check=True)
    return tool


def run(tool, group, shard):
    package, files, tests = GROUPS[group]
    output = WORK / f"{group}-{shard.replace('/', '-of-')}"
    subprocess.run(["rm", "-rf", output], check=True)
    output.mkdir(parents=True)
    command = [tool, "mutants", "--in-place", "--no-shuffle", "--sharding", "round-robin", "--shard", shard]
    command += ["--timeout", str(TEST_SECONDS_MAX), "--build-timeout", "1200", "--output", output]
    command += ["--package", package, "--test-package", package]
    for file in files:
        command += ["--file", file]
    # Survivors are told below.
    # Optimised a little: most of the time goes into the tests of properties.
    environment = {"PROPTEST_CASES": "16", "CARGO_PROFILE_DEV_OPT_LEVEL": "1", **os.environ}
    subprocess.run([*map(str, command), "--", *tests], cwd=TREE, env=environment)
    return json.loads((output / "mutants.out/outcomes.json").read_text())


def main():
    parser = argparse.ArgumentParser(description="Changes the code in small ways; a test must fail each time.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--shard", default="0/1", metavar="K/N")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    tool = prepare()
    explained = KNOWN.read_text() if KNOWN.exists() else ""
    weak = False
    for group in options.groups or GROUPS:
        outcomes = run(tool, group, options.shard)
        caught = outcomes["caught"] + outcomes["timeout"]
        viable = caught + outcomes["missed"]
        percent = 100 * caught / max(viable, 1)
        weak |= percent < CAUGHT_PERCENT_MIN
        print(f"{group}, shard {options.shard}: {caught} of {viable} caught, {percent:.1f} %; {outcomes['unviable']} do not compile")
        for outcome in outcomes["outcomes"]:
            if outcome["summary"] == "MissedMutant":
                name = outcome["scenario"]["Mutant"]["name"]
                # Lines move; what is changed does not.
                what = name.split(": ", 1)[-1]
                print(f"    {name}{'' if what in explained else '  NOT EXPLAINED'}")
    sys.exit(1 if weak else 0)


if __name__ == "__main__":
    main()
