//! Acting in a user's name: all ids of a thread at once, or only those that file access is checked against.
//!
//! It changes the calling thread alone, as the kernel does; the C library would change every thread of the process. It
//! does not read accounts: numbers come from the caller.

use rustix::io::Errno;

use crate::checked;

/// Who a user is, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Identity {
    /// Makes the calling thread this user in every respect. There is no way back for a user other than root.
    ///
    /// It allocates nothing and is safe in a child that shares its parent's memory.
    ///
    /// # Errors
    /// The kernel's: no privilege, or an id that is not mapped here (`INVAL`).
    pub fn assume_all(&self) -> Result<(), Errno> {
        self.assume_groups()?;
        // SAFETY: takes numbers.
        checked(unsafe { libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid) })?;
        // SAFETY: takes numbers.
        checked(unsafe { libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) }).map(drop)
    }

    /// Makes the calling thread this user for what it does with files from now on. For a user other than root the kernel
    /// sets aside the thread's file capabilities, too.
    ///
    /// # Errors
    /// The kernel's, or `PERM` where it did not do it (these calls report no error of their own).
    pub fn assume_for_files(&self) -> Result<(), Errno> {
        self.assume_groups()?;
        set_filesystem_id(libc::SYS_setfsgid, self.gid)?;
        set_filesystem_id(libc::SYS_setfsuid, self.uid)
    }

    fn assume_groups(&self) -> Result<(), Errno> {
        // SAFETY: the list lives, and its length is given.
        checked(unsafe { libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()) }).map(drop)
    }
}

/// Sets one of the two ids, and reads it back: the call answers the id before, whether it worked or not.
fn set_filesystem_id(call: libc::c_long, id: u32) -> Result<(), Errno> {
    // SAFETY: takes a number.
    unsafe { libc::syscall(call, id) };
    // SAFETY: takes a number; one that is no id changes nothing.
    let now = unsafe { libc::syscall(call, u32::MAX) };
    if now == libc::c_long::from(id) { Ok(()) } else { Err(Errno::PERM) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn files_are_used_in_the_users_name_on_this_thread_only() {
        assert!(rustix::process::getuid().is_root(), "this test needs root");
        let folder = std::env::temp_dir().join(format!("mote-identity-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = folder.join("made");
        let (result, shadow) = std::thread::scope(|scope| {
            let user = scope.spawn(|| {
                Identity { uid: 65_534, gid: 65_533, groups: vec![65_532] }.assume_for_files().unwrap();
                std::fs::write(&path, "x").unwrap();
                (std::fs::metadata(&path).unwrap(), std::fs::read("/etc/shadow"))
            });
            user.join().unwrap()
        });
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((result.uid(), result.gid()), (65_534, 65_533));
        assert!(shadow.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied));
        assert!(std::fs::read("/etc/shadow").is_ok(), "this thread is still root");
    }
}
