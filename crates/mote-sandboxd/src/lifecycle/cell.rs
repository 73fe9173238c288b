//! One sandbox in memory: its record, the way to its first process while that lives, and its journal.
//!
//! The state machine is the lock: a change of state is one short critical section that asks `State::after`, so that of two
//! requests that exclude each other one is told why not. It performs nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::{State, Transition};
use tokio::sync::watch;

use super::journal::Journal;
use super::record::Record;
use super::substrate::Defaults;
use crate::clock::UnixMs;
use crate::guest::Guest;
use crate::state::{Pending, State as Store};

/// The first process and which start of it this is.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) guest: Guest,
    pub(super) generation: u64,
}

#[derive(Debug, Default)]
struct Process {
    live: Option<Live>,
    starts: u64,
    /// What the image and the boundary say of processes.
    defaults: Defaults,
}

/// One sandbox.
#[derive(Debug)]
pub struct Cell {
    id: String,
    record: Mutex<Record>,
    process: Mutex<Process>,
    /// Held while effects are under way, so that a removal waits for them.
    pub(super) work: Arc<tokio::sync::Mutex<()>>,
    states: watch::Sender<State>,
    journal: Mutex<Journal>,
    /// Processes ended for want of memory that the journal tells of.
    ooms_told: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cell {
    pub(super) fn new(record: Record) -> Self {
        let (states, _) = watch::channel(record.state);
        Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            process: Mutex::default(),
            work: Arc::default(),
            states,
            journal: Mutex::default(),
            ooms_told: AtomicU64::new(0),
        }
    }

    /// Takes the number of processes that the kernel has ended for want of memory; how many of them the journal has not told of.
    pub(super) fn ooms_new(&self, ooms: u64) -> u64 {
        // The count begins anew with the first process.
        ooms.saturating_sub(self.ooms_told.swap(ooms, Ordering::Relaxed))
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The record as it is now.
    pub(super) fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Reads something of the record without copying it.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&lock(&self.record))
    }

    pub(super) fn state(&self) -> State {
        lock(&self.record).state
    }

    /// Takes a transition, applies `change` with it, and queues the record for the store: in one critical section, so that
    /// the store sees changes in the order in which they happened.
    pub(super) fn shift(
        &self,
        store: &Store,
        transition: Transition,
        change: impl FnOnce(&mut Record),
    ) -> Result<Pending<()>, Failure> {
        let mut record = lock(&self.record);
        let next = record.state.after(transition, record.resting).map_err(|failure| match record.state {
            State::Gone => self.gone(&record),
            State::Failed => with_reason(failure, &record),
            _ => failure.with("sandbox", &self.id),
        })?;
        match (record.state, transition) {
            (state, Transition::Snapshot | Transition::Fork) => record.resting = state == State::Paused,
            // It runs: whatever the pause was to be, or was.
            (State::Pausing, Transition::Undo) | (_, Transition::ResumeDone) => record.pause = None,
            _ => {}
        }
        if matches!(next, State::Stopping | State::Failed) {
            // Nobody brings a rollback to its end any more: its snapshot is free.
            record.rolling_back_to = None;
        }
        record.state = next;
        change(&mut record);
        let pending = store.put_sandbox(&record);
        self.states.send_replace(next);
        Ok(pending)
    }

    /// The sandbox broke. Nothing where it is being removed already, or is gone: its removal says how it ends.
    pub(super) fn fail(&self, store: &Store, reason: impl Into<String>) -> Option<Pending<()>> {
        let mut record = lock(&self.record);
        if record.state == State::Stopping {
            return None;
        }
        record.state = record.state.after(Transition::Fail, record.resting).ok()?;
        record.reason = Some(reason.into());
        record.rolling_back_to = None;
        let pending = store.put_sandbox(&record);
        self.states.send_replace(record.state);
        Some(pending)
    }

    /// Changes the record without a change of state.
    pub(super) fn change(&self, store: &Store, change: impl FnOnce(&mut Record)) -> Pending<()> {
        let mut record = lock(&self.record);
        change(&mut record);
        store.put_sandbox(&record)
    }

    /// States from now on.
    pub(super) fn states(&self) -> watch::Receiver<State> {
        self.states.subscribe()
    }

    /// Keeps the way to a new first process; answers with its generation.
    pub(super) fn arrived(&self, guest: Guest) -> u64 {
        let mut process = lock(&self.process);
        process.starts += 1;
        let generation = process.starts;
        process.live = Some(Live { guest, generation });
        drop(process);
        // Whoever waits for a way inside looks again: of a sandbox that is adopted the state stays as it is.
        self.states.send_modify(|_| {});
        generation
    }

    /// Keeps what the image and the boundary say of processes.
    pub(super) fn keep_defaults(&self, defaults: Defaults) {
        lock(&self.process).defaults = defaults;
    }

    /// Keeps what another policy adds to the environment of processes.
    pub(super) fn add_env(&self, env: BTreeMap<String, String>) {
        lock(&self.process).defaults.env.extend(env);
    }

    /// What the image and the boundary say of processes.
    pub(super) fn defaults(&self) -> Defaults {
        lock(&self.process).defaults.clone()
    }

    /// The first process is ended on purpose: its end is no failure.
    pub(super) fn leave(&self) -> Option<Live> {
        lock(&self.process).live.take()
    }

    /// Whether the first process that ended is the one that should live; it is then forgotten.
    pub(super) fn lost(&self, generation: u64) -> bool {
        let mut process = lock(&self.process);
        let is_current = process.live.as_ref().is_some_and(|live| live.generation == generation);
        if is_current {
            process.live = None;
        }
        is_current
    }

    pub(super) fn guest(&self) -> Option<Guest> {
        lock(&self.process).live.as_ref().map(|live| live.guest.clone())
    }

    /// Adds a line to the journal and to the daemon's log.
    pub(super) fn note(&self, now: UnixMs, level: &str, message: impl Into<String>) {
        let message = message.into();
        match level {
            "error" => tracing::error!(sandbox = self.id, "{message}"),
            "warn" => tracing::warn!(sandbox = self.id, "{message}"),
            _ => tracing::info!(sandbox = self.id, "{message}"),
        }
        lock(&self.journal).write(now, level, message);
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    /// Why nothing can be done with a sandbox that ended.
    pub(super) fn gone(&self, record: &Record) -> Failure {
        let reason = record.reason.as_deref().unwrap_or("it was removed");
        Failure::new(Code::Gone, format!("the sandbox {} is gone: {reason}", self.id))
            .with("sandbox", &self.id)
            .with("state", record.state)
    }

    /// Why a request that needs the sandbox cannot be served in a state that does not pass by itself.
    pub(super) fn unusable(&self) -> Failure {
        let record = lock(&self.record);
        match record.state {
            State::Gone | State::Stopping => self.gone(&record),
            State::Failed => {
                with_reason(Failure::new(Code::Gone, "the sandbox has failed").with("state", record.state), &record)
                    .remedy("remove it and create another, or fork one of its snapshots")
            }
            state => Failure::new(Code::IllegalTransition, format!("the sandbox is {state}"))
                .with("state", state)
                .with("sandbox", &self.id)
                .remedy(format!("POST /v1/sandboxes/{}/resume, or create it with auto_resume", self.id)),
        }
    }
}

fn with_reason(mut failure: Failure, record: &Record) -> Failure {
    if let Some(reason) = &record.reason {
        failure.message = format!("{}: {reason}", failure.message);
    }
    failure.with("sandbox", &record.id)
}
