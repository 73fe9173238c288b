//! Previews: HTTP to a port inside, by the host `PORT-ID.DOMAIN` or by the path `/v1/sandboxes/{id}/ports/{port}/…`.
//!
//! The connection goes through the guest's `Dial`: nothing of the sandbox's network is reachable otherwise. It passes
//! WebSockets and other upgrades through; it changes no body. Whether a port may be reached is the policy's matter.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use mote_sandbox_api::error::{Code, Failure};

use super::Api;
use super::access::{Holder, presented};
use super::failure::Refusal;
use super::observe::Route;
use crate::guest::Guest;

/// Header with the sandbox's traffic token, where its policy asks for one.
pub const TOKEN_HEADER: &str = "x-traffic-token";

/// Headers of one connection, not of the message (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"];

/// Requests whose host is a preview's go inside before any route is looked at.
pub fn layer(router: Router, api: &Api) -> Router {
    let outer = Router::new().fallback_service(router);
    outer.layer(from_fn_with_state(api.clone(), by_host))
}

async fn by_host(State(api): State<Api>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(|host| target(host, &api.domain)) {
        Some((port, id)) => {
            let answer = preview(&api, &id, port, request).await;
            let mut answer = answer.unwrap_or_else(|failure| Refusal(failure).into_response());
            answer.extensions_mut().insert(Route("preview"));
            answer
        }
        None => next.run(request).await,
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
    request.headers_mut().remove("x-api-key");
    request.headers_mut().remove(header::AUTHORIZATION);
    preview(api, id, port, request).await
}

/// Passes a request on to a port inside, and its answer back.
///
/// # Errors
/// `not_found`, `gone`, `illegal_transition`; `forbidden` by policy; `not_found` where nothing listens on the port.
pub async fn preview(api: &Api, id: &str, port: u16, mut request: Request) -> Result<Response, Failure> {
    let token = request.headers().get(TOKEN_HEADER).and_then(|token| token.to_str().ok());
    let token = token.is_some_and(|token| api.sandboxes.store().vault().is_token("traffic", id, token));
    api.sandboxes.get(id)?;
    let guest = api.sandboxes.awake(id).await?;
    api.network.ingress(id, port, token)?;
    request.headers_mut().remove(TOKEN_HEADER);
    pass(&guest, port, request).await
}

async fn pass(guest: &Guest, port: u16, mut request: Request) -> Result<Response, Failure> {
    let broken = |error: hyper::Error| {
        Failure::new(Code::NotFound, format!("port {port} of the sandbox does not speak HTTP: {error}"))
            .with("port", port)
    };
    let stream = guest.dial(port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().handshake::<_, Body>(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection.with_upgrades());
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let incoming = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    clean(request.headers_mut(), upgrade.as_ref());
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let mut response = sender.send_request(request).await.map_err(broken)?;
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
    let name = api.keys.holder(key).await?.ok_or_else(unknown)?;
    Ok(Holder { name })
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
