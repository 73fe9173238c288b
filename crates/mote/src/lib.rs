//! Mote, the agent service: one `agent.yaml` becomes one small process that plans, acts and observes, and whose
//! tasks survive the process.
//!
//! This crate drives [`mote_core`]: it owns the clock, the network, the disk and the text. It does not decide what a
//! run does next; the core does.

pub mod api;
pub mod arguments;
pub mod auth;
pub mod canonical;
pub mod clock;
pub mod cloudevent;
pub mod config;
pub mod context;
pub mod crash;
pub mod limits;
pub mod memory;
pub mod message;
pub mod model;
pub mod money;
mod redact;
pub mod runner;
pub mod secret;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod timestamp;
pub mod tls;
pub mod tools;
pub mod usage;
