//! From the words of the command line to values.

use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::Row;
use crate::bench::Driver;

pub(super) fn parse_filter(filter: &str) -> Result<String, String> {
    EnvFilter::builder()
        .parse(filter)
        .map(|_| filter.to_owned())
        .map_err(|error| error.to_string())
}

pub(super) fn parse_row(text: &str) -> Result<Row, String> {
    let (driver, workers) = text.split_once(',').ok_or("no DRIVER,WORKERS")?;
    let driver = match driver {
        "none" => None,
        driver => Some(Driver::from_str(driver, false)?),
    };
    Ok(Row {
        driver,
        workers: parse_workers(workers)?,
    })
}

pub(super) fn parse_workers(workers: &str) -> Result<usize, String> {
    // Each worker is a thread: a bound keeps a typing error from taking the machine down.
    const WORKERS_MAX: usize = 1024;
    match workers.parse::<usize>() {
        Ok(workers @ 1..=WORKERS_MAX) => Ok(workers),
        Ok(_) => Err(format!("must be between 1 and {WORKERS_MAX}")),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("expected a number with s, m, h or d behind it".to_owned()),
    };
    let number: u32 = digits
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

pub(super) fn parse_lease(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a hold of no duration holds nothing".to_owned()),
        lease => Ok(lease),
    }
}

pub(super) fn parse_setting(setting: &str) -> Result<(String, String), String> {
    match setting.split_once('=') {
        Some((flag, value)) if !flag.is_empty() => Ok((flag.to_owned(), value.to_owned())),
        _ => Err("expected FLAG=VALUE".to_owned()),
    }
}

pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(error.to_string()),
    }
}
