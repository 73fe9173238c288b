//! Which workers are alive: each holds a lock on a file of its own beside the store, which the kernel lets go of however the
//! process ends. A process that is only stopped keeps it, and so does one in another container of this host.
//!
//! Where a file system has no locks, nothing is known of a worker and its leases run out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::params;

use super::row::sql;
use super::writer::{Outcome, Tx};
use crate::store::{Error, Presence};

/// What the name of a file begins with that is not locked yet.
const UNNAMED: char = '.';

/// A dead worker's name, and its file, which is locked by whoever found it.
pub(super) type Dead = (String, Held);

/// A locked file.
pub(super) struct Held {
    file: File,
    path: PathBuf,
}

/// Where the files of a store's workers are.
pub(super) fn folder(store: &Path) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push("-workers");
    store.with_file_name(name)
}

/// What became of the files, in the store's terms.
pub(super) fn done<T>(operation: &'static str, result: io::Result<T>) -> Outcome<T> {
    result.map_err(|error| Error::Backend { operation, detail: error.to_string() }.into())
}

/// Notes that this process is a worker.
pub(super) fn attend(folder: &Path, worker: &str) -> io::Result<Presence> {
    make(folder)?;
    // It gets its name once it is locked: nobody may find it unlocked before.
    let (unnamed, path) = (folder.join(format!("{UNNAMED}{worker}")), folder.join(worker));
    let file = open(OpenOptions::new().create_new(true), &unnamed)?;
    match file.try_lock() {
        Ok(()) => {
            std::fs::rename(&unnamed, &path)?;
            // It stays where the process ends, unlocked: what it still held is then looked for.
            Ok(Presence::kept(file))
        }
        Err(error) => {
            std::fs::remove_file(&unnamed)?;
            tracing::warn!(%error, "workers cannot be seen to end: the file system has no locks; leases run out instead");
            Ok(Presence::unseen())
        }
    }
}

/// The workers that are dead.
pub(super) fn dead(folder: &Path) -> io::Result<Vec<Dead>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut dead = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (Ok(name), path) = (entry.file_name().into_string(), entry.path()) else { continue };
        if name.starts_with(UNNAMED) {
            continue;
        }
        let file = match open(&mut OpenOptions::new(), &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        match file.try_lock() {
            Ok(()) => dead.push((name, Held { file, path })),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(dead)
}

/// The leases of these have ended: their files go.
pub(super) fn forget(dead: Vec<Dead>) -> io::Result<()> {
    for (_, Held { file, path }) in dead {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => drop(file),
        }
    }
    Ok(())
}

/// Ends the leases of dead workers.
pub(super) fn end_leases(tx: &mut Tx<'_>, workers: &[String], now: u64) -> Outcome<u64> {
    let mut ended = 0;
    let mut update = tx
        .connection
        .prepare_cached("UPDATE tasks SET due_at = min(due_at, ?2) WHERE status = 'running' AND worker = ?1")?;
    for worker in workers {
        ended += update.execute(params![worker, sql(now)])?;
    }
    drop(update);
    if ended > 0 {
        tx.work();
    }
    Ok(ended as u64)
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.read(true).write(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_dead_once_nobody_holds_its_file() {
        let state = tempfile::tempdir().unwrap();
        let folder = folder(&state.path().join("mote.db"));
        assert!(dead(&folder).unwrap().is_empty(), "nobody was ever there");
        let (alive, gone) = (attend(&folder, "alive").unwrap(), attend(&folder, "gone").unwrap());
        assert!(alive.is_seen() && dead(&folder).unwrap().is_empty());
        drop(gone);
        let found = dead(&folder).unwrap();
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["gone"]);
        assert!(dead(&folder).unwrap().is_empty(), "whoever found it holds it");
        forget(found).unwrap();
        let left = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["alive"]);
    }
}
