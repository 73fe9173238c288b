//! The connection to `mote-sandboxd`: requests, streams, and errors by what they mean for an exit code.
//!
//! It does not retry.

use anyhow::{Context as _, anyhow};
use mote::config::SecretValue;
use mote::limits::{CLIENT_ANSWER_TIMEOUT, CLIENT_CONNECT_TIMEOUT};
use mote_sandbox_api::error::Failure;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::commands::exit::{Code, Exit};
use crate::commands::terminal::sanitized;

/// Where the daemon leaves the key that it makes at its first start.
const KEY_FILE: &str = "/var/lib/mote-sandbox/admin.key";

/// A client of one daemon.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<SecretValue>,
}

impl Client {
    pub(super) fn new(url: &str, key: Option<&str>) -> Result<Self, Exit> {
        let parsed = reqwest::Url::parse(url).map_err(|error| Exit::usage(format!("--url {url:?}: {error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Exit::usage(format!("--url {url:?} must be an http or https URL")));
        }
        let http = mote::tls::http_client(None)
            .and_then(|builder| {
                let builder = builder.connect_timeout(CLIENT_CONNECT_TIMEOUT);
                builder.build().map_err(|error| mote::tls::Error::Client(error.to_string()))
            })
            .map_err(anyhow::Error::new)?;
        // A daemon on this host leaves its key where root alone can read it.
        let found = || std::fs::read_to_string(KEY_FILE).ok();
        let key = key.map(str::to_owned).or_else(found).map(|key| SecretValue::new(key.trim()));
        Ok(Self { http, base: url.trim_end_matches('/').to_owned(), key })
    }

    /// A request without a body; the answer read as `T`.
    pub(super) async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Exit> {
        self.answer(self.request(method, path).timeout(CLIENT_ANSWER_TIMEOUT)).await
    }

    /// A request with a JSON body. It may take as long as it takes: a command may run for hours.
    pub(super) async fn tell<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Exit> {
        self.answer(self.request(method, path).json(body)).await
    }

    /// A file of a sandbox, as it comes.
    pub(super) async fn download(&self, path: &str) -> Result<Response, Exit> {
        self.send(self.request(Method::GET, path)).await
    }

    /// Writes a file of a sandbox.
    pub(super) async fn upload(&self, path: &str, body: reqwest::Body) -> Result<(), Exit> {
        self.send(self.request(Method::PUT, path).body(body)).await.map(drop)
    }

    /// A WebSocket: the upgrade goes over the same connection as other requests do, TLS included.
    pub(super) async fn stream(&self, path: &str) -> Result<WebSocketStream<reqwest::Upgraded>, Exit> {
        let request = self
            .request(Method::GET, path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key());
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let upgraded = response.upgrade().await.context("failed to open the stream")?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.header("x-api-key", key.expose()),
            None => request,
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Exit> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Exit> {
        let bytes = self.send(request).await?.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| anyhow!("failed to read the answer of {}: {error}", self.base).into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Exit {
        let mut reason: &dyn std::error::Error = error;
        while let Some(source) = reason.source() {
            reason = source;
        }
        let base = &self.base;
        let message = format!(
            "failed to reach {base}: {reason}; is `mote-sandboxd serve` running there? (--url, MOTE_SANDBOX_URL)"
        );
        Exit::new(Code::Unreachable, anyhow!(message))
    }
}

/// What the daemon said when it refused.
async fn refusal(response: Response) -> Exit {
    let status = response.status();
    let body = response.bytes().await.unwrap_or_default();
    let message = match serde_json::from_slice::<Failure>(&body) {
        Ok(failure) => explained(&failure),
        Err(_) => status.to_string(),
    };
    let hint = if status == StatusCode::UNAUTHORIZED { " (--key, MOTE_SANDBOX_KEY)" } else { "" };
    let overloaded = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    Exit::new(if overloaded { Code::Unreachable } else { Code::Refused }, anyhow!("{message}{hint}"))
}

/// A failure in a line: code, message, what to do.
pub(super) fn explained(failure: &Failure) -> String {
    let mut text = format!("{}: {}", failure.code.as_str(), sanitized(&failure.message));
    if let Some(remediation) = &failure.remediation {
        text.push_str(&format!(" ({})", sanitized(remediation)));
    }
    text
}

/// Text as a segment of a path or a value of a query: all but unreserved characters are percent-encoded (RFC 3986).
pub(super) fn segment(text: &str) -> String {
    crate::commands::task::segment(text)
}
