//! A sandbox that lives, as the keeper holds it: found again after a restart, ended, waited for.
//!
//! It does not know what the sandbox is for.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::cell::{Cell, group};
use super::cgroup::{Groups, Meter};
use super::file::failed;
use super::identity::Slots;
use super::keeper::Outcome;
use super::launch::Living;
use super::record::{self, Record};
use crate::keeper::{Answered, Outcome as Answer};
use crate::limits::{KEEPER_PAGE_MAX, REAP_WAIT, REMOVAL_TRIES};

/// Those that live, in the order of ids after `after`: as many as one message holds.
pub(super) fn page(all: &HashMap<String, Resident>, after: Option<&str>, groups: &dyn Groups) -> Vec<Living> {
    let mut living: Vec<_> =
        all.values().filter(|one| after.is_none_or(|after| one.record.id.as_str() > after) && one.lives()).collect();
    living.sort_unstable_by(|one, other| one.record.id.cmp(&other.record.id));
    living.truncate(KEEPER_PAGE_MAX);
    living.into_iter().map(|one| one.describe(groups)).collect()
}

/// A sandbox and its first process.
#[derive(Debug)]
pub(super) struct Resident {
    /// What is noted about it.
    pub(super) record: Record,
    /// Its first process.
    pub(super) process: OwnedFd,
    /// Whether the process is this keeper's child, and not one of an earlier keeper's.
    child: bool,
}

impl Resident {
    /// The sandbox that a cell became.
    pub(super) fn settle(id: &str, cell: Cell, meter: Meter) -> Self {
        let pid = cell.pid();
        let record = Record {
            id: id.to_owned(),
            slot: cell.slot,
            pid,
            started: record::start_of(pid).unwrap_or(0),
            network: cell.network,
            meter,
        };
        Self { record, process: cell.child.descriptor, child: true }
    }

    /// The sandbox of a record, where its first process still lives.
    pub(super) fn find(record: Record) -> Option<Self> {
        let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw)?;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after the descriptor is open: it then stands for the process that the number stood for here.
        let same = record::start_of(record.pid) == Some(record.started);
        let resident = Self { record, process, child: false };
        (same && resident.lives()).then_some(resident)
    }

    pub(super) fn lives(&self) -> bool {
        !has_ended(&self.process)
    }

    pub(super) fn describe(&self, groups: &dyn Groups) -> Living {
        let Record { id, slot, pid, network, .. } = &self.record;
        Living { id: id.clone(), pid: *pid, network: *network, frozen: groups.is_frozen(&group(*slot)) }
    }

    /// What the daemon is told, with the descriptors beside it.
    pub(super) fn answer(&self, run: &Path, sockets: Vec<OwnedFd>) -> Answered {
        let process = rustix::io::fcntl_dupfd_cloexec(&self.process, 3)
            .map_err(|error| failed("pass on a process's descriptor", error))?;
        let started = Outcome::Started {
            pid: self.record.pid,
            guest: record::socket(run, &self.record.id),
            meter: self.record.meter.clone(),
        };
        Ok((Answer::Namespace(started), std::iter::once(process).chain(sockets).collect()))
    }

    /// What a daemon is told that takes the sandbox over.
    pub(super) fn adopt(&self, run: &Path) -> Answered {
        if !self.lives() {
            return Err(Failure::new(Code::Gone, format!("the sandbox {:?} has ended", self.record.id)));
        }
        let sockets = if self.record.network { self.sockets()? } else { Vec::new() };
        self.answer(run, sockets)
    }

    /// The daemon's sockets, made again in the sandbox's network.
    fn sockets(&self) -> Result<Vec<OwnedFd>, Failure> {
        let namespace = open_network(&format!("/proc/{}/ns/net", self.record.pid))?;
        // The number may be another process's by now: what was opened is the sandbox's only where it still lives.
        if !self.lives() {
            return Err(Failure::new(Code::Gone, format!("the sandbox {:?} has ended", self.record.id)));
        }
        sockets_in(&namespace)
    }

    /// Ends the first process, and with it every process of its namespace.
    pub(super) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Reaps the first process, which is ending.
    pub(super) fn wait(&self) {
        if self.child {
            let _ = rustix::process::waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED);
        } else {
            wait_for(&self.process, None);
        }
    }
}

fn open_network(path: &str) -> Result<OwnedFd, Failure> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open a network namespace", error))
}

/// The daemon's sockets, made in a network.
fn sockets_in(theirs: &OwnedFd) -> Result<Vec<OwnedFd>, Failure> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let own = open_network("/proc/self/ns/net")?;
    let enter = |namespace: &OwnedFd| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| failed("enter a network namespace", error))
    };
    enter(theirs)?;
    let sockets = crate::network::keeper::sockets();
    enter(&own)?;
    sockets
}

/// Whether a process ended, by its descriptor.
pub(super) fn has_ended(process: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1))
}

fn wait_for(process: &OwnedFd, bound: Option<&Timespec>) -> bool {
    let mut watched = [PollFd::new(process, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut watched, bound) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended.is_ok_and(|count| count > 0),
        }
    }
}

/// Removes a sandbox's cgroups, whose processes are ending: the kernel may need a moment to see that they are empty.
pub(super) fn remove_groups(groups: &dyn Groups, name: &str) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        match groups.remove(name) {
            Err(_) if tries < REMOVAL_TRIES => tries += 1,
            result => return result,
        }
        super::cgroup::pause();
    }
}

/// Ends whatever is left in cgroups that serve no sandbox, and removes them. What cannot be ended now keeps its range of ids,
/// which nobody else may get; the next start tries again.
pub(super) fn sweep(groups: &dyn Groups, kept: &[String], slots: &mut Slots) -> Vec<Failure> {
    let mut failures = Vec::new();
    for name in groups.names().into_iter().filter(|name| !kept.contains(name)) {
        if let Err(failure) = reap(groups, &name) {
            name.parse().into_iter().for_each(|slot| slots.keep(slot));
            failures.push(failure);
        }
    }
    failures
}

fn reap(groups: &dyn Groups, name: &str) -> Result<(), Failure> {
    if groups.is_frozen(name) {
        let _ = groups.freeze(name, false);
    }
    for process in groups.processes(name) {
        let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { continue };
        let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
        if !wait_for(&process, Some(&REAP_WAIT)) {
            let message =
                format!("failed to end what is left of a sandbox: process {pid} of cgroup {name} does not end");
            return Err(Failure::new(Code::Busy, message));
        }
    }
    remove_groups(groups, name)
}
