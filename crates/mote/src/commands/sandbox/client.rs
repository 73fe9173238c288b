//! The connection to `mote-sandboxd`: requests, streams, and errors by what they mean for an exit code.
//!
//! It does not retry.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use mote::limits::{CLIENT_ANSWER_TIMEOUT, CLIENT_CONNECT_TIMEOUT};
use mote::secret::SecretValue;
pub(super) use mote::tools::sandbox::client::segment;
use mote::tools::sandbox::client::{self, Daemon, Trouble};
use mote::tools::sandbox::config::SANDBOX_KEY_FILE;
use mote_sandbox_api::error::Failure;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::commands::exit::{Code, Exit};
use crate::commands::terminal::sanitized;

/// A client of one daemon.
pub(super) struct Client {
    http: reqwest::Client,
    daemon: Daemon,
}

impl Client {
    pub(super) fn new(url: &str, ca: Option<&Path>, key: Option<&str>) -> Result<Self, Exit> {
        let parsed = reqwest::Url::parse(url).map_err(|error| Exit::usage(format!("--url {url:?}: {error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Exit::usage(format!("--url {url:?} must be an http or https URL")));
        }
        let builder = mote::tls::http_client(ca).map_err(|error| match error {
            error @ mote::tls::Error::CaFile { .. } => Exit::usage(format!("--ca, MOTE_SANDBOX_CA: {error}")),
            error => anyhow::Error::new(error).into(),
        })?;
        let http = builder
            .connect_timeout(CLIENT_CONNECT_TIMEOUT)
            .build()
            .map_err(|error| anyhow::Error::new(mote::tls::Error::Client(error.to_string())))?;
        // A daemon on this host leaves its key where root alone can read it.
        let found = || std::fs::read_to_string(SANDBOX_KEY_FILE).ok();
        let key = key.map(str::to_owned).or_else(found).map(|key| SecretValue::new(key.trim()));
        Ok(Self { http, daemon: Daemon::new(url, key) })
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

    /// Sends bytes, for as long as that takes; the answer read as `T`.
    pub(super) async fn send_file<T: DeserializeOwned>(&self, path: &str, body: reqwest::Body) -> Result<T, Exit> {
        self.answer(self.request(Method::POST, path).body(body)).await
    }

    /// A WebSocket: the upgrade goes over the same connection as other requests do, TLS included.
    pub(super) async fn stream(&self, path: &str) -> Result<WebSocketStream<reqwest::Upgraded>, Exit> {
        let request = self
            .request(Method::GET, path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", generate_key());
        let response = request.send().await.map_err(|error| stopped(&self.daemon.unreachable(&error)))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(stopped(&self.daemon.refusal(response).await));
        }
        let upgraded = response.upgrade().await.context("failed to open the stream")?;
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.daemon.request(&self.http, method, path)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Exit> {
        self.daemon.send(request).await.map_err(|trouble| stopped(&trouble))
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Exit> {
        self.daemon.json(self.send(request).await?, usize::MAX).await.map_err(|trouble| stopped(&trouble))
    }
}

/// What the trouble means for the command's end.
fn stopped(trouble: &Trouble) -> Exit {
    match trouble {
        Trouble::Unreachable { base, reason, .. } => {
            let hint = if reason.contains("certificate") {
                "is its authority a private one? (--ca, MOTE_SANDBOX_CA)"
            } else {
                "is `mote-sandboxd serve` running there? (--url, MOTE_SANDBOX_URL)"
            };
            let message = format!("failed to reach {base}: {reason}; {hint}");
            Exit::new(Code::Unreachable, anyhow!(message))
        }
        Trouble::Refused { status, failure, .. } => {
            let message = sanitized(&client::explained(*status, failure.as_deref()));
            let hint = if *status == StatusCode::UNAUTHORIZED { " (--key, MOTE_SANDBOX_KEY)" } else { "" };
            let overloaded = matches!(status.as_u16(), 429 | 502 | 503 | 504);
            Exit::new(if overloaded { Code::Unreachable } else { Code::Refused }, anyhow!("{message}{hint}"))
        }
        Trouble::Broken { .. } => anyhow!("{trouble}").into(),
    }
}

/// A failure in a line: code, message, what to do.
pub(super) fn explained(failure: &Failure) -> String {
    sanitized(&client::explained(StatusCode::OK, Some(failure)))
}
