//! One connection: whole frames in, whole frames out, each checked before it is read.
//!
//! It does not know what a frame means; the request that came first decides that.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{HEADER_BYTES, Kind, Reply, Request, header, parse_header};
use mote_sandbox_api::limits::FRAME_BYTES_MAX;
use serde::Serialize;

use crate::failure::{Result, failed_io};

/// A connection whose socket blocks.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The socket itself, for those that wait for several things at once.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The request that a connection begins with.
    pub(crate) fn request(&mut self, deadline_ms: u64) -> Result<Option<Request>> {
        let deadline = Some(Duration::from_millis(deadline_ms));
        self.stream.set_read_timeout(deadline).map_err(|error| failed_io("bound a connection's time", &error))?;
        let mut payload = Vec::new();
        let Some(kind) = self.receive(&mut payload)? else { return Ok(None) };
        if kind != Kind::Request {
            return Err(unexpected(kind));
        }
        self.stream.set_read_timeout(None).map_err(|error| failed_io("free a connection's time", &error))?;
        serde_json::from_slice(&payload)
            .map(Some)
            .map_err(|error| Failure::new(Code::Invalid, format!("failed to read a request: {error}")))
    }

    /// The next frame, its payload in `payload`; nothing where the other side has closed or shut its writing side.
    pub(crate) fn receive(&mut self, payload: &mut Vec<u8>) -> Result<Option<Kind>> {
        let mut head = [0; HEADER_BYTES];
        if !self.fill(&mut head, true)? {
            return Ok(None);
        }
        let (kind, length) = parse_header(head)
            .map_err(|error| Failure::new(Code::Invalid, error.to_string()).with("frame", "header"))?;
        payload.resize(length, 0);
        self.fill(payload, false)?;
        Ok(Some(kind))
    }

    fn fill(&mut self, mut buffer: &mut [u8], may_end: bool) -> Result<bool> {
        let whole = buffer.len();
        while !buffer.is_empty() {
            match self.stream.read(buffer) {
                Ok(0) if may_end && buffer.len() == whole => return Ok(false),
                Ok(0) => return Err(Failure::new(Code::Gone, "the connection ended within a frame")),
                Ok(read) => buffer = &mut buffer[read..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed_io("receive a frame", &error)),
            }
        }
        Ok(true)
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let head = header(kind, payload.len());
        let mut slices = [IoSlice::new(&head), IoSlice::new(payload)];
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match self.stream.write_vectored(left) {
                Ok(0) => return Err(Failure::new(Code::Gone, "the connection is closed")),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed_io("send a frame", &error)),
            }
        }
        Ok(())
    }

    /// Sends a reply.
    pub(crate) fn reply(&mut self, reply: &Reply) -> Result<()> {
        self.send(Kind::Reply, &encode(reply)?)
    }

    /// Sends a list in as many frames as it takes, then `Done`.
    pub(crate) fn reply_list(&mut self, list: List) -> Result<()> {
        let mut list = list;
        list.flush(self)?;
        self.reply(&Reply::Done)
    }
}

/// The frame that a connection must not send now.
pub(crate) fn unexpected(kind: Kind) -> Failure {
    Failure::new(Code::Invalid, format!("a frame of kind {kind:?} is not expected here"))
}

/// A reply in JSON, no longer than a frame.
pub(crate) fn encode(reply: &Reply) -> Result<Vec<u8>> {
    let bytes = serde_json::to_vec(reply)
        .map_err(|error| Failure::new(Code::Internal, format!("failed to write a reply: {error}")))?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(Failure::new(Code::TooLarge, "a reply is longer than a frame").with("limit", FRAME_BYTES_MAX));
    }
    Ok(bytes)
}

/// A list on its way out: items are written as they come, a frame whenever enough of them are there.
#[derive(Debug)]
pub(crate) struct List {
    name: &'static str,
    frame: Vec<u8>,
    items: usize,
}

impl List {
    /// `name` is the reply's, as it stands in JSON.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, frame: Vec::new(), items: 0 }
    }

    /// Adds an item, and sends those before it where the frame is full.
    pub(crate) fn push(&mut self, item: &impl Serialize, connection: &mut Connection) -> Result<()> {
        let bytes = serde_json::to_vec(item)
            .map_err(|error| Failure::new(Code::Internal, format!("failed to write a reply: {error}")))?;
        if self.items > 0 && self.frame.len() + bytes.len() > crate::limits::LIST_FRAME_BYTES {
            self.flush(connection)?;
        }
        let before = if self.items == 0 { format!("{{{:?}:[", self.name) } else { ",".to_owned() };
        self.frame.extend_from_slice(before.as_bytes());
        self.frame.extend_from_slice(&bytes);
        self.items += 1;
        Ok(())
    }

    fn flush(&mut self, connection: &mut Connection) -> Result<()> {
        if self.items > 0 {
            self.frame.extend_from_slice(b"]}");
            connection.send(Kind::Reply, &self.frame)?;
            self.frame.clear();
            self.items = 0;
        }
        Ok(())
    }
}
