//! The Connect protocol with its JSON codec (connectrpc.com/docs/protocol), as much of it as E2B's SDKs speak: unary calls,
//! streams from the server, streams from the client, deadlines.
//!
//! Messages may come compressed by gzip; answers never are. It knows no procedure and no binary messages.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mote_sandbox_api::error::{Code, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::unzip;
use crate::api::e2b::failure::{connect_code, connect_status, message};
use crate::api::gather::gathered;
use crate::limits::RPC_MESSAGE_BYTES_MAX;

const COMPRESSED: u8 = 1;
const END: u8 = 2;
const STREAM: &str = "application/connect+json";

/// An error as Connect writes it.
fn error(failure: &Failure) -> Value {
    json!({ "code": connect_code(failure), "message": message(failure) })
}

/// The answer of a unary call.
pub(super) fn answer(outcome: Result<Value, Failure>) -> Response {
    match outcome {
        Ok(value) => axum::Json(value).into_response(),
        Err(failure) => {
            if failure.code == Code::Internal {
                tracing::error!(error = %failure, "a call failed");
            }
            (connect_status(connect_code(&failure)), axum::Json(error(&failure))).into_response()
        }
    }
}

/// Whether a request is a stream's; a unary one otherwise.
///
/// # Errors
/// The answer to what is neither.
pub(super) fn is_stream(headers: &HeaderMap) -> Result<bool, Box<Response>> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        STREAM => Ok(true),
        "application/json" => Ok(false),
        _ => {
            let accepted = HeaderValue::from_static("application/json, application/connect+json");
            Err(Box::new((StatusCode::UNSUPPORTED_MEDIA_TYPE, [("accept-post", accepted)]).into_response()))
        }
    }
}

/// The time that a call may take, where it says.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get("connect-timeout-ms") else { return Ok(None) };
    let ms = value.to_str().ok().filter(|text| text.len() <= 10).and_then(|text| text.parse().ok());
    let ms = ms.ok_or_else(|| Failure::invalid("Connect-Timeout-Ms", "it must be 1 to 10 digits"))?;
    Ok(Some(Duration::from_millis(ms)))
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(text)
        .map_err(|error| Failure::new(Code::Invalid, format!("failed to read the message: {error}")))
}

/// Whether messages are compressed, by what this header says.
fn is_zipped(headers: &HeaderMap, name: &str) -> Result<bool, Failure> {
    match headers.get(name).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let message = format!("unknown compression \"{other}\": supported encodings are gzip");
            Err(Failure::unsupported("rpc.compression", message))
        }
    }
}

/// The message of a unary call.
pub(super) async fn unary<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let is_zipped = is_zipped(request.headers(), header::CONTENT_ENCODING.as_str())?;
    let body = gathered(request.into_body(), RPC_MESSAGE_BYTES_MAX).await?;
    if is_zipped && !body.is_empty() {
        return parsed(&unzip::message(&body, RPC_MESSAGE_BYTES_MAX)?);
    }
    parsed(&body)
}

fn unreadable(error: &str) -> Failure {
    if error.contains("length limit") {
        let message = format!("the message is longer than {RPC_MESSAGE_BYTES_MAX} bytes");
        return Failure::new(Code::TooLarge, message).with("limit", RPC_MESSAGE_BYTES_MAX);
    }
    Failure::new(Code::Invalid, format!("failed to read the request: {error}"))
}

/// Messages of a stream from the client.
pub(super) struct Messages {
    body: BodyDataStream,
    held: BytesMut,
    /// Whether those that say so are compressed in a way that is known.
    zipped: Result<bool, Failure>,
}

impl Messages {
    pub(super) fn of(request: Request) -> Self {
        let zipped = is_zipped(request.headers(), "connect-content-encoding");
        Self { body: request.into_body().into_data_stream(), held: BytesMut::new(), zipped }
    }

    /// The next message; nothing at the end.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(message) = self.take()? {
                return parsed(&message).map(Some);
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.held.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(unreadable(&error.to_string())),
                None if self.held.is_empty() => return Ok(None),
                None => return Err(Failure::new(Code::Invalid, "the stream ends within a message")),
            }
        }
    }

    /// The only message of a call that streams from the server alone.
    pub(super) async fn only<T: DeserializeOwned>(mut self) -> Result<T, Failure> {
        self.next().await?.ok_or_else(|| Failure::new(Code::Invalid, "the stream has no message"))
    }

    fn take(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some([flags, length @ ..]) = self.held.first_chunk::<5>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        let is_zipped = flags & COMPRESSED != 0;
        if is_zipped && !self.zipped.clone()? {
            let message = "protocol error: sent compressed message without compression support";
            return Err(Failure::new(Code::Invalid, message));
        }
        if length > RPC_MESSAGE_BYTES_MAX {
            let message = format!("a message is longer than {RPC_MESSAGE_BYTES_MAX} bytes");
            return Err(Failure::new(Code::TooLarge, message).with("limit", RPC_MESSAGE_BYTES_MAX));
        }
        if self.held.len() < 5 + length {
            return Ok(None);
        }
        self.held.advance(5);
        let message = self.held.split_to(length).freeze();
        if is_zipped { unzip::message(&message, RPC_MESSAGE_BYTES_MAX).map(Some) } else { Ok(Some(message)) }
    }
}

fn envelope(flags: u8, message: &impl Serialize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(128);
    bytes.put_bytes(0, 5);
    let mut writer = bytes.writer();
    // Our own messages are maps of text and numbers: writing them to memory does not fail.
    let _ = serde_json::to_writer(&mut writer, message);
    let mut bytes = writer.into_inner();
    let length = u32::try_from(bytes.len() - 5).unwrap_or(u32::MAX);
    bytes[0] = flags;
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

/// The answer of a stream from the server: messages, and the end, which tells of a failure.
pub(super) fn stream<S>(messages: S) -> Response
where
    S: Stream<Item = Result<Value, Failure>> + Send + 'static,
{
    let ended = futures_util::stream::once(std::future::ready(None));
    let frames = messages.map(Some).chain(ended).scan(false, |is_over, item| {
        let frame = match item {
            _ if *is_over => None,
            Some(Ok(message)) => Some(envelope(0, &message)),
            Some(Err(failure)) => {
                *is_over = true;
                Some(envelope(END, &json!({ "error": error(&failure) })))
            }
            None => Some(envelope(END, &json!({}))),
        };
        std::future::ready(frame.map(Ok::<_, std::convert::Infallible>))
    });
    let mut response = Body::from_stream(frames).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(STREAM));
    response
}

/// A stream of one message, or of a failure alone.
pub(super) fn stream_of_one(outcome: Result<Value, Failure>) -> Response {
    stream(futures_util::stream::once(std::future::ready(outcome)))
}

/// How often an idle stream says that it lives: proxies end connections that are silent.
pub(super) fn keepalive(headers: &HeaderMap) -> Duration {
    let asked = headers.get("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(asked.unwrap_or(90u64).clamp(1, 3600))
}

/// The user that a request names: the name of HTTP's basic authentication, without a password.
pub(super) fn user(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let Some(encoded) = value.strip_prefix("Basic ") else { return Ok(None) };
    let wrong = || Failure::new(Code::Unauthenticated, "the Authorization header is not basic authentication");
    let plain = data_encoding::BASE64.decode(encoded.trim().as_bytes()).map_err(|_| wrong())?;
    let plain = String::from_utf8(plain).map_err(|_| wrong())?;
    let name = plain.split(':').next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(response: Response) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    fn request(bytes: &'static [u8]) -> Request {
        Request::new(Body::from(bytes))
    }

    #[tokio::test]
    async fn a_stream_ends_with_an_end_that_tells_of_a_failure() {
        let items = [Ok(json!({"a": 1})), Err(Failure::not_found("process", "7")), Ok(json!({"b": 1}))];
        let bytes = body(stream(futures_util::stream::iter(items))).await;
        let end = br#"{"error":{"code":"not_found","message":"no process \"7\""}}"#;
        let expected = [&b"\0\0\0\0\x07{\"a\":1}"[..], &[2, 0, 0, 0, end.len() as u8], end].concat();
        assert_eq!(bytes, expected);
    }

    #[tokio::test]
    async fn a_stream_without_failure_ends_empty() {
        assert_eq!(body(stream(futures_util::stream::empty())).await, &b"\x02\0\0\0\x02{}"[..]);
    }

    #[tokio::test]
    async fn messages_are_read_and_their_limits_kept() {
        let mut messages = Messages::of(request(b"\0\0\0\0\x02{}\0\0\0\0\x07{\"a\":1}"));
        assert_eq!(messages.next::<Value>().await.unwrap(), Some(json!({})));
        assert_eq!(messages.next::<Value>().await.unwrap(), Some(json!({"a": 1})));
        assert_eq!(messages.next::<Value>().await.unwrap(), None);
        for (bytes, code) in [
            (&b"\0\xff\xff\xff\xff"[..], Code::TooLarge),
            (b"\x01\0\0\0\x02{}", Code::Invalid),
            (b"\0\0\0\0\x09{}", Code::Invalid),
            (b"", Code::Invalid),
        ] {
            let failure = Messages::of(request(bytes)).only::<Value>().await.unwrap_err();
            assert_eq!(failure.code, code);
        }
    }

    #[test]
    fn the_user_is_the_name_of_basic_authentication() {
        let mut headers = HeaderMap::new();
        assert_eq!(user(&headers).unwrap(), None);
        headers.insert("authorization", HeaderValue::from_static("Basic cm9vdDo="));
        assert_eq!(user(&headers).unwrap().as_deref(), Some("root"));
        headers.insert("authorization", HeaderValue::from_static("Basic ?"));
        assert_eq!(user(&headers).unwrap_err().code, Code::Unauthenticated);
    }
}
