//! Rows to values and back.
//!
//! It holds no statement that changes anything.

use std::collections::BTreeMap;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::store::{Owner, Status, Task, TaskError, Uncertain};
use crate::usage::Usage;

/// The columns that [`task`] reads, in its order.
pub(super) const TASK: &str = "id, tenant, user, session, labels, status, request, epoch, seq, result, error_code, \
     error_message, waiting, dead, tokens_input, tokens_cache_read, tokens_cache_write, tokens_output, \
     tokens_reasoning, cost_nano_usd, steps, tool_calls, created_at, started_at, updated_at, finished_at, expires_at, \
     uncertain_input, uncertain_output, uncertain_nano_usd, requeues + resumes AS lives, requeues, \
     finished_at IS NULL AND n <= ifnull((SELECT task FROM hold), 0) AS held";
/// The same without the request, which may be large and which a listing does not show.
pub(super) const TASK_LISTED: &str = "id, tenant, user, session, labels, status, '' AS request, epoch, seq, result, \
     error_code, error_message, waiting, dead, tokens_input, tokens_cache_read, tokens_cache_write, tokens_output, \
     tokens_reasoning, cost_nano_usd, steps, tool_calls, created_at, started_at, updated_at, finished_at, expires_at, \
     uncertain_input, uncertain_output, uncertain_nano_usd, requeues + resumes AS lives, requeues, \
     finished_at IS NULL AND n <= ifnull((SELECT task FROM hold), 0) AS held";
/// How many they are.
pub(super) const TASK_COLUMNS: usize = 33;

/// A number as SQLite keeps it: 63 bits; more is as good as never.
pub(super) fn sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number as it was kept.
pub(super) fn native(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A column that holds a count or a time.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(native)
}

fn maybe(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(native))
}

fn small(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    Ok(u32::try_from(row.get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

/// The status that a column names.
pub(super) fn status(row: &Row<'_>, column: usize) -> rusqlite::Result<Status> {
    match row.get_ref(column)?.as_str()? {
        "queued" => Ok(Status::Queued),
        "running" => Ok(Status::Running),
        "waiting" => Ok(Status::Waiting),
        "completed" => Ok(Status::Completed),
        "failed" => Ok(Status::Failed),
        "cancelled" => Ok(Status::Cancelled),
        other => {
            let detail = format!("unknown status {other}");
            Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Text, detail.into()))
        }
    }
}

/// A column that holds JSON.
pub(super) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// Five token columns from `first` on.
pub(super) fn usage(row: &Row<'_>, first: usize) -> rusqlite::Result<Usage> {
    Ok(Usage {
        input: number(row, first)?,
        cache_read: number(row, first + 1)?,
        cache_write: number(row, first + 2)?,
        output: number(row, first + 3)?,
        reasoning: number(row, first + 4)?,
    })
}

/// Three columns of what is uncertain from `first` on.
pub(super) fn uncertain(row: &Row<'_>, first: usize) -> rusqlite::Result<Uncertain> {
    Ok(Uncertain { input: number(row, first)?, output: number(row, first + 1)?, nano_usd: number(row, first + 2)? })
}

/// A task from the columns of [`TASK`].
pub(super) fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    let labels: BTreeMap<String, String> = json(row, 4)?;
    let error = match row.get::<_, Option<String>>(10)? {
        Some(code) => Some(TaskError { code, message: row.get::<_, Option<String>>(11)?.unwrap_or_default() }),
        None => None,
    };
    Ok(Task {
        id: row.get(0)?,
        owner: Owner { tenant: row.get(1)?, user: row.get(2)?, session: row.get(3)?, labels },
        status: status(row, 5)?,
        request: row.get(6)?,
        epoch: number(row, 7)?,
        seq: number(row, 8)?,
        result: row.get(9)?,
        error,
        waiting: row.get(12)?,
        dead: row.get(13)?,
        usage: usage(row, 14)?,
        cost_nano_usd: number(row, 19)?,
        uncertain: uncertain(row, 27)?,
        lives: small(row, 30)?,
        requeues: small(row, 31)?,
        held: row.get(32)?,
        steps: small(row, 20)?,
        tool_calls: small(row, 21)?,
        created_at: number(row, 22)?,
        started_at: maybe(row, 23)?,
        updated_at: number(row, 24)?,
        finished_at: maybe(row, 25)?,
        expires_at: maybe(row, 26)?,
    })
}

/// What a command needs to know of a task before it changes it.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) n: i64,
    pub(super) owner: Owner,
    /// The labels as stored.
    pub(super) labels: String,
    pub(super) status: Status,
    pub(super) due_at: Option<u64>,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) reservation: Option<String>,
    /// Whether that of a dead letter was booked when it was given up.
    pub(super) forfeited: u32,
    pub(super) created_at: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) dead: bool,
    pub(super) requeues: u32,
    pub(super) resumes: u32,
    pub(super) claims: u32,
}

/// Reads a task's standing.
pub(super) fn standing(connection: &Connection, id: &str) -> rusqlite::Result<Option<Standing>> {
    let mut query = connection.prepare_cached(
        "SELECT n, tenant, user, session, labels, status, due_at, epoch, seq, reservation, forfeited, created_at,
           expires_at, dead, requeues, resumes, claims
         FROM tasks WHERE id = ?1",
    )?;
    let read = |row: &Row<'_>| {
        // Labels are copied to the ledger as they stand; nothing here looks into them.
        let owner = Owner { tenant: row.get(1)?, user: row.get(2)?, session: row.get(3)?, labels: BTreeMap::new() };
        Ok(Standing {
            n: row.get(0)?,
            owner,
            labels: row.get(4)?,
            status: status(row, 5)?,
            due_at: maybe(row, 6)?,
            epoch: number(row, 7)?,
            seq: number(row, 8)?,
            reservation: row.get(9)?,
            forfeited: row.get(10)?,
            created_at: number(row, 11)?,
            expires_at: maybe(row, 12)?,
            dead: row.get(13)?,
            requeues: small(row, 14)?,
            resumes: small(row, 15)?,
            claims: small(row, 16)?,
        })
    };
    query.query_row([id], read).optional()
}
