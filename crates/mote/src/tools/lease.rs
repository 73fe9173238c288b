//! The last question before a request goes out: whether the worker still holds the task. A worker that was stopped in between,
//! and woken after another took over, must not send what it had prepared.
//!
//! It does not hold the lease; the runner does.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Tells whether a lease holds.
#[derive(Clone)]
pub struct LeaseGuard(Arc<dyn Fn() -> bool + Send + Sync>);

/// The lease was lost before the request went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease was lost before the request was sent; nothing was sent")]
pub struct LeaseLost;

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LeaseGuard").field(&self.holds()).finish()
    }
}

impl LeaseGuard {
    /// A guard that asks this.
    #[must_use]
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// For work that no lease stands for.
    #[must_use]
    pub fn always() -> Self {
        Self::new(|| true)
    }

    /// Whether the lease holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        (self.0)()
    }

    /// Sends a request unless the lease is lost by then: asked each time that the sending gets on (a name is resolved, a
    /// connection made), and by the body's first byte, before which the head is not sent either.
    ///
    /// # Errors
    /// What the client says, or [`LeaseLost`].
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, SendError> {
        let (client, request) = request.build_split();
        let mut request = request?;
        if let Some(bytes) = request.body().and_then(reqwest::Body::as_bytes).map(Bytes::copy_from_slice) {
            *request.body_mut() = Some(reqwest::Body::wrap(Guarded { bytes: Some(bytes), lease: self.clone() }));
        }
        let mut sending = Box::pin(client.execute(request));
        let sent = std::future::poll_fn(|context| {
            if !self.holds() {
                return Poll::Ready(Err(SendError::LeaseLost(LeaseLost)));
            }
            sending.as_mut().poll(context).map_err(SendError::from)
        });
        sent.await
    }
}

/// Why a guarded request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The client's reason.
    #[error(transparent)]
    Client(reqwest::Error),
    /// It was never sent.
    #[error(transparent)]
    LeaseLost(LeaseLost),
}

impl From<reqwest::Error> for SendError {
    fn from(error: reqwest::Error) -> Self {
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            if let Some(lost) = inner.downcast_ref::<LeaseLost>() {
                return Self::LeaseLost(*lost);
            }
            cause = inner.source();
        }
        Self::Client(error)
    }
}

/// A body that is not begun once the lease is lost. The head waits for it: the connection writes both together.
struct Guarded {
    bytes: Option<Bytes>,
    lease: LeaseGuard,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = LeaseLost;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, LeaseLost>>> {
        if self.bytes.is_some() && !self.lease.holds() {
            return Poll::Ready(Some(Err(LeaseLost)));
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::AsyncReadExt;

    use super::*;

    /// Sends a request under a lease that is lost after it was asked `asked` times; what reached the backend.
    async fn received(asked: u32, body: &'static str) -> (Result<(), SendError>, String) {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let backend = tokio::spawn(async move {
            let Ok((mut stream, _)) = listener.accept().await else { return String::new() };
            let mut text = Vec::new();
            let mut buffer = [0; 1024];
            // Until the whole request is there, or its sender gives up.
            while !text.ends_with(b"the end") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => text.extend_from_slice(&buffer[..read]),
                }
            }
            String::from_utf8(text).unwrap()
        });
        let times = AtomicU32::new(0);
        let guard = LeaseGuard::new(move || times.fetch_add(1, Ordering::SeqCst) < asked);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let sent = tokio::time::timeout(std::time::Duration::from_secs(20), guard.send(client.post(url).body(body)));
        let sent = tokio::select! {
            sent = sent => sent.unwrap().map(drop),
            text = backend => return (Ok(()), text.unwrap()),
        };
        drop(client);
        (sent, String::new())
    }

    #[tokio::test]
    async fn nothing_of_a_request_goes_out_once_the_lease_is_lost_however_far_it_got() {
        crate::tls::install_provider();
        let mut went_out = false;
        // Each time that the guard is asked is a place where the worker may have been stopped.
        for asked in 0..40 {
            let (sent, text) = received(asked, "the end").await;
            if sent.is_ok() {
                assert!(text.ends_with("the end") && text.contains("content-length: 7"), "{text}");
                went_out = true;
                break;
            }
            assert!(matches!(sent, Err(SendError::LeaseLost(_))), "{sent:?}");
            assert_eq!(text, "", "asked {asked} times");
        }
        assert!(went_out, "a lease that holds lets the request go");
    }
}
