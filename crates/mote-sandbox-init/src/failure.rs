//! From the kernel's errors to the contract's.
//!
//! It does not know operations: each says what it was about to do.

use mote_sandbox_api::error::{Code, Failure};
use rustix::io::Errno;

/// What every operation returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// The code that an error of the kernel has in the contract.
pub(crate) fn code(errno: Errno) -> Code {
    match errno {
        Errno::NOENT | Errno::SRCH => Code::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Code::Forbidden,
        Errno::EXIST | Errno::NOTEMPTY => Code::Conflict,
        Errno::NOTDIR | Errno::ISDIR | Errno::INVAL | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV => Code::Invalid,
        Errno::NOSPC | Errno::DQUOT => Code::NoSpace,
        Errno::FBIG | Errno::TOOBIG => Code::TooLarge,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Code::Exhausted,
        Errno::BUSY | Errno::TXTBSY => Code::Busy,
        Errno::TIMEDOUT => Code::Timeout,
        _ => Code::Internal,
    }
}

/// "failed to {what}: {errno}", with its code and its number.
pub(crate) fn failed(what: impl std::fmt::Display, errno: impl Into<Errno>) -> Failure {
    let errno = errno.into();
    let failure = Failure::new(code(errno), format!("failed to {what}: {}", std::io::Error::from(errno)));
    failure.with("errno", errno.raw_os_error())
}

/// The same from an error of the standard library.
pub(crate) fn failed_io(what: impl std::fmt::Display, error: &std::io::Error) -> Failure {
    match Errno::from_io_error(error) {
        Some(errno) => failed(what, errno),
        None => Failure::new(Code::Internal, format!("failed to {what}: {error}")),
    }
}
