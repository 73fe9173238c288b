//! The format of an exported snapshot, version 2: a header, the files as one tar stream in frames, and a seal.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `mote-snapshot/2` and a line feed |
//! | 4, N, 32 | length of the header (big-endian), the header as JSON, its SHA-256 |
//! | 4, N, 32 | a frame: its length, a part of the tar stream, the SHA-256 of the stream so far; any number of these |
//! | 4, 32 | a length of zero, and the SHA-256 of the header's digest and the stream's: nothing follows it |
//!
//! Version 1 is read, too: its tar stream knows no holes of files, and a reader of it would take their lists for data.
//!
//! A frame is handed on only when its digest is right, so that what is damaged is found where it is. It does no input or
//! output.

use bytes::{Buf, Bytes, BytesMut};
use mote_sandbox_api::error::Failure;
use sha2::{Digest, Sha256};

use super::{Header, Tree};
use crate::limits::{TRANSFER_FRAME_BYTES_MAX, TRANSFER_HEADER_BYTES_MAX};

const MAGIC: &[u8; 16] = b"mote-snapshot/2\n";
/// The version before, which is read.
const MAGIC_BEFORE: &[u8; 16] = b"mote-snapshot/1\n";
/// What the formats of all versions begin with.
const FAMILY: &[u8] = b"mote-snapshot/";
const LENGTH_BYTES: usize = 4;
const DIGEST_BYTES: usize = 32;

type Sha = [u8; DIGEST_BYTES];

fn seal(header: &Sha, tree: &Sha) -> Sha {
    Sha256::new().chain_update(header).chain_update(tree).finalize().into()
}

fn hex(bytes: &Sha) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// Writes a file's parts.
pub(super) struct Writer {
    header: Sha,
    tree: Sha256,
    bytes: u64,
}

impl Writer {
    /// The beginning of the file.
    pub(super) fn begin(header: &Header) -> Result<(Self, Bytes), Failure> {
        let json = serde_json::to_vec(header)
            .map_err(|error| Failure::invalid("snapshot", format!("failed to describe it: {error}")))?;
        if json.len() > TRANSFER_HEADER_BYTES_MAX {
            let message = format!("what its image says is longer than {TRANSFER_HEADER_BYTES_MAX} bytes");
            return Err(Failure::invalid("snapshot", message).with("limit", TRANSFER_HEADER_BYTES_MAX));
        }
        let digest: Sha = Sha256::digest(&json).into();
        let mut bytes = BytesMut::from(&MAGIC[..]);
        part(&mut bytes, &json, &digest);
        Ok((Self { header: digest, tree: Sha256::new(), bytes: 0 }, bytes.freeze()))
    }

    /// A frame: at most [`TRANSFER_FRAME_BYTES_MAX`] of the stream.
    pub(super) fn frame(&mut self, data: &[u8]) -> Bytes {
        self.tree.update(data);
        self.bytes += data.len() as u64;
        let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + data.len() + DIGEST_BYTES);
        part(&mut bytes, data, &self.tree.clone().finalize().into());
        bytes.freeze()
    }

    /// The end of the file.
    pub(super) fn end(self) -> (Bytes, Tree) {
        let tree: Sha = self.tree.finalize().into();
        let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + DIGEST_BYTES);
        part(&mut bytes, b"", &seal(&self.header, &tree));
        (bytes.freeze(), Tree { digest: hex(&tree), bytes: self.bytes })
    }
}

fn part(bytes: &mut BytesMut, data: &[u8], digest: &Sha) {
    // What is written is bounded far below this.
    bytes.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(digest);
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The header, once and first.
    Header(Box<Header>),
    /// The next bytes of the stream, as they were written.
    Data(Bytes),
    /// The stream is whole.
    End(Tree),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Magic,
    Header,
    Frames,
    Ended,
}

/// Reads a file's parts, however its bytes come.
pub(super) struct Reader {
    buffer: BytesMut,
    /// Where in the file the buffer begins.
    at: u64,
    stage: Stage,
    header: Sha,
    tree: Sha256,
    bytes: u64,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            at: 0,
            stage: Stage::Magic,
            header: [0; DIGEST_BYTES],
            tree: Sha256::new(),
            bytes: 0,
        }
    }

    /// More of the file.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece; none where more of the file is needed.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, Failure> {
        if self.stage == Stage::Magic {
            if !self.magic()? {
                return Ok(None);
            }
            self.stage = Stage::Header;
        }
        match self.stage {
            Stage::Header => {
                let Some((json, digest)) = self.part(TRANSFER_HEADER_BYTES_MAX, "header")? else { return Ok(None) };
                let start = MAGIC.len() + LENGTH_BYTES;
                if json.is_empty() || <Sha>::from(Sha256::digest(&json)) != digest {
                    return Err(damaged("its header was changed", start as u64));
                }
                let header = serde_json::from_slice(&json)
                    .map_err(|error| damaged(&format!("its header cannot be read: {error}"), start as u64))?;
                (self.header, self.stage) = (digest, Stage::Frames);
                Ok(Some(Piece::Header(Box::new(header))))
            }
            Stage::Frames => {
                let start = self.at;
                let Some((data, digest)) = self.part(TRANSFER_FRAME_BYTES_MAX, "frame")? else { return Ok(None) };
                if data.is_empty() {
                    let tree: Sha = self.tree.clone().finalize().into();
                    if seal(&self.header, &tree) != digest {
                        return Err(damaged("its header and its files do not belong together", start));
                    }
                    self.stage = Stage::Ended;
                    return Ok(Some(Piece::End(Tree { digest: hex(&tree), bytes: self.bytes })));
                }
                self.tree.update(&data);
                self.bytes += data.len() as u64;
                if <Sha>::from(self.tree.clone().finalize()) != digest {
                    return Err(damaged("its files were changed", start));
                }
                Ok(Some(Piece::Data(data)))
            }
            Stage::Ended if !self.buffer.is_empty() => Err(damaged("something follows its end", self.at)),
            Stage::Magic | Stage::Ended => Ok(None),
        }
    }

    /// Whether the file may end here.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let length = self.at + self.buffer.len() as u64;
        match self.stage {
            Stage::Ended => Ok(()),
            Stage::Magic if length == 0 => Err(Failure::invalid("snapshot", "the file is empty").with("offset", 0)),
            _ => Err(damaged("it is cut short", length)),
        }
    }

    fn magic(&mut self) -> Result<bool, Failure> {
        let seen = &self.buffer[..self.buffer.len().min(MAGIC.len())];
        if !MAGIC.starts_with(seen) && !MAGIC_BEFORE.starts_with(seen) {
            let what = match seen {
                [0x1f, 0x8b, ..] => "it is compressed with gzip: decompress it first",
                [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed with Zstandard: decompress it first",
                seen if seen.starts_with(FAMILY) => "its format is of another version than this daemon's, 1",
                _ => "the file is no exported snapshot",
            };
            return Err(Failure::invalid("snapshot", what).with("offset", 0));
        }
        if seen.len() < MAGIC.len() {
            return Ok(false);
        }
        self.skip(MAGIC.len());
        Ok(true)
    }

    /// A length, as many bytes, and a digest.
    fn part(&mut self, bytes_max: usize, what: &str) -> Result<Option<(Bytes, Sha)>, Failure> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > bytes_max {
            return Err(damaged(&format!("a {what} is said to be longer than {bytes_max} bytes"), self.at));
        }
        if self.buffer.len() < LENGTH_BYTES + length + DIGEST_BYTES {
            return Ok(None);
        }
        self.skip(LENGTH_BYTES);
        let data = self.buffer.split_to(length).freeze();
        self.at += length as u64;
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&self.buffer[..DIGEST_BYTES]);
        self.skip(DIGEST_BYTES);
        Ok(Some((data, digest)))
    }

    fn skip(&mut self, count: usize) {
        self.buffer.advance(count);
        self.at += count as u64;
    }
}

fn damaged(what: &str, offset: u64) -> Failure {
    Failure::invalid("snapshot", format!("the file is damaged: {what}, at byte {offset}"))
        .with("offset", offset)
        .remedy("export the snapshot again, or copy the file again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Below;
    use proptest::prelude::*;

    fn header() -> Header {
        let config = crate::image::record::Config { user: Some("user".to_owned()), ..Default::default() };
        Header {
            snapshot: "sn1".to_owned(),
            name: Some("start".to_owned()),
            sandbox: "sb1".to_owned(),
            created_ms: 7,
            architecture: "x86_64".to_owned(),
            below: Below { image: "host:".to_owned(), config, host_programs: true },
        }
    }

    fn file(frames: &[&[u8]]) -> (Vec<u8>, Tree) {
        let (mut writer, begin) = Writer::begin(&header()).unwrap();
        let mut file = begin.to_vec();
        for frame in frames {
            file.extend_from_slice(&writer.frame(frame));
        }
        let (end, tree) = writer.end();
        file.extend_from_slice(&end);
        (file, tree)
    }

    /// The stream that a file holds, read in pieces of this size; or what is wrong with the file.
    fn read(file: &[u8], step: usize) -> Result<(Vec<u8>, Tree), Failure> {
        let (mut reader, mut data, mut end) = (Reader::new(), Vec::new(), None);
        for chunk in file.chunks(step) {
            reader.feed(chunk);
            while let Some(piece) = reader.next()? {
                match piece {
                    Piece::Header(found) => assert_eq!(*found, header()),
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::End(tree) => end = Some(tree),
                }
            }
        }
        reader.finish()?;
        Ok((data, end.unwrap()))
    }

    #[test]
    fn what_was_written_is_read_however_it_comes() {
        let (file, tree) = file(&[b"one", b"two", b"three"]);
        for step in [1, 2, 7, 64, file.len()] {
            assert_eq!(read(&file, step).unwrap(), (b"onetwothree".to_vec(), tree.clone()), "{step}");
        }
        assert_eq!(tree.digest, hex(&Sha256::digest(b"onetwothree").into()));
        assert_eq!(tree.bytes, 11);
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_found_and_located() {
        let (file, _) = file(&[b"one", b"two"]);
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let failure = read(&changed, 16).unwrap_err();
            let offset: usize = failure.context["offset"].parse().unwrap();
            assert!(offset <= file.len(), "{at}: {failure}");
            let cut = read(&file[..at], 16).unwrap_err();
            assert_eq!(cut.context["offset"], at.to_string(), "{cut}");
        }
        let longer = [file.as_slice(), b"x"].concat();
        assert!(read(&longer, 16).unwrap_err().message.contains(&format!("at byte {}", file.len())));
    }

    #[test]
    fn frames_of_another_place_or_another_snapshot_are_found() {
        let (one, _) = file(&[b"one", b"two"]);
        let frame = LENGTH_BYTES + 3 + DIGEST_BYTES;
        let end = one.len() - LENGTH_BYTES - DIGEST_BYTES;
        let (first, second) = (end - 2 * frame, end - frame);
        let swapped = [&one[..first], &one[second..end], &one[first..second], &one[end..]].concat();
        assert!(read(&swapped, 64).unwrap_err().message.contains(&format!("at byte {first}")));
        let left_out = [&one[..second], &one[end..]].concat();
        assert!(read(&left_out, 64).unwrap_err().message.contains("belong together"));
    }

    #[test]
    fn a_foreign_file_is_named_for_what_it_is() {
        for (bytes, said) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (b"\x28\xb5\x2f\xfd\0", "Zstandard"),
            (b"mote-snapshot/3\n", "another version"),
            (b"#!/bin/sh\n", "no exported snapshot"),
            (b"", "empty"),
        ] {
            let failure = read(bytes, 64).unwrap_err();
            assert!(failure.message.contains(said), "{failure}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_it_is_waited_for() {
        let (mut writer, begin) = Writer::begin(&header()).unwrap();
        let mut file = begin.to_vec();
        file.extend_from_slice(&writer.frame(b"x"));
        file.extend_from_slice(&u32::MAX.to_be_bytes());
        let failure = read(&file, 64).unwrap_err();
        assert!(failure.message.contains("longer than"), "{failure}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..40) {
            let file = [&MAGIC[..], &bytes].concat();
            prop_assert!(read(&file, step).is_err());
        }
    }
}
