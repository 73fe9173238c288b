//! What a secret's value looks like where a host sends it back: as it is, and in each form in which it was written on its way.
//!
//! It knows the forms that requests are written in, and no other transformation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits::ECHO_FORM_BYTES_MIN;

/// The forms of a value, the longest first.
pub(super) fn forms(value: &str) -> Vec<String> {
    let percent = escaped(value);
    // Digits in lower case are the same escapes (RFC 3986, section 2.1): a server may write them anew.
    let lower = percent.split('%').enumerate().map(|(at, part)| match part.split_at_checked(2) {
        Some((digits, rest)) if at > 0 => format!("%{}{rest}", digits.to_ascii_lowercase()),
        _ => part.to_owned(),
    });
    let mut forms = vec![value.to_owned(), lower.collect(), percent, quoted(value)];
    forms.extend(in_base64(value.as_bytes()).filter(|form| form.len() >= ECHO_FORM_BYTES_MIN));
    forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    forms.dedup();
    forms
}

/// A value as it stands in a URL or a form (RFC 3986, every byte but the unreserved in percent form).
pub(super) fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A value as it stands inside a string of JSON.
pub(super) fn quoted(value: &str) -> String {
    let text = serde_json::Value::from(value).to_string();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(value).to_owned()
}

/// A value as it stands inside base64, wherever it begins in a group of three bytes: without the characters that it shares with
/// what stands around it, and once more with the end of the text behind it.
fn in_base64(value: &[u8]) -> impl Iterator<Item = String> {
    /// Characters at the beginning that hold bits of the bytes before.
    const SHARED: [usize; 3] = [0, 2, 3];
    /// Characters at the end that hold bits of the value alone, by how many bytes the last group has.
    const OWN: [usize; 3] = [0, 1, 2];
    (0..3).flat_map(move |before| {
        let bytes = [&[0; 2][..before], value].concat();
        let text = STANDARD.encode(&bytes);
        let own = bytes.len() / 3 * 4 + OWN[bytes.len() % 3];
        let from = |end: usize| text.get(SHARED[before]..end).unwrap_or_default().to_owned();
        [from(own), from(text.len())]
    })
}

/// The bytes with every occurrence replaced; `None` where there is none.
pub(super) fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let mut result = Vec::new();
    let (mut rest, mut found) = (bytes, false);
    while let Some(at) = position(rest, from) {
        found = true;
        result.extend(&rest[..at]);
        result.extend(to);
        rest = &rest[at + from.len()..];
    }
    result.extend(rest);
    found.then_some(result)
}

fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(next) = bytes.get(at..)?.iter().position(|byte| *byte == first) {
        if bytes[at + next..].starts_with(needle) {
            return Some(at + next);
        }
        at += next + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_base64_wherever_it_begins() {
        let value = "s3cr&t\"x-of-the-test";
        let forms = forms(value);
        for around in [("", ""), ("u:", ""), ("me:", ""), ("user:", "!"), ("a", "bc")] {
            let text = STANDARD.encode(format!("{}{value}{}", around.0, around.1));
            assert!(forms.iter().any(|form| text.contains(form)), "{around:?}: {text}");
        }
        let other = STANDARD.encode("me:another value altogether");
        assert!(!forms.iter().any(|form| other.contains(form)));
    }

    #[test]
    fn a_short_value_is_not_looked_for_in_what_it_may_be_by_chance() {
        assert_eq!(forms("ab"), ["ab"]);
    }

    #[test]
    fn a_value_stands_in_json_whole_whatever_it_ends_with() {
        assert_eq!(quoted("x\""), "x\\\"");
        assert_eq!(quoted("\\"), "\\\\");
    }
}
