//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): a structured-field string; a bare word is
//! taken too.
//!
//! It does not remember keys; the store does, a (tenant, route, key).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::{Code, Problem};
use crate::limits;

pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Seconds for which a key is remembered.
pub(super) const TTL: HeaderName = HeaderName::from_static("idempotency-key-ttl");

/// The request's key, if it has one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = super::text_header(headers, &KEY)? else { return Ok(None) };
    let wrong = |message: &str| Problem::field(Code::InvalidHeader, KEY.as_str(), message);
    let key = unquoted(text.trim()).ok_or_else(|| wrong("must be a quoted string or a bare word"))?;
    let max = limits::IDEMPOTENCY_KEY_BYTES_MAX;
    if key.is_empty() || key.len() > max {
        return Err(wrong(&format!("must be 1 to {max} bytes")));
    }
    Ok(Some(key))
}

/// RFC 9651, section 3.3.3: printable ASCII in quotes, `\` before `"` and `\`. Bare: printable, without blanks, quotes,
/// commas and semicolons, which would mean something else in a structured field.
fn unquoted(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else {
        let plain = |c: char| c.is_ascii_graphic() && !"\",;\\".contains(c);
        return text.chars().all(plain).then(|| text.to_owned());
    };
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c if c == ' ' || c.is_ascii_graphic() => key.push(c),
            _ => return None,
        }
    }
}

/// Says how long the key is remembered, and whether this answer was given before.
pub(super) fn mark(headers: &mut HeaderMap, ttl: Duration, replayed: bool) {
    headers.insert(TTL, super::number_header(ttl.as_secs()));
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_bare_keys_are_the_same_key() {
        for (text, expected) in [
            ("abc-1", Some("abc-1")),
            ("\"abc-1\"", Some("abc-1")),
            (r#""a \"b\" \\ c""#, Some(r#"a "b" \ c"#)),
            ("\"unclosed", None),
            ("\"a\" b", None),
            ("\"a\";p=1", None),
            (r#""a\b""#, None),
            ("two words", None),
            ("a,b", None),
        ] {
            assert_eq!(unquoted(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_key_is_bounded_and_stands_once() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_str(value).unwrap());
            }
            key(&headers)
        };
        assert!(headers(&[]).unwrap().is_none());
        assert_eq!(headers(&["k"]).unwrap().as_deref(), Some("k"));
        for wrong in [&["\"\""][..], &["a", "b"], &[&"x".repeat(limits::IDEMPOTENCY_KEY_BYTES_MAX + 1)]] {
            assert_eq!(headers(wrong).unwrap_err().code, Code::InvalidHeader, "{wrong:?}");
        }
    }
}
