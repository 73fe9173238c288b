//! Another life for a task that failed or was cancelled, from where its journal ends.
//!
//! What a resumed run goes on with is the core's; which tasks have ended is the store's.

use super::request::{Stored, bounds};
use super::{Runner, detail, replay};
use crate::store;

/// Why a task was not resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The store refused: it has neither failed nor been cancelled, or does not exist.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Its journal cannot be gone on from, or its own budget carries no further call: 409.
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
        let run = replay(&**store, task, |_| {}).await?;
        if let Ok(run) = &run
            && let Some(row) = store.task(None, task).await?
            && let Ok(stored) = serde_json::from_str::<Stored>(&row.request)
            && let Some(why) = detail::cannot_pay(run, &bounds(&self.shared, &stored, None))
        {
            return Err(ResumeError::NotResumable(why));
        }
        match run {
            Ok(run) if run.is_open_to_resume() => Ok(store.resume(task, self.now()).await?),
            Ok(_) => Err(ResumeError::NotResumable("an earlier version of mote wrote its journal".to_owned())),
            Err(error) => Err(ResumeError::NotResumable(error.message)),
        }
    }
}
