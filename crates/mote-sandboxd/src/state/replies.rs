//! Idempotency keys: what was asked under each, and the answer, so that a repeated request gets the same one and has no
//! second effect.
//!
//! It does not know requests: a digest of the request tells whether a key came back with another one.

use mote_sandbox_api::error::Failure;
use rusqlite::{OptionalExtension as _, params};

use super::{State, signed, unsigned};
use crate::clock::UnixMs;
use crate::limits::IDEMPOTENCY_KEPT_MS;

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// SHA-256 of the request.
    pub request: [u8; 32],
    /// The answer, as JSON; none where the request was begun and its answer never kept.
    pub reply: Option<String>,
    /// When the request was begun.
    pub created_ms: UnixMs,
}

impl State {
    /// What is known of a key.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn reply(&self, key: &str) -> Result<Option<Reply>, Failure> {
        let key = key.to_owned();
        self.writer
            .submit("read an idempotency key", move |connection| {
                connection
                    .prepare_cached("SELECT request, reply, created_ms FROM replies WHERE key = ?1")?
                    .query_row([key], |row| {
                        Ok(Reply { request: row.get(0)?, reply: row.get(1)?, created_ms: unsigned(row.get(2)?) })
                    })
                    .optional()
            })
            .await
    }

    /// Keeps what is known of a key, and forgets those that are too old.
    ///
    /// # Errors
    /// `internal`, `exhausted`, `no_space`.
    pub async fn put_reply(&self, key: &str, reply: Reply) -> Result<(), Failure> {
        let key = key.to_owned();
        self.writer
            .submit("keep an idempotency key", move |connection| {
                connection
                    .prepare_cached("DELETE FROM replies WHERE created_ms < ?1")?
                    .execute([signed(reply.created_ms.saturating_sub(IDEMPOTENCY_KEPT_MS))])?;
                connection
                    .prepare_cached(
                        "INSERT INTO replies (key, request, reply, created_ms) VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (key) DO UPDATE SET request = ?2, reply = ?3, created_ms = ?4",
                    )?
                    .execute(params![key, reply.request, reply.reply, signed(reply.created_ms)])
                    .map(drop)
            })
            .await
    }

    /// Forgets a key: its request had no effect.
    ///
    /// # Errors
    /// `internal`, `exhausted`, `no_space`.
    pub async fn remove_reply(&self, key: &str) -> Result<(), Failure> {
        let key = key.to_owned();
        self.writer
            .submit("forget an idempotency key", move |connection| {
                connection.prepare_cached("DELETE FROM replies WHERE key = ?1")?.execute([key]).map(drop)
            })
            .await
    }
}
