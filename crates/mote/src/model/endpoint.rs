//! One model endpoint over HTTP: a request out, a stream of server-sent events in, within its timeouts and limits.
//!
//! The wire formats are [`super::anthropic`]'s and [`super::openai`]'s. It follows no redirect, retries nothing, and
//! never lets the key into a message.

use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::ResponseFuture;
use mote_wire::delta::Delta as Piece;
use mote_wire::sse::{Buffer, Framer, Full};
use serde_json::Value;

use super::assembly::{Assembly, Refusal};
use super::failure::Failure;
use super::transport::{Client, chunk};
use super::{DeltaSink, Error, ErrorKind};
use crate::clock::SharedClock;
use crate::config::SecretValue;
use crate::limits::{
    MODEL_DRAIN_MS, MODEL_ERROR_BYTES_MAX, MODEL_EVENT_BYTES_MAX, MODEL_KEY_BYTES_MIN, MODEL_REPLY_BYTES_MAX,
    MODEL_REPLY_CALLS_MAX,
};

/// Decodes one event of a wire format.
pub(super) trait Decoder: Send {
    /// See [`mote_wire::anthropic::Decoder::event`].
    fn event<'a>(&mut self, name: &str, data: &'a str, sink: &mut dyn FnMut(Piece<'a>))
    -> Result<(), mote_wire::Error>;

    /// Whether a stream may end, without its last event, once the model said why it stopped.
    fn may_end_at_finish(&self) -> bool;
}

impl Decoder for mote_wire::anthropic::Decoder {
    fn event<'a>(
        &mut self,
        name: &str,
        data: &'a str,
        sink: &mut dyn FnMut(Piece<'a>),
    ) -> Result<(), mote_wire::Error> {
        Self::event(self, name, data, sink)
    }

    fn may_end_at_finish(&self) -> bool {
        false
    }
}

impl Decoder for mote_wire::openai::Decoder {
    fn event<'a>(
        &mut self,
        name: &str,
        data: &'a str,
        sink: &mut dyn FnMut(Piece<'a>),
    ) -> Result<(), mote_wire::Error> {
        Self::event(self, name, data, sink)
    }

    fn may_end_at_finish(&self) -> bool {
        // Some compatible servers close the stream without `[DONE]`.
        true
    }
}

/// An endpoint of either wire format.
pub(super) struct Endpoint {
    /// The shared client.
    pub(super) client: Client,
    /// Where requests go.
    pub(super) uri: Uri,
    /// The model, as configured.
    pub(super) model: String,
    /// Headers of every request, the key among them, marked sensitive.
    pub(super) headers: HeaderMap,
    /// The key, to take it out of what the endpoint says.
    pub(super) key: Option<SecretValue>,
    /// Bound on one call.
    pub(super) timeout: Duration,
    /// Bound on silence within a stream.
    pub(super) idle_timeout: Duration,
    /// For `Retry-After` dates.
    pub(super) clock: SharedClock,
}

impl Endpoint {
    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        format!(
            "{}://{}",
            self.uri.scheme_str().unwrap_or_default(),
            self.uri.authority().map_or("", Authority::as_str)
        )
    }

    /// Sends one request and gathers its reply.
    pub(super) async fn call(
        &self,
        body: Value,
        traceparent: Option<&str>,
        decoder: &mut dyn Decoder,
        deltas: DeltaSink<'_>,
    ) -> Result<Assembly, Error> {
        let bytes = serde_json::to_vec(&body).map_err(|error| {
            self.error(Failure::new(ErrorKind::Rejected, format!("the request is not JSON: {error}")))
        })?;
        // The tree is many times the size of its text: a call that waits holds neither for longer than it must.
        drop(body);
        let mut headers = self.headers.clone();
        if let Some(value) = traceparent.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(HeaderName::from_static("traceparent"), value);
        }
        let asked = self.client.post(self.uri.clone(), headers, bytes);
        match tokio::time::timeout(self.timeout, self.exchange(asked, decoder, deltas)).await {
            Ok(done) => done.map_err(|failure| self.error(failure)),
            Err(_) => Err(self.error(Failure::timed_out("no whole reply", self.timeout))),
        }
    }

    fn error(&self, failure: Failure) -> Error {
        let Failure { kind, mut message, retry_after, answer } = failure;
        // A shorter one is a stand-in (`none`, `ollama`), and would only garble the words around it.
        let key = self.key.as_ref().map(SecretValue::expose).filter(|key| key.len() >= MODEL_KEY_BYTES_MIN);
        if let Some(key) = key {
            message = message.replace(key, "[key]");
        }
        let (model, endpoint) = (self.model.clone(), self.origin());
        Error { kind, model, endpoint, message, retry_after, alternative: false, answer }
    }

    async fn exchange(
        &self,
        asked: ResponseFuture,
        decoder: &mut dyn Decoder,
        deltas: DeltaSink<'_>,
    ) -> Result<Assembly, Failure> {
        let response = asked.await.map_err(|error| Failure::of_request(&error))?;
        let status = response.status();
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = Box::pin(self.error_body(response)).await;
            return Err(Failure::of_answer(status, &headers, &body, self.clock.now_ms()));
        }
        let kind = response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if kind == "application/json" || kind == "text/html" {
            let body = Box::pin(self.error_body(response)).await;
            let fault = mote_wire::fault::Fault::parse(std::str::from_utf8(&body).unwrap_or_default());
            return Err(match fault.message {
                Some(message) => Failure::of_stream(fault.class_in_stream(), &message.to_string()),
                None => Failure::broken(format!("expected an event stream, got {kind}")),
            });
        }
        // Boxed, as are the ways to fail: a call that waits for its answer does not keep their room.
        Box::pin(self.stream(response, decoder, deltas)).await
    }

    /// As much of an error's body as is read, whatever becomes of the rest.
    async fn error_body(&self, mut response: Response<Incoming>) -> Vec<u8> {
        let mut body = Vec::new();
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(self.idle_timeout, chunk(&mut response)).await {
            let room = MODEL_ERROR_BYTES_MAX - body.len();
            body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            if body.len() == MODEL_ERROR_BYTES_MAX {
                break;
            }
        }
        body
    }

    async fn stream(
        &self,
        mut response: Response<Incoming>,
        decoder: &mut dyn Decoder,
        deltas: DeltaSink<'_>,
    ) -> Result<Assembly, Failure> {
        let mut framer = Framer::new(Growing { bytes: Vec::new(), limit: MODEL_EVENT_BYTES_MAX });
        let mut assembly = Assembly::default();
        loop {
            let chunk = tokio::time::timeout(self.idle_timeout, chunk(&mut response))
                .await
                .map_err(|_| Failure::timed_out("nothing came in the stream", self.idle_timeout))?;
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|error| Failure::of_body(&error))?;
            let mut bytes: &[u8] = &chunk;
            while let Some(event) =
                framer.next(&mut bytes).map_err(|error| Failure::broken(format!("malformed stream: {error}")))?
            {
                let mut taken = Ok(());
                let mut sink = |piece: Piece<'_>| {
                    if taken.is_ok() {
                        taken = assembly.take(piece, deltas);
                    }
                };
                let decoded = decoder.event(event.name, event.data, &mut sink);
                taken.map_err(refusal)?;
                decoded.map_err(|error| Failure::broken(error.to_string()))?;
                if assembly.is_done() {
                    drain(response).await;
                    return Ok(assembly);
                }
            }
        }
        if assembly.is_finished() && decoder.may_end_at_finish() && !framer.is_mid_event() {
            return Ok(assembly);
        }
        Err(Failure::broken("the stream ended before the reply did"))
    }
}

/// Reads on to the end of a finished stream, for a moment: only a body read to its end gives its connection back.
async fn drain(mut response: Response<Incoming>) {
    let rest = async { while let Some(Ok(_)) = chunk(&mut response).await {} };
    // Whether it ended in time changes nothing for the caller.
    let _ = tokio::time::timeout(Duration::from_millis(MODEL_DRAIN_MS), rest).await;
}

fn refusal(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::TooLarge => Failure::broken(format!(
            "the reply is larger than {MODEL_REPLY_BYTES_MAX} bytes (limit MODEL_REPLY_BYTES_MAX)"
        )),
        Refusal::TooManyCalls => Failure::broken(format!(
            "the reply has more than {MODEL_REPLY_CALLS_MAX} tool calls (limit MODEL_REPLY_CALLS_MAX)"
        )),
        Refusal::Fault { class, message } => Failure::of_stream(class, &message),
    }
}

/// A buffer that takes memory only once an event comes: a run that waits for its model holds none.
struct Growing {
    bytes: Vec<u8>,
    limit: usize,
}

impl Buffer for Growing {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(Full(self.limit));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn clear(&mut self) {
        self.bytes.clear();
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
