//! A connection to a port inside a sandbox, as a stream of bytes.
//!
//! It knows no protocol of what passes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::{Kind, Reply, Request};
use mote_sandbox_api::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Frames, Writer};
use super::{Guest, unexpected, violation, within};
use crate::limits::GUEST_REPLY_TIMEOUT_MS;

impl Guest {
    /// Connects to a TCP port on the sandbox's loopback.
    ///
    /// # Errors
    /// `not_found` where nothing listens there, `timeout`, `exhausted`, `gone`.
    pub async fn dial(&self, port: u16) -> Result<Dialled, Failure> {
        let (mut frames, writer) = self.open(&Request::Dial { port }).await?;
        match within(GUEST_REPLY_TIMEOUT_MS, "a connection to a port", frames.reply()).await? {
            Reply::Done => Ok(Dialled { frames, writer, rest: Bytes::new(), is_read: false, is_shut: false }),
            other => Err(unexpected(&other)),
        }
    }
}

/// Both directions of a dialled connection. Dropping it closes both.
#[derive(Debug)]
pub struct Dialled {
    frames: Frames,
    writer: Writer,
    /// Of a frame that is partly read.
    rest: Bytes,
    is_read: bool,
    is_shut: bool,
}

impl AsyncRead for Dialled {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() && !this.is_read {
            match ready!(Pin::new(&mut this.frames).poll_next(context)) {
                Some(Ok((Kind::Data, payload))) => {
                    this.is_read = payload.is_empty();
                    this.rest = payload;
                }
                Some(Ok((kind, _))) => {
                    return Poll::Ready(Err(io::Error::other(violation(format_args!("a frame of kind {kind:?}")))));
                }
                Some(Err(failure)) => return Poll::Ready(Err(io::Error::other(failure))),
                // Closed without the end of this direction: whoever reads must not take it for one.
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let count = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest[..count]);
        this.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // One frame waits at most: the next is taken when it is sent.
        ready!(this.writer.poll_flush(context))?;
        let count = bytes.len().min(FRAME_BYTES_MAX);
        if count > 0 {
            this.writer.put(Kind::Data, &bytes[..count]);
            let _ = this.writer.poll_flush(context)?;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().writer.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            ready!(this.writer.poll_flush(context))?;
            this.writer.put(Kind::Data, &[]);
            this.is_shut = true;
        }
        this.writer.poll_flush(context)
    }
}
