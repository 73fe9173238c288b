//! A task that ended begins another life: run anew from its request, or resumed where its journal ends.
//!
//! It does not know what the journal says; the runner decides where a resumed run goes on.

use rusqlite::params;

use super::row::{Standing, sql, standing};
use super::session;
use super::writer::{Outcome, Tx};
use crate::store::{EffectRow, Error, Status};

/// A task that failed or was cancelled, and what it needs to be queued again.
struct Ended {
    standing: Standing,
    /// Whether nothing of its session is open: it is due at once.
    free: bool,
    /// Its wall time starts again.
    expires_at: Option<u64>,
}

fn ended(tx: &Tx<'_>, task: &str, now: u64) -> Outcome<Ended> {
    let Some(standing) = standing(tx.connection, task)? else {
        return Err(Error::NotFound { what: "task", id: task.to_owned() }.into());
    };
    if !matches!(standing.status, Status::Failed | Status::Cancelled) {
        let status = standing.status.as_str();
        return Err(Error::Conflict {
            what: format!("task {task} is {status}: it has neither failed nor been cancelled"),
        }
        .into());
    }
    let free = match &standing.owner.session {
        Some(session) => !session::is_open(tx, &standing.owner.tenant, session)?,
        None => true,
    };
    let expires_at = standing.expires_at.map(|at| now.saturating_add(at.saturating_sub(standing.created_at)));
    Ok(Ended { standing, free, expires_at })
}

fn queued(tx: &mut Tx<'_>, task: &str, ended: &Ended) {
    tx.moved(None, Some(Status::Queued));
    if ended.standing.dead {
        tx.dead(-1);
    }
    tx.changed(task);
    tx.work();
}

/// Puts a task that failed or was cancelled back in the queue, to begin from its request. What it spent before stays with its
/// session, its budgets and its ledger.
pub(super) fn rerun(tx: &mut Tx<'_>, task: &str, now: u64) -> Outcome<()> {
    let ended = ended(tx, task, now)?;
    let old = format!("{task}.{}", ended.standing.requeues + 1);
    for table in ["journal", "effects"] {
        let sql_text = format!("UPDATE {table} SET task = ?2 WHERE task = ?1");
        tx.connection.prepare_cached(&sql_text)?.execute((task, &old))?;
    }
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = 'queued', due_at = ?2, requeues = requeues + 1, dead = 0, seq = 0, claims = 0,
               trials = 0, forfeited = 0, result = NULL, error_code = NULL, error_message = NULL, waiting = NULL,
               tokens_input = 0, tokens_cache_read = 0, tokens_cache_write = 0, tokens_output = 0,
               tokens_reasoning = 0, cost_nano_usd = 0, uncertain_input = 0, uncertain_output = 0,
               uncertain_nano_usd = 0, steps = 0, tool_calls = 0, started_at = NULL, updated_at = ?3,
               finished_at = NULL, expires_at = ?4
             WHERE n = ?1",
        )?
        .execute(params![ended.standing.n, ended.free.then(|| sql(now)), sql(now), ended.expires_at.map(sql)])?;
    queued(tx, task, &ended);
    Ok(())
}

/// Puts a task that failed or was cancelled back in the queue, to go on where its journal ends.
pub(super) fn resume(tx: &mut Tx<'_>, task: &str, now: u64) -> Outcome<()> {
    let ended = ended(tx, task, now)?;
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = 'queued', due_at = ?2, resumes = resumes + 1, dead = 0, claims = 0, trials = 0,
               error_code = NULL, error_message = NULL, updated_at = ?3, finished_at = NULL, expires_at = ?4
             WHERE n = ?1",
        )?
        .execute(params![ended.standing.n, ended.free.then(|| sql(now)), sql(now), ended.expires_at.map(sql)])?;
    queued(tx, task, &ended);
    Ok(())
}

/// What a task did through tools that change something, in order.
pub(super) fn effects(connection: &rusqlite::Connection, task: &str) -> Outcome<Vec<EffectRow>> {
    let mut query = connection.prepare_cached(
        "SELECT tool, class, outcome, step, call, at FROM effects WHERE task = ?1 AND class <> 'read' ORDER BY at, step, key",
    )?;
    let rows = query.query_map([task], |row| {
        Ok(EffectRow {
            tool: row.get(0)?,
            class: row.get(1)?,
            outcome: row.get(2)?,
            step: row.get(3)?,
            call: row.get(4)?,
            at: super::row::number(row, 5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
