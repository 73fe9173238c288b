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
/// filter, and `io_uring` hides its operations.
pub const ABSENT: [i64; 4] =
    [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

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
/// Personalities that weaken memory: `READ_IMPLIES_EXEC`, `MMAP_PAGE_ZERO`.
const WEAK_PERSONALITIES: [u64; 2] = [0x0040_0000, 0x0010_0000];
/// Families of sockets that a sandbox has: unix, IPv4, IPv6, netlink.
const FAMILIES: [u64; 4] = [1, 2, 10, NETLINK];
const NETLINK: u64 = 16;
/// Protocols of netlink that a sandbox has: route, sock_diag, audit (which answers that it is not there), uevent.
const NETLINK_PROTOCOLS: [u64; 4] = [0, 4, 9, 15];

const fn of_x86(number: i64) -> i64 {
    if cfg!(target_arch = "x86_64") { number } else { i32::MAX as i64 - number }
}

/// The filters of every sandbox, to be installed in this order.
///
/// # Errors
/// `internal` where they cannot be compiled: a defect.
pub fn filters() -> Result<Vec<Filter>, Failure> {
    Ok(vec![absent(), compile(denied()?, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM.unsigned_abs()))?])
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
    rules.insert(libc::SYS_personality, bits(0, &WEAK_PERSONALITIES)?);
    let injections = INJECTIONS
        .into_iter()
        .map(|request| rule(vec![condition(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?]))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, injections);
    let none_of = |argument: u8, values: &[u64]| {
        let unequal = |&value: &u64| condition(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value);
        values.iter().map(unequal).collect::<Result<Vec<_>, _>>()
    };
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_filters_compile_and_no_call_is_named_twice() {
        assert_eq!(filters().unwrap().len(), 2);
        let numbers: std::collections::BTreeSet<i64> = DENIED.iter().map(|(_, number)| *number).collect();
        assert_eq!(numbers.len(), DENIED.len());
    }

    #[test]
    fn the_document_names_every_call_that_is_denied() {
        let document = include_str!("../../../../docs/sandbox-seccomp.md");
        for (name, _) in DENIED {
            assert!(document.contains(&format!("`{name}`")), "{name} is missing in docs/sandbox-seccomp.md");
        }
    }
}
