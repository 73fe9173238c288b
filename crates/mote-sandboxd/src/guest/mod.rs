//! The daemon's client of the protocol that the first process inside a sandbox speaks.
//!
//! It trusts nothing that comes back.

use std::path::PathBuf;
use std::sync::Arc;

/// The way to the first process of one sandbox; clones share it.
#[derive(Clone, Debug)]
pub struct Guest {
    socket: Arc<PathBuf>,
}

impl Guest {
    /// The guest behind a socket; nothing is connected yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket: Arc::new(socket) }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }
}
