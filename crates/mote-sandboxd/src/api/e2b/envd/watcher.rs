//! Watches whose events are fetched by polling: they gather until the client asks.
//!
//! It does not watch: the guest does. What is gathered is bounded; a watch that nobody asks loses events, and says so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::FileTarget;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::filesystem;
use crate::api::e2b::gateway::Inside;
use crate::clock::new_id;
use crate::guest::Watching;
use crate::limits::{WATCHER_BYTES_ALL_MAX, WATCHER_BYTES_MAX, WATCHER_EVENTS_MAX, WATCHERS_OF_SANDBOX_MAX};
use crate::room::{Room, Taken};

#[derive(Debug)]
struct Gathered {
    events: VecDeque<Value>,
    is_lossy: bool,
    held: Taken<2>,
}

impl Gathered {
    /// Keeps an event where there is room for it. One that finds none, or could not be told, is lost.
    fn put(&mut self, event: Option<Value>) {
        match event {
            Some(event) if self.events.len() < WATCHER_EVENTS_MAX && self.held.grow(event.to_string().len()) => {
                self.events.push_back(event);
            }
            _ => self.is_lossy = true,
        }
    }
}

#[derive(Debug)]
struct Watcher {
    sandbox: String,
    /// Room for the events of its sandbox.
    room: Arc<Room>,
    gathered: Arc<Mutex<Gathered>>,
    task: AbortHandle,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The watches of every sandbox, by id.
#[derive(Debug)]
pub(in crate::api::e2b) struct Watchers {
    by_id: Mutex<HashMap<String, Watcher>>,
    /// Room for the events of all sandboxes.
    room: Arc<Room>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { by_id: Mutex::default(), room: Room::new(WATCHER_BYTES_ALL_MAX) }
    }
}

impl Watchers {
    /// Gathers from now on.
    pub(super) fn add(
        &self,
        inside: &Inside,
        mut watching: Watching,
        watched: FileTarget,
        include_entry: bool,
    ) -> Result<String, Failure> {
        let id = new_id("wa")?;
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose sandbox has ended.
        by_id.retain(|_, watcher| !watcher.task.is_finished());
        if by_id.values().filter(|watcher| watcher.sandbox == inside.sandbox).count() >= WATCHERS_OF_SANDBOX_MAX {
            let message = format!("the sandbox has {WATCHERS_OF_SANDBOX_MAX} watchers already");
            return Err(Failure::new(Code::Exhausted, message).with("limit", WATCHERS_OF_SANDBOX_MAX));
        }
        let beside = by_id.values().find(|watcher| watcher.sandbox == inside.sandbox);
        let room = beside.map_or_else(|| Room::new(WATCHER_BYTES_MAX), |watcher| Arc::clone(&watcher.room));
        let held = Taken::new([Arc::clone(&room), Arc::clone(&self.room)]);
        let gathered = Arc::new(Mutex::new(Gathered { events: VecDeque::new(), is_lossy: false, held }));
        let (guest, gathering) = (inside.guest.clone(), Arc::clone(&gathered));
        // Ends with the watcher, or with the sandbox.
        let task = tokio::spawn(async move {
            while let Ok(Some((name, kind))) = watching.next_event().await {
                let Some(event) = filesystem::event(&guest, &watched, include_entry, name, kind).await else {
                    continue;
                };
                gathering.lock().unwrap_or_else(PoisonError::into_inner).put(event.ok());
            }
        });
        let sandbox = inside.sandbox.clone();
        by_id.insert(id.clone(), Watcher { sandbox, room, gathered, task: task.abort_handle() });
        Ok(id)
    }

    /// What was gathered since the last time.
    pub(super) fn take(&self, sandbox: &str, id: &str) -> Result<Value, Failure> {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let watcher = by_id.get(id).filter(|watcher| watcher.sandbox == sandbox);
        let watcher = watcher.ok_or_else(|| Failure::not_found("watcher", id))?;
        let mut gathered = watcher.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.held = Taken::new([Arc::clone(&watcher.room), Arc::clone(&self.room)]);
        if std::mem::take(&mut gathered.is_lossy) {
            gathered.events.clear();
            let message = format!("events were lost: more than {WATCHER_EVENTS_MAX} were not fetched");
            return Err(Failure::new(Code::Exhausted, message).with("limit", WATCHER_EVENTS_MAX));
        }
        Ok(json!({ "events": std::mem::take(&mut gathered.events) }))
    }

    /// Ends a watch.
    pub(super) fn remove(&self, sandbox: &str, id: &str) -> Result<Value, Failure> {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if by_id.get(id).is_none_or(|watcher| watcher.sandbox != sandbox) {
            return Err(Failure::not_found("watcher", id));
        }
        by_id.remove(id);
        Ok(json!({}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_nobody_fetches_are_held_within_their_sandboxs_room_and_that_of_all() {
        let (all, own) = (Room::new(150), Room::new(100));
        let of = |rooms| Gathered { events: VecDeque::new(), is_lossy: false, held: Taken::new(rooms) };
        let event = || Some(json!({ "name": "x".repeat(20) }));
        let size = event().unwrap().to_string().len();
        let mut watch = of([Arc::clone(&own), Arc::clone(&all)]);
        for _ in 0..1000 {
            watch.put(event());
        }
        assert!(watch.is_lossy && watch.events.len() == 100 / size, "{}", watch.events.len());
        // Another watch of the sandbox finds what is left there, one of another sandbox what is left of all.
        let mut beside = of([own, Arc::clone(&all)]);
        beside.put(event());
        assert!(beside.is_lossy && beside.events.is_empty());
        let mut other = of([Room::new(100), Arc::clone(&all)]);
        for _ in 0..1000 {
            other.put(event());
        }
        assert_eq!(other.events.len(), (150 - watch.events.len() * size) / size);
        // What is let go of is there again; an event that could not be told is a lost one.
        drop(watch);
        other.is_lossy = false;
        other.put(event());
        assert!(!other.is_lossy);
        other.put(None);
        assert!(other.is_lossy);
    }
}
