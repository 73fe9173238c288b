//! One model endpoint over HTTP: a request out, its reply in, within its timeouts and limits.
//!
//! The wire formats are [`super::anthropic`]'s and [`super::openai`]'s; what a body's bytes say is [`reader`]'s to find out. It
//! follows no redirect, repeats a request only in another form ([`super::adapt`]), and never lets the key into a message.

mod reader;

use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::ResponseFuture;
use mote_wire::delta::Delta as Piece;
use mote_wire::extent::Extent;
use serde_json::Value;
use tokio::time::Instant;

use self::reader::{End, Reader};
use super::adapt::{Learned, Shape};
use super::assembly::Assembly;
use super::failure::Failure;
use super::transport::{Client, chunk};
use super::{DeltaSink, Error, ErrorKind};
use crate::clock::SharedClock;
use crate::limits::{MODEL_DRAIN_MS, MODEL_ERROR_BYTES_MAX, MODEL_ERROR_WAIT_MS, MODEL_KEY_BYTES_MIN, MODEL_LINGER_MS};
use crate::secret::SecretValue;
use crate::usage::Usage;

/// Decodes what an endpoint sends, in a wire format.
pub(super) trait Decoder: Send {
    /// See [`mote_wire::anthropic::Decoder::event`].
    fn event<'a>(&mut self, name: &str, data: &'a str, sink: &mut dyn FnMut(Piece<'a>))
    -> Result<(), mote_wire::Error>;

    /// See [`mote_wire::anthropic::Decoder::whole`].
    fn whole<'a>(&mut self, body: &'a str, sink: &mut dyn FnMut(Piece<'a>)) -> Result<(), mote_wire::Error>;
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

    fn whole<'a>(&mut self, body: &'a str, sink: &mut dyn FnMut(Piece<'a>)) -> Result<(), mote_wire::Error> {
        Self::whole(self, body, sink)
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

    fn whole<'a>(&mut self, body: &'a str, sink: &mut dyn FnMut(Piece<'a>)) -> Result<(), mote_wire::Error> {
        Self::whole(self, body, sink)
    }
}

/// Writes a request's body in a shape.
pub(super) type Writer<'w> = &'w mut (dyn FnMut(Shape) -> Value + Send);

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
    /// What it takes.
    pub(super) learned: Learned,
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

    /// Sends a request and gathers its reply. A request that is refused for a parameter is sent once more without it.
    pub(super) async fn call(
        &self,
        write: Writer<'_>,
        traceparent: Option<&str>,
        decoder: &mut dyn Decoder,
        deltas: DeltaSink<'_>,
    ) -> Result<Assembly, Error> {
        let mut assembly = Assembly::default();
        let exchange = self.adapted(write, traceparent, decoder, &mut assembly, deltas);
        let done = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(done) => done,
            Err(_) => Err(Failure::timed_out("no whole reply", self.timeout)),
        };
        match done {
            Ok(()) => Ok(assembly),
            Err(failure) => Err(self.error(failure, assembly.usage())),
        }
    }

    fn error(&self, failure: Failure, usage: Option<Usage>) -> Error {
        let Failure { kind, mut message, retry_after, answer, began, refused: _ } = failure;
        // A shorter one is a stand-in (`none`, `ollama`), and would only garble the words around it.
        let key = self.key.as_ref().map(SecretValue::expose).filter(|key| key.len() >= MODEL_KEY_BYTES_MIN);
        if let Some(key) = key {
            message = message.replace(key, "[key]");
        }
        let (model, endpoint) = (self.model.clone(), self.origin());
        Error { kind, model, endpoint, message, retry_after, began, usage, answer }
    }

    async fn adapted(
        &self,
        write: Writer<'_>,
        traceparent: Option<&str>,
        decoder: &mut dyn Decoder,
        assembly: &mut Assembly,
        deltas: DeltaSink<'_>,
    ) -> Result<(), Failure> {
        let first = self.learned.shape();
        let mut shape = first;
        loop {
            // The tree is many times the size of its text: a call that waits holds neither for longer than it must.
            let bytes = serde_json::to_vec(&write(shape))
                .map_err(|error| Failure::new(ErrorKind::Rejected, format!("the request is not JSON: {error}")))?;
            let mut headers = self.headers.clone();
            if let Some(value) = traceparent.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(HeaderName::from_static("traceparent"), value);
            }
            let asked = self.client.post(self.uri.clone(), headers, bytes);
            let failure = match self.answer(asked).await {
                Ok(response) => {
                    // Boxed, as are the ways to fail: a call that waits for its answer does not keep their room.
                    match Box::pin(self.stream(response, decoder, assembly, deltas)).await.map_err(Failure::in_reply) {
                        // Refused with a success, before anything of a reply came.
                        Err(failure) if failure.refused.is_some() && assembly.bytes() == 0 => failure,
                        read => {
                            if shape != first {
                                self.learned.keep(shape);
                            }
                            return read;
                        }
                    }
                }
                Err(failure) => failure,
            };
            let Some(next) = failure.refused.as_deref().and_then(|words| shape.after(words)) else {
                return Err(failure);
            };
            tracing::info!(model = self.model, message = failure.message, "model request sent again in another form");
            shape = next;
        }
    }

    /// The head of an answer that is a success, and readable.
    async fn answer(&self, asked: ResponseFuture) -> Result<Response<Incoming>, Failure> {
        let response = asked.await.map_err(|error| Failure::of_request(&error))?;
        let status = response.status();
        let encoding = compression(response.headers());
        if !status.is_success() {
            let headers = response.headers().clone();
            let body = if encoding.is_some() { Vec::new() } else { Box::pin(self.error_body(response)).await };
            let mut failure = Failure::of_answer(status, &headers, &body, self.clock.now_ms());
            if let Some(encoding) = encoding {
                failure.message.push_str(&format!(" (what it says is encoded as {encoding})"));
            }
            return Err(failure);
        }
        if let Some(encoding) = encoding {
            // Another attempt would be answered, and paid for, the same way.
            let message = format!("the answer is encoded as {encoding}, although `accept-encoding: identity` was sent");
            return Err(Failure::new(ErrorKind::Rejected, message));
        }
        Ok(response)
    }

    /// As much of an error's body as is read, whatever becomes of the rest.
    async fn error_body(&self, mut response: Response<Incoming>) -> Vec<u8> {
        let (mut body, mut extent) = (Vec::new(), Extent::default());
        let mut until = Instant::now() + self.idle_timeout.min(Duration::from_millis(MODEL_ERROR_WAIT_MS));
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout_at(until, chunk(&mut response)).await {
            let room = MODEL_ERROR_BYTES_MAX - body.len();
            let taken = chunk.get(..room).unwrap_or(&chunk);
            body.extend_from_slice(taken);
            extent.push(taken);
            if body.len() == MODEL_ERROR_BYTES_MAX {
                break;
            }
            if extent.is_complete() {
                until = until.min(Instant::now() + Duration::from_millis(MODEL_LINGER_MS));
            }
        }
        body
    }

    /// Gathers the reply that a body holds: a stream of events, or the whole as one JSON text from a server that does not
    /// stream.
    async fn stream(
        &self,
        mut response: Response<Incoming>,
        decoder: &mut dyn Decoder,
        assembly: &mut Assembly,
        deltas: DeltaSink<'_>,
    ) -> Result<(), Failure> {
        let kind = header(&response, http::header::CONTENT_TYPE);
        let mut reader = Reader::new(decoder, assembly, deltas, self.idle_timeout);
        // When the reply turned out to be finished, or last grew.
        let mut grown = Instant::now();
        let end = loop {
            let next = match reader.patience() {
                // Finished, but for what may follow: a socket that stays open does not hold the reply back.
                Some(patience) => match tokio::time::timeout_at(grown + patience, chunk(&mut response)).await {
                    Ok(next) => next,
                    Err(_) if !reader.expire()? => break End::Held,
                    Err(_) if reader.is_done() => break End::Held,
                    Err(_) => {
                        grown = Instant::now();
                        continue;
                    }
                },
                None => tokio::time::timeout(self.idle_timeout, chunk(&mut response))
                    .await
                    .map_err(|_| Failure::timed_out("nothing came in the stream", self.idle_timeout))?,
            };
            let chunk = match next {
                None => break End::Closed,
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => break End::Broken(Failure::of_body(&error)),
            };
            if reader.take(&chunk, &kind)? {
                grown = Instant::now();
            }
            if reader.is_done() {
                drain(response).await;
                break End::Closed;
            }
        };
        reader.end(end)
    }
}

/// Encodings that hide what a body says. Servers name others that change nothing: `identity`, `none`, `utf-8`, `chunked`.
const COMPRESSIONS: [&str; 7] = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"];

/// The compression of a body, if it has one.
fn compression(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(http::header::CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut names = values.flat_map(|value| value.split([',', ';'])).map(str::trim);
    names.find_map(|name| COMPRESSIONS.into_iter().find(|known| known.eq_ignore_ascii_case(name)))
}

/// A header's value in lower case, without parameters; empty if there is none.
fn header(response: &Response<Incoming>, name: HeaderName) -> String {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads on to the end of a finished stream, for a moment: only a body read to its end gives its connection back.
async fn drain(mut response: Response<Incoming>) {
    let rest = async { while let Some(Ok(_)) = chunk(&mut response).await {} };
    // Whether it ended in time changes nothing for the caller.
    let _ = tokio::time::timeout(Duration::from_millis(MODEL_DRAIN_MS), rest).await;
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
