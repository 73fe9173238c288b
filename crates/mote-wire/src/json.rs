//! JSON read in place: a value is a checked slice of the text, opened one level at a time, nothing copied.
//!
//! Strings are handed out as they are written ([`Text`]) and unescaped only while they are written somewhere. It is a
//! reader of RFC 8259 for a few named fields; it builds no tree and writes no JSON.

use core::fmt;

pub use crate::text::{Joiner, Text};

/// Nesting beyond which a text is refused.
pub const DEPTH_MAX: u32 = 64;

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It ends too early.
    Ends,
    /// A byte that cannot stand there.
    Unexpected,
    /// It is nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A string escape that JSON does not have.
    Escape,
    /// A known field holds another type than the format has there.
    Type,
}

/// Why a text is not the JSON that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub reason: Reason,
    /// Where, bytes from the beginning of the value that was read.
    pub at: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.reason {
            Reason::Ends => "the JSON ends too early",
            Reason::Unexpected => "unexpected byte in JSON",
            Reason::TooDeep => "JSON nested too deeply",
            Reason::Escape => "unknown escape in a JSON string",
            Reason::Type => "a field has another type than expected",
        };
        write!(f, "{what} at byte {}", self.at)
    }
}

impl core::error::Error for Error {}

/// One JSON value, checked from end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    text: &'a str,
}

impl<'a> Value<'a> {
    /// Checks a text that holds one value and nothing else.
    ///
    /// # Errors
    /// When it is not JSON, or nested deeper than [`DEPTH_MAX`].
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        let mut scanner = Scanner { text, at: 0 };
        scanner.space();
        let value = scanner.value()?;
        scanner.space();
        match scanner.peek() {
            None => Ok(value),
            Some(_) => Err(scanner.error(Reason::Unexpected)),
        }
    }

    /// The value as it is written.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.text
    }

    /// The string.
    ///
    /// # Errors
    /// When it is another type.
    pub fn text(&self) -> Result<Text<'a>, Error> {
        let mut scanner = Scanner { text: self.text, at: 0 };
        match scanner.peek() {
            Some(b'"') => scanner.string(),
            _ => Err(scanner.error(Reason::Type)),
        }
    }

    /// The whole number: a fraction is dropped, a negative number is 0, too large a number is the largest.
    ///
    /// # Errors
    /// When it is another type, or written with an exponent.
    pub fn number(&self) -> Result<u64, Error> {
        let wrong = Error { reason: Reason::Type, at: 0 };
        let bytes = self.text.as_bytes();
        let negative = bytes.first() == Some(&b'-');
        if !bytes.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-') || bytes.iter().any(|b| b | 32 == b'e') {
            return Err(wrong);
        }
        let digits = bytes.iter().skip(usize::from(negative)).take_while(|b| b.is_ascii_digit());
        let number = digits.fold(0u64, |n, b| n.saturating_mul(10).saturating_add(u64::from(b - b'0')));
        Ok(if negative { 0 } else { number })
    }

    /// The text, however a server wrote it: a string, a number as it stands, or an object that holds the text in a field of
    /// a known name. `None` where there is none, or where it is empty.
    pub(crate) fn loose_text(&self) -> Option<Text<'a>> {
        let mut value = *self;
        // An object within an object: no server goes further.
        for _ in 0..3 {
            if let Ok(text) = value.text() {
                return Some(text).filter(|text| !text.is_empty());
            }
            if value.text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
                return Some(Text::plain(value.text));
            }
            let fields = value.fields(["text", "content", "value", "thinking", "summary"]).ok()?;
            value = fields.into_iter().flatten().next()?;
        }
        None
    }

    /// The whole number, however it is written: with an exponent, or as a string. `None` where it is no number.
    pub(crate) fn loose_number(&self) -> Option<u64> {
        let written = match self.text() {
            Ok(text) => Value::parse(text.as_plain()?.trim_ascii()).ok()?,
            Err(_) => *self,
        };
        written.number().ok().or_else(|| {
            let seconds = core::time::Duration::try_from_secs_f64(written.text.parse().ok()?);
            seconds.ok().map(|whole| whole.as_secs())
        })
    }

    /// Whether it is an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.text.starts_with('{')
    }

    /// The first item, if it is an array that has one.
    #[must_use]
    pub fn first(&self) -> Option<Value<'a>> {
        let mut first = None;
        let read = self.items(|item| {
            first = first.or(Some(item));
            Ok::<(), Error>(())
        });
        read.ok().and(first)
    }

    /// The named fields of the object, in the order of `names`. Absent and null are the same; of a repeated key the
    /// last counts.
    ///
    /// # Errors
    /// When it is not an object.
    pub fn fields<const N: usize>(&self, names: [&str; N]) -> Result<[Option<Value<'a>>; N], Error> {
        let mut found = [None; N];
        self.members(|key, value| {
            for (name, slot) in names.iter().zip(&mut found) {
                if key.is(name) {
                    *slot = (value.text != "null").then_some(value);
                }
            }
        })?;
        Ok(found)
    }

    /// Each member of the object.
    ///
    /// # Errors
    /// When it is not an object.
    pub fn members(&self, mut each: impl FnMut(Text<'a>, Value<'a>)) -> Result<(), Error> {
        let mut scanner = Scanner { text: self.text, at: 0 };
        scanner.open(b'{')?;
        let mut first = true;
        while scanner.more(b'}', &mut first)? {
            let key = scanner.key()?;
            let value = scanner.value()?;
            each(key, value);
        }
        Ok(())
    }

    /// Each item of the array.
    ///
    /// # Errors
    /// When it is not an array, and those of `each`.
    pub fn items<E: From<Error>>(&self, mut each: impl FnMut(Value<'a>) -> Result<(), E>) -> Result<(), E> {
        let mut scanner = Scanner { text: self.text, at: 0 };
        scanner.open(b'[')?;
        let mut first = true;
        while scanner.more(b']', &mut first)? {
            each(scanner.value()?)?;
        }
        Ok(())
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, reason: Reason) -> Error {
        let reason = if self.at >= self.text.len() && reason == Reason::Unexpected { Reason::Ends } else { reason };
        Error { reason, at: self.at }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return Err(self.error(Reason::Unexpected));
        }
        self.at += 1;
        Ok(())
    }

    fn open(&mut self, byte: u8) -> Result<(), Error> {
        self.expect(byte).map_err(|error| Error { reason: Reason::Type, ..error })
    }

    /// Whether another member or item follows in a container just opened or already begun.
    fn more(&mut self, close: u8, first: &mut bool) -> Result<bool, Error> {
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(false);
        }
        if !core::mem::take(first) {
            self.expect(b',')?;
            self.space();
        }
        Ok(true)
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<Text<'a>, Error> {
        let key = self.string()?;
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(key)
    }

    /// Passes over one value, containers included, without recursion: one bit a level says which container it is.
    fn value(&mut self) -> Result<Value<'a>, Error> {
        let start = self.at;
        let mut objects: u64 = 0;
        let mut depth: u32 = 0;
        loop {
            // At the beginning of a value.
            let opened = match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return Err(self.error(Reason::TooDeep));
                    }
                    self.at += 1;
                    depth += 1;
                    objects = (objects << 1) | u64::from(open == b'{');
                    true
                }
                _ => {
                    self.scalar()?;
                    false
                }
            };
            // After it: what comes next within the containers that are open.
            let mut first = opened;
            loop {
                if depth == 0 {
                    let text = self.text.get(start..self.at).ok_or(self.error(Reason::Unexpected))?;
                    return Ok(Value { text });
                }
                let object = objects & 1 == 1;
                if self.more(if object { b'}' } else { b']' }, &mut first)? {
                    if object {
                        self.key()?;
                    }
                    break;
                }
                depth -= 1;
                objects >>= 1;
                first = false;
            }
        }
    }

    fn scalar(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.error(Reason::Unexpected)),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        word.bytes().try_for_each(|byte| self.expect(byte))
    }

    fn digits(&mut self) -> Result<(), Error> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.error(Reason::Unexpected));
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Text<'a>, Error> {
        self.expect(b'"')?;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                None => return Err(self.error(Reason::Unexpected)),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                Some(0..=0x1F) => return Err(self.error(Reason::Unexpected)),
                Some(_) => self.at += 1,
            }
        }
        let raw = self.text.get(start..self.at).ok_or(self.error(Reason::Unexpected))?;
        self.at += 1;
        Ok(Text::written(raw, escaped))
    }

    fn escape(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.error(Reason::Escape));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.error(Reason::Escape)),
        }
        Ok(())
    }
}
