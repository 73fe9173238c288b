//! The embedded store: SQLite in one file, with one writer thread, a few readers, and checkpoints beside them.
//!
//! Every call answers only after what it changed is on the disk. No SQLite call is made on an async worker. Several
//! processes may use the same file. `docs/store.md` explains the tables; it does not run anything.

mod backend;
mod backup;
mod budget;
mod checkpoint;
mod claim;
mod commit;
mod connection;
mod create;
mod ending;
mod hold;
mod list;
mod lives;
mod mail;
mod owner;
mod reader;
mod restore;
mod row;
mod sandbox;
mod schema;
mod session;
mod submit;
mod sweep;
#[cfg(test)]
mod tests;
mod watch;
mod workers;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::backend::ReadOnly;
pub use self::restore::restore;

use self::checkpoint::Checkpointer;
use self::reader::Readers;
use self::watch::Watchers;
use self::writer::{WhenFull, Writer};
use super::{Announcer, EndObserver, Error, Held};
use crate::limits::{STORE_LOCK_WAIT_MS, STORE_WRITER_CACHE_KIB};

/// One group commit, as it is told to an observer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Commands in it.
    pub size: usize,
    /// Commands that waited behind it.
    pub queued: usize,
    /// How long it took, its fsync included.
    pub took: Duration,
}

/// Is told of every group commit, on the writer's thread: it must be quick.
pub type GroupObserver = Arc<dyn Fn(Group) + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// How long to wait for another process that holds the file.
    pub lock_wait: Duration,
    /// Who is told of group commits.
    pub observer: Option<GroupObserver>,
    /// Who is told of the ends of tasks.
    pub ends: Option<EndObserver>,
    /// Who words what sinks are told; they are told nothing, where absent.
    pub announcer: Option<Arc<dyn Announcer>>,
    /// The agent whose store it must be, and becomes where it is nobody's yet; any agent's will do, where absent.
    pub agent: Option<Arc<str>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lock_wait: Duration::from_millis(STORE_LOCK_WAIT_MS),
            observer: None,
            ends: None,
            announcer: None,
            agent: None,
        }
    }
}

/// What every connection is opened with.
struct Settings {
    path: PathBuf,
    lock_wait: Duration,
    ends: Option<EndObserver>,
    announcer: Option<Arc<dyn Announcer>>,
    /// Whether the file must not be changed, not even by opening it.
    is_read_only: bool,
}

/// A store in one SQLite file. Dropping it writes what is queued and joins its threads.
pub struct SqliteStore {
    // In the order in which they end: the last connection to close, which folds the log in, must be one that writes.
    readers: Readers,
    writer: Writer,
    watchers: Arc<Watchers>,
    settings: Arc<Settings>,
}

impl SqliteStore {
    /// Opens the file, or makes it; an older schema is brought up to date.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or not a store, [`Error::SchemaTooNew`], [`Error::Foreign`], [`Error::Locked`],
    /// [`Error::DiskFull`]; the file is then as it was.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        connection::assert_version()?;
        let Options { lock_wait, ends, announcer, .. } = options.clone();
        let settings = Arc::new(Settings { path: path.to_owned(), lock_wait, ends, announcer, is_read_only: false });
        let agent = options.agent.as_deref();
        let made = create::unless_there(path)?;
        let mut connection = connection::open(&settings, STORE_WRITER_CACHE_KIB)?;
        // Look before anything is changed: the file may be somebody else's.
        schema::found(&connection, path, schema::MIGRATIONS)?;
        agent.map(|agent| owner::check(&connection, path, agent)).transpose()?;
        connection::enter_wal(&connection, &settings)?;
        schema::migrate(&mut connection, path, schema::MIGRATIONS)?;
        agent.map(|agent| owner::take(&connection, path, agent, made.is_some())).transpose()?;
        let watchers = Arc::new(Watchers::default());
        let checkpointer = Checkpointer::start(Arc::clone(&settings))?;
        let readers = Readers::start(Arc::clone(&settings))?;
        let writer =
            Writer::start(connection, Arc::clone(&settings), Arc::clone(&watchers), checkpointer, options.observer)?;
        if let Some(at) = made {
            writer.wrote(at);
        }
        Ok(Self { writer, readers, watchers, settings })
    }

    /// Makes a commit that changes nothing anybody reads. A new write-ahead log takes syncs of its own, which whoever
    /// commits first waits for.
    ///
    /// # Errors
    /// As of any commit.
    pub async fn write_once(&self) -> Result<(), Error> {
        self.write(|_| false).await
    }

    /// Writes, unless `needless` says, once it would be this command's turn, that there is no need.
    async fn write(&self, needless: fn(&writer::Tx<'_>) -> bool) -> Result<(), Error> {
        let work = move |tx: &mut writer::Tx<'_>| {
            if !needless(tx) {
                tx.connection.prepare_cached("UPDATE health SET writes = writes + 1")?.execute([])?;
            }
            Ok(())
        };
        self.writer.run("write the store", WhenFull::Refuse, work).await
    }

    /// Gives the store to an agent, whoever had it: after the agent was renamed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn assign(&self, agent: &str) -> Result<(), Error> {
        let agent = agent.to_owned();
        let work = move |tx: &mut writer::Tx<'_>| Ok(owner::assign(tx.connection, &agent)?);
        self.writer.run("assign the store", WhenFull::Refuse, work).await
    }

    /// What is held since the store was restored.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn held(&self) -> Result<Held, Error> {
        self.readers.run("read what is held", |connection| Ok(hold::held(connection)?)).await
    }

    /// Lets go of what is held; says how much it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn let_go(&self) -> Result<Held, Error> {
        self.writer.run("release what is held", WhenFull::Refuse, hold::release).await
    }

    /// Reads the whole file for damage (`PRAGMA quick_check`).
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the first thing found.
    pub async fn check(&self) -> Result<(), Error> {
        let path = self.settings.path.display().to_string();
        self.readers
            .run("check the store", move |connection| {
                let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                if found == "ok" { Ok(()) } else { Err(Error::Corrupt { path, detail: found }.into()) }
            })
            .await
    }
}

/// Whether an agent could use the file; nothing in it is changed.
///
/// # Errors
/// [`Error::Corrupt`] if it is not a store, [`Error::SchemaTooNew`], [`Error::Foreign`], and what reading it says.
pub fn probe(path: &Path, agent: &str) -> Result<(), Error> {
    let connection = connection::open_to_read(path)?;
    schema::found(&connection, path, schema::MIGRATIONS)?;
    owner::check(&connection, path, agent).map(|_| ())
}

fn encode<T: serde::Serialize + ?Sized>(operation: &'static str, value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Backend { operation, detail: error.to_string() })
}
