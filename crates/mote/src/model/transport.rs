//! The HTTP client of the model endpoints: hyper's own, over TCP or TLS.
//!
//! A general client keeps, for each request under way, what it would need to follow a redirect or to try again; ten thousand
//! runs may wait for their model at once, so here there is nothing of the kind. It takes no proxy from the environment.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::{self, connect};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits::{
    MODEL_ALIVE_PROBE_S, MODEL_ALIVE_PROBES, MODEL_CONNECT_MS, MODEL_POOL_IDLE_MAX, MODEL_POOL_IDLE_S,
    MODEL_UNACKNOWLEDGED_S,
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// A client and the connections that it keeps. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Client(legacy::Client<Connector, Full<Bytes>>);

impl Client {
    /// A client that trusts whom `tls` trusts.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        let mut tcp = connect::HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // A model may think for minutes, with nothing on the wire: so both ends, and what is between, know that it lives.
        tcp.set_keepalive(Some(Duration::from_secs(MODEL_ALIVE_PROBE_S)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(MODEL_ALIVE_PROBE_S)));
        tcp.set_keepalive_retries(Some(MODEL_ALIVE_PROBES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(Duration::from_secs(MODEL_UNACKNOWLEDGED_S)));
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(MODEL_POOL_IDLE_S))
            .pool_max_idle_per_host(MODEL_POOL_IDLE_MAX)
            .build(Connector { tcp, tls: tls.into() });
        Self(client)
    }

    /// Posts a body; returns the answer once its head is there. A kept connection that turns out to be closed before anything
    /// was written to it is replaced.
    pub(super) fn post(&self, uri: Uri, headers: HeaderMap, body: Vec<u8>) -> legacy::ResponseFuture {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.0.request(request)
    }
}

/// The next piece of a body; `None` at its end.
pub(super) async fn chunk(response: &mut Response<Incoming>) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match response.body_mut().frame().await?.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => return Some(Ok(data)),
            // Trailers.
            Ok(Err(_)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Opens connections.
#[derive(Clone)]
struct Connector {
    tcp: connect::HttpConnector,
    tls: TlsConnector,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, tls) = (self.tcp.call(uri.clone()), self.tls.clone());
        let connecting = async move {
            let tcp = connecting.await?;
            if uri.scheme() != Some(&uri::Scheme::HTTPS) {
                return Ok(Stream::Plain(tcp));
            }
            // An IPv6 address stands in brackets in a URL, and without them in a certificate.
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
            let name = ServerName::try_from(host.to_owned())?;
            let stream = tls.connect(name, tcp.into_inner()).await?;
            Ok(Stream::Tls(Box::new(TokioIo::new(stream))))
        };
        let within = Duration::from_millis(MODEL_CONNECT_MS);
        Box::pin(async move {
            tokio::time::timeout(within, connecting).await.unwrap_or_else(|_| {
                let message = format!("no connection within {MODEL_CONNECT_MS} ms");
                Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
            })
        })
    }
}

/// A connection. That with TLS is boxed: it is many times the size of the other.
enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl connect::Connection for Stream {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, into),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, pieces),
        }
    }
}
