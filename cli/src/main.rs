//! The command `mvsink`.
//!
//! Exit status: 0 on success, 1 on failure with one line on stderr, 2 on bad usage, 130 and 143 when a signal has ended it.
//! Data goes to stdout and everything else to stderr; that whoever reads them has gone away is no failure.

use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use mvsink_cli::args::{Cli, Command, LogFormat, Workload};
use mvsink_cli::error::Error;
use mvsink_cli::memory::OrExit;
use mvsink_cli::stderr::say;
use mvsink_cli::{bench, hold, inspect, limits, nexmark, repair, snapshot, tail, upkeep};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            match answer.kind() {
                // Help and version are data, and go to stdout.
                _ if !answer.use_stderr() => {
                    let printed = answer.print().and_then(|()| std::io::stdout().flush());
                    return exit_code(printed.map(|()| ExitCode::SUCCESS).map_err(Error::Output));
                }
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => drop(answer.print()),
                _ => say(format_args!("{}; see mvsink --help", usage_line(&answer))),
            }
            return ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2));
        }
    };
    log_to_stderr(&cli);
    limits::report_panics();
    // A panic has been reported where it happened.
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| run(cli.command)));
    match ran {
        Ok(ended) => exit_code(ended),
        Err(_panic) => ExitCode::from(limits::PANICKED),
    }
}

/// The exit status of a command that has ended so; says why it failed.
fn exit_code(ended: Result<ExitCode, Error>) -> ExitCode {
    match ended {
        Ok(status) => status,
        Err(error) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            say(error.line());
            ExitCode::from(error.exit_code())
        }
    }
}

/// The first paragraph of what is wrong, on one line; the rest is advice.
fn usage_line(answer: &clap::Error) -> String {
    let text = answer.render().to_string();
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let line = paragraph.map(str::trim).collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Run(Workload::Nexmark(options)) => nexmark::run::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Snapshot(options) => snapshot::run(&options),
        Command::Tail(options) => tail::run(&options),
        Command::Verify(options) => repair::verify(&options),
        Command::Repair(options) => repair::repair(&options),
        Command::Compact(options) => upkeep::compact(&options),
        Command::Gc(options) => upkeep::gc(&options),
        Command::Hold(command) => hold::run(&command),
        Command::Bench(options) => bench::run(&options),
    }
}

fn log_to_stderr(cli: &Cli) {
    // What ends a sink ends the command, which says so on its one line. The grammar has checked the filter.
    let filter = format!("mvsink::failed=off,mvsink_persist::failed=off,{}", cli.log);
    let filter = EnvFilter::builder().parse_lossy(filter);
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !plain)
        // What nobody reads is not worth a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
