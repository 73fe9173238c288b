//! Reading a file.
//!
//! It reads regular files only: a pipe or a terminal has no end to wait for.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Kind, Reply};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::change::not_a_file;
use super::{Place, describe};
use crate::connection::Connection;
use crate::failure::{Result, failed, failed_io};
use crate::limits::FILE_CHUNK_BYTES;

/// Sends a file: no more than the size that its entry tells, unless that is 0 (as in `/proc`, where sizes are not known).
pub(crate) fn read(place: &Place, offset: u64, length: Option<u64>, connection: &mut Connection) -> Result<()> {
    let (path, access) = (place.path(), place.access());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | place.flags();
    let file = openat(CWD, &access, flags, Mode::empty()).map_err(|errno| match errno {
        // What a socket answers.
        Errno::NXIO => not_a_file(path, false),
        errno => place.failed("read", errno),
    })?;
    let stat = fstat(&file).map_err(|errno| failed(format_args!("read {path:?}"), errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(not_a_file(path, kind == FileType::Directory));
    }
    let entry = describe(CWD, access.as_os_str(), &access, path, &stat, &place.accounts);
    connection.reply(&Reply::Entry(Box::new(entry)))?;
    let file = File::from(file);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let known = if size == 0 { u64::MAX } else { size.saturating_sub(offset) };
    let mut left = known.min(length.unwrap_or(u64::MAX));
    let mut at = offset;
    let mut buffer = Vec::new();
    while left > 0 {
        buffer.resize(FILE_CHUNK_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX)), 0);
        let count = match file.read_at(&mut buffer, at) {
            Ok(0) if size == 0 => break,
            Ok(0) => {
                let message = format!("failed to read {path:?} to its end: it became shorter meanwhile");
                return Err(Failure::new(Code::Conflict, message).with("path", path.display()));
            }
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed_io(format_args!("read {path:?}"), &error).with("path", path.display())),
        };
        connection.send(Kind::Data, &buffer[..count])?;
        at += count as u64;
        left -= count as u64;
    }
    connection.send(Kind::Data, &[])
}
