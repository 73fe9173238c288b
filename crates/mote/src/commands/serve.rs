//! `mote serve`: the service.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::exit::Exit;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
Tasks are kept in DIR and survive the process: start it again and they go on. SIGTERM and Ctrl-C drain: nothing
new is accepted, runs stop at a step boundary, and what is left after `server.drain` is resumed by the next process.

Examples:
  mote serve agent.yaml
  mote serve agent.yaml --listen 0.0.0.0:8080 --state /var/lib/mote
  curl -s localhost:8080/run -d '{\"input\": \"…\"}' -H 'content-type: application/json'";

/// Serve an agent over HTTP, its tasks durable
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
    let _ = (loaded, arguments.state);
    Err(anyhow::anyhow!("failed to serve: the runner is not part of this build").into())
}
