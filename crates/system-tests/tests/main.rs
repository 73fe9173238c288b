//! Tests across processes: the real binary, real sockets, real servers and clients.
//!
//! One binary, many modules. What a module of one crate can test alone stands beside its subject, not here.
#![allow(clippy::unwrap_used)]

mod conformance;
mod crash;
mod e2e;
mod equipment;
mod live_model;
mod sdk;
mod stage;
