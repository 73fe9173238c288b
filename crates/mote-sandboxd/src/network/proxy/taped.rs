//! What changes an exchange on its way: secrets swapped in requests and hidden in answers, exchanges recorded and replayed.
//!
//! It does not judge: `exchange` has.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, IF_RANGE, RANGE, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};

use super::exchange::{Exchanges, Host, end_to_end};
use super::refusal::{Body, Refusal, whole};
use crate::limits::{EGRESS_SWAP_BODY_BYTES_MAX, TAPE_BODY_BYTES_MAX};
use crate::network::boundary::Active;
use crate::network::decision::Reason;
use crate::network::policy::Treatment;
use crate::network::secret::BodyKind;
use crate::network::tape::{self, Answer, Key, Recorder, Tape};
use crate::room::Taken;

impl Exchanges {
    /// The request with its placeholders swapped, where its host has secrets: in the headers, the query and the body (of known
    /// and moderate length) that the bindings say. What could hide an echo of a value is asked not to come.
    pub(super) async fn swapped(
        &self,
        active: &Active,
        treatment: &Treatment,
        mut parts: Parts,
        body: Incoming,
        host: &Host,
        is_upgrade: bool,
    ) -> Result<Request<Body>, Refusal> {
        let passed = |body: Incoming| body.map_err(Into::into).boxed();
        let (true, true, Some(name)) = (treatment.secrets, self.is_secure(), &host.name) else {
            return Ok(Request::from_parts(parts, passed(body)));
        };
        // So that what the host sends back can be searched for the secret.
        searchable(&mut parts.headers);
        let mut binds = active.secrets.swap_headers(name, &mut parts.headers, &treatment.set());
        if let Some(target) = active.secrets.swap_query(name, &parts.uri.to_string())
            && let Ok(uri) = target.parse::<Uri>()
        {
            parts.uri = uri;
            binds |= active.secrets.query_binds(name);
        }
        if binds && is_upgrade {
            let detail = "the request carries a secret, which is not looked for in another protocol: `upgrade` of its binding allows it";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, Reason::Protocol, detail));
        }
        let length = body.size_hint().exact().filter(|length| *length <= EGRESS_SWAP_BODY_BYTES_MAX as u64);
        let is_swapped = active.secrets.are_in_bodies(name);
        if !is_swapped || length.is_none() || parts.headers.contains_key(CONTENT_ENCODING) {
            return Ok(Request::from_parts(parts, passed(body)));
        }
        let bytes = gather(body, EGRESS_SWAP_BODY_BYTES_MAX).await?;
        let body = match active.secrets.swap_body(name, body_kind(&parts.headers), &bytes) {
            Some(swapped) => {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(swapped.len()));
                whole(swapped)
            }
            None => whole(bytes),
        };
        Ok(Request::from_parts(parts, body))
    }

    /// An exchange with a tape: recorded, or answered from it.
    pub(super) async fn taped(
        &self,
        active: &Arc<Active>,
        tape: &Arc<Tape>,
        treatment: &Treatment,
        (mut parts, body): (Parts, Incoming),
        host: &Host,
    ) -> Result<Response<Body>, Refusal> {
        let mut held = self.boundary.taping();
        let bytes = gather_in(Some(&mut held), body, TAPE_BODY_BYTES_MAX).await?;
        let url = active.secrets.redact(&self.url(host, &parts.uri));
        let digest = match std::str::from_utf8(&bytes) {
            Ok(text) => tape::digest(active.secrets.redact(text).as_bytes()),
            Err(_) => tape::digest(&bytes),
        };
        let key = Key { method: parts.method.to_string(), url, body_sha256: digest };
        let Tape::Recorder(_) = &**tape else { return play(tape, &key) };
        if let (true, true, Some(name)) = (treatment.secrets, self.is_secure(), &host.name) {
            searchable(&mut parts.headers);
            active.secrets.swap_headers(name, &mut parts.headers, &treatment.set());
            if let Some(target) = active.secrets.swap_query(name, &parts.uri.to_string())
                && let Ok(uri) = target.parse::<Uri>()
            {
                parts.uri = uri;
            }
        }
        // What is on tape is to be read by people, and by clients that ask for another encoding.
        parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let swapped = match &host.name {
            Some(name) if treatment.secrets && self.is_secure() => {
                active.secrets.swap_body(name, body_kind(&parts.headers), &bytes).map(Bytes::from)
            }
            Some(_) | None => None,
        };
        let body = swapped.unwrap_or(bytes);
        if parts.headers.contains_key(CONTENT_LENGTH) || !body.is_empty() {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let mut response = self.send(Request::from_parts(parts, whole(body))).await?;
        let conceals = conceals(response.status(), response.headers());
        end_to_end(response.headers_mut(), false);
        let response = hidden(active, response, conceals);
        let (head, body) = response.into_parts();
        let headers = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), active.secrets.redact(&String::from_utf8_lossy(value.as_bytes()))))
            .collect();
        let answer = Answer { status: head.status.as_u16(), headers, body: Vec::new() };
        let taping = Taping { body, tape: tape.clone(), active: active.clone(), entry: Some((key, answer)), held };
        Ok(Response::from_parts(head, taping.boxed()))
    }
}

fn play(tape: &Tape, key: &Key) -> Result<Response<Body>, Refusal> {
    let Tape::Player(player) = tape else {
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, Reason::NotOnTape, "the tape is not one to be played"));
    };
    let Some(answer) = player.next(key) else {
        let detail = format!("{} {} with a body of SHA-256 {} was not recorded", key.method, key.url, key.body_sha256);
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, Reason::NotOnTape, detail));
    };
    let mut response = Response::new(whole(answer.body.clone()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            // The length is that of the body that is sent now; of an answer to HEAD it is what was told then.
            if name != CONTENT_LENGTH || key.method == "HEAD" {
                response.headers_mut().append(name, value);
            }
        }
    }
    Ok(response)
}

/// Asks for an answer in which a secret can be found: whole, and not encoded.
fn searchable(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    for name in [RANGE, IF_RANGE] {
        headers.remove(name);
    }
}

/// Hides values in headers, or in trailers.
pub(super) fn hide(active: &Active, headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if let Some(hidden) = active.secrets.hide(value.as_bytes())
            && let Ok(hidden) = HeaderValue::from_bytes(&hidden)
        {
            *value = hidden;
        }
    }
}

async fn gather(body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    gather_in(None, body, limit).await
}

/// The same, told to who counts what is held.
async fn gather_in(mut held: Option<&mut Taken<2>>, body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let (mut body, mut bytes) = (Limited::new(body, limit), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let detail = format!("the request's body could not be read, up to {limit} bytes: {error}");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Protocol, detail)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if held.as_mut().is_some_and(|held| !held.grow(data.len())) {
            let detail = "too much is being taped at once";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Reason::Rate, detail));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

fn body_kind(headers: &HeaderMap) -> BodyKind {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind == "application/x-www-form-urlencoded" {
        BodyKind::Form
    } else if kind == "application/json" || kind.ends_with("+json") {
        BodyKind::Json
    } else {
        BodyKind::Other
    }
}

/// Whether an answer is in a form in which no secret would be found: encoded by the host, or for the way, or a part. Looked at
/// before the headers of the way are taken out.
pub(super) fn conceals(status: StatusCode, headers: &HeaderMap) -> bool {
    let other_than = |name: HeaderName, plain: &str| {
        let values = headers.get_all(name);
        let mut words = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        words.any(|word| !word.trim_ascii().is_empty() && !word.trim_ascii().eq_ignore_ascii_case(plain.as_bytes()))
    };
    status == StatusCode::PARTIAL_CONTENT
        || other_than(CONTENT_ENCODING, "identity")
        || other_than(TRANSFER_ENCODING, "chunked")
}

/// An answer in which secrets are hidden again behind their placeholders: what a host echoes does not come inside.
pub(super) fn hidden(active: &Arc<Active>, response: Response<Incoming>, conceals: bool) -> Response<Body> {
    if active.secrets.is_empty() {
        return response.map(|body| body.map_err(Into::into).boxed());
    }
    let (mut head, body) = response.into_parts();
    hide(active, &mut head.headers);
    if body.is_end_stream() {
        return Response::from_parts(head, body.map_err(Into::into).boxed());
    }
    // A host that does so although it was asked not to.
    if conceals {
        let detail =
            "the answer of a host that receives secrets is encoded or a part, so that none could be found in it";
        return Refusal::new(StatusCode::BAD_GATEWAY, Reason::Protocol, detail).response();
    }
    // A placeholder is not as long as its value.
    head.headers.remove(CONTENT_LENGTH);
    let hiding = Hiding { body, active: active.clone(), held: Vec::new(), ready: VecDeque::new(), ended: false };
    Response::from_parts(head, hiding.boxed())
}

/// A body in which secrets are hidden as it passes. Bytes that may be the beginning of a secret are held until it is known.
struct Hiding {
    body: Incoming,
    active: Arc<Active>,
    held: Vec<u8>,
    ready: VecDeque<Frame<Bytes>>,
    ended: bool,
}

impl Hiding {
    fn take(&mut self, data: &[u8]) {
        self.held.extend(data);
        if let Some(hidden) = self.active.secrets.hide(&self.held) {
            self.held = hidden;
        }
        let kept = self.active.secrets.begins_at_end(&self.held);
        let passed = self.held.len() - kept;
        let rest = self.held.split_off(passed);
        let passed = std::mem::replace(&mut self.held, rest);
        if !passed.is_empty() {
            self.ready.push_back(Frame::data(passed.into()));
        }
    }
}

impl hyper::body::Body for Hiding {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.take(&data),
                    Err(mut trailers) => {
                        if let Some(headers) = trailers.trailers_mut() {
                            hide(&this.active, headers);
                        }
                        let held = std::mem::take(&mut this.held);
                        if !held.is_empty() {
                            this.ready.push_back(Frame::data(held.into()));
                        }
                        this.ready.push_back(trailers);
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    this.ended = true;
                    let held = std::mem::take(&mut this.held);
                    if !held.is_empty() {
                        this.ready.push_back(Frame::data(held.into()));
                    }
                }
            }
        }
    }
}

/// A body that is written to a tape when it has passed whole.
struct Taping {
    body: Body,
    tape: Arc<Tape>,
    active: Arc<Active>,
    entry: Option<(Key, Answer)>,
    /// What it holds, the request's body included.
    held: Taken<2>,
}

impl Taping {
    fn finish(&mut self) {
        let (Some((key, mut answer)), Tape::Recorder(recorder)) = (self.entry.take(), &*self.tape) else { return };
        if let Ok(text) = std::str::from_utf8(&answer.body) {
            answer.body = self.active.secrets.redact(text).into_bytes();
        }
        write(recorder, key, answer);
    }
}

/// Writes an exchange. A tape that is full or broken does not break the exchange: it is told in the log.
fn write(recorder: &Recorder, key: Key, answer: Answer) {
    let url = key.url.clone();
    if let Err(error) = recorder.write(key, answer) {
        tracing::warn!(error = %error, url, "failed to tape an exchange");
    }
}

impl hyper::body::Body for Taping {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some((key, answer))) = (frame.data_ref(), &mut this.entry) {
                    if answer.body.len() + data.len() > TAPE_BODY_BYTES_MAX || !this.held.grow(data.len()) {
                        tracing::warn!(url = key.url, limit = TAPE_BODY_BYTES_MAX, "an answer is too long to be taped");
                        this.entry = None;
                    } else {
                        answer.body.extend(data);
                    }
                }
                if this.body.is_end_stream() {
                    this.finish();
                }
            }
            Some(Err(_)) => this.entry = None,
            None => this.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Only once it is written: whoever asks does not poll again.
        self.entry.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_a_form_that_could_hide_a_secret_is_known_by_every_header_that_says_so() {
        let of = |status: u16, pairs: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, HeaderValue::try_from(*value).unwrap());
            }
            conceals(StatusCode::from_u16(status).unwrap(), &headers)
        };
        for plain in [
            &[][..],
            &[(TRANSFER_ENCODING, "chunked")],
            &[(CONTENT_ENCODING, "identity"), (TRANSFER_ENCODING, "Chunked")],
            &[(CONTENT_ENCODING, "Identity, identity"), (CONTENT_ENCODING, "")],
        ] {
            assert!(!of(200, plain), "{plain:?}");
        }
        for hidden in [
            &[(CONTENT_ENCODING, "gzip")][..],
            &[(CONTENT_ENCODING, "identity"), (CONTENT_ENCODING, "br")],
            &[(CONTENT_ENCODING, "identity, gzip")],
            &[(TRANSFER_ENCODING, "gzip, chunked")],
            &[(TRANSFER_ENCODING, "gzip"), (TRANSFER_ENCODING, "chunked")],
        ] {
            assert!(of(200, hidden), "{hidden:?}");
        }
        assert!(of(206, &[]));
    }
}
