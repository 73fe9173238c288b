//! The keeper's loop: takes calls, hands them to the part that serves them, watches what is under way, and answers.
//!
//! It outlives no daemon: where the daemon's end of the socket closes, it gives back what serves no sandbox and ends. A call
//! that it cannot read or carry out gets a typed answer and changes nothing else.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_sys::process::{self, SingleThreaded};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;

use super::job::Job;
use super::reactor::{Reactor, Token};
use super::wire::{self, Answer};
use super::{Answered, Outcome, Progress, Settings, Verb};
use crate::filesystem;
use crate::limits::{KEEPER_TURN_POLL, KEEPER_TURN_WAIT};
use crate::namespace::keeper::Cells;
use crate::tls;

/// Why the keeper ended other than by its daemon's end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process has threads, or `/proc` cannot be read.
    #[error("failed to start the keeper: it must have one thread: {0}")]
    Threads(std::io::Error),
    /// It was not started by the daemon.
    #[error("failed to start the keeper: it reads its settings from a socket that is its standard input: {0}")]
    Settings(wire::Error),
    /// A part cannot work on this host.
    #[error("failed to start the keeper: {0}")]
    Part(Failure),
    /// The socket or epoll failed.
    #[error("failed to serve: {0}")]
    Serve(#[from] wire::Error),
}

impl Error {
    /// What the part that cannot work says itself.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Part(failure) => Some(failure),
            Self::Threads(_) | Self::Settings(_) | Self::Serve(_) => None,
        }
    }
}

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        Self::Serve(error.into())
    }
}

/// Serves the daemon at the other end of this process's standard input until that end closes.
///
/// # Errors
/// [`Error`]; where it cannot start, the daemon sees the socket close.
pub fn run() -> Result<(), Error> {
    let socket = process::inherited(0)?;
    // Children get the null device: nothing of the keeper's socket may be left in a sandbox.
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, 0o0.into())?;
    process::place(&null, 0)?;
    let (settings, _) = wire::receive::<Settings>(&socket).map_err(Error::Settings)?;
    let proof = SingleThreaded::check().map_err(Error::Threads)?;
    rustix::process::umask(0o022.into());
    rustix::io::ioctl_fionbio(&socket, true)?;
    // What the keeper mounts (the pool) is its own and goes with it; what the host mounts later still arrives.
    process::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let _turn = turn(&settings.run)?;
    let mut reactor = Reactor::new()?;
    let token = reactor.watch(&socket)?;
    let certificate = settings.tls.clone();
    let roots = filesystem::keeper::Keeper::open(settings.filesystem.clone());
    let roots = roots.map_err(Error::Part)?;
    let cells = Cells::open(settings, &proof).map_err(Error::Part)?;
    let (jobs, answers) = (HashMap::new(), VecDeque::new());
    Server { socket, token, reactor, proof, roots, cells, certificate, jobs, answers }.serve()
}

/// Waits until no other keeper serves this run directory: one whose daemon was killed is still giving back what it held.
/// The lock ends with the process, and with those of its children that never became anything else.
fn turn(run: &Path) -> Result<OwnedFd, Error> {
    let file = run.join("keeper.lock");
    let failed = |error: &dyn std::fmt::Display| {
        Error::Part(Failure::new(Code::Internal, format!("failed to lock {}: {error}", file.display())))
    };
    std::fs::create_dir_all(run).map_err(|error| failed(&error))?;
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(&error))?;
    let mut waited = Duration::ZERO;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::AGAIN) if waited < KEEPER_TURN_WAIT => {
                std::thread::sleep(KEEPER_TURN_POLL);
                waited += KEEPER_TURN_POLL;
            }
            Err(Errno::AGAIN) => return Err(failed(&"another keeper serves this directory")),
            Err(error) => return Err(failed(&error)),
        }
    }
}

struct Server {
    socket: OwnedFd,
    token: Token,
    reactor: Reactor,
    proof: SingleThreaded,
    roots: filesystem::keeper::Keeper,
    cells: Cells,
    certificate: Option<tls::Files>,
    jobs: HashMap<Token, (u64, Job)>,
    answers: VecDeque<(u64, Answered)>,
}

impl Server {
    fn serve(mut self) -> Result<(), Error> {
        loop {
            // A child at work has inherited what would be given back meanwhile.
            let timeout = if self.jobs.is_empty() { self.cells.idle_ms() } else { None };
            let ready = self.reactor.wait(timeout)?;
            if ready.is_empty() && timeout.is_some() {
                self.cells.idle(&self.proof, &mut self.reactor);
            } else if self.jobs.is_empty() {
                self.cells.settle_graves(&self.proof, &mut self.reactor);
            }
            for token in ready {
                if token == self.token {
                    match self.take_calls() {
                        Err(wire::Error::Closed | wire::Error::Socket(Errno::CONNRESET)) => {
                            self.cells.close();
                            return Ok(());
                        }
                        result => result?,
                    }
                } else if let Some((number, job)) = self.jobs.remove(&token) {
                    self.reactor.forget(job.ended());
                    self.answers.push_back((number, job.finish()));
                } else {
                    self.cells.ready(token, &mut self.reactor, &mut self.answers);
                }
            }
            self.cells.start_deferred(&self.roots, &self.proof, &mut self.reactor, &mut self.answers);
            self.send_answers()?;
        }
    }

    /// Takes every call that waits.
    fn take_calls(&mut self) -> Result<(), wire::Error> {
        loop {
            match wire::receive_call(&self.socket) {
                Ok((number, Ok(verb), descriptors)) => self.dispatch(number, verb, descriptors),
                Ok((number, Err(failure), _)) => self.answers.push_back((number, Err(failure))),
                Err(wire::Error::Socket(Errno::AGAIN)) => return Ok(()),
                Err(error) => return Err(error),
            }
            self.send_answers()?;
        }
    }

    fn dispatch(&mut self, number: u64, verb: Verb, descriptors: Vec<OwnedFd>) {
        let progress = match verb {
            Verb::Ping => Progress::Now(Ok((Outcome::Done, Vec::new()))),
            Verb::Namespace(verb) => self.cells.serve(number, verb, &self.roots, &self.proof, &mut self.reactor),
            // A child costs a millisecond; the disk may cost everybody seconds.
            Verb::Filesystem(verb) if self.roots.takes_long(&verb) => {
                let (roots, cells) = (&mut self.roots, &mut self.cells);
                let work = || {
                    cells.let_go();
                    roots.carry_out(verb, Vec::new()).map(|(outcome, _)| Outcome::Filesystem(outcome))
                };
                Job::start(&self.proof, work).map_or_else(Progress::from, Progress::Child)
            }
            Verb::Filesystem(verb) => {
                let done = self.roots.carry_out(verb, descriptors);
                Progress::Now(done.map(|(outcome, descriptors)| (Outcome::Filesystem(outcome), descriptors)))
            }
            Verb::Network(verb) => match verb {},
            Verb::Certificate => Progress::Now(match &self.certificate {
                Some(files) => tls::open(files).map(|files| (Outcome::Done, files)),
                None => Err(Failure::unsupported("tls", "the configuration names no certificate")),
            }),
        };
        match progress {
            Progress::Now(answer) => self.answers.push_back((number, answer)),
            Progress::Child(job) => match self.reactor.watch(job.ended()) {
                Ok(token) => {
                    self.jobs.insert(token, (number, job));
                }
                // Not watched, it is waited for: rare, and better than an answer that never comes.
                Err(_) => self.answers.push_back((number, job.finish())),
            },
            Progress::Later => {}
        }
    }

    fn send_answers(&mut self) -> Result<(), wire::Error> {
        while let Some((number, answer)) = self.answers.pop_front() {
            let (result, descriptors) = match answer {
                Ok((outcome, descriptors)) => (Ok(outcome), descriptors),
                Err(failure) => (Err(failure), Vec::new()),
            };
            let message = Answer { number, result };
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match wire::send(&self.socket, &message, &borrowed) {
                Ok(()) => {}
                Err(wire::Error::Socket(Errno::AGAIN)) => {
                    self.answers.push_front((number, message.result.map(|outcome| (outcome, descriptors))));
                    self.reactor.watch_writing(&self.socket, self.token, true)?;
                    return Ok(());
                }
                Err(error @ (wire::Error::TooLong(_) | wire::Error::Descriptors(_) | wire::Error::Json(_))) => {
                    self.answers.push_front((number, Err(Failure::new(Code::Internal, error.to_string()))));
                }
                // The daemon is gone: the next read says so and the keeper ends in order.
                Err(wire::Error::Socket(Errno::PIPE | Errno::CONNRESET)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.reactor.watch_writing(&self.socket, self.token, false)?;
        Ok(())
    }
}
