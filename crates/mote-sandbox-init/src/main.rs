//! The first process inside a sandbox: reaps what is orphaned, starts processes, and serves the guest's side of
//! `mote_sandbox_api::guest` on the listening socket that it inherits as descriptor 3 (or makes, with `--listen PATH`). With `--view`
//! it inherits the directory of the files that show the sandbox's bounds as descriptor 4.
//!
//! It holds no policy and no secret: whatever it refuses, the sandbox's namespaces refuse already.

mod account;
mod connection;
mod dial;
mod failure;
mod file;
mod limits;
mod marks;
mod operation;
mod process;
mod provision;
mod sandbox;
mod server;
mod termination;
mod view;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getpid, getrlimit, set_child_subreaper, setrlimit};

use crate::failure::{Result, failed, failed_io};
use crate::sandbox::Sandbox;

/// Number of the listening socket that the keeper passes on.
const SOCKET: i32 = 3;
/// Number of the directory with the files of the view.
const VIEW: i32 = 4;
/// Tells that there is one.
const VIEW_OPTION: &str = "--view";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "mote-sandbox-init: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<()> {
    // Before there is another thread, so that all have it.
    mote_sandbox_sys::signal::block_all();
    let listener = listener(&arguments)?;
    let is_first = getpid().is_init();
    if !is_first {
        set_child_subreaper(Some(getpid())).map_err(|errno| failed("adopt orphans", errno))?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let view = if arguments.iter().any(|argument| argument == VIEW_OPTION) { Some(view()?) } else { None };
    let sandbox = Arc::new(Sandbox::new(raise_open_files(), is_first, view)?);
    server::serve(&listener, &sandbox)
}

fn view() -> Result<OwnedFd> {
    mote_sandbox_sys::inherited::copy(VIEW)
        .map_err(|errno| failed(format_args!("take the view's directory, descriptor {VIEW}"), errno))
}

fn listener(arguments: &[OsString]) -> Result<UnixListener> {
    match arguments {
        [] => inherited(),
        [option] if option == VIEW_OPTION => inherited(),
        [option, path] if option == "--listen" => UnixListener::bind(path)
            .map_err(|error| failed_io(format_args!("listen on {}", path.to_string_lossy()), &error)),
        _ => Err(mote_sandbox_api::error::Failure::invalid("arguments", "expected none, --view, or --listen PATH")),
    }
}

fn inherited() -> Result<UnixListener> {
    let socket = mote_sandbox_sys::inherited::copy(SOCKET)
        .map_err(|errno| failed(format_args!("take the listening socket, descriptor {SOCKET}"), errno))?;
    Ok(UnixListener::from(socket))
}

/// This process may have a descriptor or several for each process and connection; programs get what it was given.
fn raise_open_files() -> Option<(u64, u64)> {
    let given = getrlimit(Resource::Nofile);
    let (soft, hard) = (given.current?, given.maximum?);
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: Some(hard) }).ok()?;
    Some((soft, hard))
}
