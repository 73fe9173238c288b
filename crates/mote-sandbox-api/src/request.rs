//! The bodies of the native API: what is sent to `/v1` and what comes back.
//!
//! It does not hold routes: the daemon's `api/native` maps them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guest;
use crate::lifecycle::State;
use crate::spec::{ImageSource, Profile, Spec};
use crate::units;

/// `POST /v1/sandboxes`: one sandbox, or a batch where `count` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// How it is made.
    #[serde(default)]
    pub spec: Spec,
    /// How many (at most [`crate::limits::BATCH_MAX`]); the answer is then a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// How a pause was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PauseKind {
    /// Processes are frozen; memory stays.
    Frozen,
    /// Processes were ended; the filesystem stays.
    Stopped,
}

/// A sandbox as it is told to callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// `sb` and 20 characters of base32.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// Substrate that carries it.
    pub substrate: String,
    /// The profile it was made with.
    pub profile: Profile,
    /// The image it was made from.
    pub image: ImageSource,
    /// Free keys and values.
    pub metadata: BTreeMap<String, String>,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// When its lease runs out, milliseconds since the epoch; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ends_ms: Option<u64>,
    /// When it is removed whatever happens; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The sandbox that this one was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The snapshot that its filesystem started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// How it is paused, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseKind>,
    /// Token for the data plane; told only on creation and connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Why it failed or ended, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/sandboxes/{id}/exec`: one process from start to end, its output gathered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Program and arguments, or a line for the shell.
    pub command: Command,
    /// Added to the sandbox's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Text for its standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Ended with all its children after this long.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration::option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "40m"))]
    pub timeout: Option<Duration>,
    /// Bytes of each of standard output and standard error that are answered: of longer output the first and the last half,
    /// and between them a line that says how much was left out. The daemon's bound, and the beginning alone, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_max: Option<u64>,
}

/// A program with arguments, or a line for `/bin/sh -c`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum Command {
    /// A line for the shell.
    Line(String),
    /// Program and arguments.
    Arguments(Vec<String>),
}

impl Default for Command {
    fn default() -> Self {
        Self::Line(String::new())
    }
}

/// What came of an [`Exec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecResult {
    /// Standard output, lossily as UTF-8, cut at the daemon's bound.
    pub stdout: String,
    /// Standard error, the same.
    pub stderr: String,
    /// Bytes that were cut from both.
    pub truncated_bytes: u64,
    /// How it ended.
    pub exit: guest::Exit,
    /// It was ended because its time was over.
    pub timed_out: bool,
    /// Processes of the sandbox, this one or others, that the kernel ended meanwhile because its memory was used up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u64,
    /// Milliseconds from start to end.
    pub duration_ms: u64,
}

/// `POST /v1/sandboxes/{id}/snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// Free name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// `sn` and 20 characters of base32.
    pub id: String,
    /// Free name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The sandbox it was taken of.
    pub sandbox: String,
    /// The image below it.
    pub image: ImageSource,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
    /// Whether the memory of processes is in it: never on containers.
    pub memory: bool,
    /// Bytes that only this snapshot holds, where the filesystem can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive_bytes: Option<u64>,
    /// `sha256:…` of the files, where the snapshot was imported: the same wherever the same files are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// `POST /v1/sandboxes/{id}/rollback`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// A snapshot of this sandbox or of an ancestor.
    pub snapshot: String,
}

/// `POST /v1/sandboxes/{id}/fork`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// How many (at most [`crate::limits::BATCH_MAX`]); 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Lease of the forks; the parent's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration::option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "40m"))]
    pub lease: Option<Duration>,
    /// Forks carry the parent's secrets; refused where the parent has secrets and this is not set.
    #[serde(default)]
    pub share_secrets: bool,
}

/// `POST /v1/sandboxes/{id}/commit`: an image from what the sandbox's root is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Name of the image.
    pub name: String,
}

/// One change of a `GET /v1/sandboxes/{id}/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Change {
    /// Absolute path inside.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// What it is now (what it was, where it was removed).
    pub entry: guest::EntryKind,
    /// Bytes, for a file.
    pub size: u64,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// Its content or its attributes differ.
    Modified,
    /// It is no longer there.
    Removed,
}

/// What a sandbox uses now, from its cgroups and quota group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Usage {
    /// CPU time since creation, microseconds.
    pub cpu_us: u64,
    /// Time that it was held back by its bound on the processor since creation, microseconds.
    #[serde(default)]
    pub cpu_throttled_us: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory bound in bytes.
    pub memory_bytes_max: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Times that the kernel ended a process for memory.
    pub oom_kills: u64,
    /// Bytes of its own filesystem in use, where the filesystem can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Disk bound in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes_max: Option<u64>,
    /// Bytes sent through the proxy.
    pub sent_bytes: u64,
    /// Bytes received through the proxy.
    pub received_bytes: u64,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Cursor of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One outcome of a batch: of `POST /v1/sandboxes` with `count`, and of a fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was made.
    Sandbox(Box<Sandbox>),
    /// It was not.
    Error(crate::error::Failure),
}

/// `POST /v1/sandboxes/{id}/pause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// How; frozen where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PauseKind>,
}

/// `POST /v1/sandboxes/{id}/renew`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// How long the lease is from now on; as long as before where absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "units::duration::option")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "40m"))]
    pub lease: Option<Duration>,
}

/// `POST /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Volume {
    /// `vo` and 20 characters of base32.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Milliseconds since the epoch.
    pub created_ms: u64,
}

/// `PUT /v1/secrets/{name}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PutSecret {
    /// The value; never told again.
    pub value: String,
}

impl std::fmt::Debug for PutSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PutSecret").finish_non_exhaustive()
    }
}

/// A secret as it is listed: without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// When it was last set, milliseconds since the epoch.
    pub changed_ms: u64,
}

/// `POST /v1/images`: an image from elsewhere, fetched now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// Where it comes from.
    pub source: ImageSource,
}

/// What the client of `GET /v1/sandboxes/{id}/stream` (a WebSocket) says in text messages; binary messages are standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StreamRequest {
    /// Starts a process; the first message, unless it is `attach`.
    Start(guest::Start),
    /// Follows a process that runs; the first message, unless it is `start`.
    Attach(guest::Selector),
    /// The terminal has another size.
    Resize(guest::TerminalSize),
    /// Sends a signal to the process's group.
    Signal(i32),
    /// Standard input has ended.
    StdinEnd,
}

/// What the server says in text messages. Binary messages are output: the first byte says of which stream
/// ([`STREAM_STDOUT`], [`STREAM_STDERR`], [`STREAM_TERMINAL`]), the rest is what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StreamEvent {
    /// The process runs.
    Started {
        /// Process id inside.
        pid: u32,
    },
    /// The process ended and all its output was sent; the last message.
    Exited {
        /// How.
        exit: guest::Exit,
        /// Because its time was over.
        timed_out: bool,
        /// Processes of the sandbox, this one or others, that the kernel ended meanwhile because its memory was used up.
        #[serde(default, skip_serializing_if = "is_zero")]
        oom_kills: u64,
    },
    /// It did not work; the last message.
    Failed(crate::error::Failure),
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// First byte of a binary message with standard output.
pub const STREAM_STDOUT: u8 = 1;
/// First byte of a binary message with standard error.
pub const STREAM_STDERR: u8 = 2;
/// First byte of a binary message with a terminal's output.
pub const STREAM_TERMINAL: u8 = 3;
