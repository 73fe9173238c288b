//! From a request to the part that carries it out: the one list of what can be asked.
//!
//! It carries out nothing itself beyond what takes a line.

use std::path::Path;
use std::sync::Arc;

use mote_sandbox_api::guest::{Configuration, FileTarget, PROTOCOL, RawPath, Reply, Request, Rights};

use crate::account::{Accounts, User};
use crate::connection::Connection;
use crate::failure::{Result, failed};
use crate::file::reach::Aim;
use crate::file::{Place, change, list, read, watch, write};
use crate::process::{self, Role};
use crate::sandbox::Sandbox;
use crate::{dial, marks, provision, termination};

/// Serves one connection to its end. What fails is told to the other side; where that fails, there is nobody left.
pub(crate) fn perform(request: Request, mut connection: Connection, sandbox: &Arc<Sandbox>) {
    let answer = match request {
        Request::Start(start) => match process::start::start(start, sandbox) {
            Ok(begun) => return process::supervisor::supervise(begun, connection, sandbox),
            Err(failure) => Err(failure),
        },
        Request::Attach(selector) => match process::follow(&selector, Role::Attached, connection, sandbox) {
            Ok(()) => return,
            Err((failure, returned)) => return tell(returned, &Reply::Failed(failure)),
        },
        Request::Input(selector) => match process::follow(&selector, Role::Input, connection, sandbox) {
            Ok(()) => return,
            Err((failure, returned)) => return tell(returned, &Reply::Failed(failure)),
        },
        Request::Configure(configuration) => match check(&configuration) {
            Ok(()) => {
                if sandbox.is_first {
                    // A root in which they cannot be made runs without them.
                    let _ = marks::leave(&configuration.env, Path::new("/"));
                }
                sandbox.configure(configuration);
                tell(connection, &Reply::Done);
                // The first program would wait for its account and the view: they are made now, while the other side goes on.
                // Where that fails, who needs the account is told.
                let _ = user(None, sandbox);
                sandbox.refresh_view();
                return;
            }
            Err(failure) => Err(failure),
        },
        request => answer(request, &mut connection, sandbox),
    };
    match answer {
        Ok(Some(reply)) => tell(connection, &reply),
        Ok(None) => {}
        Err(failure) => tell(connection, &Reply::Failed(failure)),
    }
}

fn tell(mut connection: Connection, reply: &Reply) {
    if let Err(failure) = connection.reply(reply) {
        // A reply that is longer than a frame can still be named; a connection that is gone cannot.
        let _ = connection.reply(&Reply::Failed(failure));
    }
}

/// The last reply of an operation; nothing where the operation sent it itself.
fn answer(request: Request, connection: &mut Connection, sandbox: &Arc<Sandbox>) -> Result<Option<Reply>> {
    if let Some(reply) = perform_urgent(&request, sandbox) {
        return Ok(Some(reply));
    }
    match request {
        Request::Processes => {
            process::list(connection, sandbox)?;
            return Ok(None);
        }
        Request::Resize { process, size } => process::resize(&process, size, sandbox)?,
        Request::Stat(target) => return Ok(Some(Reply::Entry(Box::new(place(&target, STAY, sandbox)?.entry()?)))),
        Request::List { target, depth } => {
            list::list(&place(&target, FOLLOW, sandbox)?, depth, connection)?;
            return Ok(None);
        }
        Request::MakeDirectory(target) => {
            return Ok(Some(Reply::Entry(Box::new(change::make_directory(&place(&target, MAKE, sandbox)?)?))));
        }
        Request::Move { from, to } => {
            let (from, to) = two_places(&from, to, sandbox)?;
            return Ok(Some(Reply::Entry(Box::new(change::rename(&from, &to)?))));
        }
        Request::Link { target, to } => {
            return Ok(Some(Reply::Entry(Box::new(change::link(&place(&target, MAKE, sandbox)?, &to)?))));
        }
        Request::Remove(target) => change::remove(&place(&target, STAY, sandbox)?)?,
        Request::Read { target, offset, length } => {
            read::read(&place(&target, FOLLOW, sandbox)?, offset, length, connection)?;
            return Ok(None);
        }
        Request::Write { target, writing } => {
            let place = place(&target, Aim { follow: true, make: true }, sandbox)?;
            return write::write(&place, &writing, connection)
                .map(|entry| entry.map(|entry| Reply::Entry(Box::new(entry))));
        }
        Request::Watch { target, recursive } => {
            watch::watch(&place(&target, FOLLOW, sandbox)?, recursive, connection)?;
            return Ok(None);
        }
        Request::Dial { port } => {
            dial::dial(port, connection)?;
            return Ok(None);
        }
        Request::Sync => crate::file::sync::sync()?,
        Request::Hello
        | Request::Configure(_)
        | Request::Start(_)
        | Request::Attach(_)
        | Request::Input(_)
        | Request::Signal { .. }
        | Request::EndAll => {}
    }
    Ok(Some(Reply::Done))
}

/// What can be answered without a thread or a process of its own, so that a sandbox in which neither can be made is still
/// under control.
pub(crate) fn perform_urgent(request: &Request, sandbox: &Arc<Sandbox>) -> Option<Reply> {
    let done = match request {
        Request::Hello => return Some(Reply::Hello { protocol: PROTOCOL }),
        Request::Signal { process, signal } => process::signal(process, *signal, sandbox),
        Request::EndAll => termination::end_all(sandbox),
        _ => return None,
    };
    Some(done.map_or_else(Reply::Failed, |()| Reply::Done))
}

fn check(configuration: &Configuration) -> Result<()> {
    process::start::check_environment(&configuration.env)
}

const STAY: Aim = Aim { follow: false, make: false };
const FOLLOW: Aim = Aim { follow: true, make: false };
const MAKE: Aim = Aim { follow: false, make: true };

/// Resolves a path and, on this thread, becomes its user for files, or stays root where root's rights are asked for and lead
/// there. The thread serves nothing else afterwards.
fn place(target: &FileTarget, aim: Aim, sandbox: &Sandbox) -> Result<Place> {
    let mut place = unreached(target, &target.path, sandbox)?;
    if !as_root(target, &place) || !place.reach(aim)? {
        become_user(&place)?;
    }
    Ok(place)
}

/// The same for a path and where it is to be; root's rights lead to both, or to none.
fn two_places(target: &FileTarget, to: RawPath, sandbox: &Sandbox) -> Result<(Place, Place)> {
    let mut from = unreached(target, &target.path, sandbox)?;
    let mut to = unreached(target, &to, sandbox)?;
    if !as_root(target, &from) {
        become_user(&from)?;
    } else if from.reach(STAY)? {
        // Before directories are made for nothing.
        from.entry()?;
        if !to.reach(MAKE)? {
            from.leave();
            become_user(&from)?;
        }
    } else {
        become_user(&from)?;
    }
    Ok((from, to))
}

fn unreached(target: &FileTarget, path: &RawPath, sandbox: &Sandbox) -> Result<Place> {
    let (user, accounts) = user(target.user.as_deref(), sandbox)?;
    let place = Place::new(path, user, accounts)?;
    Ok(if target.rights == Rights::Root { place.cleaned() } else { place })
}

/// For root itself the kernel's own way is the right one: its rights are what was asked for.
fn as_root(target: &FileTarget, place: &Place) -> bool {
    target.rights == Rights::Root && place.user().identity.uid != 0
}

fn become_user(place: &Place) -> Result<()> {
    let user = place.user();
    user.identity
        .assume_for_files()
        .map_err(|errno| failed(format_args!("act in the name of user {:?}", user.name), errno))
}

/// The user that is named, or the sandbox's default, or root; and all accounts. An image that lacks the account that
/// sandboxes use gets it when it is first needed, or told to be the default; where it cannot be made, its id is used without it.
pub(crate) fn user(named: Option<&str>, sandbox: &Sandbox) -> Result<(User, Accounts)> {
    let configuration = sandbox.configuration();
    let name = named.or(configuration.user.as_deref()).unwrap_or("root");
    let accounts = Accounts::read();
    match accounts.user(name) {
        Err(_) if name.split(':').next() == Some(provision::USER) && sandbox.is_first => {
            let made = provision::provide(Path::new("/"));
            let accounts = Accounts::read();
            let number = name.replacen(provision::USER, &format!("{id}:{id}", id = provision::USER_ID), 1);
            let user = accounts.user(if made.is_ok() { name } else { &number })?;
            Ok((user, accounts))
        }
        found => Ok((found?, accounts)),
    }
}
