//! Sessions: one task at a time, in order of submission, and a transcript across their turns.
//!
//! The rule in rows: of a session's open tasks only the first may have a time at which it is due. It does not decide
//! what of the transcript a model sees.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{self, TASK, json, native, number, sql, uncertain, usage};
use super::writer::{Outcome, Tx};
use crate::limits::{CONTEXT_UNITS, PAGE_MAX};
use crate::message::{Message, Role};
use crate::store::{Error, NewTask, Owner, Session, SessionPage, Task};

/// A new task comes to its session: whether the session is free.
pub(super) fn enter(tx: &Tx<'_>, task: &NewTask, session: &str) -> Outcome<bool> {
    tx.connection
        .prepare_cached(
            "INSERT INTO sessions (tenant, id, user, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT (tenant, id) DO UPDATE SET updated_at = max(updated_at, excluded.updated_at)",
        )?
        .execute(params![task.owner.tenant, session, task.owner.user, sql(task.now)])?;
    Ok(!is_open(tx, &task.owner.tenant, session)?)
}

/// Of a session's open tasks, the one that holds the session comes first: it was begun, or is due. Those behind it follow in
/// order of submission, also one that ended before and was queued again.
const TURNS: &str = "ORDER BY status = 'queued', due_at IS NULL, n";

/// The task that holds the session; else the next one.
pub(super) fn head(connection: &Connection, tenant: &str, session: &str) -> Outcome<Option<Task>> {
    let sql_text =
        format!("SELECT {TASK} FROM tasks WHERE tenant = ?1 AND session = ?2 AND finished_at IS NULL {TURNS} LIMIT 1");
    Ok(connection.prepare_cached(&sql_text)?.query_row((tenant, session), row::task).optional()?)
}

/// Refuses a task whose turn would come only after somebody answered another one, or after too many others.
pub(super) fn admit(tx: &Tx<'_>, tenant: &str, session: &str, within: u64) -> Outcome<()> {
    let Some(head) = head(tx.connection, tenant, session)? else { return Ok(()) };
    let open = "SELECT count(*) FROM tasks WHERE tenant = ?1 AND session = ?2 AND finished_at IS NULL";
    let open = tx.connection.prepare_cached(open)?.query_row((tenant, session), |row| row.get(0).map(native))?;
    let rests = head.rests();
    if !rests && open < within {
        return Ok(());
    }
    let waiting = head.waiting.filter(|_| rests);
    Err(Error::SessionBusy { session: session.to_owned(), task: head.id, waiting, open }.into())
}

/// Whether a task of the session is queued, running or waiting.
pub(super) fn is_open(tx: &Tx<'_>, tenant: &str, session: &str) -> Outcome<bool> {
    let mut query = tx
        .connection
        .prepare_cached("SELECT 1 FROM tasks WHERE tenant = ?1 AND session = ?2 AND finished_at IS NULL LIMIT 1")?;
    Ok(query.exists((tenant, session))?)
}

/// The session's first open task is gone: the next one is due.
pub(super) fn leave(tx: &mut Tx<'_>, owner: &Owner, now: u64) -> Outcome<()> {
    let Some(session) = &owner.session else { return Ok(()) };
    let sql_text = format!(
        "UPDATE tasks SET due_at = ?3
         WHERE n = (SELECT n FROM tasks WHERE tenant = ?1 AND session = ?2 AND finished_at IS NULL {TURNS} LIMIT 1)
           AND status = 'queued' AND due_at IS NULL"
    );
    let promoted = tx.connection.prepare_cached(&sql_text)?.execute(params![owner.tenant, session, sql(now)])?;
    if promoted > 0 {
        tx.work();
    }
    Ok(())
}

/// Adds a finished turn's messages, encoded.
pub(super) fn add(tx: &Tx<'_>, owner: &Owner, task: &str, messages: &[String], now: u64) -> Outcome<()> {
    let Some(session) = &owner.session else { return Ok(()) };
    let last: i64 = tx
        .connection
        .prepare_cached(
            "UPDATE sessions SET turns = turns + 1, messages = messages + ?3, updated_at = max(updated_at, ?4)
             WHERE tenant = ?1 AND id = ?2 RETURNING messages",
        )?
        .query_row(params![owner.tenant, session, sql(messages.len() as u64), sql(now)], |row| row.get(0))?;
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO session_messages (tenant, session, n, task, message) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let first = last - sql(messages.len() as u64) + 1;
    for (n, message) in (first..).zip(messages) {
        insert.execute(params![owner.tenant, session, n, task, message])?;
    }
    if !messages.is_empty() {
        tx.connection
            .prepare_cached("DELETE FROM session_messages WHERE tenant = ?1 AND session = ?2 AND n <= ?3")?
            .execute(params![owner.tenant, session, last - sql(CONTEXT_UNITS as u64)])?;
    }
    Ok(())
}

/// The columns that [`summary`] reads, in its order.
const SESSION: &str = "s.user, s.turns, s.tokens_input, s.tokens_cache_read, s.tokens_cache_write, s.tokens_output, \
     s.tokens_reasoning, s.cost_nano_usd, s.created_at, s.updated_at, s.uncertain_input, s.uncertain_output, s.uncertain_nano_usd, \
     (SELECT t.id FROM tasks t WHERE t.tenant = s.tenant AND t.session = s.id AND t.finished_at IS NULL \
        AND t.status IN ('running', 'waiting') LIMIT 1)";

/// A session without its transcript, from the columns of [`SESSION`].
fn summary(row: &Row<'_>, tenant: String, id: String) -> rusqlite::Result<Session> {
    Ok(Session {
        id,
        tenant,
        user: row.get(0)?,
        messages: Vec::new(),
        turns: number(row, 1)?,
        active_task: row.get(13)?,
        usage: usage(row, 2)?,
        cost_nano_usd: row.get(7).map(native)?,
        uncertain: uncertain(row, 10)?,
        created_at: number(row, 8)?,
        updated_at: number(row, 9)?,
    })
}

/// One page of sessions, by tenant and name.
pub(super) fn list(
    connection: &Connection,
    tenant: Option<&str>,
    user: Option<&str>,
    after: Option<(String, String)>,
    limit: usize,
) -> Outcome<SessionPage> {
    let limit = limit.clamp(1, PAGE_MAX);
    let (after_tenant, after_id) = after.unwrap_or_default();
    let sql_text = format!(
        "SELECT {SESSION}, s.tenant, s.id FROM sessions s
         WHERE (s.tenant, s.id) > (?1, ?2) AND (?3 IS NULL OR s.tenant = ?3) AND (?4 IS NULL OR s.user = ?4)
         ORDER BY s.tenant, s.id LIMIT ?5"
    );
    let mut query = connection.prepare_cached(&sql_text)?;
    // One more than asked for tells whether there is a next page.
    let more = sql(limit as u64) + 1;
    let rows = query.query_map(params![after_tenant, after_id, tenant, user, more], |row| {
        let (tenant, id) = (row.get(14)?, row.get(15)?);
        summary(row, tenant, id)
    })?;
    let mut sessions = rows.collect::<Result<Vec<_>, _>>()?;
    let full = sessions.len() > limit;
    sessions.truncate(limit);
    let last = sessions.last().filter(|_| full);
    let next = last.map(|session| (session.tenant.clone(), session.id.clone()));
    Ok(SessionPage { sessions, next })
}

/// Reads a session.
pub(super) fn read(connection: &Connection, tenant: &str, id: &str) -> Outcome<Option<Session>> {
    // One snapshot for the row, the transcript and the active task.
    let snapshot = connection.unchecked_transaction()?;
    let sql_text = format!("SELECT {SESSION} FROM sessions s WHERE s.tenant = ?1 AND s.id = ?2");
    let mut query = snapshot.prepare_cached(&sql_text)?;
    let found = query.query_row((tenant, id), |row| summary(row, tenant.to_owned(), id.to_owned())).optional()?;
    let Some(mut session) = found else { return Ok(None) };
    let mut query = snapshot
        .prepare_cached("SELECT message FROM session_messages WHERE tenant = ?1 AND session = ?2 ORDER BY n")?;
    let messages = query.query_map((tenant, id), |row| json::<Message>(row, 0))?;
    session.messages = messages.collect::<Result<_, _>>()?;
    // Where the oldest were dropped, the results of calls that went with them go too: never one without the other.
    let orphans = session.messages.iter().take_while(|message| message.role == Role::Tool).count();
    session.messages.drain(..orphans);
    Ok(Some(session))
}
