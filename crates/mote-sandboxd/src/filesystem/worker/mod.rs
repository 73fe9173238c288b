//! What works on trees in a process of its own: this program, started again by the keeper with no more than it needs.
//!
//! It gets descriptors of trees and a socket, gives up everything else ([`confine`]), and then takes orders from the daemon,
//! which may be wrong about them: at worst a tree that nobody uses yet is spoilt. It decides nothing about names or places.

mod confine;
mod diff;
mod extension;
pub mod files;
pub(in crate::filesystem) mod pack;
mod place;
mod sparse;
mod sweep;
mod unpack;
mod walk;

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::RawPath;
use mote_sandbox_api::request::Change;
use serde::{Deserialize, Serialize};

use super::fault;
use crate::keeper::wire;
use crate::limits::{TREE_BYTES_MAX, TREE_ENTRIES_MAX};

/// The hidden subcommand that `main` hands to [`main`].
pub const SUBCOMMAND: &str = "tree-worker";
/// Empties the trash that is the standard input.
pub(super) const SWEEP: &str = "sweep";
/// Serves the socket that is the standard input.
pub(super) const SERVE: &str = "serve";

/// What a worker is for: said by the keeper in the first message, with the trees as descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// Fills the one tree.
    Unpack,
    /// Compares three trees: what was written, what lies below, and both together.
    Diff,
    /// Writes the one tree as a stream.
    Pack,
    /// Looks at and changes single files of the one tree.
    Files,
}

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// It is not.
    None,
    /// Gzip, of one member or more.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What a tree may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Bytes of its files, uncompressed.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: TREE_BYTES_MAX, entries: TREE_ENTRIES_MAX }
    }
}

/// What the daemon asks of a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Adds the archive in the descriptor to the tree.
    Unpack {
        /// How it is compressed.
        compression: Compression,
        /// `.wh.` names remove (OCI image specification, "Whiteouts").
        whiteouts: bool,
        /// What the tree may hold in all, with what earlier orders added.
        bounds: Bounds,
    },
    /// Has what was added written to the disk: what gets its name afterwards is there after a crash of the host.
    Sync,
    /// Tells what was changed.
    Diff {
        /// Changes at most.
        changes_max: usize,
    },
    /// Writes the tree to the descriptor.
    Pack,
    /// Does something with one path.
    Files {
        /// From the tree's top.
        path: RawPath,
        /// What.
        order: files::Order,
    },
    /// There is no more to do.
    End,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// Of [`Order::Unpack`].
    Unpacked(Unpacked),
    /// Of [`Order::Sync`].
    Synced,
    /// Of [`Order::Diff`]: some changes; more follow.
    Changes(Vec<Change>),
    /// Of [`Order::Diff`]: that was all.
    Compared {
        /// There were more than was asked for.
        truncated: bool,
    },
    /// Of [`Order::Pack`].
    Packed(Packed),
    /// Of [`Order::Files`]: some entries; more follow.
    Some(Vec<files::Entry>),
    /// Of [`Order::Files`]: the last ones. An open file travels beside them where one was asked for.
    Found(Vec<files::Entry>),
    /// The order failed; the worker ends.
    Failed(Failure),
}

/// What an archive added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// SHA-256 of the archive, uncompressed, in hexadecimal digits: OCI's `diff_id`.
    pub digest: String,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Devices and the like, which a sandbox cannot use: they are not made.
    pub skipped: u64,
    /// Owners beyond 65,535, which became `nobody`.
    pub unmapped: u64,
}

/// What was written of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// SHA-256 of the stream in hexadecimal digits.
    pub digest: String,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Does what the keeper started this process for. To be called first in `main`, while there is one thread.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let Ok(input) = rustix::io::dup(std::io::stdin()) else { return ExitCode::FAILURE };
    let done = match arguments.first().map(String::as_str) {
        Some(SWEEP) => confine::to(confine::SWEEP).and_then(|()| sweep::empty(&input)).is_ok(),
        Some(SERVE) => serve(&input).is_ok(),
        _ => false,
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(socket: &OwnedFd) -> Result<(), wire::Error> {
    let (task, trees) = wire::receive::<Task>(socket)?;
    let served = confine::to(match task {
        Task::Unpack => confine::UNPACK,
        Task::Diff | Task::Pack => confine::READ,
        Task::Files => confine::FILES,
    })
    .map_err(|error| fault::io("failed to give up privilege", &error))
    .and_then(|()| trees.iter().map(opened).collect::<Result<Vec<_>, _>>())
    .and_then(|trees| orders(socket, task, &trees));
    match served {
        Ok(()) => Ok(()),
        Err(failure) => {
            let _ = wire::send(socket, &Report::Failed(failure), &[]);
            Err(wire::Error::Closed)
        }
    }
}

/// A mount's descriptor leads to its top but does not open it.
fn opened(mount: &OwnedFd) -> Result<OwnedFd, Failure> {
    let top = walk::open_directory(mount, b".");
    top.map_err(|error| fault::io("failed to open a tree", &error))
}

fn orders(socket: &OwnedFd, task: Task, trees: &[OwnedFd]) -> Result<(), Failure> {
    let broken = |error: wire::Error| fault::defect("failed to talk to the daemon", &error);
    let mut unpacker = unpack::Unpacker::default();
    loop {
        let (order, mut descriptors) = wire::receive::<Order>(socket).map_err(broken)?;
        let stream = descriptors.pop();
        let report = match (task, order, trees, stream) {
            (_, Order::End, ..) => return Ok(()),
            (Task::Unpack, Order::Unpack { compression, whiteouts, bounds }, [tree], Some(stream)) => {
                Report::Unpacked(unpacker.apply(tree, stream, compression, whiteouts, bounds)?)
            }
            (Task::Unpack, Order::Sync, [tree], None) => {
                rustix::fs::syncfs(tree)
                    .map_err(|error| fault::io("failed to write a tree to the disk", &error.into()))?;
                Report::Synced
            }
            (Task::Diff, Order::Diff { changes_max }, [upper, lower, merged], None) => {
                let tell = |changes| wire::send(socket, &Report::Changes(changes), &[]).map_err(broken);
                let truncated = diff::compare(upper, lower, merged, changes_max, tell)?;
                Report::Compared { truncated }
            }
            (Task::Pack, Order::Pack, [tree], Some(sink)) => Report::Packed(pack::tree(tree, sink)?),
            (Task::Files, Order::Files { path, order }, [tree], None) => {
                let tell = |some| wire::send(socket, &Report::Some(some), &[]).map_err(broken);
                let (last, file) = files::carry_out(tree, &path, &order, tell)?;
                let descriptors: Vec<_> = file.iter().map(AsFd::as_fd).collect();
                wire::send(socket, &Report::Found(last), &descriptors).map_err(broken)?;
                continue;
            }
            _ => return Err(Failure::new(Code::Internal, "the worker got an order that is not its task")),
        };
        wire::send(socket, &report, &[]).map_err(broken)?;
    }
}
