//! Sandboxes of sessions and tasks: one an owner; what has lost its owner waits to be given back.
//!
//! A row that waits names neither tenant, session nor task: erasing those leaves nothing of them here.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{number, sql};
use super::writer::{Outcome, Tx};
use crate::store::{Error, NewSandbox, SandboxChange, SandboxRow, SandboxScope};

/// What [`read`] takes. A fresh sandbox has been told of once the call that said so has an end that the model saw.
const COLUMNS: &str = "n, generation, url, creation, spec, sandbox, reason,
     EXISTS (SELECT 1 FROM effects e WHERE e.task = told_task AND e.key = told_call AND e.outcome IN ('done', 'failed')),
     python, created_at, attempts";
/// What makes a row one that is to be given back.
const GIVE_BACK: &str =
    "UPDATE sandboxes SET tenant = NULL, session = NULL, task = NULL, told_task = NULL, told_call = NULL,
       reason = NULL, release_at = 0";

fn read(row: &Row<'_>) -> rusqlite::Result<SandboxRow> {
    Ok(SandboxRow {
        row: row.get(0)?,
        generation: number(row, 1)?,
        url: row.get(2)?,
        creation: row.get(3)?,
        spec: row.get(4)?,
        sandbox: row.get(5)?,
        reason: row.get(6)?,
        told: row.get(7)?,
        python: row.get(8)?,
        created_at: number(row, 9)?,
        attempts: row.get(10)?,
    })
}

/// Tenant, session and task of a scope, as their columns hold them.
fn owner(scope: &SandboxScope) -> (Option<&str>, Option<&str>, Option<&str>) {
    match scope {
        SandboxScope::Session { tenant, session } => (Some(tenant), Some(session), None),
        SandboxScope::Task(task) => (None, None, Some(task)),
    }
}

/// The sandbox of an owner.
pub(super) fn of(connection: &Connection, scope: &SandboxScope) -> Outcome<Option<SandboxRow>> {
    let (tenant, session, task) = owner(scope);
    let found = match task {
        Some(task) => {
            let text = format!("SELECT {COLUMNS} FROM sandboxes WHERE task = ?1");
            connection.prepare_cached(&text)?.query_row([task], read).optional()?
        }
        None => {
            let text = format!("SELECT {COLUMNS} FROM sandboxes WHERE tenant = ?1 AND session = ?2");
            connection.prepare_cached(&text)?.query_row((tenant, session), read).optional()?
        }
    };
    Ok(found)
}

/// Enters a sandbox before it is made; where the owner has one that is not to be replaced, that one is the answer.
pub(super) fn enter(tx: &Tx<'_>, new: &NewSandbox) -> Outcome<SandboxRow> {
    let (tenant, session, task) = owner(&new.scope);
    let mut generation = 1;
    if let Some(known) = of(tx.connection, &new.scope)? {
        if new.replaces.as_ref().is_none_or(|(row, _)| *row != known.row) {
            return Ok(known);
        }
        generation = known.generation + 1;
        tx.connection.prepare_cached(&format!("{GIVE_BACK} WHERE n = ?1"))?.execute([known.row])?;
    }
    tx.connection
        .prepare_cached(
            "INSERT INTO sandboxes (tenant, session, task, generation, url, creation, spec, reason, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            tenant,
            session,
            task,
            sql(generation),
            new.url,
            new.creation,
            new.spec,
            new.replaces.as_ref().map(|(_, reason)| reason),
            sql(new.now)
        ])?;
    let entered = of(tx.connection, &new.scope)?;
    entered.ok_or_else(|| Error::NotFound { what: "sandbox", id: new.creation.clone() }.into())
}

/// Changes a row; one that is no more is left alone.
pub(super) fn change(tx: &Tx<'_>, row: i64, change: &SandboxChange) -> Outcome<()> {
    let connection = tx.connection;
    match change {
        SandboxChange::Made { sandbox } => connection
            .prepare_cached("UPDATE sandboxes SET sandbox = ?2 WHERE n = ?1")?
            .execute(params![row, sandbox])?,
        SandboxChange::Told { task, call } => connection
            .prepare_cached("UPDATE sandboxes SET told_task = ?2, told_call = ?3 WHERE n = ?1 AND release_at IS NULL")?
            .execute(params![row, task, call])?,
        SandboxChange::Python => {
            connection.prepare_cached("UPDATE sandboxes SET python = 1 WHERE n = ?1")?.execute([row])?
        }
        SandboxChange::Retry(at) => connection
            .prepare_cached(
                "UPDATE sandboxes SET release_at = ?2, attempts = attempts + 1 WHERE n = ?1 AND release_at IS NOT NULL",
            )?
            .execute(params![row, sql(*at)])?,
        SandboxChange::Gone => connection
            .prepare_cached("DELETE FROM sandboxes WHERE n = ?1 AND release_at IS NOT NULL")?
            .execute([row])?,
    };
    Ok(())
}

/// What is to be given back by `now`, the longest due first.
pub(super) fn due(connection: &Connection, now: u64, limit: usize) -> Outcome<Vec<SandboxRow>> {
    let text = format!("SELECT {COLUMNS} FROM sandboxes WHERE release_at <= ?1 ORDER BY release_at, n LIMIT ?2");
    let mut query = connection.prepare_cached(&text)?;
    let rows = query.query_map((sql(now), sql(limit as u64)), read)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A task ended or goes: what it alone worked in is to be given back.
pub(super) fn leave_task(tx: &Tx<'_>, task: &str) -> Outcome<()> {
    tx.connection.prepare_cached(&format!("{GIVE_BACK} WHERE task = ?1"))?.execute([task])?;
    Ok(())
}

/// A session goes.
pub(super) fn leave_session(tx: &Tx<'_>, tenant: &str, session: &str) -> Outcome<()> {
    let text = format!("{GIVE_BACK} WHERE tenant = ?1 AND session = ?2");
    tx.connection.prepare_cached(&text)?.execute((tenant, session))?;
    Ok(())
}

/// A user goes: the sandboxes of every session that the user took part in may hold what is theirs.
pub(super) fn leave_user(tx: &Tx<'_>, tenant: &str, user: &str) -> Outcome<()> {
    let sessions = "SELECT session FROM tasks WHERE tenant = ?1 AND user = ?2 AND session IS NOT NULL
                    UNION SELECT id FROM sessions WHERE tenant = ?1 AND user = ?2";
    let text = format!("{GIVE_BACK} WHERE tenant = ?1 AND session IN ({sessions})");
    tx.connection.prepare(&text)?.execute((tenant, user))?;
    Ok(())
}
