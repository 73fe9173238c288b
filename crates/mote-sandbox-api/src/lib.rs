//! The contract of the sandbox runtime, shared by the daemon, the process inside each sandbox, and the clients.
//!
//! It states what may be asked, what is answered, which states a sandbox has and how they follow each other. It does no
//! I/O and knows neither HTTP nor any substrate; other surfaces (E2B's) are adapters onto these types.

pub mod capability;
pub mod error;
pub mod guest;
pub mod lifecycle;
pub mod limits;
pub mod network;
pub mod path;
pub mod request;
pub mod spec;
pub mod units;

/// Version of the contract, first segment of every native route.
pub const VERSION: &str = "v1";
