//! Descriptors: those that the async runtime watches (sockets and process descriptors that the keeper passed on), and how many
//! there may be, for whom.
//!
//! It does not make them.

use std::os::fd::OwnedFd;

use mote_sandbox_api::error::{Code, Failure};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use tokio::io::unix::AsyncFd;

use crate::limits::{
    CONNECTIONS_MAX, DESCRIPTORS_CLIENTS_PERCENT, DESCRIPTORS_EGRESS_PERCENT, DESCRIPTORS_LOOKUPS_PERCENT,
    DNS_LOOKUPS_ALL_MAX, EGRESS_CONNECTIONS_ALL_MAX,
};

/// Watches a descriptor, which is set not to block.
///
/// # Errors
/// Where it cannot be set so or cannot be watched.
pub fn watch(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    #[expect(deprecated, reason = "deprecated for types that may change their descriptor; an OwnedFd keeps its own")]
    AsyncFd::new(descriptor)
}

/// Raises the bound on this process's descriptors as far as it may, and answers with it. For the start, before there are threads.
///
/// # Errors
/// What the kernel refused.
pub fn raise_limit() -> rustix::io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(most)
}

/// How the descriptors of the daemon are shared out, so that nothing that takes many takes those of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections of clients that are served at once; each may need one more into a sandbox.
    pub clients: usize,
    /// Connections of every sandbox to destinations: two descriptors each.
    pub egress: usize,
    /// Questions of every sandbox to the resolver: a socket each.
    pub lookups: usize,
}

impl Shares {
    /// The shares of this process, by the bound that holds now.
    #[must_use]
    pub fn now() -> Self {
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::of(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn of(limit: usize) -> Self {
        let share = |percent: usize| (limit / 100).saturating_mul(percent);
        Self {
            clients: share(DESCRIPTORS_CLIENTS_PERCENT).clamp(1, CONNECTIONS_MAX),
            egress: (share(DESCRIPTORS_EGRESS_PERCENT) / 2).clamp(1, EGRESS_CONNECTIONS_ALL_MAX),
            lookups: share(DESCRIPTORS_LOOKUPS_PERCENT).clamp(1, DNS_LOOKUPS_ALL_MAX),
        }
    }
}

/// Whether the kernel said that there are no descriptors left, here or on the host.
#[must_use]
pub fn are_used_up(error: &std::io::Error) -> bool {
    let used_up = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| used_up.contains(&number))
}

/// What a caller is told then.
#[must_use]
pub fn used_up(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Exhausted, format!("{what}: the daemon has no descriptors left"))
        .with("retry_after_s", 1)
        .remedy("raise the daemon's limit of open files (LimitNOFILE)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_room_for_each_other() {
        for limit in [256, 1024, 20_000, 1 << 20] {
            let Shares { clients, egress, lookups } = Shares::of(limit);
            // Beside them: sandboxes' own sockets, files, what passes for a moment.
            let taken = 2 * clients + 2 * egress + lookups;
            assert!(taken <= limit / 20 * 13, "{limit}: {clients} {egress} {lookups}");
            assert!(clients > 0 && egress > 0 && lookups > 0);
        }
        assert_eq!(Shares::of(usize::MAX).clients, CONNECTIONS_MAX);
    }
}
