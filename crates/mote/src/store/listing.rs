//! What lists of tasks and sessions are asked for, and their pages. How a backend finds the rows is its own.

use std::collections::BTreeMap;

use super::{Session, Status, Task};
use crate::clock::UnixMs;

/// Which tasks to list. Empty fields do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Tenant; `None` sees every tenant (an unbound key).
    pub tenant: Option<String>,
    /// User.
    pub user: Option<String>,
    /// Session.
    pub session: Option<String>,
    /// Status.
    pub status: Option<Status>,
    /// Labels that must all match.
    pub labels: BTreeMap<String, String>,
    /// Only dead letters.
    pub dead: bool,
    /// Submitted later than this.
    pub created_after: Option<UnixMs>,
    /// Submitted earlier than this.
    pub created_before: Option<UnixMs>,
}

/// One page, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<String>,
}

/// One page of sessions, by tenant and name.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPage {
    /// The sessions, without their transcripts.
    pub sessions: Vec<Session>,
    /// Tenant and name of the last one, where there are more.
    pub next: Option<(String, String)>,
}
