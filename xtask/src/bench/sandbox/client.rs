//! A client of the daemon's native API: one HTTP/1.1 connection that is kept, and the few requests that are timed.
//!
//! It does not retry: what goes wrong is an error of the bench.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    address: String,
    key: String,
}

impl Client {
    /// Connects.
    pub(super) fn new(address: &str, key: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("failed to connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), address: address.to_owned(), key: key.to_owned() })
    }

    /// One request and its answer's body, which has to be a success.
    pub(super) fn raw(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        let place = || format!("failed to ask {method} {path}");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nx-api-key: {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            self.key,
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).with_context(place)?;
        let (status, body) = self.answer().with_context(place)?;
        if status >= 300 {
            bail!("failed to ask {method} {path}: status {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// [`Self::raw`] with JSON both ways; null where the answer is empty.
    pub(super) fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let sent = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let answer = self.raw(method, path, "application/json", &sent)?;
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer)? })
    }

    fn answer(&mut self) -> Result<(u16, Vec<u8>)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse()?,
                "transfer-encoding" => chunked = value.trim() == "chunked",
                _ => {}
            }
        }
        let mut body = Vec::new();
        if !chunked {
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
            return Ok((status, body));
        }
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).context("a chunk without its size")?;
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            line.clear();
            self.stream.read_line(&mut line)?;
            if size == 0 {
                return Ok((status, body));
            }
        }
    }

    /// A sandbox of this specification; its id.
    pub(super) fn create(&mut self, spec: &Value) -> Result<String> {
        let made = self.ask("POST", "/v1/sandboxes", &json!({ "spec": spec }))?;
        Ok(made["id"].as_str().context("a sandbox without an id")?.to_owned())
    }

    /// Runs a program to its end, which has to be good; its standard output.
    pub(super) fn exec(&mut self, sandbox: &str, command: &Value) -> Result<String> {
        let result = self.ask("POST", &format!("/v1/sandboxes/{sandbox}/exec"), &json!({ "command": command }))?;
        ensure!(result["exit"]["code"] == 0, "failed to run {command}: {result}");
        Ok(result["stdout"].as_str().unwrap_or_default().to_owned())
    }

    /// Removes it.
    pub(super) fn remove(&mut self, sandbox: &str) -> Result<()> {
        self.raw("DELETE", &format!("/v1/sandboxes/{sandbox}"), "application/json", b"").map(drop)
    }
}
