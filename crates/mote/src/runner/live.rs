//! The text of a model call under way, for whoever watches in this process. Ephemeral: it is in no journal, and the
//! next attempt begins it anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

use super::{Live, LiveView};
use crate::limits::STREAM_LAG;
use crate::model::Delta;

#[derive(Debug, Default)]
struct State {
    step: u32,
    attempt: u32,
    text: String,
    // Made when somebody first watches: most runs have no watcher.
    sender: Option<broadcast::Sender<Live>>,
}

/// The live text of one run.
#[derive(Debug, Default)]
pub(super) struct LiveRun(Mutex<State>);

impl LiveRun {
    pub(super) fn begin(&self, step: u32, attempt: u32) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.step, state.attempt) = (step, attempt);
        state.text.clear();
    }

    pub(super) fn push(&self, delta: Delta) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Delta::Text(text) = &delta {
            state.text.push_str(text);
        }
        if let Some(sender) = &state.sender {
            // Nobody listening any more is no error.
            let _ = sender.send(Live { step: state.step, attempt: state.attempt, delta });
        }
    }

    /// The reply is in the journal: nothing is live any more.
    pub(super) fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).text = String::new();
    }

    /// Bytes of text that the call under way has given so far.
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).text.len()
    }

    fn view(&self) -> LiveView {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = state.sender.get_or_insert_with(|| broadcast::channel(STREAM_LAG).0);
        let deltas = sender.subscribe();
        LiveView { step: state.step, attempt: state.attempt, text: state.text.clone(), deltas }
    }
}

/// Live texts of all runs under way in this process.
#[derive(Debug, Default)]
pub(super) struct LiveRuns(Mutex<HashMap<String, Arc<LiveRun>>>);

impl LiveRuns {
    pub(super) fn open(&self, task: &str) -> Arc<LiveRun> {
        let run = Arc::new(LiveRun::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task.to_owned(), Arc::clone(&run));
        run
    }

    /// Forgets a run, unless it was taken up again meanwhile.
    pub(super) fn close(&self, task: &str, run: &Arc<LiveRun>) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.get(task).is_some_and(|open| Arc::ptr_eq(open, run)) {
            runs.remove(task);
        }
    }

    pub(super) fn view(&self, task: &str) -> Option<LiveView> {
        let run = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(task).cloned();
        run.map(|run| run.view())
    }
}
