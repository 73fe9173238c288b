//! Queries: names and values, percent-decoded.
//!
//! It does not refuse what it does not know: E2B's clients may send more than an older server reads.

/// Pairs of a query (WHATWG URL, `application/x-www-form-urlencoded`).
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// Percent-decoding. What is no escape stays as it is; what is not UTF-8 is replaced.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = escape
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match value {
            Some(value) => {
                plain.push(value);
                at += 3;
            }
            None => {
                plain.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The value of a name, the first where it comes twice.
pub(super) fn value(query: Option<&str>, name: &str) -> Option<String> {
    pairs(query.unwrap_or_default()).find(|(key, _)| key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_nonsense_stays() {
        assert_eq!(decoded("a%20b+c%2"), "a b c%2");
        assert_eq!(decoded("%zz%E9"), "%zz\u{fffd}");
    }
}
