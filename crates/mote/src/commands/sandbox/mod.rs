//! `mote sandbox`: a client of `mote-sandboxd` over its native API.
//!
//! A file each for the connection, for streams, for copying, for printing. It needs no privilege and knows no substrate.

mod client;
mod copy;
mod print;
mod shell;
mod snapshot;
mod specification;

use mote_sandbox_api::request::{
    Change, Command as Program, Commit, Exec, ExecResult, Fork, Outcome, Page, Pause, PauseKind, Rollback, Sandbox,
};
use mote_sandbox_api::{capability::Capabilities, guest::Exit as Ended};
use reqwest::Method;
use serde_json::{Value, json};

use super::exit::{Code, Exit};
use super::terminal::Terminal;
use client::{Client, segment};

const AFTER_HELP: &str = "\
Every command takes --url, --key and --ca, or MOTE_SANDBOX_URL, MOTE_SANDBOX_KEY and
MOTE_SANDBOX_CA. Root on the daemon's own host needs none of them: the key is found where the
daemon left it.

Examples:
  id=$(mote sandbox create --image base)
  mote sandbox exec $id -- python3 -c 'print(6 * 7)'
  mote sandbox cp ./project $id:/home/user/project
  mote sandbox shell $id
  sn=$(mote sandbox snapshot $id) && mote sandbox rollback $id $sn
  mote sandbox rm $id

Exit codes: those of `mote`; `exec` and `shell` end as their program does (128 + N where signal
N ended it).";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

// Not a doc comment: that would stand in the help instead of the command's own.
// Where the daemon is, and how answers are printed.
#[derive(Debug, clap::Args)]
struct Connection {
    /// The daemon
    #[arg(long, global = true, env = "MOTE_SANDBOX_URL", value_name = "URL", default_value = mote::tools::sandbox::config::SANDBOX_URL)]
    url: String,
    /// Certificates (PEM) of the authority that vouches for the daemon, beside the public ones
    #[arg(long, global = true, env = "MOTE_SANDBOX_CA", value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
    /// The API key
    #[arg(long, global = true, env = "MOTE_SANDBOX_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print the daemon's JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Box<specification::Create>),
    List(List),
    Exec(Run),
    Shell(Shell),
    Cp(copy::Copy),
    Snapshot(snapshot::Arguments),
    Rollback(Back),
    Fork(Branch),
    /// Print what a sandbox changed of its image's files
    Diff(One),
    Commit(Keep),
    Pause(Rest),
    /// Resume a paused sandbox
    Resume(One),
    Rm(Many),
    Logs(Logs),
    Top(Top),
    Capabilities(Nothing),
}

// Not a doc comment: that would stand in the help instead of the commands' own.
// The sandbox that is meant.
#[derive(Debug, clap::Args)]
struct One {
    /// The sandbox's id
    sandbox: String,
}

/// Remove sandboxes
#[derive(Debug, clap::Args)]
struct Many {
    /// The sandboxes' ids
    #[arg(required = true)]
    sandboxes: Vec<String>,
}

/// Print what this host can enforce and what the profiles give
#[derive(Debug, clap::Args)]
struct Nothing {}

/// List sandboxes, newest first
#[derive(Debug, clap::Args)]
struct List {
    /// Only those in this state; repeatable
    #[arg(long)]
    state: Vec<String>,
    /// Only those with this metadata; repeatable, all must match
    #[arg(long, value_name = "KEY=VALUE", value_parser = specification::pair)]
    metadata: Vec<(String, String)>,
}

/// Run a program and print what it writes
#[derive(Debug, clap::Args)]
struct Run {
    /// The sandbox's id
    sandbox: String,
    /// The program and its arguments; a single word with blanks is a line for the shell
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
    /// A variable of its environment; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = specification::pair)]
    env: Vec<(String, String)>,
    /// Its working directory
    #[arg(long)]
    cwd: Option<String>,
    /// Its user
    #[arg(long, short)]
    user: Option<String>,
    /// Pass standard input on
    #[arg(long, short)]
    interactive: bool,
    /// End it after this long, such as 30s
    #[arg(long, value_parser = specification::duration)]
    timeout: Option<std::time::Duration>,
}

/// Open a terminal in a sandbox
#[derive(Debug, clap::Args)]
struct Shell {
    /// The sandbox's id
    sandbox: String,
    /// The program; a login shell where absent
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
    /// Its user
    #[arg(long, short)]
    user: Option<String>,
}

/// Bring a sandbox back to a snapshot, under the same id
#[derive(Debug, clap::Args)]
struct Back {
    /// The sandbox's id
    sandbox: String,
    /// The snapshot's id or name
    snapshot: String,
}

/// Make new sandboxes from what a sandbox's files are now, and print their ids
#[derive(Debug, clap::Args)]
struct Branch {
    /// The sandbox's id
    sandbox: String,
    /// How many
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// The forks may use the parent's secrets
    #[arg(long)]
    share_secrets: bool,
}

/// Make an image from what a sandbox's files are now
#[derive(Debug, clap::Args)]
struct Keep {
    /// The sandbox's id
    sandbox: String,
    /// The image's name
    name: String,
}

/// Pause a sandbox
#[derive(Debug, clap::Args)]
struct Rest {
    /// The sandbox's id
    sandbox: String,
    /// End its processes and keep its files, instead of freezing it with its memory
    #[arg(long)]
    stop: bool,
}

/// Print what happened to a sandbox
#[derive(Debug, clap::Args)]
struct Logs {
    /// The sandbox's id
    sandbox: String,
    /// Go on as more happens
    #[arg(long, short)]
    follow: bool,
}

/// Show what sandboxes use
#[derive(Debug, clap::Args)]
struct Top {
    /// Show it once and end
    #[arg(long)]
    once: bool,
}

pub(crate) fn execute(arguments: Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let Arguments { command, connection } = arguments;
    let client = Client::new(&connection.url, connection.ca.as_deref(), connection.key.as_deref())?;
    let runtime = super::runtime::single()?;
    let end = runtime.block_on(perform(command, &client, connection.json, terminal));
    // A read of the terminal that nobody waits for any more must not hold the command back.
    runtime.shutdown_background();
    end
}

fn of(sandbox: &str, rest: &str) -> String {
    format!("/v1/sandboxes/{}{rest}", segment(sandbox))
}

async fn perform(command: Command, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    match command {
        Command::Create(create) => specification::create(*create, client, json, terminal).await,
        Command::List(list) => self::list(list, client, json, terminal).await,
        Command::Exec(run) if json && !run.interactive => exec(run, client, terminal).await,
        Command::Exec(run) => shell::streamed(run, client, terminal).await,
        Command::Shell(shell) => shell::open(shell, client).await,
        Command::Cp(copy) => copy::execute(copy, client, terminal).await,
        Command::Snapshot(arguments) => snapshot::execute(arguments, client, json, terminal).await,
        Command::Rollback(back) => {
            let body = Rollback { snapshot: back.snapshot };
            let sandbox: Sandbox = client.tell(Method::POST, &of(&back.sandbox, "/rollback"), &body).await?;
            printed(&sandbox, &sandbox.id, json, terminal)
        }
        Command::Fork(branch) => fork(branch, client, json, terminal).await,
        Command::Diff(one) => {
            let changes: Page<Change> = client.ask(Method::GET, &of(&one.sandbox, "/diff")).await?;
            print::changes(&changes, json, terminal)
        }
        Command::Commit(keep) => {
            let body = Commit { name: keep.name };
            let image: Value = client.tell(Method::POST, &of(&keep.sandbox, "/commit"), &body).await?;
            printed(&image, image["image"].as_str().unwrap_or_default(), json, terminal)
        }
        Command::Pause(rest) => {
            let kind = if rest.stop { PauseKind::Stopped } else { PauseKind::Frozen };
            let body = Pause { kind: Some(kind) };
            let sandbox: Sandbox = client.tell(Method::POST, &of(&rest.sandbox, "/pause"), &body).await?;
            printed(&sandbox, &sandbox.id, json, terminal)
        }
        Command::Resume(one) => {
            let sandbox: Sandbox = client.tell(Method::POST, &of(&one.sandbox, "/resume"), &json!({})).await?;
            printed(&sandbox, &sandbox.id, json, terminal)
        }
        Command::Rm(many) => remove(many, client, json, terminal).await,
        Command::Logs(logs) => print::logs(&logs, client, json, terminal).await,
        Command::Top(top) => print::top(&top, client, json, terminal).await,
        Command::Capabilities(Nothing {}) => {
            let capabilities: Capabilities = client.ask(Method::GET, "/v1/capabilities").await?;
            print::capabilities(&capabilities, json, terminal)
        }
    }
}

/// JSON where it was asked for, else the one word that scripts want.
fn printed(answer: &impl serde::Serialize, word: &str, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let text = if json { serde_json::to_string(answer).map_err(anyhow::Error::new)? } else { word.to_owned() };
    Ok(terminal.line(&text)?)
}

async fn list(list: List, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let mut query: Vec<String> = list.state.iter().map(|state| format!("state={}", segment(state))).collect();
    query.extend(list.metadata.iter().map(|(key, value)| format!("metadata.{}={}", segment(key), segment(value))));
    let mut cursor = None;
    loop {
        let mut parts = query.clone();
        parts.extend(cursor.take().map(|cursor: String| format!("cursor={}", segment(&cursor))));
        let path = format!("/v1/sandboxes?{}", parts.join("&"));
        let page: Page<Sandbox> = client.ask(Method::GET, &path).await?;
        print::sandboxes(&page.items, json, terminal)?;
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}

/// The program as it was written on the command line.
fn program(command: &[String]) -> Program {
    match command {
        [line] if line.contains(' ') => Program::Line(line.clone()),
        words => Program::Arguments(words.to_vec()),
    }
}

/// Runs a program to its end and prints the daemon's JSON, its output within the daemon's bound.
async fn exec(run: Run, client: &Client, terminal: &mut Terminal) -> Result<(), Exit> {
    let body = Exec {
        command: program(&run.command),
        env: run.env.into_iter().collect(),
        cwd: run.cwd,
        user: run.user,
        stdin: None,
        timeout: run.timeout,
        ..Exec::default()
    };
    let result: ExecResult = client.tell(Method::POST, &of(&run.sandbox, "/exec"), &body).await?;
    terminal.line(&serde_json::to_string(&result).map_err(anyhow::Error::new)?)?;
    ended(result.exit)
}

/// The command ends as its program did.
fn ended(exit: Ended) -> Result<(), Exit> {
    let status = match exit {
        Ended::Code(code) => u8::try_from(code).unwrap_or(1),
        Ended::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
    };
    if status == 0 { Ok(()) } else { Err(Exit::silent(Code::Program(status))) }
}

async fn fork(branch: Branch, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let body = Fork { count: Some(branch.count), lease: None, share_secrets: branch.share_secrets };
    let forks: Page<Outcome> = client.tell(Method::POST, &of(&branch.sandbox, "/fork"), &body).await?;
    outcomes(&forks, json, terminal)
}

/// Outcomes of a batch: ids on standard output, failures on standard error.
fn outcomes(outcomes: &Page<Outcome>, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        return printed(outcomes, "", true, terminal);
    }
    let mut failed = false;
    for outcome in &outcomes.items {
        match outcome {
            Outcome::Sandbox(sandbox) => terminal.line(&sandbox.id)?,
            Outcome::Error(failure) => {
                failed = true;
                terminal.note(&client::explained(failure))?;
            }
        }
    }
    if failed { Err(Exit::silent(Code::Failed)) } else { Ok(()) }
}

async fn remove(many: Many, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    for id in &many.sandboxes {
        let sandbox: Sandbox = client.ask(Method::DELETE, &of(id, "")).await?;
        printed(&sandbox, &sandbox.id, json, terminal)?;
    }
    Ok(())
}
