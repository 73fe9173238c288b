//! Processes that were started here: the table of those that live, and how other connections reach one.
//!
//! The thread that started a process serves it and waits for it; nothing here does.

mod follower;
mod input;
mod output;
pub(crate) mod start;
pub(crate) mod supervisor;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Process, Selector, TerminalSize};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::connection::{Connection, List};
use crate::failure::{Result, failed};
use crate::limits::FOLLOWERS_MAX;
use crate::sandbox::{Sandbox, held, ring};

/// Highest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// The processes that live.
#[derive(Debug, Default)]
pub(crate) struct Table {
    handles: Vec<Arc<Handle>>,
    /// Tags of processes that are being started.
    reserved: Vec<String>,
}

/// What other threads know of a process.
#[derive(Debug)]
pub(crate) struct Handle {
    pid: Pid,
    tag: Option<String>,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    terminal: Option<Arc<OwnedFd>>,
    bell: OwnedFd,
    /// Connections for the thread that serves the process; nothing where it takes no more.
    mailbox: Mutex<Option<Vec<(Role, Connection)>>>,
    dropped_bytes: AtomicU64,
}

/// What a connection is to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It started the process.
    Owner,
    /// It follows the output, and may send input.
    Attached,
    /// It sends input only.
    Input,
}

impl Table {
    /// Nothing runs that was started here.
    pub(crate) fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    fn find(&self, selector: &Selector) -> Result<&Arc<Handle>> {
        let found = self.handles.iter().find(|handle| match selector {
            Selector::Pid(pid) => i64::from(handle.pid.as_raw_pid()) == i64::from(*pid),
            Selector::Tag(tag) => handle.tag.as_ref() == Some(tag),
        });
        found.ok_or_else(|| match selector {
            Selector::Pid(pid) => Failure::not_found("process", &pid.to_string()),
            Selector::Tag(tag) => Failure::not_found("process", tag),
        })
    }

    /// Keeps a tag for a process that is about to be started.
    fn reserve(&mut self, tag: &str) -> Result<()> {
        let taken = self.handles.iter().filter_map(|handle| handle.tag.as_ref()).chain(&self.reserved);
        if taken.into_iter().any(|other| other == tag) {
            let message = format!("failed to start: a process with the tag {tag:?} runs");
            return Err(Failure::new(Code::Conflict, message).with("tag", tag));
        }
        self.reserved.push(tag.to_owned());
        Ok(())
    }

    fn release(&mut self, tag: &str) {
        self.reserved.retain(|other| other != tag);
    }

    fn insert(&mut self, handle: Arc<Handle>) {
        if let Some(tag) = &handle.tag {
            self.release(tag);
        }
        self.handles.push(handle);
    }

    /// Takes a process out, before it is waited for: no id stays here that could become another's.
    fn remove(&mut self, handle: &Arc<Handle>) {
        self.handles.retain(|other| !Arc::ptr_eq(other, handle));
    }
}

impl Handle {
    /// Takes the connections that came since the last call; with `close`, none can come from now on.
    fn take_mail(&self, close: bool) -> Vec<(Role, Connection)> {
        let mut mailbox = held(&self.mailbox);
        if close {
            mailbox.take().unwrap_or_default()
        } else {
            mailbox.as_mut().map(std::mem::take).unwrap_or_default()
        }
    }

    fn drop_output(&self, bytes: usize) {
        self.dropped_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn describe(&self) -> Process {
        Process {
            pid: self.pid.as_raw_pid().unsigned_abs(),
            tag: self.tag.clone(),
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            terminal: self.terminal.is_some(),
            dropped_bytes: self.dropped_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Hands a connection over to the thread that serves a process. Where that fails, it comes back to be told so.
pub(crate) fn follow(
    selector: &Selector,
    role: Role,
    connection: Connection,
    sandbox: &Sandbox,
) -> std::result::Result<(), (Failure, Connection)> {
    let handle = match sandbox.table().find(selector) {
        Ok(handle) => handle.clone(),
        Err(failure) => return Err((failure, connection)),
    };
    let mut mailbox = held(&handle.mailbox);
    match mailbox.as_mut() {
        None => Err((Failure::new(Code::NotFound, "the process has just ended").with("kind", "process"), connection)),
        Some(waiting) if waiting.len() >= FOLLOWERS_MAX => Err((too_many_followers(), connection)),
        Some(waiting) => {
            waiting.push((role, connection));
            ring(&handle.bell);
            Ok(())
        }
    }
}

fn too_many_followers() -> Failure {
    Failure::new(Code::Exhausted, "too many connections follow this process").with("limit", FOLLOWERS_MAX)
}

/// Sends a signal to a process's group.
pub(crate) fn signal(selector: &Selector, number: i32, sandbox: &Sandbox) -> Result<()> {
    let signal = (1..=SIGNAL_MAX).contains(&number).then(|| Signal::from_named_raw(number)).flatten();
    let Some(signal) = signal else {
        return Err(Failure::invalid("signal", format_args!("{number} is not the number of a signal")));
    };
    // The lock is held until the signal is sent: what is in the table is not reaped meanwhile, so the id is still its own.
    let table = sandbox.table();
    let handle = table.find(selector)?;
    kill_process_group(handle.pid, signal).map_err(|errno| failed("signal the process", errno))
}

/// Changes the size of a process's terminal.
pub(crate) fn resize(selector: &Selector, size: TerminalSize, sandbox: &Sandbox) -> Result<()> {
    let handle = sandbox.table().find(selector)?.clone();
    let Some(terminal) = &handle.terminal else {
        return Err(Failure::new(Code::Invalid, "failed to resize: the process does not run on a terminal"));
    };
    tcsetwinsize(terminal, window(size)).map_err(|errno| failed("resize the terminal", errno))
}

fn window(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Sends the list of processes.
pub(crate) fn list(connection: &mut Connection, sandbox: &Sandbox) -> Result<()> {
    let handles = sandbox.table().handles.clone();
    let mut list = List::new("processes");
    for handle in handles {
        list.push(&handle.describe(), connection)?;
    }
    connection.reply_list(list)
}
