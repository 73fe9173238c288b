//! The record that stands beside every tree of the pool: what lies below it and how much it is charged with.
//!
//! It is written before its tree gets its final name, so that a tree with a name has a record. It holds nothing that the
//! daemon's own state also holds.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use mote_sandbox_api::error::Failure;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::fault;
use super::recipe::Lower;
use crate::limits::POOL_RECORD_BYTES_MAX;

/// File name of the record.
pub(super) const FILE: &str = "record";

/// What is known of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Read-only trees below, the topmost first.
    pub(super) lower: Vec<Lower>,
    /// Bytes charged to the trees that this one came from, at the moment it came from them.
    #[serde(default)]
    pub(super) inherited_bytes: u64,
    /// Bytes that the sandbox may be charged with in all.
    #[serde(default)]
    pub(super) quota_bytes: Option<u64>,
    /// The tree has no upper of its own: all it holds is in `lower`.
    #[serde(default)]
    pub(super) sealed: bool,
}

impl Record {
    /// Reads the record of the tree in this folder.
    pub(super) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(FILE);
        let text = fs::File::open(&path)
            .and_then(|file| {
                let mut text = String::new();
                file.take(POOL_RECORD_BYTES_MAX).read_to_string(&mut text)?;
                Ok(text)
            })
            .map_err(|error| fault::io(&format!("failed to read {}", path.display()), &error))?;
        serde_json::from_str(&text)
            .map_err(|error| fault::defect(&format!("failed to read {}", path.display()), &error))
    }

    /// Writes the record into the folder; the one that was there is replaced as a whole.
    pub(super) fn write(&self, folder: impl AsFd) -> Result<(), Failure> {
        const NEW: &str = "record.new";
        let text = serde_json::to_vec(self).map_err(|error| fault::defect("failed to write a record", &error))?;
        let write = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&folder, NEW, flags, Mode::from_raw_mode(0o600))?;
            fs::File::from(file).write_all(&text)?;
            rustix::fs::renameat(&folder, NEW, &folder, FILE)?;
            Ok(())
        };
        write().map_err(|error: std::io::Error| {
            let _ = rustix::fs::unlinkat(&folder, NEW, AtFlags::empty());
            fault::io("failed to write a record", &error)
        })
    }
}
