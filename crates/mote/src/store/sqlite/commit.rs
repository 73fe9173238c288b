//! The commit: one batch, whole or not at all, by the worker that holds the task.
//!
//! It looks into no records, and into a payload only to tell what a call was made with whose outcome nobody knows.

use rusqlite::params;
use sha2::{Digest, Sha256};

use super::row::{Standing, sql, standing};
use super::sandbox;
use super::session;
use super::writer::{Outcome, Tx};
use super::{budget, claim};
use crate::cloudevent::OutcomeUnknown;
use crate::limits::{CLAIMS_TOGETHER_MAX, STORE_INLINE_BYTES};
use crate::message::Message;
use crate::store::{Batch, Commit, CommitError, EffectOp, Error, NewEntry, OutboxMessage, Status, StatusChange};

/// What of a batch is encoded before it comes to the writer.
pub(super) struct Prepared {
    /// For each entry the digest of a payload that goes to the blobs.
    digests: Vec<Option<String>>,
    /// The session's turn, message by message.
    turn: Option<Vec<String>>,
}

impl Prepared {
    /// Encodes.
    pub(super) fn new(batch: &Batch) -> Result<Self, Error> {
        let digest = |entry: &NewEntry| {
            let payload = entry.payload.as_deref().filter(|payload| payload.len() > STORE_INLINE_BYTES)?;
            Some(hex(&Sha256::digest(payload.as_bytes())))
        };
        let turn = match &batch.session {
            Some(turn) => {
                let encode = |message| super::encode("commit a session's turn", message);
                Some(turn.messages.iter().map(encode).collect::<Result<_, _>>()?)
            }
            None => None,
        };
        Ok(Self { digests: batch.entries.iter().map(digest).collect(), turn })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Applies a commit.
pub(super) fn apply(tx: &mut Tx<'_>, commit: &Commit, prepared: &Prepared) -> Outcome<(), CommitError> {
    let task = &commit.task;
    let fenced = |current| CommitError::Fenced { task: task.clone(), epoch: commit.epoch, current }.into();
    let Some(standing) = standing(tx.connection, task)? else { return Err(fenced(0)) };
    // A lease that has run out is lost even if nobody has taken it yet: anybody may, at any moment.
    let held = standing.status == Status::Running && standing.due_at.is_some_and(|until| until > commit.now);
    if standing.epoch != commit.epoch || !held {
        return Err(fenced(standing.epoch));
    }
    if standing.seq != commit.expected_seq {
        let (expected, found) = (commit.expected_seq, standing.seq);
        return Err(CommitError::Sequence { task: task.clone(), expected, found }.into());
    }
    let batch = &commit.batch;
    append(tx, commit, prepared)?;
    keep_effects(tx, task, &batch.effects, commit.now)?;
    let open = budget::apply(tx, task, &standing, &batch.budget, commit.now)?;
    for mail in &batch.mail_consumed {
        tx.connection.prepare_cached("DELETE FROM mail WHERE id = ?1 AND task = ?2")?.execute(params![mail, task])?;
    }
    send(tx, task, &batch.outbox, commit.now)?;
    if let Some(turn) = &prepared.turn {
        session::add(tx, &standing.owner, task, turn, commit.now)?;
    }
    let reservation = match (&batch.status, open) {
        (_, open) if open.is_empty() => None,
        // A run that cannot go on was given up: what it did last is not known to have cost nothing.
        (StatusChange::Finished { dead: true, .. }, _) => {
            budget::forfeit(tx, task, &standing, commit.now)?;
            None
        }
        (StatusChange::Finished { .. }, open) => {
            open.iter().try_for_each(|reservation| budget::release(tx, reservation, commit.now))?;
            None
        }
        (_, open) => Some(super::encode("commit the open reservations", &open)?),
    };
    update(tx, commit, &standing, reservation)?;
    tx.changed(task);
    Ok(())
}

fn append(tx: &Tx<'_>, commit: &Commit, prepared: &Prepared) -> Outcome<()> {
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO journal (task, seq, epoch, at, kind, record, payload, blob)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let entries = commit.batch.entries.iter().zip(&prepared.digests);
    for (seq, (entry, digest)) in (sql(commit.expected_seq) + 1..).zip(entries) {
        if let Some(digest) = digest {
            tx.connection
                .prepare_cached(
                    "INSERT INTO blobs (digest, content, refs) VALUES (?1, ?2, 1)
                     ON CONFLICT (digest) DO UPDATE SET refs = refs + 1",
                )?
                .execute(params![digest, entry.payload])?;
        }
        let inline = entry.payload.as_deref().filter(|_| digest.is_none());
        insert.execute(params![
            commit.task,
            seq,
            sql(commit.epoch),
            sql(entry.at),
            entry.kind,
            entry.record,
            inline,
            digest
        ])?;
    }
    Ok(())
}

fn keep_effects(tx: &Tx<'_>, task: &str, effects: &[EffectOp], now: u64) -> Outcome<()> {
    for effect in effects {
        match effect {
            EffectOp::Reserve { key, tool, class, attempt, step, call } => tx
                .connection
                .prepare_cached(
                    "INSERT INTO effects (task, key, tool, class, attempt, outcome, at, step, call)
                     VALUES (?1, ?2, ?3, ?4, ?5, 'reserved', ?6, ?7, ?8)
                     ON CONFLICT (task, key) DO UPDATE SET attempt = ?5, outcome = 'reserved', at = ?6",
                )?
                .execute(params![task, key, tool, class, attempt, sql(now), step, call])?,
            EffectOp::Finalise { key, outcome } => tx
                .connection
                .prepare_cached("UPDATE effects SET outcome = ?3, at = ?4 WHERE task = ?1 AND key = ?2")?
                .execute(params![task, key, outcome, sql(now)])?,
        };
    }
    Ok(())
}

/// A task goes to the dead letters: whatever it had under way may have been performed, and nobody asks again. The sink is
/// told of each such call.
pub(super) fn doubt_effects(tx: &mut Tx<'_>, task: &str, standing: &Standing, now: u64) -> Outcome<()> {
    if let Some(agent) = tx.publisher {
        let mut query = tx.connection.prepare_cached(
            "SELECT tool, step, call FROM effects WHERE task = ?1 AND outcome = 'reserved' AND class <> 'read'
             ORDER BY step, call",
        )?;
        let rows = query.query_map([task], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let doubtful: Vec<(String, u32, String)> = rows.collect::<Result<_, _>>()?;
        let lives = standing.requeues + standing.resumes;
        let message = |(tool, step, call): (String, u32, String)| {
            let (owner, arguments) = (&standing.owner, arguments(tx, task, step, &call));
            let arguments = arguments.as_deref();
            OutcomeUnknown { task, owner, step, call: &call, tool: &tool, arguments, lives }.message(agent, now)
        };
        let messages: Vec<OutboxMessage> = doubtful.into_iter().map(message).collect();
        send(tx, task, &messages, now)?;
    }
    tx.connection
        .prepare_cached(
            "UPDATE effects SET outcome = iif(class = 'read', 'failed', 'unknown'), at = ?2
             WHERE task = ?1 AND outcome = 'reserved'",
        )?
        .execute(params![task, sql(now)])?;
    Ok(())
}

/// What a call of a model step was made with, as the journal has it; `None` where that cannot be read.
fn arguments(tx: &Tx<'_>, task: &str, step: u32, call: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Replied {
        step: u32,
        message: Message,
    }
    let mut query = tx
        .connection
        .prepare_cached(
            "SELECT ifnull(journal.payload, blobs.content) FROM journal LEFT JOIN blobs ON digest = blob
             WHERE task = ?1 AND kind = 'model.replied' ORDER BY seq DESC",
        )
        .ok()?;
    let rows = query.query_map([task], |row| row.get::<_, String>(0)).ok()?;
    let replied = rows.flatten().filter_map(|json| serde_json::from_str::<Replied>(&json).ok());
    let replied = replied.take_while(|replied| replied.step >= step).find(|replied| replied.step == step)?;
    let mut calls = replied.message.calls();
    calls.find(|(id, ..)| *id == call).map(|(.., arguments)| arguments.to_owned())
}

pub(super) fn send(tx: &mut Tx<'_>, task: &str, messages: &[OutboxMessage], now: u64) -> Outcome<()> {
    for message in messages {
        tx.connection
            .prepare_cached("INSERT INTO outbox (message_id, task, body, due_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![message.id, task, message.body, sql(now)])?;
        tx.outbox(1);
    }
    Ok(())
}

/// Where a commit leaves the row.
struct Rest<'a> {
    status: Status,
    /// `None` keeps the lease as it is.
    due_at: Option<Option<i64>>,
    waiting: Option<&'a str>,
    result: Option<&'a str>,
    error: Option<&'a crate::store::TaskError>,
    dead: bool,
}

fn rest<'a>(tx: &Tx<'_>, commit: &'a Commit, standing: &Standing) -> Outcome<Rest<'a>> {
    let mut rest =
        Rest { status: Status::Running, due_at: None, waiting: None, result: None, error: None, dead: false };
    match &commit.batch.status {
        StatusChange::Running => {}
        StatusChange::Waiting { wake_at, waiting, mail_seen } => {
            rest.status = Status::Waiting;
            rest.waiting = Some(waiting);
            // Mail that came after the worker last looked must not be slept through.
            let mut query = tx.connection.prepare_cached("SELECT 1 FROM mail WHERE task = ?1 AND id > ?2 LIMIT 1")?;
            let woken = query.exists(params![commit.task, mail_seen])?.then_some(commit.now);
            // It also wakes to expire.
            let due_at = [woken, *wake_at, standing.expires_at].into_iter().flatten().min();
            rest.due_at = Some(due_at.map(sql));
        }
        StatusChange::Finished { status, result, error, dead } => {
            if !status.is_terminal() {
                let what = format!("task {} cannot finish as {}", commit.task, status.as_str());
                return Err(Error::Conflict { what }.into());
            }
            rest.status = *status;
            rest.due_at = Some(None);
            (rest.result, rest.error, rest.dead) = (result.as_deref(), error.as_ref(), *dead);
        }
    }
    Ok(rest)
}

fn update(tx: &mut Tx<'_>, commit: &Commit, standing: &Standing, reservation: Option<String>) -> Outcome<()> {
    let rest = rest(tx, commit, standing)?;
    let totals = &commit.batch.totals;
    let finished = rest.status.is_terminal();
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = ?2, due_at = iif(?3, ?4, due_at), worker = iif(?3, NULL, worker), seq = ?5,
               claims = 0, trials = 0, waiting = ?6, reservation = ?7, result = ?8, error_code = ?9,
               error_message = ?10, dead = ?11, steps = ?12, tool_calls = ?13, updated_at = ?14, finished_at = ?15
             WHERE n = ?1",
        )?
        .execute(params![
            standing.n,
            rest.status.as_str(),
            rest.due_at.is_some(),
            rest.due_at.flatten(),
            sql(commit.expected_seq + commit.batch.entries.len() as u64),
            rest.waiting,
            reservation,
            rest.result,
            rest.error.map(|error| &error.code),
            rest.error.map(|error| &error.message),
            rest.dead,
            totals.steps,
            totals.tool_calls,
            sql(commit.now),
            finished.then(|| sql(commit.now)),
        ])?;
    tx.moved(Some(Status::Running), Some(rest.status));
    // A suspect that commits is none any more: its worker may take others again.
    if rest.due_at.flatten().is_some_and(|due| due <= sql(commit.now)) || standing.claims > CLAIMS_TOGETHER_MAX {
        tx.work();
    }
    if rest.dead {
        doubt_effects(tx, &commit.task, standing, commit.now)?;
        claim::publish(tx, &commit.task, standing, true, commit.now)?;
    }
    if finished {
        tx.dead(i64::from(rest.dead));
        tx.connection.prepare_cached("DELETE FROM mail WHERE task = ?1")?.execute([&commit.task])?;
        sandbox::leave_task(tx, &commit.task)?;
        session::leave(tx, &standing.owner, commit.now)?;
    }
    Ok(())
}
