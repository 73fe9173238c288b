//! Snapshots as files that move between hosts: what such a file holds, and how it is written and read as a stream.
//!
//! It knows neither HTTP nor where a snapshot lies: bytes go from a pipe to whoever asked, or from whoever sent them to a
//! pipe, a frame at a time.

mod format;
mod incoming;
mod outgoing;

use serde::{Deserialize, Serialize};

use crate::image::record::Config;

pub use incoming::{Body, Incoming, too_large};
pub use outgoing::{Frames, send};

/// What a file says of its snapshot, before the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The snapshot's id where it was taken.
    pub snapshot: String,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The sandbox it was taken of.
    pub sandbox: String,
    /// When it was taken, milliseconds since the epoch.
    pub created_ms: u64,
    /// The machine whose programs it holds, as Rust names architectures.
    pub architecture: String,
    /// What sandboxes of it need to know beside the files.
    pub below: Below,
}

/// What a snapshot's image says of the sandboxes that are made from it. The image's files are among the snapshot's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Below {
    /// The image's id where the snapshot was taken, for people.
    pub image: String,
    /// How it is run.
    #[serde(default)]
    pub config: Config,
    /// The host's own programs are bound in its sandboxes: they are not among the files.
    #[serde(default)]
    pub host_programs: bool,
}

/// The files of a snapshot as one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// SHA-256 of the stream in hexadecimal digits: the name of the content wherever it goes.
    pub digest: String,
    /// Bytes of the stream.
    pub bytes: u64,
}
