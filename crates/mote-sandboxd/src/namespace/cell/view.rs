//! The files that stand where programs look for memory and processors: `/proc/meminfo`, `/proc/cpuinfo`, `/proc/stat` and
//! `/sys/devices/system/cpu/online`.
//!
//! They begin with what the host says, of which the first process makes what is so for the sandbox: it gets their directory. On
//! their places they are read-only for everybody. It does not know the sandbox's bounds.

use std::os::fd::OwnedFd;
use std::path::Path;

use mote_sandbox_api::error::Failure;

use super::super::file::{failed, read};
use super::super::mounts;
use super::prepare::make_folder;
use crate::limits::VIEW_FILE_BYTES_MAX;

/// Each file's name in the directory, and its place.
const FILES: [(&str, &str); 4] = [
    ("meminfo", "/proc/meminfo"),
    ("cpuinfo", "/proc/cpuinfo"),
    ("stat", "/proc/stat"),
    ("online", "/sys/devices/system/cpu/online"),
];
/// The directory, in the cell's own root.
const FOLDER: &str = "/files/view";

/// What the host says.
#[derive(Debug)]
pub struct Host(Vec<(&'static str, &'static str, String)>);

impl Host {
    /// Reads the files of the host that are there; of several processors, the first one's part. Once for all cells: what the first
    /// process takes of them does not change.
    ///
    /// # Errors
    /// `internal` where a file cannot be read.
    pub fn read() -> Result<Self, Failure> {
        let there = FILES.into_iter().filter(|(_, place)| Path::new(place).exists());
        let read = |(name, place)| {
            let mut text: String = read(Path::new(place))?;
            if name == "cpuinfo" {
                text.truncate(text.find("\n\n").map_or(text.len(), |end| end + 2));
            }
            text.truncate(text.floor_char_boundary(VIEW_FILE_BYTES_MAX));
            Ok((name, place, text))
        };
        there.map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Puts the files on their places; `owner` is the first process's id on the host.
    pub(super) fn place(&self, owner: u32) -> Result<(), Failure> {
        make_folder(FOLDER)?;
        for (name, place, text) in &self.0 {
            let path = format!("{FOLDER}/{name}");
            std::fs::write(&path, text).map_err(|error| failed(format_args!("write {path}"), error))?;
            std::os::unix::fs::chown(&path, Some(owner), Some(owner))
                .map_err(|error| failed(format_args!("give {path} away"), error))?;
            let file = mounts::copy(&path).map_err(|error| failed(format_args!("open {path}"), error))?;
            mounts::restrict(&file, true)
                .and_then(|()| mounts::put(&file, *place))
                .map_err(|error| failed(format_args!("show {place}"), error))?;
        }
        Ok(())
    }
}

/// The directory, for the first process: from here the files can be written. It is a mount of its own, so that nothing above it is
/// reached through the descriptor.
pub(super) fn folder() -> Result<OwnedFd, Failure> {
    mounts::copy(FOLDER).map_err(|error| failed("open the files of the view", error))
}
