//! What the filters say to calls, found out by interpreting them: without the other walls, which would refuse most of these
//! calls before the filters are asked.

use super::*;

/// A call as a filter sees it (`struct seccomp_data`).
struct Call {
    number: i64,
    architecture: u32,
    arguments: [u64; 6],
}

impl Call {
    fn new(number: i64, arguments: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        Self { number, architecture: OWN, arguments: all }
    }

    /// A word of the description, as little-endian machines lay it out.
    fn word(&self, at: u32) -> u32 {
        let low = |value: u64| u32::try_from(value & 0xFFFF_FFFF).unwrap();
        match at {
            0 => low(self.number.cast_unsigned()),
            4 => self.architecture,
            16.. if at.is_multiple_of(8) => low(self.arguments[(at as usize - 16) / 8]),
            20.. => low(self.arguments[(at as usize - 20) / 8] >> 32),
            _ => panic!("no filter reads the word at {at}"),
        }
    }
}

/// `AUDIT_ARCH_*` of `linux/audit.h`.
const OWN: u32 = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
const OTHER_32_BITS: u32 = 0x4000_0003;

/// Runs a program of classic BPF, as far as filters are made of it.
fn interpret(filter: &Filter, call: &Call) -> u32 {
    let program: Vec<Instruction> = filter.instructions().collect();
    let (mut at, mut word) = (0, 0);
    loop {
        let (code, if_true, if_false, operand) = program[at];
        at += 1;
        let holds = match code {
            0x06 => return operand,
            0x20 => {
                word = call.word(operand);
                continue;
            }
            0x54 => {
                word &= operand;
                continue;
            }
            0x05 => {
                at += operand as usize;
                continue;
            }
            0x15 => word == operand,
            0x25 => word > operand,
            0x35 => word >= operand,
            0x45 => word & operand != 0,
            other => panic!("no filter holds the instruction {other:#x}"),
        };
        at += usize::from(if holds { if_true } else { if_false });
    }
}

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Kills,
    /// With this error; 0 is a success that nothing was done for.
    Answered(i32),
}

/// The kernel asks every filter, the one installed last first, and does the gravest of what they say.
fn fate(call: &Call) -> Fate {
    let filters = filters().unwrap();
    let said = filters.iter().rev().map(|filter| interpret(filter, call));
    let action = |said: &u32| (said & libc::SECCOMP_RET_ACTION_FULL).cast_signed();
    let gravest = said.min_by_key(action).unwrap();
    match gravest & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_ALLOW => Fate::Passes,
        libc::SECCOMP_RET_ERRNO => Fate::Answered((gravest & libc::SECCOMP_RET_DATA).cast_signed()),
        _ => Fate::Kills,
    }
}

fn of(number: i64, arguments: &[u64]) -> Fate {
    fate(&Call::new(number, arguments))
}

const REFUSED: Fate = Fate::Answered(libc::EPERM);
const ABSENT_HERE: Fate = Fate::Answered(libc::ENOSYS);

#[test]
fn no_call_is_named_twice_and_each_that_is_named_is_refused() {
    let numbers: std::collections::BTreeSet<i64> = DENIED.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers.len(), DENIED.len());
    for (name, number) in DENIED.into_iter().filter(|(_, number)| KNOWN.iter().any(|known| known.contains(number))) {
        assert_eq!(of(number, &[]), REFUSED, "{name}");
        assert_eq!(of(number, &[u64::MAX; 6]), REFUSED, "{name}");
    }
    for number in ABSENT {
        assert_eq!(of(number, &[]), ABSENT_HERE, "{number}");
    }
    for ordinary in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex, libc::SYS_ptrace] {
        assert_eq!(of(ordinary, &[]), Fate::Passes, "{ordinary}");
    }
}

#[test]
fn a_number_that_nobody_looked_at_does_not_exist() {
    let [old, new] = KNOWN;
    for number in [*old.end() + 1, *new.start() - 1, *new.end() + 1, 467, 1000, i64::from(i32::MAX), -1] {
        assert_eq!(of(number, &[]), ABSENT_HERE, "{number}");
    }
    // The x32 numbers of calls that are refused and of calls that pass.
    for number in [libc::SYS_mount, libc::SYS_read, libc::SYS_ptrace] {
        assert_eq!(of(number | 0x4000_0000, &[]), ABSENT_HERE, "{number}");
    }
}

#[test]
fn a_call_of_another_architecture_ends_the_program() {
    for number in [libc::SYS_read, libc::SYS_mount, 0] {
        assert_eq!(fate(&Call { architecture: OTHER_32_BITS, ..Call::new(number, &[]) }), Fate::Kills);
    }
}

#[test]
fn namespaces_are_refused_by_every_flag_and_whatever_stands_beside_it() {
    for flag in NAMESPACES {
        for beside in [0, 17, 0x0100_0000, 1 << 40] {
            assert_eq!(of(libc::SYS_clone, &[flag | beside]), REFUSED, "{flag:#x}");
            assert_eq!(of(libc::SYS_unshare, &[flag | beside]), REFUSED, "{flag:#x}");
        }
    }
    assert_eq!(of(libc::SYS_unshare, &[TIME_NAMESPACE]), REFUSED);
    // A process, a thread; and what programs share no longer that is no namespace (CLONE_FILES, CLONE_FS).
    for flags in [17, 0x003D_0F00] {
        assert_eq!(of(libc::SYS_clone, &[flags]), Fate::Passes, "{flags:#x}");
    }
    assert_eq!(of(libc::SYS_unshare, &[0x600]), Fate::Passes);
}

#[test]
fn sockets_are_of_four_families_and_of_two_protocols_of_netlink() {
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        for family in 0..64_u64 {
            let expected = if FAMILIES.contains(&family) { Fate::Passes } else { REFUSED };
            assert_eq!(of(call, &[family, 1, 0]), expected, "{family}");
        }
        for protocol in 0..32_u64 {
            let expected = match protocol {
                0 | 4 => Fate::Passes,
                9 | 15 => Fate::Answered(libc::EPROTONOSUPPORT),
                _ => REFUSED,
            };
            // The kernel reads 32 bits of each, whatever stands above.
            assert_eq!(of(call, &[NETLINK | 1 << 32, 3, protocol | 1 << 32]), expected, "{protocol}");
        }
    }
}

#[test]
fn requests_and_personalities_are_refused_by_what_they_do() {
    for request in [0x5412, 0x541C, 0x5000_940E, 0x5000_9418, 0xC010_9428, 0x5412 | 1 << 32] {
        assert_eq!(of(libc::SYS_ioctl, &[0, request]), REFUSED, "{request:#x}");
    }
    // FICLONE, FICLONERANGE, FIDEDUPERANGE; the size of a terminal.
    for request in [0x4004_9409, 0x4020_940D, 0xC018_9436, 0x5413] {
        assert_eq!(of(libc::SYS_ioctl, &[0, request]), Fate::Passes, "{request:#x}");
    }
    for weak in [0x0040_0000, 0x0010_0000, 0x0054_0000, 0xFFFF_FFFE] {
        assert_eq!(of(libc::SYS_personality, &[weak]), REFUSED, "{weak:#x}");
    }
    for set in [libc::SYS_setrlimit, libc::SYS_prlimit64] {
        let arguments = |resource| if set == libc::SYS_setrlimit { [resource, 1, 0] } else { [0, resource, 1] };
        assert_eq!(of(set, &arguments(LIMIT_CORE)), Fate::Answered(0));
        assert_eq!(of(set, &arguments(7)), Fate::Passes, "open files");
    }
    assert_eq!(of(libc::SYS_prlimit64, &[0, LIMIT_CORE, 0]), Fate::Passes, "to ask changes nothing");
}

/// What Docker's profile refuses and this does not, and the other way round: `docs/sandbox-seccomp.md` says why for each.
#[test]
fn what_is_otherwise_than_in_dockers_profile_is_as_the_document_says() {
    const NO_RANDOMIZATION: u64 = 0x0004_0000;
    let document = include_str!("../../../../../docs/sandbox-seccomp.md");
    let passes = [
        ("ADDR_NO_RANDOMIZE", libc::SYS_personality, &[NO_RANDOMIZATION][..]),
        ("mbind", libc::SYS_mbind, &[]),
        ("set_mempolicy", libc::SYS_set_mempolicy, &[]),
        ("get_mempolicy", libc::SYS_get_mempolicy, &[]),
        ("move_pages", libc::SYS_move_pages, &[]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, &[]),
        ("process_madvise", libc::SYS_process_madvise, &[]),
        ("process_vm_readv", libc::SYS_process_vm_readv, &[]),
        ("process_vm_writev", libc::SYS_process_vm_writev, &[]),
        ("kcmp", libc::SYS_kcmp, &[]),
        ("ptrace", libc::SYS_ptrace, &[]),
    ];
    for (name, number, arguments) in passes {
        assert_eq!(of(number, arguments), Fate::Passes, "{name}");
        assert!(document.contains(&format!("`{name}`")), "{name} is missing in docs/sandbox-seccomp.md");
    }
    assert_eq!(of(libc::SYS_migrate_pages, &[]), REFUSED);
    assert!(document.contains(&format!("end at {}", KNOWN[1].end())), "the last number that is known");
}

#[test]
fn the_document_names_every_call_that_is_denied() {
    let document = include_str!("../../../../../docs/sandbox-seccomp.md");
    for (name, _) in DENIED {
        assert!(document.contains(&format!("`{name}`")), "{name} is missing in docs/sandbox-seccomp.md");
    }
}
