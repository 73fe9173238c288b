//! `mote key`: API keys of a service.
//!
//! A key is printed once and kept nowhere; the service knows its hash alone.

use mote::auth::{self, Scope};
use mote::clock::{Clock as _, System, UnixMs};
use mote::config::units;
use mote::timestamp;

use super::exit::Exit;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
Scopes: run (submit, cancel, answer), read (see tasks and sessions), admin (everything, also
erase and re-run).

Examples:
  mote key new --name ci --scope run --scope read
  mote key new --name acme --tenant acme --json
  mote key new --name visitor --scope read --expires 30d
  mote key new --name ops --scope admin --append /etc/mote/keys     adds its line to the file";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    New(New),
}

/// Make a key: printed once, with its line for the file of `auth.keys`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
struct New {
    /// Who holds it; shown in logs
    #[arg(long, default_value = "default")]
    name: String,
    /// What it may do; repeatable
    #[arg(long, value_name = "SCOPE", value_parser = ["run", "read", "admin"], default_values = ["run", "read"])]
    scope: Vec<String>,
    /// Bind it to this tenant: it sees no other
    #[arg(long)]
    tenant: Option<String>,
    /// When it stops to hold: a duration from now (30d) or a time (2027-01-31T00:00:00Z)
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<UnixMs>,
    /// Add its line to this file of `auth.keys`, which a running service reads again by itself
    #[arg(long, value_name = "FILE")]
    append: Option<std::path::PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let Command::New(new) = &arguments.command;
    let scopes: Vec<Scope> = new.scope.iter().filter_map(|scope| Scope::parse(scope)).collect();
    let made = auth::generate(&new.name, &scopes, new.tenant.as_deref(), new.expires).map_err(Exit::usage)?;
    if let Some(file) = &new.append {
        auth::append(file, &made).map_err(anyhow::Error::new)?;
    }
    if new.json {
        terminal.line(&serde_json::json!({"key": made.key, "line": made.line}).to_string())?;
    } else {
        terminal.note("The key, shown this once (send it as `Authorization: Bearer KEY`):")?;
        terminal.line(&made.key)?;
        match &new.append {
            Some(file) => {
                terminal.note(&format!("Its line, which holds no secret, was added to {}", file.display()))?
            }
            None => {
                terminal.note("Its line for the file of `auth.keys`, which holds no secret:")?;
                terminal.line(&made.line)?;
            }
        }
    }
    Ok(())
}

/// A time to come, as `--expires` takes it.
fn expiry(text: &str) -> Result<UnixMs, String> {
    let now = System.now_ms();
    let at = match units::duration(text) {
        Ok(duration) => now.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        Err(error) => {
            timestamp::parse_rfc3339(text).ok_or_else(|| format!("{error}, or a time such as 2027-01-31T00:00:00Z"))?
        }
    };
    if at <= now { Err(format!("{text} is not in the future")) } else { Ok(at) }
}
