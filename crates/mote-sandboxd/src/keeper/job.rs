//! A verb that a child of the keeper carries out, with all the keeper's privilege, so that the keeper goes on meanwhile.
//!
//! It does not bound how long a child takes: what a child does is bounded by what it works on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::process::{self, Child, SingleThreaded};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::UnshareFlags;

use super::{Answered, Outcome};
use crate::limits::KEEPER_MESSAGE_BYTES_MAX;

/// A child at work.
#[derive(Debug)]
pub struct Job {
    child: Child,
    result: OwnedFd,
}

impl Job {
    /// Starts a child that does the work. It inherits everything the keeper holds, and none of it is closed before it exits.
    ///
    /// # Errors
    /// Where no process can be made.
    pub fn start(proof: &SingleThreaded, work: impl FnOnce() -> Result<Outcome, Failure>) -> Result<Self, Failure> {
        let failed = |error| Failure::new(Code::Internal, format!("failed to start a child of the keeper: {error}"));
        let (result, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        let child = process::fork(proof, UnshareFlags::empty(), None, || {
            let outcome = work();
            let written = serde_json::to_vec(&outcome).map(|bytes| File::from(writer).write_all(&bytes));
            u8::from(!matches!(written, Ok(Ok(()))))
        })
        .map_err(failed)?;
        Ok(Self { child, result })
    }

    /// Readable once the child ended.
    #[must_use]
    pub const fn ended(&self) -> &OwnedFd {
        &self.child.descriptor
    }

    /// Reaps the child, which has ended, and returns what it said.
    ///
    /// # Errors
    /// The child's own; `internal` where it ended without a word.
    pub fn finish(self) -> Answered {
        let broken =
            |what: String| Failure::new(Code::Internal, format!("failed to hear from a child of the keeper: {what}"));
        let _ = rustix::process::waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(&self.child.descriptor)),
            WaitIdOptions::EXITED,
        );
        let mut bytes = Vec::new();
        File::from(self.result)
            .take(KEEPER_MESSAGE_BYTES_MAX as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| broken(error.to_string()))?;
        let result: Result<Outcome, Failure> =
            serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        result.map(|outcome| (outcome, Vec::new()))
    }
}
