//! What was made under an idempotency key: found again where its answer was lost.
//!
//! The key stands in the record of what is made, so that no crash can come between the two. It keeps no answer: `api` does.

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::Snapshot;

use super::Sandboxes;
use super::record::Record;

/// A request's idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// SHA-256 of the key and of who sent it, in hexadecimal.
    pub digest: String,
    /// The request was begun before and never answered: what it made may be there.
    pub again: bool,
    /// When it was first begun, in milliseconds since the epoch.
    pub since_ms: u64,
}

impl Key {
    /// As it stands in records.
    pub(super) fn mark(key: Option<&Self>) -> Option<String> {
        key.map(|key| key.digest.clone())
    }
}

impl Sandboxes {
    /// Sandboxes that an earlier attempt under the key has made, oldest first.
    pub(super) fn made_under(&self, key: Option<&Key>) -> Vec<Record> {
        let Some(key) = key.filter(|key| key.again) else { return Vec::new() };
        let is_made = |record: &Record| {
            record.made_under.as_ref() == Some(&key.digest) && !record.pooled && record.state != State::Creating
        };
        let found = self.all().into_iter().filter(|cell| cell.read(is_made)).map(|cell| cell.record());
        let mut found: Vec<Record> = found.collect();
        found.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        found
    }

    /// The snapshot that an earlier attempt under the key has taken.
    pub(super) async fn taken_under(&self, key: Option<&Key>) -> Result<Option<Snapshot>, Failure> {
        let Some(key) = key.filter(|key| key.again) else { return Ok(None) };
        let snapshots = self.store.snapshots().await?;
        let taken =
            |record: &crate::state::SnapshotRecord| record.complete && record.made_under.as_ref() == Some(&key.digest);
        Ok(snapshots.into_iter().find(taken).map(|record| record.snapshot))
    }
}
