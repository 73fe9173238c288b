//! Reading tasks and journals, a page at a time.
//!
//! It changes nothing.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::row::{self, TASK, TASK_COLUMNS, TASK_LISTED, number, sql};
use super::writer::{COUNTS, Outcome};
use crate::limits::{PAGE_BYTES, PAGE_MAX};
use crate::store::{Counts, Entry, Error, Filter, Page, Task};

/// One task.
pub(super) fn task(connection: &Connection, tenant: Option<&str>, id: &str) -> Outcome<Option<Task>> {
    let sql_text = format!("SELECT {TASK} FROM tasks WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)");
    Ok(connection.prepare_cached(&sql_text)?.query_row((id, tenant), row::task).optional()?)
}

/// One page of tasks, newest first. The cursor is the submission number of the last task of the page before.
pub(super) fn list(connection: &Connection, filter: &Filter, cursor: Option<&str>, limit: usize) -> Outcome<Page> {
    let limit = limit.clamp(1, PAGE_MAX);
    let (conditions, mut values) = conditions(filter);
    let mut sql_text = format!("SELECT {TASK_LISTED}, n FROM tasks WHERE {conditions}");
    if let Some(cursor) = cursor {
        let digits = !cursor.is_empty() && cursor.bytes().all(|byte| byte.is_ascii_digit());
        let before = cursor.parse::<i64>().ok().filter(|_| digits);
        let before =
            before.ok_or_else(|| Error::Conflict { what: "the cursor is not one that a listing gave".to_owned() })?;
        sql_text.push_str(" AND n < ?");
        values.push(before.into());
    }
    sql_text.push_str(" ORDER BY n DESC LIMIT ?");
    // One more than asked for tells whether there is a next page.
    values.push((sql(limit as u64) + 1).into());
    let mut query = connection.prepare(&sql_text)?;
    let mut found = query.query(params_from_iter(values))?;
    let (mut page, mut last, mut bytes) = (Page { tasks: Vec::new(), next: None }, 0_i64, 0);
    while let Some(row) = found.next()? {
        if page.tasks.len() == limit || bytes >= PAGE_BYTES {
            page.next = Some(last.to_string());
            break;
        }
        let task = row::task(row)?;
        let texts = [task.result.as_deref(), task.waiting.as_deref()];
        bytes += texts.into_iter().flatten().map(str::len).sum::<usize>();
        last = row.get(TASK_COLUMNS)?;
        page.tasks.push(task);
    }
    Ok(page)
}

fn conditions(filter: &Filter) -> (String, Vec<Value>) {
    let mut conditions = vec!["1"];
    let mut values: Vec<Value> = Vec::new();
    let columns = [("user = ?", &filter.user), ("session = ?", &filter.session)];
    for (condition, value) in columns {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value.clone().into());
        }
    }
    match filter.tenant.as_deref() {
        None => {}
        Some("") => conditions.push("tenant = ''"),
        // Said twice, so that the partial index on named tenants is seen to apply.
        Some(tenant) => {
            conditions.push("tenant <> '' AND tenant = ?");
            values.push(tenant.to_owned().into());
        }
    }
    if let Some(status) = filter.status {
        conditions.push("status = ?");
        values.push(status.as_str().to_owned().into());
    }
    for (condition, time) in [("created_at > ?", filter.created_after), ("created_at < ?", filter.created_before)] {
        if let Some(time) = time {
            conditions.push(condition);
            values.push(sql(time).into());
        }
    }
    if filter.dead {
        conditions.push("dead = 1");
    }
    for (key, value) in &filter.labels {
        conditions.push("EXISTS (SELECT 1 FROM json_each(tasks.labels) WHERE key = ? AND value = ?)");
        values.extend([key.clone().into(), value.clone().into()]);
    }
    (conditions.join(" AND "), values)
}

/// One page of a journal, oldest first.
pub(super) fn journal(connection: &Connection, task: &str, after: u64, limit: usize) -> Outcome<Vec<Entry>> {
    let mut query = connection.prepare_cached(
        "SELECT seq, epoch, at, kind, record, ifnull(payload, (SELECT content FROM blobs WHERE digest = blob))
         FROM journal WHERE task = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = query.query(params![task, sql(after), sql(limit.min(PAGE_MAX) as u64)])?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let entry = Entry {
            seq: number(row, 0)?,
            epoch: number(row, 1)?,
            at: number(row, 2)?,
            kind: row.get(3)?,
            record: row.get(4)?,
            payload: row.get(5)?,
        };
        bytes += entry.record.len() + entry.payload.as_ref().map_or(0, String::len);
        entries.push(entry);
    }
    Ok(entries)
}

/// The numbers that every commit keeps.
pub(super) fn counts(connection: &Connection) -> Outcome<Counts> {
    let mut query = connection.prepare_cached("SELECT name, n FROM counts")?;
    let mut rows = query.query([])?;
    let mut counts = Counts::default();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let place = match COUNTS.iter().position(|known| *known == name) {
            Some(0) => &mut counts.queued,
            Some(1) => &mut counts.running,
            Some(2) => &mut counts.waiting,
            Some(3) => &mut counts.dead,
            Some(4) => &mut counts.outbox,
            _ => continue,
        };
        *place = number(row, 1)?;
    }
    Ok(counts)
}
