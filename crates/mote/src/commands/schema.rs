//! `mote schema`: the documents that are generated from the code.
//!
//! It prints; docs/ holds the checked-in copies, which tests compare.

use super::exit::Exit;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
Editors complete and check agent.yaml with it. As the file's first line:
  # yaml-language-server: $schema=./agent.schema.json

Examples:
  mote schema > agent.schema.json";

/// Print the JSON Schema of agent.yaml
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {}

pub(crate) fn execute(_arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let text = format!("{:#}", mote::config::json_schema());
    terminal.line(&text)?;
    Ok(())
}
