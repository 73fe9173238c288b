//! API keys: made once, shown once, kept as hashes.
//!
//! A key is 160 random bits, so that a plain hash of it can be looked up: there is nothing to guess.

use std::collections::HashMap;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::limits::NAME_BYTES_MAX;
use rusqlite::{OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::{Scopes, State, signed, unsigned};
use crate::clock::{UnixMs, hex, random};

/// What every key begins with, so that scanners for leaked secrets find it. It is E2B's: their older SDKs send no key that is
/// not this and digits of base 16.
const PREFIX: &str = "e2b_";
/// What keys began with in earlier versions; they are as good.
const PREFIX_BEFORE: &str = "mote_sk_";

/// Digits of base 16 behind it.
const KEY_DIGITS: usize = 40;

const fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'a'..=b'f')
}

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName {
    /// Who holds it.
    pub name: String,
    /// Milliseconds since the epoch.
    pub created_ms: UnixMs,
    /// What it is for.
    pub scopes: Scopes,
}

impl KeyName {
    /// Of a row with its name, its time and its scopes.
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let scopes: String = row.get(2)?;
        Ok(Self { name: row.get(0)?, created_ms: unsigned(row.get(1)?), scopes: Scopes::read(&scopes) })
    }
}

/// A key that was just made; the only time that it is known in full.
pub struct NewKey {
    /// The key itself.
    pub key: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").finish_non_exhaustive()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl State {
    /// Makes a key and keeps its hash.
    ///
    /// # Errors
    /// `invalid` for a name that is empty or too long; `conflict` where a key of that name is there.
    pub async fn new_key(&self, name: &str, scopes: &Scopes, now: UnixMs) -> Result<NewKey, Failure> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Failure::invalid("name", format!("a key's name has 1 to {NAME_BYTES_MAX} bytes")));
        }
        let key = format!("{PREFIX}{}", hex(&random::<20>()?));
        let (hash, kept, scopes) = (digest(&key), name.to_owned(), scopes.text());
        self.writer
            .submit("keep a key", move |connection| {
                connection
                    .execute(
                        "INSERT INTO keys (hash, name, created_ms, scopes) VALUES (?1, ?2, ?3, ?4)",
                        params![hash, kept, signed(now), scopes],
                    )
                    .map(drop)
            })
            .await
            .map_err(|failure| match failure.code {
                Code::Conflict => Failure::new(Code::Conflict, format!("there is a key named {name:?}")),
                _ => failure,
            })?;
        Ok(NewKey { key })
    }

    /// Whether a text could be a key of this daemon.
    #[must_use]
    pub fn is_key(text: &str) -> bool {
        let rest = text.strip_prefix(PREFIX).or_else(|| text.strip_prefix(PREFIX_BEFORE));
        rest.is_some_and(|rest| rest.len() == KEY_DIGITS && rest.bytes().all(is_digit))
    }

    /// Who holds a key, if it is known.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn key(&self, presented: &str) -> Result<Option<KeyName>, Failure> {
        let hash = digest(presented);
        self.writer
            .submit("look up a key", move |connection| {
                connection
                    .prepare_cached("SELECT name, created_ms, scopes FROM keys WHERE hash = ?1")?
                    .query_row([hash], KeyName::read)
                    .optional()
            })
            .await
    }

    /// Every key, by its hash (SHA-256).
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn key_hashes(&self) -> Result<HashMap<[u8; 32], KeyName>, Failure> {
        self.writer
            .submit("read the keys", |connection| {
                let mut statement = connection.prepare_cached("SELECT name, created_ms, scopes, hash FROM keys")?;
                statement.query_map([], |row| Ok((row.get(3)?, KeyName::read(row)?)))?.collect()
            })
            .await
    }

    /// Every key by name, without the keys.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn keys(&self) -> Result<Vec<KeyName>, Failure> {
        self.writer
            .submit("read the keys", |connection| {
                let mut statement = connection.prepare("SELECT name, created_ms, scopes FROM keys ORDER BY name")?;
                statement.query_map([], KeyName::read)?.collect()
            })
            .await
    }

    /// Revokes a key; whether there was one.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn revoke_key(&self, name: &str) -> Result<bool, Failure> {
        let name = name.to_owned();
        self.writer
            .submit("revoke a key", move |connection| {
                connection.execute("DELETE FROM keys WHERE name = ?1", [name]).map(|changed| changed > 0)
            })
            .await
    }
}
