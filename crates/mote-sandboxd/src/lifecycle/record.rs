//! What is kept of a sandbox, and what callers are told of it.
//!
//! It holds no handle on anything that lives: a record outlives the daemon.

use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::{PauseKind, Sandbox};
use mote_sandbox_api::spec::{ImageSource, Spec};
use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;

/// A sandbox as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `sb` and 20 characters of base32.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// It was paused when the snapshot or fork that is under way began.
    #[serde(default)]
    pub resting: bool,
    /// How it is made: complete, the profile's defaults filled in.
    pub spec: Spec,
    /// The image below it, by id.
    pub image: String,
    /// Substrate that carries it.
    pub substrate: String,
    /// When it was made, or claimed from the warm pool.
    pub created_ms: UnixMs,
    /// When its lease runs out.
    #[serde(default)]
    pub lease_ends_ms: Option<UnixMs>,
    /// When it is removed whatever happens.
    #[serde(default)]
    pub deadline_ms: Option<UnixMs>,
    /// The sandbox it was forked from.
    #[serde(default)]
    pub parent: Option<String>,
    /// The snapshot its filesystem started from.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// How it is paused, where it is.
    #[serde(default)]
    pub pause: Option<PauseKind>,
    /// The snapshot that a rollback under way leads to.
    #[serde(default)]
    pub rolling_back_to: Option<String>,
    /// Why it failed or ended.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it ended.
    #[serde(default)]
    pub ended_ms: Option<UnixMs>,
    /// It waits in the warm pool: nobody was told of it.
    #[serde(default)]
    pub pooled: bool,
    /// The idempotency key under which it was made, as `Key::digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_under: Option<String>,
}

impl Record {
    /// What callers are told: no token.
    #[must_use]
    pub fn told(&self) -> Sandbox {
        Sandbox {
            id: self.id.clone(),
            state: self.state,
            substrate: self.substrate.clone(),
            profile: self.spec.profile,
            image: self.spec.image.clone().unwrap_or_else(|| ImageSource::Name(self.image.clone())),
            metadata: self.spec.metadata.clone(),
            created_ms: self.created_ms,
            lease_ends_ms: self.lease_ends_ms,
            deadline_ms: self.deadline_ms,
            parent: self.parent.clone(),
            snapshot: self.snapshot.clone(),
            pause: self.pause,
            access_token: None,
            reason: self.reason.clone(),
        }
    }

    /// Starts the clocks of its lease and its deadline.
    pub fn begin(&mut self, now: UnixMs) {
        self.created_ms = now;
        self.lease_ends_ms = self.spec.lease.map(|lease| later(now, lease));
        self.deadline_ms = self.spec.deadline.map(|deadline| later(now, deadline));
    }

    /// The next moment at which something is due by itself.
    #[must_use]
    pub fn due_ms(&self) -> Option<UnixMs> {
        if self.pooled {
            return None;
        }
        match self.state {
            State::Gone | State::Stopping => None,
            // A lease is what a running sandbox needs; a paused one waits for its deadline.
            State::Paused => self.deadline_ms,
            _ => match (self.lease_ends_ms, self.deadline_ms) {
                (Some(lease), Some(deadline)) => Some(lease.min(deadline)),
                (lease, deadline) => lease.or(deadline),
            },
        }
    }
}

/// `span` after `now`, in milliseconds since the epoch.
#[must_use]
pub fn later(now: UnixMs, span: std::time::Duration) -> UnixMs {
    now.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
