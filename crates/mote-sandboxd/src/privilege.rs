//! The daemon gives up what it was started with, for good, before it has threads and before it reads a stranger's byte.
//!
//! It does not concern the keeper, which is another process by then and keeps its privilege.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use mote_sandbox_api::capability::Support;
use mote_sandbox_sys::process::SingleThreaded;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

/// The newest version of landlock whose rights are asked for; an older kernel gives those that it knows.
const LANDLOCK: ABI = ABI::V6;

/// What the daemon keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Files and directories that it may read, with all below them. Those that are not there are none.
    pub read: Vec<PathBuf>,
    /// Directories in which it may do everything that their permissions allow.
    pub write: Vec<PathBuf>,
}

/// What every daemon reads: names of hosts and zones, certificates, the use of sandboxes.
pub const READ: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ssl/certs",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/sys/fs/cgroup",
    "/proc",
];

/// Why privilege could not be given up. The daemon must not serve then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Threads would keep what this one gives up.
    #[error("failed to give up privilege: there are threads already: {0}")]
    Threads(std::io::Error),
    /// The kernel refused a step.
    #[error("failed to give up privilege: {0}: {1}")]
    Step(&'static str, Errno),
    /// Something is left that should not be.
    #[error("failed to give up privilege: {0} left")]
    Left(&'static str),
}

/// Gives up privilege: user, groups, capabilities, the way back (`no_new_privs`), and, where the kernel can, the sight of the
/// filesystem beyond what is kept. Answers with what was done, by name, for `GET /v1/capabilities`.
///
/// # Errors
/// [`Error`]. Landlock alone is no error where it is not there: the answer says so.
pub fn drop(kept: &Kept) -> Result<BTreeMap<String, Support>, Error> {
    SingleThreaded::check().map_err(Error::Threads)?;
    let step = |what| move |error| Error::Step(what, error);
    let (user, group) = (Uid::from_raw(kept.uid), Gid::from_raw(kept.gid));
    rustix::thread::clear_ambient_capability_set().map_err(step("clear ambient capabilities"))?;
    for bit in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(Error::Step("empty the bounding set", error)),
        }
    }
    // Nothing that this process is ever executed as gets capabilities for being root.
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).map_err(step("lock the secure bits"))?;
    rustix::thread::set_thread_groups(&[]).map_err(step("leave all groups"))?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(step("change the group"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(step("change the user"))?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(step("give up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(step("set no_new_privs"))?;
    let left = rustix::thread::capabilities(None).map_err(step("read capabilities"))?;
    if !(left.permitted | left.effective | left.inheritable).is_empty() {
        return Err(Error::Left("capabilities are"));
    }
    if rustix::process::getuid() != user || rustix::process::geteuid() != user {
        return Err(Error::Left("the old user is"));
    }
    let (uid, gid) = (kept.uid, kept.gid);
    Ok(BTreeMap::from([
        ("daemon.user".to_owned(), Support::yes(format!("user {uid}, group {gid}, no other group"))),
        (
            "daemon.capabilities".to_owned(),
            Support::yes("none, nor any way to get one (no_new_privs, empty bounding set)"),
        ),
        ("daemon.landlock".to_owned(), confine(kept)),
    ]))
}

/// Landlock: what is not kept is not there for this process.
fn confine(kept: &Kept) -> Support {
    let all = AccessFs::from_all(LANDLOCK);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let restrict = || {
        Ruleset::default()
            .handle_access(all)?
            .scope(Scope::Signal | Scope::AbstractUnixSocket)?
            .create()?
            .add_rules(path_beneath_rules(
                kept.read.iter().map(PathBuf::as_path).chain(READ.iter().map(Path::new)),
                read,
            ))?
            .add_rules(path_beneath_rules(["/dev/null", "/dev/urandom"], AccessFs::ReadFile | AccessFs::WriteFile))?
            .add_rules(path_beneath_rules(&kept.write, all & !AccessFs::Execute))?
            .restrict_self()
    };
    match restrict().map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => {
            Support::yes("landlock: only its own directories, and what it reads of the system")
        }
        Ok(RulesetStatus::PartiallyEnforced) => {
            Support::yes("landlock, an older version: only its own directories; not signals or abstract sockets")
        }
        Ok(RulesetStatus::NotEnforced) => Support::no("the kernel has no landlock"),
        Err(error) => Support::no(format!("landlock could not be set up: {error}")),
    }
}

/// Makes a directory that is the daemon's own, before privilege is given up.
///
/// # Errors
/// Where it cannot be made or given.
pub fn own_folder(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    chown(path, Some(uid), Some(gid))
}
