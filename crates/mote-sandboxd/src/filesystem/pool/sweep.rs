//! Removing plain directories off the path: they are moved to the trash at once, and a process of their own empties it.
//!
//! It does nothing on btrfs, whose kernel thread does the same for subvolumes.

use std::io;
use std::process::{Command, Stdio};

use rustix::fs::RenameFlags;

use super::{Backend, Folder, Pool, rename};
use crate::filesystem::worker;

impl Pool {
    /// Moves a tree to the trash, under a name of its own.
    pub(super) fn to_trash(&self, folder: Folder, name: &str) -> io::Result<()> {
        let trash = self.folder(Folder::Trash);
        for attempt in 0_u64.. {
            match rename((self.folder(folder), name), (trash, &format!("{name}.{attempt}")), RenameFlags::NOREPLACE) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        Ok(())
    }

    /// [`Self::sweep`] after trees were discarded in passing; what fails is found at the next removal.
    pub(in crate::filesystem) fn sweep_if_needed(&mut self) {
        if self.backend == Backend::Plain {
            let _ = self.sweep();
        }
    }

    /// Has a process of its own empty the trash.
    pub(super) fn sweep(&mut self) -> io::Result<()> {
        if let Some(sweeper) = &mut self.sweeper {
            match sweeper.try_wait() {
                // It goes on until it finds the trash empty, but may just have looked: the next removal starts another.
                Ok(None) => return Ok(()),
                // It ended, or whoever reaps all children of this process did that already.
                Ok(Some(_)) | Err(_) => self.sweeper = None,
            }
        }
        let trash = rustix::io::fcntl_dupfd_cloexec(self.folder(Folder::Trash), 0)?;
        let sweeper = Command::new(&self.program)
            .args([worker::SUBCOMMAND, worker::SWEEP])
            .stdin(Stdio::from(trash))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear()
            .spawn()?;
        self.sweeper = Some(sweeper);
        Ok(())
    }
}
