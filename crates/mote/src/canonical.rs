//! The canonical form of JSON, and digests over it.
//!
//! A pure function of the value, so that any worker derives the same digest.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The canonical form of a JSON value, after RFC 8785 (JSON Canonicalization Scheme): no white space, keys sorted by
/// UTF-16 code units, numbers as ECMAScript writes them. One difference: a number keeps all its digits, also those that a
/// double has no room for, so that two ids never become one.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => out.push_str(&value.to_string()),
        Value::Number(number) => write_number(number, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_value(item, out);
            }
            out.push('}');
        }
    }
}

/// A number as ECMAScript lays it out (ECMA-262, 6.1.6.1.20), but with all of its digits: `1`, `1.0` and `10e-1` are one
/// number, and no two numbers are written alike.
fn write_number(number: &serde_json::Number, out: &mut String) {
    let written = number.to_string();
    let Some((digits, exponent)) = decimal(&written) else {
        // An exponent of more digits than any number needs: its own text stands for it.
        out.push_str(&written);
        return;
    };
    if digits.is_empty() {
        out.push('0');
        return;
    }
    if written.starts_with('-') {
        out.push('-');
    }
    let (count, whole) = (digits.len(), usize::try_from(exponent + 1));
    match whole {
        Ok(whole @ 1..=21) => {
            let (before, after) = digits.split_at(whole.min(count));
            out.push_str(before);
            out.extend(std::iter::repeat_n('0', whole.saturating_sub(count)));
            if !after.is_empty() {
                out.push('.');
                out.push_str(after);
            }
        }
        _ if (-6..0).contains(&exponent) => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', usize::try_from(-exponent - 1).unwrap_or(0)));
            out.push_str(&digits);
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            out.push_str(first);
            if !rest.is_empty() {
                out.push('.');
                out.push_str(rest);
            }
            out.push('e');
            out.push(if exponent < 0 { '-' } else { '+' });
            out.push_str(&exponent.unsigned_abs().to_string());
        }
    }
}

/// The significant digits of a JSON number (none if it is zero) and the power of ten of the first of them.
fn decimal(written: &str) -> Option<(String, i64)> {
    let unsigned = written.trim_start_matches('-');
    let (mantissa, power) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = [whole, fraction].concat();
    let leading = all.len() - all.trim_start_matches('0').len();
    let digits = all.trim_matches('0');
    if digits.is_empty() {
        return Some((String::new(), 0));
    }
    let place = i64::try_from(whole.len()).ok()? - 1 - i64::try_from(leading).ok()?;
    Some((digits.to_owned(), power.parse::<i64>().ok()?.checked_add(place)?))
}

/// SHA-256 over the canonical form of a value.
#[must_use]
pub fn digest(value: &Value) -> [u8; 32] {
    Sha256::digest(canonical(value).as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_form_follows_rfc_8785() {
        // The example of RFC 8785, 3.2.2 and 3.2.3, but for its first number, which keeps its last digit.
        let value: Value = serde_json::from_str(
            r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
        )
        .unwrap();
        assert_eq!(
            canonical(&value),
            "{\"literals\":[null,true,false],\"numbers\":[333333333.33333329,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
        );
        // The sorting example of 3.2.3: code units, not code points.
        let keys = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        assert_eq!(
            canonical(&keys),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn numbers_as_ecmascript_writes_them() {
        for (text, expected) in [
            ("1.0", "1"),
            ("-0.0", "0"),
            ("1e20", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("1e-6", "0.000001"),
            ("1e-7", "1e-7"),
            ("123.456e5", "12345600"),
            ("-1.5e-9", "-1.5e-9"),
            ("18446744073709551615", "18446744073709551615"),
            ("-0", "0"),
            ("0e5", "0"),
            ("10e-1", "1"),
            ("100000000000000000000", "100000000000000000000"),
            ("1000000000000000000000", "1e+21"),
            ("123456789012345678901234567890", "1.2345678901234567890123456789e+29"),
            ("123456789012345678901234567891", "1.23456789012345678901234567891e+29"),
            ("0.1234567890123456789", "0.1234567890123456789"),
            ("1e400", "1e+400"),
            ("1e99999999999999999999", "1e+99999999999999999999"),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(canonical(&value), expected, "{text}");
        }
    }
}
