//! Makes a new store's file in one piece, from the bytes of an empty one that the program carries; the file gets its name
//! once all of it is on the disk. That takes one sync and no SQL; step by step, SQLite takes seven and some 5 ms.
//!
//! It never touches a file that is there. What the bytes must be is the schema's business: a test makes them from it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use tokio::time::Instant;

use crate::clock::{Clock, System};
use crate::store::Error;

/// An empty store of the newest schema, its zeros left out: runs, each of a number of zeros and a number of bytes, both as
/// 16 bits with the low byte first, and then these bytes.
const EMPTY: &[u8] = include_bytes!("empty.bin");

/// Makes the file, readable by its owner alone; SQLite gives its companions the same mode. Of two processes that do so at
/// once, one makes it. Returns when it was on the disk, if it was made in one piece.
pub(super) fn unless_there(path: &Path) -> Result<Option<Instant>, Error> {
    let mut made = None;
    if !path.exists() {
        match place(&unpacked(EMPTY), path) {
            Ok(()) => made = Some(Instant::now()),
            Err(error) => tracing::debug!(%error, "failed to make the store in one piece; making it step by step"),
        }
    }
    // On a file system without links, or a full disk: an empty file is a store too, and SQLite says better what is wrong.
    empty(path).map_err(|error| backend(path, &error))?;
    Ok(made)
}

/// Makes an empty file that only its owner may read, if there is none.
pub(super) fn empty(path: &Path) -> io::Result<()> {
    open(OpenOptions::new().create(true), path).map(|_| ())
}

fn backend(path: &Path, error: &io::Error) -> Error {
    Error::Backend { operation: "open the store", detail: format!("{error} ({})", path.display()) }
}

/// Puts the zeros back.
fn unpacked(mut runs: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(([z0, z1, n0, n1], rest)) = runs.split_first_chunk() {
        bytes.resize(bytes.len() + usize::from(u16::from_le_bytes([*z0, *z1])), 0);
        let (run, rest) = rest.split_at(usize::from(u16::from_le_bytes([*n0, *n1])).min(rest.len()));
        bytes.extend_from_slice(run);
        runs = rest;
    }
    bytes
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
    use rusqlite::Connection;

    use super::super::schema;
    use super::*;

    /// Where a database's header says how it is written and read (SQLite's file format, 1.3.3).
    const VERSIONS: std::ops::Range<usize> = 18..20;
    /// By a write-ahead log.
    const WAL: [u8; 2] = [2, 2];
    /// Zeros that are worth a run of their own.
    const ZEROS_MIN: usize = 16;

    /// What the schema makes of an empty database.
    fn made() -> Vec<u8> {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection, Path::new("memory"), schema::MIGRATIONS).unwrap();
        let mut image = connection.serialize("main").unwrap().to_vec();
        image[VERSIONS].copy_from_slice(&WAL);
        image
    }

    /// Leaves the zeros out.
    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut runs = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = rest.iter().take_while(|byte| **byte == 0).count().min(u16::MAX.into());
            let tail = &rest[zeros..];
            let end = tail.windows(ZEROS_MIN).position(|window| window.iter().all(|byte| *byte == 0));
            let (run, after) = tail.split_at(end.unwrap_or(tail.len()).min(u16::MAX.into()));
            for number in [zeros, run.len()] {
                runs.extend(u16::try_from(number).unwrap().to_le_bytes());
            }
            runs.extend_from_slice(run);
            rest = after;
        }
        runs
    }

    /// `UPDATE=1 cargo test -p mote the_bytes_of_an_empty_store` writes them anew.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a switch for the person who runs the test")]
    fn the_bytes_of_an_empty_store_are_what_the_schema_makes() {
        let made = made();
        if std::env::var_os("UPDATE").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/sqlite/empty.bin");
            return std::fs::write(file, packed(&made)).unwrap();
        }
        assert!(unpacked(EMPTY) == made, "store/sqlite/empty.bin is stale: run `cargo xtask schemas`");
        assert_eq!(unpacked(&packed(&made)), made);
        assert_eq!(unpacked(&EMPTY[..EMPTY.len() / 2 + 1])[..100], made[..100], "no run is read beyond the end");
    }

    #[test]
    fn a_new_file_is_a_sound_store_in_wal_mode_and_is_left_alone_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mote.db");
        assert!(unless_there(&path).unwrap().is_some());
        let made = std::fs::read(&path).unwrap();
        assert!(unless_there(&path).unwrap().is_none());
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
