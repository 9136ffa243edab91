#!/usr/bin/env python3
"""Real processes in trouble: two replicas of the demo on a disk, and two on a bucket, both at once.

    chaos.py MVSINK DIR [--seconds 300] [--seed S] [--only disk|bucket]      DIR is made anew; MVSINK is the command line's binary

| trouble | where | what happens |
|---|---|---|
| kill | both | `kill -9`, at times while the process is frozen; it is started again at once |
| freeze | both | SIGSTOP, and SIGCONT up to eight seconds later: the other one has gone on meanwhile |
| full | disk | a small file system of its own is filled up to the last few kilobytes, for some seconds |
| read-only | disk | it is mounted read-only, for some seconds |
| slow, cut, refuse | bucket | a proxy delays chunks, cuts connections in the middle, or takes none |
| upkeep | both | `compact --full` and `gc` beside the replicas, some of them killed |

A replica may give up where no patience helps, on a disk that is read-only; anything else that ends one is a failure, and
so is a panic. Then all is well again, the disk is larger, everybody is killed once more, and one last run finishes the work. What it leaves
must be exact to other people's readers (`compare.py`) and the same as an uninterrupted run's, by updates.

The disk is a tmpfs, so this takes root or sudo. The bucket is moto's. The seed decides on the troubles and their times; how
they meet the processes is the machine's.
"""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3

from proxy import Proxy

HERE = Path(__file__).parent
# Events a second of each replica: so few that a run outlasts the troubles, so many that there is always something to do.
RATE = {"disk": 3_000, "bucket": 300}
DISK_MIB = 512
# Nobody deletes what dead readers hold until their leases have lapsed, so a disk that is full of it needs room first.
ENLARGED_MIB = 4096
# Of files that were merged: longer than anybody is frozen, who still reads them one by one.
GRACE_SECONDS = 30
MIB = 1024 * 1024
TABLES = ["bid", "auction", "person", "q0", "q1", "q2", "q3", "q4", "q5", "q8"]
PATIENCE_SECONDS = 600


class Replica:
    """A run of the demo that is started again whenever it ends."""

    def __init__(self, place, name):
        self.place, self.name = place, name
        self.lock, self.process, self.ours = threading.Lock(), None, False
        self.wanted = True
        threading.Thread(target=self._supervise, daemon=True).start()

    def _supervise(self):
        while self.wanted:
            with self.lock:
                self.process, self.ours = self.place.demo(self.place.rate), False
            _, error = self.process.communicate()
            status, error = self.process.returncode, error.strip()
            if not self.ours:
                self.place.ended(self.name, status, error)
                time.sleep(0.2)

    def signal(self, number):
        with self.lock:
            if self.process is not None and self.process.poll() is None:
                self.ours = self.ours or number == signal.SIGKILL
                self.process.send_signal(number)

    def end(self):
        self.wanted = False
        self.signal(signal.SIGKILL)


class Place:
    """Where the tables of two replicas are, and what can happen to them there."""

    def __init__(self, name, seconds, seed):
        self.name, self.rate, self.events = name, RATE[name], RATE[name] * seconds
        self.seed, self.deadline = seed, None
        self.done, self.failures = Counter(), []

    def demo(self, rate=None):
        command = [MVSINK, "--log", "error", "run", "nexmark", "--dir", self.url, "--events", str(self.events), "--workers", "2"]
        command += ["--rate", str(rate)] if rate else []
        return self.command(command)

    def command(self, command):
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )

    def ended(self, who, status, error):
        if status == 1 and self.may_give_up(error):
            self.done["gave up"] += 1
        else:
            self.failures.append(f"{who} ended with status {status}: {error}")

    def rng(self, what):
        return random.Random(f"{self.seed} {self.name} {what}")

    def going_on(self):
        return time.monotonic() < self.deadline

    def trouble_processes(self):
        rng = self.rng("processes")
        while self.going_on():
            time.sleep(rng.uniform(0.1, 3))
            victim = rng.choice(self.replicas)
            kind = rng.choice(["kill", "freeze", "freeze and kill"])
            self.done[kind] += 1
            if kind != "kill":
                victim.signal(signal.SIGSTOP)
                time.sleep(rng.uniform(0.1, 8))
            victim.signal(signal.SIGKILL if kind != "freeze" else signal.SIGCONT)

    def trouble_upkeep(self):
        rng = self.rng("upkeep")
        while self.going_on():
            time.sleep(rng.uniform(0.5, 4))
            table = f"{self.url}/{rng.choice(TABLES)}"
            how = rng.choice([["compact", table, "--full"], ["gc", table, "--grace", f"{GRACE_SECONDS}s"]])
            upkeep = self.command([MVSINK, *how])
            try:
                _, error = upkeep.communicate(timeout=rng.uniform(0.05, 1) if rng.random() < 0.5 else 60)
            except subprocess.TimeoutExpired:
                upkeep.kill()
                upkeep.communicate()
                self.done["upkeep killed"] += 1
                continue
            # It reports what the store does to it; whoever called it calls it again.
            self.done[f"{how[0]} failed" if upkeep.returncode else how[0]] += 1
            if upkeep.returncode not in (0, 1):
                self.failures.append(f"{' '.join(how)} ended with status {upkeep.returncode}: {error.strip()}")

    def trouble_world(self):
        rng = self.rng("world")
        while self.going_on():
            time.sleep(rng.uniform(0.1, 4))
            kind = rng.choice(self.world)
            seconds = rng.uniform(0.2, 5)
            self.done[kind] += 1
            getattr(self, kind.replace("-", "_"))(rng, seconds)

    def run(self, seconds):
        self.deadline = time.monotonic() + seconds
        self.replicas = [Replica(self, f"{self.name} {name}") for name in "ab"]
        together(self.trouble_processes, self.trouble_upkeep, self.trouble_world)
        for replica in self.replicas:
            replica.end()

    def finish(self):
        """One run without trouble, to the end."""
        inspect = self.command([MVSINK, "inspect", f"{self.url}/q0", "--json"])
        self.upper = json.loads(inspect.communicate(timeout=PATIENCE_SECONDS)[0])["upper"]
        last = self.demo()
        try:
            _, error = last.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            last.kill()
            _, error = last.communicate()
            self.failures.append(f"the last run does not end; it said at last: {error.strip()[-2000:]}")
            return
        if last.returncode:
            self.failures.append(f"the last run ended with status {last.returncode}: {error.strip()}")


class Disk(Place):
    world = ["full", "read-only"]

    def __init__(self, directory, seconds, seed):
        super().__init__("disk", seconds, seed)
        self.mount = directory / "disk"
        self.tables = self.mount / "tables"
        self.url, self.env = str(self.tables), os.environ
        self.mount.mkdir()
        root("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=777", "tmpfs", self.mount)

    def finish(self):
        root("mount", "-o", f"remount,size={ENLARGED_MIB}m", self.mount)
        super().finish()

    def may_give_up(self, error):
        return "Read-only file system" in error

    def full(self, rng, seconds):
        ballast = self.mount / "ballast"
        left = rng.randrange(256 * 1024)
        try:
            with open(ballast, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(MIB)) == MIB:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                file.truncate(max(file.tell() - left, 0))
            time.sleep(seconds)
        except OSError as error:
            self.done[f"full: {error.strerror}"] += 1
        finally:
            ballast.unlink(missing_ok=True)

    def read_only(self, rng, seconds):
        # Refused while a file is open for writing.
        for _ in range(1_000):
            if root("mount", "-o", "remount,ro", self.mount, check=False).returncode == 0:
                time.sleep(seconds)
                root("mount", "-o", "remount,rw", self.mount)
                return
            time.sleep(0.005)
        self.done["read-only was refused"] += 1

    def local(self):
        return self.tables

    def close(self):
        root("umount", "-l", self.mount)


class Bucket(Place):
    world = ["slow", "cut", "refuse"]

    def __init__(self, directory, seconds, seed):
        super().__init__("bucket", seconds, seed)
        self.copy = directory / "bucket"
        port = subprocess.run(
            [sys.executable, HERE / "buckets.py", "port"], capture_output=True, text=True, check=True
        ).stdout.strip()
        self.server = subprocess.Popen([sys.executable, HERE / "s3_server.py", port])
        self.endpoint = f"http://127.0.0.1:{port}"
        subprocess.run([sys.executable, HERE / "buckets.py", "s3", self.endpoint], check=True)
        self.proxy = Proxy(int(port), seed)
        self.url = "s3://mvsink/tables"
        self.env = os.environ | {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ALLOW_HTTP": "true",
        }

    def may_give_up(self, error):
        return False

    def slow(self, rng, seconds):
        self.proxy.delay = rng.uniform(0.01, 1)
        self._calm_after(seconds)

    def cut(self, rng, seconds):
        self.proxy.cut = rng.uniform(0.02, 0.5)
        self._calm_after(seconds)

    def refuse(self, rng, seconds):
        self.proxy.refuse = True
        self._calm_after(seconds)

    def _calm_after(self, seconds):
        time.sleep(seconds)
        self.proxy.calm()

    def local(self):
        """A copy, for readers of directories."""
        s3 = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
        )
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket="mvsink", Prefix="tables/"):
            for found in page["Contents"]:
                path = self.copy / found["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file("mvsink", found["Key"], str(path))
        print(f"bucket: {self.proxy.connections} connections, {self.proxy.cuts} cut")
        return self.copy / "tables"

    def close(self):
        self.server.kill()


def together(*calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        for call in [pool.submit(call) for call in calls]:
            call.result()


def root(*command, check=True):
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    return subprocess.run([*sudo, *map(str, command)], check=check, stderr=None if check else subprocess.DEVNULL)


def exact(place, directory):
    """By other people's readers, and beside an uninterrupted run."""
    tables, whole = place.local(), directory / f"whole-{place.name}"
    subprocess.run(
        [MVSINK, "run", "nexmark", "--dir", whole, "--events", str(place.events), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    compare = [sys.executable, HERE / "compare.py"]
    for arguments in ([tables, "--times", "8"], ["--same", tables, whole]):
        if subprocess.run([*compare, *arguments]).returncode:
            place.failures.append(f"{place.name}: the tables are not exact")
    for table in TABLES:
        verified = subprocess.run([MVSINK, "verify", tables / table], capture_output=True, text=True)
        if verified.returncode:
            place.failures.append(f"{place.name}: {table}: {verified.stderr.strip()}")


def main():
    parser = argparse.ArgumentParser(description="Real processes in trouble.")
    parser.add_argument("mvsink", metavar="MVSINK")
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--only", choices=["disk", "bucket"], help="one of the places")
    options = parser.parse_args()
    global MVSINK
    MVSINK = str(Path(options.mvsink).resolve())
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True)
    print(f"chaos of {options.seconds} s, --seed {options.seed}", flush=True)

    places = []
    try:
        for name, kind in (("disk", Disk), ("bucket", Bucket)):
            if options.only in (None, name):
                places.append(kind(options.directory, options.seconds, options.seed))
        together(*(lambda place=place: place.run(options.seconds) for place in places))
        for place in places:
            print(f"{place.name}: {dict(place.done)}", flush=True)
            place.finish()
            print(f"{place.name}: the upper of q0 was {place.upper} before the last run", flush=True)
            exact(place, options.directory)
    finally:
        for place in places:
            for replica in getattr(place, "replicas", []):
                replica.end()
            place.close()
    failures = [failure for place in places for failure in place.failures]
    for failure in failures:
        print(f"chaos.py: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
