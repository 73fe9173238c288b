//! Filling a tree from tar archives, each on top of what is there: an image's layers, or one tarball.
//!
//! An archive is a stranger's: every length is bounded before it is used, every name stays inside the tree
//! ([`super::place`]), devices are not made. It does not know digests that are expected: it tells the ones it found.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::extension::Extensions;
use super::pack::hex;
use super::place::{self, Attributes};
use super::{Bounds, Compression, Unpacked, sparse, walk};
use crate::filesystem::fault;
use crate::limits::{
    STREAM_BYTES_BESIDE, TREE_BYTES_MAX, WORKER_ATTRIBUTE_BYTES_MAX, WORKER_ATTRIBUTES_MAX, WORKER_BUFFER_BYTES,
    WORKER_PATH_BYTES_MAX,
};

/// Highest id that a sandbox maps.
const ID_MAX: u64 = 65_535;
/// `nobody`, for ids beyond.
const NOBODY: u32 = 65_534;
/// Bytes of a block of a tar archive.
const BLOCK: usize = 512;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What was added so far, over all archives of a tree.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    entries: u64,
    bytes: u64,
}

impl Unpacker {
    /// Adds an archive to the tree.
    pub(super) fn apply(
        &mut self,
        tree: &OwnedFd,
        stream: OwnedFd,
        compression: Compression,
        whiteouts: bool,
        bounds: Bounds,
    ) -> Result<Unpacked, Failure> {
        let stream = BufReader::with_capacity(WORKER_BUFFER_BYTES, File::from(stream));
        let stream: Box<dyn Read> = match compression {
            Compression::None => Box::new(stream),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stream)),
            Compression::Zstd => Box::new(
                ruzstd::decoding::StreamingDecoder::new(stream)
                    .map_err(|error| archive(&format!("it is not Zstandard: {error}")))?,
            ),
        };
        // Headers and what fills up blocks come beside the files' own bytes.
        let most = bounds.bytes.saturating_mul(2).saturating_add(STREAM_BYTES_BESIDE).min(TREE_BYTES_MAX);
        let over = Rc::new(Cell::new(false));
        let stream = Bounded { inner: stream, digest: Sha256::new(), left: most, over: Rc::clone(&over), fill: 0 };
        let layer = Layer { tree, whiteouts, made: HashSet::new(), times: Vec::new(), done: Unpacked::default() };
        let read = self.read(tar::Archive::new(stream), layer, bounds);
        // Whatever the reader of archives made of it.
        read.map_err(|failure| if over.get() { too_large("bytes when uncompressed", most) } else { failure })
    }

    fn read(
        &mut self,
        mut archive: tar::Archive<Bounded<Box<dyn Read>>>,
        mut layer: Layer<'_>,
        bounds: Bounds,
    ) -> Result<Unpacked, Failure> {
        let entries = archive.entries().map_err(|error| unreadable(&error))?;
        let mut extensions = Extensions::default();
        for entry in entries.raw(true) {
            let mut entry = entry.map_err(|error| unreadable(&error))?;
            self.entries += 1;
            if self.entries > bounds.entries {
                return Err(too_large("entries", bounds.entries));
            }
            if extensions.take(&mut entry).map_err(|error| unreadable(&error))? {
                continue;
            }
            self.bytes = self.bytes.saturating_add(entry.size());
            if self.bytes > bounds.bytes {
                return Err(too_large("bytes", bounds.bytes));
            }
            layer.add(entry, &std::mem::take(&mut extensions))?;
        }
        // What follows the end mark counts for the digest.
        let mut stream = archive.into_inner();
        io::copy(&mut stream, &mut io::sink()).map_err(|error| unreadable(&error))?;
        layer.set_times()?;
        Ok(Unpacked { digest: hex(&stream.digest.finalize()), ..layer.done })
    }
}

fn archive(what: &str) -> Failure {
    Failure::invalid("archive", what)
}

fn unreadable(error: &io::Error) -> Failure {
    archive(&format!("failed to read it: {error}"))
}

fn too_large(what: &str, bound: u64) -> Failure {
    Failure::new(Code::TooLarge, format!("the archive holds more than {bound} {what}")).with("limit", bound)
}

/// Counts, digests and bounds a stream, and fills up its last block: some writers of layers (umoci) leave that out.
struct Bounded<R> {
    inner: R,
    digest: Sha256,
    left: u64,
    /// It was longer than it may be.
    over: Rc<Cell<bool>>,
    /// Bytes that are missing to a whole block.
    fill: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 {
            let filled = self.fill.min(buffer.len());
            buffer[..filled].fill(0);
            self.fill -= filled;
            return Ok(filled);
        }
        self.fill = (self.fill + BLOCK - count % BLOCK) % BLOCK;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            self.over.set(true);
            io::Error::other("it is longer than it may be when uncompressed")
        })?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

struct Layer<'a> {
    tree: &'a OwnedFd,
    whiteouts: bool,
    /// What this archive made: an opaque mark does not remove that.
    made: HashSet<Vec<u8>>,
    /// Directories and their times, set last: what is made inside changes them.
    times: Vec<(Vec<u8>, Attributes)>,
    done: Unpacked,
}

impl Layer<'_> {
    fn add(&mut self, mut entry: tar::Entry<'_, impl Read>, extensions: &Extensions) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        let sparse = sparse::Described::read(extensions)?;
        if kind == EntryType::GNUSparse || extensions.number("size").is_some_and(|size: u64| size != entry.size()) {
            return Err(archive("it holds a sparse file of an old format, or one whose size its header does not tell"));
        }
        self.done.entries += 1;
        let path = normal(&extensions.path(entry.header()))?;
        let attributes = self.attributes(entry.header(), extensions)?;
        let what = |error: io::Error| fault::io(&format!("failed to make /{}", String::from_utf8_lossy(&path)), &error);
        if path.is_empty() {
            // The tree's own top.
            attributes.apply(self.tree).map_err(what)?;
            self.times.push((path, attributes));
            return Ok(());
        }
        let (above, name) = place::split(&path);
        let parent = place::directory(self.tree, above).map_err(what)?;
        if self.whiteouts && name.starts_with(WHITEOUT) {
            return self.whiteout(&parent, above, name).map_err(what);
        }
        let link = extensions.link(entry.header());
        let made = match kind {
            EntryType::Directory => make_directory(&parent, name, &attributes),
            EntryType::Regular | EntryType::Continuous => {
                self.done.bytes += entry.size();
                make_file(&parent, name, &attributes, &mut entry, sparse)
            }
            EntryType::Symlink => make_symlink(&parent, name, &attributes, &link),
            EntryType::Link => {
                let target = normal(&link)?;
                self.make_link(&parent, name, &target)
            }
            EntryType::Fifo => make_fifo(&parent, name, &attributes),
            _ => {
                self.done.skipped += 1;
                return Ok(());
            }
        };
        made.map_err(what)?;
        if kind == EntryType::Directory {
            self.times.push((path.clone(), attributes));
        }
        if self.whiteouts {
            self.made.insert(path);
        }
        Ok(())
    }

    fn whiteout(&self, parent: &OwnedFd, above: &[u8], name: &[u8]) -> io::Result<()> {
        if name != OPAQUE {
            let hidden = &name[WHITEOUT.len()..];
            return if matches!(hidden, b"" | b"." | b"..") { Ok(()) } else { place::clear(parent, hidden) };
        }
        for name in walk::names(parent, above).map_err(io::Error::other)? {
            if !self.made.contains(&walk::join(above, &name)) {
                place::clear(parent, &name)?;
            }
        }
        Ok(())
    }

    fn make_link(&self, parent: &OwnedFd, name: &[u8], target: &[u8]) -> io::Result<()> {
        let (above, last) = place::split(target);
        let from = place::inside(self.tree, above)?;
        place::clear(parent, name)?;
        Ok(rustix::fs::linkat(&from, last, parent, name, AtFlags::empty())?)
    }

    /// What the header says, and the pax records that say it better.
    fn attributes(&mut self, header: &tar::Header, extensions: &Extensions) -> Result<Attributes, Failure> {
        let uid = header.uid().map_err(|error| unreadable(&error))?;
        let gid = header.gid().map_err(|error| unreadable(&error))?;
        let (uid, gid) = (extensions.number("uid").unwrap_or(uid), extensions.number("gid").unwrap_or(gid));
        let mode = header.mode().map_err(|error| unreadable(&error))?;
        let modified = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let modified = extensions.number("mtime").unwrap_or(modified);
        let extended = extensions
            .with_prefix(place::PAX_ATTRIBUTE)
            .filter(|(_, value)| value.len() <= WORKER_ATTRIBUTE_BYTES_MAX)
            .take(WORKER_ATTRIBUTES_MAX)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut mapped = |id: u64| match u32::try_from(id) {
            Ok(small) if id <= ID_MAX => small,
            _ => {
                self.done.unmapped += 1;
                NOBODY
            }
        };
        Ok(Attributes { mode, uid: mapped(uid), gid: mapped(gid), modified, extended })
    }

    fn set_times(&mut self) -> Result<(), Failure> {
        for (path, attributes) in self.times.drain(..).rev() {
            let set = place::inside(self.tree, &path)
                .and_then(|directory| Ok(rustix::fs::futimens(&directory, &attributes.times())?));
            match set {
                // Something later in the archive took its place.
                Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(fault::io("failed to set the times of directories", &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn make_directory(parent: &OwnedFd, name: &[u8], attributes: &Attributes) -> io::Result<()> {
    if !place::is_directory(parent, name)? {
        place::clear(parent, name)?;
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    }
    attributes.apply(walk::open_directory(parent, name)?)
}

fn make_file(
    parent: &OwnedFd,
    name: &[u8],
    attributes: &Attributes,
    content: &mut impl Read,
    sparse: Option<sparse::Described>,
) -> io::Result<()> {
    place::clear(parent, name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
    match sparse {
        Some(described) => described.fill(&mut file, content)?,
        None => drop(io::copy(content, &mut file)?),
    }
    attributes.apply(&file)
}

fn make_symlink(parent: &OwnedFd, name: &[u8], attributes: &Attributes, target: &[u8]) -> io::Result<()> {
    place::clear(parent, name)?;
    rustix::fs::symlinkat(target, parent, name)?;
    attributes.apply_to_name(parent, name)
}

fn make_fifo(parent: &OwnedFd, name: &[u8], attributes: &Attributes) -> io::Result<()> {
    place::clear(parent, name)?;
    rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(attributes.mode & 0o777), 0)?;
    attributes.apply_to_name(parent, name)
}

/// The path without what means nothing: a leading `/` or `./`, doubled and closing slashes. `..` is refused.
fn normal(path: &[u8]) -> Result<Vec<u8>, Failure> {
    let shown = || String::from_utf8_lossy(&path[..path.len().min(256)]).into_owned();
    if path.len() > WORKER_PATH_BYTES_MAX {
        return Err(archive(&format!("a name in it is longer than {WORKER_PATH_BYTES_MAX} bytes: {:?}", shown())));
    }
    let mut normal = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(archive(&format!("a name in it leads out: {:?}", shown()))),
            part if part.contains(&0) => return Err(archive(&format!("a name in it holds a zero: {:?}", shown()))),
            part => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(part);
            }
        }
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_relative_or_refused() {
        let check = |path: &str, expected: Option<&str>| {
            let normal = normal(path.as_bytes()).ok().map(|path| String::from_utf8(path).unwrap());
            assert_eq!(normal.as_deref(), expected, "{path:?}");
        };
        check("./", Some(""));
        check("/etc/passwd", Some("etc/passwd"));
        check("a//./b/", Some("a/b"));
        check("a/../../b", None);
        check("..", None);
        check("a/..b", Some("a/..b"));
    }
}
