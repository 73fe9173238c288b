//! What the keeper notes about each living sandbox, in the run directory, so that the next keeper finds it.
//!
//! It is no state of the daemon's: a record says only what is needed to freeze, end and clean up.

use std::path::{Path, PathBuf};

use mote_sandbox_api::error::Failure;
use serde::{Deserialize, Serialize};

use super::cgroup::Meter;
use super::file::{failed, read};
use super::identity::Slot;

/// Name of a record in a sandbox's folder.
const RECORD: &str = "record.json";
/// Name of the socket at which a sandbox's first process serves.
const SOCKET: &str = "guest.sock";

/// A living sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its range of ids, and the name of its cgroups.
    pub slot: Slot,
    /// Its first process.
    pub pid: u32,
    /// When that started, in ticks since boot: another process with this number is another.
    pub started: u64,
    /// It has a network.
    pub network: bool,
    /// Where its use can be read.
    pub meter: Meter,
}

/// Folder of a sandbox.
#[must_use]
pub fn folder(run: &Path, id: &str) -> PathBuf {
    run.join("sandboxes").join(id)
}

/// Socket of a sandbox.
#[must_use]
pub fn socket(run: &Path, id: &str) -> PathBuf {
    folder(run, id).join(SOCKET)
}

impl Record {
    /// Notes it.
    ///
    /// # Errors
    /// `internal` where the file cannot be written.
    pub fn write(&self, run: &Path) -> Result<(), Failure> {
        let path = folder(run, &self.id).join(RECORD);
        let text = serde_json::to_vec(self).map_err(|error| failed("note a sandbox", error))?;
        std::fs::write(&path, text).map_err(|error| failed(format_args!("write {}", path.display()), error))
    }

    /// Reads what an earlier keeper noted about a sandbox.
    ///
    /// # Errors
    /// `internal` where there is no record, or none that can be read.
    pub fn read(run: &Path, id: &str) -> Result<Self, Failure> {
        let path = folder(run, id).join(RECORD);
        serde_json::from_str(&read(&path)?).map_err(|error| failed(format_args!("read {}", path.display()), error))
    }
}

/// Ids of the sandboxes that have a folder.
///
/// # Errors
/// `internal` where the run directory cannot be read.
pub fn ids(run: &Path) -> Result<Vec<String>, Failure> {
    let folder = run.join("sandboxes");
    let entries =
        std::fs::read_dir(&folder).map_err(|error| failed(format_args!("read {}", folder.display()), error))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// When a process started, in ticks since boot (field 22 of `/proc/PID/stat`); `None` where there is no such process.
#[must_use]
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_start_and_a_number_that_is_not_in_use_none() {
        let own = start_of(std::process::id());
        assert!(own.is_some_and(|ticks| ticks > 0));
        assert_eq!(own, start_of(std::process::id()));
        assert_eq!(start_of(u32::MAX), None);
    }
}
