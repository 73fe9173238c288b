//! The network boundary against an internet of its own: name servers, TLS servers with an authority, and plain ones, in
//! network namespaces made by the test. The part of the daemon runs in a namespace between, as on a host.
//!
//! It needs root, and touches neither routes nor packet filter of the host. Clients are curl, openssl and Python.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod internet;
mod leaks;
mod namespaces;
mod rules;
mod web;
mod world;
