//! Times as text: RFC 3339 in UTC with milliseconds, both ways.
//!
//! It does not know any time zone but the offset that a text carries, and reads no clock.

use crate::clock::UnixMs;

const DAY_MS: u64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can write.
const MAX_MS: u64 = 253_402_300_799_999;

/// `2026-11-21T12:04:51.000Z`. Times after the year 9999 are written as its last millisecond.
#[must_use]
pub fn format_rfc3339(at: UnixMs) -> String {
    let at = at.min(MAX_MS);
    let (year, month, day) = civil_from_days(at / DAY_MS);
    let ms = at % DAY_MS;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

/// Reads an RFC 3339 time with any offset; a fraction beyond milliseconds is cut. `None` if it is not one, or lies
/// before 1970. A leap second counts as the second after it.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<UnixMs> {
    u64::try_from(parse(text)?).ok()
}

/// The same, but a time before 1970 becomes 1970's first millisecond: for bounds.
#[must_use]
pub fn parse_rfc3339_clamped(text: &str) -> Option<UnixMs> {
    Some(u64::try_from(parse(text)?).unwrap_or(0))
}

/// Milliseconds since 1970, or -1 for any time before it.
fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = &bytes[from..to];
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
    };
    let separators = [(4, b"-" as &[u8]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    if !separators.iter().all(|(at, allowed)| allowed.contains(&bytes[*at])) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = &bytes[19..];
    let fraction_len = match rest.first() {
        Some(b'.') => 1 + rest[1..].iter().take_while(|b| b.is_ascii_digit()).count(),
        _ => 0,
    };
    if fraction_len == 1 {
        return None;
    }
    let fraction = rest.iter().take(fraction_len).skip(1).chain(b"000").take(3);
    let ms = fraction.fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
    let offset_at = 19 + fraction_len;
    let offset_minutes: i64 = match bytes.get(offset_at)? {
        b'Z' | b'z' if bytes.len() == offset_at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == offset_at + 6 && bytes[offset_at + 3] == b':' => {
            let (hours, minutes) = (number(offset_at + 1, offset_at + 3)?, number(offset_at + 4, offset_at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = i64::try_from(hours * 60 + minutes).ok()?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let Some(days) = days_from_civil(year, month, day) else { return Some(-1) };
    let local = days * DAY_MS + (hour * 3600 + minute * 60 + second) * 1000 + ms;
    Some(i64::try_from(local).ok()? - offset_minutes * 60_000)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn leap_days_before(year: u64) -> u64 {
    let last = year - 1;
    last / 4 - last / 100 + last / 400
}

/// Days since 1970-01-01; `None` before it.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 {
        return None;
    }
    let years = (year - 1970) * 365 + leap_days_before(year) - leap_days_before(1970);
    Some(years + (1..month).map(|month| days_in_month(year, month)).sum::<u64>() + day - 1)
}

fn civil_from_days(mut days: u64) -> (u64, u64, u64) {
    // The mean year is a little longer than 365 days, so this guess is never too small by more than a year.
    let mut year = 1970 + days * 400 / 146_097;
    let start = |year| (year - 1970) * 365 + leap_days_before(year) - leap_days_before(1970);
    while start(year) > days {
        year -= 1;
    }
    while start(year + 1) <= days {
        year += 1;
    }
    days -= start(year);
    let mut month = 1;
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_262_691_007, "2026-11-21T12:04:51.007Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (MAX_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_rfc3339(at), text);
            assert_eq!(parse_rfc3339(text), Some(at), "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in 0..146_097 {
            let at = day * DAY_MS + 12_345;
            assert_eq!(parse_rfc3339(&format_rfc3339(at)), Some(at));
        }
    }

    #[test]
    fn offsets_and_fractions() {
        let at = parse_rfc3339("2026-11-21T12:00:00Z").unwrap();
        assert_eq!(parse_rfc3339("2026-11-21T14:00:00+02:00"), Some(at));
        assert_eq!(parse_rfc3339("2026-11-21t04:30:00-07:30"), Some(at));
        assert_eq!(parse_rfc3339("2026-11-21 12:00:00.1239Z"), Some(at + 123));
        assert_eq!(parse_rfc3339("2026-11-21T12:00:00.5Z"), Some(at + 500));
    }

    #[test]
    fn a_bound_before_1970_is_1970() {
        for text in
            ["1969-12-31T23:59:59Z", "0001-02-03T04:05:06Z", "1970-01-01T00:30:00+01:00", "1970-01-01T00:00:00Z"]
        {
            assert_eq!(parse_rfc3339_clamped(text), Some(0), "{text}");
        }
        assert_eq!(parse_rfc3339_clamped("1969-02-29T00:00:00Z"), None);
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "now",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T12:00:00.Z",
            "2026-11-21T12:00:00+2:00",
            "1969-12-31T23:59:59Z",
            "2026-11-21T12:00:00Zx",
            "2026-11-21T12:00:00+00:00é",
            "١٢٣٤-11-21T12:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
