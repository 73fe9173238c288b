//! The cell's process after its orders: it builds the root, enters it and its user namespace, and becomes the first process.
//!
//! The order matters: the root is built with the host's privilege, in namespaces that belong to the host, and the user
//! namespace comes last, so that nothing inside may ever mount or change the network. It does not come back.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::RUNTIME_FOLDER;
use mote_sandbox_sys::mount::{Attributes, add_attributes};
use mote_sandbox_sys::process::{self, SingleThreaded};
use mote_sandbox_sys::{credentials, keyring};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::LinkNameSpaceType;

use super::super::file::failed;
use super::super::mounts::{self, Root};
use super::super::{capability, program};
use super::orders::Orders;
use super::prepare::{Inside, RUNTIME_WAITS, exchange_root, make_folder};
use super::view;
use crate::limits::{CORE_BYTES, OPEN_FILES_MAX};

/// Environment of the first process; what others get is the daemon's and the image's matter.
const ENVIRONMENT: [&CStr; 1] = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
/// Descriptor of the socket at which the first process serves.
const LISTENER: i32 = 3;
/// Descriptor of the directory with the files that show the sandbox's bounds, and the argument that tells of it.
const VIEW: i32 = 4;
const VIEW_OPTION: &CStr = c"--view";

impl Inside<'_> {
    /// Follows the orders. Returns only where something failed.
    pub(super) fn enter(
        &self,
        proof: &SingleThreaded,
        orders: &Orders,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let short = || Failure::new(Code::Internal, "a cell's orders come without their descriptors");
        let mut trees = descriptors.into_iter();
        let lower: Vec<OwnedFd> = trees.by_ref().take(orders.lower).collect();
        let upper = trees.next().ok_or_else(short)?;
        let bound: Vec<OwnedFd> = trees.by_ref().take(orders.bound.len()).collect();
        let extra: Vec<OwnedFd> = trees.by_ref().take(orders.mounts.len()).collect();
        let listener = trees.next().ok_or_else(short)?;

        rustix::system::sethostname(orders.hostname.as_bytes()).map_err(|error| failed("set the hostname", error))?;
        self.write_files(&orders.hostname)?;
        if let Some(bytes) = orders.shared_bytes {
            mounts::resize("/dev/shm", bytes).map_err(|error| failed("bound /dev/shm", error))?;
        }
        // Overlay keeps the credentials of whom mounts it, and works in its directories with them: they must exist in the
        // range that the layers are mapped to. The capabilities stay.
        let first = self.first_id();
        let (user, group) = (Uid::from_raw(first), Gid::from_raw(first));
        credentials::set_file_ids(user, group).map_err(|error| failed("set the ids for files", error))?;
        capability::raise_all().map_err(|error| failed("keep capabilities", error))?;
        let root = mount_root(orders, &lower, &upper)?;
        place_bound(&root, orders, bound)?;
        place_own(&root)?;
        place_extra(&root, orders, extra)?;
        drop(root);
        let view = view::folder()?;
        rustix::process::chdir("/root").map_err(|error| failed("enter the root", error))?;
        exchange_root()?;
        self.become_first(proof, &listener, &view)
    }

    /// The files that every image has in a version of its own.
    fn write_files(&self, hostname: &str) -> Result<(), Failure> {
        let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {hostname}\n");
        let resolver = if self.network { crate::network::keeper::RESOLV_CONF } else { "# no network\n" };
        // One for each start, as a machine's.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .map_err(|error| failed("make an id of this start", error))?;
        for (name, text) in [
            ("hosts", hosts.as_str()),
            ("hostname", &format!("{hostname}\n")),
            ("resolv.conf", resolver),
            ("boot_id", &boot_id),
        ] {
            let path = format!("/files/{name}");
            std::fs::write(&path, text).map_err(|error| failed(format_args!("write {path}"), error))?;
            let owner = self.first_id();
            std::os::unix::fs::chown(&path, Some(owner), Some(owner))
                .map_err(|error| failed("give a file away", error))?;
        }
        Ok(())
    }

    fn become_first(&self, proof: &SingleThreaded, listener: &OwnedFd, view: &OwnedFd) -> Result<(), Failure> {
        let failed = |what: &str, error: Errno| failed(what, error);
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open /dev/null", error))?;
        limits().map_err(|error| failed("set resource limits", error))?;
        rustix::thread::move_into_link_name_space(self.users.as_fd(), Some(LinkNameSpaceType::User))
            .map_err(|error| failed("enter the user namespace", error))?;
        let (user, group) = (Uid::ROOT, Gid::ROOT);
        rustix::thread::set_thread_groups(&[])
            .and_then(|()| rustix::thread::set_thread_res_gid(group, group, group))
            .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user))
            .map_err(|error| failed("become the sandbox's root", error))?;
        // The session's keys are the host's.
        keyring::join_new_session().map_err(|error| failed("leave the host's keyring", error))?;
        // As the administrator of its namespace, which it is for the last time here, it needs no `no_new_privs`, with which
        // `sudo` would be nothing.
        for filter in &self.mould.filters {
            filter.install().map_err(|error| failed("install the system call filter", error))?;
        }
        capability::limit(capability::KEPT).map_err(|error| failed("give up capabilities", error))?;
        for number in 0..3 {
            process::place(&null, number).map_err(|error| failed("set up standard input and output", error))?;
        }
        // The program's descriptor may be the number that the listener is to have.
        let program = rustix::io::fcntl_dupfd_cloexec(&self.mould.program, 16)
            .map_err(|error| failed("open the program", error))?;
        process::close_from_at_execution(LISTENER).map_err(|error| failed("close descriptors", error))?;
        let control = rustix::io::fcntl_dupfd_cloexec(self.control, 16);
        let listener =
            rustix::io::fcntl_dupfd_cloexec(listener, 16).map_err(|error| failed("pass the socket", error))?;
        let view = rustix::io::fcntl_dupfd_cloexec(view, 16).map_err(|error| failed("pass the view", error))?;
        process::place(&listener, LISTENER).map_err(|error| failed("pass the socket", error))?;
        process::place(&view, VIEW).map_err(|error| failed("pass the view", error))?;
        let error = process::execute(&program, &[program::NAME, VIEW_OPTION], &ENVIRONMENT);
        let failure = failed("execute the first process", error);
        if let Ok(control) = control {
            let _ = crate::keeper::wire::send(&control, &super::orders::Report::Failed(failure.clone()), &[]);
        }
        let _ = proof;
        Err(failure)
    }
}

fn mount_root(orders: &Orders, lower: &[OwnedFd], upper: &OwnedFd) -> Result<Root, Failure> {
    let put = |tree: &OwnedFd, at: &str| {
        mounts::put(tree, at).map_err(|error| failed(format_args!("mount a layer at {at}"), error))
    };
    let below_is_apart = is_btrfs(upper) && lower.iter().any(is_btrfs);
    let mut names = Vec::with_capacity(lower.len() + 1);
    for (number, tree) in lower.iter().enumerate() {
        let at = format!("/layers/{number}");
        make_folder(&at)?;
        put(tree, &at)?;
        names.push(number.to_string());
    }
    put(upper, "/upper")?;
    rustix::process::chdir("/layers").map_err(|error| failed("enter the layers", error))?;
    let mut below = names.join(":");
    if below_is_apart {
        // Overlay takes inode numbers of one filesystem to be unique, and those of two subvolumes are not: programs would
        // take a file of the image and one of the sandbox's own for the same. Seen through an overlay of its own, the image
        // is another filesystem. That needs a second tree: an empty one.
        make_folder("/layers/empty")?;
        make_folder("/layers/below")?;
        let apart = overlay(&format!("{below}:empty"), &[])?;
        put(&apart, "/layers/below")?;
        "below".clone_into(&mut below);
    }
    let (upper, work) = (format!("/upper/{}", orders.upper), format!("/upper/{}", orders.work));
    let mut options = vec![("upperdir", upper.as_str()), ("workdir", &work)];
    if below_is_apart {
        options.push(("xino", "on"));
    }
    put(&overlay(&below, &options)?, "/root")?;
    Root::open("/root").map_err(|error| failed("open the root", error))
}

/// `BTRFS_SUPER_MAGIC` (`linux/magic.h`).
const BTRFS_MAGIC: u64 = 0x9123_683e;

fn is_btrfs(tree: &OwnedFd) -> bool {
    #[expect(clippy::cast_sign_loss, reason = "a magic number; its width differs between architectures")]
    rustix::fs::fstatfs(tree).is_ok_and(|found| found.f_type as u64 == BTRFS_MAGIC)
}

fn overlay(lower: &str, options: &[(&str, &str)]) -> Result<OwnedFd, Failure> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| failed("make an overlay", error))?;
    for (name, value) in [("source", "mote"), ("lowerdir", lower)].iter().chain(options) {
        fsconfig_set_string(&context, *name, *value)
            .map_err(|error| failed(format_args!("make an overlay with {name}={value}"), error))?;
    }
    fsconfig_create(&context).map_err(|error| failed(format_args!("make an overlay of {lower}"), error))?;
    // Device nodes of an image are not devices here.
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
        .map_err(|error| failed("mount an overlay", error))
}

/// Mounts the host's directories of programs. Set-user-id programs keep their meaning: their owners are the sandbox's own.
fn place_bound(root: &Root, orders: &Orders, bound: Vec<OwnedFd>) -> Result<(), Failure> {
    for (path, tree) in orders.bound.iter().zip(bound) {
        let target =
            root.directory_made(path, true).map_err(|error| failed(format_args!("find {path} in the image"), error))?;
        add_attributes(&tree, Attributes::READ_ONLY.and(Attributes::NO_DEVICES), true)
            .and_then(|()| mounts::put_on(&tree, &target))
            .map_err(|error| failed(format_args!("mount {path}"), error))?;
    }
    Ok(())
}

/// Moves what waits in the cell's root to its places in the sandbox's. No link of the image may lead these elsewhere.
fn place_own(root: &Root) -> Result<(), Failure> {
    place_boot_id().map_err(|error| failed(format_args!("mount {BOOT_ID}"), error))?;
    for folder in ["/proc", "/sys", "/dev"] {
        let target = root
            .directory_made(folder, true)
            .map_err(|error| failed(format_args!("find {folder} in the image"), error))?;
        move_tree(folder, &target)?;
    }
    let target = root
        .directory_made(RUNTIME_FOLDER, true)
        .map_err(|error| failed(format_args!("find {RUNTIME_FOLDER} in the image"), error))?;
    let runtime = mounts::copy(RUNTIME_WAITS).map_err(|error| failed("open the runtime's files", error))?;
    mounts::restrict(&runtime, true)
        .and_then(|()| mounts::put_on(&runtime, &target))
        .map_err(|error| failed(format_args!("mount {RUNTIME_FOLDER}"), error))?;
    for name in ["hosts", "hostname", "resolv.conf"] {
        let target = root
            .file_made("/etc", name)
            .map_err(|error| failed(format_args!("find /etc/{name} in the image"), error))?;
        let file = mounts::copy(format!("/files/{name}")).map_err(|error| failed("open a file", error))?;
        mounts::put_on(&file, &target).map_err(|error| failed(format_args!("mount /etc/{name}"), error))?;
    }
    // World-writable where the image has none.
    match root.directory("/tmp", false) {
        Err(Errno::NOENT) => root
            .directory_made("/tmp", false)
            .and_then(|folder| {
                rustix::fs::chmodat(&folder, "", Mode::from_raw_mode(0o1777), rustix::fs::AtFlags::EMPTY_PATH)
            })
            .map_err(|error| failed("make /tmp", error)),
        _ => Ok(()),
    }
}

/// Where the kernel tells the id of its start, which is the host's.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Before `/proc` is moved: it takes along what is mounted in it.
fn place_boot_id() -> Result<(), Errno> {
    let target = rustix::fs::open(BOOT_ID, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let file = mounts::copy("/files/boot_id")?;
    mounts::restrict(&file, true)?;
    mounts::put_on(&file, &target)
}

fn move_tree(from: &str, target: &OwnedFd) -> Result<(), Failure> {
    rustix::fs::open(from, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|tree| mounts::put_on(&tree, target))
        .map_err(|error| failed(format_args!("mount {from}"), error))
}

fn place_extra(root: &Root, orders: &Orders, extra: Vec<OwnedFd>) -> Result<(), Failure> {
    for ((path, read_only), tree) in orders.mounts.iter().zip(extra) {
        let shown = Path::new(path).display();
        let target = root
            .directory_made(path, false)
            .map_err(|error| failed(format_args!("make {shown} in the root"), error))?;
        mounts::restrict(&tree, *read_only)
            .and_then(|()| mounts::put_on(&tree, &target))
            .map_err(|error| failed(format_args!("mount {shown}"), error))?;
    }
    Ok(())
}

/// Limits of each process; what a sandbox as a whole may use, its cgroups bound.
fn limits() -> Result<(), Errno> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(hard.min(1024)), maximum: Some(hard) })?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(CORE_BYTES), maximum: Some(CORE_BYTES) })?;
    rustix::process::setrlimit(Resource::Rtprio, Rlimit { current: Some(0), maximum: Some(0) })
}
