//! Descriptors that the async runtime watches: sockets and process descriptors that the keeper passed on.
//!
//! It does not make them.

use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Watches a descriptor, which is set not to block.
///
/// # Errors
/// Where it cannot be set so or cannot be watched.
pub fn watch(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    #[expect(deprecated, reason = "deprecated for types that may change their descriptor; an OwnedFd keeps its own")]
    AsyncFd::new(descriptor)
}
