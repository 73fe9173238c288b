//! What the daemon knows across restarts: sandboxes, snapshots, volumes, secrets, keys, answered idempotency keys.
//!
//! An SQLite file in WAL mode with `synchronous=NORMAL`: a commit survives the end of the process and costs no fsync. It is
//! written *before* the effect it describes begins, so that after `kill -9` every trace of a sandbox has a row that names
//! it. It decides nothing: what a row means after a crash is the matter of `lifecycle::recover`.

mod keys;
mod replies;
mod schema;
mod scope;
mod secrets;
mod templates;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mote_sandbox_api::error::Failure;
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use crate::clock::UnixMs;
use crate::lifecycle::record::Record;
pub use keys::{KeyName, NewKey};
pub use replies::Reply;
pub use scope::{Grant, Scope, Scopes};
pub use secrets::{SecretRecord, Vault};
pub use writer::Pending;

/// Name of the file in the state directory.
pub const FILE: &str = "sandboxd.db";

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or the file of keys cannot be used.
    #[error("failed to use {}: {source}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("failed to open the state {}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a newer daemon.
    #[error("failed to open the state: it has version {found}, this daemon knows versions up to {known}")]
    Newer {
        /// In the file.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
}

/// A snapshot as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// What callers are told.
    pub snapshot: mote_sandbox_api::request::Snapshot,
    /// The image below it, by id.
    pub image: String,
    /// It was taken to its end; else it is an intent that a crash left behind.
    pub complete: bool,
    /// The idempotency key under which it was taken, as `Key::digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_under: Option<String>,
}

/// A volume as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// `vo` and 20 characters of base32.
    pub id: String,
    /// Name that callers use.
    pub name: String,
    /// Milliseconds since the epoch.
    pub created_ms: UnixMs,
}

/// A handle on the state; clones share it.
#[derive(Debug, Clone)]
pub struct State {
    writer: writer::Writer,
    vault: Arc<Vault>,
}

impl State {
    /// Opens the state of a directory (made if it is not there, mode 0700) and brings it to this version.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(directory: &Path) -> Result<Self, Error> {
        private_directory(directory)?;
        let path = directory.join(FILE);
        let connection = schema::open(&path)?;
        let vault = Vault::open(directory)?;
        vault.fill(&connection).map_err(|source| Error::Sqlite { path: path.clone(), source })?;
        let writer = writer::Writer::start(connection).map_err(|source| Error::Files { path: path.clone(), source })?;
        Ok(Self { writer, vault: Arc::new(vault) })
    }

    /// What derives tokens and seals secrets.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Keeps a sandbox's record. The write is queued when this returns, in the order of calls; await it for durability.
    pub fn put_sandbox(&self, record: &Record) -> Pending<()> {
        let (id, state, created) = (record.id.clone(), record.state.to_string(), signed(record.created_ms));
        let sealed = self.vault.sealed_record(record);
        self.writer.submit("keep a sandbox", move |connection| {
            let failed = rusqlite::Error::ToSqlConversionFailure;
            let sealed = sealed.map_err(|failure| failed(Box::from(failure.message)))?;
            let text = serde_json::to_string(&sealed).map_err(|error| failed(Box::new(error)))?;
            connection
                .prepare_cached(
                    "INSERT INTO sandboxes (id, state, created_ms, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (id) DO UPDATE SET state = ?2, record = ?4",
                )?
                .execute(params![id, state, created, text])
                .map(drop)
        })
    }

    /// Forgets a sandbox.
    pub fn remove_sandbox(&self, id: &str) -> Pending<()> {
        let id = id.to_owned();
        self.writer.submit("forget a sandbox", move |connection| {
            connection.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?.execute([id]).map(drop)
        })
    }

    /// Every sandbox that is kept, oldest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn sandboxes(&self) -> Result<Vec<Record>, Failure> {
        let query = "SELECT record FROM sandboxes ORDER BY created_ms, id";
        let mut records: Vec<Record> = self.records("read the sandboxes", query).await?;
        records.iter_mut().for_each(|record| self.vault.open_record(record));
        Ok(records)
    }

    /// Keeps a snapshot.
    pub fn put_snapshot(&self, record: &SnapshotRecord) -> Pending<()> {
        let id = record.snapshot.id.clone();
        let text = serde_json::to_string(record);
        self.writer.submit("keep a snapshot", move |connection| {
            let text = text.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            connection
                .prepare_cached(
                    "INSERT INTO snapshots (id, record) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2",
                )?
                .execute(params![id, text])
                .map(drop)
        })
    }

    /// Forgets a snapshot.
    pub fn remove_snapshot(&self, id: &str) -> Pending<()> {
        let id = id.to_owned();
        self.writer.submit("forget a snapshot", move |connection| {
            connection.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute([id]).map(drop)
        })
    }

    /// Every snapshot that is kept, intents included.
    ///
    /// # Errors
    /// `internal`.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotRecord>, Failure> {
        self.records("read the snapshots", "SELECT record FROM snapshots ORDER BY id").await
    }

    /// The snapshots of an id or a name, intents included.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn snapshot(&self, wanted: &str) -> Result<Vec<SnapshotRecord>, Failure> {
        const OF: &str = "SELECT record FROM snapshots WHERE id = ?1
            UNION SELECT record FROM snapshots WHERE json_extract(record, '$.snapshot.name') = ?1";
        self.records_of("read a snapshot", OF, vec![wanted.to_owned()]).await
    }

    /// Keeps a volume.
    pub fn put_volume(&self, volume: &VolumeRecord) -> Pending<()> {
        let volume = volume.clone();
        self.writer.submit("keep a volume", move |connection| {
            connection
                .prepare_cached("INSERT INTO volumes (name, id, created_ms) VALUES (?1, ?2, ?3)")?
                .execute(params![volume.name, volume.id, signed(volume.created_ms)])
                .map(drop)
        })
    }

    /// Forgets a volume.
    pub fn remove_volume(&self, name: &str) -> Pending<()> {
        let name = name.to_owned();
        self.writer.submit("forget a volume", move |connection| {
            connection.prepare_cached("DELETE FROM volumes WHERE name = ?1")?.execute([name]).map(drop)
        })
    }

    /// A volume by name.
    ///
    /// # Errors
    /// `internal`.
    pub async fn volume(&self, name: &str) -> Result<Option<VolumeRecord>, Failure> {
        let name = name.to_owned();
        self.writer
            .submit("read a volume", move |connection| {
                connection
                    .prepare_cached("SELECT name, id, created_ms FROM volumes WHERE name = ?1")?
                    .query_row([name], volume)
                    .optional()
            })
            .await
    }

    /// Every volume, by name.
    ///
    /// # Errors
    /// `internal`.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, Failure> {
        self.writer
            .submit("read the volumes", |connection| {
                let mut statement =
                    connection.prepare_cached("SELECT name, id, created_ms FROM volumes ORDER BY name")?;
                statement.query_map([], volume)?.collect()
            })
            .await
    }

    async fn records<T>(&self, operation: &'static str, query: &'static str) -> Result<Vec<T>, Failure>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        self.records_of(operation, query, Vec::new()).await
    }

    async fn records_of<T>(
        &self,
        operation: &'static str,
        query: &'static str,
        wanted: Vec<String>,
    ) -> Result<Vec<T>, Failure>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        self.writer
            .submit(operation, move |connection| {
                let mut statement = connection.prepare_cached(query)?;
                let rows = statement.query_map(rusqlite::params_from_iter(wanted), |row| row.get::<_, String>(0))?;
                let mut records = Vec::new();
                for text in rows {
                    records.push(serde_json::from_str(&text?).map_err(|error| {
                        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
                    })?);
                }
                Ok(records)
            })
            .await
    }
}

fn volume(row: &rusqlite::Row<'_>) -> rusqlite::Result<VolumeRecord> {
    Ok(VolumeRecord { name: row.get(0)?, id: row.get(1)?, created_ms: unsigned(row.get(2)?) })
}

/// SQLite's integers have a sign.
fn signed(ms: UnixMs) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn unsigned(ms: i64) -> UnixMs {
    UnixMs::try_from(ms).unwrap_or(0)
}

/// Makes a directory that only its owner can enter.
fn private_directory(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Files { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
