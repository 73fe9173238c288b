//! Answers given under an idempotency key, so that a repeated request gets the same answer and has no second effect.
//!
//! It does not know requests: a digest of the request tells whether a key came back with another one.

use mote_sandbox_api::error::Failure;
use rusqlite::{OptionalExtension as _, params};

use super::{State, signed};
use crate::clock::UnixMs;
use crate::limits::IDEMPOTENCY_KEPT_MS;

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// SHA-256 of the request.
    pub request: [u8; 32],
    /// The answer, as JSON.
    pub reply: String,
}

impl State {
    /// The answer that was given under a key.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn reply(&self, key: &str) -> Result<Option<Reply>, Failure> {
        let key = key.to_owned();
        self.writer
            .submit("read an idempotency key", move |connection| {
                connection
                    .prepare_cached("SELECT request, reply FROM replies WHERE key = ?1")?
                    .query_row([key], |row| Ok(Reply { request: row.get(0)?, reply: row.get(1)? }))
                    .optional()
            })
            .await
    }

    /// Keeps an answer, and forgets those that are too old.
    ///
    /// # Errors
    /// `internal`, `exhausted`.
    pub async fn put_reply(&self, key: &str, reply: Reply, now: UnixMs) -> Result<(), Failure> {
        let key = key.to_owned();
        self.writer
            .submit("keep an idempotency key", move |connection| {
                connection
                    .prepare_cached("DELETE FROM replies WHERE created_ms < ?1")?
                    .execute([signed(now.saturating_sub(IDEMPOTENCY_KEPT_MS))])?;
                connection
                    .prepare_cached(
                        "INSERT INTO replies (key, request, reply, created_ms) VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (key) DO UPDATE SET request = ?2, reply = ?3, created_ms = ?4",
                    )?
                    .execute(params![key, reply.request, reply.reply, signed(now)])
                    .map(drop)
            })
            .await
    }
}
