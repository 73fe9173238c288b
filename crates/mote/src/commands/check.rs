//! `mote check`: everything that is wrong with an agent.yaml, and what production would want.
//!
//! It does not connect to anything.

use std::path::{Path, PathBuf};

use mote::config::{self, Agent, Diagnostic, Severity};

use super::exit::{Code, Exit};
use super::terminal::{Style, Terminal};

const AFTER_HELP: &str = "\
Errors make the file unusable; warnings say what production would want. Nothing is contacted.

Examples:
  mote check agent.yaml
  mote check examples/quickstart         a folder means its agent.yaml
  mote check agent.yaml --strict         in CI: warnings fail too
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
}

pub(crate) fn execute(arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let file = config::file_of(&arguments.agent);
    let options = config::Options { compile_schemas: true, ..config::Options::default() };
    let (agent, diagnostics) = match config::load_with(&arguments.agent, &options) {
        Ok(loaded) => (Some(loaded.agent), loaded.warnings),
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
            let count = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
            terminal.note(&format!("{}: {}", file.display(), counted(count, "error")))?;
        }
    }
    match agent {
        None => Err(Exit::silent(Code::Usage)),
        Some(_) if arguments.strict && !diagnostics.is_empty() => Err(Exit::silent(Code::Usage)),
        Some(_) => Ok(()),
    }
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
    let style = if diagnostic.severity == Severity::Error { Style::Bad } else { Style::Care };
    let word = format!(" {}: ", diagnostic.severity);
    let painted = format!(" {} ", terminal.paint(style, word.trim()));
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
        counted(warnings.len(), "warning"),
    ))
}

fn summary(agent: &Agent) -> serde_json::Value {
    serde_json::json!({
        "name": agent.name,
        "version": agent.version,
        "digest": format!("sha256:{}", super::key::hex(&agent.digest)),
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
