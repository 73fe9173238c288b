//! Connections to destinations: dialled from the host, counted, and, where the client's TLS ended here, secured again.
//!
//! It does not decide whom to dial, and it asks no resolver: it is given an address.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::refusal::Body;
use crate::limits::{EGRESS_CONNECT_TIMEOUT, EGRESS_HEAD_BYTES_MAX, EGRESS_HEADERS_MAX, EGRESS_SNIFF_TIMEOUT};
use crate::network::meter::{Meter, Metered};
use crate::network::name::Name;

/// A connection to a destination.
pub(super) type Dialled = Metered<TcpStream>;

/// Why a destination cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be connected to.
    #[error("failed to connect to {0}: {1}")]
    Connect(SocketAddrV4, std::io::Error),
    /// TLS does not come about: most often its certificate does not hold.
    #[error("failed to set up TLS with {0}: {1}")]
    Tls(SocketAddrV4, std::io::Error),
    /// HTTP does not come about.
    #[error("failed to speak HTTP with {0}: {1}")]
    Http(SocketAddrV4, hyper::Error),
}

/// Connects.
///
/// # Errors
/// [`Error::Connect`].
pub(super) async fn dial(to: SocketAddrV4, meter: &Arc<Meter>) -> Result<Dialled, Error> {
    let connecting = TcpStream::connect(SocketAddr::V4(to));
    let stream = match timeout(EGRESS_CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| Error::Connect(to, error))?,
        Err(_) => return Err(Error::Connect(to, std::io::ErrorKind::TimedOut.into())),
    };
    let _ = stream.set_nodelay(true);
    // A destination that is gone without a word is noticed, so that its connection does not count for ever.
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    Ok(Metered::new(stream, meter.clone()))
}

/// Connects for HTTP, over TLS where `tls` says with whom: by name, or by the address itself.
///
/// # Errors
/// [`Error`].
pub(super) async fn connect(
    to: SocketAddrV4,
    tls: Option<(Arc<ClientConfig>, Option<&Name>)>,
    meter: &Arc<Meter>,
    cut: CancellationToken,
) -> Result<SendRequest<Body>, Error> {
    let stream = dial(to, meter).await?;
    let Some((config, name)) = tls else { return handshake(to, stream, cut).await };
    let server = match name {
        Some(name) => ServerName::try_from(name.to_string())
            .map_err(|error| Error::Tls(to, std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?,
        None => ServerName::IpAddress(IpAddr::V4(*to.ip()).into()),
    };
    let securing = tokio_rustls::TlsConnector::from(config).connect(server, stream);
    match timeout(EGRESS_SNIFF_TIMEOUT, securing).await {
        Ok(secured) => handshake(to, secured.map_err(|error| Error::Tls(to, error))?, cut).await,
        Err(_) => Err(Error::Tls(to, std::io::ErrorKind::TimedOut.into())),
    }
}

async fn handshake<S>(to: SocketAddrV4, stream: S, cut: CancellationToken) -> Result<SendRequest<Body>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new()
        .preserve_header_case(true)
        .max_buf_size(EGRESS_HEAD_BYTES_MAX)
        .max_headers(EGRESS_HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Error::Http(to, error))?;
    let going = async move {
        tokio::select! {
            () = cut.cancelled() => {}
            ended = connection.with_upgrades() => {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, to = %to, "a connection to a destination broke");
                }
            }
        }
    };
    tokio::spawn(going.in_current_span());
    Ok(sender)
}
