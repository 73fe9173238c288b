//! The account that sandboxes use by default, made in an image that lacks it: `user`, with a home, and `sudo` where the image
//! has that.
//!
//! It changes no account that is there. Files are replaced by renaming, never written in place: an overlay would first copy
//! them and wait for the disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::limits::{ACCOUNT_FILE_BYTES_MAX, ACCOUNT_IDS_MAX};

/// Name of the account.
pub(crate) const USER: &str = "user";
/// Its id where nobody has that yet; else the first one above that is free.
pub(crate) const USER_ID: u32 = 1000;

/// What Debian's `sudo` reads: the user may become root, who is nobody outside the sandbox.
const SUDO: &str = "user ALL=(ALL:ALL) NOPASSWD: ALL\n";
/// Where there are no accounts at all.
const ROOT_ACCOUNT: &str = "root:x:0:0:root:/root:/bin/sh\n";
const ROOT_GROUP: &str = "root:x:0:\n";

/// Makes the account below `root`, which is `/` but in tests, unless it is there.
pub(crate) fn provide(root: &Path) -> io::Result<()> {
    // Two operations may need it at once.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |path: &str| root.join(path);
    let (passwd, group) = (text(&at("etc/passwd"))?, text(&at("etc/group"))?);
    if names(&passwd).any(|name| name == USER) {
        return Ok(());
    }
    let taken = |id: u32| ids(&passwd).chain(ids(&group)).any(|other| other == id);
    let id = (USER_ID..ACCOUNT_IDS_MAX).find(|id| !taken(*id)).ok_or(io::ErrorKind::StorageFull)?;
    let gid = group_id(&group).unwrap_or(id);
    fs::create_dir_all(at("etc"))?;
    fs::create_dir_all(at("home"))?;
    let home = at("home/user");
    match fs::DirBuilder::new().mode(0o755).create(&home) {
        Ok(()) => chown(&home, Some(id), Some(gid))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    if group_id(&group).is_none() {
        replace(&at("etc/group"), &appended(&group, ROOT_GROUP, &format!("{USER}:x:{gid}:\n")))?;
    }
    if let Ok(shadow) = text(&at("etc/shadow"))
        && !shadow.is_empty()
        && !names(&shadow).any(|name| name == USER)
    {
        replace(&at("etc/shadow"), &appended(&shadow, "", &format!("{USER}:*:19000:0:99999:7:::\n")))?;
    }
    if at("usr/bin/sudo").exists() && at("etc/sudoers.d").is_dir() {
        let path = at("etc/sudoers.d/mote-user");
        fresh(&path, 0o440)?.write_all(SUDO.as_bytes())?;
    }
    let shell = if at("bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    // Last: who finds the account finds all that belongs to it.
    let line = format!("{USER}:x:{id}:{gid}::/home/user:{shell}\n");
    replace(&at("etc/passwd"), &appended(&passwd, ROOT_ACCOUNT, &line))
}

fn names(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter_map(|line| line.split(':').next())
}

fn ids(file: &str) -> impl Iterator<Item = u32> {
    file.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok())
}

fn group_id(group: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(USER)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The file with a line more. Where it is empty it begins with `first`.
fn appended(file: &str, first: &str, line: &str) -> String {
    let before = if file.is_empty() { first } else { file };
    let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{end}{line}")
}

/// What a regular file holds; nothing where there is none. One that is too long is refused: a part of it must not replace it.
fn text(path: &Path) -> io::Result<String> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = String::new();
    file.take(ACCOUNT_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > ACCOUNT_FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Puts a file with this text in the place of the one that is there, with that one's owner and mode.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let like = fs::metadata(path).ok();
    let new = PathBuf::from(format!("{}.mote", path.display()));
    let mut file = fresh(&new, 0o644)?;
    file.write_all(text.as_bytes())?;
    if let Some(like) = like {
        std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
    }
    fs::rename(&new, path)
}

fn fresh(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    // Past the process's umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn image(passwd: &str, group: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["etc/sudoers.d", "usr/bin", "bin"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        fs::write(root.path().join("etc/group"), group).unwrap();
        root
    }

    fn read(root: &tempfile::TempDir, path: &str) -> String {
        fs::read_to_string(root.path().join(path)).unwrap()
    }

    #[test]
    fn an_image_without_the_account_gets_it_with_all_that_belongs_to_it() {
        let root = image("root:x:0:0::/root:/bin/sh", "root:x:0:\n");
        fs::write(root.path().join("etc/shadow"), "root:*:::::::\n").unwrap();
        fs::set_permissions(root.path().join("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(root.path().join("usr/bin/sudo"), "").unwrap();
        provide(root.path()).unwrap();
        assert_eq!(read(&root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n");
        assert_eq!(read(&root, "etc/group"), "root:x:0:\nuser:x:1000:\n");
        assert!(read(&root, "etc/shadow").ends_with("\nuser:*:19000:0:99999:7:::\n"));
        let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("etc/shadow"), mode("etc/sudoers.d/mote-user"), mode("home/user")), (0o640, 0o440, 0o755));
        let before = read(&root, "etc/passwd");
        provide(root.path()).unwrap();
        assert_eq!(read(&root, "etc/passwd"), before, "once is enough");
    }

    #[test]
    fn an_id_that_is_taken_is_left_to_whoever_has_it() {
        let root =
            image("root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n", "node:x:1000:\nstaff:x:1001:\n");
        provide(root.path()).unwrap();
        assert!(read(&root, "etc/passwd").ends_with("user:x:1002:1002::/home/user:/bin/sh\n"));
        assert!(!root.path().join("etc/sudoers.d/mote-user").exists(), "there is no sudo");
    }

    #[test]
    fn an_image_with_nothing_gets_root_and_the_account_and_one_that_has_it_is_left_alone() {
        let empty = tempfile::tempdir().unwrap();
        provide(empty.path()).unwrap();
        assert_eq!(read(&empty, "etc/passwd").lines().count(), 2);
        let text = "user:x:7:7::/srv:/bin/false\n";
        let root = image(text, "");
        provide(root.path()).unwrap();
        assert_eq!(read(&root, "etc/passwd"), text);
        assert!(!root.path().join("home").exists());
    }
}
