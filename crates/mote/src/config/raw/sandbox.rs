//! The sandbox of an agent as `agent.yaml` writes it.
//!
//! The words are those of the daemon's own contract where it has them: `lease`, `deadline`, `cpu_milli`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Duration, FileReference, Secret, Size};

/// A sandbox of the agent's own, and what it may do there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SandboxTool {
    /// The sandbox.
    #[schemars(example = serde_json::json!({"allow": ["shell"]}))]
    pub(in crate::config) sandbox: Sandbox,
}

/// How the sandbox is made, how long it is kept, and what the agent may do in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Sandbox {
    /// The daemon's set of defaults. Default: `production`.
    pub(in crate::config) profile: Option<Profile>,
    /// What the agent may do: `shell` gives it the tool `shell`; `python` the tool `python`; `files` the tools `file_read`,
    /// `file_list`, `file_write` and `file_edit`.
    #[schemars(length(min = 1), example = serde_json::json!(["shell"]), extend("x-hint" = "say what the agent may do: `allow: [shell, python, files]`, or some of these"))]
    pub(in crate::config) allow: Vec<Facility>,
    /// The root filesystem: NAME, `snapshot:ID`, `dir:PATH`, `tar:PATH`, `oci:PATH[:TAG]`, `registry:HOST/REPO[:TAG]` or
    /// `host`. Default: the daemon's.
    pub(in crate::config) image: Option<String>,
    /// The daemon's address. Default: `MOTE_SANDBOX_URL`, else `http://127.0.0.1:7070`.
    pub(in crate::config) url: Option<String>,
    /// Certificates, in PEM, that the daemon's `https` address is held to beside the public ones: those of a private authority.
    pub(in crate::config) ca: Option<FileReference>,
    /// The place of the daemon's API key. Default: `MOTE_SANDBOX_KEY`, else the file where a daemon on this host leaves its
    /// key.
    pub(in crate::config) key: Option<Secret>,
    /// What the sandbox may reach. Default: nothing.
    pub(in crate::config) network: Option<Network>,
    /// Variables of every process's environment. Not for secrets: what runs inside can read them; see `network.secrets`.
    #[serde(default)]
    pub(in crate::config) env: BTreeMap<String, String>,
    /// The user that the agent works as. Default: the image's.
    pub(in crate::config) user: Option<String>,
    /// Bounds on what it may use. Default: the profile's.
    pub(in crate::config) resources: Option<Resources>,
    /// When the sandbox is given back. Default: `session`.
    pub(in crate::config) release: Option<Release>,
    /// Time without use after which the sandbox is paused, or removed with `release: idle`. Default: `40m`.
    pub(in crate::config) lease: Option<Duration>,
    /// Time after its creation at which the sandbox is removed whatever happens. Default: the profile's.
    pub(in crate::config) deadline: Option<Duration>,
    /// Longest that one command or one piece of code may run. Default: `2m`.
    pub(in crate::config) timeout: Option<Duration>,
    /// Bound on the result of a call; of longer output the beginning and the end are kept. Default: `64KiB`.
    pub(in crate::config) output_max: Option<Size>,
    /// Whether a person approves each call that may change something. Default: `false`.
    pub(in crate::config) approval: Option<bool>,
}

/// A set of defaults of the daemon.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Profile {
    /// Network by policy, long life, pause across gaps.
    Production,
    /// No network, small.
    Training,
}

/// What an agent may do in its sandbox.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Facility {
    /// Commands.
    Shell,
    /// Python that keeps its variables from call to call.
    Python,
    /// Files, read and written.
    Files,
}

/// When a sandbox is given back.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Release {
    /// At the end of each task.
    Turn,
    /// With its session: when that is erased or forgotten. A task without a session gives it back at its end.
    Session,
    /// As `session`, and when it was not used for `lease`.
    Idle,
}

/// What a sandbox may reach: what is allowed and not denied.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Network {
    /// Destinations that may be reached: a name, `*.NAME`, an address, a CIDR block, or `*` for every public one.
    #[serde(default)]
    pub(in crate::config) allow: Vec<String>,
    /// Destinations that may not, written the same way.
    #[serde(default)]
    pub(in crate::config) deny: Vec<String>,
    /// Private ranges that may be reached where `allow` names them, as CIDR blocks.
    #[serde(default)]
    pub(in crate::config) private_ranges: Vec<String>,
    /// Secrets of the daemon's store that are put in on the way out; inside stands a placeholder.
    #[serde(default)]
    pub(in crate::config) secrets: Vec<SecretBinding>,
}

/// A secret of the daemon's store and who may receive it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SecretBinding {
    /// Its name in the daemon's store.
    #[schemars(example = &"github")]
    pub(in crate::config) secret: String,
    /// The variable that holds the placeholder inside.
    #[schemars(example = &"GITHUB_TOKEN")]
    pub(in crate::config) env: String,
    /// Names that may receive the value.
    #[schemars(example = serde_json::json!(["api.github.com"]))]
    pub(in crate::config) hosts: Vec<String>,
    /// Headers beside `authorization` in which the placeholder is replaced.
    #[schemars(example = serde_json::json!(["x-api-key"]))]
    #[serde(default)]
    pub(in crate::config) headers: Vec<String>,
    /// Whether it is replaced in the query. Default: `false`.
    #[serde(default)]
    pub(in crate::config) query: bool,
    /// Whether it is replaced in bodies. Default: `false`.
    #[serde(default)]
    pub(in crate::config) body: bool,
    /// Whether a request that carries it may become a WebSocket. Default: `false`.
    #[serde(default)]
    pub(in crate::config) upgrade: bool,
}

/// Bounds on what a sandbox may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Resources {
    /// Memory, page cache included.
    pub(in crate::config) memory: Option<Size>,
    /// Thousandths of a processor.
    #[schemars(range(min = 1))]
    pub(in crate::config) cpu_milli: Option<u32>,
    /// Processes and threads.
    #[schemars(range(min = 1))]
    pub(in crate::config) pids: Option<u32>,
    /// What it may write to its own filesystem.
    pub(in crate::config) disk: Option<Size>,
    /// Block input and output, a second.
    pub(in crate::config) io: Option<Size>,
}
