//! Test equipment for whole processes: a fake model endpoint, a tool backend, a trace receiver, and a hand on the real
//! `mote` binary.
//!
//! Everything speaks real protocols over loopback sockets. It does not test anything itself; `tests/main.rs` does.

pub mod backend;
pub mod conformance;
pub mod fake_model;
pub mod limits;
pub mod listener;
pub mod load;
pub mod otlp;
pub mod process;
