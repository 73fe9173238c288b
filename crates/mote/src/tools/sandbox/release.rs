//! Giving sandboxes back: those whose task has ended, whose session was erased, or that another one took the place of.
//!
//! Which these are the store says; it keeps each until the daemon has removed it, so that a crash leaves none behind.

use futures_util::future::join_all;
use reqwest::Method;

use super::client::{Trouble, segment};
use super::home::Sandboxes;
use crate::limits::{
    SANDBOX_ANSWER_TIMEOUT, SANDBOX_RELEASE_BACKOFF_MS, SANDBOX_RELEASE_BATCH, SANDBOX_RELEASE_DOUBLINGS,
    SANDBOX_SETTLE_MS,
};
use crate::store::{self, SandboxChange, SandboxRow};

impl Sandboxes {
    /// Gives back what is due; returns whether there may be more at once.
    pub async fn release(&self) -> bool {
        let due = match self.store.sandboxes_due(self.clock.now_ms(), SANDBOX_RELEASE_BATCH).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "failed to look for sandboxes to give back; trying again");
                return false;
            }
        };
        let full = due.len() == SANDBOX_RELEASE_BATCH;
        let done = join_all(due.iter().map(|row| self.release_one(row))).await;
        if let Some(error) = done.into_iter().find_map(Result::err) {
            tracing::warn!(%error, "failed to note that a sandbox was given back; trying again");
            return false;
        }
        full
    }

    async fn release_one(&self, row: &SandboxRow) -> Result<(), store::Error> {
        let now = self.clock.now_ms();
        let change = match self.removed(row).await {
            Ok(true) => {
                tracing::info!(sandbox = row.sandbox, "a sandbox was given back");
                SandboxChange::Gone
            }
            // A creation whose answer was lost may yet arrive at the daemon.
            Ok(false) if now.saturating_sub(row.created_at) < SANDBOX_SETTLE_MS => {
                SandboxChange::Retry(now.saturating_add(SANDBOX_RELEASE_BACKOFF_MS))
            }
            Ok(false) => SandboxChange::Gone,
            Err(trouble) => {
                tracing::warn!(sandbox = row.sandbox, error = %trouble, "failed to give a sandbox back; trying again");
                let wait = SANDBOX_RELEASE_BACKOFF_MS << row.attempts.min(SANDBOX_RELEASE_DOUBLINGS);
                SandboxChange::Retry(now.saturating_add(wait))
            }
        };
        self.store.change_sandbox(row.row, change).await
    }

    /// Whether there was something to remove, and it is gone.
    async fn removed(&self, row: &SandboxRow) -> Result<bool, Trouble> {
        if row.url != self.daemon.base() {
            tracing::warn!(url = row.url, sandbox = row.sandbox, "a sandbox of another daemon is left to its lease");
            return Ok(true);
        }
        let ids = match &row.sandbox {
            Some(id) => vec![id.clone()],
            None => self.find(&row.creation).await?,
        };
        for id in &ids {
            let path = format!("/v1/sandboxes/{}", segment(id));
            let request = self.daemon.request(&self.http(false)?, Method::DELETE, &path);
            match self.daemon.send(request.timeout(SANDBOX_ANSWER_TIMEOUT)).await {
                Ok(_) => {}
                Err(trouble) if trouble.is_lost() => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(!ids.is_empty())
    }
}
