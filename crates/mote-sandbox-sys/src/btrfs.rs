//! Btrfs' subvolumes, snapshots and quota groups, by its ioctls (`linux/btrfs.h`).
//!
//! It does not mount and does not know what a subvolume is for.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::ioctl::{self, NONE, READ, READ_WRITE, WRITE};

const MAGIC: u8 = 0x94;
/// `struct btrfs_ioctl_vol_args` and `_v2`, and `struct btrfs_ioctl_ino_lookup_args`: one page each.
const PAGE_BYTES: usize = 4096;
/// Bytes of a name in `struct btrfs_ioctl_vol_args_v2` (`BTRFS_SUBVOL_NAME_MAX`), without the closing zero.
pub const NAME_BYTES_MAX: usize = 4039;

const SUBVOLUME_READ_ONLY: u64 = 1 << 1;
const SUBVOLUME_BY_ID: u64 = 1 << 4;
const LIMIT_REFERENCED: u64 = 1 << 0;
const QUOTA_ENABLE: u64 = 1;
const QUOTA_ENABLE_SIMPLE: u64 = 4;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of every subvolume's root.
const SUBVOLUME_ROOT_INODE: u64 = 256;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Arguments {
    descriptor: i64,
    name: [u8; PAGE_BYTES - 8],
}

/// `struct btrfs_ioctl_vol_args_v2`. The last field is a union: a name, or an id in its first eight bytes.
#[repr(C)]
struct Arguments2 {
    descriptor: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_BYTES_MAX + 1],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    tree: u64,
    object: u64,
    name: [u8; PAGE_BYTES - 16],
}

/// Bytes of found items in [`Search`].
const SEARCH_BYTES: usize = PAGE_BYTES - 104;
/// `BTRFS_ROOT_TREE_OBJECTID`: the tree of all trees.
const ROOT_TREE: u64 = 1;
/// `BTRFS_ROOT_REF_KEY`: an item that says which subvolume lies in which.
const ROOT_REFERENCE: u32 = 156;

/// `struct btrfs_ioctl_search_args` with its `struct btrfs_ioctl_search_key`: bounds come in pairs, the least and the most.
#[repr(C)]
struct Search {
    tree: u64,
    object: [u64; 2],
    offset: [u64; 2],
    transaction: [u64; 2],
    kind: [u32; 2],
    items: u32,
    unused: [u32; 9],
    found: [u8; SEARCH_BYTES],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaControl {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args` with its `struct btrfs_qgroup_limit`.
#[repr(C)]
struct Limit {
    group: u64,
    flags: u64,
    referenced_max: u64,
    exclusive_max: u64,
    referenced_reserved: u64,
    exclusive_reserved: u64,
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
struct Information {
    devices: [u64; 2],
    id: [u8; 16],
    rest: [u8; 1024 - 32],
}

/// Which accounting a filesystem's quotas use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Each extent is charged to the subvolume that wrote it first: cheap whatever is snapshotted (Linux 6.7).
    Simple,
    /// Each subvolume is charged for all that it refers to: exact, and slower with every snapshot.
    Full,
}

/// Makes an empty subvolume `name` in the directory. No transaction is committed.
///
/// # Errors
/// The kernel's; `InvalidInput` where the name does not fit.
pub fn create(parent: impl AsFd, name: &str) -> io::Result<()> {
    let mut arguments = Box::new(Arguments { descriptor: 0, name: [0; PAGE_BYTES - 8] });
    copy_name(&mut arguments.name, name)?;
    ioctl::with(parent, ioctl::number::<Arguments>(WRITE, MAGIC, 14), &mut *arguments).map(drop)
}

/// Makes a snapshot `name` in the directory of the subvolume that `source` is the root of. Atomic: what was written before
/// is in it; returns once the transaction is committed.
///
/// # Errors
/// The kernel's; `InvalidInput` where the name does not fit.
pub fn snapshot(source: impl AsFd, parent: impl AsFd, name: &str, read_only: bool) -> io::Result<()> {
    let mut arguments = arguments2(name)?;
    arguments.descriptor = i64::from(source.as_fd().as_raw_fd());
    arguments.flags = if read_only { SUBVOLUME_READ_ONLY } else { 0 };
    ioctl::with(parent, ioctl::number::<Arguments2>(WRITE, MAGIC, 23), &mut *arguments).map(drop)
}

/// Removes the subvolume `name` of the directory with all it holds. Its space is given back later, in the background.
///
/// # Errors
/// The kernel's; `InvalidInput` where the name does not fit.
pub fn destroy(parent: impl AsFd, name: &str) -> io::Result<()> {
    let mut arguments = arguments2(name)?;
    ioctl::with(parent, ioctl::number::<Arguments2>(WRITE, MAGIC, 63), &mut *arguments).map(drop)
}

/// Removes the subvolume with this id from the filesystem that `any` lies on.
///
/// # Errors
/// The kernel's.
pub fn destroy_id(any: impl AsFd, id: u64) -> io::Result<()> {
    let mut arguments = arguments2("")?;
    arguments.flags = SUBVOLUME_BY_ID;
    arguments.name[..8].copy_from_slice(&id.to_ne_bytes());
    ioctl::with(any, ioctl::number::<Arguments2>(WRITE, MAGIC, 63), &mut *arguments).map(drop)
}

/// The id of the subvolume that the file or directory belongs to.
///
/// # Errors
/// The kernel's: `ENOTTY` where it does not lie on btrfs.
pub fn subvolume_id(any: impl AsFd) -> io::Result<u64> {
    let mut lookup = Box::new(Lookup { tree: 0, object: SUBVOLUME_ROOT_INODE, name: [0; PAGE_BYTES - 16] });
    ioctl::with(any, ioctl::number::<Lookup>(READ_WRITE, MAGIC, 18), &mut *lookup)?;
    Ok(lookup.tree)
}

/// Switches accounting on for the whole filesystem. No effect where it is on already in the same manner.
///
/// # Errors
/// The kernel's: `EINVAL` where it does not know the manner, `EEXIST` where another one is on.
pub fn enable_quota(any: impl AsFd, quota: Quota) -> io::Result<()> {
    let command = match quota {
        Quota::Simple => QUOTA_ENABLE_SIMPLE,
        Quota::Full => QUOTA_ENABLE,
    };
    let mut control = QuotaControl { command, status: 0 };
    ioctl::with(any, ioctl::number::<QuotaControl>(READ_WRITE, MAGIC, 40), &mut control).map(drop)
}

/// Bounds what the subvolume may be charged with, in bytes; without a bound where `None`.
///
/// # Errors
/// The kernel's: `ENOTCONN` where accounting is off.
pub fn limit(subvolume: impl AsFd, bytes_max: Option<u64>) -> io::Result<()> {
    let mut limit = Limit {
        // The subvolume of the descriptor itself.
        group: 0,
        flags: LIMIT_REFERENCED,
        // All ones clears a bound.
        referenced_max: bytes_max.unwrap_or(u64::MAX),
        exclusive_max: 0,
        referenced_reserved: 0,
        exclusive_reserved: 0,
    };
    ioctl::with(subvolume, ioctl::number::<Limit>(READ, MAGIC, 43), &mut limit).map(drop)
}

/// Ids of subvolumes that lie directly inside the one with this id: some of them, and none only where there are none.
///
/// # Errors
/// The kernel's.
pub fn nested(any: impl AsFd, id: u64) -> io::Result<Vec<u64>> {
    let mut search = Box::new(Search {
        tree: ROOT_TREE,
        object: [id, id],
        offset: [0, u64::MAX],
        transaction: [0, u64::MAX],
        kind: [ROOT_REFERENCE, ROOT_REFERENCE],
        items: u32::MAX,
        unused: [0; 9],
        found: [0; SEARCH_BYTES],
    });
    ioctl::with(any, ioctl::number::<Search>(READ_WRITE, MAGIC, 17), &mut *search)?;
    Ok(references(&search.found, search.items))
}

/// The subvolumes that found items refer to: an item is a `struct btrfs_ioctl_search_header` (transaction, object, offset of
/// eight bytes each, kind and length of four) and its content; the offset of a reference is the subvolume's id.
fn references(found: &[u8], items: u32) -> Vec<u64> {
    const HEADER_BYTES: usize = 32;
    let (mut ids, mut rest) = (Vec::new(), found);
    for _ in 0..items {
        let Some((header, behind)) = rest.split_at_checked(HEADER_BYTES) else { break };
        let (Ok(offset), Ok(kind), Ok(length)) =
            (header[16..24].try_into(), header[24..28].try_into(), header[28..32].try_into())
        else {
            break;
        };
        if u32::from_ne_bytes(kind) == ROOT_REFERENCE {
            ids.push(u64::from_ne_bytes(offset));
        }
        let Some((_, behind)) = behind.split_at_checked(u32::from_ne_bytes(length) as usize) else { break };
        rest = behind;
    }
    ids
}

/// The filesystem's UUID, its sixteen bytes in order.
///
/// # Errors
/// The kernel's: `ENOTTY` where `any` does not lie on btrfs.
pub fn filesystem_id(any: impl AsFd) -> io::Result<[u8; 16]> {
    let mut information = Box::new(Information { devices: [0; 2], id: [0; 16], rest: [0; 1024 - 32] });
    ioctl::with(any, ioctl::number::<Information>(READ, MAGIC, 31), &mut *information)?;
    Ok(information.id)
}

/// Writes everything dirty of the whole filesystem and commits it.
///
/// # Errors
/// The kernel's.
pub fn sync(any: impl AsFd) -> io::Result<()> {
    ioctl::plain(any, ioctl::number::<()>(NONE, MAGIC, 8)).map(drop)
}

fn arguments2(name: &str) -> io::Result<Box<Arguments2>> {
    let mut arguments =
        Box::new(Arguments2 { descriptor: 0, transaction: 0, flags: 0, unused: [0; 4], name: [0; NAME_BYTES_MAX + 1] });
    copy_name(&mut arguments.name, name)?;
    Ok(arguments)
}

/// Copies a name with at least one zero behind it.
fn copy_name(to: &mut [u8], name: &str) -> io::Result<()> {
    if name.len() >= to.len() || name.bytes().any(|byte| byte == 0 || byte == b'/') {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    to[..name.len()].copy_from_slice(name.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Arguments>(), 4096);
        assert_eq!(size_of::<Arguments2>(), 4096);
        assert_eq!(size_of::<Lookup>(), 4096);
        assert_eq!(size_of::<Search>(), 4096);
        assert_eq!(size_of::<QuotaControl>(), 16);
        assert_eq!(size_of::<Limit>(), 48);
    }

    #[test]
    fn references_are_read_as_far_as_they_are_whole() {
        let item = |id: u64, kind: u32, content: &[u8]| {
            let mut bytes = [0_u8; 16].to_vec();
            bytes.extend(id.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend((content.len() as u32).to_ne_bytes());
            bytes.extend(content);
            bytes
        };
        let all = [item(300, ROOT_REFERENCE, b"name"), item(7, 1, b""), item(301, ROOT_REFERENCE, b"")].concat();
        assert_eq!(references(&all, 3), [300, 301]);
        assert_eq!(references(&all, 1), [300]);
        assert_eq!(references(&all[..40], 3), [300]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let here = std::fs::File::open("/").unwrap();
        for name in ["a/b", "a\0b"] {
            assert_eq!(create(&here, name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(create(&here, &"n".repeat(5000)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
