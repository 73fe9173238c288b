//! What a root filesystem is mounted from.
//!
//! It does not mount: `namespace` does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::id::Id;

/// One read-only tree under a root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lower {
    /// A layer of the pool.
    Layer(Id),
    /// A directory of the host; the keeper's own configuration must allow it.
    Directory(PathBuf),
    /// The host as an image; the keeper's own configuration must allow it. A root that is made of it holds instead what the
    /// host was then: a layer of settings, and [`Self::HostPrograms`].
    Host,
    /// The host's directories of programs, bound read-only at their own places; no tree of the overlay.
    HostPrograms,
}

/// What to mount: an overlay of these, all of them existing directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Read-only trees, the topmost first; never empty.
    pub lower: Vec<PathBuf>,
    /// Directories of the host that are bound read-only in the root, at the same paths.
    pub bound: Vec<PathBuf>,
    /// Where changes go; `work` stands beside it, on the same filesystem.
    pub upper: PathBuf,
    /// For overlay's `workdir`.
    pub work: PathBuf,
}
