//! What is due when: leases and deadlines of every sandbox in one ordered set, and one task that sleeps until the first.
//!
//! A lease is kept alive by its holder; what its end means the specification says. A deadline is kept alive by nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::request::PauseKind;
use mote_sandbox_api::spec::OnLeaseEnd;
use tokio::sync::Notify;

use super::Sandboxes;
use crate::clock::UnixMs;
use crate::limits::{TIMER_FAILED_RETRY_MS, TIMER_RETRY_MS, TIMER_SLEEP_MAX};

#[derive(Debug, Default)]
struct Due {
    by_time: BTreeSet<(UnixMs, String)>,
    by_id: HashMap<String, UnixMs>,
}

/// The set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: Mutex<Due>,
    changed: Notify,
}

impl Timers {
    /// Something is due for a sandbox at `at`, and at no other time; never where `None`.
    pub(super) fn set(&self, id: &str, at: Option<UnixMs>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = due.by_id.remove(id) {
            due.by_time.remove(&(before, id.to_owned()));
        }
        if let Some(at) = at {
            due.by_id.insert(id.to_owned(), at);
            due.by_time.insert((at, id.to_owned()));
        }
        drop(due);
        self.changed.notify_one();
    }

    /// Takes what is due by `now`; and when the next is.
    fn take(&self, now: UnixMs) -> (Vec<String>, Option<UnixMs>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ripe = Vec::new();
        while let Some((at, id)) = due.by_time.first().cloned().filter(|(at, _)| *at <= now) {
            due.by_time.remove(&(at, id.clone()));
            due.by_id.remove(&id);
            ripe.push(id);
        }
        (ripe, due.by_time.first().map(|(at, _)| *at))
    }
}

impl Sandboxes {
    /// Ends and pauses sandboxes when they are due; runs until it is dropped.
    pub async fn keep_time(&self) {
        loop {
            let now = self.clock.now_ms();
            let (ripe, next) = self.timers.take(now);
            for id in ripe {
                let this = self.clone();
                tokio::spawn(async move { this.due(&id).await });
            }
            // The wall clock may be set while we sleep: look again after a while.
            let span = next.map_or(TIMER_SLEEP_MAX, |at| Duration::from_millis(at.saturating_sub(now)));
            tokio::select! {
                () = tokio::time::sleep(span.min(TIMER_SLEEP_MAX)) => {}
                () = self.timers.changed.notified() => {}
            }
        }
    }

    async fn due(&self, id: &str) {
        let Ok(cell) = self.cell(id) else { return };
        let now = self.clock.now_ms();
        let record = cell.record();
        if record.due_ms().is_none_or(|at| at > now) {
            // Renewed meanwhile.
            return self.schedule(&cell);
        }
        let over = record.deadline_ms.is_some_and(|at| at <= now);
        let outcome = if over {
            self.remove_because(id, "its deadline passed").await
        } else if let Some(kind) = pause_of(record.spec.on_lease_end).filter(|_| record.state != State::Failed) {
            self.pause_because(id, kind, Some("its lease ran out")).await.map(drop)
        } else {
            self.remove_because(id, "its lease ran out").await
        };
        if let Err(failure) = outcome
            && !matches!(cell.state(), State::Gone | State::Stopping | State::Paused)
        {
            // Something else is under way, or it was tried: it is due still.
            tracing::debug!(sandbox = id, error = %failure, "what was due could not be done yet");
            let is_busy = failure.code == Code::IllegalTransition;
            self.timers.set(id, Some(now + if is_busy { TIMER_RETRY_MS } else { TIMER_FAILED_RETRY_MS }));
        }
    }
}

/// How a sandbox pauses by itself; `None` where it is removed.
fn pause_of(end: Option<OnLeaseEnd>) -> Option<PauseKind> {
    match end? {
        OnLeaseEnd::Remove => None,
        OnLeaseEnd::Pause => Some(PauseKind::Frozen),
        OnLeaseEnd::Stop => Some(PauseKind::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_time_that_was_set_counts() {
        let timers = Timers::default();
        timers.set("a", Some(10));
        timers.set("b", Some(20));
        timers.set("a", Some(30));
        assert_eq!(timers.take(25), (vec!["b".to_owned()], Some(30)));
        timers.set("a", None);
        assert_eq!(timers.take(99), (vec![], None));
    }
}
