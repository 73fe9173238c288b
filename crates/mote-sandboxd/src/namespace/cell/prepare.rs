//! The cell's process before its orders: its own small root, with all the mounts that every sandbox has.
//!
//! It makes nothing that depends on which sandbox the cell will serve.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::RUNTIME_FOLDER;
use mote_sandbox_sys::mount::{Attributes, add_attributes};
use mote_sandbox_sys::process::{self, SingleThreaded};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::UnshareFlags;

use super::super::file::{failed, write};
use super::super::identity::{self, Slot};
use super::super::mounts;
use super::orders::{Orders, Report};
use super::{Mould, group};
use crate::keeper::wire;
use crate::limits::{OOM_SCORE, RUNTIME_BYTES_MAX, TERMINALS_MAX};

/// The cell as its own process sees it.
#[derive(Debug)]
pub struct Inside<'a> {
    /// To the keeper.
    pub control: &'a OwnedFd,
    /// The user namespace that it enters last.
    pub users: &'a OwnedFd,
    /// What it is made with.
    pub mould: &'a Mould,
    /// Its range of ids.
    pub slot: Slot,
    /// Its network leads to the daemon's sockets.
    pub network: bool,
}

/// Device nodes that a sandbox has, bound from the host's: making nodes needs a privilege that nothing inside has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// What `/proc` shows of the host beyond processes: files are covered by the null device, directories by nothing at all.
const HIDDEN: [&str; 16] = [
    "acpi",
    "asound",
    "config.gz",
    "driver",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
];
/// What can be seen of `/proc` but not written, whoever asks.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// What of `/sys` is there, read-only: programs count processors here.
const SYSTEM: [&str; 2] = ["devices/system/cpu", "devices/system/node"];

const NO_EXECUTION: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

impl Inside<'_> {
    /// Prepares, waits for orders, and follows them. Returns only where something failed, or where the keeper is gone.
    ///
    /// # Errors
    /// What failed; it has been reported.
    pub fn live(&self, proof: &SingleThreaded) -> Result<(), Failure> {
        let result = self.prepare().and_then(|sockets| {
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            wire::send(self.control, &Report::Prepared, &sockets).map_err(|error| failed("report", error))
        });
        if let Err(failure) = result.and_then(|()| self.follow(proof)) {
            // Where the keeper is gone nobody is left to tell.
            let _ = wire::send(self.control, &Report::Failed(failure.clone()), &[]);
            return Err(failure);
        }
        Ok(())
    }

    fn follow(&self, proof: &SingleThreaded) -> Result<(), Failure> {
        match wire::receive::<Orders>(self.control) {
            Ok((orders, descriptors)) => self.enter(proof, &orders, descriptors),
            Err(error) => Err(failed("read a cell's orders", error)),
        }
    }

    /// First host id of the range.
    pub(super) const fn first_id(&self) -> u32 {
        identity::first_id(self.mould.uid_base, self.slot)
    }

    fn prepare(&self) -> Result<Vec<OwnedFd>, Failure> {
        self.mould.groups.enter(&group(self.slot))?;
        process::unshare(UnshareFlags::NEWCGROUP).map_err(|error| failed("make a cgroup namespace", error))?;
        write(Path::new("/proc/self/oom_score_adj"), OOM_SCORE)?;
        let _ = rustix::process::setsid();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(|error| failed("make the mounts private", error))?;
        let sockets = if self.network {
            crate::network::keeper::prepare_with(self.mould.rules.as_ref())?
        } else {
            crate::network::keeper::isolate()?;
            Vec::new()
        };
        self.network_settings()?;
        let devices = host_devices()?;
        let system = host_system()?;
        let bounds = self.own_bounds()?;
        self.own_root()?;
        self.devices(devices)?;
        processes()?;
        for (path, tree) in system.into_iter().chain(bounds) {
            let at = format!("/sys/{path}");
            make_folder(&at)?;
            mounts::put(&tree, &at).map_err(|error| failed(format_args!("mount {at}"), error))?;
        }
        self.mould.view.place(self.first_id())?;
        Ok(sockets)
    }

    /// The cell's own cgroups, read-only, for below `/sys`. Seen from its cgroup namespace they are the root: nothing of the
    /// host's stands in them or above.
    fn own_bounds(&self) -> Result<Vec<(String, OwnedFd)>, Failure> {
        let mut trees = Vec::new();
        for (place, folder) in self.mould.groups.shown(&group(self.slot)) {
            let failed = |error: Errno| failed(format_args!("show the cgroup {}", folder.display()), error);
            let tree = mounts::copy(&folder).map_err(failed)?;
            mounts::restrict(&tree, true).map_err(failed)?;
            trees.push((format!("fs/cgroup/{place}").trim_end_matches('/').to_owned(), tree));
        }
        Ok(trees)
    }

    /// Any port may be listened on, and any group may send echo requests: the namespace is the sandbox's alone.
    fn network_settings(&self) -> Result<(), Failure> {
        let first = self.first_id();
        let last = first + (crate::limits::RANGE_IDS - 1);
        write(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0")?;
        write(Path::new("/proc/sys/net/ipv4/ping_group_range"), &format!("{first} {last}"))
    }

    /// Exchanges the host's root for an empty one, in which the sandbox's mounts wait.
    fn own_root(&self) -> Result<(), Failure> {
        let failed = |error: Errno| failed("make a cell's root", error);
        let root = mounts::make("tmpfs", &[("mode", "0755"), ("size", RUNTIME_BYTES_MAX)], NO_EXECUTION)?;
        mounts::put(&root, &self.mould.foothold).map_err(failed)?;
        rustix::process::chdir(&self.mould.foothold).map_err(failed)?;
        exchange_root()?;
        for folder in ["/root", "/layers", "/upper", "/dev", "/proc", "/sys", "/files"] {
            make_folder(folder)?;
        }
        let owner = self.first_id().to_string();
        let owned = [("mode", "0755"), ("size", RUNTIME_BYTES_MAX), ("uid", &owner), ("gid", &owner)];
        for (folder, attributes) in [
            ("/sys", NO_EXECUTION),
            ("/files", NO_EXECUTION),
            ("/dev", MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC),
        ] {
            let tree = mounts::make("tmpfs", &owned, attributes)?;
            mounts::put(&tree, folder).map_err(failed)?;
        }
        make_folder("/files/runtime")
    }

    fn devices(&self, devices: Vec<(&'static str, OwnedFd)>) -> Result<(), Failure> {
        let failed = |error: Errno| failed("make /dev", error);
        for (name, node) in devices {
            let at = format!("/dev/{name}");
            std::fs::write(&at, "").map_err(|error| super::super::file::failed(format_args!("make {at}"), error))?;
            mounts::put(&node, &at).map_err(failed)?;
        }
        for (to, name) in LINKS {
            rustix::fs::symlink(to, format!("/dev/{name}")).map_err(failed)?;
        }
        make_folder("/dev/pts")?;
        make_folder("/dev/shm")?;
        let first = self.first_id();
        let (terminals, owner) = (TERMINALS_MAX.to_string(), first.to_string());
        // Group 5 is `tty` in Debian and its relatives.
        let group = (first + 5).to_string();
        let options = [("mode", "0620"), ("ptmxmode", "0666"), ("gid", &group), ("max", &terminals)];
        let suid_exec = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let pts = mounts::make("devpts", &options, suid_exec)?;
        mounts::put(&pts, "/dev/pts").map_err(failed)?;
        let options = [("mode", "1777"), ("uid", owner.as_str()), ("gid", &owner)];
        let shared =
            mounts::make("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)?;
        mounts::put(&shared, "/dev/shm").map_err(failed)
    }
}

/// Makes the current directory, a mount, the root, and lets go of the one before.
pub(super) fn exchange_root() -> Result<(), Failure> {
    let failed = |error: Errno| failed("exchange the root", error);
    rustix::process::pivot_root(".", ".").map_err(failed)?;
    unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}

pub(super) fn make_folder(path: &str) -> Result<(), Failure> {
    let mut so_far = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        so_far.push('/');
        so_far.push_str(part);
        match rustix::fs::mkdir(&so_far, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(format_args!("make {so_far}"), error)),
        }
    }
    Ok(())
}

fn host_devices() -> Result<Vec<(&'static str, OwnedFd)>, Failure> {
    let open = |name: &'static str| {
        let tree =
            mounts::copy(format!("/dev/{name}")).map_err(|error| failed(format_args!("open /dev/{name}"), error))?;
        Ok((name, tree))
    };
    DEVICES.into_iter().map(open).collect()
}

fn host_system() -> Result<Vec<(String, OwnedFd)>, Failure> {
    let mut trees = Vec::new();
    for path in SYSTEM {
        match mounts::copy(format!("/sys/{path}")) {
            Ok(tree) => {
                mounts::restrict(&tree, true).map_err(|error| failed(format_args!("restrict /sys/{path}"), error))?;
                trees.push((path.to_owned(), tree));
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(format_args!("open /sys/{path}"), error)),
        }
    }
    Ok(trees)
}

/// `/proc` of the cell's own processes. It is owned by the host's root, whom nobody inside is.
fn processes() -> Result<(), Failure> {
    let tree = mounts::make("proc", &[], NO_EXECUTION)?;
    mounts::put(&tree, "/proc").map_err(|error| failed("mount /proc", error))?;
    let empty = [("mode", "0555"), ("size", "4k"), ("nr_inodes", "1")];
    for name in HIDDEN {
        let at = format!("/proc/{name}");
        let Ok(there) = rustix::fs::lstat(&at) else { continue };
        let cover = if rustix::fs::FileType::from_raw_mode(there.st_mode).is_dir() {
            mounts::make("tmpfs", &empty, NO_EXECUTION | MountAttrFlags::MOUNT_ATTR_RDONLY)?
        } else {
            mounts::copy("/dev/null").map_err(|error| failed(format_args!("hide {at}"), error))?
        };
        mounts::put(&cover, &at).map_err(|error| failed(format_args!("hide {at}"), error))?;
    }
    for name in READ_ONLY {
        let at = format!("/proc/{name}");
        let tree = match mounts::copy(&at) {
            Err(Errno::NOENT) => continue,
            tree => tree.map_err(|error| failed(format_args!("open {at}"), error))?,
        };
        add_attributes(&tree, Attributes::READ_ONLY, true)
            .and_then(|()| mounts::put(&tree, &at))
            .map_err(|error| failed(format_args!("make {at} read-only"), error))?;
    }
    Ok(())
}

/// Where the runtime's files wait, before they stand at [`RUNTIME_FOLDER`].
pub(super) const RUNTIME_WAITS: &str = "/files/runtime";

const _: () = assert!(RUNTIME_FOLDER.len() > 1, "the folder is below the root");
