//! Holes of files in archives: GNU's sparse format 1.0 (tar manual, "PAX Format, Version 1.0").
//!
//! A record names the file and its size; the entry's content begins with the list of where its data belongs, as decimal numbers
//! on lines of their own, filled up to a whole block. It reads no other version of the format.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;

use mote_sandbox_api::error::Failure;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::extension::Extensions;
use crate::limits::{SPARSE_SEGMENTS_MAX, TREE_BYTES_MAX};

/// Record with the file's own name.
pub(super) const NAME: &[u8] = b"GNU.sparse.name";
const BLOCK: usize = 512;
/// Bytes that a decimal number of 64 bits has at most.
const DIGITS_MAX: usize = 20;

/// A piece of a file that is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Where a file's data is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) segments: Vec<Segment>,
    size: u64,
}

/// The map of a file with holes; nothing where it has none, or its filesystem does not tell, or they are too many to be worth it.
pub(super) fn map(file: &OwnedFd, stat: &Stat) -> io::Result<Option<Map>> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let held = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if held >= size {
        return Ok(None);
    }
    let (mut segments, mut at) = (Vec::new(), 0);
    while at < size {
        let offset = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(offset) => offset,
            // No data behind it.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(offset))?.min(size);
        if offset >= end {
            break;
        }
        segments.push(Segment { offset, bytes: end - offset });
        if segments.len() >= SPARSE_SEGMENTS_MAX {
            rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
            return Ok(None);
        }
        at = end;
    }
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    let map = Map { segments, size };
    Ok((map.data_bytes() < size).then(|| map.closed()))
}

impl Map {
    /// With an empty piece at its end where that is a hole, as the format wants it.
    fn closed(mut self) -> Self {
        if self.segments.last().is_none_or(|last| last.offset + last.bytes < self.size) {
            self.segments.push(Segment { offset: self.size, bytes: 0 });
        }
        self
    }

    /// Bytes of data.
    pub(super) fn data_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The list before the data.
    pub(super) fn list(&self) -> Vec<u8> {
        let mut list = format!("{}\n", self.segments.len());
        for Segment { offset, bytes } in &self.segments {
            list.push_str(&format!("{offset}\n{bytes}\n"));
        }
        let mut list = list.into_bytes();
        list.resize(list.len().next_multiple_of(BLOCK), 0);
        list
    }

    /// The records before the entry.
    pub(super) fn records(&self, path: &[u8]) -> [(Vec<u8>, Vec<u8>); 4] {
        let record = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        [
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            (NAME.to_vec(), path.to_vec()),
            record("GNU.sparse.realsize", self.size.to_string().as_bytes()),
        ]
    }
}

/// A sparse file as an archive's records describe it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Described {
    size: u64,
}

impl Described {
    /// What the records say; nothing where they say nothing of holes.
    ///
    /// # Errors
    /// Where the format is another one, or the file larger than a tree may be.
    pub(super) fn read(extensions: &Extensions) -> Result<Option<Self>, Failure> {
        let wrong = |what: &str| Failure::invalid("archive", what);
        let (major, size) = (extensions.number::<u64>("GNU.sparse.major"), extensions.number("GNU.sparse.realsize"));
        match (major, size) {
            (None, _) if extensions.number::<u64>("GNU.sparse.numblocks").is_none() => Ok(None),
            (Some(1), Some(size)) if size <= TREE_BYTES_MAX => Ok(Some(Self { size })),
            (Some(1), Some(_)) => Err(wrong("it holds a sparse file that is larger than a tree may be")),
            _ => Err(wrong("it holds a sparse file of a format other than GNU's 1.0")),
        }
    }

    /// Writes the data where it belongs.
    pub(super) fn fill(self, file: &mut File, content: &mut impl Read) -> io::Result<()> {
        let mut end = 0;
        for Segment { offset, bytes } in segments(content)? {
            let fits = offset >= end && offset.checked_add(bytes).is_some_and(|end| end <= self.size);
            if !fits {
                return Err(invalid("the pieces of a sparse file overlap, or lie beyond its end"));
            }
            file.seek(SeekFrom::Start(offset))?;
            if io::copy(&mut content.take(bytes), file)? != bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            end = offset + bytes;
        }
        file.set_len(self.size)
    }
}

/// Reads the list before the data, and what fills up its last block.
fn segments(content: &mut impl Read) -> io::Result<Vec<Segment>> {
    let mut numbers = Numbers { content, block: [0; BLOCK], at: BLOCK };
    let count = numbers.next()?;
    let count = usize::try_from(count).ok().filter(|count| *count <= SPARSE_SEGMENTS_MAX + 1);
    let count = count.ok_or_else(|| invalid("a sparse file has more pieces than are taken"))?;
    (0..count).map(|_| Ok(Segment { offset: numbers.next()?, bytes: numbers.next()? })).collect()
}

/// Decimal numbers, a line each, read a block at a time.
struct Numbers<'a, R> {
    content: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Numbers<'_, R> {
    fn next(&mut self) -> io::Result<u64> {
        let mut digits = String::new();
        loop {
            if self.at == BLOCK {
                self.content.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'0'..=b'9' if digits.len() < DIGITS_MAX => digits.push(char::from(byte)),
                b'\n' => return digits.parse().map_err(|_| invalid("the list of a sparse file holds no number")),
                _ => return Err(invalid("the list of a sparse file is malformed")),
            }
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_is_filled_up_to_a_block_and_read_back() {
        let segments = |count: u64| (0..count).map(|at| Segment { offset: at * 8192, bytes: 4096 }).collect::<Vec<_>>();
        for count in [0, 1, 2, 40, 400] {
            let map = Map { segments: segments(count), size: 8192 * count + 1 }.closed();
            let list = map.list();
            assert_eq!((list.len() % BLOCK, super::segments(&mut list.as_slice()).unwrap()), (0, map.segments));
        }
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let fill = |segments: Vec<Segment>, size: u64| {
            let list = Map { segments, size }.list();
            let mut content = list.as_slice().chain(io::repeat(7));
            Described { size }.fill(&mut tempfile::tempfile().unwrap(), &mut content)
        };
        let piece = |offset, bytes| Segment { offset, bytes };
        assert!(fill(vec![piece(0, 4), piece(8, 2), piece(20, 0)], 20).is_ok());
        assert!(fill(vec![piece(8, 2), piece(4, 2)], 20).is_err());
        assert!(fill(vec![piece(8, 20)], 20).is_err());
        assert!(fill(vec![piece(u64::MAX, 2)], 20).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = super::segments(&mut bytes.as_slice());
        }
    }
}
