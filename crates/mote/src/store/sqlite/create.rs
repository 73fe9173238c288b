//! Makes a new store's file in one piece: its schema is made in memory, and the file gets its name once all of it is on
//! the disk. That takes one sync; step by step, SQLite takes seven.
//!
//! It never touches a file that is there.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rusqlite::Connection;

use super::{connection, schema};
use crate::clock::{Clock, System};
use crate::store::Error;

/// Where a database's header says how it is written and read (SQLite's file format, 1.3.3).
const VERSIONS: std::ops::Range<usize> = 18..20;
/// By a write-ahead log.
const WAL: [u8; 2] = [2, 2];

/// Makes the file, readable by its owner alone; SQLite gives its companions the same mode. Of two processes that do so at
/// once, one makes it.
pub(super) fn unless_there(path: &Path) -> Result<(), Error> {
    if !path.exists()
        && let Err(error) = image(path).and_then(|image| place(&image, path).map_err(|error| backend(path, &error)))
    {
        tracing::debug!(%error, "failed to make the store in one piece; making it step by step");
    }
    // On a file system without links, or a full disk: an empty file is a store too, and SQLite says better what is wrong.
    empty(path).map_err(|error| backend(path, &error))
}

/// Makes an empty file that only its owner may read, if there is none.
pub(super) fn empty(path: &Path) -> io::Result<()> {
    open(OpenOptions::new().create(true), path).map(|_| ())
}

fn backend(path: &Path, error: &io::Error) -> Error {
    Error::Backend { operation: "open the store", detail: format!("{error} ({})", path.display()) }
}

/// The bytes of an empty store.
fn image(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error| connection::translate("make the store", path, error);
    let mut connection = Connection::open_in_memory().map_err(failed)?;
    schema::migrate(&mut connection, path, schema::MIGRATIONS)?;
    let mut image = connection.serialize("main").map_err(failed)?.to_vec();
    if let Some(versions) = image.get_mut(VERSIONS) {
        versions.copy_from_slice(&WAL);
    }
    Ok(image)
}

/// Puts the bytes on the disk, then gives them their name. The name itself is on the disk before the first commit is: the
/// log's first sync takes the folder along.
fn place(image: &[u8], path: &Path) -> io::Result<()> {
    let unnamed = path.with_extension(format!("{:016x}.new", System.random()));
    let named = write(image, &unnamed).and_then(|()| match std::fs::hard_link(&unnamed, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // What cannot be removed does no harm.
    let _ = std::fs::remove_file(&unnamed);
    named
}

fn write(image: &[u8], path: &Path) -> io::Result<()> {
    let mut file = open(OpenOptions::new().create_new(true), path)?;
    file.write_all(image)?;
    file.sync_all()
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_a_sound_store_in_wal_mode_and_is_left_alone_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mote.db");
        unless_there(&path).unwrap();
        let made = std::fs::read(&path).unwrap();
        unless_there(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(std::fs::read(&path).unwrap(), made);
        let connection = Connection::open(&path).unwrap();
        assert_eq!(schema::found(&connection, &path, schema::MIGRATIONS).unwrap(), schema::MIGRATIONS.len());
        let text = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!((text("PRAGMA journal_mode").as_str(), text("PRAGMA integrity_check").as_str()), ("wal", "ok"));
    }

    #[test]
    fn a_name_that_another_process_took_first_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mote.db");
        std::fs::write(&path, "theirs").unwrap();
        place(b"ours", &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    }
}
