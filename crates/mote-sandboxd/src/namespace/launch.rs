//! What the daemon says about a sandbox that is to be launched, and what it gets.
//!
//! It names no host path but data that the administrator allowed: roots and volumes go by id, and the keeper resolves them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use mote_sandbox_api::spec::Resources;
use serde::{Deserialize, Serialize};

use super::cgroup::Meter;
use crate::limits::{HOSTNAME_BYTES_MAX, MOUNTS_MAX};
use crate::network::Sockets;

/// A sandbox to launch. Its root must be there (`filesystem`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Id of the sandbox, and of its root.
    pub id: String,
    /// Name of the host that it sees.
    pub hostname: String,
    /// Its connections lead to the daemon's sockets; else it has nothing but its loopback.
    pub network: bool,
    /// Bounds; what is absent is not bounded. The disk's is the root's own matter.
    pub resources: Resources,
    /// What is mounted besides the root, in this order.
    pub mounts: Vec<Mount>,
}

/// Something mounted in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Absolute path inside; made where it is not there.
    pub path: String,
    /// Nothing can be written. Data always is.
    pub read_only: bool,
}

/// What can be mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A volume, by id.
    Volume(String),
    /// A directory of the host, below one that the administrator allowed. Ids are not mapped: what others than its owner
    /// may read can be read.
    Data(PathBuf),
}

impl Launch {
    /// Checks what does not need the host.
    ///
    /// # Errors
    /// `invalid`, naming the field.
    pub fn check(&self) -> Result<(), Failure> {
        check_id(&self.id)?;
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if self.hostname.is_empty() || self.hostname.len() > HOSTNAME_BYTES_MAX || !self.hostname.chars().all(letter) {
            let what = format!("1 to {HOSTNAME_BYTES_MAX} letters, digits, '-' and '.' are needed");
            return Err(Failure::invalid("hostname", what));
        }
        if self.mounts.len() > MOUNTS_MAX {
            return Err(Failure::invalid("mounts", format!("at most {MOUNTS_MAX} are possible")));
        }
        for mount in &self.mounts {
            check_path(&mount.path)?;
        }
        Ok(())
    }
}

/// An id can be a file name.
///
/// # Errors
/// `invalid`, naming the field.
pub fn check_id(id: &str) -> Result<(), Failure> {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.is_empty() || id.len() > NAME_BYTES_MAX || !id.chars().all(letter) {
        return Err(Failure::invalid("id", format!("1 to {NAME_BYTES_MAX} letters, digits, '-' and '_' are needed")));
    }
    Ok(())
}

/// Where the kernel's and the runtime's own mounts stand: nothing may cover them.
const TAKEN: [&str; 4] = ["/proc", "/sys", "/dev", mote_sandbox_api::guest::RUNTIME_FOLDER];

fn check_path(path: &str) -> Result<(), Failure> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    let whole = path.strip_prefix('/').is_some_and(|rest| !rest.is_empty() && rest.split('/').all(plain));
    if !whole || path.len() > PATH_BYTES_MAX {
        return Err(Failure::invalid("mounts.path", format!("{path:?} is not a plain absolute path below the root")));
    }
    match TAKEN.iter().find(|taken| std::path::Path::new(path).starts_with(taken)) {
        Some(taken) => Err(Failure::invalid("mounts.path", format!("{path:?} would cover {taken}"))),
        None => Ok(()),
    }
}

/// A sandbox that runs.
#[derive(Debug)]
pub struct Started {
    /// Its first process, by its number on the host.
    pub pid: u32,
    /// Readable once its first process, and so every process, ended.
    pub exit: OwnedFd,
    /// Socket on the host at which its first process serves (`guest::Guest::new`).
    pub guest: PathBuf,
    /// What it uses can be read here.
    pub meter: Meter,
    /// Where its connections arrive, where it has a network.
    pub network: Option<Sockets>,
}

/// A sandbox that the keeper found alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Living {
    /// Id of the sandbox.
    pub id: String,
    /// Its first process, by its number on the host.
    pub pid: u32,
    /// It has a network.
    pub network: bool,
    /// Its processes are stopped.
    pub frozen: bool,
}

/// Cells that could not be got ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// How many since the keeper started.
    pub count: u64,
    /// Why the last one could not.
    pub last: Option<Failure>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn launch(id: &str, path: &str) -> Launch {
        Launch {
            id: id.to_owned(),
            hostname: "box".to_owned(),
            network: false,
            resources: Resources::default(),
            mounts: vec![Mount { source: Source::Volume("v".to_owned()), path: path.to_owned(), read_only: false }],
        }
    }

    #[test]
    fn ids_and_paths_that_lead_elsewhere_are_refused() {
        assert_eq!(launch("sb-1", "/mnt/v").check(), Ok(()));
        for id in ["", "..", "a/b", "a\0", "a b"] {
            assert!(launch(id, "/mnt/v").check().is_err(), "{id:?}");
        }
        for path in ["", "/", "mnt", "/a/../b", "/a//b", "/a/", "/proc", "/proc/sys", "/dev/shm", "/run/mote/x"] {
            assert!(launch("sb-1", path).check().is_err(), "{path:?}");
        }
    }
}
