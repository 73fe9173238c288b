//! What a tool may reach: hosts by allowlist, addresses by kind, names by a resolver that vets what it finds.
//!
//! It holds no HTTP; [`super::http`] asks before every hop.

pub mod hosts;
pub mod network;
pub mod resolver;
