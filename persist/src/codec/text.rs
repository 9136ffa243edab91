//! Dates, timestamps and decimals as text, exactly: what a column does not keep is refused.
//!
//! ```text
//!   parse(format(x)) = x,   format(x) = the text that fingerprints are taken of
//! ```
//!
//! Texts are those of RFC 3339 and ISO 8601: `2024-02-29`, `2024-02-29T12:00:00.500Z`, `-1.50`. The fraction of a
//! second has none, three or six digits; a year has four, or more with a sign, or six after a minus.

use std::fmt::Write;

/// The days before and after 1970 for which there are dates: some 260,000 years.
pub(crate) const CALENDAR_DAYS: i64 = 95_000_000;

const DAY_US: i64 = 86_400_000_000;

/// A moment, and how far its clock was from UTC where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Microseconds from 1970.
    pub(super) micros: i64,
    /// Minutes east of UTC.
    pub(super) offset: i32,
}

/// The days from 1970 of a date.
///
/// # Errors
///
/// In words, if the text is no date, or one beyond the calendar.
pub(super) fn parse_date(text: &str) -> Result<i32, String> {
    let bad = || format!("{text:?} is no date; it takes the form 2024-02-29");
    let mut rest = text;
    let days = take_date(&mut rest).ok_or_else(bad)?;
    if !rest.is_empty() {
        return Err(bad());
    }
    check_days(days)
}

/// Refuses days that no date has.
pub(super) fn check_days(days: i64) -> Result<i32, String> {
    if !(-CALENDAR_DAYS..=CALENDAR_DAYS).contains(&days) {
        return Err("the date is out of range".into());
    }
    i32::try_from(days).map_err(|_| "the date is out of range".into())
}

/// Refuses microseconds that no timestamp has.
pub(super) fn check_micros(micros: i64) -> Result<i64, String> {
    check_days(micros.div_euclid(DAY_US))
        .map(|_| micros)
        .map_err(|_| "the timestamp is out of range".into())
}

/// The moment of a timestamp; one without a zone is in UTC.
///
/// # Errors
///
/// In words, if the text is no timestamp, is beyond the calendar, or has more than microseconds.
pub(super) fn parse_timestamp(text: &str) -> Result<Moment, String> {
    let bad = || format!("{text:?} is no timestamp; it takes the form 2024-02-29T12:00:00.5Z");
    let mut rest = text;
    let days = take_date(&mut rest).ok_or_else(bad)?;
    if !rest.starts_with(['T', 't', ' ']) {
        return Err(bad());
    }
    rest = &rest[1..];
    let (hour, minute) = (take_two(&mut rest), take_colon_two(&mut rest));
    let second = take_colon_two(&mut rest);
    let (Some(hour), Some(minute), Some(second)) = (hour, minute, second) else {
        return Err(bad());
    };
    if second == 60 {
        return Err(format!(
            "{text:?} is in a leap second, which the column does not keep"
        ));
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(bad());
    }
    let mut fraction = 0;
    if let Some(after) = rest.strip_prefix(['.', ',']) {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(bad());
        }
        for (place, digit) in after[..digits].bytes().enumerate() {
            match place {
                0..6 => fraction = fraction * 10 + i64::from(digit - b'0'),
                _ if digit != b'0' => {
                    return Err(format!(
                        "{text:?} has more than microseconds, which the column does not keep"
                    ));
                }
                _ => {}
            }
        }
        fraction *= 10_i64.pow(6_usize.saturating_sub(digits) as u32);
        rest = &after[digits..];
    }
    let offset = take_offset(&mut rest)
        .filter(|_| rest.is_empty())
        .ok_or_else(bad)?;
    let seconds = hour * 3600 + (minute - i64::from(offset)) * 60 + second;
    let micros = days.checked_mul(DAY_US);
    let micros = micros.and_then(|micros| micros.checked_add(seconds * 1_000_000 + fraction));
    let micros = micros.ok_or("the timestamp is out of range")?;
    Ok(Moment {
        micros: check_micros(micros)?,
        offset,
    })
}

/// A decimal with this many digits, so many of them after the point, without the point.
///
/// # Errors
///
/// In words, if the text is no number, or has more digits.
pub(super) fn parse_decimal(text: &str, precision: u8, scale: u8) -> Result<i128, String> {
    let bad = || format!("{text:?} is no decimal; it takes the form -1.50");
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (
            &rest[..at],
            rest[at + 1..].parse::<i32>().map_err(|_| bad())?,
        ),
        None => (rest, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_number(whole) || !is_number(fraction) {
        return Err(bad());
    }
    let too_long = |what: &str| {
        format!("{text:?} has more digits {what} than decimal({precision},{scale}) keeps")
    };
    // How many digits lie before the point, which may be none or beyond the last.
    let point = whole.len() as i64 + i64::from(exponent);
    let end = point + i64::from(scale);
    let mut value: i128 = 0;
    for (place, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let digit = i128::from(digit - b'0');
        if (place as i64) < end {
            let more = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(digit));
            value = more.ok_or_else(|| too_long("before the point"))?;
        } else if digit != 0 {
            return Err(too_long("after the point"));
        }
    }
    let missing = end - (whole.len() + fraction.len()) as i64;
    if value != 0 && missing > 0 {
        let power = u32::try_from(missing)
            .ok()
            .and_then(|missing| 10_i128.checked_pow(missing));
        let more = power.and_then(|power| value.checked_mul(power));
        value = more.ok_or_else(|| too_long("before the point"))?;
    }
    if value >= 10_i128.pow(precision.into()) {
        return Err(too_long("before the point"));
    }
    Ok(if negative { -value } else { value })
}

/// The bytes of a UUID in its usual text, in small letters.
///
/// # Errors
///
/// In words, if the text is another.
pub(super) fn parse_uuid(text: &str) -> Result<[u8; 16], String> {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let parsed = u128::from_str_radix(&digits, 16).map(u128::to_be_bytes);
    match parsed {
        Ok(bytes) if format_uuid(&bytes).as_deref() == Some(text) => Ok(bytes),
        _ => Err(format!(
            "{text:?} is no UUID of the form 67e55044-10b1-426f-9247-bb680e5fe0c8"
        )),
    }
}

/// The text of a UUID; `None` if it has not 16 bytes.
pub(super) fn format_uuid(bytes: &[u8]) -> Option<String> {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes.try_into().ok()?));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    Some(parts.join("-"))
}

/// Appends a date as text.
pub(crate) fn format_date(days: i32, out: &mut String) {
    let (year, month, day) = date_of(i64::from(days));
    put_date(year, month, day, out);
}

/// Appends a timestamp as text, with a `Z` if it is to have a zone.
pub(crate) fn format_timestamp(micros: i64, zoned: bool, out: &mut String) {
    let (year, month, day) = date_of(micros.div_euclid(DAY_US));
    put_date(year, month, day, out);
    let of_day = micros.rem_euclid(DAY_US);
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    put(out, format_args!("T{hour:02}:{minute:02}:{second:02}"));
    match (fraction, fraction % 1000) {
        (0, _) => {}
        (_, 0) => put(out, format_args!(".{:03}", fraction / 1000)),
        _ => put(out, format_args!(".{fraction:06}")),
    }
    if zoned {
        out.push('Z');
    }
}

/// Appends a decimal as text, with all its digits after the point.
pub(crate) fn format_decimal(value: i128, scale: u8, out: &mut String) {
    if value < 0 {
        out.push('-');
    }
    let digits = value.unsigned_abs();
    if scale == 0 {
        return put(out, format_args!("{digits}"));
    }
    let width = usize::from(scale);
    let power = 10_u128.pow(scale.into());
    put(
        out,
        format_args!("{}.{:0width$}", digits / power, digits % power),
    );
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes all.
    let _ = out.write_fmt(text);
}

fn put_date(year: i64, month: i64, day: i64, out: &mut String) {
    match year {
        ..0 => put(out, format_args!("-{:06}", -year)),
        0..=9999 => put(out, format_args!("{year:04}")),
        _ => put(out, format_args!("+{year}")),
    }
    put(out, format_args!("-{month:02}-{day:02}"));
}

fn take_date(rest: &mut &str) -> Option<i64> {
    let sign = match rest.as_bytes().first()? {
        b'-' => -1,
        b'+' => 1,
        _ => 0,
    };
    if sign != 0 {
        *rest = &rest[1..];
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !(4..=9).contains(&digits) {
        return None;
    }
    let year: i64 = rest[..digits].parse().ok()?;
    let year = if sign < 0 { -year } else { year };
    *rest = &rest[digits..];
    let (month, day) = (take_dash_two(rest)?, take_dash_two(rest)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (1..=last).contains(&day).then(|| days_of(year, month, day))
}

fn take_two(rest: &mut &str) -> Option<i64> {
    let two = rest
        .get(..2)
        .filter(|two| two.bytes().all(|byte| byte.is_ascii_digit()))?;
    let value = two.parse().ok()?;
    *rest = &rest[2..];
    Some(value)
}

fn take_dash_two(rest: &mut &str) -> Option<i64> {
    *rest = rest.strip_prefix('-')?;
    take_two(rest)
}

fn take_colon_two(rest: &mut &str) -> Option<i64> {
    *rest = rest.strip_prefix(':')?;
    take_two(rest)
}

/// Minutes east of UTC; none is UTC.
fn take_offset(rest: &mut &str) -> Option<i32> {
    let sign = match rest.as_bytes().first() {
        None => return Some(0),
        Some(b'Z' | b'z') => {
            *rest = &rest[1..];
            return Some(0);
        }
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return None,
    };
    *rest = &rest[1..];
    let hours = take_two(rest)?;
    *rest = rest.strip_prefix(':').unwrap_or(rest);
    let minutes = if rest.is_empty() { 0 } else { take_two(rest)? };
    i32::try_from(sign * (hours * 60 + minutes))
        .ok()
        .filter(|offset| offset.abs() < 24 * 60)
}

/// Days from 1970 in the proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp(micros: i64) -> String {
        let mut text = String::new();
        format_timestamp(micros, true, &mut text);
        text
    }

    fn decimal(value: i128, scale: u8) -> String {
        let mut text = String::new();
        format_decimal(value, scale, &mut text);
        text
    }

    #[test]
    fn every_day_has_one_text_and_back() {
        let mut text = String::new();
        for days in (-CALENDAR_DAYS..=CALENDAR_DAYS)
            .step_by(997)
            .chain(-1000..1000)
        {
            text.clear();
            let days = i32::try_from(days).unwrap();
            format_date(days, &mut text);
            assert_eq!(parse_date(&text), Ok(days), "{text}");
        }
        for (days, expected) in [
            (0, "1970-01-01"),
            (19_782, "2024-02-29"),
            (-719_529, "-000001-12-31"),
        ] {
            text.clear();
            format_date(days, &mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn timestamps_keep_microseconds_and_refuse_more() {
        for micros in [
            0,
            1,
            -1,
            500_000,
            123_456,
            1_709_208_000_000_000,
            -62_135_596_800_000_001,
        ] {
            let text = timestamp(micros);
            assert_eq!(
                parse_timestamp(&text),
                Ok(Moment { micros, offset: 0 }),
                "{text}"
            );
        }
        assert_eq!(timestamp(500_000), "1970-01-01T00:00:00.500Z");
        let moment = |text| parse_timestamp(text).map(|moment| (moment.micros, moment.offset));
        assert_eq!(moment("1970-01-01 01:00:00.25+01:00"), Ok((250_000, 60)));
        assert_eq!(moment("1970-01-01T00:00:00.100000000"), Ok((100_000, 0)));
        for (text, why) in [
            ("1970-01-01T00:00:00.0000001Z", "more than microseconds"),
            ("1970-01-01T23:59:60Z", "leap second"),
            ("1970-01-01", "no timestamp"),
            ("1970-02-30T00:00:00Z", "no timestamp"),
            ("1970-01-01T24:00:00Z", "no timestamp"),
            ("1970-01-01T00:00:00Zé", "no timestamp"),
            ("+300000-01-01T00:00:00Z", "out of range"),
        ] {
            let error = parse_timestamp(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(parse_date("1970-01-01T00:00:00").is_err());
        assert!(parse_date("é").is_err());
        assert!(
            parse_date("+300000-01-01")
                .unwrap_err()
                .contains("out of range")
        );
    }

    #[test]
    fn uuids_are_bytes_and_back() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        let bytes = parse_uuid(text).unwrap();
        assert_eq!(bytes[..2], [0x67, 0xe5]);
        assert_eq!(format_uuid(&bytes).as_deref(), Some(text));
        assert_eq!(
            parse_uuid("00000000-0000-0000-0000-000000000000"),
            Ok([0; 16])
        );
        let others = [
            "",
            "é",
            &text.to_uppercase(),
            &text.replace('-', ""),
            &text[1..],
        ];
        others
            .iter()
            .for_each(|other| assert!(parse_uuid(other).is_err(), "{other}"));
        assert_eq!(format_uuid(&bytes[1..]), None);
    }

    #[test]
    fn decimals_keep_their_digits_and_refuse_more() {
        for (text, value) in [
            ("1.5", 150),
            ("-0.07", -7),
            ("1.500", 150),
            ("+12", 1200),
            (".5", 50),
            ("1.5e1", 1500),
            ("15E-1", 150),
            ("000000000000000000000000000000000000000000001", 100),
            ("0e99", 0),
        ] {
            assert_eq!(parse_decimal(text, 6, 2), Ok(value), "{text}");
        }
        for (text, why) in [
            ("0.001", "after the point"),
            ("10000", "before the point"),
            ("1e40", "before the point"),
            ("", "no decimal"),
            ("1.2.3", "no decimal"),
            ("NaN", "no decimal"),
            ("é", "no decimal"),
        ] {
            let error = parse_decimal(text, 6, 2).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(decimal(-7, 2), "-0.07");
        assert_eq!(decimal(0, 2), "0.00");
        assert_eq!(decimal(12, 0), "12");
        let most = 10_i128.pow(38) - 1;
        assert_eq!(parse_decimal(&decimal(most, 38), 38, 38), Ok(most));
        assert_eq!(parse_decimal(&decimal(-most, 0), 38, 0), Ok(-most));
        assert!(parse_decimal(&i128::MAX.to_string(), 38, 0).is_err());
    }
}
