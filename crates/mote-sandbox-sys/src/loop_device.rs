//! Loop devices: a file as a block device (`linux/loop.h`).
//!
//! A device made here frees itself when its last user (a mount, a descriptor) is gone. It does not look for devices that
//! are there already: sysfs tells that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use crate::ioctl;

const CONTROL_GET_FREE: u32 = 0x4c82;
const CONFIGURE: u32 = 0x4c0a;
const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;
const BLOCK_BYTES: u32 = 4096;
/// How often a free device may be lost to another process before giving up.
const ATTEMPTS_MAX: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Default)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_max: u64,
    number: u32,
    encrypt_kind: u32,
    encrypt_key_bytes: u32,
    flags: u32,
    file_name: [[u8; 32]; 2],
    crypt_name: [[u8; 32]; 2],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Default)]
struct Config {
    descriptor: u32,
    block_bytes: u32,
    info: Info,
    reserved: [u64; 8],
}

/// Makes the file a block device. Answers its path and a descriptor that keeps it until something else does.
///
/// # Errors
/// The kernel's; `EBUSY` where every free device was taken by others in the meantime.
pub fn attach(file: impl AsFd, direct_io: bool) -> io::Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS_MAX {
        let number = ioctl::plain(&control, CONTROL_GET_FREE)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut config = Config {
            #[expect(clippy::cast_sign_loss, reason = "an open descriptor is never negative")]
            descriptor: file.as_fd().as_raw_fd() as u32,
            block_bytes: BLOCK_BYTES,
            ..Config::default()
        };
        config.info.flags = FLAG_AUTOCLEAR | if direct_io { FLAG_DIRECT_IO } else { 0 };
        match ioctl::with(&device, CONFIGURE, &mut config) {
            Ok(_) => return Ok((path, device)),
            // Another process was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
    }
}
