//! The network boundary: what a sandbox may reach, how it is held to that, and what it is told.
//!
//! It does not make namespaces (`namespace` does) and it never trusts a name or an address that comes from inside.

pub mod address;
pub mod keeper;
pub mod name;
mod netlink;

/// The daemon's sockets in a sandbox's network namespace.
#[derive(Debug)]
pub struct Sockets {
    /// Listener for every TCP connection.
    pub tcp: std::os::fd::OwnedFd,
    /// For DNS over UDP.
    pub dns_udp: std::os::fd::OwnedFd,
    /// Listener for DNS over TCP.
    pub dns_tcp: std::os::fd::OwnedFd,
}
