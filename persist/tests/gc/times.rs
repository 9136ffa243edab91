//! Which clock says how old an object is, and how long ago a file was removed.

use super::*;

#[test]
fn a_file_in_the_future_makes_no_other_old() {
    run(async {
        for ahead in [25 * HOUR, 70 * 365 * 24 * HOUR] {
            for stray in [
                "shard/stray.parquet",
                "shard/_delta_log/stray",
                "shard/x/y.txt",
            ] {
                let (truth, now) = clocked();
                let writer = open(&client_at(&truth, 1, &now), URL).await;
                let maintainer = open(&client_at(&truth, 2, &now), URL).await;
                let file = stage(&writer, 0).await;
                let present = *now.lock().unwrap();
                *now.lock().unwrap() += i64::try_from(ahead.as_millis()).unwrap();
                truth.put(&Path::from(stray), "x".into()).await.unwrap();
                *now.lock().unwrap() = present;
                let report = collect(&maintainer, &GcOptions::default()).await;
                assert_eq!((report.orphans.count, report.log.count), (0, 0), "{stray}");
                let appended = writer.append(append(1, 0, 1, vec![file]), &quiet).await;
                assert!(matches!(appended, Ok(Appended::Committed { .. })));
            }
        }
    });
}

#[test]
fn a_local_file_in_the_future_makes_no_other_old() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = dir.path().to_str().unwrap();
        let mut frequent = options(1);
        frequent.checkpoint_interval = 2;
        frequent.clean_log = false;
        // Clocks that are ahead themselves, of the collector's machine as well.
        frequent.clock = Arc::new(|| 4_000_000_000_000);
        let writer = open(&client(frequent.clone()), url).await;
        frequent.seed = Some(2);
        let maintainer = open(&client(frequent), url).await;
        for time in 0..20 {
            let file = stage(&writer, time).await;
            let append = append(u64::try_from(time).unwrap(), time, time + 1, vec![file]);
            writer.append(append, &quiet).await.unwrap();
            writer.checkpoint().await.unwrap();
        }
        let file = stage(&writer, 20).await;
        fs::write(dir.path().join("00000000.parquet#1"), "x").unwrap();
        let in_2096 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let set = |name: &str| {
            let file = fs::File::options()
                .append(true)
                .create(true)
                .open(dir.path().join(name));
            file.unwrap().set_modified(in_2096).unwrap();
        };
        set("stray.parquet");
        set("_delta_log/stray#1");
        set("_delta_log/00000000000000000003.json");
        let report = collect(&maintainer, &GcOptions::default()).await;
        assert_eq!(
            (
                report.orphans.count,
                report.leftovers.count,
                report.log.count
            ),
            (0, 0, 0)
        );
        let appended = writer.append(append(99, 20, 21, vec![file]), &quiet).await;
        assert!(matches!(appended, Ok(Appended::Committed { .. })));
        // What tells the time leaves nothing behind.
        let names = fs::read_dir(dir.path().join("_delta_log")).unwrap();
        let pointers = names.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("_last_checkpoint")
        });
        assert_eq!(pointers.count(), 1);
    });
}

#[test]
fn where_the_store_tells_no_time_a_file_in_the_future_makes_no_other_old() {
    run(async {
        let now = Arc::new(Mutex::new(1_000_000_000_i64));
        let clock = Arc::clone(&now);
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = ClockedStore::new(memory, Arc::new(move || *clock.lock().unwrap()));
        store.refuse_puts(&Path::from("shard/_delta_log/_now"));
        let truth: Arc<dyn ObjectStore> = Arc::new(store.clone());
        let writer = open(&client_at(&truth, 1, &now), URL).await;
        let maintainer = open(&client_at(&truth, 2, &now), URL).await;
        let file = stage(&writer, 0).await;
        let stray = Path::from("shard/stray.parquet");
        truth.put(&stray, "x".into()).await.unwrap();
        let ahead = *now.lock().unwrap() + i64::try_from((25 * HOUR).as_millis()).unwrap();
        store.set_written(&stray, ahead);
        let report = collect(&maintainer, &GcOptions::default()).await;
        assert_eq!((report.orphans.count, report.log.count), (0, 0));
        let appended = writer.append(append(1, 0, 1, vec![file]), &quiet).await;
        assert!(matches!(appended, Ok(Appended::Committed { .. })));
        // By the newest object that is not in the future, time passes all the same.
        pass(&truth, &now, 10 * 24 * HOUR).await;
        let orphans = collect(&maintainer, &GcOptions::default()).await.orphans;
        assert_eq!(names(Some(&orphans)), set(["stray.parquet"]));
    });
}

/// A file that was removed at the store's present, by a program whose clock says `said`; and its path.
async fn removed_by(truth: &Arc<dyn ObjectStore>, shard: &Shard, said: i64) -> String {
    let time = shard.progress().upper.time().unwrap();
    let file = stage(shard, time).await;
    let seq = shard.progress().version + 1;
    shard
        .append(append(seq, time, time + 1, vec![file.clone()]), &quiet)
        .await
        .unwrap();
    put_entry(truth, seq + 1, &removal(&file.path, said)).await;
    shard.refresh().await.unwrap();
    file.path
}

#[test]
fn the_grace_of_a_removed_file_is_none_of_its_removers_clock() {
    run(async {
        for said in [0, 1_000_000_000, i64::MAX] {
            for reopened in [false, true] {
                let (truth, now) = clocked();
                let mut shard = open(&client_at(&truth, 1, &now), URL).await;
                removed_by(&truth, &shard, said).await;
                if reopened {
                    // What is in the checkpoint alone has no entry of its own.
                    shard.checkpoint().await.unwrap();
                    shard = open(&client_at(&truth, 3, &now), URL).await;
                }
                pass(&truth, &now, HOUR / 2).await;
                let report = collect(&shard, &GcOptions::default()).await;
                assert_eq!(report.removed.count, 0, "{said}, {reopened}");
                assert!(report.spared.contains_key(&GcSpared::Grace));
                pass(&truth, &now, HOUR / 2).await;
                let report = collect(&shard, &GcOptions::default()).await;
                assert_eq!(report.removed.count, 1, "{said}, {reopened}");
            }
        }
    });
}

#[test]
fn the_grace_of_a_removed_file_is_none_of_the_collectors_clock() {
    run(async {
        let (truth, now) = clocked();
        let ahead = Arc::new(Mutex::new(i64::MAX / 2));
        let shard = open(&client_at(&truth, 1, &ahead), URL).await;
        let said = *now.lock().unwrap();
        removed_by(&truth, &shard, said).await;
        // A checkpoint goes by no clock of its writer either.
        shard.checkpoint().await.unwrap();
        let shard = open(&client_at(&truth, 2, &ahead), URL).await;
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(report.removed.count, 0);
        assert!(report.spared.contains_key(&GcSpared::Grace), "{report:?}");
        pass(&truth, &now, HOUR).await;
        assert_eq!(
            collect(&shard, &GcOptions::default()).await.removed.count,
            1
        );
    });
}

#[test]
fn what_no_entry_tells_of_was_removed_before_the_oldest_one() {
    run(async {
        let (truth, now) = clocked();
        let shard = open(&client_at(&truth, 1, &now), URL).await;
        let removed_ms = *now.lock().unwrap();
        removed_by(&truth, &shard, removed_ms).await;
        shard.checkpoint().await.unwrap();
        for version in 0..shard.progress().version {
            let entry = Path::from(format!("shard/_delta_log/{version:020}.json"));
            truth.delete(&entry).await.unwrap();
        }
        let entry = Path::from(format!(
            "shard/_delta_log/{:020}.json",
            shard.progress().version
        ));
        truth.delete(&entry).await.unwrap();
        let shard = open(&client_at(&truth, 2, &now), URL).await;
        pass(&truth, &now, HOUR / 2).await;
        assert_eq!(
            collect(&shard, &GcOptions::default()).await.removed.count,
            0
        );
        pass(&truth, &now, HOUR / 2).await;
        let mut options = GcOptions::default();
        // Longer than the log remembers: the checkpoint says by when it was gone.
        options.removed_grace = 3 * HOUR;
        assert_eq!(collect(&shard, &options).await.removed.count, 0);
        pass(&truth, &now, 2 * HOUR).await;
        assert_eq!(collect(&shard, &options).await.removed.count, 1);
    });
}

#[test]
fn a_checkpoint_says_by_when_a_file_was_removed_though_a_later_one_replaces_it() {
    run(async {
        let (truth, now) = clocked();
        let shard = open(&client_at(&truth, 1, &now), URL).await;
        let removed_ms = *now.lock().unwrap();
        removed_by(&truth, &shard, removed_ms).await;
        shard.checkpoint().await.unwrap();
        pass(&truth, &now, HOUR / 2).await;
        // Who has read the first checkpoint writes the second, and nothing else of the log is left.
        let shard = open(&client_at(&truth, 2, &now), URL).await;
        let upper = shard.progress().upper.time().unwrap();
        let grow = append(9, upper, upper + 1, Vec::new());
        shard.append(grow, &quiet).await.unwrap();
        shard.checkpoint().await.unwrap();
        for version in 0..=shard.progress().version {
            let entry = Path::from(format!("shard/_delta_log/{version:020}.json"));
            truth.delete(&entry).await.unwrap();
        }
        let shard = open(&client_at(&truth, 3, &now), URL).await;
        pass(&truth, &now, HOUR / 4).await;
        let removed = collect(&shard, &GcOptions::default()).await.removed;
        assert_eq!(removed.count, 0);
        pass(&truth, &now, HOUR / 4).await;
        let removed = collect(&shard, &GcOptions::default()).await.removed;
        assert_eq!(removed.count, 1);
    });
}

#[test]
fn a_checkpoint_remembers_removed_files_for_a_week_by_the_stores_clock() {
    run(async {
        for clock in [0, i64::MAX / 2] {
            let (truth, now) = clocked();
            let own = Arc::new(Mutex::new(clock));
            let shard = open(&client_at(&truth, 1, &own), URL).await;
            let path = removed_by(&truth, &shard, 0).await;
            for (days, remembered) in [(0, true), (3, true), (3, true), (2, false)] {
                pass(&truth, &now, days * 24 * HOUR).await;
                let shard = open(&client_at(&truth, 2 + u64::from(days), &own), URL).await;
                shard.checkpoint().await.unwrap();
                let again = open(&client_at(&truth, 9, &own), URL).await;
                let mut options = GcOptions::default();
                options.dry_run = true;
                options.removed_grace = Duration::MAX;
                let report = collect(&again, &options).await;
                let grace = names(report.spared.get(&GcSpared::Grace));
                assert_eq!(grace.contains(path.as_str()), remembered, "{clock}, {days}");
            }
        }
    });
}

#[test]
fn a_local_file_in_the_future_goes_when_it_has_become_old() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = dir.path().to_str().unwrap();
        let shard = open(&client(options(1)), url).await;
        let names = [
            "6f9619ff-8b86-4d01-b42d-00cf4fc964ff.parquet",
            "stray.parquet",
            "6f9619ff-8b86-4d01-b42d-00cf4fc964ff.parquet#1",
        ];
        let set = |name: &str, at: SystemTime| {
            let mut file = fs::File::options();
            let file = file.append(true).create(true).open(dir.path().join(name));
            file.unwrap().set_modified(at).unwrap();
        };
        let in_2096 = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        names.iter().for_each(|name| set(name, in_2096));
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!((report.orphans.count, report.leftovers.count), (0, 0));
        for name in names {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            let at = metadata.modified().unwrap();
            assert!(at <= SystemTime::now(), "{name} has the present's time");
            set(name, at - 8 * 24 * HOUR);
        }
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!((report.orphans.count, report.leftovers.count), (2, 1));
    });
}

#[test]
fn a_log_entry_from_1970_makes_no_removed_file_old() {
    run(async {
        let now = Arc::new(Mutex::new(1_000_000_000_i64));
        let clock = Arc::clone(&now);
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = ClockedStore::new(memory, Arc::new(move || *clock.lock().unwrap()));
        let truth: Arc<dyn ObjectStore> = Arc::new(store.clone());
        let shard = open(&client_at(&truth, 1, &now), URL).await;
        pass(&truth, &now, 3 * HOUR).await;
        removed_by(&truth, &shard, 0).await;
        for version in 0..=shard.progress().version {
            let entry = Path::from(format!("shard/_delta_log/{version:020}.json"));
            store.set_written(&entry, 0);
        }
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(report.removed.count, 0);
        assert!(report.spared.contains_key(&GcSpared::Grace), "{report:?}");
        // What is put after it tells its age.
        let file = stage(&shard, 1).await;
        let version = shard.progress().version;
        let appended = shard.append(append(version + 1, 1, 2, vec![file]), &quiet);
        appended.await.unwrap();
        pass(&truth, &now, HOUR).await;
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(report.removed.count, 1);
    });
}

#[test]
fn an_entry_below_the_checkpoint_that_cannot_be_read_is_not_needed() {
    run(async {
        let (truth, now) = clocked();
        let shard = open(&client_at(&truth, 1, &now), URL).await;
        let path = removed_by(&truth, &shard, 0).await;
        let removed_in = shard.progress().version;
        let next = stage(&shard, 1).await;
        let next = append(removed_in + 1, 1, 2, vec![next]);
        shard.append(next, &quiet).await.unwrap();
        shard.checkpoint().await.unwrap();
        put_entry(&truth, removed_in, "{\"remove\":{\"pa").await;
        let shard = open(&client_at(&truth, 2, &now), URL).await;
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(report.unreadable, [removed_in]);
        // It may have removed any of them.
        assert_eq!(report.removed.count, 0);
        let grace = names(report.spared.get(&GcSpared::Grace));
        assert_eq!(grace, set([path.as_str()]));
        pass(&truth, &now, HOUR).await;
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(names(Some(&report.removed)), set([path.as_str()]));
        assert_eq!(report.unreadable, [0; 0], "nor read for nothing");
    });
}

#[test]
fn a_collection_that_does_not_ask_for_the_time_gives_no_file_another() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = dir.path().to_str().unwrap();
        let mut behind = options(1);
        behind.clock = Arc::new(|| 1_000_000_000_000);
        let shard = open(&client(behind), url).await;
        // Each is as old as it seems, though this process's clock has not come to that.
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let staged = stage(&shard, 0).await;
        let entry = format!("_delta_log/{:020}.json", 0);
        let names = [staged.path.as_str(), entry.as_str()];
        for name in names {
            let file = fs::File::options().append(true).open(dir.path().join(name));
            file.unwrap().set_modified(written).unwrap();
        }
        collect(&shard, &at_once()).await;
        for name in names {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(metadata.modified().unwrap(), written, "{name}");
        }
    });
}
