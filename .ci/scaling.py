#!/usr/bin/env python3
"""How cost grows with what is asked of the sink: curves, by `mvsink bench`.

    .ci/scaling.py MVSINK DIR [--only CURVE]… [--runs N] [--small]

Each point is the median of the runs, in processes and places of their own below DIR; the runs of a curve take turns, so that
what else the machine does meets all of its points. Writes docs/performance/scaling.json, of which curves that were not
measured now are kept, and docs/performance/scaling.svg.

What is drawn is the cost of one unit (of a row, a commit, a sink's tick): a flat line is linear, and n log n rises by the ratio of
the logarithms. Fails if the cost of a unit at the end of a curve is beyond that ratio, and half as much again for noise, above the
median of the curve: then something is worse than n log n. --small ends each curve early, and writes nothing.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs/performance/scaling.json"
PLOTS = ROOT / "docs/performance/scaling.svg"
NOISE = 1.5
# Fewer updates than these in a run measure how a sink starts, not what an update costs.
UPDATES_MIN = 1_000_000


def ticks_of(updates):
    return max(5, min(2000, 2 * UPDATES_MIN // updates))


# Each curve: what grows, through which sizes; the workload and its arguments at a size; how many units that is; what a unit is; whether
# the store is memory, where a disk's own limits would hide ours.
CURVES = {
    "rows": (
        "rows of a snapshot", [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 50_000_000],
        "bulk", lambda n: ["--rows", n], lambda n: n, "row", False,
    ),
    "tick": (
        "updates of a tick", [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000],
        "steady", lambda n: ["--tick-updates", n + n % 2, "--ticks", ticks_of(n)], lambda n: ticks_of(n) * (n + n % 2), "update", False,
    ),
    "sinks": (
        "idle sinks, ten ticks a second", [1, 10, 50, 100, 300, 1_000],
        "idle", lambda n: ["--sinks", n, "--ticks", max(20, 100 // n)], lambda n: n * max(20, 100 // n), "sink's tick", True,
    ),
    "workers": (
        "workers", [1, 2, 3, 4],
        "bulk", lambda n: ["--workers", n, "--rows", UPDATES_MIN], lambda n: UPDATES_MIN, "row", False,
    ),
    "replicas": (
        "replicas in one process", [1, 2, 3],
        "bulk", lambda n: ["--replicas", n, "--rows", UPDATES_MIN], lambda n: n * UPDATES_MIN, "row of one replica", False,
    ),
    "times": (
        "times of a snapshot's rows", [1, 10, 100, 1_000, 10_000, 100_000],
        "bulk", lambda n: ["--times", n, "--rows", UPDATES_MIN], lambda n: UPDATES_MIN, "row", False,
    ),
    "history": (
        "commits of a shard's history", [10, 100, 1_000, 10_000, 100_000],
        "latency", lambda n: ["--ticks", n], lambda n: n, "commit", True,
    ),
}
# What a process does once is no cost of a unit: sizes below are drawn, and not judged.
JUDGED_FROM = {"tick": 1_000, "history": 1_000, "sinks": 10}


def measured(mvsink, directory, workload, arguments, in_memory):
    """One run, as `mvsink bench` has each of its own made."""
    workers = arguments[arguments.index("--workers") + 1] if "--workers" in arguments else 1
    with tempfile.TemporaryDirectory(dir=directory) as place:
        where = "memory://scaling" if in_memory else place
        command = [mvsink, "bench", "--only", workload, "--dir", where, "--row", f"sync,{workers}", *map(str, arguments)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed)


def curve(mvsink, directory, name, runs, small):
    _, sizes, workload, arguments, units, _, in_memory = CURVES[name]
    sizes = sizes[:2] if small else sizes
    points = {size: [] for size in sizes}
    for _ in range(runs):
        for size in sizes:
            points[size].append(measured(mvsink, directory, workload, arguments(size), in_memory))
    figures = []
    for size, rows in points.items():
        median = lambda key: statistics.median(row[key] for row in rows) if rows[0][key] is not None else None
        figures.append({
            "size": size,
            "cpu_ns": median("cpu_s") * 1e9 / units(size),
            "wall_ns": median("wall_s") * 1e9 / units(size),
            "peak_mib": median("peak_bytes") / 2**20,
            "p50_ms": median("p50_ms"),
            "p99_ms": median("p99_ms"),
        })
        print(name, json.dumps(figures[-1]), flush=True)
    return figures


def is_sound(name, figures):
    """Whether the cost of a unit grows no faster than the logarithm."""
    judged = [point for point in figures if point["size"] >= JUDGED_FROM.get(name, 0)]
    if len(judged) < 2:
        return True
    first, last = judged[0], judged[-1]
    ratio = last["cpu_ns"] / statistics.median(point["cpu_ns"] for point in judged)
    allowed = NOISE * math.log(max(last["size"], 2)) / math.log(max(first["size"], 2))
    print(f"{name}: the last unit costs {ratio:.2f} times the median one, allowed {allowed:.2f}")
    return ratio <= allowed


def draw(curves):
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "mvsink"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(CURVES), 2, figsize=(10, 2.6 * len(CURVES)), layout="constrained")
    for (left, right), (name, (title, *_, unit, _)) in zip(axes, CURVES.items()):
        points = curves.get(name, [])
        sizes = [point["size"] for point in points]
        left.plot(sizes, [point["cpu_ns"] for point in points], marker="o", label="processor")
        if name != "sinks":
            # Their time is their clock's.
            left.plot(sizes, [point["wall_ns"] for point in points], marker="x", linestyle="--", label="real time")
        left.set_ylabel(f"ns a {unit}")
        left.legend(frameon=False)
        right.plot(sizes, [point["peak_mib"] for point in points], marker="o", color="tab:green")
        right.set_ylabel("MiB above idle")
        for axis in (left, right):
            axis.set_xlabel(title)
            if name == "tick" and axis is left:
                # Most ticks bring few updates: a commit's cost is then theirs.
                axis.set_yscale("log")
            else:
                axis.set_ylim(bottom=0)
            if name not in ("workers", "replicas"):
                axis.set_xscale("log")
            axis.grid(alpha=0.3)
    PLOTS.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOTS, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description="How cost grows with what is asked of the sink.")
    parser.add_argument("mvsink", metavar="MVSINK")
    parser.add_argument("dir", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--only", action="append", choices=CURVES, metavar="CURVE", help=", ".join(CURVES))
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    curves = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    sound = True
    for name in options.only or CURVES:
        curves[name] = curve(options.mvsink, options.dir, name, options.runs, options.small)
        sound &= is_sound(name, curves[name])
        if not options.small:
            FIGURES.parent.mkdir(parents=True, exist_ok=True)
            FIGURES.write_text(json.dumps(curves, indent=1) + "\n")
    if not options.small:
        draw(curves)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
