//! How values become bytes and bytes become values: numbers, choices, and the tables that give each variant its number for
//! ever. It knows no event.
//!
//! Integers are unsigned LEB128, one spelling each; digests are 32 raw bytes; a choice is its number in one byte.

use crate::{Array, Time};

/// Version of the record format.
pub const FORMAT: u8 = 2;

/// The buffer is too small for the record; see [`crate::journal::record_bytes_max`].
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
            Self::Format(found) => {
                write!(f, "the record has format {found}, this build reads {}", FORMAT)
            }
            Self::Tag { what, tag } => write!(f, "{tag} is no {what}"),
            Self::Range(field) => write!(f, "{field} is out of range"),
            Self::Calls { found, has } => write!(f, "the record has {found} calls, this build takes {has}"),
        }
    }
}

impl core::error::Error for Malformed {}

/// Bytes being written.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.at
    }

    pub(crate) fn byte(&mut self, byte: u8) -> Result<(), NoRoom> {
        *self.buffer.get_mut(self.at).ok_or(NoRoom)? = byte;
        self.at += 1;
        Ok(())
    }

    pub(crate) fn number(&mut self, number: impl Into<u64>) -> Result<(), NoRoom> {
        let mut rest = number.into();
        while rest >= 0x80 {
            self.byte((rest & 0x7f) as u8 | 0x80)?;
            rest >>= 7;
        }
        self.byte(rest as u8)
    }
}

/// Bytes being read.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
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
}

/// A value with a form in the journal.
pub(crate) trait Field: Sized {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom>;
    /// Reads a value; `name` is the field's, for the error.
    fn read(r: &mut Reader<'_>, name: &'static str) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl Field for $number {
            fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom> {
                w.number(*self)
            }

            fn read(r: &mut Reader<'_>, name: &'static str) -> Result<Self, Malformed> {
                Self::try_from(r.number()?).map_err(|_| Malformed::Range(name))
            }
        }
    )* };
}

numbers!(u8, u16, u32);

impl Field for Time {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom> {
        w.number(*self)
    }

    fn read(r: &mut Reader<'_>, _: &'static str) -> Result<Self, Malformed> {
        r.number()
    }
}

impl Field for bool {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom> {
        w.byte(u8::from(*self))
    }

    fn read(r: &mut Reader<'_>, name: &'static str) -> Result<Self, Malformed> {
        match r.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Range(name)),
        }
    }
}

impl Field for [u8; 32] {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom> {
        self.iter().try_for_each(|byte| w.byte(*byte))
    }

    fn read(r: &mut Reader<'_>, _: &'static str) -> Result<Self, Malformed> {
        let (digest, rest) = r.rest.split_first_chunk::<32>().ok_or(Malformed::Truncated)?;
        r.rest = rest;
        Ok(*digest)
    }
}

impl<T: Field + Copy + Default, const N: usize> Field for Array<T, N> {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom> {
        w.number(self.len() as u64)?;
        self.as_slice().iter().try_for_each(|item| item.write(w))
    }

    fn read(r: &mut Reader<'_>, name: &'static str) -> Result<Self, Malformed> {
        let found = r.number()?;
        let mut items = Self::new();
        if usize::try_from(found).is_ok_and(|found| found <= N) {
            for _ in 0..found {
                items.push(T::read(r, name)?).map_err(|_| Malformed::Calls { found, has: N })?;
            }
            return Ok(items);
        }
        Err(Malformed::Calls { found, has: N })
    }
}

/// A structure: its fields, in order.
macro_rules! structure {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $( $(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty ),* $(,)? }) => {
        $(#[$meta])*
        $vis struct $name { $( $(#[$field_meta])* $field_vis $field: $type ),* }

        impl $crate::codec::Field for $name {
            fn write(&self, w: &mut $crate::codec::Writer<'_>) -> Result<(), $crate::codec::NoRoom> {
                // Destructured whole, so that a new field cannot be forgotten.
                let Self { $( $field ),* } = self;
                $( $crate::codec::Field::write($field, w)?; )*
                Ok(())
            }

            fn read(r: &mut $crate::codec::Reader<'_>, _: &'static str) -> Result<Self, $crate::codec::Malformed> {
                Ok(Self { $( $field: $crate::codec::Field::read(r, stringify!($field))? ),* })
            }
        }
    };
}

/// A choice, with or without fields. Its numbers are for ever: a new variant takes a new one, none is used again.
macro_rules! choice {
    ($(#[$meta:meta])* $vis:vis enum $name:ident = $what:literal {
        $( $(#[$variant_meta:meta])* $variant:ident = $tag:literal $({ $( $(#[$field_meta:meta])* $field:ident: $type:ty ),* $(,)? })? ),* $(,)?
    }) => {
        $(#[$meta])*
        $vis enum $name { $( $(#[$variant_meta])* $variant $({ $( $(#[$field_meta])* $field: $type ),* })? ),* }

        impl $crate::codec::Field for $name {
            fn write(&self, w: &mut $crate::codec::Writer<'_>) -> Result<(), $crate::codec::NoRoom> {
                match self { $( Self::$variant $({ $( $field ),* })? => {
                    w.byte($tag)?;
                    $( $( $crate::codec::Field::write($field, w)?; )* )?
                    Ok(())
                } )* }
            }

            fn read(r: &mut $crate::codec::Reader<'_>, _: &'static str) -> Result<Self, $crate::codec::Malformed> {
                match r.byte()? {
                    $( $tag => Ok(Self::$variant $({ $( $field: $crate::codec::Field::read(r, stringify!($field))? ),* })?), )*
                    tag => Err($crate::codec::Malformed::Tag { what: $what, tag: u64::from(tag) }),
                }
            }
        }
    };
}

/// The table of events: number in the journal, kind as it is called everywhere, whether clients see it, fields. Everything
/// else that has an arm for each event is derived from it or matched against it without a wildcard.
macro_rules! events {
    ($( $(#[$meta:meta])* $variant:ident = $tag:literal $kind:literal $access:ident
        $({ $( $(#[$field_meta:meta])* $field:ident: $type:ty ),* $(,)? })? ),* $(,)?) => {
        /// What happened. `CALLS` is the most calls that one turn may carry.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Event<const CALLS: usize> {
            $( $(#[$meta])* $variant $({ $( $(#[$field_meta])* $field: $type ),* })? ),*
        }

        /// The kind of an event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind { $( $(#[$meta])* $variant ),* }

        impl EventKind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &[Self] = &[ $( Self::$variant ),* ];

            /// What it is called: in the store, in streams and in documents.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $kind ),* }
            }

            /// The kind of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name { $( $kind => Some(Self::$variant), )* _ => None }
            }

            /// Its number in the journal.
            #[must_use]
            pub const fn tag(self) -> u8 {
                match self { $( Self::$variant => $tag ),* }
            }

            /// Whether clients see it in a task's stream.
            #[must_use]
            pub const fn is_public(self) -> bool {
                match self { $( Self::$variant => access!($access) ),* }
            }
        }

        impl<const CALLS: usize> Event<CALLS> {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> EventKind {
                match self { $( Self::$variant { .. } => EventKind::$variant ),* }
            }
        }

        impl<const CALLS: usize> $crate::codec::Field for Event<CALLS> {
            fn write(&self, w: &mut $crate::codec::Writer<'_>) -> Result<(), $crate::codec::NoRoom> {
                match self { $( Self::$variant $({ $( $field ),* })? => {
                    w.byte($tag)?;
                    $( $( $crate::codec::Field::write($field, w)?; )* )?
                    Ok(())
                } )* }
            }

            fn read(r: &mut $crate::codec::Reader<'_>, _: &'static str) -> Result<Self, $crate::codec::Malformed> {
                match r.byte()? {
                    $( $tag => Ok(Self::$variant $({ $( $field: $crate::codec::Field::read(r, stringify!($field))? ),* })?), )*
                    tag => Err($crate::codec::Malformed::Tag { what: "event", tag: u64::from(tag) }),
                }
            }
        }
    };
}

macro_rules! access {
    (public) => {
        true
    };
    (private) => {
        false
    };
}
