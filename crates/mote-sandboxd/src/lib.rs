//! The sandbox runtime's daemon, as a library: an unprivileged service and its small privileged keeper.
//!
//! `ARCHITECTURE.md` has the process tree. The library reads no environment variable and no command line: `main` does.

pub mod api;
pub mod clock;
pub mod code;
pub mod config;
pub mod crash;
pub mod descriptor;
pub mod filesystem;
pub mod guest;
pub mod host;
pub mod image;
pub mod keeper;
pub mod lifecycle;
pub mod limits;
pub mod mcp;
pub mod namespace;
pub mod network;
pub mod privilege;
pub mod room;
pub mod service;
pub mod state;
pub mod telemetry;
pub mod template;
pub mod tls;
pub mod transfer;
