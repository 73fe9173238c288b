//! HTTP/1.1 between a client inside and its destination: each request judged by its `Host`, whatever the connection
//! carried before; headers set, secrets swapped, exchanges taped.
//!
//! It follows no redirect and keeps no cookie: what a client does with an answer is judged when it does it.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;

use http::header::{CONNECTION, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::refusal::{Body, Refusal};
use super::{splice, upstream};
use crate::limits::{EGRESS_HEAD_BYTES_MAX, EGRESS_HEADERS_MAX};
use crate::network::boundary::{Active, Boundary, Entry, Held, subject};
use crate::network::decision::{Kind, Reason};
use crate::network::name::Name;
use crate::network::policy::Treatment;

/// What a client speaks.
#[derive(Debug)]
pub(super) enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP in TLS that ended here, with the name it was for.
    Https(Option<Name>),
}

/// The exchanges of one connection of a client.
pub(super) struct Exchanges {
    pub(super) boundary: Arc<Boundary>,
    entry: Arc<Entry>,
    to: SocketAddrV4,
    scheme: Scheme,
    /// One connection to the destination, kept while the client keeps its own.
    sender: Mutex<Option<SendRequest<Body>>>,
}

/// Whom a request is for.
pub(super) struct Host {
    /// `None` where it is the address itself.
    pub(super) name: Option<Name>,
    /// As it stands in a URL.
    pub(super) shown: String,
}

/// Headers that concern one connection alone (RFC 9110, section 7.6.1), and what would change the protocol on it.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    EXPECT,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("te"),
    HeaderName::from_static("transfer-encoding"),
];

impl Exchanges {
    pub(super) fn new(boundary: Arc<Boundary>, entry: Arc<Entry>, to: SocketAddrV4, scheme: Scheme) -> Arc<Self> {
        Arc::new(Self { boundary, entry, to, scheme, sender: Mutex::default() })
    }

    /// Serves a client until it is done.
    pub(super) async fn serve(self: Arc<Self>, client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let this = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.exchange(request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .preserve_header_case(true)
            .auto_date_header(false)
            .max_buf_size(EGRESS_HEAD_BYTES_MAX)
            .max_headers(EGRESS_HEADERS_MAX)
            .serve_connection(TokioIo::new(client), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(error = %error, to = %self.to, "a connection of a client inside broke");
        }
    }

    async fn exchange(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let host = match self.host(&parts) {
            Ok(host) => host,
            Err(refusal) => {
                self.boundary.deny(Kind::Http, refusal.reason, subject(self.to, None));
                return refusal.response();
            }
        };
        match self.carry_out(parts, body, &host).await {
            Ok(response) => response,
            Err(refusal) => {
                self.boundary.deny(Kind::Http, refusal.reason, subject(self.to, host.name.as_ref()));
                refusal.response()
            }
        }
    }

    async fn carry_out(&self, mut parts: Parts, body: Incoming, host: &Host) -> Result<Response<Body>, Refusal> {
        let settled = self.boundary.settle(&self.entry, |active| {
            let treatment = match active.rules.replays() {
                Some(_) => Treatment::default(),
                None => self.boundary.judge(active, self.to, host.name.as_ref())?,
            };
            Ok((treatment, Held { name: host.name.clone(), ..Held::default() }))
        });
        let (active, treatment) = settled.map_err(|reason| Refusal::denied(reason, &host.shown))?;
        self.boundary.allow(Kind::Http, Reason::Rule, subject(self.to, host.name.as_ref()));
        let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| is_websocket(&parts.headers));
        end_to_end(&mut parts.headers, upgrade.is_some());
        parts.uri = origin_form(&parts.uri);
        if !parts.headers.contains_key(HOST)
            && let Ok(value) = host.shown.parse()
        {
            parts.headers.insert(HOST, value);
        }
        // What stands in a rule is most often a key: in the clear it goes only where the rule says so.
        let headers = if self.is_secure() { &treatment.headers } else { &treatment.plain_headers };
        for (name, value) in headers {
            parts.headers.insert(name, value.clone());
        }
        if let Some(tape) = &active.tape {
            if upgrade.is_some() {
                return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, Reason::Protocol, "an upgrade cannot be taped"));
            }
            return self.taped(&active, tape, &treatment, (parts, body), host).await;
        }
        let request = self.swapped(&active, &treatment, parts, body, host, upgrade.is_some()).await?;
        let response = self.send(request).await?;
        Ok(self.pass_on(&active, &treatment, response, upgrade))
    }

    /// Sends a request, on the connection that is there or on a new one.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Refusal> {
        let unreachable = |error: hyper::Error| {
            Refusal::new(StatusCode::BAD_GATEWAY, Reason::Unreachable, format!("the destination broke off: {error}"))
        };
        let mut sender = self.sender.lock().await;
        loop {
            let kept = match &mut *sender {
                Some(kept) => !kept.is_closed() && kept.ready().await.is_ok(),
                None => false,
            };
            if !kept {
                *sender = Some(self.connect().await?);
            }
            let Some(current) = &mut *sender else { continue };
            match current.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failed) => {
                    *sender = None;
                    match failed.take_message() {
                        // The destination had closed the connection that was kept: nothing of this request was sent.
                        Some(unsent) if kept => request = unsent,
                        Some(_) | None => return Err(unreachable(failed.into_error())),
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, upstream::Error> {
        let tls = match &self.scheme {
            Scheme::Http => None,
            Scheme::Https(name) => Some((self.boundary.shared.tls.clone(), name.as_ref())),
        };
        upstream::connect(self.to, tls, &self.boundary.meter, self.entry.cut().clone()).await
    }

    /// Passes an answer on; where both sides agreed on another protocol, bytes go both ways from then on.
    fn pass_on(
        &self,
        active: &Arc<Active>,
        treatment: &Treatment,
        mut response: Response<Incoming>,
        upgrade: Option<OnUpgrade>,
    ) -> Response<Body> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched && upgrade.is_none() {
            let detail = "the destination speaks another protocol from here on, which nobody asked for";
            return Refusal::new(StatusCode::BAD_GATEWAY, Reason::Protocol, detail).response();
        }
        if let (true, Some(client)) = (switched, upgrade) {
            let destination = hyper::upgrade::on(&mut response);
            let entry = self.entry.clone();
            tokio::spawn(async move {
                let both = async {
                    let (Ok(client), Ok(destination)) = tokio::join!(client, destination) else { return };
                    let _ = splice::both_ways(TokioIo::new(client), TokioIo::new(destination), &[]).await;
                };
                tokio::select! {
                    () = entry.cut().cancelled() => {}
                    () = both => {}
                }
            });
        }
        let conceals = super::taped::conceals(response.status(), response.headers());
        end_to_end(response.headers_mut(), switched);
        if treatment.secrets && switched {
            super::taped::hide(active, response.headers_mut());
        } else if treatment.secrets {
            return super::taped::hidden(active, response, conceals);
        }
        response.map(|body| body.map_err(Into::into).boxed())
    }

    /// Whom a request is for: one `Host`, that agrees with the target, with the TLS name and with the address.
    fn host(&self, parts: &Parts) -> Result<Host, Refusal> {
        let mismatch = |detail: &str| Refusal::new(StatusCode::MISDIRECTED_REQUEST, Reason::Mismatch, detail);
        if parts.method == Method::CONNECT {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                Reason::Protocol,
                "CONNECT is not for this proxy",
            ));
        }
        let mut hosts = parts.headers.get_all(HOST).iter();
        let header = hosts.next();
        if hosts.next().is_some() {
            return Err(mismatch("more than one Host"));
        }
        let header = match header.map(|value| Authority::try_from(value.as_bytes())) {
            None => None,
            Some(Ok(authority)) if !authority.as_str().contains('@') => Some(authority),
            Some(_) => return Err(mismatch("the Host is not one")),
        };
        if let (Some(target), Some(header)) = (parts.uri.authority(), &header)
            && target != header
        {
            return Err(mismatch("the target and the Host differ"));
        }
        let authority = header.or_else(|| parts.uri.authority().cloned());
        let Some(authority) = authority else {
            let name = match &self.scheme {
                Scheme::Https(name) => name.clone(),
                Scheme::Http => None,
            };
            let shown = name.as_ref().map_or_else(|| self.to.ip().to_string(), ToString::to_string);
            return Ok(Host { name, shown });
        };
        if authority.port().is_some_and(|port| port.as_u16() != self.to.port()) {
            return Err(mismatch("the Host has another port than the connection"));
        }
        let host = authority.host();
        let name = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) if address == IpAddr::V4(*self.to.ip()) => None,
            Ok(_) => return Err(mismatch("the Host is another address than the connection's")),
            Err(_) => Some(Name::parse(host).map_err(|error| mismatch(&format!("the Host is no name: {error}")))?),
        };
        if let Scheme::Https(server) = &self.scheme
            && *server != name
        {
            return Err(mismatch("the Host is another than the name that TLS was set up for"));
        }
        Ok(Host { name, shown: authority.as_str().to_owned() })
    }

    /// The URL of a request, as it stands on a tape.
    pub(super) fn url(&self, host: &Host, uri: &Uri) -> String {
        let (scheme, port) = match self.scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https(_) => ("https", 443),
        };
        let name = host.name.as_ref().map_or_else(|| self.to.ip().to_string(), ToString::to_string);
        let port = if self.to.port() == port { String::new() } else { format!(":{}", self.to.port()) };
        format!("{scheme}://{name}{port}{uri}")
    }

    /// Whether the destination is spoken to over TLS: only then does a secret go there.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https(_))
    }
}

/// The target as a server of the origin wants it: path and query.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path.as_str() == "*" { Uri::from_static("*") } else { Uri::from(path) }
}

/// Whether a request asks for WebSocket: the one upgrade that passes.
fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Removes the headers that concern one connection alone; an upgrade that is agreed on stays.
pub(super) fn end_to_end(headers: &mut HeaderMap, upgrade: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let kept = upgrade.then(|| headers.get(UPGRADE).cloned()).flatten();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if let Some(upgrade) = kept {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    }
}
