//! Containers as the keeper makes them, with real namespaces, mounts and cgroups: as root.
//!
//! It does not test the daemon's API: the system tests do.
#![allow(clippy::unwrap_used)]

mod bounds;
mod disk;
mod escape;
mod guest;
mod isolation;
mod restart;
mod stage;
mod walls;
