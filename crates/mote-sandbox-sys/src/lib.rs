//! Safe functions over the system calls that `rustix` does not offer safely: `clone3`, `mount_setattr`, btrfs' ioctls.
//!
//! It holds no policy: what is called, in which order and with which limits is its callers' matter. Every `unsafe` block of
//! the sandbox runtime stands here.

pub mod btrfs;
mod ioctl;
pub mod loop_device;
