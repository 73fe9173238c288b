//! Online backup: a consistent copy of the file while it is in use.
//!
//! It does not keep or rotate copies.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::{Settings, connection};
use crate::limits::{STORE_BACKUP_PAGES, STORE_READER_CACHE_KIB};
use crate::store::Error;

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies the store to `to`, by way of a temporary file beside it; an older copy there is replaced.
pub(super) fn copy(settings: &Settings, to: &Path) -> Result<(), Error> {
    let same = match (settings.path.canonicalize(), to.canonicalize()) {
        (Ok(from), Ok(to)) => from == to,
        _ => settings.path == to,
    };
    if same || beside(to, "-wal").exists() {
        let what = format!("{} is a store in use; a backup needs a file of its own", to.display());
        return Err(Error::Conflict { what });
    }
    let partial = beside(to, ".partial");
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => Error::DiskFull,
        _ => Error::Backend { operation: "back up the store", detail: format!("{error} ({})", partial.display()) },
    };
    remove(&partial).map_err(io)?;
    super::create::empty(&partial).map_err(io)?;
    let result = copy_pages(settings, &partial)
        .and_then(|()| std::fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(io))
        .and_then(|()| std::fs::rename(&partial, to).map_err(io));
    if result.is_err() {
        let _ = remove(&partial);
    }
    result
}

pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_pages(settings: &Settings, partial: &Path) -> Result<(), Error> {
    let from = connection::open(settings, STORE_READER_CACHE_KIB)?;
    let failed = |error| connection::translate_waited("back up the store", settings, error);
    let written = |error| connection::translate("back up the store", partial, error);
    // One snapshot for the whole copy: without it every commit would start the copy again from its first page.
    from.execute_batch("BEGIN; SELECT count(*) FROM counts;").map_err(failed)?;
    let mut to = Connection::open(partial).map_err(written)?;
    {
        let backup = Backup::new(&from, &mut to).map_err(written)?;
        loop {
            match backup.step(STORE_BACKUP_PAGES).map_err(written)? {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
    }
    // The copy is one file, readable where nothing can be written beside it.
    to.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0)).map_err(written)?;
    to.close().map_err(|(_, error)| written(error))?;
    from.execute_batch("COMMIT").map_err(failed)
}
