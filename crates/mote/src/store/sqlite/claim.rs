//! Claims and leases: who may work on a task, until when, and what becomes of one that nobody gets anywhere with.
//!
//! It does not know why a worker failed.

use rusqlite::{OptionalExtension, params};

use super::hold::TASK_IS_FREE;
use super::row::{self, Standing, TASK, TASK_COLUMNS, sql, standing};
use super::writer::{Outcome, Tx};
use super::{budget, commit, list, sandbox, session};
use crate::cloudevent::Ended;
use crate::limits::CLAIMS_WITHOUT_PROGRESS_MAX;
use crate::store::{Claim, Error, Lease, Status, Task};

/// Claims what is due. A session's tasks behind its first one have no due time, so nothing here looks at sessions.
pub(super) fn claim(tx: &mut Tx<'_>, lease: &Lease, now: u64, limit: usize) -> Outcome<Vec<Claim>> {
    let mut claims = Vec::new();
    while claims.len() < limit {
        let wanted = sql((limit - claims.len()) as u64);
        let due = due(tx, now, wanted)?;
        if due.is_empty() {
            break;
        }
        for due in due {
            claims.extend(take_or_bury(tx, due, lease, now)?);
        }
    }
    Ok(claims)
}

/// Claims one task, if it is due.
pub(super) fn claim_task(tx: &mut Tx<'_>, task: &str, lease: &Lease, now: u64) -> Outcome<Option<Claim>> {
    let sql_text = format!("SELECT {TASK}, n, claims FROM tasks WHERE id = ?1 AND due_at <= ?2 AND {TASK_IS_FREE}");
    let found = tx.connection.prepare_cached(&sql_text)?.query_row((task, sql(now)), due_row).optional()?;
    found.map_or(Ok(None), |due| take_or_bury(tx, due, lease, now))
}

/// A task that is due, its row's number, and its claims since the last commit.
type Due = (Task, i64, u32);

fn due_row(found: &rusqlite::Row<'_>) -> rusqlite::Result<Due> {
    Ok((row::task(found)?, found.get(TASK_COLUMNS)?, found.get(TASK_COLUMNS + 1)?))
}

fn due(tx: &Tx<'_>, now: u64, limit: i64) -> Outcome<Vec<Due>> {
    let sql_text = format!(
        "SELECT {TASK}, n, claims FROM tasks WHERE due_at <= ?1 AND {TASK_IS_FREE} ORDER BY due_at, n LIMIT ?2"
    );
    let mut query = tx.connection.prepare_cached(&sql_text)?;
    let rows = query.query_map((sql(now), limit), due_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn take_or_bury(tx: &mut Tx<'_>, (task, n, futile): Due, lease: &Lease, now: u64) -> Outcome<Option<Claim>> {
    if futile >= CLAIMS_WITHOUT_PROGRESS_MAX {
        bury(tx, &task, futile, now)?;
        return Ok(None);
    }
    take(tx, task, n, lease, now).map(Some)
}

fn take(tx: &mut Tx<'_>, mut task: Task, n: i64, lease: &Lease, now: u64) -> Outcome<Claim> {
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
    Ok(Claim { task, epoch })
}

/// Puts a task that was claimed too often in vain among the dead letters.
fn bury(tx: &mut Tx<'_>, task: &Task, claims: u32, now: u64) -> Outcome<()> {
    let Some(standing) = standing(tx.connection, &task.id)? else { return Ok(()) };
    budget::forfeit(tx, &task.id, &standing, now)?;
    commit::doubt_effects(tx, &task.id, now)?;
    let message = format!("{claims} workers in a row claimed the task and got nowhere; requeue it to try again");
    finish(tx, &task.id, &standing, "failed", Some(("dead_letter", &message)), now)?;
    tx.dead(1);
    let code = "dead_letter";
    tracing::error!(task_id = task.id, code, cause = message, dead = true, status = "failed", "a task failed");
    Ok(())
}

/// Cancels a task that never ran.
pub(super) fn cancel(tx: &mut Tx<'_>, task: &str, standing: &Standing, now: u64) -> Outcome<()> {
    finish(tx, task, standing, "cancelled", None, now)
}

fn finish(
    tx: &mut Tx<'_>,
    task: &str,
    standing: &Standing,
    status: &str,
    error: Option<(&str, &str)>,
    now: u64,
) -> Outcome<()> {
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = ?2, due_at = NULL, worker = NULL, waiting = NULL, reservation = NULL,
               error_code = ?3, error_message = ?4, dead = ?5, updated_at = ?6, finished_at = ?6
             WHERE n = ?1",
        )?
        .execute(params![
            standing.n,
            status,
            error.map(|(code, _)| code),
            error.map(|(_, message)| message),
            error.is_some(),
            sql(now)
        ])?;
    tx.connection.prepare_cached("DELETE FROM mail WHERE task = ?1")?.execute([task])?;
    sandbox::leave_task(tx, task)?;
    tx.moved(Some(standing.status), None);
    tx.changed(task);
    if standing.due_at.is_some() || standing.status != Status::Queued {
        session::leave(tx, &standing.owner, now)?;
    }
    publish(tx, task, standing, error.is_some(), now)
}

/// Tells the sink of an end that no worker drove to.
fn publish(tx: &mut Tx<'_>, task: &str, standing: &Standing, dead: bool, now: u64) -> Outcome<()> {
    let Some(agent) = tx.publisher else { return Ok(()) };
    let Some(ended) = list::task(tx.connection, None, task)? else { return Ok(()) };
    // A dead letter that is requeued ends again; the two ends are two events.
    let suffix = if dead { format!("/dead/{}", standing.requeues) } else { String::new() };
    let message = Ended::of(&ended, &suffix).message(agent, now);
    commit::send(tx, task, &[message], now)
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
            "UPDATE tasks SET status = 'queued', due_at = created_at, worker = NULL, claims = max(0, claims - 1)
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

/// Puts a dead letter back in the queue.
pub(super) fn requeue(tx: &mut Tx<'_>, task: &str, now: u64) -> Outcome<()> {
    let Some(standing) = standing(tx.connection, task)? else {
        return Err(Error::NotFound { what: "task", id: task.to_owned() }.into());
    };
    if !standing.dead {
        return Err(Error::Conflict { what: format!("task {task} is not a dead letter") }.into());
    }
    let old = format!("{task}.{}", standing.requeues + 1);
    for table in ["journal", "effects"] {
        let sql_text = format!("UPDATE {table} SET task = ?2 WHERE task = ?1");
        tx.connection.prepare_cached(&sql_text)?.execute((task, &old))?;
    }
    let free = match &standing.owner.session {
        Some(session) => !session::is_open(tx, &standing.owner.tenant, session)?,
        None => true,
    };
    // Its wall time starts again.
    let expires_at = standing.expires_at.map(|at| now.saturating_add(at.saturating_sub(standing.created_at)));
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = 'queued', due_at = ?2, requeues = requeues + 1, dead = 0, seq = 0, claims = 0,
               result = NULL, error_code = NULL, error_message = NULL, waiting = NULL, tokens_input = 0,
               tokens_cache_read = 0, tokens_cache_write = 0, tokens_output = 0, tokens_reasoning = 0,
               cost_nano_usd = 0, steps = 0, tool_calls = 0, started_at = NULL, updated_at = ?3, finished_at = NULL,
               expires_at = ?4
             WHERE n = ?1",
        )?
        .execute(params![standing.n, free.then(|| sql(now)), sql(now), expires_at.map(sql)])?;
    tx.moved(None, Some(Status::Queued));
    tx.dead(-1);
    tx.changed(task);
    tx.work();
    Ok(())
}
