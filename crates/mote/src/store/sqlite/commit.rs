//! The commit: one batch, whole or not at all, by the worker that holds the task.
//!
//! It looks into no record and no payload.

use data_encoding::HEXLOWER;
use rusqlite::params;
use sha2::{Digest, Sha256};

use super::ending::{self, Last};
use super::row::{Standing, sql, standing};
use super::session;
use super::writer::{Outcome, Tx};
use super::{budget, mail};
use crate::limits::{CLAIMS_TOGETHER_MAX, STORE_INLINE_BYTES};
use crate::store::{Batch, Commit, CommitError, EffectOp, Error, NewEntry, Status, StatusChange};

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
            Some(HEXLOWER.encode(&Sha256::digest(payload.as_bytes())))
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
    mail::send(tx, task, &batch.outbox, commit.now)?;
    if let Some(turn) = &prepared.turn {
        session::add(tx, &standing.owner, task, turn, commit.now)?;
    }
    if let StatusChange::Finished(end) = &batch.status {
        let last = Last { seq: commit.expected_seq + batch.entries.len() as u64, totals: batch.totals };
        ending::end(tx, task, &standing, end, (&open, Some(last)), commit.now)?;
    } else {
        let reservation = match open.is_empty() {
            true => None,
            false => Some(super::encode("commit the open reservations", &open)?),
        };
        update(tx, commit, &standing, reservation)?;
    }
    // A suspect that commits is none any more: its worker may take others again.
    if standing.claims > CLAIMS_TOGETHER_MAX {
        tx.work();
    }
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
/// Where a commit leaves the row of a task that goes on.
struct Rest<'a> {
    status: Status,
    /// `None` keeps the lease as it is.
    due_at: Option<Option<i64>>,
    waiting: Option<&'a str>,
}

fn rest<'a>(tx: &Tx<'_>, commit: &'a Commit, standing: &Standing) -> Outcome<Rest<'a>> {
    let StatusChange::Waiting { wake_at, waiting, mail_seen } = &commit.batch.status else {
        return Ok(Rest { status: Status::Running, due_at: None, waiting: None });
    };
    // Mail that came after the worker last looked must not be slept through.
    let mut query = tx.connection.prepare_cached("SELECT 1 FROM mail WHERE task = ?1 AND id > ?2 LIMIT 1")?;
    let woken = query.exists(params![commit.task, mail_seen])?.then_some(commit.now);
    // It also wakes to expire.
    let due_at = [woken, *wake_at, standing.expires_at].into_iter().flatten().min();
    Ok(Rest { status: Status::Waiting, due_at: Some(due_at.map(sql)), waiting: Some(waiting) })
}

fn update(tx: &mut Tx<'_>, commit: &Commit, standing: &Standing, reservation: Option<String>) -> Outcome<()> {
    let rest = rest(tx, commit, standing)?;
    let totals = &commit.batch.totals;
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = ?2, due_at = iif(?3, ?4, due_at), worker = iif(?3, NULL, worker), seq = ?5,
               claims = 0, trials = 0, waiting = ?6, reservation = ?7, steps = ?8, tool_calls = ?9, updated_at = ?10
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
            totals.steps,
            totals.tool_calls,
            sql(commit.now),
        ])?;
    tx.moved(Some(Status::Running), Some(rest.status));
    if rest.due_at.flatten().is_some_and(|due| due <= sql(commit.now)) {
        tx.work();
    }
    Ok(())
}
