//! Files inside: read and written as streams, and watched.
//!
//! It keeps nothing of a file: one frame at a time passes through.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Entry, EventKind, FileTarget, Kind, Reply, Request, Writing};

use super::frame::{Frames, Writer, decode};
use super::{Guest, unexpected, violation, within};
use crate::limits::GUEST_REPLY_TIMEOUT_MS;

impl Guest {
    /// Reads a file from an offset, as many bytes as `length` at most.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `invalid` where it is no regular file, `gone`.
    pub async fn read(&self, target: FileTarget, offset: u64, length: Option<u64>) -> Result<FileRead, Failure> {
        let (mut frames, writer) = self.open(&Request::Read { target, offset, length }).await?;
        match within(GUEST_REPLY_TIMEOUT_MS, "the start of a file", frames.reply()).await? {
            Reply::Entry(entry) => {
                let known = entry.size.saturating_sub(offset).min(length.unwrap_or(u64::MAX));
                // Files of /proc have no size that is known before.
                let left = if entry.size == 0 { length } else { Some(known) };
                let expected = (entry.size > 0).then_some(known);
                Ok(FileRead { entry: *entry, expected, left, is_over: false, frames, _writer: writer })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Reads a whole file of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`Self::read`]; `too_large`.
    pub async fn read_whole(&self, target: FileTarget, bytes_max: usize) -> Result<Bytes, Failure> {
        let mut file = self.read(target, 0, None).await?;
        let mut whole = Vec::new();
        while let Some(chunk) = file.next().await.transpose()? {
            if whole.len() + chunk.len() > bytes_max {
                let message = format!("failed to read {:?}: longer than {bytes_max} bytes", file.entry.path);
                return Err(Failure::new(Code::TooLarge, message).with("limit", bytes_max));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.into())
    }

    /// Writes a file from a stream. It appears whole, when the stream has ended, or not at all: an error of the stream
    /// leaves what was there, and is returned.
    ///
    /// # Errors
    /// The stream's; `forbidden`, `no_space`, `invalid` where something other than a regular file is there, `gone`.
    pub async fn write<S>(&self, target: FileTarget, mode: Option<u32>, contents: S) -> Result<Entry, Failure>
    where
        S: Stream<Item = Result<Bytes, Failure>> + Send,
    {
        self.write_as(target, Writing { mode, ..Writing::default() }, contents).await
    }

    /// The same in another way: in place, or with metadata. In place, an error of the stream leaves what was written by then.
    ///
    /// # Errors
    /// As [`Self::write`]; `invalid` where the metadata is none.
    pub async fn write_as<S>(&self, target: FileTarget, writing: Writing, contents: S) -> Result<Entry, Failure>
    where
        S: Stream<Item = Result<Bytes, Failure>> + Send,
    {
        let (mut frames, mut writer) = self.open(&Request::Write { target, writing }).await?;
        let sending = send(contents, &mut writer);
        let reply = frames.reply();
        tokio::pin!(sending, reply);
        let early = tokio::select! {
            // What the guest refuses it says at once, and reads no further.
            biased;
            early = &mut reply => early,
            sent = &mut sending => match sent {
                Ok(()) => within(GUEST_REPLY_TIMEOUT_MS, "the end of a write", reply).await,
                // The guest closed, perhaps after a last word; an error of the stream is the caller's own.
                Err(failure) if failure.code == Code::Gone => {
                    return Err(within(GUEST_REPLY_TIMEOUT_MS, "a reply", reply).await.err().unwrap_or(failure));
                }
                Err(failure) => return Err(failure),
            },
        };
        match early? {
            Reply::Entry(entry) => Ok(*entry),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_whole(&self, target: FileTarget, mode: Option<u32>, contents: Bytes) -> Result<Entry, Failure> {
        self.write(target, mode, futures_util::stream::iter([Ok(contents)])).await
    }

    /// Watches a directory, with those below it where `recursive`. The watch stands when this returns.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `invalid` where it is no directory, `exhausted` beyond the bound of directories, `gone`.
    pub async fn watch(&self, target: FileTarget, recursive: bool) -> Result<Watching, Failure> {
        let (mut frames, writer) = self.open(&Request::Watch { target, recursive }).await?;
        match within(GUEST_REPLY_TIMEOUT_MS, "a watch", frames.reply()).await? {
            Reply::Done => Ok(Watching { frames, writer }),
            other => Err(unexpected(&other)),
        }
    }
}

async fn send<S>(contents: S, writer: &mut Writer) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, Failure>> + Send,
{
    tokio::pin!(contents);
    while let Some(chunk) = contents.next().await {
        // An empty chunk would be the end.
        writer.send_all(Kind::Data, &chunk?).await?;
    }
    writer.send(Kind::Data, &[]).await
}

/// A file that is being read: a stream of its bytes.
#[derive(Debug)]
pub struct FileRead {
    entry: Entry,
    expected: Option<u64>,
    /// Bytes that may still come, where that is known.
    left: Option<u64>,
    is_over: bool,
    frames: Frames,
    _writer: Writer,
}

impl FileRead {
    /// What stands at the path.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Bytes that the stream gives, unless it fails; nothing where that is not known before (in `/proc`, and for an empty
    /// file).
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.expected
    }

    fn take(&mut self, kind: Kind, payload: Bytes) -> Option<Result<Bytes, Failure>> {
        match kind {
            Kind::Data if payload.is_empty() => {
                self.is_over = true;
                let short = self.expected.is_some() && self.left.is_some_and(|left| left > 0);
                short.then(|| Err(violation("a file ends before its length")))
            }
            Kind::Data => {
                let length = payload.len() as u64;
                if self.left.is_some_and(|left| length > left) {
                    return Some(Err(violation("a file is longer than its length")));
                }
                self.left = self.left.map(|left| left - length);
                Some(Ok(payload))
            }
            Kind::Reply => Some(match decode(&payload) {
                Ok(other) => Err(unexpected(&other)),
                Err(failure) => Err(failure),
            }),
            other => Some(Err(violation(format_args!("a frame of kind {other:?} within a file")))),
        }
    }
}

impl Stream for FileRead {
    type Item = Result<Bytes, Failure>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let item = match ready!(Pin::new(&mut this.frames).poll_next(context)) {
            Some(Ok((kind, payload))) => this.take(kind, payload),
            Some(Err(failure)) => Some(Err(failure)),
            None => Some(Err(Failure::new(Code::Gone, "the sandbox ended while the file was read"))),
        };
        this.is_over |= item.as_ref().is_none_or(Result::is_err);
        Poll::Ready(item)
    }
}

/// A directory that is being watched.
#[derive(Debug)]
pub struct Watching {
    frames: Frames,
    writer: Writer,
}

/// What a watch tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Something happened: a path relative to the watched directory (empty for itself), and what.
    Event(String, EventKind),
    /// Everything is told that had happened when it was asked for ([`Watching::ask`]).
    All,
}

impl Watching {
    /// The next event: a path relative to the watched directory (empty for itself), and what happened. Nothing where the
    /// directory is gone. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `gone`.
    pub async fn next_event(&mut self) -> Result<Option<(String, EventKind)>, Failure> {
        loop {
            match self.next_told().await? {
                Some(Told::Event(name, kind)) => return Ok(Some((name, kind))),
                Some(Told::All) => {}
                None => return Ok(None),
            }
        }
    }

    /// The same, or that what was asked for is told.
    ///
    /// # Errors
    /// `gone`.
    pub async fn next_told(&mut self) -> Result<Option<Told>, Failure> {
        let Some((kind, payload)) = self.frames.frame().await? else { return Ok(None) };
        if kind != Kind::Reply {
            return Err(violation(format_args!("a frame of kind {kind:?} among file events")));
        }
        match decode(&payload)? {
            Reply::Event { name, kind } => Ok(Some(Told::Event(name, kind))),
            Reply::Done => Ok(Some(Told::All)),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks to be told what has happened by now; [`Told::All`] comes behind it, once for each time.
    ///
    /// # Errors
    /// `gone`.
    pub async fn ask(&mut self) -> Result<(), Failure> {
        self.writer.send(Kind::Data, &[]).await
    }
}
