//! Accepting connections: bounded in number, in the time and size of a request's head, and ended in two phases.
//!
//! It does not terminate TLS; a proxy or a mesh in front does.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::limits;

/// The address that a request came from, in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddr(pub SocketAddr);

/// Serves until `shutdown` is cancelled; then accepts nothing more, lets the requests under way finish for `grace`, and ends
/// the connections that are left. Streams end by themselves once [`super::ApiState::closing`] is cancelled.
///
/// # Errors
/// None at present: a connection that cannot be accepted is logged and accepting goes on.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    grace: Duration,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
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
                let (router, shutdown, force) = (router.clone(), shutdown.clone(), force.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = connection(stream, address, router, shutdown) => {}
                        () = force.cancelled() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: it passes when a connection ends.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(limits::ACCEPT_RETRY).await;
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
    Ok(())
}

async fn connection(stream: TcpStream, address: SocketAddr, router: Router, shutdown: CancellationToken) {
    // Small answers must not wait for a full packet.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ClientAddr(address));
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ_TIMEOUT)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEADER_BYTES_MAX);
    let serving = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = shutdown.cancelled() => {
            // Finishes the request under way, and closes an idle connection at once.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        // A client that goes away or talks nonsense: its own matter, not worth an operator's attention.
        tracing::debug!(%address, %error, "a connection ended");
    }
}
