//! Ending processes: a started one with everything that came of it, all of them, the sandbox itself.
//!
//! It does not reap: whoever started a process waits for it, and the first thread for what was orphaned.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::failure::{Result, failed};
use crate::limits::{END_DEADLINE_MS, END_GRACE_MS, END_POLL_MS, TREE_ROUNDS_MAX};
use crate::sandbox::Sandbox;

/// One line of `/proc/PID/stat` as far as it matters here (`proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Status {
    pid: i32,
    is_dead: bool,
    parent: i32,
    group: i32,
    session: i32,
    /// Start in clock ticks: with the id it names one process for good.
    started: u64,
}

/// Kills a process that leads its session, its group, its session, and all that descend from it even where they left both.
/// What was orphaned before, in a session of its own, is not found: it is this process's own child by then.
pub(crate) fn end_tree(leader: Pid) {
    let (mut sessions, mut known) = (HashSet::from([leader.as_raw_pid()]), HashSet::from([leader.as_raw_pid()]));
    for round in 0..TREE_ROUNDS_MAX {
        let members = members(&processes(), &mut sessions, &mut known);
        if round == 0 {
            let _ = kill_process_group(leader, Signal::KILL);
        }
        let killed = members.iter().filter(|member| kill(member)).count();
        if killed == 0 {
            return;
        }
    }
}

/// The living ones among `all` that belong to a known session or descend from a known process; both sets grow.
fn members(all: &[Status], sessions: &mut HashSet<i32>, known: &mut HashSet<i32>) -> Vec<Status> {
    let mut found: Vec<Status> = Vec::new();
    loop {
        let before = found.len();
        for status in all {
            let belongs = known.contains(&status.parent)
                || known.contains(&status.pid)
                || sessions.contains(&status.session)
                || sessions.contains(&status.group);
            if belongs && !found.iter().any(|member| member.pid == status.pid) {
                known.insert(status.pid);
                sessions.insert(status.session);
                found.push(status.clone());
            }
        }
        if found.len() == before {
            found.retain(|member| !member.is_dead);
            return found;
        }
    }
}

/// Kills one process, unless its id is another's by now; whether it was there.
fn kill(status: &Status) -> bool {
    let Some(pid) = Pid::from_raw(status.pid) else { return false };
    let Ok(pidfd): rustix::io::Result<OwnedFd> = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let is_same = read_status(status.pid).is_some_and(|now| now.started == status.started);
    is_same && pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}

fn processes() -> Vec<Status> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter_map(read_status).collect()
}

fn read_status(pid: i32) -> Option<Status> {
    parse_status(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_status(pid: i32, line: &str) -> Option<Status> {
    // The name, in parentheses, may hold anything, parentheses and spaces included.
    let mut fields = line[line.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    let (parent, group, session) = (number()?, number()?, number()?);
    // Field 22; four of those after the name are read.
    let started = fields.nth(15)?.parse().ok()?;
    Some(Status { pid, is_dead: state == "Z" || state == "X", parent, group, session, started })
}

/// Kills every process but this one, and waits until they are gone.
pub(crate) fn end_all(sandbox: &Sandbox) -> Result<()> {
    for _ in 0..END_DEADLINE_MS / END_POLL_MS {
        if !signal_all(sandbox, Signal::KILL)? {
            return Ok(());
        }
        // In the first thread (where no other can be made) nobody else does.
        mote_sandbox_sys::signal::reap_own_children();
        thread::sleep(Duration::from_millis(END_POLL_MS));
    }
    Err(Failure::new(Code::Timeout, "failed to end every process: some do not end").with("limit_ms", END_DEADLINE_MS))
}

/// Sends a signal to every process but this one; whether there was any, one that is dead and not yet reaped included.
fn signal_all(sandbox: &Sandbox, signal: Signal) -> Result<bool> {
    if sandbox.is_first {
        // A group of 1 stands for -1: all processes of this namespace but the first.
        return match kill_process_group(Pid::INIT, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(errno) => Err(failed("signal every process", errno)),
        };
    }
    let own = getpid().as_raw_pid();
    let mut known = HashSet::from([own]);
    let all: Vec<Status> = processes().into_iter().filter(|status| status.pid != own).collect();
    let descendants = members(&all, &mut HashSet::new(), &mut known);
    for pid in descendants.iter().filter_map(|status| Pid::from_raw(status.pid)) {
        let _ = rustix::process::kill_process(pid, signal);
    }
    Ok(!descendants.is_empty())
}

/// Asks every process to end, kills what has not within the grace, and returns so that this one ends, too.
pub(crate) fn end_sandbox(sandbox: &Sandbox) -> Result<()> {
    let mut any = signal_all(sandbox, Signal::TERM)?;
    // A stopped process acts on the signal only when it goes on.
    signal_all(sandbox, Signal::CONT)?;
    for _ in 0..END_GRACE_MS / END_POLL_MS {
        if !any {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(END_POLL_MS));
        mote_sandbox_sys::signal::reap_own_children();
        any = signal_all(sandbox, Signal::CONT)?;
    }
    end_all(sandbox)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn status(pid: i32, parent: i32, session: i32) -> Status {
        Status { pid, is_dead: false, parent, group: session, session, started: 1 }
    }

    #[test]
    fn a_status_line_is_read_whatever_the_name_of_the_program() {
        let line = "7 (a) R 1 (b)) S 3 7 6 0 -1 4194304 100 0 0 0 1 2 3 4 20 0 1 0 4242 1000 10 184467";
        let expected = Status { pid: 7, is_dead: false, parent: 3, group: 7, session: 6, started: 4242 };
        assert_eq!(parse_status(7, line), Some(expected));
        assert_eq!(parse_status(7, "7 (cut"), None);
    }

    #[test]
    fn a_tree_holds_the_session_its_jobs_and_those_that_left_it() {
        let all = [
            status(2, 1, 2), // the leader
            status(3, 2, 2), // a child
            status(4, 3, 4), // a grandchild with a session of its own
            status(5, 1, 4), // orphaned, in that session
            status(6, 1, 6), // another process
            status(7, 6, 6), // and its child
        ];
        let (mut sessions, mut known) = (HashSet::from([2]), HashSet::from([2]));
        let found: Vec<i32> = members(&all, &mut sessions, &mut known).iter().map(|member| member.pid).collect();
        assert_eq!(found, [2, 3, 4, 5]);
    }
}
