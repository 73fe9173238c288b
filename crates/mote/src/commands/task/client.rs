//! The connection to a service: requests, and errors by what they mean for an exit code.
//!
//! It does not retry: every request but a submission with a key may have been done.

use anyhow::anyhow;
use mote::limits::{CLIENT_ANSWER_TIMEOUT, CLIENT_CONNECT_TIMEOUT, CLIENT_STREAM_SILENCE};
use mote::secret::SecretValue;
pub(crate) use mote::tools::sandbox::client::segment;
use serde_json::Value;

use crate::commands::exit::{Code, Exit};

/// A client of one service.
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
                let builder = builder.connect_timeout(CLIENT_CONNECT_TIMEOUT).read_timeout(CLIENT_STREAM_SILENCE);
                builder.build().map_err(|error| mote::tls::Error::Client(error.to_string()))
            })
            .map_err(anyhow::Error::new)?;
        Ok(Self { http, base: url.trim_end_matches('/').to_owned(), key: key.map(SecretValue::new) })
    }

    /// The argument that names this service in a command; nothing for the one that is asked without it.
    pub(super) fn url_argument(&self) -> String {
        if self.base == super::URL { String::new() } else { format!(" --url {}", self.base) }
    }

    /// GET; the JSON answer.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Exit> {
        let request = self.request(reqwest::Method::GET, path).timeout(CLIENT_ANSWER_TIMEOUT);
        self.answer(request).await
    }

    /// POST of JSON; the JSON answer.
    pub(super) async fn post(&self, path: &str, body: &Value, idempotency_key: Option<&str>) -> Result<Value, Exit> {
        let mut request = self.request(reqwest::Method::POST, path).timeout(CLIENT_ANSWER_TIMEOUT).json(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", quoted(key)?);
        }
        self.answer(request).await
    }

    /// POST of JSON; the JSON answer, or what the service says where it refuses.
    pub(super) async fn post_or_problem(&self, path: &str, body: &Value) -> Result<Result<Value, Problem>, Exit> {
        let request = self.request(reqwest::Method::POST, path).timeout(CLIENT_ANSWER_TIMEOUT).json(body);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Ok(Err(Problem::read(response).await));
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let read = serde_json::from_slice(&bytes);
        read.map(Ok).map_err(|error| anyhow!("failed to read the answer of {}: {error}", self.base).into())
    }

    /// A stream of events behind `after`.
    pub(super) async fn events(&self, task: &str, after: u64) -> Result<reqwest::Response, Exit> {
        let request = self
            .request(reqwest::Method::GET, &format!("/tasks/{}/events", segment(task)))
            .header("accept", "text/event-stream")
            .header("last-event-id", after.to_string());
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Value, Exit> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        let read = serde_json::from_slice(&bytes);
        read.map_err(|error| anyhow!("failed to read the answer of {}: {error}", self.base).into())
    }

    /// The error of a service that does not answer.
    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Exit {
        let mut reason: &dyn std::error::Error = error;
        while let Some(source) = reason.source() {
            reason = source;
        }
        let message =
            format!("failed to reach {}: {reason}; is `mote serve` running there? (--url, MOTE_URL)", self.base);
        Exit::new(Code::Unreachable, anyhow!(message))
    }
}

/// What the service said when it refused (RFC 9457).
pub(super) struct Problem {
    status: reqwest::StatusCode,
    retry_after: Option<String>,
    body: Value,
}

impl Problem {
    async fn read(response: reqwest::Response) -> Self {
        let status = response.status();
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = retry_after.map(str::to_owned);
        let body = serde_json::from_slice(&response.bytes().await.unwrap_or_default()).unwrap_or_default();
        Self { status, retry_after, body }
    }

    /// Its stable code; empty where it has none.
    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// A list that it carries.
    pub(super) fn list(&self, field: &str) -> &[Value] {
        self.body[field].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The same as the program's end.
    pub(super) fn into_exit(self) -> Exit {
        let Self { status, retry_after, body } = &self;
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let (title, detail, code) = (text("title"), text("detail"), text("code"));
        let mut message = format!("{status}");
        if !code.is_empty() {
            message = format!("{} {code}", status.as_u16());
        }
        let explained = if detail.is_empty() { title } else { detail };
        if !explained.is_empty() {
            message.push_str(&format!(": {}", crate::commands::terminal::sanitized(&explained)));
        }
        if let Some(seconds) = retry_after {
            message.push_str(&format!(" (retry after {seconds} s)"));
        }
        if *status == reqwest::StatusCode::UNAUTHORIZED {
            message.push_str(" (--key, MOTE_KEY)");
        }
        let overloaded = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        Exit::new(if overloaded { Code::Unreachable } else { Code::Refused }, anyhow!(message))
    }
}

async fn refusal(response: reqwest::Response) -> Exit {
    Problem::read(response).await.into_exit()
}

/// An idempotency key as a structured-field string (RFC 8941).
fn quoted(key: &str) -> Result<String, Exit> {
    if key.is_empty() || !key.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(Exit::usage("--idempotency-key must be printable ASCII"));
    }
    Ok(format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_their_segment() {
        assert_eq!(segment("task_01"), "task_01");
        assert_eq!(segment("../x?y"), "..%2Fx%3Fy");
    }

    #[test]
    fn idempotency_keys_are_structured_field_strings() {
        assert_eq!(quoted(r#"a"b\c"#).unwrap(), r#""a\"b\\c""#);
        assert!(quoted("é").is_err());
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_told_apart() {
        mote::tls::install_provider();
        // A port that was just free: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = Client::new(&format!("http://127.0.0.1:{port}"), None).unwrap();
        let exit = format!("{:?}", client.get("/tasks").await.unwrap_err());
        assert!(exit.contains("Unreachable") && exit.contains("is `mote serve` running there?"), "{exit}");
    }
}
