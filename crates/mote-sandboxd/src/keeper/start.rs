//! Starts the keeper: this program again, under its hidden subcommand, with the socket as its standard input.
//!
//! It does not serve: [`super::server`] does, in the new process.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Settings, wire};

/// The hidden subcommand whose only input is the socket.
pub const SUBCOMMAND: &str = "keeper";

/// Starts the keeper and returns the daemon's end of the socket. The keeper ends when that is closed; sandboxes live on.
///
/// To be called with privilege, before there are threads. The keeper reaps itself from the daemon's view: where the daemon
/// ends first, which is how a keeper ends, nobody waits for it here.
///
/// # Errors
/// Where the program cannot be started or the settings cannot be passed.
pub fn spawn(program: &Path, settings: &Settings) -> io::Result<OwnedFd> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Command::new(program).arg(SUBCOMMAND).stdin(Stdio::from(theirs)).stdout(Stdio::null()).current_dir("/").spawn()?;
    wire::send(&ours, settings, &[]).map_err(io::Error::other)?;
    Ok(ours)
}
