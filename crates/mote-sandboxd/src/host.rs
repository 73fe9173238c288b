//! What this host can enforce, found by trying it, before the daemon gives up its privilege.
//!
//! It trusts no version number and no configuration of the kernel. What a part of the daemon finds out itself when it starts
//! (the pool, the cgroups, landlock) is that part's to report.

use std::collections::BTreeMap;
use std::path::Path;

use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::process::{self, SingleThreaded};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::thread::UnshareFlags;

use crate::keeper::Outcome;
use crate::keeper::job::Job;
use crate::keeper::settings::UID_BASE;
use crate::namespace::{identity, mounts, seccomp};

/// Tries each mechanism, by its name in `GET /v1/capabilities`. To be called with privilege, before there are threads.
///
/// # Errors
/// `internal` where there are threads already.
pub fn probe(state: &Path) -> Result<BTreeMap<String, Support>, Failure> {
    let proof = SingleThreaded::check().map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    let users = identity::user_namespace(&proof, UID_BASE);
    let mapped = match &users {
        Ok(users) => mounts::copy_mapped(state, users).map(drop),
        Err(failure) => Err(failure.clone()),
    };
    let filters = || {
        for filter in seccomp::filters()? {
            filter.install().map_err(refused)?;
        }
        // A filter that is not obeyed is none.
        match process::unshare(UnshareFlags::NEWUTS) {
            Err(Errno::PERM) => Ok(Outcome::Done),
            _ => Err(Failure::new(Code::Internal, "the filter is installed but not obeyed")),
        }
    };
    let network = || {
        process::unshare(UnshareFlags::NEWNET).map_err(refused)?;
        crate::network::keeper::prepare().map(|_| Outcome::Done)
    };
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map(drop).map_err(refused);
    Ok(BTreeMap::from([
        entry("user_namespaces", users.map(drop), "a private range of 65,536 ids for each sandbox"),
        entry("idmapped_mounts", mapped, "what is on disk has the ids of the image, whoever runs it"),
        entry("overlay", overlay, "read-only layers below, changes above"),
        entry("seccomp", in_child(&proof, filters), "the profile of docs/sandbox-seccomp.md"),
        entry("network_policy", in_child(&proof, network), "nftables in a network namespace without a link out"),
        ("core_dumps".to_owned(), core_dumps(&std::fs::read_to_string(CORE_PATTERN).unwrap_or_default())),
        ("kvm".to_owned(), kvm()),
    ]))
}

fn entry(name: &str, result: Result<(), Failure>, how: &str) -> (String, Support) {
    let support = match result {
        Ok(()) => Support::yes(how),
        Err(failure) => Support::no(failure.message),
    };
    (name.to_owned(), support)
}

fn refused(error: Errno) -> Failure {
    Failure::new(Code::Internal, format!("the kernel refused: {error}"))
}

fn in_child(proof: &SingleThreaded, attempt: impl FnOnce() -> Result<Outcome, Failure>) -> Result<(), Failure> {
    Job::start(proof, attempt)?.finish().map(drop)
}

/// Where the kernel is told what becomes of a crash (core(5)). It is one setting for the host and every container.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// What a crash inside a sandbox makes the host do.
fn core_dumps(pattern: &str) -> Support {
    match pattern.trim().split_at_checked(1) {
        Some(("|", _)) => Support::yes(
            "core_pattern starts a program as the host's root at each crash: not for sandboxes, whose bound on core files is 1 \
             byte and fixed",
        ),
        Some(("@", _)) => Support::no(
            "core_pattern sends each crash to a program of the host over a socket, whatever the bound on core files: crashes in \
             sandboxes, whose names they choose, reach it",
        ),
        _ => Support::yes("no file is written: the bound on core files is 1 byte and fixed"),
    }
}

fn kvm() -> Support {
    match rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Support::yes("/dev/kvm can be opened; no substrate uses it yet"),
        Err(error) => Support::no(format!("failed to open /dev/kvm: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_does_on_the_host_is_told() {
        for (pattern, available, says) in [
            ("|/usr/lib/systemd/systemd-coredump %P %u\n", true, "starts a program"),
            ("@/run/systemd/coredump.socket\n", false, "socket"),
            ("core\n", true, "no file"),
            ("", true, "no file"),
        ] {
            let told = core_dumps(pattern);
            assert!(told.available == available && told.detail.contains(says), "{pattern}: {told:?}");
        }
    }
}
