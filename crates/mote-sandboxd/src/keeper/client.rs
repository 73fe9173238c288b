//! The daemon's side of the keeper: any task may call; one task writes and reads the socket.
//!
//! It does not start the keeper (`main` does, before there are threads) and does not restart one: without its keeper the
//! daemon can do nothing and ends.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use mote_sandbox_api::error::{Code, Failure};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::wire::{self, Answer, Call};
use super::{Outcome, Verb};
use crate::descriptor;
use crate::limits::KEEPER_QUEUE_MAX;

type Reply = oneshot::Sender<Result<(Outcome, Vec<OwnedFd>), Failure>>;

/// A handle on the keeper; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    queue: mpsc::Sender<(Verb, Vec<OwnedFd>, Reply)>,
}

impl Client {
    /// Takes the daemon's end of the socket pair, and starts the task that serves it.
    ///
    /// # Errors
    /// Where the socket cannot be watched.
    pub fn start(socket: OwnedFd) -> std::io::Result<Self> {
        let socket = descriptor::watch(socket)?;
        let (queue, calls) = mpsc::channel(KEEPER_QUEUE_MAX);
        tokio::spawn(serve(socket, calls));
        Ok(Self { queue })
    }

    /// Asks, and waits for what comes of it.
    ///
    /// # Errors
    /// The keeper's refusal; `exhausted` where too many calls wait; `internal` where the keeper is gone.
    pub async fn call(&self, verb: Verb) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        self.call_with(verb, Vec::new()).await
    }

    /// [`Self::call`] with descriptors for the keeper.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_with(&self, verb: Verb, descriptors: Vec<OwnedFd>) -> Result<(Outcome, Vec<OwnedFd>), Failure> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send((verb, descriptors, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Failure::new(Code::Exhausted, "too many operations wait for the keeper").with("limit", KEEPER_QUEUE_MAX)
            }
            mpsc::error::TrySendError::Closed(_) => keeper_gone(),
        })?;
        answer.await.unwrap_or_else(|_| Err(keeper_gone()))
    }
}

fn keeper_gone() -> Failure {
    Failure::new(Code::Internal, "the keeper is gone")
}

async fn serve(socket: AsyncFd<OwnedFd>, mut calls: mpsc::Receiver<(Verb, Vec<OwnedFd>, Reply)>) {
    let mut waiting: HashMap<u64, Reply> = HashMap::new();
    let mut number = 0;
    loop {
        tokio::select! {
            call = calls.recv() => {
                let Some((verb, descriptors, reply)) = call else { return };
                number += 1;
                match write(&socket, &Call { number, verb }, &descriptors).await {
                    Ok(()) => { waiting.insert(number, reply); }
                    Err(error) => { let _ = reply.send(Err(Failure::new(Code::Internal, error.to_string()))); }
                }
            }
            answer = read(&socket) => match answer {
                Ok((answer, descriptors, is_cut)) => {
                    if let Some(reply) = waiting.remove(&answer.number) {
                        let whole = if is_cut { Err(descriptor::used_up("failed to take what the keeper made")) } else { Ok(()) };
                        let result = answer.result.and_then(|outcome| whole.map(|()| (outcome, descriptors)));
                        let _ = reply.send(result);
                    }
                }
                Err(error) => {
                    tracing::error!(error = %error, "the keeper is gone");
                    return;
                }
            },
        }
    }
}

async fn write(socket: &AsyncFd<OwnedFd>, call: &Call, descriptors: &[OwnedFd]) -> Result<(), wire::Error> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    loop {
        let mut guard = socket.writable().await.map_err(|_| wire::Error::Closed)?;
        match wire::send(socket.get_ref(), call, &descriptors) {
            Err(wire::Error::Socket(Errno::AGAIN)) => guard.clear_ready(),
            result => return result,
        }
    }
}

async fn read(socket: &AsyncFd<OwnedFd>) -> Result<(Answer, Vec<OwnedFd>, bool), wire::Error> {
    loop {
        let mut guard = socket.readable().await.map_err(|_| wire::Error::Closed)?;
        match wire::receive_cut(socket.get_ref()) {
            Err(wire::Error::Socket(Errno::AGAIN)) => guard.clear_ready(),
            result => return result,
        }
    }
}
