//! `mote store`: looks after the store's files: backup, restoration, erasure.
//!
//! It works on the files, beside a running service or without one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use mote::limits::PAGE_MAX;
use mote::store::sqlite::{self, SqliteStore};
use mote::store::{self, Records as _, Sessions as _, Upkeep as _};

use super::exit::Exit;
use super::state;
use super::terminal::{Style, Terminal};

const BACKUP_HELP: &str = "\
The copy is consistent while the service runs. It is an SQLite database: `sqlite3 FILE` opens
it, and `mote store restore FILE` makes it a store again.

Examples:
  mote store backup /backup/mote-monday.db --state /var/lib/mote";

const RESTORE_HELP: &str = "\
Stop the service before. A backup is a moment of the past: tasks that were under way then go on
from there, and what they did since the backup is done again (mails sent, orders placed). With
--hold nothing of them runs until `mote store release`; new tasks do.

Examples:
  mote store restore /backup/mote-monday.db --state /var/lib/mote --hold";

const RELEASE_HELP: &str = "\
Look at what is held first (`mote serve`, then `mote task list --status running`, `queued` and
`waiting`), and cancel what must not run again. A service that runs takes up the rest at once.

Examples:
  mote store release --state /var/lib/mote";

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
    Restore(Restore),
    Release(Release),
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

/// Make a store of a backup, in a folder that has none
#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_HELP)]
pub(crate) struct Restore {
    /// The backup
    pub(crate) backup: PathBuf,
    /// The folder of the store; made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
    /// Hold the tasks and messages of the backup until `mote store release`
    #[arg(long)]
    pub(crate) hold: bool,
}

/// Let the tasks and messages go on that a restored store holds
#[derive(Debug, clap::Args)]
#[command(after_help = RELEASE_HELP)]
pub(crate) struct Release {
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

// Not a doc comment: that would stand in the help instead of the command's own.
// What is erased: one of these.
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
        Command::Restore(restore) => self::restore(&restore, terminal),
        Command::Release(release) => runtime.block_on(self::release(&release, terminal)),
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

fn restore(arguments: &Restore, terminal: &mut Terminal) -> Result<(), Exit> {
    let Restore { backup, state, hold } = arguments;
    if !backup.is_file() {
        return Err(Exit::usage(format!("there is no backup at {}", backup.display())));
    }
    let missing: Vec<&Path> = state.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(state).with_context(|| format!("failed to make the folder {}", state.display()))?;
    let file = state::file(state);
    let restored = sqlite::restore(backup, &file, *hold);
    if restored.is_err() {
        // Only what was made here, and only where it is empty.
        let _ = missing.into_iter().try_for_each(std::fs::remove_dir);
    }
    let held = match restored {
        Ok(held) => held,
        Err(error @ store::Error::Conflict { .. }) => return Err(Exit::usage(error)),
        Err(error) => return Err(anyhow::Error::new(error).context("failed to restore").into()),
    };
    terminal.note(&format!("{} is restored from {}", file.display(), backup.display()))?;
    let (what, state) = (counted(&held), state.display());
    let rest = match (held == store::Held::default(), hold) {
        (true, _) => return Ok(()),
        (false, true) => format!("{what} are held: `mote store release --state {state}` lets them go on"),
        (false, false) => {
            format!(
                "{what} go on with the next `mote serve`; what they did since the backup is done again (--hold holds them)"
            )
        }
    };
    let rest = terminal.paint(Style::Care, &rest);
    Ok(terminal.note(&rest)?)
}

async fn release(arguments: &Release, terminal: &mut Terminal) -> Result<(), Exit> {
    let store = state::open_existing(&arguments.state)?;
    let held = store.let_go().await.context("failed to release what is held")?;
    if held == store::Held::default() {
        return Err(anyhow::anyhow!("nothing is held in {}", arguments.state.display()).into());
    }
    Ok(terminal.note(&format!("released: {}", counted(&held)))?)
}

/// What is held, in words.
fn counted(held: &store::Held) -> String {
    let store::Held { queued, running, waiting, messages } = held;
    format!(
        "{} unfinished tasks ({queued} queued, {running} running, {waiting} waiting) and {messages} unsent messages",
        held.tasks()
    )
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
    if !known && count(&store, whose, tenant).await? == 0 && !arguments.yes {
        return Err(nothing(&whom, tenant, arguments, "").into());
    }
    if !arguments.yes {
        let count = count(&store, whose, tenant).await?;
        terminal.note(&format!("{whom}: {count} tasks would be erased for good; --yes does it"))?;
        return Ok(());
    }
    let erased = store.erase(what).await.with_context(|| format!("failed to erase {whom}"))?;
    if erased == 0 && !known {
        // Only now: the ledger keeps what a task cost for longer than the task.
        return Err(nothing(&whom, tenant, arguments, "; ledger rows, if any, are erased").into());
    }
    terminal.note(&format!("{whom}: {erased} tasks erased"))?;
    Ok(())
}

/// There is nothing of that name.
fn nothing(whom: &str, tenant: &str, arguments: &Erase, rest: &str) -> anyhow::Error {
    let tenant = if tenant.is_empty() { "the default tenant".to_owned() } else { format!("tenant {tenant}") };
    anyhow::anyhow!("{whom} of {tenant} has no task in {}{rest}", arguments.state.display())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_restore_leaves_no_folder_behind() {
        let root = tempfile::tempdir().unwrap();
        let backup = root.path().join("backup.db");
        std::fs::write(&backup, "no database").unwrap();
        let refused = |state: PathBuf| {
            let arguments = Restore { backup: backup.clone(), state, hold: false };
            restore(&arguments, &mut Terminal::detect()).unwrap_err()
        };
        refused(root.path().join("new/state"));
        assert!(!root.path().join("new").exists());
        let old = root.path().join("old");
        std::fs::create_dir(&old).unwrap();
        refused(old.clone());
        assert!(old.exists(), "a folder that was there stays");
    }
}
