//! `mote serve`: the service.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use mote::config::{Diagnostic, Loaded, Severity};
use mote::runner::Takes;
use mote::service::Service;
use mote::telemetry::{self, LogOutput};
use tokio::net::TcpListener;
use tokio::signal::unix::SignalKind;

use super::check::not_started;
use super::exit::Exit;
use super::signals;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
Tasks are kept in DIR and survive the process: start it again and they go on. SIGTERM and Ctrl-C
drain: nothing new is accepted, runs stop at a step boundary, and what is left after
`server.drain` is resumed by the next process.

Examples:
  mote serve agent.yaml
  mote serve agent.yaml --listen 0.0.0.0:8080 --state /var/lib/mote
  curl -s localhost:8080/run -d '{\"input\": \"…\"}' -H 'content-type: application/json'";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The agent.yaml, or the folder that holds it
    pub(crate) agent: PathBuf,
    /// Address and port, instead of `server.listen`; port 0 takes a free one and logs it
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// The folder of the store; made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
}

pub(crate) fn execute(arguments: Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let options = mote::config::Options { listen: arguments.listen, ..mote::config::Options::default() };
    let loaded = super::check::load(&arguments.agent, &options, terminal)?;
    super::runtime::service()?.block_on(serve(loaded, &arguments, terminal))
}

async fn serve(loaded: Loaded, arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let Loaded { agent, warnings, places } = loaded;
    let state = &arguments.state;
    let address = agent.server.listen;
    // Signals first: one that comes while the service starts must not be missed.
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    let stop = signals::watch(&kinds).context("failed to watch for signals")?;
    let from = if arguments.listen.is_some() { "--listen" } else { "server.listen" };
    let bound = TcpListener::bind(address).await;
    let listener = bound.with_context(|| format!("failed to listen on {address} ({from})"))?;
    let bound = listener.local_addr().context("failed to read the listening address")?;
    let (name, version) = (agent.name.clone(), agent.version.clone());
    let output = telemetry::Options { output: LogOutput::Stdout, format: None, semconv: super::runtime::semconv() };
    let service = match Service::start(agent, state, output, Takes::Everything).await {
        Ok(service) => service,
        Err(error) => return Err(not_started(error, &arguments.agent, &places, terminal)?),
    };
    for Diagnostic { severity, line, path, message, .. } in warnings {
        match severity {
            Severity::Note => tracing::info!(line, path, "{message}"),
            Severity::Warning | Severity::Error => tracing::warn!(line, path, "{message}"),
        }
    }
    tracing::info!(agent = name, version, address = %bound, state = %state.display(), "listening");
    service.serve(listener, stop).await;
    Ok(())
}
