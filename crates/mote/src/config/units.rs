//! Values with units as people write them: `10s`, `64KiB`, `120k`, `60%`, USD.
//!
//! Exact decimal arithmetic on integers: what cannot be kept exactly is refused, not rounded (prices alone are rounded,
//! up). It does not decide which values are sensible for a field.

use std::time::Duration;

/// Why a value with a unit was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number at the start.
    #[error("{found:?} does not start with a number; write {expected}")]
    NoNumber {
        /// What was written.
        found: String,
        /// An example.
        expected: &'static str,
    },
    /// A number alone where a unit is needed.
    #[error("{found:?} has no unit; write {expected}")]
    NoUnit {
        /// What was written.
        found: String,
        /// An example.
        expected: &'static str,
    },
    /// Another unit.
    #[error("{unit:?} is not a unit here; write {expected}")]
    UnknownUnit {
        /// What was written after the number.
        unit: String,
        /// Examples.
        expected: &'static str,
    },
    /// More digits than the unit can carry.
    #[error("{found:?} is finer than {finest}")]
    TooFine {
        /// What was written.
        found: String,
        /// The finest step.
        finest: &'static str,
    },
    /// Beyond 64 bits.
    #[error("{found:?} is too large")]
    TooLarge {
        /// What was written.
        found: String,
    },
}

const DURATION_EXAMPLES: &str = "a duration such as 250ms, 10s, 5m, 2h or 30d";
const SIZE_EXAMPLES: &str = "a size such as 512B, 64KiB or 1MB";
const TOKEN_EXAMPLES: &str = "a token count such as 800, 120k or 1.5M";
const PERCENT_EXAMPLES: &str = "a share such as 60%";
const USD_EXAMPLES: &str = "an amount in USD such as 0.50";

/// A duration: a number and one of `ms`, `s`, `m`, `h`, `d`, `w`; to the millisecond.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text, DURATION_EXAMPLES)?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        "" => return Err(UnitError::NoUnit { found: text.to_owned(), expected: DURATION_EXAMPLES }),
        other => return Err(unknown(other, DURATION_EXAMPLES)),
    };
    exact(number, scale, text, "1 ms").map(Duration::from_millis)
}

/// A size in bytes: a number and one of `B`, `KB`, `MB`, `GB` (powers of 1,000), `KiB`, `MiB`, `GiB` (powers of 1,024).
pub fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, SIZE_EXAMPLES)?;
    let scale = match unit {
        "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => return Err(UnitError::NoUnit { found: text.to_owned(), expected: SIZE_EXAMPLES }),
        other => return Err(unknown(other, SIZE_EXAMPLES)),
    };
    exact(number, scale, text, "1 byte")
}

/// A token count: a number, alone or with `k` (thousand) or `M` (million).
pub fn tokens(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, TOKEN_EXAMPLES)?;
    let scale = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        other => return Err(unknown(other, TOKEN_EXAMPLES)),
    };
    exact(number, scale, text, "1 token")
}

/// A share: a whole number and `%`, from 0 to 100.
pub fn percent(text: &str) -> Result<u8, UnitError> {
    let (number, unit) = split(text, PERCENT_EXAMPLES)?;
    match unit {
        "%" => {}
        "" => return Err(UnitError::NoUnit { found: text.to_owned(), expected: PERCENT_EXAMPLES }),
        other => return Err(unknown(other, PERCENT_EXAMPLES)),
    }
    let value = exact(number, 1, text, "1%")?;
    u8::try_from(value)
        .ok()
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| UnitError::TooLarge { found: text.to_owned() })
}

/// An amount of money in USD, as a decimal number: nano-USD.
pub fn usd(number: &serde_json::Number) -> Result<u64, UnitError> {
    let text = decimal_text(number);
    let (digits, unit) = split(&text, USD_EXAMPLES)?;
    if !unit.is_empty() {
        return Err(unknown(unit, USD_EXAMPLES));
    }
    exact(digits, 1_000_000_000, &text, "1 nano-USD")
}

/// A price in USD per million tokens: nano-USD per token, rounded up so that spend is never understated.
pub fn price(number: &serde_json::Number) -> Result<u64, UnitError> {
    let text = decimal_text(number);
    let (digits, unit) = split(&text, USD_EXAMPLES)?;
    if !unit.is_empty() {
        return Err(unknown(unit, USD_EXAMPLES));
    }
    let (value, remainder) = scaled(digits, 1_000).ok_or_else(|| UnitError::TooLarge { found: text.clone() })?;
    Ok(value + u64::from(remainder))
}

/// A number without an exponent; `serde_json` writes tiny and huge floats with one.
fn decimal_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => format!("{float}"),
        _ => number.to_string(),
    }
}

fn unknown(unit: &str, expected: &'static str) -> UnitError {
    UnitError::UnknownUnit { unit: unit.to_owned(), expected }
}

/// Splits the leading decimal number from its unit; spaces between them are allowed.
fn split<'a>(text: &'a str, expected: &'static str) -> Result<(&'a str, &'a str), UnitError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let points = number.matches('.').count();
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') || points > 1 {
        return Err(UnitError::NoNumber { found: text.to_owned(), expected });
    }
    Ok((number, unit.trim_start()))
}

/// `number * scale`, refused if it is not whole.
fn exact(number: &str, scale: u64, text: &str, finest: &'static str) -> Result<u64, UnitError> {
    match scaled(number, scale) {
        Some((value, false)) => Ok(value),
        Some((_, true)) => Err(UnitError::TooFine { found: text.to_owned(), finest }),
        None => Err(UnitError::TooLarge { found: text.to_owned() }),
    }
}

/// `number * scale` rounded down, and whether something was left over. `None` beyond 64 bits.
fn scaled(number: &str, scale: u64) -> Option<(u64, bool)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    let whole: u128 = whole.parse().ok()?;
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let numerator: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = numerator.checked_mul(u128::from(scale))?;
    let value = whole.checked_mul(u128::from(scale))?.checked_add(part / divisor)?;
    Some((u64::try_from(value).ok()?, part % divisor != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_duration(text: &str, expected: Result<u64, &str>) {
        let found = duration(text).map(|d| u64::try_from(d.as_millis()).unwrap()).map_err(|e| e.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn durations_have_units() {
        check_duration("250ms", Ok(250));
        check_duration("10s", Ok(10_000));
        check_duration("1.5h", Ok(5_400_000));
        check_duration("30d", Ok(2_592_000_000));
        check_duration("2 w", Ok(1_209_600_000));
        check_duration("10", Err("\"10\" has no unit; write a duration such as 250ms, 10s, 5m, 2h or 30d"));
        check_duration("10x", Err("\"x\" is not a unit here; write a duration such as 250ms, 10s, 5m, 2h or 30d"));
        check_duration("0.5ms", Err("\"0.5ms\" is finer than 1 ms"));
        check_duration("99999999999999999999d", Err("\"99999999999999999999d\" is too large"));
        check_duration(
            "soon",
            Err("\"soon\" does not start with a number; write a duration such as 250ms, 10s, 5m, 2h or 30d"),
        );
        check_duration(
            "-1s",
            Err("\"-1s\" does not start with a number; write a duration such as 250ms, 10s, 5m, 2h or 30d"),
        );
    }

    #[test]
    fn sizes_tell_decimal_from_binary() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("1.5MiB"), Ok(1_572_864));
        assert!(matches!(size("64"), Err(UnitError::NoUnit { .. })));
        assert!(matches!(size("64kib"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(size("0.5B"), Err(UnitError::TooFine { .. })));
    }

    #[test]
    fn token_counts_may_be_bare() {
        assert_eq!(tokens("800"), Ok(800));
        assert_eq!(tokens("120k"), Ok(120_000));
        assert_eq!(tokens("1.5M"), Ok(1_500_000));
        assert!(matches!(tokens("1.0005k"), Err(UnitError::TooFine { .. })));
    }

    #[test]
    fn shares_end_at_a_hundred() {
        assert_eq!(percent("60%"), Ok(60));
        assert!(matches!(percent("101%"), Err(UnitError::TooLarge { .. })));
        assert!(matches!(percent("60"), Err(UnitError::NoUnit { .. })));
    }

    #[test]
    fn money_is_exact_and_prices_round_up() {
        let number = |text: &str| serde_json::from_str::<serde_json::Number>(text).unwrap();
        assert_eq!(usd(&number("0.50")), Ok(500_000_000));
        assert_eq!(usd(&number("3")), Ok(3_000_000_000));
        assert_eq!(usd(&number("0.1")), Ok(100_000_000));
        assert_eq!(usd(&number("1e-9")), Ok(1));
        assert!(matches!(usd(&number("1e-10")), Err(UnitError::TooFine { .. })));
        assert!(matches!(usd(&number("-1")), Err(UnitError::NoNumber { .. })));
        assert_eq!(price(&number("3.00")), Ok(3_000));
        assert_eq!(price(&number("0.0375")), Ok(38));
    }
}
