//! Model providers' streams, for host and device alike: server-sent events framed from bytes, and each event's JSON
//! decoded into typed deltas, without a heap.
//!
//! The caller gives the memory. Nothing here opens a connection, keeps a transcript or decides whether to retry; what
//! a failure means is said by [`fault::Class`], what to do about it is not.

#![no_std]
#![forbid(unsafe_code)]

pub mod anthropic;
pub mod delta;
pub mod extent;
pub mod fault;
mod finish;
pub mod json;
pub mod openai;
mod overflow;
pub mod sse;
mod text;

/// Why an event could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The event's data is not the JSON that the format has there.
    Json(json::Error),
}

impl Error {
    /// The text is JSON, and not what stands there in the format.
    pub(crate) fn unexpected() -> Self {
        Self::Json(json::Error { reason: json::Reason::Type, at: 0 })
    }
}

impl From<json::Error> for Error {
    fn from(error: json::Error) -> Self {
        Self::Json(error)
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Json(error) => write!(f, "malformed event: {error}"),
        }
    }
}

impl core::error::Error for Error {}
