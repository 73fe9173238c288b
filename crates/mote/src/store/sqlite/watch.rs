//! Who in this process wants to hear of a change: watchers of a task, and workers that look for something to claim.
//!
//! It tells nothing of what changed, and nothing of other processes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

/// Fewer entries than this are never swept.
const SWEEP_FROM: usize = 64;

#[derive(Default)]
struct Table {
    senders: HashMap<String, watch::Sender<u64>>,
    sweep_at: usize,
}

/// The table of listeners.
#[derive(Default)]
pub(super) struct Watchers {
    table: Mutex<Table>,
    work: Arc<Notify>,
}

impl Watchers {
    /// A receiver that sees every change from now on; its entry goes once nobody listens.
    pub(super) fn subscribe(&self, task: &str) -> watch::Receiver<u64> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.senders.len() >= table.sweep_at.max(SWEEP_FROM) {
            table.senders.retain(|_, sender| sender.receiver_count() > 0);
            table.sweep_at = table.senders.len() * 2;
            let room = table.sweep_at;
            table.senders.shrink_to(room);
        }
        if let Some(sender) = table.senders.get(task) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(0);
        table.senders.insert(task.to_owned(), sender);
        receiver
    }

    /// A task changed.
    pub(super) fn bump(&self, task: &str) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = table.senders.get(task) else { return };
        if sender.receiver_count() == 0 {
            table.senders.remove(task);
        } else {
            sender.send_modify(|version| *version += 1);
        }
    }

    /// Tells workers.
    pub(super) fn work(&self) -> &Arc<Notify> {
        &self.work
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).senders.len()
    }
}
