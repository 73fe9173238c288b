//! A daemon as its callers see it: requests with its key, and what it means when one does not succeed.
//!
//! It holds no HTTP client and sets no time limit: the tools and `mote sandbox` have different ones. It does not retry.

use std::time::Duration;

use http::StatusCode;
use mote_sandbox_api::error::{Code, Failure};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::secret::SecretValue;
use crate::tools::http::retry_after;

/// Where a daemon is, and the key that it takes.
#[derive(Debug, Clone)]
pub struct Daemon {
    base: String,
    key: Option<SecretValue>,
}

/// Why a request gave nothing. The texts name the daemon's address and never its key.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// No answer came.
    #[error("failed to reach the sandbox daemon at {base}: {reason}; is `mote-sandboxd serve` running there?")]
    Unreachable {
        /// The daemon's address.
        base: String,
        /// What the network says.
        reason: String,
        /// Whether the daemon may have got the request.
        sent: bool,
    },
    /// It answered with an error.
    #[error("the sandbox daemon at {base} refused: {}", explained(*status, failure.as_deref()))]
    Refused {
        /// The daemon's address.
        base: String,
        /// The answer's status.
        status: StatusCode,
        /// What it says, where the answer is the daemon's own.
        failure: Option<Box<Failure>>,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer broke off or is not what it should be.
    #[error("failed to read the answer of the sandbox daemon at {base}: {reason}")]
    Broken {
        /// The daemon's address.
        base: String,
        /// What is wrong.
        reason: String,
    },
}

impl Trouble {
    /// The daemon's code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { failure: Some(failure), .. } => Some(failure.code),
            _ => None,
        }
    }

    /// Whether it says that the sandbox itself is no more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Refused { failure: Some(failure), .. } => {
                let sandbox = failure.context.get("kind").is_some_and(|kind| kind == "sandbox");
                failure.code == Code::Gone || (failure.code == Code::NotFound && sandbox)
            }
            _ => false,
        }
    }
}

/// A failure in a line: code, message, what to do.
#[must_use]
pub fn explained(status: StatusCode, failure: Option<&Failure>) -> String {
    let Some(failure) = failure else { return status.to_string() };
    let mut text = format!("{}: {}", failure.code.as_str(), failure.message);
    if let Some(remediation) = &failure.remediation {
        text.push_str(&format!(" ({remediation})"));
    }
    text
}

/// Text as a segment of a path or a value of a query: all but unreserved characters are percent-encoded (RFC 3986).
#[must_use]
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl Daemon {
    /// The daemon at an address.
    #[must_use]
    pub fn new(url: &str, key: Option<SecretValue>) -> Self {
        Self { base: url.trim_end_matches('/').to_owned(), key }
    }

    /// Its address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request that carries the key.
    pub fn request(&self, http: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let request = http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("x-api-key", key.expose()),
            None => request,
        }
    }

    /// Sends a request; an answer that is no success is trouble.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Trouble> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Why no answer came.
    #[must_use]
    pub fn unreachable(&self, error: &reqwest::Error) -> Trouble {
        Trouble::Unreachable { base: self.base.clone(), reason: innermost(error), sent: !error.is_connect() }
    }

    /// What an answer says that is no success.
    pub async fn refusal(&self, response: Response) -> Trouble {
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = response.bytes().await.unwrap_or_default();
        let failure = serde_json::from_slice(&body).ok().map(Box::new);
        Trouble::Refused { base: self.base.clone(), status, failure, retry_after }
    }

    /// An answer that cannot be used.
    #[must_use]
    pub fn broken(&self, reason: impl std::fmt::Display) -> Trouble {
        Trouble::Broken { base: self.base.clone(), reason: reason.to_string() }
    }

    /// The bytes of an answer, and whether there were more than `max`.
    ///
    /// # Errors
    /// [`Trouble::Broken`].
    pub async fn bytes(&self, mut response: Response, max: usize) -> Result<(Vec<u8>, bool), Trouble> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(innermost(&error)))? {
            let room = max - bytes.len();
            bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((bytes, true));
            }
        }
        Ok((bytes, false))
    }

    /// An answer of at most `max` bytes, read as JSON.
    ///
    /// # Errors
    /// [`Trouble::Broken`].
    pub async fn json<T: DeserializeOwned>(&self, response: Response, max: usize) -> Result<T, Trouble> {
        let (bytes, more) = self.bytes(response, max).await?;
        if more {
            return Err(self.broken(format!("it is longer than {max} bytes")));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.broken(error))
    }
}

/// The innermost cause: what is above it repeats the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
