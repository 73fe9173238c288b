//! The socket at which a sandbox's first process serves: made on the host, where only the daemon can connect to it.
//!
//! It does not speak over it.

use std::os::fd::OwnedFd;

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::file::failed;
use super::record;
use crate::keeper::Settings;
use crate::limits::GUEST_BACKLOG;

/// Makes the sandbox's folder and the listening socket in it.
///
/// # Errors
/// `conflict` where the folder is there; `internal` with what the kernel refused.
pub(super) fn listen(settings: &Settings, id: &str) -> Result<OwnedFd, Failure> {
    let failed = |error: Errno| failed(format_args!("make the socket of {id}"), error);
    let folder = record::folder(&settings.run, id);
    let (user, group) = (Uid::from_raw(settings.daemon_uid), Gid::from_raw(settings.daemon_gid));
    // The daemon may enter, and read what the keeper notes; nobody else.
    match rustix::fs::mkdir(&folder, Mode::from_raw_mode(0o750)) {
        Err(Errno::EXIST) => {
            return Err(Failure::new(Code::Conflict, format!("the folder of the sandbox {id:?} is there already")));
        }
        result => result.map_err(failed)?,
    }
    rustix::fs::chownat(CWD, &folder, None, Some(group), AtFlags::empty()).map_err(failed)?;
    let path = record::socket(&settings.run, id);
    let address = SocketAddrUnix::new(&path).map_err(failed)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(failed)?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    rustix::fs::chownat(CWD, &path, Some(user), Some(group), AtFlags::empty()).map_err(failed)?;
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o600)).map_err(failed)?;
    rustix::net::listen(&socket, GUEST_BACKLOG).map_err(failed)?;
    Ok(socket)
}
