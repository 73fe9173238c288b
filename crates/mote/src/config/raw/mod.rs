//! `agent.yaml` as it is written: the shape alone, from which its JSON Schema is generated.
//!
//! Nothing here is validated beyond its type; units are still text. Validated values are in [`super`].

mod sandbox;
mod service;
mod unit;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Number, Value};

use crate::tools::Effect;

pub(super) use sandbox::{Facility, Network, Profile, Release, Resources, Sandbox, SandboxTool, SecretBinding};
pub(super) use service::{Auth, Events, Server, Switch, Telemetry};
pub(super) use unit::{Duration, Size, Tokens};

/// One agent: everything that it is and may do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "agent.yaml", extend("x-hint" = "an agent.yaml is a mapping; see docs/agent-yaml.md"))]
pub(super) struct Agent {
    /// The format's version.
    #[serde(rename = "apiVersion")]
    #[schemars(example = &"mote/v1")]
    pub(super) _api_version: ApiVersion,
    /// What the file describes.
    #[serde(rename = "kind")]
    #[schemars(example = &"Agent")]
    pub(super) _kind: Kind,
    /// The agent's name: lower-case letters, digits and hyphens, at most 63.
    #[schemars(example = &"my-agent", regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))]
    pub(super) name: String,
    /// The agent's semantic version. Default: `0.0.0`.
    #[schemars(extend("x-hint" = "a version is text: put it in quotes, such as \"1.4.0\""))]
    pub(super) version: Option<String>,
    /// One sentence on what the agent does.
    pub(super) description: Option<String>,
    /// The system prompt, here or in a file.
    #[schemars(example = Value::from("You are a careful assistant."))]
    pub(super) prompt: Prompt,
    /// The model, and what to fall back to.
    #[schemars(example = serde_json::json!({"provider": "openai", "name": "my-model", "base_url": "http://127.0.0.1:11434/v1"}))]
    pub(super) model: Model,
    /// The tools that the agent may call.
    #[serde(default)]
    pub(super) tools: Vec<Tool>,
    /// What a result must look like. Without it a result is text.
    pub(super) output: Option<Output>,
    /// Limits of a run.
    pub(super) limits: Option<Limits>,
    /// What a run does that resumes under a changed capability set: `continue` (unless a pending call's tool changed) or
    /// `fail`. Default: `continue`.
    #[serde(rename = "on_change")]
    pub(super) on_change: Option<OnChange>,
    /// What runs may spend.
    pub(super) budget: Option<Budget>,
    /// How much of the transcript the model sees.
    pub(super) context: Option<Context>,
    /// Where runs are kept; the folder is given by `--state`. Default: `sqlite`.
    #[serde(rename = "state")]
    pub(super) _state: Option<State>,
    /// The HTTP service of `mote serve`.
    pub(super) server: Option<Server>,
    /// Who may use the service.
    pub(super) auth: Option<Auth>,
    /// Logs and traces.
    pub(super) telemetry: Option<Telemetry>,
    /// Where finished tasks are published.
    pub(super) events: Option<Events>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) enum ApiVersion {
    #[serde(rename = "mote/v1")]
    V1,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) enum Kind {
    Agent,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Sqlite,
}

/// A system prompt: the text itself, or `{file: PATH}`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Prompt {
    /// The text.
    Text(String),
    /// A file beside `agent.yaml`.
    File(FileReference),
}

/// A file. A relative path is resolved against the folder of `agent.yaml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileReference {
    /// The path.
    pub(super) file: String,
}

/// Where a secret is read from when the process starts; never the secret itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[schemars(extend("x-hint" = "a secret is never written into agent.yaml, where it would end in version control and logs: name its place, {env: VARIABLE} or {file: PATH}"))]
pub(super) enum Secret {
    /// The name of an environment variable.
    Env(String),
    /// The path of a file, such as a mounted Kubernetes secret; its trailing newline is dropped.
    File(String),
}

/// A wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Provider {
    /// Anthropic Messages.
    Anthropic,
    /// Chat Completions as OpenAI, Ollama, vLLM, llama.cpp and others speak it.
    Openai,
    /// Replays a plan from a file; tools are performed for real.
    Scripted,
    /// Records exchanges with another provider, or replays them.
    Cassette,
}

/// A model endpoint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    /// The wire format.
    #[schemars(example = &"openai")]
    pub(super) provider: Provider,
    /// The model's name at the endpoint. Needed by `anthropic` and `openai`.
    pub(super) name: Option<String>,
    /// The API key's place.
    pub(super) key: Option<Secret>,
    /// The endpoint. Defaults: `https://api.anthropic.com`, `https://api.openai.com/v1`.
    pub(super) base_url: Option<String>,
    /// `scripted`: the file of the plan.
    pub(super) plan: Option<String>,
    /// `cassette`: the file of the recording.
    pub(super) file: Option<String>,
    /// `cassette`: record what this endpoint says. Without it the recording is replayed.
    pub(super) record: Option<Box<Model>>,
    /// Endpoints to try, in order, when this one does not answer. They have no `fallback` of their own.
    #[serde(default)]
    pub(super) fallback: Vec<Model>,
    /// Prices. Default: the built-in price table's, by the model's name.
    pub(super) price: Option<Price>,
    /// Largest reply. Default: `4k`.
    pub(super) output_max: Option<Tokens>,
    /// Bound on one call, start to last byte. Default: `5m`.
    pub(super) timeout: Option<Duration>,
    /// Bound on silence within a reply. Default: `60s`.
    pub(super) idle_timeout: Option<Duration>,
    /// Sampling temperature. Default: the provider's.
    #[schemars(range(min = 0, max = 2))]
    pub(super) temperature: Option<f64>,
    /// Whether to mark what the provider may cache. Default: `true`.
    pub(super) cache: Option<bool>,
    /// `openai`: the name of the limit of a reply. Default: `auto`, which finds out what the endpoint takes.
    pub(super) output_limit_field: Option<super::OutputLimitField>,
}

/// Prices in USD per million tokens.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    /// Input that was not cached.
    #[schemars(with = "f64", range(min = 0), example = 1)]
    pub(super) input: Number,
    /// Output.
    #[schemars(with = "f64", range(min = 0), example = 1)]
    pub(super) output: Number,
    /// Input read from the provider's cache. Default: as `input`.
    #[schemars(with = "Option<f64>", range(min = 0))]
    pub(super) cache_read: Option<Number>,
    /// Input written to the provider's cache. Default: as `input`.
    #[schemars(with = "Option<f64>", range(min = 0))]
    pub(super) cache_write: Option<Number>,
}

impl Price {
    /// Of input and output alone.
    pub(super) fn of([input, output]: [Number; 2]) -> Self {
        Self { input, output, cache_read: None, cache_write: None }
    }
}

/// A tool: `{builtin: NAME}`, `{sandbox: …}`, or one that is declared here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Tool {
    /// Declared here.
    Http(Box<HttpTool>),
    /// Built in.
    Builtin(BuiltinTool),
    /// The tools of a sandbox.
    Sandbox(Box<SandboxTool>),
}

/// A built-in tool.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BuiltinTool {
    /// Which one.
    pub(super) builtin: Builtin,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Builtin {
    /// Waits until `POST /tasks/{id}/signals/{name}` brings a named signal.
    WaitForSignal,
    /// Waits until a time, or for a duration.
    WaitUntil,
    /// Asks a person a question; `POST /tasks/{id}/input` answers it.
    AskPerson,
}

/// A tool whose backend speaks HTTP.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({"name": "stand_in", "description": "x", "http": {"url": "https://example.com/"}, "input": {"type": "object"}, "effect": "read"}))]
pub(super) struct HttpTool {
    /// The tool's name: letters, digits, `_` and `-`, at most 64.
    #[schemars(example = &"get_ticket", regex(pattern = "^[a-zA-Z0-9_-]{1,64}$"))]
    pub(super) name: String,
    /// The tool's semantic version. Default: `1.0.0`.
    #[schemars(extend("x-hint" = "a version is text: put it in quotes, such as \"1.4.0\""))]
    pub(super) version: Option<String>,
    /// What the tool does and when to use it, for the model.
    #[schemars(example = &"Reads a ticket by its id.")]
    pub(super) description: String,
    /// The request.
    pub(super) http: Http,
    /// JSON Schema 2020-12 of the arguments; `type: object`.
    #[schemars(with = "AnyObject", example = serde_json::json!({"type": "object"}))]
    pub(super) input: Value,
    /// What repeating a call means: `read` may be repeated freely; `idempotent` is retried with the same
    /// `Idempotency-Key`; `write` is never retried once it may have reached the backend.
    #[schemars(example = &"read", extend("x-hint" = "say what repeating a call means: `effect: read`, `idempotent` or `write`; it decides what may be retried after a failure"))]
    pub(super) effect: Effect,
    /// Bound on one attempt. Default: `30s`.
    pub(super) timeout: Option<Duration>,
    /// Bound on the result; what is beyond is cut off and said to be. Default: `64KiB`.
    pub(super) output_max: Option<Size>,
    /// `idempotent`: how long the backend remembers a key. Default: for ever.
    pub(super) key_ttl: Option<Duration>,
    /// Whether a person approves each call. Default: `false`.
    pub(super) approval: Option<bool>,
}

/// A JSON object, carried as it is.
#[derive(Debug, JsonSchema)]
#[schemars(transparent)]
pub(super) struct AnyObject(#[allow(dead_code, reason = "describes a shape")] serde_json::Map<String, Value>);

/// An HTTP request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({"url": "https://example.com/"}))]
pub(super) struct Http {
    /// The method. Default: `GET`.
    pub(super) method: Option<Method>,
    /// The URL. `{name}` stands for the argument of that name, percent-encoded; the other arguments go to the query (GET,
    /// HEAD, DELETE) or to a JSON body.
    #[schemars(example = &"https://tickets.internal/{id}")]
    pub(super) url: String,
    /// Headers to send. A value is text, or a secret's place.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Header>,
    /// Hosts, `host` or `host:port`, that redirects may lead to. The URL's own host is always allowed.
    #[serde(default)]
    pub(super) allow_hosts: Vec<String>,
    /// Whether private and loopback addresses may be reached, or which networks of them, such as `[10.20.0.0/16]`.
    /// `true` leaves out the link-local ones, where cloud metadata is. Default: `false`.
    pub(super) allow_private: Option<AllowPrivate>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum AllowPrivate {
    All(bool),
    Networks(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

/// A header's value: text, or the place of a secret with text to put before it (`prefix: "Bearer "`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Header {
    /// Text.
    Literal(String),
    /// A secret in an environment variable.
    Env(EnvHeader),
    /// A secret in a file.
    File(FileHeader),
}

/// A header's secret in an environment variable.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvHeader {
    /// The variable's name.
    pub(super) env: String,
    /// Text before the secret, such as `"Bearer "`.
    pub(super) prefix: Option<String>,
}

/// A header's secret in a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileHeader {
    /// The path.
    pub(super) file: String,
    /// Text before the secret, such as `"Bearer "`.
    pub(super) prefix: Option<String>,
}

/// What a result must look like.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Output {
    /// JSON Schema 2020-12; `type: object`.
    #[schemars(with = "AnyObject", example = serde_json::json!({"type": "object"}))]
    pub(super) schema: Value,
}

/// Limits of a run.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Model steps. Default: 30.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) steps: Option<u32>,
    /// Tool calls. Default: 60.
    #[schemars(range(min = 0, max = 100_000))]
    pub(super) tool_calls: Option<u32>,
    /// Tool calls of one turn that run at once. Default: 8.
    #[schemars(range(min = 1, max = 32))]
    pub(super) parallel: Option<u16>,
    /// Broken replies of one model to one step before it is not asked again for it. Default: 4.
    #[schemars(range(min = 1, max = 100))]
    pub(super) model_attempts: Option<u16>,
    /// How long no model may be available (unreachable, overloaded, failing) before the run fails. Default: `15m`.
    pub(super) model_outage: Option<Duration>,
    /// Attempts at one tool call, where its effect class allows more than one. Default: 3.
    #[schemars(range(min = 1, max = 100))]
    pub(super) tool_attempts: Option<u16>,
    /// First back-off between attempts; it doubles. Default: `500ms`.
    pub(super) backoff: Option<Duration>,
    /// Longest back-off. Default: `30s`.
    pub(super) backoff_max: Option<Duration>,
    /// Times that the same turn of calls may repeat before the run fails. Default: 3.
    #[schemars(range(min = 1, max = 100))]
    pub(super) repeats: Option<u16>,
    /// Answers that may fail the output schema before the run fails. Default: 2.
    #[schemars(range(min = 0, max = 100))]
    pub(super) repairs: Option<u16>,
    /// Working time, waits excluded. Default: `10m`.
    pub(super) active: Option<Duration>,
    /// Wall time, waits included. Default: `30d`.
    pub(super) expires: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnChange {
    /// The run goes on, unless a pending call's tool changed.
    Continue,
    /// The run fails.
    Fail,
}

/// What runs may spend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// Each run.
    pub(super) per_run: Option<Bound>,
    /// All runs of the agent in a window.
    pub(super) agent: Option<Windowed>,
    /// Each tenant in a window.
    pub(super) per_tenant: Option<Windowed>,
    /// Each user in a window.
    pub(super) per_user: Option<Windowed>,
    /// Each session, over its whole life.
    pub(super) per_session: Option<Bound>,
}

/// A bound on money, on tokens, or on both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Bound {
    /// USD.
    #[schemars(with = "Option<f64>", range(min = 0))]
    pub(super) usd: Option<Number>,
    /// Tokens, in and out.
    pub(super) tokens: Option<Tokens>,
}

/// A bound that starts anew with each window.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Windowed {
    /// USD.
    #[schemars(with = "Option<f64>", range(min = 0))]
    pub(super) usd: Option<Number>,
    /// Tokens, in and out.
    pub(super) tokens: Option<Tokens>,
    /// The window's length; windows start at its multiples since 1970 (UTC).
    pub(super) every: Duration,
}

/// How much of the transcript the model sees.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// The model's window. Default: `120k`.
    pub(super) window: Option<Tokens>,
    /// Kept free for what is not counted exactly. Default: `8k`.
    pub(super) reserve: Option<Tokens>,
    /// When the window is full, the oldest is folded away down to this share of it. Default: `60%`.
    #[schemars(regex(pattern = r"^[0-9]+ *%$"))]
    pub(super) low_water: Option<String>,
}
