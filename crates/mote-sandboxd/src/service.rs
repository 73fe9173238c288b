//! Puts the daemon's parts together and runs them: state, keeper, substrate, recovery, API; and winds them down.
//!
//! It runs without privilege: `main` started the keeper and gave privilege up before the first thread. It decides nothing
//! about sandboxes.

mod templates;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use mote_sandbox_api::capability::Support;
use mote_sandbox_api::error::{Code, Failure};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::access::Keys;
use crate::api::{self, Api};
use crate::clock::{SharedClock, System};
use crate::config::{Config, OnStop};
use crate::filesystem::Filesystem;
use crate::image::workshop::{self, Workshop};
use crate::image::{self, Images};
use crate::keeper::Verb;
use crate::keeper::client::Client;
use crate::lifecycle::container::Container;
use crate::lifecycle::measure::Kept;
use crate::lifecycle::profiles::Profiles;
use crate::lifecycle::{Parts, Recovered, Sandboxes};
use crate::limits::{
    COLLECT_EVERY, CONNECTION_GRACE, KEEPER_PING_EVERY, RECOVERY_SETTLE_TIMEOUT, REMOVE_ALL_TIMEOUT, TLS_RENEW_EVERY,
    VOLUME_BYTES_DEFAULT,
};
use crate::namespace::Containers;
use crate::network::secret::{Value, Vault};
use crate::network::{self, Network};
use crate::state::{self, Scopes, State};
use crate::telemetry::metrics::Metrics;
use crate::template::Templates;
use crate::tls::{Acceptor, Certificates};

/// The daemon's own folder in the state directory: its database, its keys.
pub const FOLDER: &str = "daemon";
/// In that folder, the key that is made at the first start, for the command line to find.
pub const KEY_FILE: &str = "admin.key";
/// Name of that key.
const KEY_NAME: &str = "admin";

/// Why the daemon could not be started or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state cannot be opened.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A part failed.
    #[error("failed to {0}: {1}")]
    Part(&'static str, Failure),
    /// A file or a socket failed.
    #[error("failed to {0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The keeper ended: nothing can be done without it.
    #[error("the keeper is gone")]
    Keeper,
}

impl Error {
    /// What the part that failed says itself.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Part(_, failure) => Some(failure),
            Self::State(_) | Self::Io(..) | Self::Keeper => None,
        }
    }
}

/// What `main` hands over.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// The socket of the keeper.
    pub keeper: OwnedFd,
    /// The listening socket of the API.
    pub listener: std::net::TcpListener,
    /// The API over TLS.
    pub tls: Option<OverTls>,
    /// Authorities that destinations may have beside the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What was given up, by name, for `GET /v1/capabilities`.
    pub confinement: BTreeMap<String, Support>,
}

/// TLS for the API.
#[derive(Debug)]
pub struct OverTls {
    /// The certificate, as it is now.
    pub certificates: Arc<Certificates>,
    /// Where it is served; on [`Start::listener`] where absent.
    pub listener: Option<std::net::TcpListener>,
}

/// The daemon's own folder of a state directory.
#[must_use]
pub fn folder(config: &Config) -> PathBuf {
    config.state.join(FOLDER)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`Error`].
pub async fn run(start: Start) -> Result<(), Error> {
    // Signals first: one that comes while the daemon starts must not be missed.
    let stop = watch_signals().map_err(|error| Error::Io("watch for signals", error))?;
    let Start { config, keeper, listener, tls, confinement, authorities } = start;
    let clock: SharedClock = Arc::new(System);
    let store = State::open(&folder(&config))?;
    let keeper = Client::start(keeper).map_err(|error| Error::Io("reach the keeper", error))?;
    keeper.call(Verb::Ping).await.map_err(|failure| Error::Part("start the keeper", failure))?;
    let network = network(&config, &store, &clock, authorities.clone())?;
    let host = (confinement, authorities.clone());
    let container = container(&keeper, &config, Arc::clone(&clock), network.clone(), host)
        .await
        .map_err(|failure| Error::Part("probe the host", failure))?;
    let images = container.images.clone();
    let sandboxes = Sandboxes::new(Parts {
        substrate: Arc::new(container),
        store: store.clone(),
        clock: Arc::clone(&clock),
        profiles: Profiles::new(&config.image, &config.profiles),
        sandboxes_max: config.sandboxes_max,
        pool: config.pool.clone(),
        import_bytes_max: config.import_max,
    });
    let (recovered, recovery) =
        sandboxes.remember().await.map_err(|failure| Error::Part("recover the sandboxes", failure))?;
    let (settled, settling) = tokio::sync::oneshot::channel();
    // Ends with what it has to do; where the daemon ends before, the next one does it again.
    let recovering = tokio::spawn(async move {
        recovery.complete(settled).await;
        told(recovered);
    });
    // What is half-made or half-ended is seldom seen by anybody: nothing of it needs an answer from inside.
    let _ = tokio::time::timeout(RECOVERY_SETTLE_TIMEOUT, settling).await;
    first_key(&store, &folder(&config), &*clock).await?;
    let closing = CancellationToken::new();
    let templates = templates::open(&config, &keeper, &store, &images, authorities, &sandboxes, &clock).await?;
    let api = Api {
        keys: Arc::new(Keys::new(store)),
        metrics: Arc::new(Metrics::new(&sandboxes, &network)),
        sandboxes: sandboxes.clone(),
        domain: config.domain.as_str().into(),
        images,
        templates: templates.clone(),
        network,
        open_egress_default: config.open_egress_default,
        previews: crate::api::preview::Connections::default(),
        closing: closing.clone(),
    };
    let serving = serve(&api, listener, tls, &keeper, &config)?;
    let timing = tokio::spawn(keep(sandboxes.clone(), Work::Time));
    let collecting = tokio::spawn(keep_collected(api.images.clone(), templates.clone()));
    let warming = tokio::spawn(keep(sandboxes.clone(), Work::Pool));
    let winding = wind_down(&sandboxes, &config, &keeper, stop, closing);
    let ((), wound) = tokio::join!(serving, winding);
    recovering.abort();
    timing.abort();
    collecting.abort();
    templates.close().await;
    warming.abort();
    wound?;
    if config.on_stop == OnStop::Remove
        && tokio::time::timeout(REMOVE_ALL_TIMEOUT, sandboxes.remove_all()).await.is_err()
    {
        tracing::error!("sandboxes are left: they could not be ended in time; the next daemon reaps them");
    }
    tracing::info!("stopped");
    Ok(())
}

fn told(recovered: Recovered) {
    let Recovered { adopted, rested, reaped, strays } = recovered;
    tracing::info!(adopted, rested, reaped, strays, "recovered");
}

/// Serves the API: in the clear, over TLS, or both on addresses of their own.
fn serve(
    api: &Api,
    listener: std::net::TcpListener,
    tls: Option<OverTls>,
    keeper: &Client,
    config: &Config,
) -> Result<impl Future<Output = ()>, Error> {
    let failed = |error| Error::Io("listen", error);
    let watched = |listener: std::net::TcpListener| {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (mut plain, mut secure) = (Some(listener), None);
    if let Some(OverTls { certificates, listener }) = tls {
        let listener = listener.or_else(|| plain.take());
        let acceptor = Acceptor::new(&certificates).map_err(|failure| Error::Part("set up TLS", failure))?;
        secure = listener.map(watched).transpose().map_err(failed)?.map(|socket| (socket, acceptor));
        said(&certificates, &config.domain);
        let hangup = hangup().map_err(|error| Error::Io("watch for signals", error))?;
        let renewing = keep_certificate(keeper.clone(), certificates, config.domain.clone(), hangup);
        tokio::spawn(api.closing.clone().run_until_cancelled_owned(renewing));
    }
    let plain = plain.map(watched).transpose().map_err(failed)?;
    let mut serving: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    let (state, version) = (config.state.display(), env!("CARGO_PKG_VERSION"));
    if let Some((listener, address)) = plain {
        tracing::info!(%address, %state, version, tls = false, "listening");
        serving.push(Box::pin(api::server(api).serve(listener, api.closing.clone(), CONNECTION_GRACE)));
    }
    if let Some(((listener, address), acceptor)) = secure {
        tracing::info!(%address, %state, version, tls = true, "listening");
        let server = api::server_over_tls(api).accepting(acceptor);
        serving.push(Box::pin(server.serve(listener, api.closing.clone(), CONNECTION_GRACE)));
    }
    Ok(async move {
        futures_util::future::join_all(serving).await;
    })
}

fn hangup() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

/// Puts the certificate in place anew when its files change, which SIGHUP has looked at once more.
async fn keep_certificate(
    keeper: Client,
    certificates: Arc<Certificates>,
    domain: String,
    mut hangup: tokio::signal::unix::Signal,
) {
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            () = tokio::time::sleep(TLS_RENEW_EVERY) => {}
        }
        let renewed = match keeper.call(Verb::Certificate).await {
            Ok((_, files)) => certificates.renew(files),
            Err(failure) => Err(failure),
        };
        match renewed {
            Ok(true) => {
                tracing::info!("the certificate was renewed");
                said(&certificates, &domain);
            }
            Ok(false) => {}
            Err(failure) => tracing::warn!(error = %failure, "the certificate stays as it was"),
        }
    }
}

/// Warns where a client that addresses a sandbox by name would refuse the certificate.
fn said(certificates: &Certificates, domain: &str) {
    if !certificates.names(&format!("api.{domain}")) || !certificates.names(&format!("49983-sandbox.{domain}")) {
        tracing::warn!(domain, "the certificate is not for *.{domain}: clients that check it reach no sandbox by name");
    }
}

/// Removes what builds of an earlier daemon left, then what lost its last use, from time to time.
async fn keep_collected(images: Images, templates: Templates) {
    templates.tidy().await;
    loop {
        tokio::time::sleep(COLLECT_EVERY).await;
        match images.collect().await {
            Ok(0) => {}
            Ok(layers) => tracing::info!(layers, "removed layers that nothing uses"),
            Err(failure) => tracing::warn!(error = %failure, "failed to remove what nothing uses; it is tried again"),
        }
    }
}

enum Work {
    Time,
    Pool,
}

async fn keep(sandboxes: Sandboxes, work: Work) {
    match work {
        Work::Time => sandboxes.keep_time().await,
        Work::Pool => sandboxes.keep_warm().await,
    }
}

/// Waits for the signal, or for the end of the keeper; then nothing new is made, and what is under way may finish.
async fn wind_down(
    sandboxes: &Sandboxes,
    config: &Config,
    keeper: &Client,
    stop: CancellationToken,
    closing: CancellationToken,
) -> Result<(), Error> {
    let outcome = tokio::select! {
        () = stop.cancelled() => {
            tracing::info!(sandboxes = ?config.on_stop, "stopping: nothing new is accepted");
            Ok(())
        }
        () = until_gone(keeper, sandboxes) => {
            tracing::error!("the keeper is gone");
            Err(Error::Keeper)
        }
    };
    sandboxes.close();
    closing.cancel();
    outcome
}

async fn until_gone(keeper: &Client, sandboxes: &Sandboxes) {
    let (containers, mut told) = (Containers::new(keeper.clone()), 0);
    while let Ok(refused) = containers.refused().await {
        let more = refused.count.saturating_sub(told);
        if more > 0
            && let Some(failure) = refused.last
        {
            tracing::warn!(error = %failure, count = refused.count, "failed to get ready for the next sandboxes");
            sandboxes.refills().failed(Kept::Namespaces, more);
            told = refused.count;
        }
        tokio::time::sleep(KEEPER_PING_EVERY).await;
    }
}

/// What is cancelled at the first SIGTERM or SIGINT; the second ends the process at once: sandboxes live on and are adopted.
fn watch_signals() -> std::io::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_second {
                std::process::exit(1);
            }
            told.cancel();
        }
    });
    Ok(stop)
}

/// The store of images, its scratch in the daemon's own folder.
///
/// # Errors
/// Where the folder cannot be used or TLS cannot be set up.
pub fn images(
    filesystem: &Filesystem,
    config: &Config,
    authorities: Vec<CertificateDer<'static>>,
) -> Result<Images, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Code::Internal, format!("failed to set up TLS: {error}"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in authorities {
        roots.add(root).map_err(|error| failed(&error))?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let options = image::Options {
        scratch: folder(config).join("scratch"),
        imports: config.directories.clone(),
        registry: mote_oci::registry::Options::default(),
        registries: config.registries.clone(),
        quota: image::quota::Quota {
            image_bytes: config.image_max,
            image_files: config.image_files_max,
            all_bytes: config.images_max,
        },
    };
    Images::new(filesystem.clone(), &tls, options)
}

/// Where images are built. It knows no secrets: a recipe has no use for them.
///
/// # Errors
/// Where the daemon's folder or the resolver cannot be used.
pub fn workshop(keeper: &Client, config: &Config, roots: Vec<CertificateDer<'static>>) -> Result<Workshop, Error> {
    workshop_in(keeper, config, folder(config).join("build"), roots)
}

fn workshop_in(
    keeper: &Client,
    config: &Config,
    directory: PathBuf,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Workshop, Error> {
    let clock: SharedClock = Arc::new(System);
    let network = boundary(config, directory, Arc::new(NoSecrets), &clock, roots)?;
    Ok(Workshop {
        containers: Containers::new(keeper.clone()),
        filesystem: Filesystem::new(keeper.clone()),
        network,
        policy: config.build_network.clone(),
        prefix: workshop::PREFIX,
    })
}

#[derive(Debug)]
struct NoSecrets;

impl Vault for NoSecrets {
    fn reveal(&self, _: &str) -> Result<Option<Value>, Failure> {
        Ok(None)
    }
}

/// The network boundary, its authority in the daemon's own folder.
fn network(
    config: &Config,
    store: &State,
    clock: &SharedClock,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Network, Error> {
    boundary(config, folder(config).join("network"), Arc::new(store.clone()), clock, roots)
}

fn boundary(
    config: &Config,
    directory: PathBuf,
    vault: Arc<dyn Vault>,
    clock: &SharedClock,
    roots: Vec<CertificateDer<'static>>,
) -> Result<Network, Error> {
    let failed = |message: String| Error::Part("set up the network boundary", Failure::invalid("resolver", message));
    let clock = Arc::clone(clock);
    Network::new(network::Settings {
        directory,
        resolver: network::dns::upstream_of(&config.resolver).map_err(failed)?,
        roots,
        vault,
        now_ms: Arc::new(move || clock.now_ms()),
    })
    .map_err(|failure| Error::Part("set up the network boundary", failure))
}

/// The substrate, with what this host can do.
async fn container(
    keeper: &Client,
    config: &Config,
    clock: SharedClock,
    network: Network,
    (confinement, authorities): (BTreeMap<String, Support>, Vec<CertificateDer<'static>>),
) -> Result<Container, Failure> {
    let (containers, filesystem) = (Containers::new(keeper.clone()), Filesystem::new(keeper.clone()));
    let description = filesystem.describe().await?;
    let mut enforcement = confinement;
    enforcement.extend(containers.enforcement().await?);
    let live = Support { available: description.live_snapshots, detail: description.detail };
    let quota = description
        .quota
        .map_or_else(|| Support::no("the pool has no quotas"), |kind| Support::yes(format!("{kind} quotas of btrfs")));
    enforcement.insert("disk_quota".to_owned(), quota);
    let open = if config.open_egress_default {
        Support::yes("a sandbox made through E2B's API that does not say so reaches every public destination")
    } else {
        Support::no("the configuration says open_egress_default: false; ask with allow_internet_access")
    };
    let features = BTreeMap::from([
        ("egress.open_default".to_owned(), open),
        ("snapshot.live".to_owned(), live),
        ("snapshot.memory".to_owned(), Support::no("containers keep files alone; answers say memory: false")),
        ("pause.memory".to_owned(), Support::yes("processes are frozen by the cgroup freezer")),
        ("pause.stopped".to_owned(), Support::yes("processes are ended, the filesystem is kept")),
        ("clock.offset".to_owned(), Support::no("containers share the host's wall clock: no namespace has its own")),
        ("entropy.seed".to_owned(), Support::no("containers share the kernel's source of randomness")),
    ]);
    let images = images(&filesystem, config, authorities)?;
    let volume_bytes = config.volume_disk.unwrap_or(VOLUME_BYTES_DEFAULT);
    Ok(Container { containers, filesystem, images, volume_bytes, clock, network, enforcement, features })
}

/// Where there is no key, makes one: printed once, and left where root on this host finds it.
async fn first_key(store: &State, folder: &Path, clock: &dyn crate::clock::Clock) -> Result<(), Error> {
    let failed = |failure| Error::Part("make the first key", failure);
    if !store.keys().await.map_err(failed)?.is_empty() {
        return Ok(());
    }
    let made = store.new_key(KEY_NAME, &Scopes::all(), clock.now_ms()).await.map_err(failed)?;
    let path = folder.join(KEY_FILE);
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", made.key)?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "API key, shown this once and kept in {}:\n{}", path.display(), made.key)
    };
    write().map_err(|error| Error::Io("keep the first key", error))
}
