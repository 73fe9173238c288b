//! `mote store`: looks after the store's files: backup and erasure.
//!
//! It works on the files, beside a running service or without one.

use std::path::PathBuf;

use anyhow::Context;
use mote::limits::PAGE_MAX;
use mote::store::sqlite::SqliteStore;
use mote::store::{self, Store};

use super::exit::Exit;
use super::state;
use super::terminal::Terminal;

const BACKUP_HELP: &str = "\
The copy is consistent while the service runs. It is an SQLite database: `sqlite3 FILE` opens
it, and put into an empty state folder under the store's name it is the store again.

Examples:
  mote store backup /backup/mote-monday.db --state /var/lib/mote";

const ERASE_HELP: &str = "\
Tasks, journals, payloads, transcripts and ledger rows go; refused while one of the tasks runs.

Examples:
  mote store erase --session s-42 --state /var/lib/mote
  mote store erase --user alice --tenant acme --state /var/lib/mote --yes";

const ASSIGN_HELP: &str = "\
A store belongs to the agent that opened it first; another one is refused, as it would go on
with its tasks under its own prompt and tools. Stop the service before.

Examples:
  mote store assign support-triage --state /var/lib/mote";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Backup(Backup),
    Erase(Erase),
    Assign(Assign),
}

/// Give the store to an agent: after its agent was renamed
#[derive(Debug, clap::Args)]
#[command(after_help = ASSIGN_HELP)]
pub(crate) struct Assign {
    /// The agent's name, as in its agent.yaml
    pub(crate) agent: String,
    /// The folder of the store
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
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
    let runtime = super::runtime::single()?;
    match arguments.command {
        Command::Backup(backup) => runtime.block_on(self::backup(&backup, terminal)),
        Command::Assign(assign) => runtime.block_on(self::assign(&assign, terminal)),
        Command::Erase(erase) => runtime.block_on(self::erase(&erase, terminal)),
    }
}

async fn backup(arguments: &Backup, terminal: &mut Terminal) -> Result<(), Exit> {
    let to = &arguments.to;
    if to.exists() {
        return Err(Exit::usage(format!("{} is there already; a backup overwrites nothing", to.display())));
    }
    let store = state::open_existing(&arguments.state)?;
    store.backup(to).await.with_context(|| format!("failed to back the store up to {}", to.display()))?;
    let bytes = std::fs::metadata(to).map_or(0, |data| data.len());
    terminal.note(&format!("{}: {bytes} bytes", to.display()))?;
    Ok(())
}

async fn assign(arguments: &Assign, terminal: &mut Terminal) -> Result<(), Exit> {
    let Assign { agent, state } = arguments;
    let store = state::open_existing(state)?;
    store.assign(agent).await.with_context(|| format!("failed to assign the store to {agent}"))?;
    terminal.note(&format!("{} is {agent}'s", state::file(state).display()))?;
    Ok(())
}

async fn erase(arguments: &Erase, terminal: &mut Terminal) -> Result<(), Exit> {
    let Erase { whose, tenant, .. } = arguments;
    let store = state::open_existing(&arguments.state)?;
    let what = match (&whose.session, &whose.user) {
        (Some(session), _) => store::Erase::Session { tenant: tenant.clone(), session: session.clone() },
        (None, Some(user)) => store::Erase::User { tenant: tenant.clone(), user: user.clone() },
        (None, None) => return Err(Exit::usage("--session or --user is needed")),
    };
    let whom = match &what {
        store::Erase::Session { session, .. } => format!("session {session}"),
        store::Erase::User { user, .. } => format!("user {user}"),
        store::Erase::Task { task, .. } => format!("task {task}"),
    };
    let known = is_known(&store, whose, tenant).await?;
    if !arguments.yes {
        let count = count(&store, whose, tenant).await?;
        terminal.note(&format!("{whom}: {count} tasks would be erased for good; --yes does it"))?;
        return Ok(());
    }
    let erased = store.erase(what).await.with_context(|| format!("failed to erase {whom}"))?;
    if erased == 0 && !known {
        // Said only now: the ledger keeps what a task cost for longer than the task.
        let tenant = if tenant.is_empty() { "the default tenant".to_owned() } else { format!("tenant {tenant}") };
        let state = arguments.state.display();
        return Err(
            anyhow::anyhow!("{whom} of {tenant} has no task in {state}; ledger rows, if any, are erased").into()
        );
    }
    terminal.note(&format!("{whom}: {erased} tasks erased"))?;
    Ok(())
}

/// Whether there is anything of it but tasks: a session may outlive its own.
async fn is_known(store: &SqliteStore, whose: &Whose, tenant: &str) -> Result<bool, Exit> {
    let Some(session) = &whose.session else { return Ok(false) };
    Ok(store.session(tenant, session).await.context("failed to read the session")?.is_some())
}

async fn count(store: &SqliteStore, whose: &Whose, tenant: &str) -> Result<usize, Exit> {
    let filter = store::Filter {
        tenant: Some(tenant.to_owned()),
        session: whose.session.clone(),
        user: whose.user.clone(),
        ..store::Filter::default()
    };
    let (mut count, mut cursor) = (0, None);
    loop {
        let page = store.list(filter.clone(), cursor, PAGE_MAX).await.context("failed to list tasks")?;
        count += page.tasks.len();
        cursor = page.next;
        if cursor.is_none() {
            return Ok(count);
        }
    }
}
