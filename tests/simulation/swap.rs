//! What is done to the whole table under those who write into it: whoever has it open notices within the promised time
//! and writes nothing more, and whoever starts then goes on with what is there.

use std::sync::{Arc, Mutex};

use futures::{FutureExt, TryStreamExt};
use mvsink::Frontier;
use mvsink_persist::{Error, RepairOptions};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::judge::Judge;
use super::plan::{Swap, Table, Upkeep};
use super::replica::{Replica, Report};
use super::world::World;

/// How long one round lasts while everybody is to notice.
const ROUND_MS: u64 = 250;
/// Within these rounds it is noticed: half a minute, and the dozens of calls of a slow store that it takes to look.
const NOTICED: usize = 40_000 / ROUND_MS as usize;

/// Within these rounds everybody has seen the last entry.
const CAUGHT_UP: usize = 10_000 / ROUND_MS as usize;

/// All objects of the table, with their times.
type Objects = Vec<(Path, PutPayload, i64)>;

/// A copy of the table, and what the judge knew of it.
#[derive(Clone)]
pub struct Copy {
    objects: Objects,
    judge: Judge,
}

impl World<'_> {
    pub fn swap(&mut self, swap: Swap) {
        let begun = matches!(self.judge.upper(), Frontier::At(upper) if upper > 0);
        if !begun {
            return;
        }
        match swap {
            Swap::Keep => {
                self.kept = Some(Copy {
                    objects: self.objects(),
                    judge: self.judge.clone(),
                });
            }
            Swap::Older => {
                let Some(Copy { objects, judge }) = self.kept.clone() else {
                    return;
                };
                if judge.next() == self.judge.next() {
                    return;
                }
                self.let_catch_up();
                self.replace(&objects);
                let ghost = self.let_notice(&objects);
                self.stop();
                let names = self.names();
                let is_entry = |path: &Path| path.as_ref().ends_with(".json");
                let is_new = |path: &Path| objects.iter().all(|(known, ..)| known != path);
                let written = names.iter().any(|path| is_entry(path) && is_new(path));
                if ghost || written || objects.iter().any(|(path, ..)| !names.contains(path)) {
                    // Calls that were under way have changed it, or somebody who was behind has gone on with it, with files
                    // that it does not have: whoever made the copy makes it again.
                    self.replace(&objects);
                }
                self.judge = judge;
                let mended = self.mend();
                self.judge.look(self.plan);
                self.judge.go_on_after(mended);
                self.start_all();
            }
            Swap::Delete => {
                self.replace(&[]);
                self.let_notice(&[]);
                self.stop();
                // What somebody has still put there goes as well.
                self.replace(&[]);
                self.judge = self.judge.anew(self.plan);
                self.kept = None;
                self.start_all();
            }
            Swap::Move => {
                let objects = self.objects();
                self.replace(&[]);
                self.let_notice(&[]);
                self.stop();
                self.replace(&objects);
                self.start_all();
            }
            Swap::Gap => self.open_a_gap(),
        }
    }

    /// Takes an entry out of the middle of the log, beyond what checkpoints hold, and puts it back.
    fn open_a_gap(&mut self) {
        let objects = self.objects();
        let name = |path: &Path| path.filename().unwrap_or_default().to_owned();
        let log = Path::from(format!("{}/_delta_log", Table::View.name()));
        let in_log = objects
            .iter()
            .filter(|(path, ..)| path.prefix_matches(&log));
        let checkpoints = in_log
            .clone()
            .filter_map(|(path, ..)| name(path).split_once(".checkpoint")?.0.parse().ok());
        let checkpoint: Option<u64> = checkpoints.max();
        let entries = in_log.filter_map(|(path, bytes, ms)| {
            let version = name(path).strip_suffix(".json")?.parse::<u64>().ok()?;
            Some((version, path, bytes, *ms))
        });
        let beyond = entries.filter(|(version, ..)| checkpoint.is_none_or(|it| *version > it));
        let mut beyond: Vec<_> = beyond.collect();
        beyond.sort_by_key(|(version, ..)| *version);
        // The last one may be missing without a gap.
        let Some((_, path, bytes, ms)) = beyond.iter().rev().nth(1) else {
            return;
        };
        self.stop();
        let calm = |result: object_store::Result<()>| result.expect("it is there");
        calm(self.sound.delete(path).now_or_never().unwrap());
        let before = self.names();
        self.start_all();
        for _ in 0..NOTICED {
            self.quiet_round();
        }
        self.stop();
        let mut after = self.names();
        after.retain(|name| !before.contains(name));
        assert_eq!(after, [], "somebody wrote into a log with a gap");
        self.put_at(path, (*bytes).clone());
        self.sound.set_written(path, *ms);
        self.start_all();
    }

    /// All of the table that the store holds.
    fn objects(&self) -> Objects {
        let folder = self.judge.path("");
        let listed = self.sound.list(Some(&folder)).try_collect::<Vec<_>>();
        let listed = listed
            .now_or_never()
            .expect("memory does not wait")
            .unwrap();
        let read = listed.into_iter().map(|object| {
            let got = self.sound.get(&object.location).now_or_never().unwrap();
            let bytes = got.unwrap().bytes().now_or_never().unwrap().unwrap();
            let ms = object.last_modified.timestamp_millis();
            (object.location, PutPayload::from(bytes), ms)
        });
        read.collect()
    }

    fn names(&self) -> Vec<Path> {
        self.objects().into_iter().map(|(path, ..)| path).collect()
    }

    /// Puts these objects in the place of all that is there.
    fn replace(&self, objects: &[(Path, PutPayload, i64)]) {
        for path in self.names() {
            let deleted = self.sound.delete(&path).now_or_never().unwrap();
            deleted.expect("it was listed");
        }
        for (path, payload, ms) in objects {
            self.put_at(path, payload.clone());
            self.sound.set_written(path, *ms);
        }
    }

    /// A round, of which nothing is asked.
    fn quiet_round(&mut self) {
        for index in 0..self.replicas.len() {
            self.turn(index, 1, false);
        }
        self.maintainer.poll(40);
        self.pass(ROUND_MS);
        self.ran.steps += 1;
        // Before its log is cleaned up.
        self.source.iter_mut().for_each(|it| it.look(self.plan));
    }

    /// Whoever knows no more than the copy has takes it for the table, and is right.
    fn let_catch_up(&mut self) {
        self.faulty.set_percent(0);
        for _ in 0..CAUGHT_UP {
            self.quiet_round();
        }
        self.faulty.set_percent(self.percent);
    }

    /// By the end of the promised time whoever had the table open has failed, and nobody writes into it any more.
    ///
    /// A checkpoint that was on its way, by somebody who has noticed nothing yet, may make a log of it that goes on: only
    /// its data files are missing, for which the next start looks. True if that happened.
    fn let_notice(&mut self, there: &[(Path, PutPayload, i64)]) -> bool {
        self.faulty.set_percent(0);
        // Of a cluster that has lost a worker the others may wait for it.
        let of = |replica: &Replica| -> Vec<_> {
            let is_whole = replica.is_whole();
            let reports = replica.reports();
            reports.map(|it| is_whole && has_it_open(it)).collect()
        };
        let had_it_open: Vec<_> = self.replicas.iter().map(of).collect();
        let maintained = self.opened[0].initialized();
        if maintained {
            self.begin(Upkeep::Compact);
        }
        for _ in 0..NOTICED {
            self.quiet_round();
        }
        let is_checkpoint = |path: &Path| path.as_ref().contains(".checkpoint");
        let is_new = |path: &Path| there.iter().all(|(known, ..)| known != path);
        if self
            .names()
            .iter()
            .any(|path| is_checkpoint(path) && is_new(path))
        {
            self.faulty.set_percent(self.percent);
            return true;
        }
        for (index, had_it_open) in had_it_open.iter().enumerate() {
            let reports = self.replicas[index].reports();
            for (worker, (report, had)) in reports.zip(had_it_open).enumerate() {
                assert!(
                    !had || report.frontier.is_none()
                        || report.cancelled
                        || report.failure.is_some(),
                    "worker {worker} of replica {index} has not noticed that its table is gone: {report:?}"
                );
            }
        }
        // Who had not opened it opens the other one.
        if maintained && had_it_open.iter().flatten().all(|had| *had) {
            let before = self.names();
            for _ in 0..NOTICED / 4 {
                self.quiet_round();
            }
            assert_eq!(self.names(), before, "somebody writes on");
        }
        self.faulty.set_percent(self.percent);
        false
    }

    /// Everybody is killed.
    fn stop(&mut self) {
        for replica in self.replicas.drain(..) {
            replica.kill();
        }
        self.untidy = true;
        self.restart_maintainer();
        *self.upkept.lock().unwrap() = Ok(None);
    }

    fn start_all(&mut self) {
        for index in 0..self.plan.replicas.len() {
            let replica = self.start(index);
            self.replicas.push(replica);
        }
    }

    /// Drops what lies beyond a gap in the log, as a person would whom the error tells to; gives the last version then.
    fn mend(&mut self) -> u64 {
        let client = self.maintainer.cx.client().clone();
        let done = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&done);
        self.faulty.set_percent(0);
        self.maintainer.spawn(async move {
            let url = Table::View.url();
            let work = async {
                match client.open_existing(&url).await {
                    Err(Error::LogGap { .. }) => {}
                    other => return other.map(|shard| shard.progress().version),
                }
                let mut options = RepairOptions::default();
                options.drop_entries = true;
                client.repair(&url, &options, &|_| ()).await?;
                let shard = client.open_existing(&url).await?;
                Ok(shard.progress().version)
            };
            *tell.lock().unwrap() = Some(work.await);
        });
        for _ in 0..1_000 {
            if let Some(done) = done.lock().unwrap().take() {
                self.faulty.set_percent(self.percent);
                self.restart_maintainer();
                return done.expect("a copy can be opened, or repaired");
            }
            self.maintainer.poll(40);
            self.pass(10);
        }
        panic!("the repair does not end");
    }
}

/// Whether the shard is open for this sink, and is not finished: then it has no more to do with it.
fn has_it_open(report: &Report) -> bool {
    !report.cancelled
        && !report.finished
        && report
            .frontier
            .is_some_and(|frontier| frontier > Frontier::At(0))
}
