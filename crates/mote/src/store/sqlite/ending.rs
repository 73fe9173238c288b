//! What a task's end brings about, whoever ends it: its reservations, its calls of which nobody knows the outcome, its row, its
//! mail, its sandbox, its place in the session, the outbox and the counts. The one place that does.

use rusqlite::params;

use super::budget::{self, Reservation};
use super::row::{Standing, sql};
use super::writer::{Outcome, Tx};
use super::{list, mail, sandbox, session};
use crate::store::{End, Ended, Error, Status, Totals, UnknownEffect};

/// What the last commit of a run that ends leaves on its row.
pub(super) struct Last {
    pub(super) seq: u64,
    pub(super) totals: Totals,
}

/// Ends a task. `open` are its reservations that no settlement has closed.
pub(super) fn end(
    tx: &mut Tx<'_>,
    task: &str,
    standing: &Standing,
    end: &End,
    (open, last): (&[Reservation], Option<Last>),
    now: u64,
) -> Outcome<()> {
    if !end.status.is_terminal() {
        let what = format!("task {task} cannot finish as {}", end.status.as_str());
        return Err(Error::Conflict { what }.into());
    }
    if end.dead {
        // What it did last is not known to have cost nothing, nor to have done nothing.
        budget::forfeit(tx, task, standing, now)?;
        doubt_effects(tx, task, standing, now)?;
    } else {
        open.iter().try_for_each(|reservation| budget::release(tx, reservation, now))?;
    }
    write_row(tx, standing, end, last, now)?;
    tx.connection.prepare_cached("DELETE FROM mail WHERE task = ?1")?.execute([task])?;
    sandbox::leave_task(tx, task)?;
    // A task behind another one of its session holds no place in it.
    if standing.due_at.is_some() || standing.status != Status::Queued {
        session::leave(tx, &standing.owner, now)?;
    }
    tx.moved(Some(standing.status), None);
    tx.dead(i64::from(end.dead));
    tx.changed(task);
    let lived = std::time::Duration::from_millis(now.saturating_sub(standing.created_at));
    tx.ended(Ended { status: end.status, dead: end.dead, lived });
    announce(tx, task, now)
}

fn write_row(tx: &Tx<'_>, standing: &Standing, end: &End, last: Option<Last>, now: u64) -> Outcome<()> {
    let (seq, totals) = last.map(|last| (sql(last.seq), last.totals)).unzip();
    tx.connection
        .prepare_cached(
            "UPDATE tasks SET status = ?2, due_at = NULL, worker = NULL, waiting = NULL, reservation = NULL, claims = 0,
               trials = 0, result = ?3, error_code = ?4, error_message = ?5, dead = ?6, updated_at = ?7, finished_at = ?7,
               seq = ifnull(?8, seq), steps = ifnull(?9, steps), tool_calls = ifnull(?10, tool_calls)
             WHERE n = ?1",
        )?
        .execute(params![
            standing.n,
            end.status.as_str(),
            end.result,
            end.error.as_ref().map(|error| &error.code),
            end.error.as_ref().map(|error| &error.message),
            end.dead,
            sql(now),
            seq,
            totals.map(|totals| totals.steps),
            totals.map(|totals| totals.tool_calls),
        ])?;
    Ok(())
}

/// Tells the sink.
fn announce(tx: &mut Tx<'_>, task: &str, now: u64) -> Outcome<()> {
    let Some(announcer) = tx.announcer else { return Ok(()) };
    let Some(ended) = list::task(tx.connection, None, task)? else { return Ok(()) };
    mail::send(tx, task, &[announcer.ended(&ended, now)], now)
}

/// The calls of a task that is given up: what may have changed something is not known to have been performed.
fn doubt_effects(tx: &mut Tx<'_>, task: &str, standing: &Standing, now: u64) -> Outcome<()> {
    if let Some(announcer) = tx.announcer {
        let mut query = tx.connection.prepare_cached(
            "SELECT tool, step, call FROM effects WHERE task = ?1 AND outcome = 'reserved' AND class <> 'read'
             ORDER BY step, call",
        )?;
        let rows = query.query_map([task], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let doubtful: Vec<(String, u32, String)> = rows.collect::<Result<_, _>>()?;
        let replies = if doubtful.is_empty() { Vec::new() } else { replies(tx, task)? };
        let (owner, lives) = (&standing.owner, standing.requeues + standing.resumes);
        let message = |(tool, step, call): &(String, u32, String)| {
            let unknown = UnknownEffect { task, owner, lives, step: *step, call, tool, replies: &replies };
            announcer.outcome_unknown(&unknown, now)
        };
        let messages: Vec<_> = doubtful.iter().map(message).collect();
        mail::send(tx, task, &messages, now)?;
    }
    tx.connection
        .prepare_cached(
            "UPDATE effects SET outcome = iif(class = 'read', 'failed', 'unknown'), at = ?2
             WHERE task = ?1 AND outcome = 'reserved'",
        )?
        .execute(params![task, sql(now)])?;
    Ok(())
}

/// Payloads of the replies that the calls under way may belong to, the newest first.
fn replies(tx: &Tx<'_>, task: &str) -> Outcome<Vec<String>> {
    let mut query = tx.connection.prepare_cached(
        "SELECT ifnull(journal.payload, blobs.content) FROM journal LEFT JOIN blobs ON digest = blob
         WHERE task = ?1 AND kind = 'model.replied' ORDER BY seq DESC LIMIT 2",
    )?;
    let rows = query.query_map([task], |row| row.get::<_, Option<String>>(0))?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}
