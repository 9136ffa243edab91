use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn command(line: &str) -> Command {
    parse(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .command
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn bench_measures_all_unless_one_is_named() {
    let all = Bench {
        quick: false,
        json: false,
        dir: None,
        only: None,
        sizes: Sizes::default(),
        row: None,
    };
    assert_eq!(command("mvsink bench"), Command::Bench(all.clone()));
    let some = Bench {
        quick: true,
        json: true,
        dir: Some("d".into()),
        only: Some(Name::SteadyNocompact),
        sizes: Sizes {
            ticks: Some(3),
            tick_updates: Some(10),
            ..Sizes::default()
        },
        row: None,
    };
    let sizes = some.sizes.arguments().join(" ");
    assert_eq!(sizes, "--ticks 3 --tick-updates 10");
    assert_eq!(
        command(&format!(
            "mvsink bench --quick --json --dir d --only steady_nocompact {sizes}"
        )),
        Command::Bench(some)
    );
    for bad in [
        "--only nothing",
        "--row sync,1",
        "--only bulk --dir d --row sync",
    ] {
        assert!(parse(&format!("mvsink bench {bad}")).is_err(), "{bad}");
    }
}

#[test]
fn run_nexmark_has_the_documented_defaults() {
    let defaults = Nexmark {
        dir: "d".into(),
        events: 1_000_000,
        workers: 2,
        rate: None,
        seed: 0,
        set: Vec::new(),
    };
    assert_eq!(
        command("mvsink run nexmark --dir d"),
        Command::Run(Workload::Nexmark(defaults.clone()))
    );
    let all = Nexmark {
        events: 5,
        workers: 3,
        rate: Some(7),
        seed: 9,
        set: vec![("a".into(), "b=c".into()), ("d".into(), String::new())],
        ..defaults
    };
    assert_eq!(
        command(
            "mvsink run nexmark --dir d --events 5 --workers 3 --rate 7 --seed 9 --set a=b=c --set d="
        ),
        Command::Run(Workload::Nexmark(all))
    );
}

#[test]
fn looking_at_shards_has_the_documented_options() {
    assert_eq!(
        command("mvsink inspect s3://b/q4 --json"),
        Command::Inspect(Inspect {
            url: "s3://b/q4".into(),
            json: true
        })
    );
    assert_eq!(
        command("mvsink snapshot q4 --as-of -3 --format csv"),
        Command::Snapshot(Snapshot {
            url: "q4".into(),
            as_of: Some(-3),
            conditions: Vec::new(),
            columns: Vec::new(),
            limit: None,
            count: false,
            ignore_errors: false,
            format: SnapshotFormat::Csv
        })
    );
    let Command::Snapshot(some) =
        command("mvsink snapshot q4 --columns a,b --columns c --limit 3 --where a=1 --where b>2")
    else {
        panic!("another command");
    };
    assert_eq!(
        (some.columns.len(), some.limit, some.conditions.len()),
        (3, Some(3), 2)
    );
    assert_eq!(
        command("mvsink tail q4 --from 0 --until 9 --format ndjson"),
        Command::Tail(Tail {
            url: "q4".into(),
            from: Some(0),
            until: Some(9),
            format: TailFormat::Ndjson
        })
    );
}

#[test]
fn upkeep_has_the_documented_options() {
    assert_eq!(
        command("mvsink gc q4 --orphan-age 90s --dry-run"),
        Command::Gc(Gc {
            url: "q4".into(),
            grace: Duration::from_secs(3600),
            orphan_age: Duration::from_secs(90),
            watch: Duration::ZERO,
            dry_run: true,
            json: false,
        })
    );
    assert_eq!(
        command("mvsink repair q4 --dry-run --drop-entries"),
        Command::Repair(Repair {
            url: "q4".into(),
            dry_run: true,
            drop_entries: Some(None),
            drop_files: false,
            accept_edits: false,
            json: false,
        })
    );
    assert_eq!(
        command("mvsink repair bid --accept-edits --json"),
        Command::Repair(Repair {
            url: "bid".into(),
            dry_run: false,
            drop_entries: None,
            drop_files: false,
            accept_edits: true,
            json: true,
        })
    );
    assert_eq!(
        command("mvsink compact q4 --full --json"),
        Command::Compact(Compact {
            url: "q4".into(),
            full: true,
            memory: 256,
            dry_run: false,
            json: true,
        })
    );
    assert_eq!(
        command("mvsink hold take q4 report --at 7 --lease 2d"),
        Command::Hold(Hold::Take(HoldTake {
            url: "q4".into(),
            name: "report".into(),
            at: Some(7),
            lease: Duration::from_secs(2 * 24 * 3600),
            json: false,
        }))
    );
}

#[test]
fn the_log_options_go_anywhere() {
    for line in [
        "mvsink --log info --log-format json inspect q4",
        "mvsink inspect q4 --log info --log-format json",
    ] {
        let cli = parse(line).expect(line);
        assert_eq!(
            (cli.log.as_str(), cli.log_format),
            ("info", LogFormat::Json)
        );
    }
    let cli = parse("mvsink inspect q4").expect("no log options");
    assert_eq!(
        (cli.log.as_str(), cli.log_format),
        ("warn", LogFormat::Text)
    );
}

#[test]
fn bad_usage_is_refused() {
    for line in [
        "mvsink",
        "mvsink run",
        "mvsink run nexmark",
        "mvsink run nexmark --dir d --workers 0",
        "mvsink run nexmark --dir d --workers 1000000",
        "mvsink run nexmark --dir d --workers two",
        "mvsink run nexmark --dir d --events 0",
        "mvsink run nexmark --dir d --events -1",
        "mvsink run nexmark --dir d --rate 0",
        "mvsink run nexmark --dir d --seed 18446744073709551615",
        "mvsink run nexmark --dir d --set flag",
        "mvsink run nexmark --dir d --set =value",
        "mvsink run nexmark --dir d --frobnicate",
        "mvsink inspect",
        "mvsink inspect q4 --log foo=bar=baz",
        "mvsink inspect q4 --log-format xml",
        "mvsink snapshot q4 --as-of noon",
        "mvsink snapshot q4 --format parquet",
        "mvsink snapshot q4 --where a",
        "mvsink snapshot q4 --columns a,,b",
        "mvsink snapshot q4 --limit -1",
        "mvsink snapshot q4 --count --columns a",
        "mvsink tail q4 --format csv",
        "mvsink verify",
        "mvsink compact q4 --memory 0",
        "mvsink gc q4 --grace 1y",
        "mvsink gc q4 --grace h",
        "mvsink gc q4 --grace 99999999999h",
        "mvsink hold",
        "mvsink hold take q4",
        "mvsink hold take q4 report --lease 0s",
        "mvsink hold take q4 report --lease -1s",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.use_stderr(), "{line}");
    }
}

#[test]
fn help_and_version_are_data() {
    for (line, kind) in [
        ("mvsink --help", ErrorKind::DisplayHelp),
        ("mvsink run nexmark --help", ErrorKind::DisplayHelp),
        ("mvsink --version", ErrorKind::DisplayVersion),
    ] {
        let shown = parse(line).expect_err(line);
        assert_eq!(
            (shown.kind(), shown.exit_code(), shown.use_stderr()),
            (kind, 0, false)
        );
    }
}
