//! The tables, and the steps from one version of them to the next.
//!
//! A step is never changed once it was released; a new one is added behind it.

use std::path::Path;

use rusqlite::Connection;

use super::Error;
use crate::limits::STATE_BUSY_TIMEOUT;

/// Step N brings a file from version N to N + 1 (`PRAGMA user_version`).
const STEPS: &[&str] = &[
    "
    CREATE TABLE sandboxes (id TEXT PRIMARY KEY, state TEXT NOT NULL, created_ms INTEGER NOT NULL, record TEXT NOT NULL)
        STRICT;
    CREATE TABLE snapshots (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
    CREATE TABLE volumes (name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL, changed_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE keys (hash BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE replies (key TEXT PRIMARY KEY, request BLOB NOT NULL, reply TEXT NOT NULL, created_ms INTEGER NOT NULL)
        STRICT;
    CREATE INDEX replies_by_age ON replies (created_ms);
",
    "
    -- A key is kept before its request has an effect: without a reply until then.
    ALTER TABLE replies RENAME TO replies_before;
    DROP INDEX replies_by_age;
    CREATE TABLE replies (key TEXT PRIMARY KEY, request BLOB NOT NULL, reply TEXT, created_ms INTEGER NOT NULL) STRICT;
    INSERT INTO replies SELECT key, request, reply, created_ms FROM replies_before;
    DROP TABLE replies_before;
    CREATE INDEX replies_by_age ON replies (created_ms);
    CREATE INDEX snapshots_by_name ON snapshots (json_extract(record, '$.snapshot.name'));
",
    "
    -- Keys that were made before there were scopes may do what they could.
    ALTER TABLE keys ADD COLUMN scopes TEXT NOT NULL DEFAULT 'admin';
",
    "
    CREATE TABLE templates (id TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
    CREATE TABLE builds (id TEXT PRIMARY KEY, template TEXT NOT NULL, created_ms INTEGER NOT NULL, record TEXT NOT NULL,
        log TEXT NOT NULL DEFAULT '[]') STRICT;
    CREATE INDEX builds_by_template ON builds (template);
",
    "
    -- What is told of a secret beside its name.
    ALTER TABLE secrets ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE secrets ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE secrets ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
    UPDATE secrets SET created_ms = changed_ms;
",
];

/// Opens the file and brings it to the newest version, each step in a transaction.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    open_at(path, STEPS.len())
}

/// The same as a daemon has done it that knows so many steps.
pub(super) fn open_at(path: &Path, steps: usize) -> Result<Connection, Error> {
    let failed = |source| Error::Sqlite { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(STATE_BUSY_TIMEOUT).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    let known = u32::try_from(steps).unwrap_or(u32::MAX);
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if found > known {
        return Err(Error::Newer { found, known });
    }
    for version in found..known {
        let step = connection.transaction().map_err(failed)?;
        step.execute_batch(STEPS[version as usize]).map_err(failed)?;
        step.pragma_update(None, "user_version", version + 1).map_err(failed)?;
        step.commit().map_err(failed)?;
    }
    Ok(connection)
}
