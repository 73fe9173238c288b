//! Mail: what clients tell a task, and the outbox: what a task tells sinks.
//!
//! It does not read what either says, except that a cancel ends a task that never ran.

use rusqlite::{Connection, params};

use super::ending;
use super::hold::MESSAGE_IS_FREE;
use super::row::{json, number, sql, standing};
use super::writer::{Outcome, Tx};
use crate::store::{End, Error, Letter, Mail, MailRow, OutboxMessage, Status};

/// Leaves mail.
pub(super) fn post(tx: &mut Tx<'_>, task: &str, mail: &Mail, body: &str, now: u64, most: usize) -> Outcome<()> {
    let Some(standing) = standing(tx.connection, task)? else {
        return Err(Error::NotFound { what: "task", id: task.to_owned() }.into());
    };
    if standing.status.is_terminal() {
        let what = format!("task {task} is {}", standing.status.as_str());
        return Err(Error::Conflict { what }.into());
    }
    let cancel = *mail == Mail::Cancel;
    if cancel && standing.status == Status::Queued && standing.seq == 0 {
        return ending::end(tx, task, &standing, &End::cancelled_in_queue(), (&[], None), now);
    }
    // Each kind has room of its own: signals that nobody waits for keep no answer out, and nothing keeps a cancel out.
    let kind = match mail {
        Mail::Cancel => "cancel",
        Mail::Input { .. } => "input",
        Mail::Signal { .. } => "signal",
    };
    let unread: i64 = tx
        .connection
        .prepare_cached("SELECT count(*) FROM mail WHERE task = ?1 AND json_extract(body, '$.kind') = ?2")?
        .query_row(params![task, kind], |row| row.get(0))?;
    // To be cancelled once is enough.
    if cancel && unread > 0 {
        return Ok(());
    }
    if !cancel && unread >= sql(most as u64) {
        return Err(Error::Limit { name: "MAIL_MAX", max: most as u64 }.into());
    }
    tx.connection.prepare_cached("INSERT INTO mail (task, at, body) VALUES (?1, ?2, ?3)")?.execute(params![
        task,
        sql(now),
        body
    ])?;
    if standing.status == Status::Waiting {
        tx.connection
            .prepare_cached("UPDATE tasks SET due_at = min(ifnull(due_at, ?2), ?2) WHERE n = ?1")?
            .execute((standing.n, sql(now)))?;
        tx.work();
    }
    tx.changed(task);
    Ok(())
}

/// Unread mail, oldest first.
pub(super) fn unread(connection: &Connection, task: &str) -> Outcome<Vec<MailRow>> {
    let mut query = connection.prepare_cached("SELECT id, at, body FROM mail WHERE task = ?1 ORDER BY id")?;
    let rows = query.query_map([task], |row| {
        let Letter { mail, by } = json(row, 2)?;
        Ok(MailRow { id: row.get(0)?, at: number(row, 1)?, mail, by })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Puts messages for sinks into the outbox.
pub(super) fn send(tx: &mut Tx<'_>, task: &str, messages: &[OutboxMessage], now: u64) -> Outcome<()> {
    for message in messages {
        tx.connection
            .prepare_cached("INSERT INTO outbox (message_id, task, body, due_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![message.id, task, message.body, sql(now)])?;
        tx.outbox(1);
    }
    Ok(())
}

/// Outbox messages that are due, oldest first.
pub(super) fn outbox(connection: &Connection, now: u64, limit: usize) -> Outcome<Vec<(i64, OutboxMessage)>> {
    let sql_text = format!(
        "SELECT id, message_id, body FROM outbox WHERE due_at <= ?1 AND {MESSAGE_IS_FREE} ORDER BY due_at, id LIMIT ?2"
    );
    let mut query = connection.prepare_cached(&sql_text)?;
    let rows = query.query_map((sql(now), sql(limit as u64)), |row| {
        Ok((row.get(0)?, OutboxMessage { id: row.get(1)?, body: row.get(2)? }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A message was delivered, or is to be tried again.
pub(super) fn outbox_done(tx: &mut Tx<'_>, row: i64, retry_at: Option<u64>) -> Outcome<()> {
    match retry_at {
        None => {
            let gone = tx.connection.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([row])?;
            tx.outbox(-sql(gone as u64));
        }
        Some(at) => {
            tx.connection
                .prepare_cached("UPDATE outbox SET due_at = ?2, attempts = attempts + 1 WHERE id = ?1")?
                .execute((row, sql(at)))?;
        }
    }
    Ok(())
}
