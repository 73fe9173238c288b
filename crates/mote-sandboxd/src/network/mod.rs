//! The network boundary: what a sandbox may reach, how it is held to that, and what it is told.
//!
//! It does not make namespaces (`namespace` does) and it never trusts a name or an address that comes from inside.
//! `docs/sandbox-network.md` says what is enforced where, and what is not.

pub mod address;
pub mod authority;
mod boundary;
pub mod decision;
pub mod dns;
mod echo;
pub mod keeper;
pub mod meter;
pub mod name;
mod netlink;
pub mod policy;
mod proxy;
pub mod resolve;
mod room;
pub mod ruleset;
pub mod secret;
pub mod tape;
pub mod told;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::network::Policy;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, UdpSocket};

use self::authority::Authority;
use self::boundary::{Active, Boundary};
use self::decision::{Decision, Kind, Refusals, Subject};
use self::policy::Compiled;
use self::resolve::{Resolver, Upstream};
use self::room::Room;
use self::secret::{Secrets, Vault};
use self::tape::{Tape, Tapes};
use crate::descriptor::Shares;
use crate::limits::TAPING_BYTES_ALL_MAX;
use crate::room::Room as Memory;

/// The time, milliseconds since the epoch.
pub type NowMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the boundary is set up with.
pub struct Settings {
    /// Directory for the authority and the tapes, the daemon's own.
    pub directory: PathBuf,
    /// Who resolves names.
    pub resolver: Upstream,
    /// Authorities that destinations may have beside Mozilla's, where TLS is terminated.
    pub roots: Vec<CertificateDer<'static>>,
    /// Whoever keeps the secrets.
    pub vault: Arc<dyn Vault>,
    /// The time.
    pub now_ms: NowMs,
}

/// The daemon's sockets inside a sandbox, as the keeper made them ([`keeper::sockets`]).
#[derive(Debug)]
pub struct Sockets {
    /// Listener that every TCP connection is redirected to.
    pub tcp: OwnedFd,
    /// Socket that every DNS datagram is redirected to.
    pub dns_udp: OwnedFd,
    /// Listener that DNS over TCP is redirected to.
    pub dns_tcp: OwnedFd,
}

impl TryFrom<Vec<OwnedFd>> for Sockets {
    type Error = Failure;

    fn try_from(descriptors: Vec<OwnedFd>) -> Result<Self, Failure> {
        let [tcp, dns_udp, dns_tcp] = <[OwnedFd; 3]>::try_from(descriptors).map_err(|wrong| {
            Failure::new(Code::Internal, format!("{} descriptors came for a sandbox's network, not 3", wrong.len()))
        })?;
        Ok(Self { tcp, dns_udp, dns_tcp })
    }
}

/// What a sandbox has used of the network since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Bytes sent to destinations.
    pub sent_bytes: u64,
    /// Bytes received from destinations.
    pub received_bytes: u64,
    /// Connections open now.
    pub connections: u64,
    /// Decisions that allowed.
    pub allowed: u64,
    /// Decisions that denied.
    pub denied: u64,
}

/// What every boundary of the daemon shares.
pub(crate) struct Shared {
    resolver: Resolver,
    authority: Authority,
    tls: Arc<ClientConfig>,
    vault: Arc<dyn Vault>,
    tapes: Tapes,
    now_ms: NowMs,
    refusals: Refusals,
    /// Connections of every sandbox.
    room: Room,
    /// Questions of every sandbox that the resolver is at.
    lookups: Room,
    /// Exchanges of every sandbox that are held for tapes.
    taping: Arc<Memory>,
}

impl Shared {
    /// Counts a refusal.
    fn refused(&self, kind: Kind, reason: decision::Reason) {
        self.refusals.get_or_create(&decision::RefusalLabel { kind, reason }).inc();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}

/// The boundaries of every sandbox; clones share them.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Shared>,
    boundaries: Arc<Mutex<HashMap<String, Arc<Boundary>>>>,
    /// Held while values of secrets are asked for and put in place, so that an older one never follows a newer one.
    revealing: Arc<Mutex<()>>,
}

impl Network {
    /// Opens the authority, and sets up what boundaries share.
    ///
    /// # Errors
    /// Where the directory cannot be used, or a root is no certificate.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let failed = |error: &dyn fmt::Display| Failure::new(Code::Internal, format!("failed to set up TLS: {error}"));
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in settings.roots {
            roots.add(root).map_err(|error| failed(&error))?;
        }
        let mut tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let shares = Shares::now();
        let shared = Shared {
            resolver: Resolver::new(settings.resolver),
            authority: Authority::open(&settings.directory, provider)?,
            tls: Arc::new(tls),
            vault: settings.vault,
            tapes: Tapes::new(settings.directory.join("tapes")),
            now_ms: settings.now_ms,
            refusals: Refusals::default(),
            room: Room::new(shares.egress),
            lookups: Room::new(shares.lookups),
            taping: Memory::new(TAPING_BYTES_ALL_MAX),
        };
        Ok(Self { shared: Arc::new(shared), boundaries: Arc::default(), revealing: Arc::default() })
    }

    /// The certificate of the daemon's authority, as PEM: an image that is to reach inspected hosts trusts it.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.shared.authority.certificate()
    }

    /// Serves a sandbox's sockets under a policy. Of a secret that is not there (any more) the placeholder is sent as it is.
    ///
    /// # Errors
    /// `invalid` where the policy is not sound, naming the field; `not_found` for a tape that is not there; `conflict` where
    /// the sandbox is attached already.
    pub async fn attach(&self, sandbox: &str, sockets: Sockets, policy: &Policy) -> Result<(), Failure> {
        let (rules, tape) = self.prepared(policy).await?;
        let failed = |error: std::io::Error| {
            Failure::new(Code::Internal, format!("failed to serve the network of sandbox {sandbox}: {error}"))
        };
        let listener = |descriptor: OwnedFd| {
            let listener = std::net::TcpListener::from(descriptor);
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let tcp = listener(sockets.tcp).map_err(failed)?;
        let dns_tcp = listener(sockets.dns_tcp).map_err(failed)?;
        let dns_udp = std::net::UdpSocket::from(sockets.dns_udp);
        dns_udp.set_nonblocking(true).map_err(failed)?;
        let dns_udp = UdpSocket::from_std(dns_udp).map_err(failed)?;
        let boundary = {
            let _revealing = self.revealing();
            let secrets = self.reveal(sandbox, &rules);
            let active = Active { rules, secrets, tape };
            let boundary = Arc::new(Boundary::new(sandbox, active, self.shared.clone()));
            let mut boundaries = self.boundaries();
            if boundaries.contains_key(sandbox) {
                return Err(Failure::new(
                    Code::Conflict,
                    format!("the network of sandbox {sandbox} is served already"),
                ));
            }
            boundaries.insert(sandbox.to_owned(), boundary.clone());
            boundary
        };
        tokio::spawn(proxy::serve(boundary.clone(), tcp));
        tokio::spawn(dns::serve_udp(boundary.clone(), dns_udp));
        tokio::spawn(dns::serve_tcp(boundary, dns_tcp));
        Ok(())
    }

    /// Puts another policy in place. What it does not allow is cut; what it allows goes on undisturbed.
    ///
    /// # Errors
    /// As [`Self::attach`]; `not_found` where the sandbox is not attached. The policy before stays in place then.
    pub async fn update(&self, sandbox: &str, policy: &Policy) -> Result<(), Failure> {
        let boundary = self.boundary(sandbox)?;
        let (rules, tape) = self.prepared(policy).await?;
        let _revealing = self.revealing();
        let secrets = self.reveal(sandbox, &rules);
        boundary.change(Active { rules, secrets, tape });
        Ok(())
    }

    /// A secret was set or removed: sandboxes that have it bound use its new value from now on, or none. Exchanges under way
    /// end as they began.
    pub fn renew(&self, secret: &str) {
        let _revealing = self.revealing();
        let boundaries: Vec<_> =
            self.boundaries().iter().map(|(id, boundary)| (id.clone(), boundary.clone())).collect();
        for (sandbox, boundary) in boundaries {
            let active = boundary.active();
            if active.rules.bindings().iter().any(|binding| binding.secret == secret) {
                boundary.renew(self.reveal(&sandbox, &active.rules));
            }
        }
    }

    /// Ends a sandbox's boundary: its connections are cut, its sockets closed. Nothing happens where it is not attached.
    pub fn detach(&self, sandbox: &str) {
        if let Some(boundary) = self.boundaries().remove(sandbox) {
            boundary.ended.cancel();
        }
    }

    /// Whether a policy is sound and every secret that it binds is there, without putting it in place.
    ///
    /// # Errors
    /// `invalid`, naming the field.
    pub fn check(&self, sandbox: &str, policy: &Policy) -> Result<(), Failure> {
        let rules = Compiled::new(policy)?;
        policy::check_references(policy)?;
        self.reveal(sandbox, &rules).complete()
    }

    /// What stands in a sandbox's environment for the secrets that a policy binds.
    #[must_use]
    pub fn placeholders(&self, sandbox: &str, policy: &Policy) -> BTreeMap<String, String> {
        let key = self.shared.authority.placeholders();
        let of_one = |binding: &mote_sandbox_api::network::SecretBinding| {
            (binding.env.clone(), secret::placeholder(key, sandbox, &binding.secret))
        };
        policy.secrets.iter().map(of_one).collect()
    }

    /// What a sandbox has used; `None` where it is not attached.
    #[must_use]
    pub fn usage(&self, sandbox: &str) -> Option<Usage> {
        let boundary = self.boundaries().get(sandbox).cloned()?;
        let (allowed, denied) = boundary.log.counts();
        Some(Usage {
            sent_bytes: boundary.meter.sent.load(Ordering::Relaxed),
            received_bytes: boundary.meter.received.load(Ordering::Relaxed),
            connections: boundary.open() as u64,
            allowed,
            denied,
        })
    }

    /// What was refused to sandboxes, by kind and reason, since the daemon started.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.shared.refusals
    }

    /// The decisions about a sandbox that are kept and are newer than a number, oldest first.
    ///
    /// # Errors
    /// `not_found` where the sandbox is not attached.
    pub fn decisions(&self, sandbox: &str, after: u64) -> Result<Vec<Decision>, Failure> {
        Ok(self.boundary(sandbox)?.log.after(after))
    }

    /// Whether a preview may reach a port inside: by the policy that is recorded for the sandbox, so that it need not be awake
    /// for this. `proven` as in [`policy::admits`].
    ///
    /// # Errors
    /// `forbidden`, with the reason.
    pub fn ingress(&self, sandbox: &str, policy: Option<&Policy>, port: u16, proven: bool) -> Result<(), Failure> {
        let boundary = self.boundaries().get(sandbox).cloned();
        let subject = Subject { port: Some(port), ..Subject::default() };
        match policy::admits(policy, port, proven) {
            Ok(()) => {
                if let Some(boundary) = boundary {
                    boundary.allow(Kind::Ingress, decision::Reason::Rule, subject);
                }
                Ok(())
            }
            Err(reason) => {
                match boundary {
                    Some(boundary) => boundary.deny(Kind::Ingress, reason, subject),
                    None => self.shared.refused(Kind::Ingress, reason),
                }
                Err(Failure::new(
                    Code::Forbidden,
                    format!("port {port} of the sandbox is not open to previews: {reason}"),
                )
                .with("reason", reason))
            }
        }
    }

    async fn prepared(&self, policy: &Policy) -> Result<(Compiled, Option<Arc<Tape>>), Failure> {
        let rules = Compiled::new(policy)?;
        let tape = match &rules.tape {
            Some(mode) => Some(Arc::new(self.shared.tapes.open(mode).await?)),
            None => None,
        };
        Ok((rules, tape))
    }

    fn reveal(&self, sandbox: &str, rules: &Compiled) -> Secrets {
        Secrets::reveal(rules, &*self.shared.vault, self.shared.authority.placeholders(), sandbox)
    }

    fn revealing(&self) -> MutexGuard<'_, ()> {
        self.revealing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boundary(&self, sandbox: &str) -> Result<Arc<Boundary>, Failure> {
        let known = self.boundaries().get(sandbox).cloned();
        known.ok_or_else(|| {
            Failure::new(Code::NotFound, format!("sandbox {sandbox} has no network"))
                .with("kind", "network")
                .with("id", sandbox)
        })
    }

    fn boundaries(&self) -> MutexGuard<'_, HashMap<String, Arc<Boundary>>> {
        self.boundaries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
