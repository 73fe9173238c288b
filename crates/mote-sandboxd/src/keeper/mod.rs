//! The keeper: the one process with privilege. It takes one verb at a time over a socket pair, carries it out, and answers.
//!
//! Verbs name things by id, never by a path that a caller chose: the keeper itself knows where its pool and its cgroups
//! are. It parses no byte of a guest or a stranger: what does that (unpacking, diffing, proxying) runs elsewhere, without
//! privilege. It is single-threaded: forking is then safe.

pub mod client;
pub mod job;
pub mod reactor;
pub mod server;
pub mod settings;
pub mod start;
pub mod wire;

use std::os::fd::OwnedFd;

use mote_sandbox_api::error::Failure;
use serde::{Deserialize, Serialize};

pub use settings::Settings;
pub use start::spawn;

/// What the daemon can ask of the keeper, by the part that answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Are you there?
    Ping,
    /// Namespaces, cgroups, processes.
    Namespace(crate::namespace::keeper::Verb),
    /// Roots, snapshots, volumes, quotas.
    Filesystem(crate::filesystem::keeper::Verb),
    /// What has to be made inside a sandbox's network namespace.
    Network(crate::network::keeper::Verb),
    /// The files of the API's certificate, by the paths of the settings.
    Certificate,
}

/// What came of a verb. Descriptors travel beside it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done; there is nothing to tell.
    Done,
    /// Of [`Verb::Namespace`].
    Namespace(crate::namespace::keeper::Outcome),
    /// Of [`Verb::Filesystem`].
    Filesystem(crate::filesystem::keeper::Outcome),
    /// Of [`Verb::Network`].
    Network(crate::network::keeper::Outcome),
}

/// What is answered to a verb, with the descriptors that travel beside it.
pub type Answered = Result<(Outcome, Vec<OwnedFd>), Failure>;

/// What a part of the keeper makes of a verb.
#[derive(Debug)]
pub enum Progress {
    /// It is carried out, or refused.
    Now(Answered),
    /// A child carries it out; the answer is what the child says. For what takes longer than a few milliseconds.
    Child(job::Job),
    /// The part itself answers later, under the call's number.
    Later,
}

impl From<Result<Outcome, Failure>> for Progress {
    fn from(result: Result<Outcome, Failure>) -> Self {
        Self::Now(result.map(|outcome| (outcome, Vec::new())))
    }
}

impl From<Failure> for Progress {
    fn from(failure: Failure) -> Self {
        Self::Now(Err(failure))
    }
}
