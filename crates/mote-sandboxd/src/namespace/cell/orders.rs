//! What the keeper and a cell say to each other over their socket.
//!
//! Nothing of it comes from a guest: the cell's process is the keeper's own until it becomes the sandbox's first.

use mote_sandbox_api::error::Failure;
use serde::{Deserialize, Serialize};

/// What a cell is to become. Beside it travel, in this order: the lower trees (topmost first), the tree that holds upper and
/// work, the trees of [`Orders::bound`] and of [`Orders::mounts`], and the listening socket of the first process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Name of the host.
    pub hostname: String,
    /// Bytes of `/dev/shm`, where the memory is bounded.
    pub shared_bytes: Option<u64>,
    /// Number of lower trees.
    pub lower: usize,
    /// Name of the upper directory in its tree.
    pub upper: String,
    /// Name of the work directory in the same tree.
    pub work: String,
    /// Where directories of the host are mounted, read-only, as parts of the root.
    pub bound: Vec<String>,
    /// Where the further trees are mounted, and whether they are read-only.
    pub mounts: Vec<(String, bool)>,
}

/// What a cell says. After [`Report::Prepared`] its end of the socket closes when it has become the first process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It waits for orders. The daemon's sockets in its network travel beside it.
    Prepared,
    /// It failed and ends.
    Failed(Failure),
}
