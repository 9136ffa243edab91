#!/usr/bin/env python3
"""Removes the guards behind the requirements one by one, in a copy of the sources; a test must fail each time.

    .ci/guards.py [NAME…]     all of them, or those of these requirements, or of "protocol" or "retry"

Prints a table, and fails if a guard can be removed unseen or is not where it was. The copy is target/guards. What the
requirements are is in docs/requirements.md; those of the protocol are at the top of src/mint.rs, src/write.rs and
src/append.rs, and are to be seen by the search of all schedules, by random ones or by the simulations.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
TREE = ROOT / "target/guards"
# Not the root's: Cargo would take what is built of one for the other's.
BUILD = ROOT / "target/guards/target"
# A test that waits for ever has failed too; the searches of schedules only take long.
TEST_SECONDS_MAX = 300
SCHEDULES_SECONDS_MAX = 1800
# What a guard of the protocol must be seen within.
SIMULATIONS = "1000"
SCHEDULES = ("--test exhaustive --test protocol --test simulation", "")


@dataclass
class Guard:
    """One guard: what stands in a file, what it is replaced by, and the tests of which one must fail."""

    name: str
    what: str
    file: str
    old: str
    new: str
    # `--test NAME` or `--lib`, and a part of the tests' names.
    target: str
    tests: str


GUARDS = [
    Guard(
        "R1", "an entry says whose it is", "persist/src/commit.rs",
        "        id: Some(id),\n",
        "        id: Some(id).filter(|_| false),\n",
        "--test commit", "r01_",
    ),
    Guard(
        "R2", "computations run beside the tasks", "persist/src/cpu.rs",
        "handle.spawn_blocking(move || {",
        "handle.spawn(async move {",
        "--lib", "r02_an_unrelated",
    ),
    Guard(
        "R2 permits", "only so many computations run at once", "persist/src/cpu.rs",
        "Semaphore::new(permits.max(1))",
        "Semaphore::new(permits.max(64))",
        "--lib", "r02_no_more",
    ),
    Guard(
        "R3", "who waits for its turn is polled", "persist/src/cpu.rs",
        """                let mut waiting = JoinSet::new();
                let task = async move { Ok::<_, AcquireError>(start(turn.await?).await) };
                waiting.spawn_on(task, &self.handle);
                match waiting.join_next().await {
                    Some(Ok(Ok(ended))) => ended,
                    _ => return Err(Error::Shutdown),
                }
""",
        """                match turn.await {
                    Ok(permit) => start(permit).await,
                    Err(_) => return Err(Error::Shutdown),
                }
""",
        "--lib", "r03_",
    ),
    Guard(
        "R4", "the flag is read before anything is rendered", "src/sink.rs",
        """    let driver = Driver::of(cx.configs());
    let target = target.into();
""",
        """    let target = target.into();
    let driver = Driver::of(cx.configs());
""",
        "--test sink", "r04_a_flag_flipped",
    ),
    Guard(
        "R5 R27", "a commit takes a part of every worker", "src/append.rs",
        "if waiting.parts.len() < self.peers {",
        "if waiting.parts.len() < (self.peers - 1).max(1) {",
        "--test protocol", "r05_r27_",
    ),
    Guard(
        "R6", "mint learns that the shard is final", "src/mint.rs",
        "if self.upper.is_some_and(|upper| frontier <= upper) {",
        "if frontier.is_empty() || self.upper.is_some_and(|upper| frontier <= upper) {",
        "--test protocol", "r06_",
    ),
    Guard(
        "R7", "an upper below the as-of is moved first", "src/mint.rs",
        "let behind = Frontier::At(upper) < self.as_of;",
        "let behind = false;",
        "--test protocol", "r07_",
    ),
    Guard(
        "R8", "who is read-only mints nothing", "src/mint.rs",
        "if self.read_only || self.failed {",
        "if self.failed {",
        "--test protocol", "r08_",
    ),
    Guard(
        "R8 consolidation", "who only reads adds up what others write", "src/write/store.rs",
        """                    self.err.advance(since);
                    self.consolidate();
""",
        """                    self.err.advance(since);
""",
        "--test sink", "r08_corrections",
    ),
    Guard(
        "R9", "partitions are consolidated when they have doubled", "src/corrections/partition.rs",
        "self.limit = (2 * kept).max(CONSOLIDATE_MIN);",
        "self.limit = kept + 1;",
        "--lib", "r09_",
    ),
    Guard(
        "R10", "corrections beyond their budget go to disk", "src/write/store.rs",
        "self.ok.wants_relief() || self.err.wants_relief()",
        "false",
        "--test memory", "r10_",
    ),
    Guard(
        "R11", "what was staged in vain is deleted", "src/worker.rs",
        "let delete = Box::pin(shard.delete_files_with(files, &stalled));",
        "let delete = Box::pin(shard.delete_files_with(&files[..0], &stalled));",
        "--test sink", "leave_nothing",
    ),
    Guard(
        "R11 writing", "a deletion waits for what is being written", "persist/src/staging.rs",
        "            inner.staging.is_written(path).await;\n",
        "",
        "--test writing", "what_is_deleted_while",
    ),
    Guard(
        "R11 wind-up", "a stop ends what is being staged", "src/write/operator.rs",
        ".retain(|id, _| more && staging == Some(*id));",
        ".retain(|id, _| more && staging == Some(*id) && false);",
        "--test sink", "r11_",
    ),
    Guard(
        "R12", "the frontier is the shard's, whatever was read back", "src/handle.rs",
        """        let upper = self.worker.instance.upper();
        // An upper""",
        """        let upper = self.worker.instance.upper().filter(|_| self.is_hydrated());
        // An upper""",
        "--test sink", "r12_",
    ),
    Guard(
        "R13", "hydrated means durable beyond the as-of", "src/write/operator.rs",
        """        } else if past(persist) {
            None
""",
        """        } else if past(persist) || true {
            None
""",
        "--test sink", "r13_",
    ),
    Guard(
        "R14", "what is queued is metered", "src/channel.rs",
        "        meter.updates.fetch_add(weight.updates, Ordering::Relaxed);\n",
        "",
        "--test sink", "r14_",
    ),
    Guard(
        "R15", "commands that come out of order trip an assertion", "src/channel.rs",
        "            self.last < Some((activation, phase)),\n",
        "            true,\n",
        "--lib", "r15_",
    ),
    Guard(
        "R16", "an upper below the as-of is moved first", "src/mint.rs",
        "let behind = Frontier::At(upper) < self.as_of;",
        "let behind = false;",
        "--test sink", "r16_",
    ),
    Guard(
        "R17", "the since does not pass a hold", "persist/src/commit.rs",
        "let since = to.min(state.holds().least_frontier());",
        "let since = to;",
        "--test holds", "r17_",
    ),
    Guard(
        "R17 first", "the workers of a source begin with one version", "src/source.rs",
        "reading.as_of().is_some() && worker.peers > 1",
        "reading.as_of().is_some() && worker.peers > usize::MAX - 1",
        "--test sink", "cluster::a_source",
    ),
    Guard(
        "R17 gone", "who finds the next file deleted reads on from a snapshot", "src/source/task.rs",
        "if self.read.load(Ordering::Relaxed) == read &&",
        "if read == u64::MAX &&",
        "--test sink", "cleaned::",
    ),
    Guard(
        "failures", "a source that fails is told of in all processes", "src/source.rs",
        "                speaker.alarm();\n",
        "                let _ = speaker;\n",
        "--test sink", "cluster::a_source",
    ),
    Guard(
        "R18", "who loses a round knows it", "src/append/task.rs",
        """                tracing::debug!(%actual, "lost to a rival");
                Outcome::Lost
""",
        """                tracing::debug!(%actual, "lost to a rival");
                Outcome::Done
""",
        "--test sink", "r18_",
    ),
    Guard(
        "R19", "idle tasks keep no room for what they rarely do", "src/worker.rs",
        "                Box::pin(async {\n                    let shard = self.open(task).await?;",
        "                (async {\n                    let shard = self.open(task).await?;",
        "--test memory", "r19_",
    ),
    Guard(
        "R20", "a number hashes as it is stored", "persist/src/fingerprint/serializer.rs",
        "self.row.put_float(value);",
        "self.row.put_raw(&value.to_le_bytes());",
        "--test codec", "r20_",
    ),
    Guard(
        "R21", "an append without files is committed", "persist/src/commit.rs",
        "            Plan::Put(Box::new(append_commit(\n                &inner.storage,\n                state,\n                &append,\n",
        """            if append.files.is_empty() {
                let version = state.progress().version;
                return Plan::Done(Ok(Appended::Committed { version }));
            }
            Plan::Put(Box::new(append_commit(
                &inner.storage,
                state,
                &append,
""",
        "--test commit", "r21_",
    ),
    Guard(
        "R21 files", "an entry is put once its files are written", "persist/src/commit.rs",
        "            written?;\n",
        "            drop(written);\n",
        "--test writing", "a_file_that_is_given_up",
    ),
    Guard(
        "R22", "a worker without rows sends its part", "src/write/operator.rs",
        "                    self.send(description, Content::Staged(staged));\n",
        """                    if !staged.files.is_empty() {
                        self.send(description, Content::Staged(staged));
                    }
""",
        "--test sink", "r22_",
    ),
    Guard(
        "R22 rest", "a task that may hold something is asked", "src/write/rest.rs",
        "let at_rest = self.sent > 0 && self.rested.load(Ordering::Acquire) == self.sent;",
        "let at_rest = self.sent > 0;",
        "--lib", "a_task_that_may_hold_something_is_asked",
    ),
    Guard(
        "R23", "checkpoints hold the frontiers", "persist/src/log/state.rs",
        "txns: self.txns.values().cloned().collect(),",
        "txns: Vec::new(),",
        "--test shard", "r23_",
    ),
    Guard(
        "R24", "edits by others are told from ours", "persist/src/log/state.rs",
        "    changes && !ours\n",
        "    changes && !ours && false\n",
        "--test sink", "r24_",
    ),
    Guard(
        "R25", "replicas that disagree are found out", "src/write/disputes.rs",
        "const DISPUTED: u32 = 3 * DISAGREEMENT;",
        "const DISPUTED: u32 = 300 * DISAGREEMENT;",
        "--test sink", "r25_",
    ),
    Guard(
        "R26", "an append begins at the shard's upper", "persist/src/commit.rs",
        "            if upper != append.lower {\n",
        "            if upper > append.upper {\n",
        "--test sink", "r26_",
    ),
    Guard(
        "R28", "who meets a tombstone of its own file fails", "persist/src/commit.rs",
        "if let Some(file) = files.find(|file| state.is_removed(&file.path)) {",
        "if let Some(file) = files.find(|file| state.is_removed(&file.path) && false) {",
        "--test sink", "r28_",
    ),
    Guard(
        "R29", "after a long put the log is looked at again", "persist/src/commit.rs",
        "            let is_stale = tail.is_stale(env);\n",
        "            let is_stale = tail.is_stale(env) && false;\n",
        "--test cleaning", "r29_",
    ),
    Guard(
        "protocol", "mint: the as-of does not stand in for the upper", "src/mint.rs",
        "let behind = Frontier::At(upper) < self.as_of;",
        "let behind = false;\n        let upper = self.as_of.time().map_or(upper, |as_of| as_of.max(upper));",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "mint: one description for each upper", "src/mint.rs",
        "        self.bumping.is_some() || minted && !self.vanished\n",
        "        self.bumping.is_some() || minted && false\n",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "mint: bump first", "src/mint.rs",
        "let behind = Frontier::At(upper) < self.as_of;",
        "let behind = false;",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "mint: read-only writes nothing", "src/mint.rs",
        "if self.read_only || self.failed {",
        "if self.failed {",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "mint: what is final ends the descriptions", "src/mint.rs",
        "if self.upper.is_some_and(|upper| frontier <= upper) {",
        "if frontier.is_empty() || self.upper.is_some_and(|upper| frontier <= upper) {",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: one part for each description", "src/write.rs",
        "                    effects.push(Effect::SendObsolete(older));\n",
        "",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: a batch waits for all of its updates", "src/write.rs",
        "self.persist == Frontier::At(next.lower) && self.desired >= next.upper",
        "self.persist == Frontier::At(next.lower)",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: what was lost is given back", "src/write.rs",
        "effects.push(Effect::SettleLost(lost.id));",
        "effects.push(Effect::SettleOwn(lost.id));",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: what was committed is dropped", "src/write.rs",
        "effects.push(Effect::SettleOwn(id));",
        "effects.push(Effect::SettleLost(id));",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: times advance with the read-back", "src/write.rs",
        "                    effects.push(Effect::Advance(frontier));\n",
        "",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: settled first", "src/write.rs",
        "if self.start != Start::Settled || self.staging.is_some() {",
        "if self.staging.is_some() {",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: parts in the order of descriptions", "src/write.rs",
        "if self.start != Start::Settled || self.staging.is_some() {",
        "if self.start != Start::Settled {",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "write: what was staged ahead in vain is recalled", "src/write.rs",
        "if self.ahead.take_if(|at| frontier.is_complete(at)).is_some() {",
        "if self.ahead.take_if(|at| frontier.is_complete(at)).is_some() && false {",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "append: a part of every worker", "src/append.rs",
        "if waiting.parts.len() < self.peers {",
        "if waiting.parts.len() < (self.peers - 1).max(1) {",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "append: what was lost is deleted", "src/append.rs",
        "Outcome::Lost | Outcome::Vanished => delete(files, effects),",
        "Outcome::Lost | Outcome::Vanished => {}",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "append: what was given up, and may land yet, is the sweeper's", "src/append.rs",
        "                    Outcome::Cancelled => {}\n",
        "                    Outcome::Cancelled => delete(files, effects),\n",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "append: parts that come too late are deleted", "src/append.rs",
        """                delete(staged.files, effects);
            }
            return;
""",
        """                drop(staged);
            }
            return;
""",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "append: what is committed is not deleted", "src/append.rs",
        "                    Outcome::Done => {}\n",
        "                    Outcome::Done => delete(files, effects),\n",
        *SCHEDULES,
    ),
    Guard(
        "protocol", "the shard: only at the upper", "persist/src/commit.rs",
        "            if upper != append.lower {\n",
        "            if upper > append.upper {\n",
        *SCHEDULES,
    ),
    Guard(
        "failures", "what opening a shard waits for is told", "src/worker.rs",
        "client.open(url, create, &stalled)",
        "client.open(url, create, &|_| ())",
        "--test sink", "statuses::",
    ),
    Guard(
        "retry", "deleting what was staged in vain", "persist/src/storage.rs",
        "const DELETE_RETRIES: u32 = 6;",
        "const DELETE_RETRIES: u32 = 0;",
        *SCHEDULES,
    ),
    Guard(
        "retry", "reading a data file", "src/source/files.rs",
        'worker.retry("read", || shard.read_file(path)).await?;',
        "shard.read_file(path).await?;",
        *SCHEDULES,
    ),
    Guard(
        "retry", "every call of the store", "persist/src/storage.rs",
        "        self.env.retry(on_retry, operation).await\n",
        "        let _ = on_retry;\n        let mut operation = operation;\n        operation().await\n",
        *SCHEDULES,
    ),
]


def copy_sources() -> None:
    """Brings the copy to where the sources are, touching only what differs, so that little is built again."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in names:
        source, copy = ROOT / name, TREE / name
        if not source.exists():
            continue
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    known = set(names)
    for copy in TREE.rglob("*.rs"):
        name = copy.relative_to(TREE)
        if name.parts[0] != "target" and str(name) not in known:
            copy.unlink()


def run(command: list[str], seconds: float | None) -> tuple[int | None, str]:
    """The exit status, or None after so many seconds, and all that was printed."""
    environment = {"SIMULATIONS": SIMULATIONS, **os.environ, "CARGO_TARGET_DIR": str(BUILD)}
    process = subprocess.Popen(
        command, cwd=TREE, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        return process.returncode, printed
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def removed(guard: Guard) -> tuple[bool, str]:
    """Whether a test fails without the guard, and which, or what went wrong."""
    file = TREE / guard.file
    text = file.read_text()
    if text.count(guard.old) != 1:
        return False, f"not found once in {guard.file}"
    cargo = ["cargo", "test", "--workspace", "--locked", *guard.target.split()]
    try:
        file.write_text(text.replace(guard.old, guard.new))
        built, printed = run([*cargo, "--no-run"], None)
        if built != 0:
            print(printed, file=sys.stderr)
            return False, "does not compile"
        # Cargo stops at the first binary of which a test fails.
        longest = TEST_SECONDS_MAX if guard.tests else SCHEDULES_SECONDS_MAX
        status, printed = run([*cargo, "--", guard.tests], longest)
    finally:
        file.write_text(text)
    if status is None:
        return True, f"{guard.tests} does not end"
    failed = [line.split()[1] for line in printed.splitlines() if line.endswith("... FAILED")]
    if status != 0 and failed:
        return True, failed[0]
    return False, "NOT SEEN" if status == 0 else f"exit status {status}"


def main() -> int:
    wanted = sys.argv[1:]
    guards = [g for g in GUARDS if not wanted or set(wanted) & set(g.name.split())]
    if not guards:
        print("there is no such guard", file=sys.stderr)
        return 2
    TREE.mkdir(parents=True, exist_ok=True)
    copy_sources()
    unseen = 0
    for guard in guards:
        begun = time.monotonic()
        seen, how = removed(guard)
        unseen += not seen
        seconds = time.monotonic() - begun
        print(f"{'ok ' if seen else 'BAD'} {guard.name:<18} {guard.what:<58} {how} ({seconds:.0f} s)", flush=True)
    print(f"{len(guards) - unseen} of {len(guards)} guards are seen when they are removed")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
