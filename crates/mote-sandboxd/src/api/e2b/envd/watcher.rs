//! Watches whose events are fetched by polling: they gather until the client asks.
//!
//! It does not watch: the guest does, and is asked for what has happened when events are fetched, so that those of a write that
//! was answered are there. What is gathered is bounded; a watch that nobody asks loses events, and says so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{EventKind, FileTarget};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::filesystem;
use crate::api::e2b::gateway::Inside;
use crate::clock::new_id;
use crate::guest::{Guest, Told, Watching};
use crate::limits::{
    GUEST_REPLY_TIMEOUT_MS, WATCHER_ASKS_MAX, WATCHER_BYTES_ALL_MAX, WATCHER_BYTES_MAX, WATCHER_EVENTS_MAX,
    WATCHERS_OF_SANDBOX_MAX,
};
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

/// Who waits until everything that has happened is gathered.
type Ask = oneshot::Sender<()>;

#[derive(Debug)]
struct Watcher {
    sandbox: String,
    /// Room for the events of its sandbox.
    room: Arc<Room>,
    gathered: Arc<Mutex<Gathered>>,
    asks: mpsc::Sender<Ask>,
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

fn unknown(id: &str) -> Failure {
    Failure::new(Code::NotFound, format!("watcher with id {id} not found")).with("kind", "watcher")
}

impl Watchers {
    /// Gathers from now on.
    pub(super) fn add(
        &self,
        inside: &Inside,
        watching: Watching,
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
        let (asks, asked) = mpsc::channel(WATCHER_ASKS_MAX);
        let gathering =
            Gathering { guest: inside.guest.clone(), watched, include_entry, gathered: Arc::clone(&gathered) };
        // Ends with the watcher, or with the sandbox.
        let task = tokio::spawn(gathering.run(watching, asked));
        let sandbox = inside.sandbox.clone();
        by_id.insert(id.clone(), Watcher { sandbox, room, gathered, asks, task: task.abort_handle() });
        Ok(id)
    }

    /// What was gathered since the last time, up to what has happened by now.
    pub(super) async fn take(&self, sandbox: &str, id: &str) -> Result<Value, Failure> {
        let asks = {
            let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
            by_id.get(id).filter(|watcher| watcher.sandbox == sandbox).ok_or_else(|| unknown(id))?.asks.clone()
        };
        let (ask, all) = oneshot::channel();
        // A watch that has ended has gathered all that it will; one that does not answer is told of by what it gathered.
        let asking = async { asks.send(ask).await.is_ok() && all.await.is_ok() };
        let _ = tokio::time::timeout(Duration::from_millis(GUEST_REPLY_TIMEOUT_MS), asking).await;
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let watcher = by_id.get(id).filter(|watcher| watcher.sandbox == sandbox).ok_or_else(|| unknown(id))?;
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
            return Err(unknown(id));
        }
        by_id.remove(id);
        Ok(json!({}))
    }
}

/// What one watch does while it lives.
struct Gathering {
    guest: Guest,
    watched: FileTarget,
    include_entry: bool,
    gathered: Arc<Mutex<Gathered>>,
}

impl Gathering {
    async fn run(self, mut watching: Watching, mut asked: mpsc::Receiver<Ask>) {
        let mut waiting: VecDeque<Ask> = VecDeque::new();
        loop {
            let told = tokio::select! {
                told = watching.next_told() => told,
                Some(ask) = asked.recv(), if waiting.len() < WATCHER_ASKS_MAX => {
                    if watching.ask().await.is_err() {
                        return;
                    }
                    waiting.push_back(ask);
                    continue;
                }
            };
            match told {
                Ok(Some(Told::Event(name, kind))) => self.gather(name, kind).await,
                Ok(Some(Told::All)) => {
                    // Who asked may have gone.
                    let _ = waiting.pop_front().map(|ask| ask.send(()));
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn gather(&self, name: String, kind: EventKind) {
        let event = filesystem::event(&self.guest, &self.watched, self.include_entry, name, kind).await;
        if let Some(event) = event {
            self.gathered.lock().unwrap_or_else(PoisonError::into_inner).put(event.ok());
        }
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
