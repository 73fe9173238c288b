//! A cell: namespaces, cgroups and the process that will be the first of a sandbox, made before the sandbox is known.
//!
//! The process prepares all that is the same for every sandbox ([`prepare`]), waits for its orders, builds the root and
//! becomes the sandbox's first process ([`enter`]). A cell serves one sandbox and is never used again. It does not choose
//! when cells are made; [`super::keeper`] does.

pub mod enter;
pub mod heard;
pub mod orders;
pub mod prepare;
pub mod view;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use mote_sandbox_api::error::Failure;
use mote_sandbox_sys::filter::Filter;
use mote_sandbox_sys::process::{self, Child, SingleThreaded};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::UnshareFlags;

use super::cgroup::Groups;
use super::file::failed;
use super::identity::{self, Slot};
use crate::limits::RULES_BYTES_MAX;
use crate::network::ruleset::Ruleset;

/// What every cell is made with.
#[derive(Debug)]
pub struct Mould {
    /// The cgroups.
    pub groups: Box<dyn Groups>,
    /// The program of the first process.
    pub program: OwnedFd,
    /// The system calls that are denied.
    pub filters: Vec<Filter>,
    /// First host id of all ranges.
    pub uid_base: u32,
    /// A directory that exists, on which the cell's own root is put before the host's is gone.
    pub foothold: PathBuf,
    /// What the host says where sandboxes show their bounds.
    pub view: view::Host,
    /// The packet filter of a sandbox with a network; applied with `nft` where absent.
    pub rules: Option<Ruleset>,
}

/// A cell as the keeper holds it.
#[derive(Debug)]
pub struct Cell {
    /// Its range of ids, and the name of its cgroups.
    pub slot: Slot,
    /// Its user namespace.
    pub users: OwnedFd,
    /// Its process.
    pub child: Child,
    /// The other end is the process's; it closes when the process becomes the sandbox's first, or ends.
    pub control: OwnedFd,
    /// Its network leads to the daemon's sockets.
    pub network: bool,
}

/// Namespaces of every cell; the cgroup's comes when the process is in its cgroups.
const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS
    .union(UnshareFlags::NEWPID)
    .union(UnshareFlags::NEWUTS)
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWNET);

/// Name of a slot's cgroups.
#[must_use]
pub fn group(slot: Slot) -> String {
    format!("{slot:05}")
}

/// The packet filter of sandboxes with a network, as the kernel of this host has it once `nft` has applied it: a child tries
/// in a network namespace of its own. None where that fails.
pub fn learn_rules(proof: &SingleThreaded) -> Option<Ruleset> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
    let child = process::fork(proof, UnshareFlags::NEWNET, None, || {
        let written = crate::network::keeper::learn().map(|rules| File::from(writer).write_all(rules.as_bytes()));
        u8::from(!matches!(written, Ok(Ok(()))))
    });
    let child = child.ok()?;
    let mut bytes = Vec::new();
    let read = File::from(reader).take(RULES_BYTES_MAX).read_to_end(&mut bytes);
    let ended = rustix::process::waitid(WaitId::PidFd(child.descriptor.as_fd()), WaitIdOptions::EXITED);
    let is_good = ended.ok().flatten().and_then(|status| status.exit_status()) == Some(0);
    (is_good && read.is_ok()).then(|| Ruleset::from_bytes(bytes))
}

impl Cell {
    /// Makes a cell. It goes on preparing itself after this returns.
    ///
    /// # Errors
    /// `internal` with what the kernel refused; nothing is left then.
    pub fn make(proof: &SingleThreaded, mould: &Mould, slot: Slot, network: bool) -> Result<Self, Failure> {
        let first = identity::first_id(mould.uid_base, slot);
        let users = identity::user_namespace(proof, first)?;
        mould.groups.create(&group(slot)).inspect_err(|_| {
            let _ = mould.groups.remove(&group(slot));
        })?;
        Self::fork(proof, mould, slot, network, users).inspect_err(|_| {
            let _ = mould.groups.remove(&group(slot));
        })
    }

    fn fork(proof: &SingleThreaded, mould: &Mould, slot: Slot, network: bool, users: OwnedFd) -> Result<Self, Failure> {
        let (control, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| failed("make a cell's socket", error))?;
        let child = process::fork(proof, NAMESPACES, None, || {
            // What else the keeper holds (other cells' sockets, the daemon's) must not be held here.
            let keep = [theirs.as_fd(), users.as_fd(), mould.program.as_fd()];
            if process::keep_only(proof, &keep).is_err() {
                return 1;
            }
            let cell = prepare::Inside { control: &theirs, users: &users, mould, slot, network };
            u8::from(cell.live(proof).is_err())
        })
        .map_err(|error| failed("make a cell's process", error))?;
        rustix::io::ioctl_fionbio(&control, true).map_err(|error| failed("set up a cell's socket", error))?;
        Ok(Self { slot, users, child, control, network })
    }

    /// Number of its process on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Ends the process.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.child.descriptor, Signal::KILL);
    }

    /// Reaps the process, which is ending.
    pub fn wait(&self) {
        let _ = rustix::process::waitid(WaitId::PidFd(self.child.descriptor.as_fd()), WaitIdOptions::EXITED);
    }
}
