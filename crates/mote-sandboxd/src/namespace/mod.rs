//! The container substrate: namespaces, cgroups, seccomp, landlock, and the first process.
//!
//! It knows nothing of HTTP, snapshots or policy: it makes, freezes and ends what a specification says.

pub mod keeper;
