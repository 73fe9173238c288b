//! A snapshot on its way in: what a stranger sends is checked frame by frame, and the tree's stream goes into a pipe.
//!
//! It holds no more than a frame. What the tree's stream means is read elsewhere, without privilege.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use mote_sandbox_api::error::{Code, Failure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;

use super::format::{Piece, Reader};
use super::{Header, Tree};
use crate::crash;
use crate::limits::TRANSFER_IDLE_TIMEOUT;

/// What is sent, as it comes.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>;

/// A file that is being received.
pub struct Incoming {
    body: Body,
    reader: Reader,
    received: u64,
    bytes_max: u64,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Incoming {
    /// A file of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(body: Body, bytes_max: u64) -> Self {
        Self { body, reader: Reader::new(), received: 0, bytes_max }
    }

    /// What the file says of its snapshot. To be asked first.
    ///
    /// # Errors
    /// `invalid`, saying what is wrong and where; `timeout` where nothing comes.
    pub async fn header(&mut self) -> Result<Header, Failure> {
        match self.piece().await? {
            Some(Piece::Header(header)) => Ok(*header),
            _ => Err(Failure::new(Code::Internal, "the header of a snapshot was asked for twice")),
        }
    }

    /// Passes the files on into the pipe; none where the pipe was closed before their end: whoever reads it knows why.
    ///
    /// # Errors
    /// `invalid`, saying what is wrong and where; `too_large`; `timeout` where nothing comes.
    pub async fn tree(mut self, mut sink: pipe::Sender) -> Result<Option<Tree>, Failure> {
        let mut end = None;
        while let Some(piece) = self.piece().await? {
            match piece {
                Piece::Header(_) => return Err(Failure::new(Code::Internal, "a snapshot has two headers")),
                Piece::Data(data) => {
                    if sink.write_all(&data).await.is_err() {
                        return Ok(None);
                    }
                    crash::point("import.amid");
                }
                Piece::End(tree) => end = Some(tree),
            }
        }
        self.reader.finish()?;
        Ok(end)
    }

    /// The next piece; none where the file ends after its seal.
    async fn piece(&mut self) -> Result<Option<Piece>, Failure> {
        loop {
            if let Some(piece) = self.reader.next()? {
                return Ok(Some(piece));
            }
            let next = tokio::time::timeout(TRANSFER_IDLE_TIMEOUT, self.body.next()).await.map_err(|_| {
                let seconds = TRANSFER_IDLE_TIMEOUT.as_secs();
                Failure::new(Code::Timeout, format!("nothing more of the snapshot came for {seconds} seconds"))
            })?;
            let Some(chunk) = next.transpose()? else {
                self.reader.finish()?;
                return Ok(None);
            };
            self.received += chunk.len() as u64;
            if self.received > self.bytes_max {
                return Err(too_large(self.bytes_max));
            }
            self.reader.feed(&chunk);
        }
    }
}

/// The file is longer than this daemon takes.
#[must_use]
pub fn too_large(bytes_max: u64) -> Failure {
    Failure::new(Code::TooLarge, format!("the snapshot is longer than {bytes_max} bytes"))
        .with("limit", bytes_max)
        .remedy("the administrator can raise import_max in the daemon's configuration")
}
