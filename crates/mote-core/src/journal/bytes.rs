//! Reading and writing single values within a byte slice. It knows no events.

/// The buffer is too small for the record; see [`super::record_bytes_max`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl core::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the buffer is too small for the record")
    }
}

impl core::error::Error for NoRoom {}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// They end too early.
    Truncated,
    /// The format is not this one.
    Format(u8),
    /// No such variant.
    Tag {
        /// Of what.
        what: &'static str,
        /// The tag found.
        tag: u64,
    },
    /// A number does not fit its field.
    Range(&'static str),
    /// More calls than this build has.
    Calls {
        /// Calls in the record.
        found: u64,
        /// What this build has.
        has: usize,
    },
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the record is cut short"),
            Self::Format(found) => write!(f, "the record has format {found}, this build reads {}", super::FORMAT),
            Self::Tag { what, tag } => write!(f, "{tag} is no {what}"),
            Self::Range(field) => write!(f, "{field} is out of range"),
            Self::Calls { found, has } => write!(f, "the record has {found} calls, this build takes {has}"),
        }
    }
}

impl core::error::Error for Malformed {}

pub(super) struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.at
    }

    pub(super) fn byte(&mut self, byte: u8) -> Result<(), NoRoom> {
        *self.buffer.get_mut(self.at).ok_or(NoRoom)? = byte;
        self.at += 1;
        Ok(())
    }

    pub(super) fn number(&mut self, number: impl Into<u64>) -> Result<(), NoRoom> {
        let mut rest = number.into();
        while rest >= 0x80 {
            self.byte((rest & 0x7f) as u8 | 0x80)?;
            rest >>= 7;
        }
        self.byte(rest as u8)
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        bytes.iter().try_for_each(|byte| self.byte(*byte))
    }
}

#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(Malformed::Range("number"));
            }
            number |= bits << shift;
            if byte < 0x80 {
                // One number has one spelling: a last byte of nothing is not written.
                return if byte == 0 && shift > 0 { Err(Malformed::Range("number")) } else { Ok(number) };
            }
        }
        Err(Malformed::Range("number"))
    }

    pub(super) fn fit<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, Malformed> {
        T::try_from(self.number()?).map_err(|_| Malformed::Range(field))
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Range(field)),
        }
    }

    pub(super) fn digest(&mut self) -> Result<[u8; 32], Malformed> {
        let (digest, rest) = self.rest.split_first_chunk::<32>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*digest)
    }
}
