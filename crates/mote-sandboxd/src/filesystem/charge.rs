//! What trees are charged with, from btrfs' accounting.
//!
//! It says nothing on plain directories: there is no accounting, and walking a tree is not worth a number.

use std::fs;
use std::io::Write;

use mote_sandbox_api::error::Failure;
use mote_sandbox_sys::btrfs;
use rustix::fs::{Mode, OFlags};

use super::fault;
use super::id::Id;
use super::keeper::{Keeper, Outcome};
use super::pool::Folder;
use super::record::Record;
use super::roots::make_folder;

/// Inside a volume's tree: what is mounted. Beside it stands the record.
const FILES: &str = "files";

impl Keeper {
    pub(super) fn volume_new(&self, volume: &Id, quota_bytes: Option<u64>) -> Result<Outcome, Failure> {
        let draft = self.pool.begin(Folder::Volumes, volume)?;
        // Any user of a sandbox may write at its top, as in /tmp.
        make_folder(draft.directory(), FILES, 0o1777)?;
        Record { quota_bytes, ..Record::default() }.write(draft.directory())?;
        draft.limit(quota_bytes)?;
        draft.publish()?;
        Ok(Outcome::Done)
    }

    /// Where a volume's content lies, to be mounted.
    ///
    /// # Errors
    /// `not_found` where there is no such volume.
    pub fn volume(&self, name: &str) -> Result<std::path::PathBuf, Failure> {
        Ok(self.existing(Folder::Volumes, &Id::new("volume", name)?)?.join(FILES))
    }

    pub(super) fn usage(&self, sandbox: &Id) -> Result<Outcome, Failure> {
        let record = Record::read(&self.existing(Folder::Roots, sandbox)?)?;
        let bytes = self.charged(sandbox)?;
        let bytes_max = record.quota_bytes.filter(|_| self.pool.quota().is_some());
        Ok(Outcome::Usage { bytes, bytes_max })
    }

    pub(super) fn snapshot_usage(&self, snapshot: &Id) -> Result<Outcome, Failure> {
        self.existing(Folder::Snapshots, snapshot)?;
        Ok(Outcome::Usage { bytes: self.own_charge(Folder::Snapshots, snapshot)?, bytes_max: None })
    }

    /// What a root is charged with, what it inherited included.
    pub(super) fn charged(&self, sandbox: &Id) -> Result<Option<u64>, Failure> {
        let inherited = Record::read(&self.pool.path(Folder::Roots, sandbox))?.inherited_bytes;
        Ok(self.own_charge(Folder::Roots, sandbox)?.map(|own| own.saturating_add(inherited)))
    }

    /// What the accounting charges a tree alone with.
    fn own_charge(&self, folder: Folder, id: &Id) -> Result<Option<u64>, Failure> {
        if self.pool.quota().is_none() {
            return Ok(None);
        }
        let tree = self.pool.open_tree(folder, id)?;
        let number = btrfs::subvolume_id(&tree)
            .map_err(|error| fault::io(&format!("failed to find the subvolume of {id}"), &error))?;
        // The kernel offers the same numbers by a search of its quota tree; a file is simpler to read.
        let file = self.pool.accounting().join(format!("0_{number}")).join("referenced");
        Ok(fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()))
    }

    pub(super) fn write_charge(&self, snapshot: &Id, bytes: u64) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = self.pool.folder(Folder::Charges);
        rustix::fs::openat(folder, snapshot.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(std::io::Error::from)
            .and_then(|file| fs::File::from(file).write_all(bytes.to_string().as_bytes()))
            .map_err(|error| fault::io(&format!("failed to note what snapshot {snapshot} is charged with"), &error))
    }

    /// What was charged when the snapshot was taken; none where it was not noted before a crash.
    pub(super) fn read_charge(&self, snapshot: &Id) -> Option<u64> {
        fs::read_to_string(self.pool.path(Folder::Charges, snapshot)).ok()?.parse().ok()
    }
}
