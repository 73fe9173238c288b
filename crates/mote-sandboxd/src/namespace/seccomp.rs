//! The system calls that a sandbox may not make: `docs/sandbox-seccomp.md` says why for each.
//!
//! It is the second wall: the namespaces belong to the host, so that most of these fail without it. What it takes away is
//! the kernel's code behind them.

use std::collections::BTreeMap;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::filter::{Filter, Instruction};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// Numbers of system calls that are known here, newest last; others do not exist inside.
#[cfg(target_arch = "x86_64")]
const KNOWN: [std::ops::RangeInclusive<i64>; 2] = [0..=335, 424..=466];
#[cfg(target_arch = "aarch64")]
const KNOWN: [std::ops::RangeInclusive<i64>; 2] = [0..=294, 424..=466];

/// Answered as if the kernel did not have them (`ENOSYS`), so that programs fall back: `clone3` hides its flags from a
/// filter, `io_uring` hides its operations, and the events of `io_setup` are counted for the whole host
/// (`fs.aio-max-nr`), whoever asks for them.
pub const ABSENT: [i64; 5] = [
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
];

/// Refused (`EPERM`) whatever their arguments, with their names for documents and tests.
pub const DENIED: [(&str, i64); 48] = [
    // Mounts and roots.
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fspick", libc::SYS_fspick),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("quotactl", libc::SYS_quotactl),
    ("quotactl_fd", libc::SYS_quotactl_fd),
    ("swapon", libc::SYS_swapon),
    ("swapoff", libc::SYS_swapoff),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("nfsservctl", libc::SYS_nfsservctl),
    // Namespaces and names.
    ("setns", libc::SYS_setns),
    ("sethostname", libc::SYS_sethostname),
    ("setdomainname", libc::SYS_setdomainname),
    // Keys.
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("keyctl", libc::SYS_keyctl),
    // Code for the kernel.
    ("bpf", libc::SYS_bpf),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("kexec_file_load", libc::SYS_kexec_file_load),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("perf_event_open", libc::SYS_perf_event_open),
    // The machine.
    ("reboot", libc::SYS_reboot),
    ("syslog", libc::SYS_syslog),
    ("acct", libc::SYS_acct),
    ("settimeofday", libc::SYS_settimeofday),
    ("clock_settime", libc::SYS_clock_settime),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("adjtimex", libc::SYS_adjtimex),
    ("vhangup", libc::SYS_vhangup),
    ("lookup_dcookie", libc::SYS_lookup_dcookie),
    ("migrate_pages", libc::SYS_migrate_pages),
    ("lsm_set_self_attr", 460),
    // Of one architecture only; where there is none, the number is one that no system has.
    ("iopl", of_x86(172)),
    ("ioperm", of_x86(173)),
    ("modify_ldt", of_x86(154)),
    ("uselib", of_x86(134)),
    ("ustat", of_x86(136)),
    ("sysfs", of_x86(139)),
];

/// Flags that make namespaces (`CLONE_NEW*` of `linux/sched.h`): mount, cgroup, uts, ipc, user, pid, net.
const NAMESPACES: [u64; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// `CLONE_NEWTIME`, which only `unshare` takes.
const TIME_NAMESPACE: u64 = 0x80;
/// Requests that put characters into a terminal's input: `TIOCSTI`, `TIOCLINUX`.
const INJECTIONS: [u64; 2] = [0x5412, 0x541C];
/// Type of the requests of btrfs (`BTRFS_IOCTL_MAGIC`): they make subvolumes, which no quota of the tree around them bounds.
const BTRFS_REQUESTS: u64 = 0x9400;
/// Bits of a request that hold its type (`asm-generic/ioctl.h`).
const REQUEST_TYPE: u64 = 0xFF00;
/// Requests of that type that every filesystem has: `FICLONE`, `FICLONERANGE`, `FIDEDUPERANGE`.
const CLONES: [u64; 3] = [0x4004_9409, 0x4020_940D, 0xC018_9436];
/// Personalities that weaken memory: `READ_IMPLIES_EXEC`, `MMAP_PAGE_ZERO`.
const WEAK_PERSONALITIES: [u64; 2] = [0x0040_0000, 0x0010_0000];
/// A personality that only asks for the one that is set.
const PERSONALITY_QUERY: u64 = 0xFFFF_FFFF;
/// Families of sockets that a sandbox has: unix, IPv4, IPv6, netlink.
const FAMILIES: [u64; 4] = [1, 2, 10, NETLINK];
const NETLINK: u64 = 16;
/// Protocols of netlink that a sandbox has: route, sock_diag.
const NETLINK_PROTOCOLS: [u64; 2] = [0, 4];
/// Protocols of netlink that look as if the kernel had not been built with them, audit and uevent: `sudo` and `useradd` do
/// without audit where it is not supported, and end where it is refused. Uevents are the host's, in every network namespace.
const NETLINK_ABSENT: [u64; 2] = [9, 15];
/// `RLIMIT_CORE`.
const LIMIT_CORE: u64 = 4;

const fn of_x86(number: i64) -> i64 {
    if cfg!(target_arch = "x86_64") { number } else { i32::MAX as i64 - number }
}

/// The filters of every sandbox, to be installed in this order.
///
/// # Errors
/// `internal` where they cannot be compiled: a defect.
pub fn filters() -> Result<Vec<Filter>, Failure> {
    let matched = |rules, errno: i32| compile(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()));
    Ok(vec![
        absent(),
        matched(denied()?, libc::EPERM)?,
        // Of filters that all refuse, the one installed last says how.
        matched(unsupported()?, libc::EPROTONOSUPPORT)?,
        matched(pretended()?, 0)?,
    ])
}

/// Sockets that are answered as if the kernel did not have their protocol.
fn unsupported() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Failure> {
    let of_one = |protocol: u64| {
        rule(vec![
            condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, NETLINK)?,
            condition(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, protocol)?,
        ])
    };
    let rules = NETLINK_ABSENT.into_iter().map(of_one).collect::<Result<Vec<_>, _>>()?;
    Ok(BTreeMap::from([(libc::SYS_socket, rules.clone()), (libc::SYS_socketpair, rules)]))
}

/// Calls that succeed and do nothing: the bound on core files is as it was set, with which the kernel starts no program of the
/// host at a crash. `sudo` and `su` set it, and complain where they may not.
fn pretended() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Failure> {
    let core = |argument| condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, LIMIT_CORE);
    let sets = condition(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    Ok(BTreeMap::from([
        (libc::SYS_setrlimit, vec![rule(vec![core(0)?])?]),
        (libc::SYS_prlimit64, vec![rule(vec![core(1)?, sets])?]),
    ]))
}

/// The filter of what does not exist inside. Written by hand: `seccompiler` knows no ranges, and a rule for each number
/// makes 1,880 instructions, which the kernel takes 1 ms to check for every sandbox (measured); these it takes no time for.
fn absent() -> Filter {
    let [old, new] = KNOWN;
    let number = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    // How far it is from each instruction to the last one, and to the one before.
    let length = u8::try_from(ABSENT.len()).unwrap_or(u8::MAX) + 6;
    let missing = |at: u8| length - 1 - at - 1;
    let mut program: Vec<Instruction> = vec![(LOAD, 0, 0, NUMBER_AT)];
    for (at, each) in (1u8..).zip(ABSENT) {
        program.push((IF_EQUAL, missing(at), 0, number(each)));
    }
    program.push((IF_GREATER, missing(length - 5), 0, number(*new.end())));
    program.push((IF_NOT_LESS, missing(length - 4) - 1, 0, number(*new.start())));
    program.push((IF_GREATER, missing(length - 3), 0, number(*old.end())));
    program.push((RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push((RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()));
    Filter::new(program)
}

/// Instructions of `linux/bpf_common.h`: load a word of the call's description, jump, return.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where the number of the call stands in its description (`struct seccomp_data`).
const NUMBER_AT: u32 = 0;

fn denied() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Failure> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.into_iter().map(|(_, number)| (number, Vec::new())).collect();
    let bits = |argument: u8, values: &[u64]| -> Result<Vec<SeccompRule>, Failure> {
        values
            .iter()
            .map(|&bit| rule(vec![condition(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bit), bit)?]))
            .collect()
    };
    rules.insert(libc::SYS_clone, bits(0, &NAMESPACES)?);
    rules.insert(libc::SYS_unshare, bits(0, &[NAMESPACES.as_slice(), &[TIME_NAMESPACE]].concat())?);
    let none_of = |argument: u8, values: &[u64]| {
        let unequal = |&value: &u64| condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value);
        values.iter().map(unequal).collect::<Result<Vec<_>, _>>()
    };
    let weak = |bit: u64| {
        let mut conditions = none_of(0, &[PERSONALITY_QUERY])?;
        conditions.push(condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit)?);
        rule(conditions)
    };
    rules.insert(libc::SYS_personality, WEAK_PERSONALITIES.into_iter().map(weak).collect::<Result<_, _>>()?);
    let mut requests = INJECTIONS
        .into_iter()
        .map(|request| rule(vec![condition(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?]))
        .collect::<Result<Vec<_>, _>>()?;
    let mut subvolumes = none_of(1, &CLONES)?;
    let of_type = SeccompCmpOp::MaskedEq(REQUEST_TYPE);
    subvolumes.push(condition(1, SeccompCmpArgLen::Dword, of_type, BTRFS_REQUESTS)?);
    requests.push(rule(subvolumes)?);
    rules.insert(libc::SYS_ioctl, requests);
    let mut netlink = vec![condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, NETLINK)?];
    netlink.extend(none_of(2, &NETLINK_PROTOCOLS)?);
    let sockets = vec![rule(none_of(0, &FAMILIES)?)?, rule(netlink)?];
    rules.insert(libc::SYS_socket, sockets.clone());
    rules.insert(libc::SYS_socketpair, sockets);
    Ok(rules)
}

fn defect(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Internal, format!("failed to compile the system call filter: {error}"))
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operation: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, Failure> {
    SeccompCondition::new(argument, length, operation, value).map_err(defect)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Failure> {
    SeccompRule::new(conditions).map_err(defect)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<Filter, Failure> {
    let filter = SeccompFilter::new(rules, otherwise, matched, ARCHITECTURE).map_err(defect)?;
    let program: BpfProgram = filter.try_into().map_err(defect)?;
    Ok(Filter::new(program.iter().map(|each| (each.code, each.jt, each.jf, each.k))))
}

#[cfg(test)]
mod tests;
