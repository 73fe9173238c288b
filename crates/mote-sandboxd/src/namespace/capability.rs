//! The capabilities that a sandbox's root has, over its own user namespace only.
//!
//! None of them means anything to the host or to the namespaces that belong to the host: mounts, network, processes, names.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// What is kept; `docs/sandbox-seccomp.md` says why each is. All else leaves the bounding set, for good.
pub(super) const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::IPC_OWNER)
    // Over the network and locked memory nothing is granted: the kernel asks for these in the namespaces that own them,
    // which are the host's. Programs whose files carry them could not be executed without (`ping`, `tcpdump`, `vault`).
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::IPC_LOCK);

/// Makes everything that is permitted effective.
///
/// # Errors
/// What the kernel refused.
pub(super) fn raise_all() -> Result<(), Errno> {
    let now = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: now.permitted, ..now })
}

/// Gives up all but `kept`, now and for every program executed later.
///
/// # Errors
/// What the kernel refused.
pub(super) fn limit(kept: CapabilitySet) -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    for bit in 0..u64::BITS {
        let each = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(each) {
            continue;
        }
        match remove_capability_from_bounding_set(each) {
            Ok(()) => {}
            // The kernel knows no more capabilities.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let now = capabilities(None)?;
    let left = now.permitted & kept;
    set_capabilities(None, CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() })
}
