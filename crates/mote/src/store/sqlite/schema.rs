//! The schema and its versions: recognises a store's file, makes a new one, brings an older one up to date.
//!
//! It never touches a file that is not a store's or whose schema is newer than this program.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::connection;
use crate::store::Error;

/// `PRAGMA application_id` of a store: `MOTE` in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x4d4f_5445;

/// Every step from an empty file to the newest schema; `PRAGMA user_version` counts those applied. A released step is
/// never edited: a change is a new step.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema.sql"),
    include_str!("sandboxes.sql"),
    include_str!("agent.sql"),
    include_str!("hold.sql"),
    include_str!("accounts.sql"),
    include_str!("operators.sql"),
];

/// Brings the file up to date in one transaction; two processes may do so at once.
pub(super) fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), Error> {
    let failed = |error| connection::translate("migrate the store", path, error);
    if found(connection, path, migrations)? == migrations.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let version = found(&transaction, path, migrations)?;
    for step in migrations.iter().skip(version) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", migrations.len() as i64).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// How many steps the file has seen; an error if it is not a store's.
pub(super) fn found(connection: &Connection, path: &Path, migrations: &[&str]) -> Result<usize, Error> {
    let failed = |error| connection::translate("read the store's version", path, error);
    let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    if application == 0 && version == 0 && number("SELECT count(*) FROM sqlite_master")? == 0 {
        return Ok(0);
    }
    if application != i64::from(APPLICATION_ID) || version < 0 {
        return Err(Error::Corrupt {
            path: path.display().to_string(),
            detail: format!("it is another program's database, application id {application:#x}"),
        });
    }
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > migrations.len() {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        return Err(Error::SchemaTooNew {
            path: path.display().to_string(),
            found: number(version),
            known: number(migrations.len()),
        });
    }
    Ok(version)
}
