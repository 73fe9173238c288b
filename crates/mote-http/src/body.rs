//! What becomes of a request's body that its handler did not read to the end: too long, of the wrong type, refused before it
//! was looked at.
//!
//! A server that then closes its socket makes the kernel reset the connection, and the answer may be lost on its way; one
//! that keeps it open without reading lets the client send the next request into a connection that is about to end. So the
//! answer says `connection: close`, and what still comes is read and thrown away for a while (RFC 9112, section 9.6).
//! It does not judge bodies: handlers do.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::Limits;

/// A request's body, which the handler and the server hold together.
struct Shared(Mutex<State>);

struct State {
    body: Incoming,
    /// Whether anything was asked of it: until then a client that expects `100 Continue` has sent none of it.
    begun: bool,
    ended: bool,
}

impl State {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.begun = true;
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // An error is an end too: there is nothing more to read.
        self.ended |= matches!(polled, Poll::Ready(None | Some(Err(_)))) || self.body.is_end_stream();
        polled
    }
}

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        // Poisoned only by a panic inside hyper's own poll; the state is as good as before.
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The handler's part of a body.
struct Handed(Arc<Shared>);

impl http_body::Body for Handed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.0.with(|state| state.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.with(|state| state.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.with(|state| state.body.size_hint())
    }
}

/// The server's part of a body: what is left of it once the handler has answered.
pub(crate) struct Rest {
    /// None where the request has no body.
    shared: Option<Arc<Shared>>,
    expects_continue: bool,
}

/// A body for the handler, and what the server keeps of it.
pub(crate) fn split(body: Incoming, headers: &HeaderMap) -> (Body, Rest) {
    if body.is_end_stream() {
        return (Body::empty(), Rest { shared: None, expects_continue: false });
    }
    let shared = Arc::new(Shared(Mutex::new(State { body, begun: false, ended: false })));
    let expects_continue = headers.contains_key(header::EXPECT);
    (Body::new(Handed(Arc::clone(&shared))), Rest { shared: Some(shared), expects_continue })
}

impl Rest {
    /// Makes an answer safe to send while its request is still arriving.
    pub(crate) fn settle(self, mut answer: Response, limits: &Limits) -> Response {
        let Some(shared) = self.shared else { return answer };
        // A handler that holds the body still reads it, beside its answer.
        let Some(Shared(state)) = Arc::into_inner(shared) else { return answer };
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return answer;
        }
        let unsent = self.expects_continue && !state.begun;
        let mut discard = Box::pin(discard(state.body, limits.rest_bytes));
        // A short body that has come whole is no reason to end the connection.
        if !unsent && discard.as_mut().now_or_never() == Some(true) {
            return answer;
        }
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        if !unsent {
            tokio::spawn(tokio::time::timeout(limits.rest_time, discard));
        }
        answer
    }
}

/// Reads a body and throws it away, up to a number of bytes; whether it ended within that.
async fn discard(mut body: Incoming, bytes_max: u64) -> bool {
    let mut left = bytes_max;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        let Some(less) = left.checked_sub(length) else { return false };
        left = less;
    }
    true
}
