//! Frames over a stream: bounded before they are read, whole before they are given, and safe to stop waiting for.
//!
//! It does not know which frame may follow which.

use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{HEADER_BYTES, Kind, Reply, Request, header, parse_header};
use mote_sandbox_api::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::io::poll_read_buf;

use super::gone;
use crate::limits::{GUEST_FAILURE_BYTES_MAX, GUEST_FAILURE_FACTS_MAX, GUEST_READ_BYTES};

/// What a guest did that the protocol does not allow.
pub fn violation(what: impl Display) -> Failure {
    let message = format!("the sandbox's first process broke its protocol: {what}");
    Failure::new(Code::Gone, message).with("reason", "protocol")
}

/// Frames from a guest. Dropping a wait for one loses nothing.
#[derive(Debug)]
pub(super) struct Frames {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl Frames {
    pub(super) fn new(reader: OwnedReadHalf) -> Self {
        Self { reader, buffer: BytesMut::new() }
    }

    /// The next frame; nothing where the guest closed between two.
    pub(super) async fn frame(&mut self) -> Result<Option<(Kind, Bytes)>, Failure> {
        self.next().await.transpose()
    }

    /// The next frame, which has to be a reply; the guest's own refusal is an error.
    pub(super) async fn reply(&mut self) -> Result<Reply, Failure> {
        self.reply_sized().await.map(|(reply, _)| reply)
    }

    /// The same, with the length of its payload in bytes.
    pub(super) async fn reply_sized(&mut self) -> Result<(Reply, usize), Failure> {
        match self.frame().await? {
            Some((Kind::Reply, payload)) => Ok((decode(&payload)?, payload.len())),
            Some((kind, _)) => Err(violation(format_args!("a frame of kind {kind:?} instead of a reply"))),
            None => Err(Failure::new(Code::Gone, "the sandbox's first process closed the connection without a reply")),
        }
    }

    /// Takes a whole frame out of the buffer; else says how many bytes are needed for one.
    fn take(&mut self) -> Result<Result<(Kind, Bytes), usize>, Failure> {
        let Some(head) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(Err(HEADER_BYTES)) };
        let (kind, length) = parse_header(*head).map_err(violation)?;
        if self.buffer.len() < HEADER_BYTES + length {
            return Ok(Err(HEADER_BYTES + length));
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Ok((kind, self.buffer.split_to(length).freeze())))
    }
}

impl Stream for Frames {
    type Item = Result<(Kind, Bytes), Failure>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let needed = match this.take() {
                Ok(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Err(needed)) => needed,
                Err(failure) => return Poll::Ready(Some(Err(failure))),
            };
            // Never more than one frame and a read beyond it.
            let missing = needed - this.buffer.len();
            this.buffer.reserve(missing.max(GUEST_READ_BYTES));
            match ready!(poll_read_buf(Pin::new(&mut this.reader), context, &mut this.buffer)) {
                Ok(0) if this.buffer.is_empty() => return Poll::Ready(None),
                Ok(0) => {
                    let message = "the sandbox's first process closed the connection within a frame";
                    return Poll::Ready(Some(Err(Failure::new(Code::Gone, message))));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(gone(&error)))),
            }
        }
    }
}

/// A reply; [`Reply::Failed`] as an error, cut to what may be shown.
pub(super) fn decode(payload: &[u8]) -> Result<Reply, Failure> {
    match serde_json::from_slice(payload) {
        Ok(Reply::Failed(failure)) => Err(believable(failure)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(violation(format_args!("a reply cannot be read: {error}"))),
    }
}

/// A guest may be hostile: it can refuse, but not in the daemon's name and not at any length.
fn believable(mut failure: Failure) -> Failure {
    let own = [Code::Unauthenticated, Code::IllegalTransition];
    if own.contains(&failure.code) {
        return violation(format_args!("the code {:?} is not a guest's", failure.code.as_str()));
    }
    shorten(&mut failure.message);
    failure.remediation.iter_mut().for_each(shorten);
    let facts = std::mem::take(&mut failure.context).into_iter().take(GUEST_FAILURE_FACTS_MAX);
    failure.context = facts
        .map(|(mut key, mut value)| {
            shorten(&mut key);
            shorten(&mut value);
            (key, value)
        })
        .collect();
    failure
}

fn shorten(text: &mut String) {
    text.truncate(text.floor_char_boundary(GUEST_FAILURE_BYTES_MAX));
}

/// Frames to a guest. A write that is not waited for to its end goes on with the next one: frames stay whole.
#[derive(Debug)]
pub(super) struct Writer {
    writer: OwnedWriteHalf,
    pending: BytesMut,
}

impl Writer {
    pub(super) fn new(writer: OwnedWriteHalf) -> Self {
        Self { writer, pending: BytesMut::new() }
    }

    pub(super) async fn request(&mut self, request: &Request) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(request)
            .map_err(|error| Failure::new(Code::Internal, format!("failed to write a request: {error}")))?;
        if bytes.len() > FRAME_BYTES_MAX {
            let message = format!("a request of {} bytes is longer than {FRAME_BYTES_MAX}", bytes.len());
            return Err(Failure::new(Code::TooLarge, message).with("limit", FRAME_BYTES_MAX));
        }
        self.send(Kind::Request, &bytes).await
    }

    /// Sends bytes in frames of one kind; none where there are none.
    pub(super) async fn send_all(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Failure> {
        for chunk in bytes.chunks(FRAME_BYTES_MAX) {
            self.send(kind, chunk).await?;
        }
        Ok(())
    }

    /// Sends one frame.
    pub(super) async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
        // What an earlier call left; then this frame can be put behind it.
        std::future::poll_fn(|context| self.poll_flush(context)).await.map_err(|error| gone(&error))?;
        self.put(kind, payload);
        std::future::poll_fn(|context| self.poll_flush(context)).await.map_err(|error| gone(&error))
    }

    /// Puts a frame behind what waits, without sending.
    pub(super) fn put(&mut self, kind: Kind, payload: &[u8]) {
        self.pending.reserve(HEADER_BYTES + payload.len());
        self.pending.put_slice(&header(kind, payload.len()));
        self.pending.put_slice(payload);
    }

    /// Sends what waits.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.writer).poll_write(context, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Shuts the writing side.
    pub(super) async fn shut(&mut self) -> Result<(), Failure> {
        std::future::poll_fn(|context| self.poll_flush(context)).await.map_err(|error| gone(&error))?;
        self.writer.shutdown().await.map_err(|error| gone(&error))
    }
}
