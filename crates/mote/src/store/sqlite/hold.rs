//! What a store holds back after it was restored from a backup: the tasks that were under way then, and the messages that
//! were not sent then. Both may have happened meanwhile.
//!
//! Whoever claims tasks and whoever sends messages asks here; what is new is not held.

use rusqlite::{Connection, OptionalExtension};

use super::row::number;
use super::writer::{Outcome, Tx};
use crate::store::Held;

/// The condition under which a row of `tasks` is not held.
pub(super) const TASK_IS_FREE: &str = "n > ifnull((SELECT task FROM hold), 0)";
/// The condition under which a row of `outbox` is not held.
pub(super) const MESSAGE_IS_FREE: &str = "id > ifnull((SELECT message FROM hold), 0)";

/// Holds everything that is in the store now.
pub(super) fn hold(connection: &Connection) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO hold SELECT 1, ifnull((SELECT max(n) FROM tasks), 0), ifnull((SELECT max(id) FROM outbox), 0)
               WHERE true ON CONFLICT DO UPDATE SET task = excluded.task, message = excluded.message";
    connection.execute(sql, []).map(|_| ())
}

/// How much is held.
pub(super) fn held(connection: &Connection) -> rusqlite::Result<Held> {
    let Some((task, message)) = connection
        .query_row("SELECT task, message FROM hold", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?
    else {
        return Ok(Held::default());
    };
    let tasks = "SELECT status, count(*) FROM tasks WHERE n <= ?1 AND finished_at IS NULL GROUP BY status";
    let mut held = Held::default();
    let mut query = connection.prepare(tasks)?;
    let mut rows = query.query([task])?;
    while let Some(row) = rows.next()? {
        let (status, count): (String, u64) = (row.get(0)?, number(row, 1)?);
        match status.as_str() {
            "queued" => held.queued = count,
            "running" => held.running = count,
            _ => held.waiting = count,
        }
    }
    held.messages =
        connection.query_row("SELECT count(*) FROM outbox WHERE id <= ?1", [message], |row| number(row, 0))?;
    Ok(held)
}

/// Lets go of everything.
pub(super) fn release(tx: &mut Tx<'_>) -> Outcome<Held> {
    let held = held(tx.connection)?;
    tx.connection.execute("DELETE FROM hold", [])?;
    tx.work();
    Ok(held)
}
