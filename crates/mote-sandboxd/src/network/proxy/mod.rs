//! Takes every TCP connection of a sandbox, decides what may become of it, and carries it out.
//!
//! It does not resolve names and it never dials an address that it was not asked for: what a client connected to is what
//! is dialled, once the name in its first bytes is allowed and was told that address.

mod exchange;
mod hello;
mod refusal;
mod splice;
mod stream;
mod taped;
mod upstream;

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::Instrument as _;

use self::exchange::{Exchanges, Scheme};
use self::hello::{Beginning, Hello, Opening};
use self::stream::Rewound;
use super::boundary::{Active, Boundary, Entry, Held, subject};
use super::decision::{Kind, Reason};
use super::name::Name;
use super::policy::Treatment;
use crate::limits::{EGRESS_BUFFER_BYTES, EGRESS_SILENCE, EGRESS_SNIFF_TIMEOUT};

/// Pause after a connection could not be accepted: descriptors may be short.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Ports where a destination allowed by name has to be HTTP or TLS: many names share one address there, and only the first
/// bytes tell which is meant.
const WEB_PORTS: [u16; 7] = [80, 443, 8000, 8008, 8080, 8443, 8888];
/// A fatal alert of TLS, `access_denied`: so that a client says what happened (RFC 8446, section 6).
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Accepts connections until the boundary ends.
pub(super) async fn serve(boundary: Arc<Boundary>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = boundary.ended.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, _)) => {
                // Whatever is logged of it is this sandbox's, and bounded as such.
                let span = boundary.log.span();
                tokio::spawn(take(boundary.clone(), client).instrument(span));
            }
            Err(error) => {
                let sandbox = boundary.log.sandbox();
                tracing::warn!(sandbox, error = %error, "failed to accept a connection of a sandbox");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn take(boundary: Arc<Boundary>, client: TcpStream) {
    let Some(to) = destination(&client) else {
        boundary.deny(Kind::Tcp, Reason::NotRedirected, super::decision::Subject::default());
        return reset(client);
    };
    let entry = match boundary.enter(to) {
        Ok(entry) => Arc::new(entry),
        Err(reason) => {
            boundary.deny(Kind::Tcp, reason, subject(to, None));
            return reset(client);
        }
    };
    let _ = client.set_nodelay(true);
    let cut = entry.cut().clone();
    let connection = Connection { boundary, entry, to };
    tokio::select! {
        () = cut.cancelled() => {}
        () = connection.run(client) => {}
    }
}

/// Where the client wanted to go, before it was redirected; `None` where it was not.
fn destination(client: &TcpStream) -> Option<SocketAddrV4> {
    let original = rustix::net::sockopt::ip_original_dst(client).ok()?;
    match client.local_addr() {
        Ok(SocketAddr::V4(local)) if local != original => Some(original),
        Ok(_) | Err(_) => None,
    }
}

/// Ends a connection at once: the client sees that it was refused, rather than an orderly end.
fn reset(client: TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO));
    drop(client);
}

/// One connection of a sandbox.
struct Connection {
    boundary: Arc<Boundary>,
    entry: Arc<Entry>,
    to: SocketAddrV4,
}

impl Connection {
    async fn run(self, mut client: TcpStream) {
        let active = self.boundary.active();
        if active.rules.replays().is_some() {
            return self.replay(client).await;
        }
        let names = self.boundary.names(*self.to.ip());
        if let Err(reason) = active.rules.could_allow(IpAddr::V4(*self.to.ip()), self.to.port(), &names) {
            self.deny(Kind::Tcp, reason, None);
            return reset(client);
        }
        let mut beginning = Beginning::default();
        let web = WEB_PORTS.contains(&self.to.port()) && self.boundary.judge(&active, self.to, None).is_err();
        let silence = if web { EGRESS_SNIFF_TIMEOUT } else { EGRESS_SILENCE };
        let opening = match timeout(silence, opening(&mut beginning, &mut client)).await {
            Ok(opening) => opening,
            Err(_) if web => {
                self.deny(Kind::Tcp, Reason::Protocol, None);
                return reset(client);
            }
            Err(_) => match self.wait(&names, &mut beginning, client).await {
                Some((opening, waiting)) => {
                    client = waiting;
                    opening
                }
                None => return,
            },
        };
        // The client took its time, and the policy may be another now: each of these asks for the one that holds.
        match opening {
            None => {}
            Some(Opening::Tls(hello)) => self.tls(hello, beginning, client).await,
            Some(Opening::Http) => {
                let client = Rewound::new(beginning.into_bytes(), client);
                Exchanges::new(self.boundary, self.entry, self.to, Scheme::Http).serve(client).await;
            }
            // The name in HTTP/2 cannot be checked without speaking it: only rules over addresses let it pass.
            Some(Opening::Http2) => self.other(&[], beginning, client).await,
            Some(Opening::Other) => self.other(&names, beginning, client).await,
            Some(Opening::Malformed) => {
                self.deny(Kind::Tcp, Reason::Malformed, None);
                reset(client);
            }
        }
    }

    /// The client is silent: its destination may be the one to speak first. Dials, and waits for either. `None` where the
    /// connection has been carried out to its end.
    async fn wait(
        &self,
        names: &[Name],
        beginning: &mut Beginning,
        mut client: TcpStream,
    ) -> Option<(Option<Opening>, TcpStream)> {
        if self.judge_other(&self.boundary.active(), names).is_err() {
            // Nothing that does not name its host may pass: then it is for the client to speak.
            let known = timeout(EGRESS_SNIFF_TIMEOUT, opening(beginning, &mut client)).await;
            return known.ok().map(|known| (known, client));
        }
        let Some(mut destination) = self.dial(None).await else {
            reset(client);
            return None;
        };
        let mut greeting = vec![0; EGRESS_BUFFER_BYTES];
        tokio::select! {
            known = opening(beginning, &mut client) => return Some((known, client)),
            read = destination.read(&mut greeting) => match read {
                Ok(1..) if beginning.is_empty() => greeting.truncate(read.unwrap_or_default()),
                // The end, or an answer to half a beginning.
                Ok(_) | Err(_) => return None,
            },
        }
        if let Err(reason) = self.settle_other(names) {
            self.deny(Kind::Tcp, reason, None);
            reset(client);
            return None;
        }
        self.allow(Kind::Tcp, None);
        let (mut client_reads, client_writes) = client.into_split();
        let (destination_reads, destination_writes) = tokio::io::split(destination);
        let up = async {
            let mut beginning = Beginning::default();
            match opening(&mut beginning, &mut client_reads).await {
                Some(Opening::Other) | None => {}
                // A server that speaks first speaks neither TLS nor HTTP: this is an attempt to get around the check.
                Some(_) => {
                    self.deny(Kind::Tcp, Reason::Protocol, None);
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
            }
            splice::one_way(client_reads, destination_writes, &beginning.into_bytes()).await
        };
        let down = splice::one_way(destination_reads, client_writes, &greeting);
        let _ = tokio::try_join!(up, down);
        None
    }

    async fn tls(self, hello: Hello, beginning: Beginning, mut client: TcpStream) {
        let name = hello.name.as_ref();
        let settled = self.boundary.settle(&self.entry, |active| {
            let treatment = self.boundary.judge(active, self.to, name).map_err(|reason| match (name, reason) {
                (None, Reason::NoRule) => Reason::NoName,
                (_, reason) => reason,
            })?;
            let spliced = !treatment.terminates();
            let hidden = hello.encrypted && spliced;
            if hidden && !treatment.any_name {
                return Err(Reason::EncryptedHello);
            }
            Ok((treatment, Held { name: hello.name.clone(), spliced, hidden }))
        });
        let treatment = match settled {
            Ok((_, treatment)) => treatment,
            Err(reason) => {
                self.deny(Kind::Tls, reason, name);
                let _ = client.write_all(&ACCESS_DENIED).await;
                let _ = client.shutdown().await;
                return;
            }
        };
        self.allow(Kind::Tls, name);
        if treatment.terminates() {
            return self.terminate(hello.name, beginning, client).await;
        }
        let Some(destination) = self.dial(name).await else { return reset(client) };
        let _ = splice::both_ways(client, destination, &beginning.into_bytes()).await;
    }

    /// Ends the client's TLS here, with a leaf of the daemon's authority, and serves the HTTP inside.
    async fn terminate(self, name: Option<Name>, beginning: Beginning, client: TcpStream) {
        let host = name.as_ref().map_or_else(|| self.to.ip().to_string(), ToString::to_string);
        let config = match self.boundary.shared.authority.server(&host) {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(error = %error, host, "failed to terminate TLS");
                return reset(client);
            }
        };
        let client = Rewound::new(beginning.into_bytes(), client);
        let accepting = tokio_rustls::TlsAcceptor::from(config).accept(client);
        match timeout(EGRESS_SNIFF_TIMEOUT, accepting).await {
            Ok(Ok(client)) => {
                Exchanges::new(self.boundary, self.entry, self.to, Scheme::Https(name)).serve(client).await;
            }
            // Most often a client that does not trust the authority.
            Ok(Err(error)) => tracing::debug!(error = %error, host, "a client inside ended its TLS handshake"),
            Err(_) => {}
        }
    }

    async fn other(self, names: &[Name], beginning: Beginning, client: TcpStream) {
        let name = match self.settle_other(names) {
            Ok(name) => name,
            Err(reason) => {
                self.deny(Kind::Tcp, reason, None);
                return reset(client);
            }
        };
        self.allow(Kind::Tcp, name.as_ref());
        let Some(destination) = self.dial(name.as_ref()).await else { return reset(client) };
        let _ = splice::both_ways(client, destination, &beginning.into_bytes()).await;
    }

    /// [`Self::judge_other`], for a connection whose bytes pass unread from now on.
    fn settle_other(&self, names: &[Name]) -> Result<Option<Name>, Reason> {
        let settled = self.boundary.settle(&self.entry, |active| {
            let name = self.judge_other(active, names)?;
            Ok((name.clone(), Held { name, spliced: true, hidden: false }))
        });
        settled.map(|(_, name)| name)
    }

    /// Decides about a protocol that names no host: by a rule over addresses, or, on a port that is not the web's, for a
    /// name that the address was told for. Answers that name.
    fn judge_other(&self, active: &Active, names: &[Name]) -> Result<Option<Name>, Reason> {
        let passes = |treatment: Treatment| if treatment.inspect { Err(Reason::Protocol) } else { Ok(()) };
        let mut reason = match self.boundary.judge(active, self.to, None).and_then(passes) {
            Ok(()) => return Ok(None),
            Err(reason) => reason,
        };
        if reason == Reason::NoRule && WEB_PORTS.contains(&self.to.port()) {
            return Err(Reason::Protocol);
        }
        for name in names {
            match self.boundary.judge(active, self.to, Some(name)).and_then(passes) {
                Ok(()) => return Ok(Some(name.clone())),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    /// Answers from the tape: nothing is dialled, whatever the client says.
    async fn replay(self, mut client: TcpStream) {
        let mut beginning = Beginning::default();
        match timeout(EGRESS_SNIFF_TIMEOUT, opening(&mut beginning, &mut client)).await {
            Ok(Some(Opening::Tls(hello))) => self.terminate(hello.name, beginning, client).await,
            Ok(Some(Opening::Http)) => {
                let client = Rewound::new(beginning.into_bytes(), client);
                Exchanges::new(self.boundary, self.entry, self.to, Scheme::Http).serve(client).await;
            }
            Ok(None) => {}
            Ok(Some(Opening::Http2 | Opening::Other | Opening::Malformed)) | Err(_) => {
                self.deny(Kind::Tcp, Reason::NotOnTape, None);
                reset(client);
            }
        }
    }

    async fn dial(&self, name: Option<&Name>) -> Option<upstream::Dialled> {
        match upstream::dial(self.to, &self.boundary.meter).await {
            Ok(destination) => Some(destination),
            Err(error) => {
                tracing::debug!(error = %error, to = %self.to, "failed to reach a destination");
                self.deny(Kind::Tcp, Reason::Unreachable, name);
                None
            }
        }
    }

    fn allow(&self, kind: Kind, name: Option<&Name>) {
        self.boundary.allow(kind, Reason::Rule, subject(self.to, name));
    }

    fn deny(&self, kind: Kind, reason: Reason, name: Option<&Name>) {
        self.boundary.deny(kind, reason, subject(self.to, name));
    }
}

/// Reads until it is certain what the connection is; `None` where the client is done before. What was read stays in
/// `beginning`, also where this is given up half way.
async fn opening(beginning: &mut Beginning, client: &mut (impl AsyncRead + Unpin)) -> Option<Opening> {
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => {
                if let Some(opening) = beginning.push(&buffer[..count]) {
                    return Some(opening);
                }
            }
        }
    }
}
