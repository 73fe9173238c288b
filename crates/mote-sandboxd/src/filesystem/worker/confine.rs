//! How a worker gives up what it does not need: its root directory, its user, its capabilities, system calls, memory.
//!
//! What is left is what its descriptors lead to, and names below them. It does not enter namespaces: a process that can
//! neither open a path outside its trees nor make a socket has no use for the ones it is in.

use std::collections::BTreeMap;
use std::io;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::limits::{WORKER_DESCRIPTORS_MAX, WORKER_MEMORY_BYTES_MAX};

/// `nobody`: nothing on the host belongs to it, and nothing in a tree may be assumed to.
const NOBODY: u32 = 65534;

/// Makes entries of any owner, with their modes and attributes.
pub(super) const UNPACK: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);
/// Reads, makes and removes entries of any owner.
pub(super) const FILES: CapabilitySet =
    CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE).union(CapabilitySet::FOWNER).union(CapabilitySet::FSETID);
/// Reads everything, writes nothing.
pub(super) const READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;
/// Removes entries of any owner.
pub(super) const SWEEP: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::FOWNER);

/// Leaves this process with these capabilities and nothing else.
pub(super) fn to(capabilities: CapabilitySet) -> io::Result<()> {
    enter_nothing()?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_keep_capabilities(true)?;
    for capability in CapabilitySet::all().iter() {
        // A kernel older than the list of capabilities does not know some of them.
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    for (resource, bound) in [
        (Resource::As, WORKER_MEMORY_BYTES_MAX),
        (Resource::Nofile, WORKER_DESCRIPTORS_MAX),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
    ] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })?;
    }
    filter()
}

/// Makes an empty, read-only filesystem that is mounted nowhere the root directory.
fn enter_nothing() -> io::Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", "4096")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let nothing = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    rustix::process::fchdir(&nothing)?;
    rustix::process::chroot(".")?;
    Ok(())
}

/// Ends the process at the first system call that working on a tree does not need.
fn filter() -> io::Result<()> {
    let rules: BTreeMap<i64, Vec<_>> = SYSTEM_CALLS.iter().map(|number| (*number, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

const SYSTEM_CALLS: [i64; 62] = [
    // Memory, time, the end.
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    // Streams and the socket.
    libc::SYS_close,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_write,
    libc::SYS_writev,
    // Trees.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_syncfs,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_close_range,
];
