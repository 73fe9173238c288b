//! What identifies a call: canonical JSON, the idempotency key, and the digest by which repeated calls are noticed.
//!
//! Everything here is a pure function of its arguments, so that any worker derives the same key after a crash. It does
//! not remember keys; the store does.

use serde_json::Value;
use sha2::{Digest, Sha256};

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

/// The idempotency key of one call: 64 hexadecimal digits, the same for every attempt, another for any other call.
#[must_use]
pub fn idempotency_key(run: &str, step: u32, call_index: u32, tool: &str, arguments: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(b"mote call v1\0");
    field(&mut hash, run.as_bytes());
    field(&mut hash, &step.to_be_bytes());
    field(&mut hash, &call_index.to_be_bytes());
    field(&mut hash, tool.as_bytes());
    field(&mut hash, canonical(arguments).as_bytes());
    hex(&hash.finalize())
}

/// A short digest of a tool and its arguments, by which the core notices that a turn repeats itself.
#[must_use]
pub fn call_digest(tool: &str, arguments: &Value) -> u64 {
    let mut hash = Sha256::new();
    field(&mut hash, tool.as_bytes());
    field(&mut hash, canonical(arguments).as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first)
}

/// SHA-256 over the canonical form of a value.
#[must_use]
pub fn digest(value: &Value) -> [u8; 32] {
    Sha256::digest(canonical(value).as_bytes()).into()
}

/// Fields carry their length, so that no two field lists run together into the same bytes.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
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

    #[test]
    fn a_key_depends_on_every_part_and_on_nothing_else() {
        let key = |run, step, index, tool, arguments: &str| {
            idempotency_key(run, step, index, tool, &serde_json::from_str(arguments).unwrap())
        };
        let first = key("task_1", 1, 0, "pay", r#"{"a":1,"b":2.0}"#);
        assert_eq!(first, key("task_1", 1, 0, "pay", r#"{ "b": 2, "a": 1 }"#));
        assert_eq!(first.len(), 64);
        let others = [
            key("task_2", 1, 0, "pay", r#"{"a":1,"b":2}"#),
            key("task_1", 2, 0, "pay", r#"{"a":1,"b":2}"#),
            key("task_1", 1, 1, "pay", r#"{"a":1,"b":2}"#),
            key("task_1", 1, 0, "pay2", r#"{"a":1,"b":2}"#),
            key("task_1", 1, 0, "pay", r#"{"a":1,"b":3}"#),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn a_call_digest_ignores_the_order_of_arguments() {
        assert_eq!(call_digest("t", &json!({"a": 1, "b": [2]})), call_digest("t", &json!({"b": [2.0], "a": 1})));
        assert_ne!(call_digest("t", &json!({"a": 1})), call_digest("u", &json!({"a": 1})));
    }

    #[test]
    fn the_key_format_is_frozen() {
        // A journal outlives the program that wrote it: a changed key would repeat an effect.
        assert_eq!(
            idempotency_key("task_0", 3, 1, "refund", &json!({"id": "t-1", "amount": 12.5})),
            "05087cad6e0dd49d9745b857c644c1ee8accf5e5c568355a4740ba9cb0c177e8"
        );
    }
}
