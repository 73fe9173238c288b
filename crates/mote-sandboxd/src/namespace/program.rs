//! The program that becomes the first process of every sandbox, held in sealed memory.
//!
//! Executing it by descriptor gives a sandbox no way to the host's file, not even through `/proc/1/exe`. It does not check what
//! the program is: the administrator installs it beside the daemon's.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use mote_sandbox_api::error::Failure;
use rustix::fs::{MemfdFlags, SealFlags};

use super::file::failed;

/// Name of the program in its own sandbox.
pub const NAME: &CStr = c"mote-sandbox-init";

/// Copies the program into memory that can no longer be changed.
///
/// # Errors
/// `internal` where the file cannot be read.
pub fn load(path: &Path) -> Result<OwnedFd, Failure> {
    let failed = |error: io::Error| failed(format_args!("load {}", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let memory = create().map_err(|error| failed(error.into()))?;
    let mut copy = File::from(memory);
    io::copy(&mut file, &mut copy).map_err(failed)?;
    rustix::fs::fchmod(&copy, 0o755.into()).map_err(|error| failed(error.into()))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|error| failed(error.into()))?;
    // Executable by others than this process only where it holds no descriptor open for writing.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
    rustix::fs::open(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, 0o0.into())
        .map_err(|error| failed(error.into()))
}

fn create() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, and make all such memory executable.
    rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC).or_else(|_| rustix::fs::memfd_create(NAME, flags))
}
