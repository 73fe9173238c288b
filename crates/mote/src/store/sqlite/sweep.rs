//! Removal: what has outlived its retention, and what somebody wants erased.
//!
//! Budget totals stay, because forgetting what was spent would let it be spent again.

use rusqlite::params;

use super::row::{self, sql};
use super::writer::{Outcome, Tx};
use super::{budget, sandbox, session};
use crate::limits::STORE_BUDGET_KEPT_MS;
use crate::store::{Erase, Error, Owner, Status, Swept};

/// A task that is about to go.
struct Doomed {
    n: i64,
    id: String,
    owner: Owner,
    status: Status,
    due: bool,
    dead: bool,
    requeues: u32,
    reservation: Option<String>,
}

fn doomed(tx: &Tx<'_>, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Outcome<Vec<Doomed>> {
    let sql_text = format!(
        "SELECT n, id, tenant, user, session, status, due_at IS NOT NULL, dead, requeues, reservation FROM tasks
         WHERE {condition}"
    );
    let mut query = tx.connection.prepare_cached(&sql_text)?;
    let rows = query.query_map(values, |found| {
        Ok(Doomed {
            n: found.get(0)?,
            id: found.get(1)?,
            owner: Owner {
                tenant: found.get(2)?,
                user: found.get(3)?,
                session: found.get(4)?,
                labels: std::collections::BTreeMap::new(),
            },
            status: row::status(found, 5)?,
            due: found.get(6)?,
            dead: found.get(7)?,
            requeues: found.get(8)?,
            reservation: found.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes a task with everything that hangs on it but its ledger rows.
fn remove(tx: &mut Tx<'_>, task: &Doomed, now: u64) -> Outcome<()> {
    remove_journal(tx, &task.id)?;
    for requeue in 1..=task.requeues {
        remove_journal(tx, &format!("{}.{requeue}", task.id))?;
    }
    tx.connection.prepare_cached("DELETE FROM mail WHERE task = ?1")?.execute([&task.id])?;
    let unsent = tx.connection.prepare_cached("DELETE FROM outbox WHERE task = ?1")?.execute([&task.id])?;
    tx.outbox(-sql(unsent as u64));
    if let Some(reservation) = &task.reservation {
        budget::release_text(tx, reservation, now)?;
    }
    sandbox::leave_task(tx, &task.id)?;
    tx.connection.prepare_cached("DELETE FROM tasks WHERE n = ?1")?.execute([task.n])?;
    tx.moved(Some(task.status), None);
    tx.dead(-i64::from(task.dead));
    tx.changed(&task.id);
    let first = task.due || task.status == Status::Waiting;
    if first && !task.status.is_terminal() {
        session::leave(tx, &task.owner, now)?;
    }
    Ok(())
}

fn remove_journal(tx: &Tx<'_>, task: &str) -> Outcome<()> {
    let run = |sql_text: &str| tx.connection.prepare_cached(sql_text)?.execute([task]);
    run("UPDATE blobs SET refs = refs - (SELECT count(*) FROM journal WHERE task = ?1 AND blob = digest)
         WHERE digest IN (SELECT blob FROM journal WHERE task = ?1 AND blob IS NOT NULL)")?;
    run("DELETE FROM blobs WHERE refs <= 0
           AND digest IN (SELECT blob FROM journal WHERE task = ?1 AND blob IS NOT NULL)")?;
    run("DELETE FROM journal WHERE task = ?1")?;
    run("DELETE FROM effects WHERE task = ?1")?;
    Ok(())
}

fn remove_ledger(tx: &Tx<'_>, task: &str) -> Outcome<()> {
    tx.connection.prepare_cached("DELETE FROM ledger WHERE task = ?1")?.execute([task])?;
    Ok(())
}

/// Removes what has outlived its retention.
pub(super) fn sweep(tx: &mut Tx<'_>, before: u64, now: u64, limit: usize) -> Outcome<Swept> {
    let limit = sql(limit as u64);
    let tasks = doomed(tx, "finished_at < ?1 ORDER BY finished_at LIMIT ?2", &[&sql(before), &limit])?;
    for task in &tasks {
        remove(tx, task, now)?;
        remove_ledger(tx, &task.id)?;
    }
    tx.connection
        .prepare_cached(
            "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger WHERE deleted_at < ?1 ORDER BY deleted_at LIMIT ?2)",
        )?
        .execute((sql(before), limit))?;
    let keys = tx
        .connection
        .prepare_cached(
            "DELETE FROM idempotency WHERE (tenant, route, key) IN
               (SELECT tenant, route, key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?
        .execute((sql(now), limit))?;
    let mut emptied: Vec<(&str, &str)> = Vec::new();
    emptied.extend(tasks.iter().filter_map(|task| Some((task.owner.tenant.as_str(), task.owner.session.as_deref()?))));
    emptied.sort_unstable();
    emptied.dedup();
    for (tenant, session) in emptied {
        forget_empty(tx, tenant, session)?;
    }
    tx.connection
        .prepare_cached(
            "DELETE FROM budgets WHERE window_start > 0 AND updated_at < ?1 AND reserved_tokens = 0
               AND reserved_nano_usd = 0",
        )?
        .execute([sql(now.saturating_sub(STORE_BUDGET_KEPT_MS))])?;
    Ok(Swept { tasks: tasks.len() as u64, keys: keys as u64 })
}

/// Removes a session whose last task is gone.
fn forget_empty(tx: &Tx<'_>, tenant: &str, session: &str) -> Outcome<()> {
    let left = "SELECT 1 FROM tasks WHERE tenant = ?1 AND session = ?2";
    if tx.connection.prepare_cached(left)?.exists((tenant, session))? {
        return Ok(());
    }
    let run = |sql_text: &str| tx.connection.prepare_cached(sql_text)?.execute((tenant, session));
    run("DELETE FROM session_messages WHERE tenant = ?1 AND session = ?2")?;
    run("DELETE FROM sessions WHERE tenant = ?1 AND id = ?2")?;
    sandbox::leave_session(tx, tenant, session)
}

/// Erases a task, a session or a user.
pub(super) fn erase(tx: &mut Tx<'_>, what: &Erase) -> Outcome<u64> {
    // Freed pages are overwritten with zeros, for this command only: it costs writes.
    tx.connection.execute_batch("PRAGMA secure_delete = ON")?;
    let erased = match what {
        Erase::Session { tenant, session } => erase_rows(tx, Whose::Session, tenant, session),
        Erase::User { tenant, user } => erase_rows(tx, Whose::User, tenant, user),
        Erase::Task { tenant, task, now } => erase_task(tx, tenant.as_deref(), task, *now),
    };
    tx.connection.execute_batch("PRAGMA secure_delete = OFF")?;
    tx.scrub();
    erased
}

fn refuse_running(tasks: &[Doomed]) -> Outcome<()> {
    match tasks.iter().find(|task| task.status == Status::Running) {
        Some(task) => Err(Error::Conflict { what: format!("task {} is running; cancel it first", task.id) }.into()),
        None => Ok(()),
    }
}

/// Erases one task. Its ledger rows stay until their retention is over, without saying whose they were.
fn erase_task(tx: &mut Tx<'_>, tenant: Option<&str>, id: &str, now: u64) -> Outcome<u64> {
    let tasks = doomed(tx, "id = ?1 AND (?2 IS NULL OR tenant = ?2)", &[&id, &tenant])?;
    refuse_running(&tasks)?;
    for task in &tasks {
        tx.connection
            .prepare("DELETE FROM idempotency WHERE tenant = ?1 AND task = ?2")?
            .execute(params![task.owner.tenant, task.id])?;
        let said = "DELETE FROM session_messages WHERE tenant = ?1 AND session = ?2 AND task = ?3";
        tx.connection.prepare(said)?.execute(params![task.owner.tenant, task.owner.session, task.id])?;
        tx.connection
            .prepare("UPDATE ledger SET user = NULL, session = NULL, labels = '{}', deleted_at = ?2 WHERE task = ?1")?
            .execute(params![task.id, sql(now)])?;
        remove(tx, task, now)?;
        if let Some(session) = &task.owner.session {
            forget_empty(tx, &task.owner.tenant, session)?;
        }
    }
    Ok(tasks.len() as u64)
}

/// Whose tasks are erased.
#[derive(Clone, Copy)]
enum Whose {
    Session,
    User,
}

fn erase_rows(tx: &mut Tx<'_>, whose: Whose, tenant: &str, id: &str) -> Outcome<u64> {
    let column = match whose {
        Whose::Session => "session",
        Whose::User => "user",
    };
    let theirs = format!("tenant = ?1 AND {column} = ?2");
    let tasks = doomed(tx, &format!("{theirs} ORDER BY n"), &[&tenant, &id])?;
    refuse_running(&tasks)?;
    let run = |tx: &Tx<'_>, sql_text: &str| tx.connection.prepare(sql_text)?.execute(params![tenant, id]);
    let tasks_of = format!("(SELECT id FROM tasks WHERE {theirs})");
    run(tx, &format!("DELETE FROM idempotency WHERE tenant = ?1 AND task IN {tasks_of}"))?;
    run(tx, &format!("DELETE FROM session_messages WHERE tenant = ?1 AND task IN {tasks_of}"))?;
    match whose {
        Whose::Session => sandbox::leave_session(tx, tenant, id)?,
        Whose::User => sandbox::leave_user(tx, tenant, id)?,
    }
    let newest: u64 = tasks.len() as u64;
    for task in &tasks {
        remove(tx, task, 0)?;
        remove_ledger(tx, &task.id)?;
    }
    run(tx, &format!("DELETE FROM ledger WHERE {theirs}"))?;
    match whose {
        Whose::Session => {
            run(tx, "DELETE FROM session_messages WHERE tenant = ?1 AND session = ?2")?;
            run(tx, "DELETE FROM sessions WHERE tenant = ?1 AND id = ?2")?;
        }
        Whose::User => {
            // A session that others use too stays, without the user's name and turns.
            let alone = "tenant = ?1 AND user = ?2 AND NOT EXISTS
                           (SELECT 1 FROM tasks t WHERE t.tenant = sessions.tenant AND t.session = sessions.id)";
            run(
                tx,
                &format!(
                    "DELETE FROM session_messages WHERE (tenant, session) IN (SELECT tenant, id FROM sessions WHERE {alone})"
                ),
            )?;
            run(tx, &format!("DELETE FROM sessions WHERE {alone}"))?;
            run(tx, "UPDATE sessions SET user = NULL WHERE tenant = ?1 AND user = ?2")?;
        }
    }
    Ok(newest)
}
