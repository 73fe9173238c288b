//! What stands before an entry of an archive and belongs to it: pax records, and GNU's long names.
//!
//! Read here rather than by the library: there, a record's value may not hold a line feed (file capabilities may), and a
//! name's length is not bounded before it is read.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::EntryType;

use crate::limits::WORKER_EXTENSION_BYTES_MAX;

/// Gathered for the next entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    /// Takes the entry where it is such an extension; `false` where it is an entry of its own.
    pub(super) fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<bool> {
        match entry.header().entry_type() {
            EntryType::XHeader => self.records.extend(parse(&read(entry)?)?),
            EntryType::GNULongName => self.name = Some(name(read(entry)?)),
            EntryType::GNULongLink => self.link = Some(name(read(entry)?)),
            // Its records would hold for all that follow: times and comments, in what is met.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn path(&self, header: &tar::Header) -> Vec<u8> {
        let record = |name: &[u8]| self.records.get(name);
        // A sparse file's own name; that of its entry is for readers that do not know holes.
        let told = record(super::sparse::NAME).or(self.name.as_ref()).or_else(|| record(b"path"));
        told.cloned().unwrap_or_else(|| header.path_bytes().into_owned())
    }

    pub(super) fn link(&self, header: &tar::Header) -> Vec<u8> {
        let told = self.link.as_ref().or_else(|| self.records.get(b"linkpath".as_slice()));
        told.cloned().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default()
    }

    /// A record that is a number; a fraction of it is cut.
    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let text = std::str::from_utf8(self.records.get(key.as_bytes())?).ok()?;
        text.split('.').next()?.parse().ok()
    }

    /// Records whose key begins so, without that.
    pub(super) fn with_prefix<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.records.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_slice())))
    }
}

fn read<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<u8>> {
    if entry.size() > WORKER_EXTENSION_BYTES_MAX {
        return Err(invalid(&format!("a header is longer than {WORKER_EXTENSION_BYTES_MAX} bytes")));
    }
    let mut bytes = Vec::new();
    entry.take(WORKER_EXTENSION_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Without the zeros that end it.
fn name(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Records: the length of the whole record, a space, the key, `=`, the value, a line feed (POSIX.1-2001, pax).
fn parse(mut bytes: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() && bytes[0] != 0 {
        let (record, rest) = record(bytes).ok_or_else(|| invalid("a pax record in it is malformed"))?;
        let at = record.iter().position(|byte| *byte == b'=').ok_or_else(|| invalid("a pax record has no value"))?;
        records.insert(record[..at].to_vec(), record[at + 1..].to_vec());
        bytes = rest;
    }
    Ok(records)
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let whole = bytes.get(..length)?;
    let record = whole.get(space + 1..)?.strip_suffix(b"\n")?;
    Some((record, &bytes[length..]))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_may_hold_line_feeds_and_zeros() {
        let records = parse(b"12 key=a\nb\0\n6 k=v\n").unwrap();
        assert_eq!(records[b"key".as_slice()], b"a\nb\0");
        assert_eq!(records[b"k".as_slice()], b"v");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
