//! Another life for a task that failed or was cancelled, from where its journal ends.
//!
//! What a resumed run goes on with is the core's; which tasks have ended is the store's.

use super::{Runner, replay};
use crate::store;

/// Why a task was not resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The store refused: it has neither failed nor been cancelled, or does not exist.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Its journal cannot be gone on from: 409.
    #[error("{0}")]
    NotResumable(String),
}

impl Runner {
    /// Queues a task that failed or was cancelled, to go on from its last good step.
    ///
    /// # Errors
    /// [`ResumeError`]; the task is then as it was.
    pub async fn resume(&self, task: &str) -> Result<(), ResumeError> {
        let store = &self.shared.store;
        match replay(&**store, task, |_| {}).await? {
            Ok(run) if run.is_open_to_resume() => Ok(store.resume(task, self.now()).await?),
            Ok(_) => Err(ResumeError::NotResumable("an earlier version of mote wrote its journal".to_owned())),
            Err(error) => Err(ResumeError::NotResumable(error.message)),
        }
    }
}
