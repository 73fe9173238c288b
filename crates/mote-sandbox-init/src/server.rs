//! The first thread: accepts connections, reaps orphans, reads leftover pipes empty, and ends everything when asked to.
//!
//! It serves no request itself, unless no thread can be started for one that matters then.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mote_sandbox_api::guest::Reply;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::connection::Connection;
use crate::failure::{Result, failed, failed_io};
use crate::limits::{
    ACCEPT_RETRY_MS, DRAIN_CHUNK_BYTES, DRAINS_MAX, INLINE_DEADLINE_MS, REQUEST_DEADLINE_MS, THREAD_STACK_BYTES,
};
use crate::sandbox::{Permit, Sandbox, too_many_operations};
use crate::view::Pace;
use crate::{operation, termination};

/// Serves until a signal asks for the end.
pub(crate) fn serve(listener: &UnixListener, sandbox: &Arc<Sandbox>) -> Result<()> {
    listener.set_nonblocking(true).map_err(|error| failed_io("prepare the listening socket", &error))?;
    let asked = [Signal::TERM, Signal::INT, Signal::HUP].map(Signal::as_raw);
    let signals = mote_sandbox_sys::signal::descriptor(&[&asked[..], &[Signal::CHILD.as_raw()]].concat())
        .map_err(|errno| failed("receive signals", errno))?;
    let mut drains: Vec<Arc<OwnedFd>> = Vec::new();
    let mut pace = Pace::new();
    loop {
        let viewers = pace.queue(sandbox.view());
        let ready = wait(listener, &signals, sandbox, &drains, (viewers, pace.rest()))?;
        // Signals first: a child that ended lets a new one start where their number is bounded.
        if ready[1] {
            while let Ok(Some(signal)) = mote_sandbox_sys::signal::take(signals.as_fd()) {
                if asked.contains(&signal) {
                    return termination::end_sandbox(sandbox);
                }
            }
            mote_sandbox_sys::signal::reap_own_children();
        }
        let is_viewed = viewers.is_some() && ready.last() == Some(&true);
        let mut index = 3;
        drains.retain(|pipe| {
            let is_ready = ready[index];
            index += 1;
            !is_ready || drain(pipe)
        });
        if ready[2] {
            drains.extend(sandbox.take_left());
            drains.drain(..drains.len().saturating_sub(DRAINS_MAX));
        }
        if ready[0] {
            accept(listener, sandbox);
        }
        if let Some(view) = sandbox.view() {
            pace.turn(view, is_viewed, !sandbox.table().is_empty());
        }
    }
}

/// Which of them are ready: listener, signals, bell, each pipe, and the view's readers where they are listened to.
fn wait(
    listener: &UnixListener,
    signals: &OwnedFd,
    sandbox: &Sandbox,
    drains: &[Arc<OwnedFd>],
    (viewers, rest): (Option<BorrowedFd<'_>>, Option<Timespec>),
) -> Result<Vec<bool>> {
    let fixed = [listener.as_fd(), signals.as_fd(), sandbox.bell().as_fd()];
    let all = fixed.into_iter().chain(drains.iter().map(|pipe| pipe.as_fd())).chain(viewers);
    let mut polled: Vec<_> = all.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
    loop {
        match poll(&mut polled, rest.as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for connections", errno)),
            Ok(_) => return Ok(polled.iter().map(|one| !one.revents().is_empty()).collect()),
        }
    }
}

/// Reads what is there; false where nobody writes to it any more.
fn drain(pipe: &OwnedFd) -> bool {
    let mut dropped = [0_u8; DRAIN_CHUNK_BYTES];
    matches!(rustix::io::read(pipe, &mut dropped), Ok(1..) | Err(Errno::AGAIN | Errno::INTR))
}

fn accept(listener: &UnixListener, sandbox: &Arc<Sandbox>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => dispatch(stream, sandbox),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => {
                // Out of descriptors or memory: the connection stays in the queue, so look again, but not at once.
                thread::sleep(Duration::from_millis(ACCEPT_RETRY_MS));
                return;
            }
        }
    }
}

fn dispatch(stream: UnixStream, sandbox: &Arc<Sandbox>) {
    if stream.set_nonblocking(false).is_err() {
        return;
    }
    let Some(permit) = sandbox.permit() else { return serve_inline(stream, sandbox) };
    // The thread takes what it serves by a slot, so that it is still here where no thread can be started.
    let slot = Arc::new(std::sync::Mutex::new(Some((stream, permit))));
    let (theirs, shared) = (slot.clone(), sandbox.clone());
    let started = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
        let taken = crate::sandbox::held(&theirs).take();
        if let Some((stream, permit)) = taken {
            serve_connection(stream, permit, &shared);
        }
    });
    if started.is_err() {
        let taken = crate::sandbox::held(&slot).take();
        if let Some((stream, _permit)) = taken {
            serve_inline(stream, sandbox);
        }
    }
}

fn serve_connection(stream: UnixStream, permit: Permit, sandbox: &Arc<Sandbox>) {
    let mut connection = Connection::new(stream);
    match connection.request(REQUEST_DEADLINE_MS) {
        Ok(Some(request)) => operation::perform(request, connection, sandbox),
        Ok(None) => {}
        Err(failure) => {
            // The other side may be gone; there is nobody else to tell.
            let _ = connection.reply(&Reply::Failed(failure));
        }
    }
    drop(permit);
}

/// No thread is to be had (a fork bomb holds them all): only what ends processes is done now.
fn serve_inline(stream: UnixStream, sandbox: &Arc<Sandbox>) {
    let bound = Some(Duration::from_millis(INLINE_DEADLINE_MS));
    if stream.set_write_timeout(bound).is_err() {
        return;
    }
    let mut connection = Connection::new(stream);
    let answer = match connection.request(INLINE_DEADLINE_MS) {
        Ok(Some(request)) => operation::perform_urgent(&request, sandbox).unwrap_or_else(too_many_operations_reply),
        Ok(None) => return,
        Err(failure) => Reply::Failed(failure),
    };
    let _ = connection.reply(&answer);
}

fn too_many_operations_reply() -> Reply {
    Reply::Failed(too_many_operations())
}
