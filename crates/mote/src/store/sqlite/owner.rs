//! Whose store it is: the agent that opened it first. Another agent would go on with its tasks under a foreign prompt and
//! foreign tools.
//!
//! It does not tell two processes of one agent apart: they share a store.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::connection;
use crate::store::Error;

/// The agent whose store it is; none before one has opened it, or before stores knew.
fn of(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let known = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'agent'";
    if connection.query_row(known, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    connection.query_row("SELECT name FROM agent", [], |row| row.get(0)).optional()
}

/// Writes down the agent where there is none.
fn enter(connection: &Connection, agent: &str) -> rusqlite::Result<()> {
    connection.execute("INSERT INTO agent VALUES (1, ?1) ON CONFLICT DO NOTHING", [agent]).map(|_| ())
}

/// Gives the store to an agent, whoever had it.
pub(super) fn assign(connection: &Connection, agent: &str) -> rusqlite::Result<()> {
    let sql = "INSERT INTO agent VALUES (1, ?1) ON CONFLICT DO UPDATE SET name = excluded.name";
    connection.execute(sql, [agent]).map(|_| ())
}

/// Refuses another agent's store; whether it is known to be this one's.
pub(super) fn check(connection: &Connection, path: &Path, agent: &str) -> Result<bool, Error> {
    let owner = of(connection).map_err(|error| connection::translate("read the store's agent", path, error))?;
    match owner {
        Some(owner) if owner != agent => {
            Err(Error::Foreign { path: path.display().to_string(), owner, agent: agent.to_owned() })
        }
        owner => Ok(owner.is_some()),
    }
}

/// Makes a store that is nobody's this agent's; of two agents at once, one gets it.
///
/// A start does not wait for the disk in a store that was made just now (`fresh`): the first commit's sync takes the name
/// along, and before that there is nothing in it that could be anybody's.
pub(super) fn take(connection: &Connection, path: &Path, agent: &str, fresh: bool) -> Result<(), Error> {
    if check(connection, path, agent)? {
        return Ok(());
    }
    let synchronous = |mode: &str| connection.pragma_update(None, "synchronous", mode);
    let entered = if fresh { synchronous("OFF") } else { Ok(()) }.and_then(|()| enter(connection, agent));
    let entered = entered.and(synchronous("FULL"));
    entered.map_err(|error| connection::translate("write the store's agent", path, error))?;
    check(connection, path, agent).map(|_| ())
}
