#!/usr/bin/env python3
"""Changes the code in small ways, one at a time, in a copy; a test must fail each time. By cargo-mutants.

    .ci/mutants.py [GROUP…] [--sample N] [--seed S] [--quick] [--again]

A sample is drawn from the seed, the same for the same code. What the quick tests of a group let live, slower ones are tried
on. What was caught is written down, and not tried again while the file it is in stays as it is, so that the same
command goes on where it was interrupted; --again starts over.

Fails if fewer than 95 of 100 are caught, and lists those that are not, and whether docs/mutants.md speaks of them. The copy,
and all that is built of it, is in target/mutants.
"""

import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target/tools"
WORK = ROOT / "target/mutants"
TREE = WORK / "tree"
VERSION = "27.0.0"
# Of those that compile.
CAUGHT_PERCENT_MIN = 95
# Tried at once, between two notes of what came of them.
CHUNK = 20
KNOWN = ROOT / "docs/mutants.md"
# What a test needs to fail, and no more: most of the time goes into building.
ENVIRONMENT = {"PROPTEST_MAX_SHRINK_ITERS": "0", "CARGO_PROFILE_DEV_DEBUG": "0", **os.environ}

# The package, what is changed, and the tests that are to notice, the quick ones first: which they are, arguments for
# them, how many cases each property is given, and the seconds after which a mutant counts as one that goes on for ever,
# which is caught too.
GROUPS = {
    "states": (
        "mvsink",
        ["src/mint.rs", "src/mint/standby.rs", "src/write.rs", "src/write/disputes.rs", "src/append.rs"],
        [
            (["--lib"], ["--skip", "corrections::"], 32, 120),
            (["--test", "exhaustive", "--test", "protocol"], [], 32, 240),
            (["--test", "sink"], [], 32, 1200),
        ],
    ),
    "channel": (
        "mvsink",
        ["src/channel.rs", "src/write/rest.rs"],
        [
            (["--lib", "--test", "interleavings"], ["--skip", "corrections::"], 32, 120),
            (["--test", "sink"], [], 32, 1200),
        ],
    ),
    "corrections": (
        "mvsink",
        ["src/corrections.rs", "src/corrections/**/*.rs", "src/route.rs"],
        [
            (["--lib"], ["corrections::", "route::"], 4, 200),
            (["--lib"], ["corrections::", "route::"], 256, 2400),
        ],
    ),
    "shard": (
        "mvsink-persist",
        ["persist/src/commit.rs", "persist/src/follow.rs", "persist/src/compact.rs", "persist/src/compact/**/*.rs", "persist/src/gc.rs", "persist/src/local.rs", "persist/src/staging.rs"],
        [
            (["--lib", "--test", "commit", "--test", "compact", "--test", "gc", "--test", "shard", "--test", "cleaning", "--test", "holds", "--test", "writing"], [], 32, 240),
            (["--tests"], [], 32, 2400),
        ],
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
    subprocess.run(["tar", "-x", "-m", "-C", TREE], input=archive, check=True)
    return tool


def tested(tool, group, mutants, phase, baseline):
    """The outcome of each of these mutants by its name, after the tests of this phase."""
    package, _, phases = GROUPS[group]
    which, arguments, cases, seconds = phases[phase]
    output = WORK / f"{group}-{phase}"
    subprocess.run(["rm", "-rf", output], check=True)
    output.mkdir(parents=True)
    command = [tool, "mutants", "--in-place", "--no-shuffle", "--timeout", seconds, "--build-timeout", 1200, "--output", output]
    command += ["--baseline", baseline, "--package", package, "--test-package", package]
    # It tries each missing field of a struct in these files, whatever else it is asked for.
    for file in sorted({mutant.split(":", 1)[0] for mutant in mutants}):
        command += ["--file", file]
    for mutant in mutants:
        command += ["--re", f"^{re.escape(mutant)}$"]
    # For the build too, which would else be of all tests and examples.
    command += [f"--cargo-arg={argument}" for argument in which]
    subprocess.run([*map(str, command), "--", "--", *arguments], cwd=TREE, env={**ENVIRONMENT, "PROPTEST_CASES": str(cases)})
    outcomes = json.loads((output / "mutants.out/outcomes.json").read_text())["outcomes"]
    mutants = (outcome for outcome in outcomes if outcome["scenario"] != "Baseline")
    return {outcome["scenario"]["Mutant"]["name"]: outcome["summary"] for outcome in mutants}


def listed(tool, package, files):
    command = [tool, "mutants", "--list", "--package", package]
    for file in files:
        command += ["--file", file]
    return subprocess.run(command, cwd=TREE, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def versions():
    """The version of each file of the copy."""
    listing = subprocess.run(["git", "ls-tree", "-r", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = (line.split(None, 3) for line in listing.splitlines())
    return {path: version for _, _, version, path in lines}


class Notes:
    """What was tried before, in the same versions of the files."""

    def __init__(self, group):
        self.path = WORK / f"{group}.json"
        self.versions = versions()
        self.outcomes = json.loads(self.path.read_text()) if self.path.exists() else {}

    def key(self, mutant):
        return f"{self.versions[mutant.split(':', 1)[0]]} {mutant}"

    def get(self, mutant):
        return self.outcomes.get(self.key(mutant))

    def add(self, outcomes):
        self.outcomes |= {self.key(mutant): outcome for mutant, outcome in outcomes.items()}
        written = self.path.with_suffix(".new")
        written.write_text(json.dumps(self.outcomes, indent=1))
        written.rename(self.path)


def tried(tool, group, mutants, notes, phases):
    """Tries those of which nothing is known, or that lived; gives all outcomes."""
    # That the tests pass on what is not changed is seen once.
    baseline = "run"
    for phase in range(phases):
        left = [mutant for mutant in mutants if notes.get(mutant) in (None, "MissedMutant")]
        for at in range(0, len(left), CHUNK):
            notes.add(tested(tool, group, left[at : at + CHUNK], phase, baseline))
            baseline = "skip"
    return {mutant: notes.get(mutant) for mutant in mutants}


def main():
    parser = argparse.ArgumentParser(description="Changes the code in small ways; a test must fail each time.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--sample", type=int, metavar="N", help="how many of each group's mutants; all if not given")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="draws the sample (default 1)")
    parser.add_argument("--quick", action="store_true", help="leaves out the slowest tests of a group")
    parser.add_argument("--again", action="store_true", help="forgets what was caught before")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    tool = prepare()
    # As a table has them.
    explained = KNOWN.read_text().replace("\\|", "|") if KNOWN.exists() else ""
    weak = False
    for group in options.groups or GROUPS:
        begun = time.monotonic()
        package, files, phases = GROUPS[group]
        mutants = every = listed(tool, package, files)
        if options.sample is not None:
            drawn = set(random.Random(options.seed).sample(every, min(options.sample, len(every))))
            mutants = [mutant for mutant in every if mutant in drawn]
        if options.again:
            (WORK / f"{group}.json").unlink(missing_ok=True)
        outcomes = tried(tool, group, mutants, Notes(group), len(phases) - options.quick)
        missed = [mutant for mutant, outcome in outcomes.items() if outcome not in ("CaughtMutant", "Timeout", "Unviable")]
        viable = sum(outcome != "Unviable" for outcome in outcomes.values())
        percent = 100 * (viable - len(missed)) / max(viable, 1)
        weak |= percent < CAUGHT_PERCENT_MIN
        print(
            f"{group}: {viable - len(missed)} of {viable} caught, {percent:.1f} %; {len(outcomes) - viable} do not compile; "
            f"{len(mutants)} of {len(every)}, seed {options.seed}; {time.monotonic() - begun:.0f} s"
        )
        for mutant in missed:
            # Lines move; what is changed does not.
            what = mutant.split(": ", 1)[-1]
            print(f"    {mutant}{'' if what in explained else '  NOT EXPLAINED'}", flush=True)
    sys.exit(1 if weak else 0)


if __name__ == "__main__":
    main()
