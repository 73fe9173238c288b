//! A tree as one stream, the same bytes for the same tree: POSIX tar with pax records, entries in the order of their names.
//!
//! Modification times are whole seconds. Sockets and devices are left out: neither means anything elsewhere. Holes of files
//! stay holes (GNU's sparse format 1.0 in pax records). It does not compress: the digest is that of the content.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};

use super::walk::{self, fail, join};
use super::{Packed, place, sparse};
use crate::filesystem::fault;
use crate::limits::{TREE_BYTES_MAX, TREE_ENTRIES_MAX, WORKER_BUFFER_BYTES};

const BLOCK: usize = 512;
/// Bytes of a name in a tar header; a longer one goes into a pax record.
const NAME_BYTES_MAX: usize = 100;

/// Writes the tree to the sink.
pub(super) fn tree(root: &OwnedFd, sink: OwnedFd) -> Result<Packed, Failure> {
    let sink = Hashing { inner: File::from(sink), digest: Sha256::new(), bytes: 0 };
    let mut packer =
        Packer { sink: BufWriter::with_capacity(WORKER_BUFFER_BYTES, sink), links: HashMap::new(), entries: 0 };
    let stat = rustix::fs::fstat(root).map_err(|error| fail(b"", error.into()))?;
    packer.entry(root, b"./", &stat, tar::EntryType::Directory, b"")?;
    packer.directory(root, b"", 0)?;
    packer.write(&[0; 2 * BLOCK])?;
    let sink = packer.sink.into_inner().map_err(|error| written(error.error()))?;
    Ok(Packed { digest: hex(&sink.digest.finalize()), bytes: sink.bytes, entries: packer.entries })
}

/// Lower-case hexadecimal digits.
pub(in crate::filesystem) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn written(error: &io::Error) -> Failure {
    fault::io("failed to write the stream", error)
}

struct Hashing {
    inner: File,
    digest: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Packer {
    sink: BufWriter<Hashing>,
    /// Where a file of several names was written first, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
}

impl Packer {
    fn directory(&mut self, directory: &OwnedFd, path: &[u8], depth: usize) -> Result<(), Failure> {
        walk::check_depth(depth, path)?;
        for name in walk::names(directory, path)? {
            let inner = join(path, &name);
            let here = |error: io::Error| fail(&inner, error);
            let Some(stat) = walk::stat(directory, &name).map_err(here)? else { continue };
            match walk::file_type(&stat) {
                FileType::Directory => {
                    let opened = walk::open_directory(directory, &name).map_err(here)?;
                    let mut with_slash = inner.clone();
                    with_slash.push(b'/');
                    self.entry(&opened, &with_slash, &stat, tar::EntryType::Directory, b"")?;
                    self.directory(&opened, &inner, depth + 1)?;
                }
                FileType::RegularFile => self.file(directory, &name, &inner, &stat)?,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(directory, name.as_slice(), Vec::new());
                    let target = target.map_err(|error| here(error.into()))?;
                    self.header(&inner, &stat, tar::EntryType::Symlink, target.as_bytes(), 0, BTreeMap::new())?;
                }
                FileType::Fifo => self.header(&inner, &stat, tar::EntryType::Fifo, b"", 0, BTreeMap::new())?,
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat) -> Result<(), Failure> {
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                return self.header(path, stat, tar::EntryType::Link, &first, 0, BTreeMap::new());
            }
            self.links.insert(key, path.to_owned());
        }
        let file = walk::open_file(directory, name).map_err(|error| fail(path, error))?;
        // The size is the header's promise: a file that shrinks meanwhile is filled up, one that grows is cut.
        let stat = rustix::fs::fstat(&file).map_err(|error| fail(path, error.into()))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if let Some(map) = sparse::map(&file, &stat).map_err(|error| fail(path, error))? {
            return self.sparse(file, path, &stat, &map);
        }
        self.entry(&file, path, &stat, tar::EntryType::Regular, b"")?;
        let copied = io::copy(&mut File::from(file).take(size), &mut self.sink).map_err(|error| fail(path, error))?;
        io::copy(&mut io::repeat(0).take(size - copied), &mut self.sink).map_err(|error| written(&error))?;
        self.pad(size)
    }

    /// A file with holes: what is data, behind a list of where it belongs.
    fn sparse(&mut self, file: OwnedFd, path: &[u8], stat: &Stat, map: &sparse::Map) -> Result<(), Failure> {
        let list = map.list();
        let mut records = self.records(&file, path)?;
        records.extend(map.records(path));
        let size = list.len() as u64 + map.data_bytes();
        self.header(path, stat, tar::EntryType::Regular, b"", size, records)?;
        self.write(&list)?;
        let mut file = File::from(file);
        for segment in &map.segments {
            let copied = file
                .seek(io::SeekFrom::Start(segment.offset))
                .and_then(|_| io::copy(&mut (&mut file).take(segment.bytes), &mut self.sink))
                .map_err(|error| fail(path, error))?;
            io::copy(&mut io::repeat(0).take(segment.bytes - copied), &mut self.sink)
                .map_err(|error| written(&error))?;
        }
        self.pad(size)
    }

    /// A header with the extended attributes of the open file or directory.
    fn entry(
        &mut self,
        open: impl AsFd,
        path: &[u8],
        stat: &Stat,
        kind: tar::EntryType,
        link: &[u8],
    ) -> Result<(), Failure> {
        let records = self.records(open, path)?;
        let size = if kind == tar::EntryType::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        self.header(path, stat, kind, link, size, records)
    }

    /// The extended attributes of an open file or directory, as records.
    fn records(&self, open: impl AsFd, path: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Failure> {
        let attributes = place::attributes(open).map_err(|error| fail(path, error))?;
        let named = |(name, value): (Vec<u8>, Vec<u8>)| ([place::PAX_ATTRIBUTE, name.as_slice()].concat(), value);
        Ok(attributes.into_iter().map(named).collect())
    }

    fn header(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: tar::EntryType,
        link: &[u8],
        size: u64,
        mut records: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > TREE_ENTRIES_MAX || self.sink.get_ref().bytes.saturating_add(size) > TREE_BYTES_MAX {
            let message = format!("the tree holds more than {TREE_ENTRIES_MAX} entries or {TREE_BYTES_MAX} bytes");
            return Err(Failure::new(Code::TooLarge, message).with("limit", TREE_ENTRIES_MAX));
        }
        if path.len() > NAME_BYTES_MAX {
            records.insert(b"path".to_vec(), path.to_vec());
        }
        if link.len() > NAME_BYTES_MAX {
            records.insert(b"linkpath".to_vec(), link.to_vec());
        }
        if !records.is_empty() {
            let data = pax(&records);
            let header = block(b"pax", stat, tar::EntryType::XHeader, b"", data.len() as u64);
            self.write(header.as_bytes())?;
            self.write(&data)?;
            self.pad(data.len() as u64)?;
        }
        let header = block(path, stat, kind, link, size);
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<(), Failure> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over == 0 { Ok(()) } else { self.write(&[0; BLOCK][over..]) }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sink.write_all(bytes).map_err(|error| written(&error))
    }
}

fn block(path: &[u8], stat: &Stat, kind: tar::EntryType, link: &[u8], size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    #[expect(clippy::useless_conversion, reason = "the type differs between architectures")]
    header.set_mtime(u64::try_from(i64::from(stat.st_mtime)).unwrap_or(0));
    header.set_size(size);
    let old = header.as_old_mut();
    copy(&mut old.name, path);
    copy(&mut old.linkname, link);
    header.set_cksum();
    header
}

fn copy(to: &mut [u8], from: &[u8]) {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
}

/// Pax records: the length of the whole record, a space, the key, `=`, the value, a line feed.
fn pax(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        data.extend_from_slice(length.to_string().as_bytes());
        data.push(b' ');
        data.extend_from_slice(key);
        data.push(b'=');
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for bytes in [1, 5, 90, 91, 92, 989, 990, 991] {
            let data = pax(&BTreeMap::from([(b"k".to_vec(), vec![b'v'; bytes])]));
            let text = String::from_utf8(data.clone()).unwrap();
            let told: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, data.len());
        }
    }
}
