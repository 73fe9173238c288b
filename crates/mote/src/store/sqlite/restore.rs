//! Restores a backup into a state folder: a whole copy, checked, and held if that is asked for, before it gets the store's
//! name.
//!
//! It overwrites nothing.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{connection, hold, schema};
use crate::store::{Error, Held};

/// What a restored store holds: tasks that are not finished, messages that are not sent.
///
/// # Errors
/// [`Error::Conflict`] if there is a store at `to`, [`Error::Corrupt`] and [`Error::SchemaTooNew`] of the backup,
/// [`Error::DiskFull`], and what reading and writing say.
pub fn restore(backup: &Path, to: &Path, is_held: bool) -> Result<Held, Error> {
    connection::assert_version()?;
    if to.exists() {
        let what = format!("there is a store at {}; a restore overwrites nothing", to.display());
        return Err(Error::Conflict { what });
    }
    for suffix in ["-wal", "-shm"] {
        let rest = super::backup::beside(to, suffix);
        if rest.exists() {
            // SQLite would take it for the restored store's own.
            let what = format!("{} is left of another store; remove it first", rest.display());
            return Err(Error::Conflict { what });
        }
    }
    let partial = super::backup::beside(to, ".partial");
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => Error::DiskFull,
        _ => Error::Backend { operation: "restore the store", detail: format!("{error} ({})", partial.display()) },
    };
    super::backup::remove(&partial).map_err(io)?;
    super::create::empty(&partial).map_err(io)?;
    let restored = fill(backup, &partial, is_held)
        .and_then(|held| std::fs::File::open(&partial).and_then(|file| file.sync_all()).map(|()| held).map_err(io))
        .and_then(|held| name(&partial, to).map(|()| held).map_err(io));
    // What cannot be removed is in nobody's way: the next restore does.
    let _ = super::backup::remove(&partial);
    restored
}

/// Gives the copy the store's name, unless something has it by now.
fn name(partial: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::hard_link(partial, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

fn fill(backup: &Path, partial: &Path, is_held: bool) -> Result<Held, Error> {
    let read = |error| connection::translate("read the backup", backup, error);
    let written = |error| connection::translate("restore the store", partial, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(backup, flags).map_err(read)?;
    if schema::found(&from, backup, schema::MIGRATIONS)? == 0 {
        let detail = "it is empty".to_owned();
        return Err(Error::Corrupt { path: backup.display().to_string(), detail });
    }
    let found: String = from.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(read)?;
    if found != "ok" {
        return Err(Error::Corrupt { path: backup.display().to_string(), detail: found });
    }
    let mut to = Connection::open(partial).map_err(written)?;
    rusqlite::backup::Backup::new(&from, &mut to)
        .and_then(|copy| copy.run_to_completion(i32::MAX, std::time::Duration::ZERO, None))
        .map_err(written)?;
    // An older backup has no place for what is held yet.
    schema::migrate(&mut to, partial, schema::MIGRATIONS)?;
    hold::hold(&to).map_err(written)?;
    let held = hold::held(&to).map_err(written)?;
    if !is_held {
        to.execute("DELETE FROM hold", []).map_err(written)?;
    }
    to.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)).map_err(written)?;
    to.close().map_err(|(_, error)| written(error))?;
    Ok(held)
}
