//! Where the pool lies: in place where the state directory is on btrfs, else in a file that is mounted as btrfs, else in
//! plain directories.
//!
//! It does not look into the pool.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::loop_device;
use rustix::mount::{MountFlags, UnmountFlags};

use super::Backend;
use crate::filesystem::fault;
use crate::limits::{POOL_BYTES_DEFAULT, POOL_BYTES_MIN, POOL_DISK_PERCENT_MAX};

/// `BTRFS_SUPER_MAGIC` (`linux/magic.h`).
const BTRFS_MAGIC: u64 = 0x9123_683e;
/// Bytes of a node of btrfs' trees. A snapshot copies one node and counts a reference for each entry in it: small nodes make
/// it fast (measured with 5,000 files: 1.4 ms at 8 KiB, 3.1 ms at 16 KiB).
const NODE_BYTES: &str = "8192";

/// How the pool is kept.
#[derive(Clone, Debug)]
pub(in crate::filesystem) struct Options {
    /// The state directory: it holds `pool/`, and `pool.img` where the pool is a file.
    pub(in crate::filesystem) state: PathBuf,
    /// A backend that must be used; found by trying where absent.
    pub(in crate::filesystem) backend: Option<Backend>,
    /// Bytes of the pool's file, where one has to be made; by what the disk has left where absent.
    pub(in crate::filesystem) bytes: Option<u64>,
    /// The pool's file survives a crash of the host. Without, a snapshot does not wait for the disk.
    pub(in crate::filesystem) barriers: bool,
    /// This program, which also is what works on trees without privilege.
    pub(in crate::filesystem) program: PathBuf,
}

/// What was prepared.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) backend: Backend,
    /// It was mounted here, and is to be unmounted.
    pub(super) mounted: bool,
    /// The filesystem is the pool's own, so that accounting can be switched on for it.
    pub(super) own: bool,
}

pub(super) fn prepare(options: &Options) -> Result<Found, Failure> {
    let path = options.state.join("pool");
    fs::create_dir_all(&path)
        .and_then(|()| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)))
        .map_err(|error| fault::io(&format!("failed to make {}", path.display()), &error))?;
    let file = options.state.join("pool.img");
    let plain = |path| Found { path, backend: Backend::Plain, mounted: false, own: false };
    if options.backend == Some(Backend::Plain) {
        return Ok(plain(path));
    }
    if is_btrfs(&path).map_err(|error| fault::io(&format!("failed to look at {}", path.display()), &error))? {
        let own = is_mount_point(&path, &options.state);
        return Ok(Found { path, backend: Backend::Btrfs, mounted: own && file.exists(), own });
    }
    if options.backend.is_none() && !is_offered() {
        return Ok(plain(path));
    }
    mount_file(options, &file, &path)?;
    Ok(Found { path, backend: Backend::Btrfs, mounted: true, own: true })
}

/// Unmounts the pool. The loop device frees itself when the last sandbox that uses the pool is gone.
pub(super) fn release(path: &Path) {
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
}

fn mount_file(options: &Options, file: &Path, path: &Path) -> Result<(), Failure> {
    if !file.exists() {
        make_file(file, file_bytes(&options.state, options.bytes)?)?;
    }
    let what = format!("failed to mount {}", file.display());
    let (device, _kept) = match attached(file) {
        Some(device) => (device, None),
        None => {
            let opened = fs::OpenOptions::new().read(true).write(true).open(file);
            let attached = opened.and_then(|opened| {
                // Direct: the file's pages would else be kept twice.
                loop_device::attach(&opened, true).or_else(|_| loop_device::attach(&opened, false))
            });
            let (device, kept) = attached.map_err(|error| fault::io(&what, &error))?;
            (device, Some(kept))
        }
    };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let data = if options.barriers { c"" } else { c"nobarrier" };
    rustix::mount::mount(&device, path, c"btrfs", flags, data).map_err(|error| fault::io(&what, &error.into()))
}

/// How large a pool's file is made: it is sparse, and sandboxes that fill it must not fill the disk that it lies on.
fn file_bytes(state: &Path, asked: Option<u64>) -> Result<u64, Failure> {
    let what = format!("failed to make a pool below {}", state.display());
    let disk = rustix::fs::statvfs(state).map_err(|error| fault::io(&what, &error.into()))?;
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    let bytes = asked.unwrap_or_else(|| POOL_BYTES_DEFAULT.min(left / 100 * POOL_DISK_PERCENT_MAX));
    if bytes > left || bytes < POOL_BYTES_MIN {
        let message = format!("{what}: it would have {bytes} bytes, and the disk has {left} left");
        return Err(Failure::new(Code::NoSpace, message)
            .with("limit", POOL_BYTES_MIN)
            .remedy("free space, give `state` a larger disk, or set `disk` in the configuration"));
    }
    Ok(bytes)
}

/// Makes the pool's file. It gets its name when it is whole.
fn make_file(file: &Path, bytes: u64) -> Result<(), Failure> {
    let new = file.with_extension("img.new");
    let what = format!("failed to make {}", file.display());
    let made = fs::File::create(&new).and_then(|made| {
        made.set_len(bytes)?;
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600))
    });
    made.map_err(|error| fault::io(&what, &error))?;
    let output = Command::new("mkfs.btrfs")
        .args(["--quiet", "--force", "--nodesize", NODE_BYTES, "--metadata", "single", "--data", "single", "--"])
        .arg(&new)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|error| {
            let failure = Failure::new(Code::Unsupported, format!("{what}: failed to run mkfs.btrfs: {error}"));
            failure.with("program", "mkfs.btrfs").remedy(
                "install btrfs-progs (apt install btrfs-progs), or set `filesystem: overlay` in the configuration",
            )
        })?;
    if !output.status.success() {
        let _ = fs::remove_file(&new);
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(Code::Internal, format!("{what}: mkfs.btrfs: {}", said.trim())));
    }
    fs::rename(&new, file).map_err(|error| fault::io(&what, &error))
}

/// The loop device that the file is attached to already: sandboxes of an earlier keeper still live on it. A second device
/// for the same file would corrupt it.
fn attached(file: &Path) -> Option<PathBuf> {
    let file = fs::canonicalize(file).ok()?;
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
        if backing.is_ok_and(|backing| Path::new(backing.trim_end()) == file) {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

/// The folder in sysfs with the numbers of the filesystem's accounting.
pub(super) fn accounting(any: BorrowedFd<'_>) -> Option<PathBuf> {
    let id = mote_sandbox_sys::btrfs::filesystem_id(any).ok()?;
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    Some(Path::new("/sys/fs/btrfs").join(uuid).join("qgroups"))
}

fn is_btrfs(path: &Path) -> io::Result<bool> {
    let statistics = rustix::fs::statfs(path)?;
    #[expect(clippy::cast_sign_loss, reason = "a magic number; its width differs between architectures")]
    Ok(statistics.f_type as u64 == BTRFS_MAGIC)
}

fn is_mount_point(path: &Path, parent: &Path) -> bool {
    matches!((fs::metadata(path), fs::metadata(parent)), (Ok(path), Ok(parent)) if path.dev() != parent.dev())
}

/// Whether this kernel has btrfs, and the program that makes one is there.
fn is_offered() -> bool {
    let kernel = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().last() == Some("btrfs")));
    kernel && Path::new("/dev/loop-control").exists()
}
