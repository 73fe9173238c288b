//! The block device under a directory, for the bound on a sandbox's input and output.
//!
//! It finds one device: a filesystem over several is bounded on the one that is named first.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::cgroup::Device;

/// The device of the filesystem that a directory is on, where it has one.
pub(super) fn under(folder: &Path) -> Option<Device> {
    let device = std::fs::metadata(folder).ok()?.dev();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let direct = Device { major: rustix::fs::major(device), minor: rustix::fs::minor(device) };
    if direct.major != 0 {
        return Some(direct);
    }
    // btrfs numbers its subvolumes as devices that do not exist; the mount names the one that does.
    let mount = mounts.lines().filter_map(Mount::parse).filter(|mount| folder.starts_with(mount.point));
    let source = mount.max_by_key(|mount| mount.point.len())?.source;
    let source = std::fs::metadata(source).ok().filter(|found| found.file_type().is_block_device())?;
    Some(Device { major: rustix::fs::major(source.rdev()), minor: rustix::fs::minor(source.rdev()) })
}

struct Mount<'a> {
    point: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        Some(Self { point: left.split(' ').nth(4)?, source: right.split(' ').nth(1)? })
    }
}
