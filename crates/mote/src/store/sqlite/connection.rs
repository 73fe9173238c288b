//! Connections: how each is opened and what SQLite's errors mean to a caller.
//!
//! It knows no table.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Settings;
use crate::limits::STORE_STATEMENTS;
use crate::store::Error;

/// The first version without the WAL-reset bug, which loses commits silently (3.7.0 to 3.51.2).
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// Refuses to run on a SQLite that loses data.
pub(super) fn assert_version() -> Result<(), Error> {
    let found = rusqlite::version_number();
    if found >= SQLITE_VERSION_MIN {
        return Ok(());
    }
    Err(Error::Backend {
        operation: "open the store",
        detail: format!("SQLite {} loses data; 3.51.3 or newer is needed", rusqlite::version()),
    })
}

/// Opens the file with the settings that every connection shares.
pub(super) fn open(settings: &Settings, cache_kib: u32) -> Result<Connection, Error> {
    let failed = |error| translate("open the store", &settings.path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&settings.path, flags).map_err(failed)?;
    connection.busy_timeout(settings.lock_wait).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STORE_STATEMENTS);
    let pragmas = format!(
        "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0; PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA cache_size = -{cache_kib};
         PRAGMA journal_size_limit = {};",
        i64::from(crate::limits::STORE_WAL_PAGES_MAX) * 4096
    );
    connection.execute_batch(&pragmas).map_err(failed)?;
    Ok(connection)
}

/// Opens a file that is looked at and not changed.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, Error> {
    let failed = |error| translate("read the store", path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_millis(crate::limits::STORE_LOCK_WAIT_MS)).map_err(failed)?;
    Ok(connection)
}

/// Switches the file to a write-ahead log; waits at most `lock_wait` for others who are opening it.
pub(super) fn enter_wal(connection: &Connection, settings: &Settings) -> Result<(), Error> {
    let pause = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    loop {
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let detail = format!("the file system holds no write-ahead log (journal mode {mode})");
                return Err(Error::Backend { operation: "open the store", detail });
            }
            // SQLite does not call the busy handler while it changes the mode.
            Err(error) if is_busy(&error) && waited < settings.lock_wait => {
                std::thread::sleep(pause);
                waited += pause;
            }
            Err(error) => return Err(translate_waited("open the store", settings, error)),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// What an error means, where a lock was waited for as long as the settings say.
pub(super) fn translate_waited(operation: &'static str, settings: &Settings, error: rusqlite::Error) -> Error {
    match translate(operation, &settings.path, error) {
        Error::Locked { .. } => {
            Error::Locked { waited_ms: u64::try_from(settings.lock_wait.as_millis()).unwrap_or(u64::MAX) }
        }
        other => other,
    }
}

/// What an error means.
pub(super) fn translate(operation: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::DiskFull,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::Locked { waited_ms: crate::limits::STORE_LOCK_WAIT_MS }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Corrupt { path: path.display().to_string(), detail: error.to_string() }
        }
        _ => Error::Backend { operation, detail: format!("{error} ({})", path.display()) },
    }
}
