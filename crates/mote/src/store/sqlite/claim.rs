//! Claims and leases: who may work on a task, until when, and what becomes of one that nobody gets anywhere with.
//!
//! A worker that dies says nothing of the tasks that it held: any of them, or something else, may have killed it. So a task
//! that was claimed in vain is next tried alone, and only such a trial counts against it.

use rusqlite::{OptionalExtension, params};

use super::ending;
use super::hold::TASK_IS_FREE;
use super::row::{self, TASK, TASK_COLUMNS, sql, standing};
use super::writer::{Outcome, Tx};
use crate::limits::{CLAIMS_TOGETHER_MAX, SUSPECT_PATIENCE_MS, TRIALS_MAX};
use crate::store::{Claim, End, Error, Lease, Status, Task};

/// Claims what is due. A session's tasks behind its first one have no due time, so nothing here looks at sessions.
pub(super) fn claim(tx: &mut Tx<'_>, lease: &Lease, now: u64, limit: usize) -> Outcome<Vec<Claim>> {
    let mut claims = Vec::new();
    if on_trial(tx, &lease.worker, now)? {
        return Ok(claims);
    }
    // Suspects first: while nothing else is under way here, nothing else is blamed.
    if let Some(suspect) = next_suspect(tx, lease, now)? {
        claims.extend(take_or_bury(tx, suspect, lease, now)?);
        if !claims.is_empty() {
            return Ok(claims);
        }
    }
    while claims.len() < limit {
        let wanted = sql((limit - claims.len()) as u64);
        let due = due(tx, now, wanted)?;
        if due.is_empty() {
            break;
        }
        for due in due {
            claims.push(take(tx, due, lease, now)?);
        }
    }
    Ok(claims)
}

/// Claims one task, if it is due.
pub(super) fn claim_task(tx: &mut Tx<'_>, task: &str, lease: &Lease, now: u64) -> Outcome<Option<Claim>> {
    let sql_text = format!("SELECT {TASK}, {DUE} FROM tasks WHERE id = ?1 AND due_at <= ?2 AND {TASK_IS_FREE}");
    let found = tx.connection.prepare_cached(&sql_text)?.query_row((task, sql(now)), due_row).optional()?;
    found.map_or(Ok(None), |due| take_or_bury(tx, due, lease, now))
}

/// A task that is due, and its row's number.
struct Due {
    task: Task,
    n: i64,
    /// Claims since the last commit.
    claims: u32,
    /// Of these, those that were trials.
    trials: u32,
    /// Since when it is due.
    since: u64,
}

/// What [`due_row`] reads behind a task's columns.
const DUE: &str = "n, claims, trials, due_at";
/// What a suspect's row says; the index `tasks_suspect` is for this condition.
const SUSPECT: &str = "claims >= 2";
const _: () = assert!(CLAIMS_TOGETHER_MAX == 2, "SUSPECT and the index tasks_suspect say the same number");

impl Due {
    fn is_suspect(&self) -> bool {
        self.claims >= CLAIMS_TOGETHER_MAX
    }
}

fn due_row(found: &rusqlite::Row<'_>) -> rusqlite::Result<Due> {
    let (claims, trials) = (found.get(TASK_COLUMNS + 1)?, found.get(TASK_COLUMNS + 2)?);
    let (n, since) = (found.get(TASK_COLUMNS)?, row::number(found, TASK_COLUMNS + 3)?);
    Ok(Due { task: row::task(found)?, n, claims, trials, since })
}

/// The oldest tasks that are due and no suspects.
fn due(tx: &Tx<'_>, now: u64, limit: i64) -> Outcome<Vec<Due>> {
    let sql_text = format!(
        "SELECT {TASK}, {DUE} FROM tasks WHERE due_at <= ?1 AND NOT ({SUSPECT}) AND {TASK_IS_FREE}
         ORDER BY due_at, n LIMIT ?2"
    );
    let mut query = tx.connection.prepare_cached(&sql_text)?;
    let rows = query.query_map((sql(now), limit), due_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether the worker has a suspect on trial: it takes nothing else until that has committed.
fn on_trial(tx: &Tx<'_>, worker: &str, now: u64) -> Outcome<bool> {
    let sql_text = format!(
        "SELECT 1 FROM tasks WHERE {SUSPECT} AND claims > {CLAIMS_TOGETHER_MAX} AND status = 'running' AND worker = ?1
           AND due_at > ?2 LIMIT 1"
    );
    Ok(tx.connection.prepare_cached(&sql_text)?.exists(params![worker, sql(now)])?)
}

/// The suspect to be tried next: one at a time, and beside none that has not got on since it was claimed. The last trial is
/// for a worker that holds nothing else at all, unless none is to be had.
fn next_suspect(tx: &Tx<'_>, lease: &Lease, now: u64) -> Outcome<Option<Due>> {
    let sql_text = format!(
        "SELECT {TASK}, {DUE} FROM tasks WHERE {SUSPECT} AND due_at <= ?1 AND {TASK_IS_FREE}
         ORDER BY trials, due_at, n LIMIT 1"
    );
    let mut query = tx.connection.prepare_cached(&sql_text)?;
    let Some(suspect) = query.query_row([sql(now)], due_row).optional()? else { return Ok(None) };
    let last = suspect.trials + 1 >= TRIALS_MAX;
    let strictly = last && now.saturating_sub(suspect.since) < SUSPECT_PATIENCE_MS;
    let others = if strictly { "" } else { "AND claims > 0" };
    let sql_text =
        format!("SELECT 1 FROM tasks WHERE status = 'running' AND worker = ?1 AND due_at > ?2 {others} LIMIT 1");
    let busy = tx.connection.prepare_cached(&sql_text)?.exists(params![lease.worker, sql(now)])?;
    Ok((!busy).then_some(suspect))
}

fn take_or_bury(tx: &mut Tx<'_>, due: Due, lease: &Lease, now: u64) -> Outcome<Option<Claim>> {
    if due.trials >= TRIALS_MAX {
        bury(tx, &due, now)?;
        return Ok(None);
    }
    take(tx, due, lease, now).map(Some)
}

/// A worker begins the trial of a suspect: from here on it is the task that is worked on.
pub(super) fn begin_trial(tx: &Tx<'_>, task: &str, epoch: u64) -> Outcome<()> {
    tx.connection
        .prepare_cached("UPDATE tasks SET trials = trials + 1 WHERE id = ?1 AND epoch = ?2 AND status = 'running'")?
        .execute(params![task, sql(epoch)])?;
    Ok(())
}

fn take(tx: &mut Tx<'_>, due: Due, lease: &Lease, now: u64) -> Outcome<Claim> {
    let suspect = due.is_suspect();
    let Due { mut task, n, .. } = due;
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = 'running', due_at = ?2, worker = ?3, epoch = epoch + 1, claims = claims + 1,
               started_at = ifnull(started_at, ?4), waiting = NULL, updated_at = ?4
             WHERE n = ?1",
        )?
        // A lease that is over when it begins would be claimed again by this very command.
        .execute(params![n, sql(lease.until.max(now.saturating_add(1))), lease.worker, sql(now)])?;
    tx.moved(Some(task.status), Some(Status::Running));
    tx.changed(&task.id);
    task.status = Status::Running;
    task.epoch += 1;
    task.waiting = None;
    task.started_at.get_or_insert(now);
    task.updated_at = now;
    let epoch = task.epoch;
    Ok(Claim { task, epoch, suspect })
}

/// Gives up a task on which too many workers died that had nothing else to do.
fn bury(tx: &mut Tx<'_>, due: &Due, now: u64) -> Outcome<()> {
    let task = &due.task;
    let Some(standing) = standing(tx.connection, &task.id)? else { return Ok(()) };
    let end = End::dead_letter();
    ending::end(tx, &task.id, &standing, &end, (&[], None), now)?;
    let (code, cause) = end.error.map(|error| (error.code, error.message)).unzip();
    tracing::error!(task_id = task.id, code, cause, dead = true, status = "failed", "a task failed");
    Ok(())
}

/// Extends leases; gives those that are no longer held.
pub(super) fn renew(tx: &Tx<'_>, worker: &str, held: &[(String, u64)], until: u64) -> Outcome<Vec<String>> {
    let mut update = tx.connection.prepare_cached(
        "UPDATE tasks SET due_at = ?4 WHERE id = ?1 AND epoch = ?2 AND worker = ?3 AND status = 'running'",
    )?;
    let mut lost = Vec::new();
    for (task, epoch) in held {
        if update.execute(params![task, sql(*epoch), worker, sql(until)])? == 0 {
            lost.push(task.clone());
        }
    }
    Ok(lost)
}

/// Gives a task back. That a worker shut down says nothing against the task, so the claim does not count.
pub(super) fn release(tx: &mut Tx<'_>, task: &str, epoch: u64) -> Outcome<()> {
    let released = tx
        .connection
        .prepare_cached(
            "UPDATE tasks SET status = 'queued', due_at = created_at, worker = NULL, claims = max(0, claims - 1),
               trials = max(0, trials - 1)
             WHERE id = ?1 AND epoch = ?2 AND status = 'running'",
        )?
        .execute(params![task, sql(epoch)])?;
    if released == 0 {
        let what = format!("task {task} is not held at epoch {epoch}");
        return Err(Error::Conflict { what }.into());
    }
    tx.moved(Some(Status::Running), Some(Status::Queued));
    tx.changed(task);
    tx.work();
    Ok(())
}
