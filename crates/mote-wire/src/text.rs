//! A string of JSON as it is written, unescaped piece by piece, and the joining of pieces that were cut within a character.
//!
//! It holds no text: what is unescaped goes to the caller's writer.

use core::fmt;

/// A piece of text as it stands in the JSON, its escapes not yet resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

/// Half of a surrogate pair without its other half: a code unit from 0xD800 to 0xDFFF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Half(u32);

impl Half {
    fn is_first(self) -> bool {
        self.0 < 0xDC00
    }

    /// The character of two halves, if they are a first and a second one.
    fn join(self, second: Self) -> Option<char> {
        if !self.is_first() || second.is_first() {
            return None;
        }
        char::from_u32(0x10000 + ((self.0 - 0xD800) << 10) + (second.0 - 0xDC00))
    }
}

impl<'a> Text<'a> {
    /// Text that stands for itself.
    #[must_use]
    pub fn plain(text: &'a str) -> Self {
        Self { raw: text, escaped: false }
    }

    /// Text as it is written between the quotes of a JSON string that was checked.
    pub(crate) fn written(raw: &'a str, escaped: bool) -> Self {
        Self { raw, escaped }
    }

    /// The text, where it needs no unescaping.
    #[must_use]
    pub fn as_plain(&self) -> Option<&'a str> {
        (!self.escaped).then_some(self.raw)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Bytes as written in the JSON: never fewer than the text itself has.
    #[must_use]
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    fn units(&self) -> Units<'a> {
        Units { rest: self.raw, escaped: self.escaped }
    }

    /// The characters. Half of a surrogate pair becomes U+FFFD; a [`Joiner`] joins halves over pieces.
    pub fn chars(&self) -> impl Iterator<Item = char> + 'a {
        self.units().map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// Whether it says exactly this.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        match self.as_plain() {
            Some(text) => text == other,
            None => self.chars().eq(other.chars()),
        }
    }

    /// Whether it says this, ASCII letters compared without case.
    #[must_use]
    pub fn is_ignoring_case(&self, other: &str) -> bool {
        let lower = |c: char| c.to_ascii_lowercase();
        self.chars().map(lower).eq(other.chars().map(lower))
    }

    /// Whether it contains this, ASCII letters compared without case.
    #[must_use]
    pub fn contains_ignoring_case(&self, other: &str) -> bool {
        let lower = |unit: Result<char, Half>| unit.unwrap_or(char::REPLACEMENT_CHARACTER).to_ascii_lowercase();
        let mut rest = self.units();
        loop {
            let mut here = rest.clone().map(lower);
            if other.chars().map(|c| c.to_ascii_lowercase()).all(|wanted| here.next() == Some(wanted)) {
                return true;
            }
            if rest.next().is_none() {
                return false;
            }
        }
    }

    /// The whole number that it is written as: digits and nothing else.
    #[must_use]
    pub fn digits(&self) -> Option<u64> {
        let text = self.as_plain()?.trim_ascii();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    }

    /// Writes the text, unescaped.
    ///
    /// # Errors
    /// Only those of the writer.
    pub fn unescape(&self, out: &mut impl fmt::Write) -> fmt::Result {
        match self.as_plain() {
            Some(text) => out.write_str(text),
            None => self.chars().try_for_each(|c| out.write_char(c)),
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unescape(f)
    }
}

/// Puts the pieces of one text together: a surrogate pair whose halves came in two pieces is one character.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joiner {
    /// The first half of a pair, at the end of what came so far.
    held: Option<Half>,
}

impl Joiner {
    /// Writes the next piece, and holds back the first half of a pair at its end.
    ///
    /// # Errors
    /// Only those of the writer.
    pub fn push(&mut self, piece: Text<'_>, out: &mut impl fmt::Write) -> fmt::Result {
        if piece.is_empty() {
            return Ok(());
        }
        if let (None, Some(text)) = (self.held, piece.as_plain()) {
            return out.write_str(text);
        }
        for unit in piece.units() {
            let before = self.held.take();
            match unit {
                Ok(c) => {
                    if before.is_some() {
                        out.write_char(char::REPLACEMENT_CHARACTER)?;
                    }
                    out.write_char(c)?;
                }
                Err(half) => match before.and_then(|first| first.join(half)) {
                    Some(joined) => out.write_char(joined)?,
                    None => {
                        if before.is_some() {
                            out.write_char(char::REPLACEMENT_CHARACTER)?;
                        }
                        if half.is_first() {
                            self.held = Some(half);
                        } else {
                            out.write_char(char::REPLACEMENT_CHARACTER)?;
                        }
                    }
                },
            }
        }
        Ok(())
    }

    /// Writes what was held back, after the last piece: a half that stayed alone is U+FFFD.
    ///
    /// # Errors
    /// Only those of the writer.
    pub fn finish(&mut self, out: &mut impl fmt::Write) -> fmt::Result {
        match self.held.take() {
            Some(_) => out.write_char(char::REPLACEMENT_CHARACTER),
            None => Ok(()),
        }
    }
}

/// The characters of a text; a half of a surrogate pair that stands alone is an error.
#[derive(Debug, Clone)]
struct Units<'a> {
    rest: &'a str,
    escaped: bool,
}

impl Units<'_> {
    /// Four hexadecimal digits after `\u`.
    fn hex(&mut self) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        self.rest = rest;
        u32::from_str_radix(digits, 16).ok()
    }

    fn unicode(&mut self) -> Result<char, Half> {
        let Some(code) = self.hex() else { return Ok(char::REPLACEMENT_CHARACTER) };
        if let Some(c) = char::from_u32(code) {
            return Ok(c);
        }
        let half = Half(code);
        let before = self.rest;
        if let Some(rest) = self.rest.strip_prefix("\\u") {
            self.rest = rest;
            if let Some(second @ 0xDC00..0xE000) = self.hex()
                && let Some(joined) = half.join(Half(second))
            {
                return Ok(joined);
            }
        }
        self.rest = before;
        Err(half)
    }
}

impl Iterator for Units<'_> {
    type Item = Result<char, Half>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chars = self.rest.chars();
        let first = chars.next()?;
        self.rest = chars.as_str();
        if first != '\\' || !self.escaped {
            return Some(Ok(first));
        }
        let kind = chars.next()?;
        self.rest = chars.as_str();
        Some(Ok(match kind {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => return Some(self.unicode()),
            other => other,
        }))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::String;
    use std::vec::Vec;

    use super::*;
    use crate::json::Value;

    /// The strings of a JSON array, joined.
    fn joined(json: &str) -> String {
        let mut texts = Vec::new();
        Value::parse(json).unwrap().items(|item| item.text().map(|text| texts.push(text))).unwrap();
        let (mut joiner, mut out) = (Joiner::default(), String::new());
        for text in texts {
            joiner.push(text, &mut out).unwrap();
        }
        joiner.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn halves_of_a_pair_in_two_pieces_are_one_character() {
        assert_eq!(joined(r#"["a \ud83d", "", "\ude00 b"]"#), "a 😀 b");
        assert_eq!(joined(r#"["\ud83d\ude00", "\ud83d", "\ude01"]"#), "😀😁");
        assert_eq!(joined(r#"["\ud83d", "plain"]"#), "\u{fffd}plain");
        assert_eq!(joined(r#"["\ud83d\ud83d", "\ude00"]"#), "\u{fffd}😀");
        assert_eq!(joined(r#"["\ude00", "\ud83d"]"#), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn digits_are_told_from_words() {
        assert_eq!(Text::plain(" 429 ").digits(), Some(429));
        for text in ["", "42a", "-1", "4.0", "99999999999999999999999"] {
            assert_eq!(Text::plain(text).digits(), None, "{text}");
        }
    }
}
