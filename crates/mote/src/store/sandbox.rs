//! The sandboxes that the agent works in, as the store keeps them: whose they are, and which are to be given back.
//!
//! It knows no daemon: an id, an address and a digest are text to it.

use crate::clock::UnixMs;

/// Whose sandbox it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SandboxScope {
    /// A session's, kept across its turns.
    Session {
        /// Tenant.
        tenant: String,
        /// Session.
        session: String,
    },
    /// A task's, given back when the task ends.
    Task(String),
}

/// A sandbox that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSandbox {
    /// Whose.
    pub scope: SandboxScope,
    /// The daemon's address.
    pub url: String,
    /// The idempotency key of its creation, by which it is found again where the answer was lost.
    pub creation: String,
    /// Digest of what it is made of.
    pub spec: String,
    /// When.
    pub now: UnixMs,
    /// The row that it takes the place of, and why; that one is given back.
    pub replaces: Option<(i64, String)>,
}

/// A sandbox's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRow {
    /// The row.
    pub row: i64,
    /// Counts the sandboxes that its owner has had, from 1.
    pub generation: u64,
    /// The daemon's address.
    pub url: String,
    /// The idempotency key of its creation.
    pub creation: String,
    /// Digest of what it is made of.
    pub spec: String,
    /// Its id at the daemon; `None` while it is being made, or where the answer was lost.
    pub sandbox: Option<String>,
    /// Why the one before it is no more.
    pub reason: Option<String>,
    /// Whether the model has heard that it is a fresh one.
    pub told: bool,
    /// Whether Python was used in it.
    pub python: bool,
    /// When it was entered here.
    pub created_at: UnixMs,
    /// Removals tried in vain.
    pub attempts: u32,
}

/// What becomes of a sandbox's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxChange {
    /// The daemon made it.
    Made {
        /// Its id there.
        sandbox: String,
    },
    /// A call tells the model that the sandbox is a fresh one. It counts as told once that call's end is known.
    Told {
        /// The task.
        task: String,
        /// The call's idempotency key.
        call: String,
    },
    /// Python was used in it.
    Python,
    /// It could not be removed; tried again at this time.
    Retry(UnixMs),
    /// It is no more.
    Gone,
}
