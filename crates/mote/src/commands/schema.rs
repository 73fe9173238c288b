//! `mote schema`: the documents that are generated from the code, as docs/ holds them.
//!
//! It generates nothing: `cargo xtask schemas` does, and tests compare.

use super::exit::Exit;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
Editors complete and check agent.yaml with it. As the file's first line:
  # yaml-language-server: $schema=./agent.schema.json

Examples:
  mote schema > agent.schema.json
  mote schema --openapi > openapi.json";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The OpenAPI 3.1 document of the service instead
    #[arg(long)]
    openapi: bool,
}

pub(crate) fn execute(arguments: &Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let text = if arguments.openapi { mote::api::OPENAPI } else { mote::config::JSON_SCHEMA };
    terminal.line(text.trim_end())?;
    Ok(())
}
