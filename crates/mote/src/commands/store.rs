//! `mote store`: looks after the store's files: backup and erasure.
//!
//! It works on the files, beside a running service or without one.

use std::path::PathBuf;

use super::exit::Exit;
use super::terminal::Terminal;

const BACKUP_HELP: &str = "\
The copy is consistent while the service runs. It is an SQLite database: `sqlite3 FILE` opens it, and put into an
empty state folder under the store's name it is the store again.

Examples:
  mote store backup /backup/mote-monday.db --state /var/lib/mote";

const ERASE_HELP: &str = "\
Tasks, journals, payloads, transcripts and ledger rows go; refused while one of the tasks runs.

Examples:
  mote store erase --session s-42 --state /var/lib/mote
  mote store erase --user alice --tenant acme --state /var/lib/mote --yes";

/// Look after the store: backup, erasure
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Backup(Backup),
    Erase(Erase),
}

/// Copy the store while it is in use
#[derive(Debug, clap::Args)]
#[command(after_help = BACKUP_HELP)]
pub(crate) struct Backup {
    /// The file to write; must not be there
    pub(crate) to: PathBuf,
    /// The folder of the store
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
}

/// Erase everything of a session or of a user
#[derive(Debug, clap::Args)]
#[command(after_help = ERASE_HELP)]
pub(crate) struct Erase {
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// The tenant; empty is the default tenant
    #[arg(long, default_value = "")]
    pub(crate) tenant: String,
    /// The folder of the store
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What is erased: one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// The session
    #[arg(long)]
    pub(crate) session: Option<String>,
    /// The user
    #[arg(long)]
    pub(crate) user: Option<String>,
}

pub(crate) fn execute(arguments: Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let _ = (arguments, terminal);
    Err(anyhow::anyhow!("failed to open the store: it is not part of this build").into())
}
