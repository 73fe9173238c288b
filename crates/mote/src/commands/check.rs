//! `mote check`: everything that is wrong with an agent.yaml, what `serve` would refuse, and what production would want.
//!
//! It does not connect to anything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mote::config::{self, Agent, Diagnostic, Loaded, Places, Severity};
use mote::service::components::{self, Faults};

use super::exit::{Code, Exit};
use super::terminal::{Style, Terminal};

const AFTER_HELP: &str = "\
Errors are what `mote serve` would refuse: in the file, and in the files that it names (plans, the
keys of `auth`, certificates). Warnings say what production would want; a secret that is not here
is one, as it may be there where the service runs. Notes are worth knowing. Nothing is contacted.

Examples:
  mote check agent.yaml
  mote check examples/quickstart         a folder means its agent.yaml
  mote check agent.yaml --strict         in CI: warnings fail too (notes do not)
  mote check agent.yaml --listen 0.0.0.0:80 --state /var/lib/mote    as `serve` is started
  mote check agent.yaml --json | jq      {valid, file, agent, diagnostics[]}

Exit codes: 0 valid; 2 not valid (or, with --strict, not without warnings).";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The agent.yaml, or the folder that holds it
    agent: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// Address and port that `serve` is given instead of `server.listen`
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The folder of the store that `serve` is given: whether it can be this agent's
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(crate) fn execute(arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let file = config::file_of(&arguments.agent);
    let options = config::Options { compile_schemas: true, listen: arguments.listen, ..config::Options::default() };
    let (agent, diagnostics) = match config::load_with(&arguments.agent, &options) {
        Ok(loaded) => examine(loaded, arguments.state.as_deref()),
        Err(diagnostics) => (None, diagnostics),
    };
    if arguments.json {
        let report = serde_json::json!({
            "valid": agent.is_some(),
            "file": file.display().to_string(),
            "agent": agent.as_ref().map(summary),
            "diagnostics": diagnostics,
        });
        terminal.line(&report.to_string())?;
    } else {
        for diagnostic in &diagnostics {
            print(diagnostic, &file, terminal)?;
        }
        if let Some(agent) = &agent {
            print_summary(agent, &diagnostics, &file, terminal)?;
        } else {
            let errors = counted(count(&diagnostics, Severity::Error), "error");
            terminal.note(&format!("{}: {errors}", file.display()))?;
        }
    }
    match agent {
        None => Err(Exit::silent(Code::Usage)),
        Some(_) if arguments.strict && count(&diagnostics, Severity::Warning) > 0 => Err(Exit::silent(Code::Usage)),
        Some(_) => Ok(()),
    }
}

/// Builds what `serve` would build: the agent, unless something of it would be refused, and all that is to be said.
fn examine(loaded: Loaded, state: Option<&Path>) -> (Option<Agent>, Vec<Diagnostic>) {
    let Loaded { agent, warnings: mut diagnostics, places } = loaded;
    if let Err(faults) = components::check(&agent) {
        // Advice has named the secrets that are not here.
        let refused = refusals(&faults, &places).filter(|(_, is_missing_secret)| !is_missing_secret);
        diagnostics.extend(refused.map(|(diagnostic, _)| diagnostic));
    }
    if let Some(state) = state
        && let Err(error) = components::check_state(&agent, state)
    {
        let flag = Some(format!("--state {}", state.display()));
        diagnostics.push(Diagnostic { flag, ..Diagnostic::of_file(error.to_string()) });
    }
    diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    let is_usable = count(&diagnostics, Severity::Error) == 0;
    (is_usable.then_some(agent), diagnostics)
}

/// What cannot be built, each at its place in the file, and whether it is but a secret that is missing here.
fn refusals<'a>(faults: &'a Faults, places: &'a Places) -> impl Iterator<Item = (Diagnostic, bool)> + 'a {
    faults.0.iter().map(|fault| {
        let diagnostic = places.diagnostic(Severity::Error, &fault.path(places), fault.error.to_string());
        (diagnostic, fault.is_missing_secret)
    })
}

/// The end of a command whose agent could not be started: what the file is to blame for is told at its place.
pub(crate) fn not_started(
    error: mote::service::Error,
    agent: &Path,
    places: &Places,
    terminal: &mut Terminal,
) -> Result<Exit, Exit> {
    let mote::service::Error::Faults(faults) = error else {
        return Ok(anyhow::Error::new(error).context("failed to start").into());
    };
    let file = config::file_of(agent);
    for (diagnostic, _) in refusals(&faults, places) {
        print(&diagnostic, &file, terminal)?;
    }
    Ok(Exit::silent(Code::Usage))
}

fn count(diagnostics: &[Diagnostic], severity: Severity) -> usize {
    diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
}

/// Loads an agent for a command that needs it, its mistakes printed.
pub(crate) fn load(path: &Path, options: &config::Options, terminal: &mut Terminal) -> Result<config::Loaded, Exit> {
    config::load_with(path, options).or_else(|diagnostics| {
        let file = config::file_of(path);
        for diagnostic in &diagnostics {
            print(diagnostic, &file, terminal)?;
        }
        Err(Exit::silent(Code::Usage))
    })
}

/// Prints a diagnostic as a compiler would.
fn print(diagnostic: &Diagnostic, file: &Path, terminal: &mut Terminal) -> std::io::Result<()> {
    let text = diagnostic.render(file);
    let style = match diagnostic.severity {
        Severity::Error => Style::Bad,
        Severity::Warning => Style::Care,
        Severity::Note => Style::Dim,
    };
    let word = format!("{}: ", diagnostic.severity);
    let painted = format!("{} ", terminal.paint(style, word.trim()));
    terminal.note(&text.replacen(&word, &painted, 1))
}

fn print_summary(agent: &Agent, warnings: &[Diagnostic], file: &Path, terminal: &mut Terminal) -> std::io::Result<()> {
    let model = &agent.models[0];
    let ok = terminal.paint_output(Style::Good, "ok");
    terminal.line(&format!(
        "{}: {ok}: {} {}, model {}, {}, {}",
        file.display(),
        agent.name,
        agent.version,
        model.name,
        counted(tool_names(agent).len(), "tool"),
        counted(count(warnings, Severity::Warning), "warning"),
    ))
}

fn summary(agent: &Agent) -> serde_json::Value {
    serde_json::json!({
        "name": agent.name,
        "version": agent.version,
        "digest": format!("sha256:{}", data_encoding::HEXLOWER.encode(&agent.digest)),
        "models": agent.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
        "tools": tool_names(agent),
    })
}

/// Every tool that the model is offered.
fn tool_names(agent: &Agent) -> Vec<&str> {
    let declared = agent.tools.iter().map(|tool| tool.name.as_str());
    let builtins = agent.builtins.iter().map(|builtin| builtin.name());
    let allowed = agent.sandbox.iter().flat_map(|sandbox| &sandbox.allow);
    declared.chain(builtins).chain(allowed.flat_map(|facility| facility.tools()).copied()).collect()
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
