//! How an error of the kernel becomes a failure that a caller is told.
//!
//! It names no path of the host to callers beyond what the keeper's message says: messages go to the log and to operators.

use std::io;

use mote_sandbox_api::error::{Code, Failure};

/// `no_space` for a full disk or quota, `not_found` for what is missing, `conflict` for what is there, else `internal`.
pub(super) fn io(what: &str, error: &io::Error) -> Failure {
    let code = match error.raw_os_error() {
        Some(errno::ENOSPC | errno::EDQUOT) => Code::NoSpace,
        Some(errno::ENOENT) => Code::NotFound,
        Some(errno::EEXIST | errno::ENOTEMPTY) => Code::Conflict,
        Some(errno::EOPNOTSUPP | errno::ENOTTY) => Code::Unsupported,
        _ => Code::Internal,
    };
    Failure::new(code, format!("{what}: {error}"))
}

/// A defect of this program or of its stored state.
pub(super) fn defect(what: &str, error: &impl std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, format!("{what}: {error}"))
}

mod errno {
    use rustix::io::Errno;

    pub(super) const ENOSPC: i32 = Errno::NOSPC.raw_os_error();
    pub(super) const EDQUOT: i32 = Errno::DQUOT.raw_os_error();
    pub(super) const ENOENT: i32 = Errno::NOENT.raw_os_error();
    pub(super) const EEXIST: i32 = Errno::EXIST.raw_os_error();
    pub(super) const ENOTEMPTY: i32 = Errno::NOTEMPTY.raw_os_error();
    pub(super) const EOPNOTSUPP: i32 = Errno::OPNOTSUPP.raw_os_error();
    pub(super) const ENOTTY: i32 = Errno::NOTTY.raw_os_error();
}
