//! HTTP tools: one call is one request, plus the redirects that the policy allows.
//!
//! It does not retry and sets no bound on time; the caller does both. Nothing here prints a header's value.

mod client;
mod request;
mod response;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode, header};
use reqwest::Url;

pub use client::{Clients, Policy};

use super::lease::SendError;
use super::policy::hosts::Allowlist;
use super::policy::network;
use super::{Effect, Failure, FailureKind, Invocation, Output, Progress, Tool};
use crate::limits::TOOL_REDIRECTS_MAX;
use crate::model::ToolDefinition;
use crate::tools::config;
use request::{Hop, Recipe};
use response::{Reader, Verdict};

pub(in crate::tools) use response::retry_after;

/// Why a declared tool cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to set up tool {tool}: {field}: {message}")]
pub struct BuildError {
    /// The tool.
    pub tool: String,
    /// The field of its declaration.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// A tool behind an HTTP endpoint.
#[derive(Debug)]
pub struct Http {
    definition: ToolDefinition,
    effect: Effect,
    timeout: Duration,
    key_ttl: Option<Duration>,
    approval: bool,
    digest: [u8; 32],
    recipe: Recipe,
    allowlist: Allowlist,
    policy: Policy,
    reader: Reader,
    clients: Arc<Clients>,
}

/// What a response asks for.
enum Next {
    /// It is the answer.
    Answer,
    /// Another request, at once.
    Follow(Hop),
    /// It leads where the policy does not allow; for a person to read.
    Refused(String),
    /// A redirect that would change what a method means is not followed, but told.
    Unfollowed(String),
}

impl Http {
    /// Sets a tool up: reads its secrets, checks its URL, method and headers.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn build(tool: &config::HttpTool, clients: Arc<Clients>) -> Result<Self, BuildError> {
        let fail =
            |field: &str, message: String| BuildError { tool: tool.name.clone(), field: field.to_owned(), message };
        let recipe = Recipe::build(tool).map_err(|(field, message)| fail(&field, message))?;
        let allowlist = Allowlist::new(recipe.sample(), &tool.allow_hosts)
            .map_err(|error| fail("allow_hosts", error.to_string()))?;
        let policy = Policy { private: tool.allow_private.clone(), fresh: tool.effect == Effect::Write };
        let http = Self {
            definition: ToolDefinition {
                name: tool.name.clone(),
                description: tool.description.clone(),
                input_schema: tool.input.clone(),
            },
            effect: tool.effect,
            timeout: tool.timeout,
            key_ttl: tool.key_ttl,
            approval: tool.approval,
            digest: request::digest(tool),
            reader: Reader { output_max: tool.output_max, secrets: recipe.secrets() },
            recipe,
            allowlist,
            policy,
            clients,
        };
        // A literal address that the policy refuses would fail every call: say so now.
        http.vet(http.recipe.sample()).map_err(|failure| fail("http.url", failure.message))?;
        Ok(http)
    }

    fn failure(&self, kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, tool: self.definition.name.clone(), message: message.into(), retry_after: None }
    }

    /// Literal addresses never meet the resolver, so they are checked here.
    fn vet(&self, url: &Url) -> Result<(), Failure> {
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let Some(address) = literal else { return Ok(()) };
        network::check(host, address, &self.policy.private)
            .map_err(|refused| self.failure(FailureKind::Forbidden, refused.to_string()))
    }

    async fn perform(&self, mut hop: Hop, invocation: &Invocation) -> Result<Output, Failure> {
        let client =
            self.clients.get(&self.policy).map_err(|error| self.failure(FailureKind::NotSent, error.to_string()))?;
        // After a 303 the effect has happened; whatever goes wrong later, it was not "not sent".
        let mut performed = false;
        for _ in 0..=TOOL_REDIRECTS_MAX {
            let own = self.allowlist.is_own(&hop.url);
            let attempt = async {
                self.vet(&hop.url)?;
                let request = self.recipe.request(&client, &hop, invocation, own);
                invocation.lease.send(request).await.map_err(|error| match error {
                    SendError::Client(error) => self.send_failure(&hop.url, error),
                    SendError::LeaseLost(lost) => self.failure(FailureKind::NotSent, lost.to_string()),
                })
            };
            let response = attempt.await.map_err(|failure| after_effect(failure, performed))?;
            match self.next(&hop, &response) {
                Next::Answer => return self.answer(response, &hop.url).await.map_err(|f| after_effect(f, performed)),
                Next::Follow(next) => {
                    performed |= next.method != hop.method;
                    hop = next;
                }
                Next::Unfollowed(content) => return self.unfollowed(content),
                Next::Refused(message) => {
                    let failure = self.failure(FailureKind::Forbidden, message);
                    return Err(after_effect(failure, performed));
                }
            }
        }
        let message = format!("the backend redirected more than {TOOL_REDIRECTS_MAX} times");
        Err(after_effect(self.failure(FailureKind::Forbidden, message), performed))
    }

    /// What a redirect that is not followed says of the effect: many backends answer a POST that they performed so. A read
    /// changed nothing either way.
    fn unfollowed(&self, content: String) -> Result<Output, Failure> {
        let content = self.reader.bound(content, false);
        match self.effect {
            Effect::Read => Ok(Output::free(content, true)),
            Effect::Idempotent | Effect::Write => Err(self.failure(FailureKind::Unknown, content)),
        }
    }

    /// Decides on a redirect: only GET and HEAD follow 301 and 302, 303 becomes GET, 307 and 308 keep the method.
    fn next(&self, hop: &Hop, response: &reqwest::Response) -> Next {
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let (true, Some(location)) = (is_redirect(status), location) else { return Next::Answer };
        let safe = hop.method == Method::GET || hop.method == Method::HEAD;
        let allowed = self.target(&hop.url, location);
        match (status.as_u16(), allowed) {
            (301 | 302, _) if !safe => Next::Unfollowed(format!(
                "HTTP {status}: the backend redirects a {}, which is not followed because the method would change",
                hop.method
            )),
            (303, Err(message)) if !safe => {
                Next::Unfollowed(format!("HTTP {status}: the backend took the request, but {message}"))
            }
            (303, Ok(url)) if !safe => Next::Follow(Hop { method: Method::GET, url, body: None }),
            (_, Ok(url)) => Next::Follow(Hop { method: hop.method.clone(), url, body: hop.body.clone() }),
            (_, Err(message)) => Next::Refused(message),
        }
    }

    fn target(&self, from: &Url, location: &str) -> Result<Url, String> {
        let mut url = from.join(location).map_err(|_| "the redirect's target is not a URL".to_owned())?;
        url.set_fragment(None);
        let host = url.host_str().unwrap_or_default().to_owned();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("the redirect to {host} carries credentials, which is refused"));
        }
        if from.scheme() == "https" && url.scheme() != "https" {
            return Err(format!("the redirect to {host} leaves HTTPS, which is refused"));
        }
        if !self.allowlist.allows(&url) {
            let port = url.port_or_known_default().map_or(String::new(), |port| format!(":{port}"));
            return Err(format!("the redirect's target {host}{port} is not in the tool's allow_hosts"));
        }
        Ok(url)
    }

    async fn answer(&self, response: reqwest::Response, url: &Url) -> Result<Output, Failure> {
        let status = response.status();
        match response::judge(status, response.headers()) {
            Verdict::Failure(kind, retry_after) => {
                let message = format!("{} answered HTTP {status}", endpoint(url));
                Err(Failure { retry_after, ..self.failure(kind, message) })
            }
            // It leads nowhere that could be followed.
            Verdict::Answer { .. } if status.is_redirection() => {
                self.unfollowed(format!("{} answered HTTP {status} without a place to go on", endpoint(url)))
            }
            Verdict::Answer { is_error } => match self.reader.read(response, is_error).await {
                Ok(content) => Ok(Output::free(content, is_error)),
                // The refusal stands, with or without its words.
                Err(_) if is_error => Ok(Output::free(format!("HTTP {status}"), is_error)),
                Err(error) => {
                    let message = format!("{}'s answer broke off: {}", endpoint(url), causes(error));
                    Err(self.failure(FailureKind::Unknown, message))
                }
            },
        }
    }

    fn send_failure(&self, url: &Url, error: reqwest::Error) -> Failure {
        if let Some(refused) = find_refusal(&error) {
            return self.failure(FailureKind::Forbidden, refused.to_string());
        }
        let (kind, doing) = if error.is_connect() {
            (FailureKind::NotSent, "connect to")
        } else if error.is_builder() {
            (FailureKind::Forbidden, "prepare a request for")
        } else {
            (FailureKind::Unknown, "get an answer from")
        };
        self.failure(kind, format!("failed to {doing} {}: {}", endpoint(url), causes(error)))
    }
}

#[async_trait]
impl Tool for Http {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn effect(&self) -> Effect {
        self.effect
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn key_ttl(&self) -> Option<Duration> {
        self.key_ttl
    }

    fn needs_approval(&self) -> bool {
        self.approval
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }

    async fn call(&self, invocation: Invocation) -> Result<Progress, Failure> {
        let output = match self.recipe.first_hop(&invocation.arguments) {
            Ok(hop) => self.perform(hop, &invocation).await,
            Err(content) => Ok(Output::free(content, true)),
        };
        output.map(Progress::from)
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn after_effect(failure: Failure, performed: bool) -> Failure {
    if performed { Failure { kind: FailureKind::Unknown, ..failure } } else { failure }
}

/// Host and port: a path or query may hold what the model was told in confidence.
fn endpoint(url: &Url) -> String {
    let port = url.port_or_known_default().map_or(String::new(), |port| format!(":{port}"));
    format!("{}{port}", url.host_str().unwrap_or_default())
}

fn find_refusal(error: &reqwest::Error) -> Option<&network::Refused> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<network::Refused>() {
            return Some(refused);
        }
        source = cause.source();
    }
    None
}

/// The causes below reqwest's own words, which name the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut texts = Vec::new();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
