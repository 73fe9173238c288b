//! The command `mote-sandboxd`: reads the command line, starts the keeper, gives privilege up, and runs the service.
//!
//! It holds no logic of either. Hidden subcommands are this program as its own keeper and as workers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use mote_sandbox_api::capability::Support;
use mote_sandboxd::clock::{Clock as _, System};
use mote_sandboxd::config::{Config, OnStop};
use mote_sandboxd::filesystem::{Filesystem, worker};
use mote_sandboxd::keeper::{self, Settings};
use mote_sandboxd::privilege::{self, Kept};
use mote_sandboxd::service::{self, Start};
use mote_sandboxd::state::{Grant, Scopes, State};
use mote_sandboxd::telemetry::logs;
use mote_sandboxd::tls::{self, Certificates};
use mote_sandboxd::{descriptor, host, image};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const AFTER_HELP: &str = "\
Examples:
  mote-sandboxd serve                              everything by default; needs root at start
  mote-sandboxd serve --listen 0.0.0.0:7070 --state /srv/sandboxes
  mote-sandboxd key new --name ci                  another API key
  mote sandbox create                              (the client's command)

Documentation: docs/sandbox-http.md, docs/sandbox-errors.md";

/// Runs sandboxes: computers that start in milliseconds, snapshot and roll back, fork, and reach only what they may
#[derive(Debug, Parser)]
#[command(name = "mote-sandboxd", version, after_help = AFTER_HELP, max_term_width = 100)]
enum Command {
    Serve(Serve),
    #[command(subcommand)]
    Key(Key),
    Image(Image),
}

/// Serve sandboxes over HTTP
#[derive(Debug, clap::Args)]
struct Serve {
    /// The configuration; everything has a default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port; port 0 takes a free one and logs it
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where everything is kept that outlives the daemon
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where sockets of living sandboxes stand; a tmpfs
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The static program that becomes the first process of every sandbox
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// What becomes of sandboxes when the daemon stops
    #[arg(long, value_parser = ["leave", "remove"])]
    on_stop: Option<String>,
}

/// Build, import, list and remove images; a daemon may serve the same state meanwhile
#[derive(Debug, clap::Args)]
struct Image {
    #[command(subcommand)]
    command: image::command::Command,
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The daemon's state directory
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    /// The static program that becomes the first process of every sandbox
    #[arg(long, value_name = "FILE", global = true)]
    init: Option<PathBuf>,
}

/// Make and revoke API keys
#[derive(Debug, clap::Subcommand)]
enum Key {
    /// Make a key: printed once, kept as a hash
    New(NewKey),
    /// List keys: names and scopes, without the keys
    List {
        #[command(flatten)]
        at: At,
    },
    /// Revoke a key
    Revoke {
        /// Who holds it
        #[arg(long)]
        name: String,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    /// The daemon's state directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct NewKey {
    /// Who holds it
    #[arg(long)]
    name: String,
    /// What it is for: sandbox, template, secret, secret:NAME (to bind that one), or admin, which is everything; several with commas
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "admin", value_parser = scope)]
    scope: Vec<Grant>,
    #[command(flatten)]
    at: At,
}

fn scope(text: &str) -> Result<Grant, String> {
    text.parse().map_err(|failure: mote_sandbox_api::error::Failure| failure.message)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let outcome = match arguments.get(1).map(String::as_str) {
        Some(worker::SUBCOMMAND) => return worker::main(&arguments[2..]),
        Some(keeper::start::SUBCOMMAND) => keeper::server::run().map_err(anyhow::Error::from),
        _ => match Command::parse() {
            Command::Serve(arguments) => serve(arguments),
            Command::Key(key) => self::key(key),
            Command::Image(image) => self::image(image),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing can be done where standard error is closed.
            let _ = writeln!(std::io::stderr(), "mote-sandboxd: {error:#}{}", remedy(&error));
            ExitCode::FAILURE
        }
    }
}

/// What can be done about an error, on a line of its own, where that is known.
fn remedy(error: &anyhow::Error) -> String {
    let failure = error.chain().find_map(|cause| {
        let served = cause.downcast_ref::<service::Error>().and_then(service::Error::failure);
        let kept = || cause.downcast_ref::<keeper::server::Error>().and_then(keeper::server::Error::failure);
        served.or_else(kept).or_else(|| cause.downcast_ref())
    });
    let remediation = failure.and_then(|failure| failure.remediation.as_deref());
    remediation.map_or_else(String::new, |remediation| format!("\n  {remediation}"))
}

fn configured(arguments: Serve) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    config.listen = arguments.listen.unwrap_or(config.listen);
    config.state = absolute(arguments.state)?.unwrap_or(config.state);
    config.run = absolute(arguments.run)?.or(config.run);
    config.init = absolute(arguments.init)?.or(config.init);
    if let Some(end) = arguments.on_stop {
        config.on_stop = if end == "remove" { OnStop::Remove } else { OnStop::Leave };
    }
    Ok(config)
}

fn absolute(path: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    path.map(|path| std::path::absolute(&path).with_context(|| format!("failed to use {}", path.display()))).transpose()
}

fn must_be_root(what: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("{what} needs root at its start (it keeps it in one small process, the keeper, alone)")
}

/// What the keeper is told, from the configuration.
fn settings(config: &Config, program: &std::path::Path) -> anyhow::Result<Settings> {
    let beside = program.with_file_name("mote-sandbox-init");
    let init = config.init.clone().unwrap_or(beside);
    if !init.is_file() {
        bail!("{} is not there: --init names the first process of sandboxes", init.display());
    }
    let run = config.run.clone().unwrap_or_else(|| PathBuf::from("/run/mote-sandbox"));
    let mut settings = Settings::new(config.state.clone(), run, init);
    settings.filesystem.allowed.clone_from(&config.image_directories);
    settings.filesystem.data.clone_from(&config.directories);
    settings.filesystem.backend = config.filesystem;
    settings.filesystem.pool_bytes = config.disk;
    settings.filesystem.host_root = config.host_root;
    settings.tls = config.tls.as_ref().map(tls::Tls::files);
    settings.uid_base = config.uid_base.unwrap_or(settings.uid_base);
    Ok(settings)
}

fn serve(arguments: Serve) -> anyhow::Result<()> {
    must_be_root("serve")?;
    let config = configured(arguments)?;
    let program = std::env::current_exe().context("failed to find this program")?;
    let settings = settings(&config, &program)?;
    let listener =
        std::net::TcpListener::bind(config.listen).with_context(|| format!("failed to listen on {}", config.listen))?;
    let tls = over_tls(&config)?;
    let logging = logs::install(&config.log, std::sync::Arc::new(System))?;
    let authorities = authorities(&config)?;
    let descriptors = descriptor::raise_limit().context("failed to raise the limit of open files")?;
    let keeper = keeper::spawn(&program, &settings).context("failed to start the keeper")?;
    let mut confinement = confine(&config, &settings, &config.directories)?;
    if let Some(crashes) = confinement.get("core_dumps").filter(|crashes| !crashes.available) {
        tracing::warn!("{}", crashes.detail);
    }
    confinement
        .insert("daemon.descriptors".to_owned(), Support::yes(format!("at most {descriptors}, shared out by use")));
    logging.detach()?;
    let runtime = runtime()?;
    runtime.block_on(service::run(Start { config, keeper, listener, tls, authorities, confinement }))?;
    Ok(())
}

/// The certificate, looked at before anything is started, and the address of its own where it has one.
fn over_tls(config: &Config) -> anyhow::Result<Option<service::OverTls>> {
    let Some(tls) = &config.tls else { return Ok(None) };
    let files = tls.files();
    let certificates = Certificates::new(&files, tls::open(&files)?)?;
    let bind = |address| std::net::TcpListener::bind(address).with_context(|| format!("failed to listen on {address}"));
    let listener = tls.listen.map(bind).transpose()?;
    Ok(Some(service::OverTls { certificates: std::sync::Arc::new(certificates), listener }))
}

/// The authorities that the operator adds, read while every file can be.
fn authorities(config: &Config) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let Some(path) = &config.authorities else { return Ok(Vec::new()) };
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("failed to read the authorities {}", path.display()))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("failed to start the async runtime")
}

/// An image command, by a keeper of its own, as the daemon works: with no privilege but the keeper's. A daemon may serve the
/// same state meanwhile.
fn image(arguments: Image) -> anyhow::Result<()> {
    must_be_root("image")?;
    let Image { command, config, state, init } = arguments;
    let config = configured(Serve { config, listen: None, state, run: None, init, on_stop: None })?;
    let program = std::env::current_exe().context("failed to find this program")?;
    let settings = settings(&config, &program)?.for_images();
    let authorities = authorities(&config)?;
    let keeper = keeper::spawn(&program, &settings).context("failed to start the keeper")?;
    // What the administrator names is read wherever it stands, by the daemon's user.
    confine(&config, &settings, &[PathBuf::from("/")])?;
    runtime()?.block_on(async {
        let keeper = keeper::client::Client::start(keeper).context("failed to reach the keeper")?;
        let images = service::images(&Filesystem::new(keeper.clone()), &config, authorities.clone())?;
        let workshop = service::workshop(&keeper, &config, authorities)?;
        let mut output = std::io::stdout();
        let interrupted = tokio::select! {
            done = image::command::run(&images, &workshop, command, System.now_ms(), &mut output) => {
                done?;
                false
            }
            ended = ended() => {
                ended?;
                true
            }
        };
        if interrupted {
            workshop.tidy().await?;
            bail!("interrupted");
        }
        Ok(())
    })
}

/// Waits for SIGINT or SIGTERM.
async fn ended() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn key(key: Key) -> anyhow::Result<()> {
    use std::io::Write as _;

    must_be_root("key")?;
    let (Key::New(NewKey { at, .. }) | Key::List { at } | Key::Revoke { at, .. }) = &key;
    let defaults = Config::default();
    let config = Config { state: absolute(at.state.clone())?.unwrap_or(defaults.state), ..Config::default() };
    let settings = Settings::new(config.state.clone(), PathBuf::new(), PathBuf::new());
    // As the daemon's user: a file that root makes in the daemon's folder would lock the daemon out.
    confine(&config, &settings, &[])?;
    runtime()?.block_on(async {
        let state = State::open(&service::folder(&config))?;
        match &key {
            Key::New(arguments) => {
                let scopes: Scopes = arguments.scope.iter().cloned().collect();
                let made = state.new_key(&arguments.name, &scopes, System.now_ms()).await?;
                writeln!(std::io::stdout(), "{}", made.key)?;
            }
            Key::List { .. } => {
                for key in state.keys().await? {
                    writeln!(std::io::stdout(), "{}  {}", key.name, key.scopes)?;
                }
            }
            Key::Revoke { name, .. } => {
                if !state.revoke_key(name).await? {
                    bail!("there is no key named {name:?}");
                }
            }
        }
        Ok(())
    })
}

/// Makes the daemon's folder, and gives up what the service does not need.
fn confine(config: &Config, settings: &Settings, read: &[PathBuf]) -> anyhow::Result<BTreeMap<String, Support>> {
    let folder = service::folder(config);
    std::fs::create_dir_all(&config.state).with_context(|| format!("failed to make {}", config.state.display()))?;
    privilege::own_folder(&folder, settings.daemon_uid, settings.daemon_gid)
        .with_context(|| format!("failed to make {}", folder.display()))?;
    let kept = Kept {
        uid: settings.daemon_uid,
        gid: settings.daemon_gid,
        read: read.iter().chain([&settings.run]).cloned().collect(),
        write: vec![folder],
    };
    let mut found = host::probe(&config.state)?;
    found.extend(privilege::drop(&kept)?);
    Ok(found)
}
