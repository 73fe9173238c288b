//! `mote sandbox snapshot`: taking one, and those that are there: listed, removed, moved between hosts as files.
//!
//! It does not look into a file: the daemon that takes it in verifies it.

use std::io::IsTerminal as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use mote_sandbox_api::request::{Page, Snapshot, TakeSnapshot};
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::client::{Client, segment};
use super::{of, print, printed};
use crate::commands::exit::Exit;
use crate::commands::terminal::Terminal;

/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 * 1024;
/// Standard input or output.
const STREAM: &str = "-";

const AFTER_HELP: &str = "\
Examples:
  sn=$(mote sandbox snapshot $id --name start)
  mote sandbox snapshot export $sn -o start.snapshot
  mote sandbox snapshot import start.snapshot --url https://other.example:7070
  mote sandbox snapshot export $sn | zstd | ssh other 'zstd -d | mote sandbox snapshot import -'";

/// Take a snapshot of a sandbox's files and print its id; or list, remove, export and import snapshots
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The sandbox's id
    #[arg(required = true)]
    sandbox: Option<String>,
    /// A name for the snapshot
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Rm(Remove),
    Export(Export),
    Import(Import),
}

/// List snapshots, newest first
#[derive(Debug, clap::Args)]
struct List {
    /// Only those of this sandbox
    #[arg(long)]
    sandbox: Option<String>,
}

/// Remove snapshots; what was made from them stays
#[derive(Debug, clap::Args)]
struct Remove {
    /// The snapshots' ids or names
    #[arg(required = true)]
    snapshots: Vec<String>,
}

/// Write a snapshot to a file, with all that another host needs to make sandboxes of it
#[derive(Debug, clap::Args)]
struct Export {
    /// The snapshot's id or name
    snapshot: String,
    /// The file; standard output where absent or -
    #[arg(long, short, value_name = "FILE", default_value = STREAM)]
    output: PathBuf,
}

/// Make a snapshot of a file that was exported, here or elsewhere, and print its id
#[derive(Debug, clap::Args)]
struct Import {
    /// The file; standard input where it is -
    file: PathBuf,
    /// A name for the snapshot; the one it had where absent
    #[arg(long)]
    name: Option<String>,
}

pub(super) async fn execute(
    arguments: Arguments,
    client: &Client,
    json: bool,
    terminal: &mut Terminal,
) -> Result<(), Exit> {
    match arguments.command {
        Some(Command::List(list)) => self::list(list, client, json, terminal).await,
        Some(Command::Rm(remove)) => {
            for snapshot in &remove.snapshots {
                let removed: Value = client.ask(Method::DELETE, &path(snapshot, "")).await?;
                printed(&removed, snapshot, json, terminal)?;
            }
            Ok(())
        }
        Some(Command::Export(export)) => self::export(export, client, terminal).await,
        Some(Command::Import(import)) => {
            let taken = self::import(import, client).await?;
            printed(&taken, &taken.id, json, terminal)
        }
        None => {
            let sandbox = arguments.sandbox.unwrap_or_default();
            let body = TakeSnapshot { name: arguments.name };
            let taken: Snapshot = client.tell(Method::POST, &of(&sandbox, "/snapshots"), &body).await?;
            printed(&taken, &taken.id, json, terminal)
        }
    }
}

fn path(snapshot: &str, rest: &str) -> String {
    format!("/v1/snapshots/{}{rest}", segment(snapshot))
}

async fn list(list: List, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let filter = list.sandbox.map(|sandbox| format!("?sandbox={}", segment(&sandbox))).unwrap_or_default();
    let page: Page<Snapshot> = client.ask(Method::GET, &format!("/v1/snapshots{filter}")).await?;
    print::snapshots(&page.items, json, terminal)
}

async fn export(export: Export, client: &Client, terminal: &mut Terminal) -> Result<(), Exit> {
    let is_stream = export.output == Path::new(STREAM);
    if is_stream && std::io::stdout().is_terminal() {
        return Err(Exit::usage("a snapshot is not for a terminal to show: name a file with -o, or a pipe"));
    }
    let response = client.download(&path(&export.snapshot, "/export")).await?;
    if is_stream {
        let stdout = standard(&std::io::stdout()).context("failed to open standard output")?;
        written(response, stdout).await.context("failed to write to standard output")?;
        return Ok(());
    }
    // Under another name until it is whole: what has the name is a snapshot.
    let part = PathBuf::from(format!("{}.part", export.output.display()));
    let keep = async {
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part).await?;
        let bytes = written(response, file).await?;
        tokio::fs::rename(&part, &export.output).await?;
        anyhow::Ok(bytes)
    };
    let kept = tokio::select! {
        kept = keep => kept,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match kept {
        Ok(bytes) => Ok(terminal.note(&format!("{bytes} bytes written to {}", export.output.display()))?),
        Err(error) => {
            let _ = std::fs::remove_file(&part);
            Err(error.context(format!("failed to write {}", export.output.display())).into())
        }
    }
}

/// Standard input or output without the buffer that is meant for lines.
fn standard(stream: &impl AsFd) -> std::io::Result<tokio::fs::File> {
    Ok(tokio::fs::File::from_std(std::fs::File::from(stream.as_fd().try_clone_to_owned()?)))
}

async fn written(response: reqwest::Response, mut to: impl AsyncWrite + Unpin) -> anyhow::Result<u64> {
    let (mut chunks, mut bytes) = (response.bytes_stream(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.context("the export broke off")?;
        to.write_all(&chunk).await?;
        bytes += chunk.len() as u64;
    }
    to.flush().await?;
    Ok(bytes)
}

async fn import(import: Import, client: &Client) -> Result<Snapshot, Exit> {
    let name = import.name.map(|name| format!("?name={}", segment(&name))).unwrap_or_default();
    let from = if import.file == Path::new(STREAM) {
        standard(&std::io::stdin()).context("failed to open standard input")?
    } else {
        let file = tokio::fs::File::open(&import.file).await;
        file.with_context(|| format!("failed to read {}", import.file.display()))?
    };
    let body = Body::wrap_stream(ReaderStream::with_capacity(from, READ_BYTES));
    client.send_file(&format!("/v1/snapshots{name}"), body).await
}
