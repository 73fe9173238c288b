//! Durations and sizes as people write them: `"30s"`, `"40m"`, `"512MiB"`.
//!
//! A number without a unit is refused, except that `0` needs none. It does not know calendars: a day is 24 hours.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Parses a duration: an integer and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 0,
        other => return Err(format!("{text:?} has the unit {other:?}; one of ms, s, m, h, d is needed")),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

/// The shortest text that [`parse_duration`] reads as the same duration, to the millisecond.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms != 0 && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// Parses a size in bytes: an integer and one of `B`, `KiB`, `MiB`, `GiB`, `TiB`.
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "" if number == 0 => 0,
        other => return Err(format!("{text:?} has the unit {other:?}; one of B, KiB, MiB, GiB, TiB is needed")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

/// The shortest text that [`parse_size`] reads as the same size.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

fn split(text: &str) -> Result<(u64, &str), String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..at].parse().map_err(|_| format!("{text:?} does not start with a number that fits"))?;
    Ok((number, &text[at..]))
}

/// `#[serde(with = "units::duration")]` for a [`Duration`].
pub mod duration {
    use super::*;

    /// Writes the duration with its unit.
    ///
    /// # Errors
    /// The serialiser's own.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*duration))
    }

    /// Reads a duration with its unit.
    ///
    /// # Errors
    /// Where the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse_duration(&text).map_err(de::Error::custom)
    }

    /// The same for an `Option`.
    pub mod option {
        use super::*;

        /// Writes the duration with its unit, or null.
        ///
        /// # Errors
        /// The serialiser's own.
        pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => serializer.serialize_some(&format_duration(*duration)),
                None => serializer.serialize_none(),
            }
        }

        /// Reads a duration with its unit, or null.
        ///
        /// # Errors
        /// Where the text is not a duration.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
            text.map(|text| parse_duration(&text).map_err(de::Error::custom)).transpose()
        }
    }
}

/// `#[serde(with = "units::size")]` for a number of bytes.
pub mod size {
    use super::*;

    /// Writes the size with its unit.
    ///
    /// # Errors
    /// The serialiser's own.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_size(*bytes))
    }

    /// Reads a size with its unit.
    ///
    /// # Errors
    /// Where the text is not a size.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse_size(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_without_a_unit_is_refused() {
        assert!(parse_duration("30").is_err_and(|e| e.contains("one of ms, s, m, h, d")));
        assert!(parse_size("512").is_err_and(|e| e.contains("one of B, KiB")));
        assert!(parse_size("512MB").is_err());
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("99999999999999999999d").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0..u64::MAX / 2, bytes in any::<u64>()) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
