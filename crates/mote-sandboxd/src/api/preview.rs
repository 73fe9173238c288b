//! Previews: HTTP to a port inside, by the host `PORT-ID.DOMAIN` or by the path `/v1/sandboxes/{id}/ports/{port}/…`.
//!
//! The connection goes through the guest's `Dial`: nothing of the sandbox's network is reachable otherwise. It passes
//! WebSockets and other upgrades through; it changes no body. Whether a port may be reached is the policy's matter, and is
//! decided before the sandbox is woken. Requests by host name come in through `e2b::gateway`, which reads the host with
//! [`target`].

mod inner;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mote_sandbox_api::error::{Code, Failure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::inner::Hop;
use super::Api;
use super::access::{Holder, key_of, presented};
use crate::guest::Guest;
use crate::limits::PREVIEW_CONNECTIONS_MAX;
use crate::state::{Scope, State};

/// Header with the sandbox's traffic token, where its policy asks for one.
pub const TOKEN_HEADER: &str = "x-traffic-token";

/// Headers of one connection, not of the message (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"];

/// Connections into sandboxes that previews hold, so that none takes a sandbox's processes for itself; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<HashMap<String, Weak<Semaphore>>>>);

impl Connections {
    /// One more connection into a sandbox, until what is answered is dropped.
    ///
    /// # Errors
    /// `exhausted` where there are [`PREVIEW_CONNECTIONS_MAX`] already.
    fn enter(&self, id: &str) -> Result<OwnedSemaphorePermit, Failure> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = known.get(id).and_then(Weak::upgrade).unwrap_or_else(|| {
            known.retain(|_, places| places.strong_count() > 0);
            let places = Arc::new(Semaphore::new(PREVIEW_CONNECTIONS_MAX));
            known.insert(id.to_owned(), Arc::downgrade(&places));
            places
        });
        places.try_acquire_owned().map_err(|_| {
            let message = format!("previews of sandbox {id} hold {PREVIEW_CONNECTIONS_MAX} connections already");
            Failure::new(Code::Exhausted, message).with("limit", PREVIEW_CONNECTIONS_MAX).with("retry_after_s", 1)
        })
    }
}

/// The port and the sandbox that a host names: `3000-sb….DOMAIN[:PORT]`.
#[must_use]
pub fn target(host: &str, domain: &str) -> Option<(u16, String)> {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).to_ascii_lowercase();
    let label = name.strip_suffix(&domain.to_ascii_lowercase())?.strip_suffix('.')?;
    let (port, id) = label.split_once('-')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!id.is_empty() && !id.contains('.')).then(|| (port, id.to_owned()))
}

/// A preview by path: for callers that cannot use names. They hold an API key.
pub(super) async fn by_path(
    api: &Api,
    id: &str,
    port: u16,
    rest: &str,
    mut request: Request,
) -> Result<Response, Failure> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path: PathAndQuery = format!("/{rest}{query}").parse().map_err(|error| Failure::invalid("path", error))?;
    *request.uri_mut() = Uri::from(path);
    // The caller's key is for the daemon: what runs inside must not see it.
    for name in [header::AUTHORIZATION, HeaderName::from_static("x-api-key")] {
        request.headers_mut().remove(name);
    }
    // Who holds a key has every token.
    let token = HeaderValue::try_from(api.sandboxes.traffic_token(id));
    request.headers_mut().extend(token.ok().map(|token| (HeaderName::from_static(TOKEN_HEADER), token)));
    preview(api, id, port, request).await
}

/// Passes a request on to a port inside, and its answer back.
///
/// # Errors
/// `forbidden` by policy, whatever state the sandbox is in; `not_found`, `gone`, `illegal_transition`; `exhausted` where
/// previews hold too many connections; `not_found` where nothing listens on the port.
pub async fn preview(api: &Api, id: &str, port: u16, mut request: Request) -> Result<Response, Failure> {
    let proven = proven(api, id, request.headers_mut()).await?;
    // By what is recorded: who may not pass does not wake it.
    let policy = api.sandboxes.network_policy(id)?;
    api.network.ingress(id, policy.as_ref(), port, proven)?;
    let permit = api.previews.enter(id)?;
    let guest = api.sandboxes.awake(id).await?;
    pass(&guest, port, &Hop::new(policy.as_ref(), port), request, permit).await
}

/// Whether a request shows that it may reach what is not open to everybody: by the sandbox's traffic or access token, or by an
/// API key. These are the daemon's, and are taken out: what runs inside must not see them. A key or token of its own stays.
async fn proven(api: &Api, id: &str, headers: &mut HeaderMap) -> Result<bool, Failure> {
    let vault = api.sandboxes.store().vault();
    let mut proven = false;
    for (name, purpose) in [(TOKEN_HEADER, "traffic"), ("x-access-token", "access")] {
        let is_token = |value: &HeaderValue| value.to_str().is_ok_and(|token| vault.is_token(purpose, id, token));
        if name == TOKEN_HEADER || headers.get(name).is_some_and(is_token) {
            proven |= headers.remove(name).is_some_and(|value| is_token(&value));
        }
    }
    for name in [HeaderName::from_static("x-api-key"), header::AUTHORIZATION] {
        if let Some(key) = key_of(headers, &name).filter(|key| State::is_key(key))
            && let Some(holder) = api.keys.holder(key).await?
        {
            headers.remove(&name);
            proven |= holder.may(Scope::Sandbox).is_ok();
        }
    }
    Ok(proven)
}

/// Begins HTTP with a port inside, for one request. Names of headers have capitals there, as most proxies write them: not every
/// server reads them otherwise.
async fn connected(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    port: u16,
    held: Arc<OwnedSemaphorePermit>,
) -> Result<SendRequest<Body>, Failure> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(|error| broken(port, &error))?;
    tokio::spawn(async move {
        // What ends it is told by the answer, or by its body.
        let _ = connection.with_upgrades().await;
        drop(held);
    });
    Ok(sender)
}

fn broken(port: u16, error: &hyper::Error) -> Failure {
    Failure::new(Code::NotFound, format!("port {port} of the sandbox does not speak HTTP: {error}")).with("port", port)
}

async fn pass(
    guest: &Guest,
    port: u16,
    hop: &Hop,
    mut request: Request,
    permit: OwnedSemaphorePermit,
) -> Result<Response, Failure> {
    let permit = Arc::new(permit);
    let stream = guest.dial(port).await?;
    let mut sender = if hop.tls {
        connected(inner::secured(stream, port).await?, port, Arc::clone(&permit)).await?
    } else {
        connected(stream, port, Arc::clone(&permit)).await?
    };
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let incoming = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    clean(request.headers_mut(), upgrade.as_ref());
    hop.mask(request.headers_mut());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let mut response = sender.send_request(request).await.map_err(|error| broken(port, &error))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(incoming) = incoming
    {
        let outgoing = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(incoming), Ok(outgoing)) = tokio::join!(incoming, outgoing) {
                let (mut incoming, mut outgoing) = (TokioIo::new(incoming), TokioIo::new(outgoing));
                // Either side may end it; there is nobody to tell.
                let _ = tokio::io::copy_bidirectional(&mut incoming, &mut outgoing).await;
            }
            drop(permit);
        });
        return Ok(response.map(|_| Body::empty()));
    }
    clean(response.headers_mut(), None);
    Ok(response.map(Body::new))
}

/// Takes out what belongs to one connection; an upgrade is said anew.
fn clean(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
}

/// Whoever holds an API key may use previews by path.
pub(super) async fn holder(api: &Api, headers: &HeaderMap) -> Result<Holder, Failure> {
    let unknown = || Failure::new(Code::Unauthenticated, "the request carries no API key that is known");
    let key = presented(headers).ok_or_else(unknown)?;
    let holder = api.keys.holder(key).await?.ok_or_else(unknown)?;
    holder.may(Scope::Sandbox)?;
    Ok(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, expected: Option<(u16, &str)>) {
        let found = target(host, "sandbox.localhost");
        assert_eq!(found.as_ref().map(|(port, id)| (*port, id.as_str())), expected, "{host}");
    }

    #[test]
    fn a_host_names_a_port_and_a_sandbox() {
        check("3000-sbabc.sandbox.localhost", Some((3000, "sbabc")));
        check("3000-SBABC.Sandbox.Localhost:7070", Some((3000, "sbabc")));
        check("sbabc.sandbox.localhost", None);
        check("0-sbabc.sandbox.localhost", None);
        check("99999-sbabc.sandbox.localhost", None);
        check("3000-a.b.sandbox.localhost", None);
        check("3000-sbabc.other.localhost", None);
        check("sandbox.localhost", None);
        check("127.0.0.1:7070", None);
    }

    #[test]
    fn previews_of_one_sandbox_are_bounded_and_those_of_another_are_not() {
        let connections = Connections::default();
        let mut held: Vec<_> = (0..PREVIEW_CONNECTIONS_MAX).map(|_| connections.enter("sb1").unwrap()).collect();
        assert_eq!(connections.enter("sb1").unwrap_err().code, Code::Exhausted);
        assert!(connections.enter("sb2").is_ok());
        held.pop();
        assert!(connections.enter("sb1").is_ok());
        drop(held);
        drop(connections.enter("sb3"));
        assert!(connections.0.lock().unwrap().len() <= 2, "those that nobody holds are forgotten");
    }

    #[test]
    fn what_belongs_to_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", "close, x-mine".parse().unwrap());
        headers.insert("x-mine", "1".parse().unwrap());
        headers.insert("te", "trailers".parse().unwrap());
        headers.insert("accept", "*/*".parse().unwrap());
        clean(&mut headers, None);
        assert_eq!(headers.len(), 1);
    }
}
