//! Removing plain directories off the path: they are moved to the trash at once, and a process of their own empties it.
//!
//! It does nothing on btrfs, whose kernel thread does the same for subvolumes.

use std::io;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, RenameFlags};

use super::{Folder, Pool, names, rename};
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

    /// Has a process of its own empty the trash.
    pub(super) fn sweep(&mut self) -> io::Result<()> {
        if let Some(sweeper) = &mut self.sweeper {
            match sweeper.try_wait()? {
                // It goes on until it finds the trash empty, but may just have looked: the next removal starts another.
                None => return Ok(()),
                Some(_) => self.sweeper = None,
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

/// Empties the folder; what is moved there meanwhile too.
///
/// # Errors
/// The first that a removal met.
pub(in crate::filesystem) fn empty(trash: &std::os::fd::OwnedFd) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    loop {
        let found = names(trash.as_fd())?;
        if found.is_empty() {
            return Ok(());
        }
        for name in found {
            let removed = match rustix::fs::unlinkat(trash, &name, AtFlags::empty()) {
                Err(rustix::io::Errno::ISDIR) => {
                    use std::os::fd::AsRawFd as _;
                    // Follows no link, whatever the tree holds.
                    std::fs::remove_dir_all(format!("/proc/self/fd/{}/{name}", trash.as_raw_fd()))
                }
                result => result.map_err(io::Error::from),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
}
