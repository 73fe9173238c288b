//! Server-sent events out of a byte stream cut anywhere (WHATWG HTML, "Server-sent events", parsing rules).
//!
//! Only the data of one event is held, in memory that the caller gives; comments and unknown fields of any length cost
//! nothing. It does not reconnect and does not read what the data says.

use core::fmt;

/// Longest event name or event id that is kept, bytes. A longer one is ignored: the stream goes on without it.
pub const FIELD_BYTES_MAX: usize = 64;

/// Where the data of one event is gathered.
pub trait Buffer {
    /// Appends; on refusal nothing was appended.
    ///
    /// # Errors
    /// [`Full`] when the bytes do not fit.
    fn push(&mut self, bytes: &[u8]) -> Result<(), Full>;
    /// What was appended since the last [`Buffer::clear`].
    fn bytes(&self) -> &[u8];
    /// Forgets everything.
    fn clear(&mut self);
}

/// A buffer's capacity, bytes: the event did not fit into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full(pub usize);

/// A [`Buffer`] over a slice.
#[derive(Debug)]
pub struct Fixed<'b> {
    slice: &'b mut [u8],
    len: usize,
}

impl<'b> Fixed<'b> {
    /// A buffer of the slice's length.
    #[must_use]
    pub fn new(slice: &'b mut [u8]) -> Self {
        Self { slice, len: 0 }
    }
}

impl Buffer for Fixed<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let capacity = self.slice.len();
        let end = self.len.checked_add(bytes.len()).ok_or(Full(capacity))?;
        let room = self.slice.get_mut(self.len..end).ok_or(Full(capacity))?;
        room.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        self.slice.get(..self.len).unwrap_or_default()
    }

    fn clear(&mut self) {
        self.len = 0;
    }
}

/// One event, borrowed from the framer until its next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's name; empty where the stream gives none (the specification's `message`).
    pub name: &'a str,
    /// Its data lines, joined by line feeds.
    pub data: &'a str,
    /// The last id that the stream gave, with this event or before it; empty if none.
    pub id: &'a str,
    /// Reconnection time, milliseconds, if the stream gave one since the last event.
    pub retry_ms: Option<u32>,
}

/// Why the stream cannot be framed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// An event's data is longer than the buffer.
    EventTooLong {
        /// The buffer's capacity, bytes.
        limit: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EventTooLong { limit } => write!(f, "an event is longer than {limit} bytes"),
        }
    }
}

impl core::error::Error for Error {}

/// The fields that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Id,
    Retry,
    /// A comment or a field that nobody knows.
    Ignored,
}

/// Where in a line the framer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the field's name.
    Name,
    /// Just after the colon: one space is dropped.
    Colon(Field),
    /// In the value.
    Value(Field),
}

/// A short text of bounded length.
#[derive(Debug, Clone, Copy)]
struct Short {
    bytes: [u8; FIELD_BYTES_MAX],
    len: usize,
    too_long: bool,
}

impl Short {
    const EMPTY: Self = Self { bytes: [0; FIELD_BYTES_MAX], len: 0, too_long: false };

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.bytes.get_mut(self.len..end) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len = end;
            }
            None => self.too_long = true,
        }
    }

    /// What was pushed, if it fitted and is text.
    fn text(&self) -> Option<&str> {
        let bytes = self.bytes.get(..self.len).filter(|_| !self.too_long)?;
        core::str::from_utf8(bytes).ok()
    }
}

/// The longest known field name is `event` and `retry`: 5 bytes.
const NAME_BYTES_MAX: usize = 5;
/// A name that is longer than any known one.
const NAME_UNKNOWN: usize = NAME_BYTES_MAX + 1;
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// The longest character in UTF-8, bytes.
const CHAR_BYTES_MAX: usize = 4;
/// What stands for bytes that are no UTF-8, as the specification has it.
const REPLACEMENT: &str = "\u{FFFD}";

/// Frames one stream.
#[derive(Debug)]
pub struct Framer<B> {
    buffer: B,
    place: Place,
    field_name: [u8; NAME_BYTES_MAX],
    field_name_len: usize,
    /// Bytes of the byte-order mark seen; 3 or more once the stream's beginning is past.
    bom: usize,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
    has_data: bool,
    /// The beginning of a character of the data, until the rest of it comes.
    cut: [u8; CHAR_BYTES_MAX],
    cut_len: usize,
    event: Short,
    id: Short,
    id_next: Short,
    id_has_nul: bool,
    retry: Option<u32>,
    retry_next: Option<u32>,
    retry_has_digits: bool,
    /// An event was handed out; the next call starts afresh.
    dispatched: bool,
    /// The line so far is empty.
    line_empty: bool,
}

impl<B: Buffer> Framer<B> {
    /// A framer at the beginning of a stream.
    #[must_use]
    pub fn new(buffer: B) -> Self {
        Self {
            buffer,
            place: Place::Name,
            field_name: [0; NAME_BYTES_MAX],
            field_name_len: 0,
            bom: 0,
            after_cr: false,
            has_data: false,
            cut: [0; CHAR_BYTES_MAX],
            cut_len: 0,
            event: Short::EMPTY,
            id: Short::EMPTY,
            id_next: Short::EMPTY,
            id_has_nul: false,
            retry: None,
            retry_next: None,
            retry_has_digits: false,
            dispatched: false,
            line_empty: true,
        }
    }

    /// Takes bytes off `input` until an event is complete, or until all is taken and more is needed (`None`).
    ///
    /// # Errors
    /// See [`Error`]. The stream is lost then: make a new framer for a new one.
    pub fn next<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Event<'a>>, Error> {
        if self.dispatched {
            self.dispatched = false;
            self.reset_event();
        }
        while let Some((&byte, rest)) = input.split_first() {
            if self.after_cr {
                self.after_cr = false;
                if byte == b'\n' {
                    *input = rest;
                    continue;
                }
            }
            if self.bom < BOM.len() && self.at_bom(byte) {
                *input = rest;
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                *input = rest;
                self.after_cr = byte == b'\r';
                if self.end_of_line()? {
                    self.dispatched = true;
                    return Ok(Some(self.event()));
                }
                continue;
            }
            self.line_empty = false;
            *input = self.take(input)?;
        }
        Ok(None)
    }

    /// Whether bytes of an event that never ended are held: a stream that ends here was cut.
    #[must_use]
    pub fn is_mid_event(&self) -> bool {
        !self.dispatched && (self.has_data || !self.line_empty)
    }

    fn reset_event(&mut self) {
        self.buffer.clear();
        self.has_data = false;
        self.event = Short::EMPTY;
        self.retry = None;
    }

    /// Whether the byte was one of the mark at the stream's beginning.
    fn at_bom(&mut self, byte: u8) -> bool {
        if BOM.get(self.bom) == Some(&byte) {
            self.bom += 1;
            return true;
        }
        if self.bom > 0 {
            // Not a mark after all: no known field begins with these bytes.
            self.field_name_len = NAME_UNKNOWN;
            self.line_empty = false;
        }
        self.bom = BOM.len();
        false
    }

    /// Takes bytes of one line, never its end; returns what is left.
    fn take<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], Error> {
        match self.place {
            Place::Name => Ok(self.take_name(input)),
            Place::Colon(field) => {
                self.place = Place::Value(field);
                self.begin_value(field)?;
                Ok(input.strip_prefix(b" ").unwrap_or(input))
            }
            Place::Value(field) => {
                let end = input.iter().position(|&b| b == b'\n' || b == b'\r').unwrap_or(input.len());
                let (value, rest) = input.split_at_checked(end).unwrap_or((input, &[]));
                self.value(field, value)?;
                Ok(rest)
            }
        }
    }

    fn take_name<'i>(&mut self, input: &'i [u8]) -> &'i [u8] {
        let Some((&byte, rest)) = input.split_first() else { return input };
        if byte == b':' {
            self.place = Place::Colon(self.field());
        } else if let Some(slot) = self.field_name.get_mut(self.field_name_len) {
            *slot = byte;
            self.field_name_len += 1;
        } else {
            self.field_name_len = NAME_UNKNOWN;
        }
        rest
    }

    fn field(&self) -> Field {
        match self.field_name.get(..self.field_name_len) {
            Some(b"data") => Field::Data,
            Some(b"event") => Field::Event,
            Some(b"id") => Field::Id,
            Some(b"retry") => Field::Retry,
            _ => Field::Ignored,
        }
    }

    /// A value begins: what its field held before gives way (or, for data, gets another line).
    fn begin_value(&mut self, field: Field) -> Result<(), Error> {
        match field {
            Field::Data => {
                if self.has_data {
                    self.push(b"\n")?;
                }
                self.has_data = true;
            }
            Field::Event => self.event = Short::EMPTY,
            Field::Id => {
                self.id_next = Short::EMPTY;
                self.id_has_nul = false;
            }
            Field::Retry => {
                self.retry_next = Some(0);
                self.retry_has_digits = false;
            }
            Field::Ignored => {}
        }
        Ok(())
    }

    fn value(&mut self, field: Field, value: &[u8]) -> Result<(), Error> {
        match field {
            Field::Data => self.push_data(value),
            Field::Event => {
                self.event.push(value);
                Ok(())
            }
            Field::Id => {
                self.id_has_nul |= value.contains(&0);
                self.id_next.push(value);
                Ok(())
            }
            Field::Retry => {
                for byte in value {
                    self.retry_has_digits = true;
                    let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
                    self.retry_next = self
                        .retry_next
                        .zip(digit)
                        .and_then(|(so_far, digit)| so_far.checked_mul(10).and_then(|tens| tens.checked_add(digit)));
                }
                Ok(())
            }
            Field::Ignored => Ok(()),
        }
    }

    /// Pushes data, wherever the bytes were cut. What is no UTF-8 costs its characters, not the stream.
    fn push_data(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while let (1.., Some((&byte, rest))) = (self.cut_len, bytes.split_first()) {
            let mut joined = self.cut;
            if let Some(slot) = joined.get_mut(self.cut_len) {
                *slot = byte;
            }
            let len = self.cut_len + 1;
            let joined_bytes = joined.get(..len).unwrap_or_default();
            match core::str::from_utf8(joined_bytes).map_err(|error| error.error_len()) {
                Ok(_) => {
                    self.cut_len = 0;
                    self.push(joined_bytes)?;
                }
                Err(None) => (self.cut, self.cut_len) = (joined, len),
                // The byte belongs to what follows.
                Err(Some(_)) => {
                    self.end_cut()?;
                    continue;
                }
            }
            bytes = rest;
        }
        let mut left = bytes.len();
        for chunk in bytes.utf8_chunks() {
            let (valid, invalid) = (chunk.valid(), chunk.invalid());
            left -= valid.len() + invalid.len();
            self.push(valid.as_bytes())?;
            let may_go_on = core::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            match self.cut.get_mut(..invalid.len()) {
                Some(room) if left == 0 && may_go_on => {
                    room.copy_from_slice(invalid);
                    self.cut_len = invalid.len();
                }
                _ if invalid.is_empty() => {}
                _ => self.push(REPLACEMENT.as_bytes())?,
            }
        }
        Ok(())
    }

    /// Nothing follows that completes the character that was begun.
    fn end_cut(&mut self) -> Result<(), Error> {
        if core::mem::take(&mut self.cut_len) == 0 {
            return Ok(());
        }
        self.push(REPLACEMENT.as_bytes())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.push(bytes).map_err(|Full(limit)| Error::EventTooLong { limit })
    }

    /// Ends the line; whether an event is complete.
    fn end_of_line(&mut self) -> Result<bool, Error> {
        self.end_cut()?;
        if self.line_empty {
            if self.has_data {
                return Ok(true);
            }
            // Nothing to say: the specification forgets the event's name too.
            self.event = Short::EMPTY;
            return Ok(false);
        }
        let field = match self.place {
            Place::Value(field) => field,
            // `data` without a colon, or `data:` without a value: the value is empty.
            Place::Colon(field) => {
                self.begin_value(field)?;
                field
            }
            Place::Name => {
                let field = self.field();
                self.begin_value(field)?;
                field
            }
        };
        match field {
            Field::Id if !self.id_has_nul && self.id_next.text().is_some() => self.id = self.id_next,
            // `retry` without digits, or with anything else, is no number and is ignored.
            Field::Retry if self.retry_has_digits => self.retry = self.retry_next.or(self.retry),
            _ => {}
        }
        self.place = Place::Name;
        self.field_name_len = 0;
        self.line_empty = true;
        Ok(false)
    }

    fn event(&self) -> Event<'_> {
        Event {
            name: self.event.text().unwrap_or_default(),
            // Only UTF-8 was pushed.
            data: core::str::from_utf8(self.buffer.bytes()).unwrap_or_default(),
            id: self.id.text().unwrap_or_default(),
            retry_ms: self.retry,
        }
    }
}
