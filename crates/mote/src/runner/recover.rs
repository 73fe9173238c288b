//! From a claimed task to a driver: a fresh run is begun, one with a journal is replayed and told what was lost. Replay
//! performs nothing.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use futures_util::stream::FuturesUnordered;
use mote_core::journal::{CORE, ReplayError};
use mote_core::{Call, CallKind, CallState, Change, Event, Phase};

use super::batch::{HISTORY_UNITS_MAX, Occurrence};
use super::drive::Driver;
use super::ending::ModelSaid;
use super::payload::Payload;
use super::request::{Stored, bounds};
use super::transcript::Transcript;
use super::worker::Held;
use super::{Actions, Core, CoreEvent, Shared, account, detail, turn};
use crate::clock::UnixMs;
use crate::config::OnChange;
use crate::context;
use crate::limits::PAGE_MAX;
use crate::message::Message;
use crate::store::{self, Account, Entry, Records, Spending, Task, TaskError};

/// Why a claimed task cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The store cannot be read now.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The task is broken for good: it ends with this error, in the dead letters.
    #[error("{}", .0.message)]
    Broken(TaskError),
}

/// One replayed step.
pub struct Replayed {
    /// The entry, as stored.
    pub entry: Entry,
    /// Its text.
    pub payload: Payload,
    /// The event.
    pub event: CoreEvent,
    /// What the core asked for.
    pub actions: Actions,
    /// The run after it.
    pub run: Core,
    /// What it spent.
    pub spending: Vec<Spending>,
}

/// Replays a task's whole journal, a step at a time, through this build's core.
///
/// # Errors
/// The store's, or a sentence naming the entry that is damaged or diverges.
pub async fn replay(
    store: &dyn Records,
    task: &str,
    mut each: impl FnMut(Replayed),
) -> Result<Result<Core, TaskError>, store::Error> {
    let mut run = Core::new();
    let mut after = 0;
    loop {
        let page = store.journal(task, after, PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(Ok(run)) };
        after = last.seq;
        for entry in page {
            let before = run;
            match replay_entry(&mut run, &entry) {
                Ok((event, actions, payload)) => {
                    let spending = account::spending(&before, &event, &actions, &payload);
                    each(Replayed { entry, payload, event, actions, run, spending });
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }
}

fn replay_entry(run: &mut Core, entry: &Entry) -> Result<(CoreEvent, Actions, Payload), TaskError> {
    let broken = |code: &str, what: String| super::ending::error(code, format!("journal entry {}: {what}", entry.seq));
    let payload = Payload::from_entry(&entry.kind, entry.payload.as_deref())
        .map_err(|error| broken("internal", format!("its payload is damaged: {error}")))?;
    let (record, actions) = run.replay(&entry.record).map_err(|error| match error {
        ReplayError::Malformed(_) => broken("internal", error.to_string()),
        ReplayError::Refused(_) | ReplayError::Diverged { .. } => broken("divergence", error.to_string()),
    })?;
    Ok((record.event, actions, payload))
}

/// A driver for a claimed task, and what it begins with.
pub(super) async fn driver(
    shared: &Arc<Shared>,
    task: Task,
    held: Arc<Held>,
) -> Result<(Box<Driver>, Vec<Occurrence>), Error> {
    let stored: Stored = serde_json::from_str(&task.request)
        .map_err(|error| broken(format!("the stored request cannot be read: {error}")))?;
    let mut driver = fresh(shared, &task, &stored, held);
    let mut steps = 0_u64;
    let replayed = replay(&*shared.store, &task.id, |step| {
        steps += 1;
        *driver.run = step.run;
        step.spending.iter().for_each(|spending| driver.account.book(spending));
        driver.transcript.apply(&step.event, &step.payload, &step.actions, &step.run);
        driver.note(&step.event, &step.payload, step.entry.at);
    });
    replayed.await?.map_err(Error::Broken)?;
    if steps != task.seq {
        return Err(broken(format!("the journal has {steps} entries, the task says {}", task.seq)));
    }
    driver.seq = steps;
    let first = if steps == 0 {
        let history = history(shared, &task).await?;
        begin(shared, &task, &stored, history)
    } else {
        taken_over(&driver, &task, &stored)
    };
    Ok((driver, first))
}

/// A driver to which nothing has happened.
pub(super) fn fresh(shared: &Arc<Shared>, task: &Task, stored: &Stored, held: Arc<Held>) -> Box<Driver> {
    Box::new(Driver {
        shared: Arc::clone(shared),
        task: task.id.clone(),
        owner: task.owner.clone(),
        seq: 0,
        run: Box::new(Core::new()),
        transcript: Transcript::new(stored.messages()),
        account: Account::default(),
        lives: task.lives,
        failure: None,
        mail_seen: 0,
        early: Vec::new(),
        dropped: Vec::new(),
        turn_began: 0,
        span: super::observe::begin(shared, task, stored, &held),
        held,
        live: shared.live.open(&task.id),
        under_way: FuturesUnordered::new(),
    })
}

/// What a run begins with.
pub(super) fn begin(shared: &Shared, task: &Task, stored: &Stored, history: Vec<Message>) -> Vec<Occurrence> {
    let agent = &shared.agent;
    let opened = Occurrence::new(
        Event::Opened { core: CORE, limits: bounds(shared, stored, task.expires_at), digest: agent.digest },
        Payload::Opened {
            agent: agent.name.clone(),
            version: agent.version.clone(),
            digest: HEXLOWER.encode(&agent.digest),
        },
    );
    let loaded = history.into_iter().map(|message| {
        Occurrence::new(Event::Loaded { tokens: context::message_tokens(&message) }, Payload::Loaded { message })
    });
    let tokens = context::messages_tokens(&stored.messages());
    let started = Occurrence::new(Event::Started { tokens }, Payload::Started);
    let expired = task.expires_at.is_some_and(|at| at <= shared.clock.now_ms());
    let timer = expired.then(|| Occurrence::new(Event::TimerFired, Payload::TimerFired));
    std::iter::once(opened).chain(loaded).chain([started]).chain(timer).collect()
}

async fn history(shared: &Shared, task: &Task) -> Result<Vec<Message>, store::Error> {
    let Some(session) = &task.owner.session else { return Ok(Vec::new()) };
    let session = shared.store.session(&task.owner.tenant, session).await?;
    let mut messages = session.map(|session| session.messages).unwrap_or_default();
    let surplus = messages.len().saturating_sub(HISTORY_UNITS_MAX);
    messages.drain(..surplus);
    Ok(messages)
}

/// What a run is told that another worker, or another configuration, had before.
fn taken_over(driver: &Driver, task: &Task, stored: &Stored) -> Vec<Occurrence> {
    let (shared, run) = (&driver.shared, &driver.run);
    let mut occurrences = Vec::new();
    let ended = matches!(run.phase(), Phase::Finished(_));
    // A task that was resumed has a wall time of its own from then on.
    if ended || run.limits().expires_at != task.expires_at.unwrap_or(0) {
        let digest = shared.agent.digest;
        occurrences.push(Occurrence::new(
            Event::Resumed { limits: bounds(shared, stored, task.expires_at), digest },
            Payload::Resumed { digest: HEXLOWER.encode(&digest) },
        ));
        if ended {
            return occurrences;
        }
    }
    if *run.digest() != shared.agent.digest {
        let change = change(driver);
        let name = match change {
            Change::Continue => "continue",
            Change::Fail => "fail",
            Change::PendingCall => "pending_call",
        };
        let digest = shared.agent.digest;
        let what = detail::what_changed(driver, change);
        occurrences.push(Occurrence::new(
            Event::Rebound { digest, change },
            Payload::Rebound { digest: HEXLOWER.encode(&digest), change: name.to_owned(), what },
        ));
        if change != Change::Continue {
            return occurrences;
        }
    }
    if !run.is_suspended() {
        let worker = shared.worker.clone();
        occurrences.push(Occurrence::new(Event::Recovered, Payload::Recovered { worker }));
    }
    occurrences
}

fn change(driver: &Driver) -> Change {
    if driver.shared.agent.on_change == OnChange::Fail {
        return Change::Fail;
    }
    if changed_calls(driver).next().is_some() { Change::PendingCall } else { Change::Continue }
}

/// Pending calls whose tool is not what it was.
pub(super) fn changed_calls(driver: &Driver) -> impl Iterator<Item = u16> {
    let changed = |(index, call): (u16, &Call)| {
        let pending = call.state != CallState::Done && !matches!(call.spec.kind, CallKind::Rejected { .. });
        let name = driver.transcript.call(index).map(|call| call.name.as_str());
        let now = name.and_then(|name| turn::binding_digest(&driver.shared, name));
        (pending && now != Some(call.spec.tool)).then_some(index)
    };
    (0_u16..).zip(driver.run.calls()).filter_map(changed)
}

impl Driver {
    /// Keeps what the driver needs to know of an event beside the core and the transcript.
    pub(super) fn note(&mut self, event: &CoreEvent, payload: &Payload, at: UnixMs) {
        if let Some(said) = ModelSaid::of(payload) {
            self.failure = Some(said);
        }
        if matches!(event, Event::ModelReplied { .. }) {
            self.turn_began = at;
        }
    }
}

fn broken(message: String) -> Error {
    Error::Broken(super::ending::error("internal", message))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;
    use serde_json::json;

    use super::super::CALLS;
    use super::super::tests::{World, agent, ask, calls, says, start};
    use crate::store::{Mail, Status, Task};

    /// A task at rest, its journal changed by `edit` as another build might have left it, taken up by the next process.
    async fn resumed(edit: impl Fn(&Connection, &str)) -> Task {
        let world = World::new(agent(), vec![calls("wait_for_signal", json!({"name": "go"}))], &[]);
        let task = world.submit(ask("wait")).await;
        world.reach(&task, |task| task.status == Status::Waiting).await;
        world.runner.drain(Duration::from_secs(5)).await;
        edit(&Connection::open(world.folder.join("mote.db")).unwrap(), &task);
        let (next, _model) = start(agent(), &world.store, vec![says("went")], &[], None);
        next.post(&task, Mail::Signal { name: "go".into(), payload: json!(null) }).await.unwrap();
        world.end(&task).await
    }

    fn record(store: &Connection, task: &str, seq: i64) -> Vec<u8> {
        let query = "SELECT record FROM journal WHERE task = ?1 AND seq = ?2";
        store.query_row(query, (task, seq), |row| row.get(0)).unwrap()
    }

    fn put(store: &Connection, task: &str, seq: i64, record: &[u8]) {
        let update = "UPDATE journal SET record = ?3 WHERE task = ?1 AND seq = ?2";
        assert_eq!(store.execute(update, (task, seq, record)).unwrap(), 1);
    }

    #[tokio::test]
    async fn a_journal_that_another_core_wrote_goes_on_where_this_one_decides_alike() {
        let task = resumed(|store, task| {
            let mut opened = record(store, task, 1);
            // Format, time (LEB128), tag, then the version of the core that wrote it.
            let tag = 1 + opened[1..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
            assert_eq!(opened[tag + 1..tag + 3], [0x80, 0x02], "{:#06x}", mote_core::journal::CORE);
            (opened[tag + 1], opened[tag + 2]) = (0xff, 0x01);
            put(store, task, 1, &opened);
        });
        assert_eq!(task.await.result.as_deref(), Some("\"went\""));
    }

    #[tokio::test]
    async fn a_journal_on_which_this_core_decides_otherwise_is_a_dead_letter_that_says_where() {
        let task = resumed(|store, task| {
            // The grant asked for a model call; a core that asked for nothing wrote this.
            let granted = record(store, task, 3);
            let is_event = |len: &usize| mote_core::journal::decode::<CALLS>(&granted[..*len]).is_ok();
            let event = (0..granted.len()).find(is_event).unwrap();
            put(store, task, 3, &granted[..event]);
        });
        let task = task.await;
        let error = task.error.unwrap();
        assert_eq!((task.dead, error.code.as_str()), (true, "divergence"));
        assert!(error.message.starts_with("journal entry 3"), "{}", error.message);
    }
}
