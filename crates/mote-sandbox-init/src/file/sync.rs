//! Writing everything dirty to the filesystems of the sandbox, and to no other of the host.
//!
//! It does not touch what has no disk behind it.

use rustix::fs::{Mode, OFlags, open, syncfs};

use crate::failure::{Result, failed};

/// Filesystems that keep nothing.
const VOLATILE: [&str; 8] = ["proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "mqueue", "cgroup", "cgroup2"];

/// Writes the root and everything mounted writable below it.
pub(crate) fn sync() -> Result<()> {
    sync_one("/")?;
    // Without /proc there is only the root.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for place in mounts.lines().filter_map(place_to_sync) {
        sync_one(&place)?;
    }
    Ok(())
}

fn sync_one(place: &str) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mount = open(place, flags, Mode::empty()).map_err(|errno| failed(format_args!("open {place:?}"), errno))?;
    syncfs(&mount).map_err(|errno| failed(format_args!("write {place:?} to its disk"), errno))
}

/// The mount point of a line of `mountinfo` (`proc_pid_mountinfo(5)`) that has to be written.
fn place_to_sync(line: &str) -> Option<String> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(4);
    let (place, options) = (fields.next()?, fields.next()?);
    let kind = filesystem.split(' ').next()?;
    let is_due = place != "/" && options.split(',').any(|option| option == "rw") && !VOLATILE.contains(&kind);
    is_due.then(|| unescape(place))
}

/// Spaces and a few others stand as three octal digits after a backslash.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_mounts_with_a_disk_are_written() {
        let due = |line: &str| place_to_sync(line);
        assert_eq!(
            due("36 35 98:0 / /data\\040one rw,noatime shared:1 - btrfs /dev/loop0 rw"),
            Some("/data one".into())
        );
        assert_eq!(due("36 35 98:0 / /data ro,noatime - btrfs /dev/loop0 rw"), None);
        assert_eq!(due("36 35 98:0 / /proc rw - proc proc rw"), None);
        assert_eq!(due("36 35 98:0 / / rw - overlay overlay rw"), None);
        assert_eq!(due("cut"), None);
    }
}
