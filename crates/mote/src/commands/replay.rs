//! `mote replay`: a journal through the core, each step with its cost and time.

use std::path::PathBuf;

use super::exit::Exit;
use super::terminal::Terminal;

const AFTER_HELP: &str = "\
The journal is read, nothing is written, no model is asked and no tool is called. The core decides each step again
and its decisions are compared with the journal's; where they differ, the replay fails and says at which entry.

Examples:
  mote replay task_01jx… --state /var/lib/mote
  mote replay task_01jx… --state .mote --json | jq .cost";

/// Replay a task's journal: each step, what it cost and how long it took
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The task's id
    pub(crate) task: String,
    /// The folder of the store
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
    /// Print one JSON object a step
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn execute(arguments: Arguments, _terminal: &mut Terminal) -> Result<(), Exit> {
    let _ = (arguments.task, arguments.state, arguments.json);
    Err(anyhow::anyhow!("failed to replay: the runner is not part of this build").into())
}
