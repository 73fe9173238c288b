//! What a cell says to the keeper before it is a sandbox.
//!
//! It does not wait: the keeper's loop does.

use std::os::fd::OwnedFd;

use mote_sandbox_api::error::{Code, Failure};
use rustix::io::Errno;

use super::super::file::failed;
use super::super::living::has_ended;
use super::Cell;
use super::orders::Report;
use crate::keeper::wire;

/// What a cell says.
#[derive(Debug)]
pub enum Heard {
    /// Nothing more for now.
    Nothing,
    /// It waits for orders; the daemon's sockets in its network.
    Prepared(Vec<OwnedFd>),
    /// It has become a sandbox's first process.
    Done,
    /// It ended, or is about to.
    Failed(Failure),
}

impl Cell {
    /// What it says now.
    #[must_use]
    pub fn hear(&self) -> Heard {
        match wire::receive::<Report>(&self.control) {
            Ok((Report::Prepared, sockets)) => Heard::Prepared(sockets),
            Ok((Report::Failed(failure), _)) => Heard::Failed(failure),
            Err(wire::Error::Socket(Errno::AGAIN)) => Heard::Nothing,
            // The socket also closes when the process ends without a word.
            Err(wire::Error::Closed) if !has_ended(&self.child.descriptor) => Heard::Done,
            Err(wire::Error::Closed) => Heard::Failed(Failure::new(Code::Internal, "a cell's process ended at once")),
            Err(error) => Heard::Failed(failed("hear from a cell", error)),
        }
    }
}
