//! Accepting HTTP/1.1 connections for Mote's services: bounded in number, in the time and size of a request's head, and ended
//! in two phases.
//!
//! It does not route, and it does not terminate TLS by itself: [`serve`] takes whatever makes a stream of a connection.

mod body;
mod progress;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use progress::Progress;

/// The address that a request came from, in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddr(pub SocketAddr);

/// What one server holds at once, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections held at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// How long a client may take to send a request's head; also how long an idle connection is kept.
    pub head_time: Duration,
    /// Largest request head, bytes.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Pause after a connection could not be accepted.
    pub accept_retry: Duration,
    /// How long the rest of a body that nobody wanted is read and thrown away, so that its sender hears the answer.
    pub rest_time: Duration,
    /// Bytes of it that are read, at most.
    pub rest_bytes: u64,
    /// How long a client may read nothing while there is something for it; then its connection ends. Whatever it reads, on
    /// a long download or a stream, begins this time anew.
    pub write_time: Duration,
    /// Bytes that the kernel holds of what a client has not made room for: so that what a slow one reads is soon seen.
    pub unsent_bytes: u32,
}

/// Makes the stream that HTTP is spoken on from an accepted connection: at once, or after a handshake.
pub trait Accept: Clone + Send + Sync + 'static {
    /// The stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Takes a connection. An error ends it, and is its client's matter.
    fn accept(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// HTTP without TLS.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Accept for Plain {
    type Stream = TcpStream;

    async fn accept(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }
}

/// A server: its routes, its limits, and how it takes connections.
#[derive(Debug, Clone)]
pub struct Server<A = Plain> {
    router: Router,
    limits: Limits,
    accept: A,
}

impl Server {
    /// A server without TLS.
    pub fn new(router: Router, limits: Limits) -> Self {
        Self { router, limits, accept: Plain }
    }
}

impl<A: Accept> Server<A> {
    /// The same server behind another way to take connections.
    pub fn accepting<B: Accept>(self, accept: B) -> Server<B> {
        Server { router: self.router, limits: self.limits, accept }
    }

    /// Serves until `shutdown` is cancelled; then accepts nothing more, lets the requests under way finish for `grace`, and
    /// ends the connections that are left. A handler that streams without end watches for the shutdown itself.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken, grace: Duration) {
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(server.limits.connections));
        let connections = TaskTracker::new();
        let force = CancellationToken::new();
        loop {
            // A place first: at the limit, newcomers wait in the kernel's backlog instead of in our memory.
            let accepting = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                accepted = accepting => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (server, shutdown, force) = (Arc::clone(&server), shutdown.clone(), force.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = server.connection(stream, address, shutdown) => {}
                            () = force.cancelled() => {}
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: it passes when a connection ends.
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(server.limits.accept_retry).await;
                }
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(grace, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections are ended: the grace period is over");
            force.cancel();
            connections.wait().await;
        }
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr, shutdown: CancellationToken) {
        // Small answers must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        // Where the kernel does not know it, slow clients must read a little faster.
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(self.limits.unsent_bytes);
        let accepting = async {
            match tokio::time::timeout(self.limits.head_time, self.accept.accept(stream)).await {
                Ok(accepted) => accepted,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        let stream = tokio::select! {
            accepted = accepting => accepted,
            () = shutdown.cancelled() => return,
        };
        let outcome = match stream {
            Ok(stream) => self.exchange(stream, address, shutdown).await.map_err(io::Error::other),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // A client that goes away or talks nonsense: its own matter, not worth an operator's attention.
            tracing::debug!(%address, %error, "a connection ended");
        }
    }

    async fn exchange(&self, stream: A::Stream, address: SocketAddr, shutdown: CancellationToken) -> hyper::Result<()> {
        let service = service_fn(|request: Request<Incoming>| async move {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(ClientAddr(address));
            let (body, rest) = body::split(body, &parts.headers);
            let answer = self.router.clone().oneshot(Request::from_parts(parts, body)).await;
            let answer = answer.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(rest.settle(answer, &self.limits))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_time)
            .max_headers(self.limits.headers)
            .max_buf_size(self.limits.head_bytes);
        let serving =
            http.serve_connection(TokioIo::new(Progress::new(stream, self.limits.write_time)), service).with_upgrades();
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            outcome = serving.as_mut() => outcome,
            () = shutdown.cancelled() => {
                // Finishes the request under way, and closes an idle connection at once.
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::oneshot;

    use super::*;

    const LIMITS: Limits = Limits {
        connections: 4,
        head_time: Duration::from_secs(600),
        head_bytes: 16 << 10,
        headers: 16,
        accept_retry: Duration::from_millis(10),
        rest_time: Duration::from_secs(1),
        rest_bytes: 1 << 20,
        write_time: Duration::from_millis(200),
        unsent_bytes: 16 << 10,
    };

    /// Tells when it is dropped.
    struct Told(Option<oneshot::Sender<()>>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.take().map(|told| told.send(()));
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_loses_its_connection() {
        let (told, dropped) = oneshot::channel();
        let body = Arc::new(Mutex::new(Some(Told(Some(told)))));
        let endless = async move || {
            let guard = body.lock().unwrap().take();
            Body::from_stream(stream::unfold(guard, async |guard| {
                Some((Ok::<_, Infallible>(Bytes::from_static(&[0; 4096])), guard))
            }))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(Router::new().route("/", get(endless)), LIMITS);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, shutdown.clone(), Duration::from_secs(600)));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        // Generous: the test waits for the event, not for the time.
        tokio::time::timeout(Duration::from_secs(60), dropped).await.unwrap().unwrap();
        shutdown.cancel();
        serving.await.unwrap();
        drop(client);
    }
}
