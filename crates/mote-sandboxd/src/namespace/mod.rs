//! The container substrate: namespaces, cgroups, seccomp, landlock, and the first process.
//!
//! It knows nothing of HTTP, snapshots or policy: it makes, freezes and ends what a specification says.

mod capability;
pub mod cell;
pub mod cgroup;
mod containers;
mod device;
mod file;
mod graves;
pub mod identity;
pub mod keeper;
pub mod launch;
mod launching;
mod living;
pub mod mounts;
pub mod program;
pub mod record;
pub mod seccomp;
mod socket;

pub use containers::Containers;
pub use launch::{Launch, Living, Mount, Source, Started};
