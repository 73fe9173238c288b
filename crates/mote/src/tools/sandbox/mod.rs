//! The sandbox's tools: `shell`, `python` and files, in a sandbox of the agent's own at a `mote-sandboxd`.
//!
//! A file each for where a call works (`home`), for each kind of work, for giving back. It isolates nothing itself: the
//! daemon does. It does not retry; the core decides that from the effect class and from what is known of an attempt.

mod bound;
pub mod client;
pub mod config;
mod definition;
mod files;
mod home;
mod python;
mod release;
mod shell;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mote_sandbox_api::error::Code;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

pub use home::Sandboxes;

use self::client::{Trouble, segment};
use self::definition::Kind;
use self::home::{Homeless, Place};
use super::{Effect, Failure, FailureKind, Invocation, Output, Progress, SendError, Tool};
use crate::canonical;
use crate::limits::{SANDBOX_CREATE_WAIT, SANDBOX_GRACE};
use crate::model::ToolDefinition;

/// The tools that the agent's configuration allows.
#[must_use]
pub fn tools(sandboxes: &Arc<Sandboxes>) -> Vec<Arc<dyn Tool>> {
    let allowed: Vec<&str> = sandboxes.config.allow.iter().flat_map(|facility| facility.tools()).copied().collect();
    let kinds = Kind::ALL.into_iter().filter(|kind| allowed.contains(&kind.name()));
    kinds.map(|kind| Arc::new(SandboxTool::new(kind, sandboxes)) as Arc<dyn Tool>).collect()
}

/// One tool.
struct SandboxTool {
    kind: Kind,
    definition: ToolDefinition,
    digest: [u8; 32],
    sandboxes: Arc<Sandboxes>,
}

/// What one piece of work gave: an answer, or what is known of an attempt that gave none.
type Worked = Result<Answer, Trouble>;

/// What the model is told.
struct Answer {
    body: Body,
    is_error: bool,
}

enum Body {
    /// Fields of a JSON object.
    Fields(Map<String, Value>),
    /// Text as it stands.
    Text(String),
}

impl Answer {
    fn fields(fields: Value) -> Self {
        let fields = if let Value::Object(fields) = fields { fields } else { Map::new() };
        Self { body: Body::Fields(fields), is_error: false }
    }

    fn text(text: impl Into<String>) -> Self {
        Self { body: Body::Text(text.into()), is_error: false }
    }

    fn refused(text: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::text(text) }
    }

    fn output(self, note: Option<String>) -> Output {
        let content = match (self.body, note) {
            (Body::Fields(mut fields), Some(note)) => {
                fields.insert("note".to_owned(), note.into());
                ordered(fields)
            }
            (Body::Fields(fields), None) => ordered(fields),
            (Body::Text(text), Some(note)) => format!("[{note}]\n{text}"),
            (Body::Text(text), None) => text,
        };
        Output::free(content, self.is_error)
    }
}

/// JSON with its keys in order: the same answer is the same text.
fn ordered(fields: Map<String, Value>) -> String {
    let mut value = Value::Object(fields);
    value.sort_all_objects();
    value.to_string()
}

/// One call at work.
struct Work<'a> {
    sandboxes: &'a Sandboxes,
    invocation: &'a Invocation,
    place: &'a Place,
    /// Whether a request must not be repeated.
    fresh: bool,
}

impl Work<'_> {
    fn argument(&self, name: &str) -> &str {
        self.invocation.arguments[name].as_str().unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.invocation.arguments[name].as_u64()
    }

    /// Bound on what the answer holds, a note included.
    fn output_max(&self) -> usize {
        let note = self.place.note.as_ref().map_or(0, |note| note.len() + 16);
        self.sandboxes.config.output_max.saturating_sub(note).max(1)
    }

    /// The time that the model gives, within what the configuration allows.
    fn timeout(&self) -> Duration {
        let most = self.sandboxes.config.timeout;
        self.number("timeout").map_or(most, |seconds| Duration::from_secs(seconds).min(most))
    }

    /// A request below the sandbox.
    fn request(&self, method: Method, below: &str) -> Result<RequestBuilder, Trouble> {
        let path = format!("/v1/sandboxes/{}/{below}", segment(&self.place.id));
        let http = self.sandboxes.http(self.fresh)?;
        Ok(home::traced(self.sandboxes.daemon.request(&http, method, &path), self.invocation))
    }

    /// Sends a request while the worker holds the task; an answer that is no success is trouble.
    async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, Trouble> {
        let daemon = &self.sandboxes.daemon;
        match self.invocation.lease.send(request).await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(daemon.refusal(response).await),
            Err(SendError::Client(error)) => Err(daemon.unreachable(&error)),
            Err(SendError::LeaseLost(lost)) => {
                let (base, reason) = (daemon.base().to_owned(), lost.to_string());
                Err(Trouble::Unreachable { base, reason, sent: false })
            }
        }
    }

    /// A request about the file that the call names.
    fn file(&self, method: Method, below: &str, query: &str) -> Result<RequestBuilder, Trouble> {
        let path = segment(self.argument("path"));
        self.request(method, &format!("files{below}?path={path}{query}"))
    }
}

impl SandboxTool {
    fn new(kind: Kind, sandboxes: &Arc<Sandboxes>) -> Self {
        let config = &sandboxes.config;
        let definition = kind.definition(config);
        let digest = canonical::digest(&json!({
            "kind": "sandbox",
            "name": definition.name,
            "input": definition.input_schema,
            "url": config.url,
            "spec": config.spec,
        }));
        Self { kind, definition, digest, sandboxes: Arc::clone(sandboxes) }
    }

    async fn work(&self, work: &Work<'_>) -> Worked {
        match self.kind {
            Kind::Shell => shell::run(work).await,
            Kind::Python => python::run(work).await,
            Kind::FileRead => files::read(work).await,
            Kind::FileList => files::list(work).await,
            Kind::FileWrite => files::write(work).await,
            Kind::FileEdit => files::edit(work).await,
        }
    }

    fn failure(&self, kind: FailureKind, message: impl Into<String>, retry_after: Option<Duration>) -> Failure {
        Failure { kind, tool: self.definition.name.clone(), message: message.into(), retry_after }
    }

    /// There is no sandbox: nothing was performed, whatever went wrong.
    fn homeless(&self, homeless: &Homeless) -> Result<Output, Failure> {
        let message = homeless.to_string();
        match homeless {
            Homeless::Daemon(Trouble::Refused { status, failure, retry_after, .. }) => {
                let passing = matches!(status.as_u16(), 408 | 409 | 425 | 429 | 500..=599);
                let unsupported = failure.as_ref().is_some_and(|failure| failure.code == Code::Unsupported);
                if passing && !unsupported {
                    return Err(self.failure(FailureKind::Refused, message, *retry_after));
                }
                // It will not be otherwise the next time: a key that is not known, an image that is not there.
                Ok(Answer::refused(message).output(None))
            }
            _ => Err(self.failure(FailureKind::NotSent, message, None)),
        }
    }

    /// What is known of a request that gave no answer.
    fn troubled(&self, trouble: &Trouble, note: Option<String>) -> Result<Output, Failure> {
        let message = trouble.to_string();
        let unknown = |message| Err(self.failure(FailureKind::Unknown, message, None));
        match trouble {
            Trouble::Unreachable { sent: false, .. } => Err(self.failure(FailureKind::NotSent, message, None)),
            Trouble::Unreachable { .. } | Trouble::Broken { .. } => unknown(message),
            Trouble::Refused { status, failure, retry_after, .. } => {
                let refused = || Err(self.failure(FailureKind::Refused, message.clone(), *retry_after));
                match failure.as_ref().map(|failure| failure.code) {
                    Some(Code::Exhausted | Code::Busy) => refused(),
                    // It may have ended while the call was under way.
                    Some(Code::Gone) => unknown(message),
                    Some(Code::NotFound) if trouble.is_lost() => refused(),
                    Some(Code::Internal | Code::Timeout) => unknown(message),
                    Some(_) => Ok(Answer::refused(client::explained(*status, failure.as_deref())).output(note)),
                    None if status.as_u16() == 429 || (status.as_u16() == 503 && retry_after.is_some()) => refused(),
                    None if status.is_server_error() => unknown(message),
                    None => Ok(Answer::refused(message).output(note)),
                }
            }
        }
    }
}

#[async_trait]
impl Tool for SandboxTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn effect(&self) -> Effect {
        self.kind.effect()
    }

    /// The daemon ends a command when its time is over; this bounds a daemon that does not answer.
    fn timeout(&self) -> Duration {
        SANDBOX_CREATE_WAIT + self.sandboxes.config.timeout + SANDBOX_GRACE
    }

    fn key_ttl(&self) -> Option<Duration> {
        None
    }

    fn needs_approval(&self) -> bool {
        self.sandboxes.config.approval && self.effect() != Effect::Read
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    async fn call(&self, invocation: Invocation) -> Result<Progress, Failure> {
        let place = match self.sandboxes.place(&invocation).await {
            Ok(place) => place,
            Err(homeless) => return self.homeless(&homeless).map(Progress::from),
        };
        let fresh = self.effect() == Effect::Write;
        let work = Work { sandboxes: &self.sandboxes, invocation: &invocation, place: &place, fresh };
        let output = match self.work(&work).await {
            Ok(answer) => Ok(answer.output(place.note)),
            Err(trouble) => self.troubled(&trouble, place.note),
        };
        output.map(Progress::from)
    }
}
