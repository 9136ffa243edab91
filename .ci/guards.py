#!/usr/bin/env python3
"""Removes the guards behind the requirements one by one, in a copy of the sources; a test must fail each time.

    .ci/guards.py [NAME…]     all of them, or those of these names: requirements, or as "protocol", "retry" or "gaps"

Prints a table, and fails if a guard can be removed unseen or is not where it was. The copy is target/guards. What the
requirements are is in docs/requirements.md; those of the protocol are at the top of src/mint.rs, src/write.rs and
src/append.rs, and are to be seen by the search of all schedules, by random ones or by the simulations.
The others are what mends, follows or refuses what the world does to a table, and what a user meets.
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
        "            Plan::Put(Box::new(append_commit(\n                &inner.storage,\n                state,\n                append,\n",
        """            if append.files.is_empty() {
                let version = state.progress().version;
                return Plan::Done(Ok(Appended::Committed { version }));
            }
            Plan::Put(Box::new(append_commit(
                &inner.storage,
                state,
                append,
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
        "            let is_due = tail.is_stale(env) || is_last(&commit);\n",
        "            let is_due = is_last(&commit);\n",
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
        "hints", "the hint only saves a listing", "persist/src/open.rs",
        """            Err(error) => error.into_unusable()?,
        };""",
        """            Err(error) => {
                let why = error.into_unusable()?.to_string();
                return Err(Error::Unsupported { url: self.url.to_string(), why });
            }
        };""",
        "--test hints", "whatever_the_hint_says",
    ),
    Guard(
        "hints", "a hint that misleads is replaced", "persist/src/open.rs",
        "            log.is_misled = true;\n",
        "            log.is_misled = false;\n",
        "--test hints", "the_next_commit_has_a_checkpoint",
    ),
    Guard(
        "replaced", "no write makes a directory anew", "persist/src/local.rs",
        "        let mut file = match File::create_new(&beside) {\n",
        """        let _ = fs::create_dir_all(path.parent().unwrap_or(path));
        let mut file = match File::create_new(&beside) {
""",
        "--test replaced", "a_put_never",
    ),
    Guard(
        "replaced", "an entry follows its predecessor", "persist/src/local.rs",
        "let founded = tail.map_or(Ok(true), |tail| has_tail(&folder, &tail));",
        "let founded = tail.map_or(Ok(true), |tail| has_tail(&folder, &tail).map(|found| found || true));",
        "--test replaced", "nothing_is_put_into_an_older_copy",
    ),
    Guard(
        "replaced", "the log is still the one that was opened", "persist/src/replay.rs",
        "        if entry.is_some_and(|found| found != anchor.evidence) {\n",
        "        if entry.is_some_and(|found| found != anchor.evidence) && false {\n",
        "--test replaced", "within_half_a_minute",
    ),
    Guard(
        "replaced", "who writes checks its table within half a minute", "persist/src/replay.rs",
        "        let interval = CONFIRM_INTERVAL_MAX.min(env.options.log_min_age / 4);\n",
        "        let interval = env.options.log_min_age / 4;\n",
        "--test replaced", "within_half_a_minute",
    ),
    Guard(
        "replaced", "garbage collection looks whether it is its table", "persist/src/follow.rs",
        "        self.read_to_end(true, true, on_retry).await\n",
        "        self.read_to_end(false, true, on_retry).await\n",
        "--test replaced", "what_has_the_place_of_a_table",
    ),
    Guard(
        "lost", "a missing file is noticed", "persist/src/damage.rs",
        "Err(object_store::Error::NotFound { .. }) => Ok(Some(Damage::Missing)),",
        "Err(object_store::Error::NotFound { .. }) => Ok(Some(Damage::Missing).filter(|_| false)),",
        "--test damaged_files", "missing_files",
    ),
    Guard(
        "lost", "a view removes lost files at its start", "src/source/start.rs",
        "            if let Some(damage) = damaged.get(&file.path) {\n",
        "            if let Some(damage) = damaged.get(&file.path).filter(|_| false) {\n",
        "--test sink", "damage::",
    ),
    Guard(
        "lost", "a running view removes lost files", "src/source/read.rs",
        "let condemns = exactly.is_some() || on_damage == OnDamage::Condemn;",
        "let condemns = exactly.is_some() || on_damage == OnDamage::Condemn && false;",
        "--test sink", "a_running_view_drops_references",
    ),
    Guard(
        "lost", "an ingest sink fails by a lost file", "src/source/task.rs",
        "                if let Some((path, damage)) = damaged.first_key_value() {\n",
        "                if let Some((path, damage)) = damaged.first_key_value().filter(|_| false) {\n",
        "--test sink", "an_ingest_sink_names_the_damaged_file",
    ),
    Guard(
        "gaps", "an opener lists what lies beyond the end", "persist/src/replay.rs",
        "                    if beyond.last().is_none() {\n",
        "                    if beyond.last().is_none() || true {\n",
        "--test gaps", "opening_refuses",
    ),
    Guard(
        "gaps", "a put looks for the entry after its slot", "persist/src/commit.rs",
        "            if beyond? {\n",
        "            if beyond? && false {\n",
        "--test gaps", "refuses_a_gap_and_writes_nothing",
    ),
    Guard(
        "gaps", "a follower lists what lies beyond the end", "persist/src/follow.rs",
        "let listing = checked.is_some() && lock(&self.log).is_listing_due(&storage.env);",
        "let listing = checked.is_some() && lock(&self.log).is_listing_due(&storage.env) && false;",
        "--test gaps", "a_follower_notices_a_wide_gap",
    ),
    Guard(
        "gaps", "who catches up looks for the entry after the next", "persist/src/follow.rs",
        "                None if listing || probe => {\n",
        "                None if listing || probe && false => {\n",
        "--test gaps", "refuses_a_gap_and_writes_nothing",
    ),
    Guard(
        "times", "a file in the future is not the present", "persist/src/gc.rs",
        "            true => storage.ask_time().await,\n",
        "            true => storage.ask_time().await.map(|now| now.max(listed.newest)),\n",
        "--test gc", "in_the_future_makes_no_other_old",
    ),
    Guard(
        "times", "the present is asked of the store", "persist/src/gc.rs",
        "            true => storage.ask_time().await,\n",
        "            true => storage.ask_time().await.filter(|_| false),\n",
        "--test gc", "times::",
    ),
    Guard(
        "times", "where the store tells no time the own clock bounds it", "persist/src/store_time.rs",
        "        newest.min(self.clock())\n",
        "        newest\n",
        "--test gc", "times::",
    ),
    Guard(
        "times", "times of the log that cannot be are replaced", "persist/src/store_time.rs",
        "        let mut later = now;\n",
        """        if now > earlier {
            return;
        }
        let mut later = now;
""",
        "--lib", "store_time::",
    ),
    Guard(
        "times", "the remover's clock says nothing", "persist/src/gc/times.rs",
        "        let put = version.and_then(|version| self.log.entry(version));\n",
        "        let put = tombstone.remove.deletion_timestamp.map(from_ms);\n",
        "--test gc", "the_grace_of_a_removed_file",
    ),
    Guard(
        "times", "a clean-up of the log goes by times that can be", "persist/src/clean.rs",
        "    times.bound(now);\n",
        "",
        "--lib", "clean::",
    ),
    Guard(
        "times", "a checkpoint says by when a file was removed", "persist/src/gc/times.rs",
        "        let by = tombstone.removed_by_ms.map(from_ms);\n",
        "        let by = None;\n",
        "--test gc", "times::",
    ),
    Guard(
        "signals", "a wait ends with the first signal", "cli/src/signal.rs",
        "            signal = self.wait() => Err(signal),\n",
        "            signal = self.wait(), if false => Err(signal),\n",
        "--test signals", "",
    ),
    Guard(
        "signals", "the process ends when time is up", "cli/src/signal.rs",
        "            () = tokio::time::sleep_until(end) => break,\n",
        "            () = tokio::time::sleep_until(end), if false => break,\n",
        "--test signals", "",
    ),
    Guard(
        "signals", "the second signal ends the process", "cli/src/signal.rs",
        "            _ = received.next() => break,\n",
        "            _ = received.next(), if false => break,\n",
        "--test signals", "a_second_signal",
    ),
    Guard(
        "signals", "warnings of one cause are few", "persist/src/retry.rs",
        '    lock(&REPORTS).count(format!("{place}: {cause}"), Instant::now())\n',
        '    lock(&REPORTS).count(format!("{place}: {cause} {:?}", Instant::now()), Instant::now())\n',
        "--test signals", "one_signal_ends_a_run_whose_disk_is_full",
    ),
    Guard(
        "codecs", "what is not known is no damage", "persist/src/file.rs",
        "    match SAYS.iter().any(|says| message.contains(says)) {\n",
        "    match SAYS.iter().any(|says| message.contains(says)) && false {\n",
        "--test file", "unsupported_and_no_damage",
    ),
    Guard(
        "codecs", "codecs that nobody reads are unsupported", "persist/src/file.rs",
        "    pages::check_codecs(builder.metadata()).map_err(|why| unsupported(path, why))?;\n",
        "",
        "--test file", "unsupported_and_no_damage",
    ),
    Guard(
        "undecodable", "a file with other rows than a sink's is removed", "src/source/condemned.rs",
        "        (self.share == Share::Buckets && file.summed().is_none()).then(|| self.shard.schema())\n",
        "        (self.share == Share::Buckets && file.summed().is_none() && false).then(|| self.shard.schema())\n",
        "--test sink", "undecodable::",
    ),
    Guard(
        "undecodable", "a file with rows that do not fit is removed", "src/source/read.rs",
        "        if !unfit.is_empty() && !removed {\n",
        "        if !unfit.is_empty() && !removed && false {\n",
        "--test sink", "undecodable::",
    ),
    Guard(
        "undecodable", "a source fails by rows that do not fit", "src/source/read.rs",
        """        match unfit.why {
            None => Ok(()),""",
        """        match unfit.why.filter(|_| false) {
            None => Ok(()),""",
        "--test sink", "a_source_names_the_file_that_it_cannot_decode",
    ),
    Guard(
        "undecodable", "exact rows alone can be retracted", "src/source/files.rs",
        "        Some(table) => codec.decode_exact(batch, table),\n",
        "        Some(_) => codec.decode_fitting(batch),\n",
        "--test sink", "undecodable::",
    ),
    Guard(
        "addresses", "file: names a directory", "persist/src/location/address.rs",
        '        if named == "file" {\n',
        '        if named == "file" && false {\n',
        "--lib", "address::",
    ),
    Guard(
        "addresses", "what looks like a scheme is refused", "persist/src/location/address.rs",
        "        if !REMOTE.contains(&named.as_str()) {\n",
        "        if !REMOTE.contains(&named.as_str()) && false {\n",
        "--lib", "address::",
    ),
    Guard(
        "lenient", "an entry is read as leniently as others do", "persist/src/log/action.rs",
        """            let action = serde_json::from_slice(line).or_else(|error| {
                lenient::action(line).map_err(|why| {
""",
        """            let action = serde_json::from_slice(line).or_else(|error| {
                lenient::action(b"").map_err(|why| {
""",
        "--test lenient", "",
    ),
    Guard(
        "lenient", "a file has one key whatever its spelling", "persist/src/log/table_root.rs",
        "        self.relative(path).unwrap_or(Cow::Borrowed(path))\n",
        "        Cow::Borrowed(path)\n",
        "--test lenient", "every_spelling",
    ),
    Guard(
        "sums", "sums beyond a difference are kept in several", "src/corrections/partition.rs",
        """                None => {
                    wide = true;
""",
        """                None if true => {
                    entries[at].diff = entries[at].diff.wrapping_add(entry.diff);
                    payload.alter(entries[at].place.container);
                    payload.release(entry.place.container);
                }
                None => {
                    wide = true;
""",
        "--lib", "sums_beyond_i64",
    ),
    Guard(
        "sums", "sums that are spread are whole", "src/corrections/partition.rs",
        "    if wide {\n",
        "    if wide && false {\n",
        "--lib", "sums_beyond_i64",
    ),
    Guard(
        "types", "dates and decimals have their own columns", "persist/src/codec/trace/asked.rs",
        "        let choice = self.attempt.borrow_mut().choice(self.path, TEXTS.len());\n",
        "        let choice = self.attempt.borrow_mut().choice(self.path, 1);\n",
        "--test codec", "types::",
    ),
    Guard(
        "formats", "floats that are no numbers have a form", "cli/src/format/values.rs",
        "            Kind::Float(_, value) if value(row).is_finite() => self.write_text(row, out)?,\n",
        """            Kind::Float(_, value) if !value(row).is_finite() => out.push_str("null"),
            Kind::Float(_, value) if value(row).is_finite() => self.write_text(row, out)?,
""",
        "--lib", "format::",
    ),
    Guard(
        "formats", "null is told from the empty text", "cli/src/format.rs",
        "    if field.is_empty() || field.contains(",
        "    if field.is_empty() && false || field.contains(",
        "--lib", "format::",
    ),
    Guard(
        "leftovers", "removed files go wherever they lie", "persist/src/gc.rs",
        "                if (is_data || is_removed()) && files.get_at(&object.location).is_none() {\n",
        "                if (is_data || is_removed() && false) && files.get_at(&object.location).is_none() {\n",
        "--test gc", "removed_files_go_wherever_they_lie",
    ),
    Guard(
        "repair", "a data file is read again before its reference goes", "persist/src/repair/steps.rs",
        "    if !files.iter().all(is_lost) {\n",
        "    if !files.iter().all(is_lost) && false {\n",
        "--test repair_beside", "a_data_file_that_a_copy_brings",
    ),
    Guard(
        "repair", "the log is looked at again before entries go", "persist/src/repair/steps.rs",
        "        if !is_same {\n",
        "        if !is_same && false {\n",
        "--test repair_beside", "entries_that_a_copy_brings",
    ),
    Guard(
        "repair", "the log is looked at behind the fence", "persist/src/repair/steps.rs",
        "        if !is_same_list(&there, &listed(found)) {\n",
        "        if !is_same_list(&there, &listed(found)) && false {\n",
        "--test repair_beside", "at_the_last_moment",
    ),
    Guard(
        "repair", "a fence takes a free slot only", "persist/src/repair/steps.rs",
        "            Occupied::By(_) | Occupied::Unfounded => return Ok(Taken::Changed),\n",
        "            Occupied::By(_) | Occupied::Unfounded => {}\n",
        "--test repair_beside", "a_writer_that_comes_first",
    ),
    Guard(
        "repair", "nobody follows beyond a fence", "persist/src/log/state.rs",
        "        if let Some(restored) = commit.info.as_ref().and_then(|info| info.restored) {\n",
        "        if let Some(restored) = commit.info.as_ref().and_then(|info| info.restored).filter(|_| false) {\n",
        "--test repair_beside", "a_writer",
    ),
    Guard(
        "wrong logs", "a column stands once in a schema", "persist/src/schema.rs",
        "if let Some(first) = seen.insert(name.to_lowercase(), name) {\n",
        "if let Some(first) = seen.insert(name.to_lowercase(), name).filter(|_| false) {\n",
        "--test metadata", "metadata_that_is_refused",
    ),
    Guard(
        "wrong logs", "the first columns are a shard's", "persist/src/log/state.rs",
        "            .and_then(|schema| check_columns(&schema).map(|()| schema))\n",
        "            .and_then(|schema| check_columns(&schema).or(Ok(())).map(|()| schema))\n",
        "--test metadata", "a_table_whose_first_metadata",
    ),
    Guard(
        "wrong logs", "a file that is as it was written is not lost", "persist/src/verify/examine.rs",
        "        && let Some(why) = other_schema(file, bytes, schema)\n",
        "        && let Some(why) = other_schema(file, bytes, schema).filter(|_| false)\n",
        "--test metadata", "files_that_are_as_they_were",
    ),
    Guard(
        "wrong logs", "a refused feature names what helps", "persist/src/log/gates.rs",
        "                \"switch it off with the program that switched it on (in Spark {first}`ALTER TABLE … DROP FEATURE {feature}`) \\\n",
        "                \"switch it off with the program that switched it on{first:.0}{feature:.0} \\\n",
        "--test metadata", "what_is_not_supported",
    ),
    Guard(
        "wrong logs", "a size of none is wrong", "persist/src/verify/examine.rs",
        "    if file.size != examined.bytes {\n",
        "    if file.size != 0 && file.size != examined.bytes {\n",
        "--test mend", "a_wrong_size",
    ),
    Guard(
        "wrong logs", "a file with a wrong size and other rows is another", "persist/src/repair.rs",
        "    if is_gone || is_moved || is_another {\n",
        "    if is_gone || is_moved || is_another && false {\n",
        "--test mend", "a_wrong_count",
    ),
    Guard(
        "wrong logs", "statistics are looked at", "persist/src/verify/examine.rs",
        "    if let Some(why) = statistics.and_then(|statistics| statistics.wrong()) {\n",
        "    if let Some(why) = statistics.and_then(|statistics| statistics.wrong()).filter(|_| false) {\n",
        "--test mend", "wrong_statistics",
    ),
    Guard(
        "wrong logs", "wrong statistics go", "persist/src/repair/correct.rs",
        "            Some(stats) if !are_wrong && file.rows == Some(found.rows) => Some(stats.clone()),\n",
        "            Some(stats) => Some(stats.clone()),\n",
        "--test mend", "wrong_statistics",
    ),
    Guard(
        "wrong logs", "paths that others cannot follow are named", "persist/src/verify.rs",
        "        let differs = plain.map(|plain| Difference::Path { plain });\n",
        "        let differs = plain.filter(|_| false).map(|plain| Difference::Path { plain });\n",
        "--test mend", "paths_that_others",
    ),
    Guard(
        "wrong logs", "the path that others cannot follow goes", "persist/src/repair/correct.rs",
        "            let renamed = right.iter().filter(|(file, add)| file.path != add.path);\n",
        "            let renamed = right.iter().filter(|(file, add)| file.path != add.path && false);\n",
        "--test mend", "paths_that_others",
    ),
    Guard(
        "wrong logs", "a column stands once in a file", "persist/src/file.rs",
        "        _ if !seen.insert(field.name()) => Some(field.name().as_str()),\n",
        "        _ if !seen.insert(field.name()) && false => Some(field.name().as_str()),\n",
        "--test mend", "a_file_in_which_a_column",
    ),
    Guard(
        "wrong logs", "what is put right is live", "persist/src/repair/correct.rs",
        "&&(Arc<DataFile>, Add)| state.refers_to(file);\n",
        "&&(Arc<DataFile>, Add)| state.refers_to(file) || true;\n",
        "--test repair_beside", "what_is_put_right",
    ),
    Guard(
        "forged", "openers and followers refuse impossible frontiers", "persist/src/log/state.rs",
        "        if let Some(why) = impossible(commit, &self.progress()) {\n",
        "        if let Some(why) = impossible(commit, &self.progress()).filter(|_| false) {\n",
        "--test forged", "",
    ),
    Guard(
        "forged", "an upper is where its commit says", "persist/src/log/frontiers.rs",
        "    if let Some((_, said)) = said.filter(|_| starts_here)\n",
        "    if let Some((_, said)) = said.filter(|_| starts_here && false)\n",
        "--test forged", "",
    ),
    Guard(
        "forged", "an append takes the since to its upper at most", "persist/src/log/frontiers.rs",
        "    if is_append && since > before.since && since > upper {\n",
        "    if is_append && since > before.since && since > upper && false {\n",
        "--test forged", "",
    ),
    Guard(
        "gaps", "a checked tail puts off no listing", "persist/src/follow.rs",
        "            let now = now || lock(&self.log).is_listing_due(&storage.env);\n",
        "            let now = now || false && lock(&self.log).is_listing_due(&storage.env);\n",
        "--test gaps", "a_sink_that_commits_all_the_time",
    ),
    Guard(
        "repair", "versions go on below what nobody has reached", "persist/src/survey.rs",
        ".filter(|version| *version < VERSION_BOUND);\n",
        ".filter(|version| *version < VERSION_BOUND || true);\n",
        "--test repair", "an_entry_far_ahead",
    ),
    Guard(
        "repair", "no version is beyond those of others", "persist/src/log/checkpoint.rs",
        "            .filter(|version| *version <= i64::MAX as u64)?;\n",
        "            .filter(|version| *version <= i64::MAX as u64 || true)?;\n",
        "--test repair", "a_name_beyond",
    ),
    Guard(
        "repair", "a fence alone is set aside without being asked", "persist/src/repair.rs",
        "            if broken.is_of_fences() {\n",
        "            if broken.is_of_fences() && false {\n",
        "--test repair_beside", "a_repair_that_was_killed_at_its_fence",
    ),
    Guard(
        "repair", "the fence's own slot is looked at", "persist/src/repair/steps.rs",
        "        if own.as_ref() != Some(&body) {\n",
        "        if own.as_ref() != Some(&body) && false {\n",
        "--test repair_beside", "what_a_copy_brings_into_the_slot",
    ),
    Guard(
        "repair", "a repair tells its own commit from others", "persist/src/repair/steps.rs",
        "            if told == Some(true) {\n",
        "            if told.is_some() {\n",
        "--test repair_beside", "a_commit_of_another_program",
    ),
    Guard(
        "repair", "a commit that seemed to fail is found", "persist/src/repair/steps.rs",
        "            Outcome::Done(()) => self.find_repair(&id.to_string(), before).await,\n",
        "            Outcome::Done(()) => self.find_repair(&id.to_string(), before).await.map(|_| None),\n",
        "--test repair_beside", "a_repair_whose_commit_seemed",
    ),
    Guard(
        "repair", "holds that are given up are named", "persist/src/survey/walk.rs",
        "        self.holds.extend(holds.map(str::to_owned));\n",
        "        self.holds.extend(holds.map(str::to_owned).filter(|_| false));\n",
        "--test repair", "holds_and_acceptances",
    ),
    Guard(
        "repair", "edits before given up entries are accepted", "persist/src/repair.rs",
        "                Some(end) if goes_back => Some((end.clone(), storage.unaccepted_edits(end).await?)),\n",
        "                Some(end) if goes_back && false => Some((end.clone(), storage.unaccepted_edits(end).await?)),\n",
        "--test repair", "entries_are_given_up_and_edits",
    ),
    Guard(
        "repair", "the acceptance covers what is unknown below", "persist/src/repair.rs",
        "                            true => shard.unaccepted_edit().max(Some(last.version)),\n",
        "                            true => Some(last.version),\n",
        "--test repair", "entries_are_given_up_and_edits",
    ),
    Guard(
        "places", "a file in the place of the log is named", "persist/src/replay.rs",
        "                Ok(None) => return self.in_place_of_log().map_or(Ok(None), Err),\n",
        "                Ok(None) => return Ok(None),\n",
        "--test places", "a_file_in_the_place_of_the_log",
    ),
    Guard(
        "places", "a file in the place of the table is named", "persist/src/local.rs",
        "        if let Some(other) = folder.ancestors().find_map(no_folder) {\n",
        "        if let Some(other) = folder.ancestors().find_map(no_folder).filter(|_| false) {\n",
        "--test places", "a_file_in_the_place_of_the_table",
    ),
    Guard(
        "repair", "an input keeps its references", "persist/src/repair.rs",
        "    let keeps_files = survey.end.as_ref().is_some_and(State::is_input) && !options.drop_files;\n",
        "    let keeps_files = survey.end.as_ref().is_some_and(State::is_input) && false;\n",
        "--test repair", "an_input_gives_up",
    ),
    Guard(
        "verify", "a checkpoint is compared with the entries", "persist/src/survey/checkpoints.rs",
        "                && let Some(why) = contradiction(&log.state, &state)\n",
        "                && let Some(why) = contradiction(&log.state, &state).filter(|_| false)\n",
        "--test damage", "every_kind_of_damage_to_a_log",
    ),
    Guard(
        "verify", "sinks alone move frontiers", "persist/src/log/frontiers.rs",
        "    if info.is_none() && (upper, since) != (before.upper, before.since) {\n",
        "    if info.is_none() && (upper, since) != (before.upper, before.since) && false {\n",
        "--test damage", "every_kind_of_damage_to_a_log",
    ),
    Guard(
        "verify", "rows without a time are damage", "persist/src/verify/examine.rs",
        "        if open.is_edited || file.sums.is_some() {\n",
        "        if file.sums.is_some() {\n",
        "--test damage", "rows_without_times",
    ),
    Guard(
        "words", "what is no file in an entry's place is named", "persist/src/storage.rs",
        "                        if let Some(other) = self.in_place_of(&path) {\n",
        "                        if let Some(other) = self.in_place_of(&path).filter(|_| false) {\n",
        "--test look", "a_directory_in_the_place",
    ),
    Guard(
        "words", "a lack of threads is told in words", "cli/src/limits.rs",
        "        let threads = no_thread(message).map(",
        "        let threads = no_thread(message).filter(|_| false).map(",
        "--test usage", "a_limit_on_threads",
    ),
    Guard(
        "words", "a lack of open files is told in words", "cli/src/limits.rs",
        "        let signals = || no_signals(message).map(",
        "        let signals = || no_signals(message).filter(|_| false).map(",
        "--test usage", "a_limit_on_open_files",
    ),
    Guard(
        "words", "a lack of memory is told in words", "cli/src/memory.rs",
        "    if allocated.is_null() {\n",
        "    if allocated.is_null() && false {\n",
        "--test usage", "a_limit_on_memory",
    ),
    Guard(
        "words", "output that nobody reads is no failure", "cli/src/stderr.rs",
        "    let _ = std::io::stderr().write_all(line.as_bytes());\n",
        """    eprint!("{line}");
    std::io::stderr().write_all(b"").unwrap_or_default();
""",
        "--test usage", "streams_that_nobody_reads",
    ),
    Guard(
        "words", "a file system without hard links is named", "persist/src/local.rs",
        "    linked.map_err(|error| match error.kind() {\n",
        """    linked.map_err(|error| match error.kind() {
        _ if true => error,
""",
        "--lib", "without_hard_links",
    ),
    Guard(
        "staging", "an append that has ended keeps no file", "persist/src/staging.rs",
        "        files.for_each(|file| self.staging.forget(&file.path));\n",
        "        files.take(0).for_each(|file| self.staging.forget(&file.path));\n",
        "--test gc", "files_of_an_append_that_has_ended",
    ),
    Guard(
        "staging", "what is being written is known until that has ended", "persist/src/staging.rs",
        "        self.given_up = true;\n        self.written\n",
        "        self.given_up = true;\n        true\n",
        "--test writing", "though_its_append_was_given_up",
    ),
    Guard(
        "edits", "a path counts once", "persist/src/log/state.rs",
        "                && before.size == after.size\n",
        """                && before.size == after.size
                && false
""",
        "--test edits", "a_path_counts_once",
    ),
    Guard(
        "edits", "an edit outlives a jump", "persist/src/log/state.rs",
        "        self.edited = self.edited.or(pending);\n",
        "        drop(pending);\n",
        "--test edits", "",
    ),
    Guard(
        "edits", "a checkpoint says whether an edit is unanswered", "persist/src/log/state.rs",
        "        (reviewed < self.version && self.upper > self.since).then_some(reviewed)\n",
        "        (reviewed < self.version && self.upper > self.since && false).then_some(reviewed)\n",
        "--test edits", "",
    ),
    Guard(
        "edits", "after a jump the rows below are compared", "src/source/task.rs",
        "        let edited = now.differing(&before, self.mine());\n",
        """        let edited = now.differing(&now, self.mine());
        let _ = before;
""",
        "--test sink", "edits::",
    ),
    Guard(
        "edits", "an ingest sink fails by an edit made while nobody ran", "src/source/task.rs",
        """                // Made while nobody ran.
                self.shard.check_rewrites().await?;
                if let Some(version) = self.shard.unaccepted_edit() {
""",
        """                // Made while nobody ran.
                self.shard.check_rewrites().await?;
                if let Some(version) = self.shard.unaccepted_edit().filter(|_| false) {
""",
        "--test sink", "r24_an_ingest_sink_fails",
    ),
    Guard(
        "R10", "many runs are merged at any time", "src/corrections/bounded.rs",
        "            || self.due.are_many()\n",
        "",
        "--lib", "runs_that_are_given_back",
    ),
    Guard(
        "accept", "a merge whose file is gone hinders no acceptance", "persist/src/accept.rs",
        "                        Err(Error::EntryGone { .. }) => true,\n",
        "                        Err(error @ Error::EntryGone { .. }) => return Err(error),\n",
        "--test rewrites", "an_edit_of_what",
    ),
    Guard(
        "sources", "differences of sinks only take back", "src/source/multiplicity.rs",
        "            let taken = (*diff).clamp((-sum).min(0), (-sum).max(0));\n",
        "            let taken = *diff + 0 * sum;\n",
        "--lib", "rows_add_up_to_what",
    ),
    Guard(
        "verify", "a bound may be a short number", "persist/src/verify/statistics.rs",
        "Bound::Number(f64::from(said.as_f64()? as f32))",
        "Bound::Number(said.as_f64()?)",
        "--lib", "a_bound_may_be_the_shortest",
    ),
    Guard(
        "edits", "an entry that calls itself no change is looked at", "persist/src/log/state.rs",
        "filter(|(_, change)| *change || is_other)",
        "filter(|(_, change)| *change || is_other && false)",
        "--test rewrites", "",
    ),
    Guard(
        "edits", "the rows of such an entry are compared", "persist/src/rewrite.rs",
        "            if all && taken == sum {\n",
        "            if all || taken == sum {\n",
        "--test rewrites", "an_e",
    ),
    Guard(
        "edits", "the times of such an entry are compared", "persist/src/rewrite.rs",
        "        self.times = join_ranges(self.times, other.times);\n",
        "        self.times = join_ranges(self.times, other.times).filter(|_| false);\n",
        "--test rewrites", "an_entry",
    ),
    Guard(
        "edits", "files that are merged are followed", "persist/src/rewrite.rs",
        "                return Ok(Some(Verdict::Same));\n",
        "                return Ok(Some(Verdict::Other));\n",
        "--test rewrites", "files_that_another_program_merges",
    ),
    Guard(
        "edits", "what lies in a file's place is not read for it", "persist/src/rewrite.rs",
        "                if brought_keys.contains(",
        "                if false && brought_keys.contains(",
        "--test rewrites", "in_the_place_of_one",
    ),
    Guard(
        "edits", "merges of merges are compared as one", "persist/src/rewrite.rs",
        "                None => self.compare_chain(rewrite, on_retry).await?,\n",
        "                None => Verdict::Other,\n",
        "--test rewrites", "what_is_merged_twice",
    ),
    Guard(
        "replaced", "a log without a beginning is no log", "persist/src/beyond.rs",
        "            false => Listed::Unfounded,\n",
        "            false => Listed::Beyond(last),\n",
        "--test replaced", "comes_back_alone",
    ),
    Guard(
        "verify", "what a sink has told of a merged file are its rows", "persist/src/verify/origin.rs",
        "        if !(is_told && matches!(origin, Origin::Other)) {\n",
        "        if !(is_told && matches!(origin, Origin::Other)) || true {\n",
        "--test rewrites", "told_and_then_replaced",
    ),
    Guard(
        "edits", "a file that is named again keeps its sums", "persist/src/log/state.rs",
        "                && known.size == file.size\n                && file.sums.is_none()\n",
        "                && known.size == file.size\n                && file.sums.is_none() && false\n",
        "--test rewrites", "named_again_without_tags",
    ),
    Guard(
        "edits", "what was read is told after a jump", "persist/src/log/state.rs",
        "                && live.is_same_reference(known)\n",
        "                && live.is_same_reference(known) && false\n",
        "--test rewrites", "cleaned_up_by_another",
    ),
    Guard(
        "edits", "that a store refuses a file says nothing of it", "persist/src/rewrite.rs",
        "        let Some(bytes) = self.get_retrying(&location, on_retry).await? else {\n            return Ok(Err(Unread",
        "        let Some(bytes) = self.get_retrying(&location, on_retry).await.ok().flatten() else {\n            return Ok(Err(Unread",
        "--test rewrites", "refuses_a_file",
    ),
    Guard(
        "edits", "a commit tells the sums of merged files", "persist/src/log/state.rs",
        "        commit.adds.extend(told.iter().map(|file| file.to_add()));\n",
        "",
        "--test rewrites", "again_and_again",
    ),
    Guard(
        "edits", "a merged file that was read is known when it is gone", "persist/src/replay.rs",
        "rewrites.find_map(|rewrite| rewrite.total_of(file).cloned())",
        "rewrites.find_map(|rewrite| rewrite.total_of(file).cloned().filter(|_| false))",
        "--test rewrites", "that_was_read_is_known",
    ),
    Guard(
        "edits", "the sums of other programs' rows are not told", "persist/src/rewrite.rs",
        "if known.iter().all(Option::is_some)",
        "if true",
        "--test rewrites", "other_rows_is_not_told",
    ),
    Guard(
        "edits", "a review finds entries that nobody has looked at", "persist/src/review.rs",
        "                    log.state.add_rewrite(rewrite);\n",
        "                    drop(rewrite);\n",
        "--test rewrites", "known_from_a_checkpoint",
    ),
    Guard(
        "edits", "no commit answers what nobody has looked at", "persist/src/log/state.rs",
        "        let is_judged = self.rewrites.is_empty();\n",
        "        let is_judged = true;\n",
        "--test rewrites", "unanswered",
    ),
    Guard(
        "edits", "an ingest sink that starts has entries looked at", "src/source/task.rs",
        """                // Made while nobody ran.
                self.shard.check_rewrites().await?;
""",
        "                // Made while nobody ran.\n",
        "--test sink", "an_ingest_sink_stops_at_what",
    ),
    Guard(
        "tags", "tags are about the file that they name", "persist/src/data_file.rs",
        "            (Some(tag), _) => tag.as_deref() == Some(&file_tag(name, add.size)),\n",
        "            (Some(_), _) => true,\n",
        "--test rewrites", "tags_that_were_copied",
    ),
    Guard(
        "tags", "in a checkpoint former tags count on files of sinks", "persist/src/data_file.rs",
        "            (None, Adder::Checkpoint) => is_drawn(name),\n",
        "            (None, Adder::Checkpoint) => false,\n",
        "--lib", "tags_count_for_the_file",
    ),
    Guard(
        "sources", "differences add up", "src/source/read.rs",
        "        if multiplicities.add(large) {\n",
        "        if multiplicities.add(large) || true {\n",
        "--test sink", "differences_that_do_not_add_up",
    ),
    Guard(
        "accept", "rows that sources cannot read are refused", "persist/src/repair.rs",
        "        if refused.is_empty() {\n",
        "        if refused.is_empty() || true {\n",
        "--test accept", "rows_that_sources_cannot_read",
    ),
    Guard(
        "accept", "a null is refused where none is meant", "persist/src/open.rs",
        "        if let Some(required) = open.required.to_property() {\n",
        "        if let Some(required) = open.required.to_property().filter(|_| false) {\n",
        "--test accept", "rows_that_sources_cannot_read",
    ),
    Guard(
        "accept", "an edit that calls itself no change is looked at again when it is accepted", "persist/src/accept.rs",
        "        // It may have been opened again since they were found.\n        self.check_rewrites().await?;\n",
        "",
        "--test accept", "says_it_changes_no_data",
    ),
    Guard(
        "accept", "paths are told apart by their keys", "persist/src/accept.rs",
        "        let key = |path: &str| root.key(path).into_owned();\n",
        "        let key = |path: &str| root.key(path).len().to_string() + path;\n",
        "--test accept", "each_entry_is_read_once",
    ),
    Guard(
        "commit", "an append that is known to have landed is not absent", "persist/src/commit.rs",
        "        found.is_none_or(|entry| entry.id == Some(id))\n",
        "        found.is_none() && attempt.slot > log.tail().version\n",
        "--test unconfirmed", "is_known_to_have_landed",
    ),
    Guard(
        "statistics", "statistics of other programs are not relied on", "src/source/task.rs",
        "                _ => totals.merge(&self.totals(file, version, last).await?),\n",
        """                None if file.min_time.is_some_and(|min| min > last) => {}
                _ => totals.merge(&self.totals(file, version, last).await?),
""",
        "--test sink", "statistics_lie",
    ),
    Guard(
        "statistics", "sums of statistics do not overflow", "persist/src/data_file.rs",
        "    rows.fold(0, u64::saturating_add)\n",
        "    rows.sum()\n",
        "--test edits", "adds_up_to_the_most",
    ),
    Guard(
        "vanished", "what vanished is looked for", "persist/src/commit.rs",
        """            if storage.exists(&path, on_retry).await? {
                return Ok(());""",
        """            if storage.exists(&path, on_retry).await? || true {
                return Ok(());""",
        "--test gc", "is_looked_for_before",
    ),
    Guard(
        "vanished", "what vanished is minted again", "src/mint.rs",
        "        self.bumping.is_some() || minted && !self.vanished\n",
        "        self.bumping.is_some() || minted\n",
        "--test protocol", "",
    ),
    Guard(
        "vanished", "mint hears of it in the same process", "src/append/task.rs",
        "                instance.vanished(id);\n",
        "",
        "--test sink", "vanished::",
    ),
    Guard(
        "vanished", "mint hears of it in another process", "src/signal.rs",
        "                        Signal::Vanished(id) => worker.instance.vanished(id),\n",
        "                        Signal::Vanished(_) => {}\n",
        "--test sink", "vanished::",
    ),
    Guard(
        "vanished", "what was staged ahead and vanished fails the sink", "src/write/ahead.rs",
        "            Error::Shard(ShardError::MissingFile { .. }) => ShardError::Swept {\n",
        "            Error::Shard(ShardError::MissingFile { .. }) if false => ShardError::Swept {\n",
        "--test sink", "what_vanished_ahead",
    ),
    Guard(
        "behind", "who was left behind the since compares again", "src/source/task.rs",
        "                if mixed && self.compare_again(&changed, progress).await? {\n",
        "                if mixed && false && self.compare_again(&changed, progress).await? {\n",
        "--test sink", "left_behind",
    ),
    Guard(
        "waiting", "who waits for a source hears what it gives", "src/handle.rs",
        "                _ = given.changed() => {}\n",
        "                _ = given.changed(), if false => {}\n",
        "--test sink", "waiting_for_a_source_begins",
    ),
    Guard(
        "changes", "who finds a file missing reads the log anew", "persist/src/changes.rs",
        "        self.shard.refresh().await?;\n",
        "",
        "--test changes", "",
    ),
    Guard(
        "changes", "a file missing from the newest version is an error", "persist/src/changes.rs",
        "                    if newest.progress.version == version {\n",
        "                    if newest.progress.version == version && false {\n",
        "--test changes", "a_reader_names_a_file",
    ),
    Guard(
        "spilling", "spilled files have no name", "persist/src/unnamed.rs",
        "    let file = tempfile::tempfile_in(directory)?;\n",
        "    let file = tempfile::NamedTempFile::new_in(directory)?.keep()?.0;\n",
        "--lib", "disk::",
    ),
    Guard(
        "spilling", "spilled files are their owner's", "persist/src/unnamed.rs",
        "        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;\n",
        "        let _ = std::fs::Permissions::from_mode(0o600);\n",
        "--lib", "owner_alone",
    ),
    Guard(
        "durable", "an entry counts when its directory was synced", "persist/src/local.rs",
        "                    Err(error) => Published::Unsynced(store_error(&shown, error)),\n",
        "                    Err(_) => Published::Linked,\n",
        "--lib", "local::",
    ),
    Guard(
        "durable", "what has the slot is synced before it counts", "persist/src/storage.rs",
        "                        self.settle_log(on_retry).await?;\n",
        "",
        "--lib", "dropped_unsynced",
    ),
    Guard(
        "durable", "an opener syncs what it finds", "persist/src/replay.rs",
        "                            self.settle_log(on_retry).await?;\n",
        "",
        "--lib", "was_killed_unsynced",
    ),
    Guard(
        "durable", "a follower syncs what it finds", "persist/src/follow.rs",
        "            self.storage.settle_log(on_retry).await?;\n",
        "",
        "--lib", "was_killed_unsynced",
    ),
    Guard(
        "unconfirmed", "an error after the put says so", "persist/src/commit.rs",
        "        if !put || !error.is_decided() {\n",
        "        if !put || !error.is_decided() || true {\n",
        "--test unconfirmed", "an_error_after_the_put",
    ),
    Guard(
        "unconfirmed", "an error before the put does not", "persist/src/commit.rs",
        "        if !put || !error.is_decided() {\n",
        "        if !error.is_decided() {\n",
        "--test unconfirmed", "an_error_before_the_put",
    ),
    Guard(
        "views", "an edit read beside a batch in flight is counted again", "src/write/operator.rs",
        "                    self.edits.committed();\n",
        "                    self.edits = Edits::default();\n",
        "--test sink", "an_edit_read_while_a_batch_is_in_flight",
    ),
    Guard(
        "views", "each edit is counted", "src/differing.rs",
        "        read.any(|(worker, edits)| counted(worker) < *edits)\n",
        "        read.any(|(worker, _)| counted(worker) == 0)\n",
        "--lib", "a_worker_that_has_counted_one_edit",
    ),
    Guard(
        "views", "what is staged ahead is in no table yet", "src/write/store.rs",
        """    pub(super) fn forget_staged_ahead(&mut self) {
        self.in_flight = None;
""",
        """    pub(super) fn forget_staged_ahead(&mut self) {
        self.in_flight = None;
        self.unrepaired.committed();
""",
        "--lib", "an_edit_in_what_is_staged_ahead",
    ),
    Guard(
        "views", "files are named as the log spells them", "src/source/condemned.rs",
        "        let files = condemned.values().map(|(path, _)| path.clone()).collect();\n",
        "        let files = condemned.keys().cloned().collect();\n",
        "--test sink", "lost_files_are_named_as_the_log",
    ),
    Guard(
        "finished", "rows at times that never come count", "src/source/start.rs",
        "            ceiling: if finished { at } else { i64::MAX },\n",
        "            ceiling: i64::MAX,\n",
        "--test sink", "rows_at_times_that_never_come",
    ),
    Guard(
        "finished", "the demo compares a finished view at the end of its events", "cli/src/nexmark/run.rs",
        "        } else if differs::is_finished(&shards[index]) {\n",
        "        } else if differs::is_finished(&shards[index]) && false {\n",
        "--test altered", "a_view_that_somebody_has_finished",
    ),
    Guard(
        "finished", "a run that cannot end is refused", "cli/src/nexmark/run.rs",
        "    if let Some(error) = differs::stuck(&shards, limit) {\n",
        "    if let Some(error) = differs::stuck(&shards, limit).filter(|_| false) {\n",
        "--test altered", "refused",
    ),
    Guard(
        "views", "a run ends when its views are compared as they are then", "cli/src/nexmark/differs.rs",
        "    if compared.version < version || compared.frontier < Frontier::At(limit) {\n",
        "    if false {\n",
        "--lib", "that_comes_before_the_last_commit",
    ),
    Guard(
        "views", "a run with nothing to feed compares", "cli/src/nexmark/run.rs",
        "        if !altered && (SOURCES.len()..SHARDS).any(left_behind) {\n",
        "        if !altered {\n",
        "--test altered", "just_before_the_last_commit",
    ),
    Guard(
        "views", "a run that fails says what was written", "cli/src/nexmark/run.rs",
        "        return failed(Error::Stopped(error));\n",
        "        return Err(Error::Stopped(error));\n",
        "--test altered", "a_run_whose_sink_fails",
    ),
    Guard(
        "tail", "a time that never comes is refused", "cli/src/tail.rs",
        "        if options.from == Some(i64::MAX) {\n",
        "        if options.from == Some(i64::MAX) && false {\n",
        "--test shards", "a_first_time_that_never_comes",
    ),
    Guard(
        "statuses", "a clean-up that waits is told", "src/worker.rs",
        "        let delete = Box::pin(shard.delete_files_with(files, &stalled));\n",
        """        let delete = Box::pin(shard.delete_files_with(files, &|_| ()));
        let _ = &stalled;
""",
        "--test sink", "a_clean_up_that_waits",
    ),
    Guard(
        "statuses", "puts at once have names of their own", "src/instance.rs",
        "        while !doing.insert((name.clone(), worker)) {\n",
        "        while !doing.insert((name.clone(), worker)) && false {\n",
        "--lib", "one_that_goes_on_does_not_hide",
    ),
    Guard(
        "locks", "workers read progress without the log's lock", "persist/src/shard.rs",
        "        self.known.borrow().progress\n",
        "        lock(&self.log).state.progress()\n",
        "--test sink", "workers_do_not_wait_for_the_log",
    ),
    Guard(
        "ends", "a sink beyond its end seals nothing", "src/mint.rs",
        "                late.map(|late| Frontier::At(late.as_of))\n",
        "                late.map(|late| Frontier::At(late.as_of)).filter(|_| false)\n",
        "--test sink", "a_sink_that_begins_beyond_its_end",
    ),
    Guard(
        "endings", "a source that was dropped lets go", "src/share.rs",
        "        share.dropped.load(Ordering::Acquire) && !sinks.iter().any(|sink| sink.is_live())\n",
        "        share.dropped.load(Ordering::Acquire) && !sinks.iter().any(|sink| sink.is_live()) && false\n",
        "--test sink", "endings::",
    ),
    Guard(
        "endings", "no sink is misled", "src/share.rs",
        "            share.kind == Kind::Sink\n",
        "            share.kind == Kind::Sink && false\n",
        "--test sink", "endings::",
    ),
    Guard(
        "endings", "the sink of a source that fails ends", "src/share.rs",
        "            end_only_sink(&sinks, share);\n",
        "            let _ = end_only_sink;\n",
        "--test sink", "endings::",
    ),
    Guard(
        "endings", "a source reports what it has given", "src/instance.rs",
        "            Kind::Sink | Kind::Source => self.given.least().map(|given| upper.min(given)),\n",
        "            Kind::Sink | Kind::Source => Some(upper),\n",
        "--test sink", "a_source_",
    ),
    Guard(
        "finished", "a finished table is compared with the input", "src/instance.rs",
        "        self.was_finished.store(true, Ordering::Release);\n",
        "        self.was_finished.store(false, Ordering::Release);\n",
        "--test sink", "finished::",
    ),
    Guard(
        "runtimes", "a runtime without a clock is refused", "src/context.rs",
        "            (false, true) => RuntimeFault::NoClock,\n",
        "            (false, true) => return Ok(()),\n",
        "--test sink", "a_runtime_without_a_clock",
    ),
    Guard(
        "columns", "options become columns", "src/target.rs",
        "            add_columns: true,\n",
        "            add_columns: false,\n",
        "--test sink", "types::",
    ),
    Guard(
        "columns", "what cannot be null is no new column", "persist/src/evolve.rs",
        "    if let Some(column) = missing.iter().find(|column| !column.is_nullable()) {\n",
        "    if let Some(column) = missing.iter().find(|column| !column.is_nullable() && false) {\n",
        "--test evolve", "",
    ),
    Guard(
        "usage", "colours are for terminals", "cli/src/main.rs",
        "        .with_ansi(std::io::stderr().is_terminal() && !plain)\n",
        "        .with_ansi((std::io::stderr().is_terminal() || true) && !plain)\n",
        "--test usage", "a_log_in_a_file_has_no_colours",
    ),
    Guard(
        "usage", "a hold beyond the upper is refused", "cli/src/hold.rs",
        "        if frontier > progress.upper {\n",
        "        if frontier > progress.upper && false {\n",
        "--test look", "holds_that_hold_nothing",
    ),
    Guard(
        "usage", "a hold that is not there cannot be released", "cli/src/hold.rs",
        "        if !shard.release_hold(name).await.map_err(Error::from)? {\n",
        "        if !shard.release_hold(name).await.map_err(Error::from)? && false {\n",
        "--test look", "holds_that_hold_nothing",
    ),
    Guard(
        "usage", "errors hide no rows if that is asked for", "cli/src/snapshot.rs",
        "            if !options.ignore_errors {\n",
        "            if !options.ignore_errors || true {\n",
        "--test look", "rows_can_be_seen_beside_errors",
    ),
    Guard(
        "usage", "a directory of tables is listed", "cli/src/inspect.rs",
        "            return match tables.is_empty() {\n",
        "            return match tables.is_empty() || true {\n",
        "--test look", "inspect_of_a_directory",
    ),
    Guard(
        "usage", "tail says at once how far it is", "cli/src/tail.rs",
        "        self.pass(self.before(watcher.progress().upper))?;\n",
        "",
        "--test look", "tail_says_at_once",
    ),
    Guard(
        "panics", "a panic in an operator stays there", "src/driver.rs",
        "    match catch_unwind(AssertUnwindSafe(step)) {\n",
        "    match Ok::<O, Box<dyn std::any::Any + Send>>(step()) {\n",
        "--test sink", "a_panic_in_an_operator",
    ),
    Guard(
        "credits", "what is read back waits for who takes it up", "src/source/task.rs",
        "        meter.read_back_at_most(ahead).await;\n",
        "        let _ = (meter, ahead);\n",
        "--test sink", "what_is_read_back_waits",
    ),
    Guard(
        "merging", "runs are merged as many at once as memory permits", "persist/src/merge/shelf.rs",
        "        let at_once = self.budget.fan_in(0).min(all - most + 1);\n",
        "        let at_once = self.budget.fan_in(0).min(all - most + 1).min(2);\n",
        "--test compact", "rows_are_read_once",
    ),
    Guard(
        "metrics", "what was counted outlives its handle", "src/counters/observed.rs",
        "            remembered.before = former.counters();\n",
        "            drop(former);\n",
        "--test sink", "what_is_scraped_outlives",
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
