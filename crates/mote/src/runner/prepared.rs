//! A task's first commit, made ready before the task is submitted, so that both are one transaction.

use std::sync::Arc;

use super::{Shared, batch, drive, recover, request, worker};
use crate::store::{self, Task};

/// A first commit that goes with the submission, and the driver that goes on from it.
pub(super) struct Prepared {
    pub(super) driver: Box<drive::Driver>,
    pub(super) steps: Vec<batch::Step>,
    pub(super) batch: store::Batch,
}

impl Prepared {
    /// The submission came to nothing.
    pub(super) fn abandon(&self, shared: &Shared) {
        shared.abandoned(&self.driver);
    }
}

/// Prepares a new task's first commit; none where the core refuses its first events.
pub(super) fn first_commit(
    shared: &Arc<Shared>,
    task: &Task,
    stored: &request::Stored,
    term: worker::Term,
) -> Option<Prepared> {
    // A new task's first claim has epoch 1.
    let held = shared.holdings.take(&task.id, 1, term);
    let driver = recover::fresh(shared, task, stored, held);
    let first = recover::begin(shared, task, stored, Vec::new());
    let now = shared.clock.now_ms();
    let Ok(steps) = driver.step_all(first, &[], now) else {
        shared.abandoned(&driver);
        return None;
    };
    let batch = driver.batch(&steps, now);
    Some(Prepared { driver, steps, batch })
}
