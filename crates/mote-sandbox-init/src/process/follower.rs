//! One connection that follows a process: frames that wait to be sent to it, frames that come from it in pieces.
//!
//! It waits for nothing: the thread that serves the process does, for all its followers at once.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{HEADER_BYTES, Kind, Reply, header, parse_header};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown};

use super::Role;
use super::input::Input;
use crate::connection::{Connection, encode, unexpected};
use crate::failure::{Result, failed_io};
use crate::limits::INPUT_CHUNK_BYTES;

/// A connection that follows a process.
#[derive(Debug)]
pub(crate) struct Follower {
    socket: UnixStream,
    pub(super) role: Role,
    outgoing: Vec<u8>,
    sent: usize,
    head: [u8; HEADER_BYTES],
    head_bytes: usize,
    /// Payload of the frame that is being read which has not come yet.
    payload_left: usize,
    /// How many bytes the input had been given when this one last gave it some: all of its own are among them.
    fed: u64,
    /// Frames may still come.
    is_reading: bool,
    /// The other side cannot be reached any more.
    pub(super) is_gone: bool,
    /// Nothing is to be sent after what waits.
    is_closing: bool,
}

impl Follower {
    pub(super) fn new(role: Role, connection: Connection) -> Result<Self> {
        let socket = connection.into_stream();
        socket.set_nonblocking(true).map_err(|error| failed_io("prepare a connection", &error))?;
        Ok(Self {
            socket,
            role,
            outgoing: Vec::new(),
            sent: 0,
            head: [0; HEADER_BYTES],
            head_bytes: 0,
            payload_left: 0,
            fed: 0,
            is_reading: true,
            is_gone: false,
            is_closing: false,
        })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether frames wait to be sent: until they are, the process's output is not read.
    pub(super) fn is_behind(&self) -> bool {
        !self.is_gone && self.sent < self.outgoing.len()
    }

    /// Whether frames from it are wanted.
    pub(super) fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// Whether all that it sent has gone on to the process.
    pub(super) fn is_passed_on(&self, input: &Input) -> bool {
        self.payload_left == 0 && self.head_bytes == 0 && input.has_taken(self.fed)
    }

    /// Whether it is to be waited for at all. Where it is gone, what it sent before is still read.
    pub(super) fn is_over(&self) -> bool {
        (self.is_gone && !self.is_reading) || (self.is_closing && !self.is_behind())
    }

    /// Sends a frame, or what of it can be sent now.
    pub(super) fn send(&mut self, kind: Kind, payload: &[u8]) {
        if self.is_gone || self.is_closing {
            return;
        }
        let head = header(kind, payload.len());
        let mut sent = 0;
        if !self.is_behind() {
            let slices = [IoSlice::new(&head), IoSlice::new(payload)];
            match sendmsg(&self.socket, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(count) => sent = count,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return self.lose(),
            }
        }
        self.outgoing.extend_from_slice(&head[sent.min(HEADER_BYTES)..]);
        self.outgoing.extend_from_slice(&payload[sent.saturating_sub(HEADER_BYTES)..]);
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        match encode(reply) {
            Ok(bytes) => self.send(Kind::Reply, &bytes),
            Err(_) => self.lose(),
        }
    }

    /// Sends the last reply; the connection is over when it is through.
    pub(super) fn finish(&mut self, reply: &Reply) {
        self.reply(reply);
        self.is_closing = true;
        self.is_reading = false;
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) {
        while self.is_behind() {
            match send(&self.socket, &self.outgoing[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.lose(),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
    }

    /// The other side closed: nothing can be sent to it, what it sent may still be there.
    pub(super) fn lose(&mut self) {
        self.is_gone = true;
        self.outgoing = Vec::new();
        self.sent = 0;
    }

    /// Reads what is there and passes it on. Called only while no input waits.
    pub(super) fn receive(&mut self, input: &mut Input) {
        let mut chunk = [0_u8; INPUT_CHUNK_BYTES];
        let count = match recv(&self.socket, &mut chunk[..], RecvFlags::empty()) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => {
                self.is_reading = false;
                return self.lose();
            }
        };
        if count == 0 {
            self.is_reading = false;
        } else if let Err(failure) = self.decode(&chunk[..count], input) {
            self.finish(&Reply::Failed(failure));
        }
    }

    /// Takes no more frames from it, and reads those that came: from here on the other side knows that it cannot send.
    pub(super) fn drain(&mut self, input: &mut Input) {
        // Fails only where the other side is gone; then no frame can come either, and reading says so.
        let _ = shutdown(&self.socket, Shutdown::Read);
        while self.is_reading {
            self.receive(input);
        }
    }

    fn decode(&mut self, mut bytes: &[u8], input: &mut Input) -> Result<()> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let (payload, rest) = bytes.split_at(self.payload_left.min(bytes.len()));
                input.push(payload);
                self.fed = input.offered();
                self.payload_left -= payload.len();
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((HEADER_BYTES - self.head_bytes).min(bytes.len()));
            self.head[self.head_bytes..self.head_bytes + part.len()].copy_from_slice(part);
            self.head_bytes += part.len();
            bytes = rest;
            if self.head_bytes == HEADER_BYTES {
                self.head_bytes = 0;
                let (kind, length) =
                    parse_header(self.head).map_err(|error| Failure::new(Code::Invalid, error.to_string()))?;
                if kind != Kind::Stdin {
                    return Err(unexpected(kind));
                }
                if length == 0 {
                    input.end();
                }
                self.payload_left = length;
            }
        }
        Ok(())
    }
}
