//! Why the store refuses or fails, the same for every backend.
//!
//! It does not choose an HTTP status; [`crate::api`] does.

use super::Spender;

/// Why a commit was refused. Nothing of it was applied.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another worker holds the task, or the task is terminal or gone.
    #[error("failed to commit task {task}: epoch {epoch} is fenced, the task is at epoch {current}")]
    Fenced {
        /// The task.
        task: String,
        /// The caller's epoch.
        epoch: u64,
        /// The task's epoch.
        current: u64,
    },
    /// The journal is not where the caller thinks.
    #[error("failed to commit task {task}: the journal ends at {found}, not at {expected}")]
    Sequence {
        /// The task.
        task: String,
        /// What the caller expected.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A shared budget would be exceeded.
    #[error("budget {scope} is exhausted")]
    Budget {
        /// The line that refused.
        scope: String,
        /// Whose reservation it refused.
        spender: Spender,
    },
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The writer's queue is full: answer 503.
    #[error("the store is overloaded: {queued} commands wait")]
    Overloaded {
        /// Commands in the queue.
        queued: usize,
    },
    /// The idempotency key was used with another request: answer 422.
    #[error("the idempotency key was used before with another request")]
    KeyReused,
    /// No space left.
    #[error("failed to write the store: the disk is full")]
    DiskFull,
    /// Another process holds the database too long.
    #[error("failed to use the store: it stayed locked for {waited_ms} ms")]
    Locked {
        /// How long was waited, ms.
        waited_ms: u64,
    },
    /// The file is damaged.
    #[error("failed to use the store at {path}: the file is damaged ({detail})")]
    Corrupt {
        /// The file.
        path: String,
        /// What SQLite or the integrity check said.
        detail: String,
    },
    /// The schema is newer than this program.
    #[error(
        "failed to open the store at {path}: its schema is version {found}, this mote knows {known}; use a newer mote"
    )]
    SchemaTooNew {
        /// The file.
        path: String,
        /// Version found.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// Another agent's.
    #[error(
        "failed to open the store at {path}: it belongs to the agent {owner}, not to {agent}; give {agent} a state folder of \
         its own (--state DIR), or, if {owner} was renamed, `mote store assign {agent} --state DIR`"
    )]
    Foreign {
        /// The file.
        path: String,
        /// The agent whose store it is.
        owner: String,
        /// The agent that wanted it.
        agent: String,
    },
    /// A bound of [`crate::limits`] was met.
    #[error("limit {name} ({max}) is reached")]
    Limit {
        /// The limit's name.
        name: &'static str,
        /// Its value.
        max: u64,
    },
    /// The first commit of a submission was refused by a shared budget; nothing was submitted.
    #[error("budget {scope} is exhausted")]
    Budget {
        /// The line that refused.
        scope: String,
    },
    /// The session takes no further task that would not wait for a person; nothing was submitted.
    #[error("session {session} is busy with task {task}")]
    SessionBusy {
        /// The session.
        session: String,
        /// The task at its head.
        task: String,
        /// What that task waits for (JSON), if it waits.
        waiting: Option<String>,
        /// Open tasks of the session.
        open: u64,
    },
    /// No such row.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// `task`, `session`, …
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The row is in a state that forbids it: answer 409.
    #[error("{what}")]
    Conflict {
        /// Why.
        what: String,
    },
    /// Anything else, with the backend's words.
    #[error("failed to {operation}: {detail}")]
    Backend {
        /// The operation.
        operation: &'static str,
        /// The backend's words.
        detail: String,
    },
}
