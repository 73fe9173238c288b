//! The network boundary: what a sandbox may reach, how it is held to that, and what it is told.
//!
//! It does not make namespaces (`namespace` does) and it never trusts a name or an address that comes from inside.

pub mod address;
pub mod keeper;
pub mod name;
mod netlink;
