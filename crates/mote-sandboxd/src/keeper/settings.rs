//! What the keeper is told once, when it starts, by the administrator's configuration.
//!
//! It is the only place from which the keeper takes paths: verbs carry ids.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::filesystem;
use crate::tls;

/// First host id of the sandboxes' ranges. systemd leaves 0x7000_0000 to 0x7FFD_FFFF unused (its "UIDs and GIDs" page).
pub const UID_BASE: u32 = 0x7000_0000;
/// Host user and group of the daemon: above all ranges.
pub const DAEMON_ID: u32 = 0x7F00_0000;
/// First host id of the ranges in which images are built: beside those of any daemon.
pub const BUILD_UID_BASE: u32 = 0x7F10_0000;
/// Cells that are kept ready, of either kind.
pub const READY_CELLS: usize = 4;

/// The keeper's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The pool, and what may be an image or data. Its state directory holds what outlives a reboot. Absolute.
    pub filesystem: filesystem::keeper::Options,
    /// What does not: sockets and records of living sandboxes. Absolute, best on a tmpfs.
    pub run: PathBuf,
    /// The static program that becomes the first process of every sandbox.
    pub init: PathBuf,
    /// Host user of the daemon.
    pub daemon_uid: u32,
    /// Host group of the daemon.
    pub daemon_gid: u32,
    /// First host id of the sandboxes' ranges; two daemons on one host need different ones.
    pub uid_base: u32,
    /// Cells (namespaces, cgroups and first process of a sandbox to come) that are kept ready without network.
    pub ready_cells: usize,
    /// The same with network.
    pub ready_cells_with_network: usize,
    /// The files of the API's certificate.
    pub tls: Option<tls::Files>,
    /// It serves a command about images, beside the daemon that may serve the same state directory: its cgroups are its own.
    pub for_images: bool,
}

impl Settings {
    /// The defaults, given the paths that have none.
    #[must_use]
    pub fn new(state: PathBuf, run: PathBuf, init: PathBuf) -> Self {
        Self {
            filesystem: filesystem::keeper::Options::new(state),
            run,
            init,
            daemon_uid: DAEMON_ID,
            daemon_gid: DAEMON_ID,
            uid_base: UID_BASE,
            ready_cells: READY_CELLS,
            ready_cells_with_network: READY_CELLS,
            tls: None,
            for_images: false,
        }
    }

    /// The same for a command about images: whatever lives is a daemon's and is left alone.
    #[must_use]
    pub fn for_images(self) -> Self {
        Self {
            run: self.run.join("build"),
            uid_base: BUILD_UID_BASE,
            ready_cells: 0,
            ready_cells_with_network: 0,
            for_images: true,
            tls: None,
            ..self
        }
    }

    /// A name that this state directory's daemon has and no other's, nor a command about its images.
    #[must_use]
    pub fn instance(&self) -> String {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(self.filesystem.state.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        if self.for_images { format!("{name}-build") } else { name }
    }
}
