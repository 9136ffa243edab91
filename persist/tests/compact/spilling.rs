//! Merges that have no memory for their rows, and spill them.

use super::*;

/// A shard with one file of each of so many appends, whose rows are in no order.
async fn unordered(options: ClientOptions, files: u64, rows: u64) -> Shard {
    let client = client(options);
    let open = Open::new(codec().schema());
    let shard = client.open_or_create("memory://unordered", open).await;
    let shard = shard.unwrap();
    for file in 0..files {
        let rows = (0..rows).map(|n| {
            let key = (file * rows + n) * 7919 % (files * rows);
            (Ok((key, Some(format!("{key:040}")))), file as i64, 1)
        });
        let encoded = encode(&rows.collect::<Vec<_>>(), false);
        assert!(!encoded.sorted);
        let staged = stage(&shard, encoded).await;
        append(&shard, file as i64 + 1, vec![staged]).await;
    }
    shard
}

/// Merges all with so much memory; what it has told last.
async fn compact_within(shard: &Shard, budget_bytes: usize) -> (CompactReport, CompactProgress) {
    let mut options = full();
    options.budget_bytes = budget_bytes;
    let told = Mutex::new(CompactProgress::default());
    let tell = |progress: CompactProgress| {
        let mut told = told.lock().unwrap();
        // It only goes on, and never beyond what there is.
        assert!(told.rows_read <= progress.rows_read && progress.rows_read <= progress.rows);
        assert!(told.rows_done <= progress.rows_done && progress.rows_done <= progress.rows);
        *told = progress;
        ControlFlow::Continue(())
    };
    let report = shard.compact(&options, &tell).await.unwrap();
    (report, told.into_inner().unwrap())
}

#[test]
fn rows_are_read_once_and_spilled_a_logarithm_of_times_however_little_memory_there_is() {
    const ROWS: u64 = 4 * 5000;
    let spilled = |budget_bytes| {
        run(async {
            let shard = unordered(options(1), 4, ROWS / 4).await;
            let before = sums(&shard);
            let (report, told) = compact_within(&shard, budget_bytes).await;
            assert_eq!(
                (report.merges, report.rows_in, report.rows_out),
                (1, ROWS, ROWS)
            );
            assert_eq!(sums(&shard), before);
            assert_eq!(
                (told.rows_read, told.rows_done),
                (ROWS, ROWS),
                "{budget_bytes}"
            );
            assert_eq!(read(&shard, 3).await.len() as u64, ROWS);
            told.rows_spilled
        })
    };
    assert_eq!(spilled(256 << 20), 0, "it fits into memory");
    let all: Vec<u64> = (0..=8).map(|n| spilled((1 << 20) >> n)).collect();
    assert_eq!(all[0], ROWS, "once, as all runs can be merged at once");
    // Each halving doubles the runs, and the last ones leave room for a few blocks only.
    for (halvings, spilled) in all.iter().enumerate() {
        let bound = match halvings {
            ..=6 => ROWS * (2 + halvings as u64 / 2),
            // Two at a time.
            _ => ROWS * u64::from(ROWS.ilog2()),
        };
        assert!(
            (ROWS..=bound).contains(spilled),
            "{halvings} halvings: {all:?}"
        );
    }
    assert!(
        all[8] > ROWS,
        "there were runs too many to be merged at once: {all:?}"
    );
}

#[test]
fn what_is_put_aside_has_no_name_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(1);
    options.spill_directory = folder.path().to_owned();
    run(async {
        let shard = unordered(options, 4, 1000).await;
        let mut all = full();
        all.budget_bytes = 64 << 10;
        let seen = Mutex::new(0);
        let look = |progress: CompactProgress| {
            *seen.lock().unwrap() = progress.rows_spilled;
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            ControlFlow::Continue(())
        };
        assert_eq!(shard.compact(&all, &look).await.unwrap().merges, 1);
        assert!(*seen.lock().unwrap() >= 4000);
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_disk_that_cannot_be_written_stops_a_merge_that_needs_it_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(1);
    options.spill_directory = folder.path().join("gone");
    run(async {
        let shard = unordered(options, 4, 1000).await;
        let before = live(&shard);
        let mut all = full();
        all.budget_bytes = 64 << 10;
        let error = compact(&shard, &all).await.unwrap_err();
        assert!(
            matches!(error, Error::Spill { .. }) && error.is_transient(),
            "{error:?}"
        );
        assert!(error.to_string().contains("gone"), "{error}");
        assert_eq!(live(&shard), before);
        all.budget_bytes = 256 << 20;
        assert_eq!(compact(&shard, &all).await.unwrap().rows_out, 4000);
    });
}

#[test]
fn a_compaction_can_be_stopped_while_it_reads_and_while_it_spills() {
    run(async {
        let shard = unordered(options(1), 4, 5000).await;
        let before = live(&shard);
        let mut all = full();
        all.budget_bytes = 16 << 10;
        let stops: [fn(&CompactProgress) -> bool; 3] = [
            |progress| progress.rows_read > 0,
            |progress| progress.rows_spilled > 0,
            |progress| progress.rows_read == progress.rows && progress.rows_spilled > progress.rows,
        ];
        for stop in stops {
            let last = Mutex::new(CompactProgress::default());
            let go_on = |progress: CompactProgress| {
                let stops = stop(&progress);
                *last.lock().unwrap() = progress;
                match stops {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let report = shard.compact(&all, &go_on).await.unwrap();
            assert_eq!((report.merges, live(&shard)), (0, before.clone()));
            let last = last.into_inner().unwrap();
            assert!(stop(&last) && last.rows_out == 0, "{last:?}");
        }
    });
}
