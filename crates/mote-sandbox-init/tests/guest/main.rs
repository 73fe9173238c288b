//! The first process, run as one: PID 1 of a namespace of its own, asked over a real socket, with real processes.
//!
//! Needs root, for the namespace. What the daemon's client makes of the answers is tested with the daemon.
#![allow(clippy::unwrap_used, missing_docs)]

mod client;
mod dial;
mod file;
mod hostile;
mod process;
mod rights;
mod terminal;
mod tree;
mod watch;
