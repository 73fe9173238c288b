//! How a verb travels: one JSON message a packet over a `SOCK_SEQPACKET` pair, descriptors beside it.
//!
//! Both ends are this program, started together, so there is no version. It does not wait: callers do.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mote_sandbox_api::error::Failure;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Outcome, Verb};
use crate::limits::{KEEPER_DESCRIPTORS_MAX, KEEPER_MESSAGE_BYTES_MAX};

/// A verb with the number that its answer will carry: answers may come in another order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the daemon.
    pub number: u64,
    /// What is asked.
    pub verb: Verb,
}

/// What came of a [`Call`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The call's.
    pub number: u64,
    /// What came of it.
    pub result: Result<Outcome, Failure>,
}

/// Why a message could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed; `AGAIN` where it is not ready.
    #[error("failed to pass a message between daemon and keeper: {0}")]
    Socket(#[from] Errno),
    /// The other end is gone.
    #[error("the other end of the keeper's socket is closed")]
    Closed,
    /// The message is longer than a packet may be.
    #[error("a message of {0} bytes is longer than {KEEPER_MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    /// More descriptors than may travel.
    #[error("{0} descriptors are more than {KEEPER_DESCRIPTORS_MAX}")]
    Descriptors(usize),
    /// The message is not what it should be: a defect.
    #[error("failed to read a message between daemon and keeper: {0}")]
    Json(#[from] serde_json::Error),
}

/// Sends one message with its descriptors.
///
/// # Errors
/// [`Error::Socket`] with `AGAIN` where a socket that does not block is full; the rest of [`Error`] otherwise.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > KEEPER_MESSAGE_BYTES_MAX {
        return Err(Error::TooLong(bytes.len()));
    }
    if descriptors.len() > KEEPER_DESCRIPTORS_MAX {
        return Err(Error::Descriptors(descriptors.len()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KEEPER_DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::Descriptors(descriptors.len()));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors (close-on-exec).
///
/// # Errors
/// [`Error::Socket`] with `AGAIN` where nothing is there on a socket that does not block; the rest of [`Error`] otherwise.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), Error> {
    match receive_cut(socket)? {
        (_, _, true) => Err(Error::Socket(Errno::MFILE)),
        (message, descriptors, false) => Ok((message, descriptors)),
    }
}

/// [`receive`], and whether descriptors are missing because this process may have no more: the message itself is whole.
///
/// # Errors
/// As [`receive`].
pub fn receive_cut<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>, bool), Error> {
    let mut bytes = vec![0; KEEPER_MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KEEPER_DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if received.bytes == 0 {
        return Err(Error::Closed);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::TooLong(received.bytes));
    }
    let is_cut = received.flags.contains(ReturnFlags::CTRUNC);
    Ok((serde_json::from_slice(&bytes[..received.bytes])?, descriptors, is_cut))
}

/// The head of a [`Call`], read where the verb itself cannot be.
#[derive(Deserialize)]
struct Head {
    number: u64,
}

/// The number of a [`Call`], its verb or the failure to answer it with, and the descriptors beside it.
pub type Received = (u64, Result<Verb, Failure>, Vec<OwnedFd>);

/// Receives a [`Call`]. A verb that cannot be read comes as the failure to answer it with.
///
/// # Errors
/// As [`receive`]; [`Error::Json`] only where not even the call's number can be read.
pub fn receive_call(socket: impl AsFd) -> Result<Received, Error> {
    // Verbs carry none that are needed: one that is missing is no matter.
    let (call, descriptors, _) = receive_cut::<Box<serde_json::value::RawValue>>(socket)?;
    Ok(match serde_json::from_str::<Call>(call.get()) {
        Ok(call) => (call.number, Ok(call.verb), descriptors),
        Err(error) => {
            let head: Head = serde_json::from_str(call.get())?;
            (head.number, Err(Failure::invalid("verb", error)), descriptors)
        }
    })
}
