//! `GET /v1/tools`: what the agent may do, as its configuration declares it.
//!
//! It shows neither headers nor secrets, nor where a tool's backend is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::problem::Problem;
use super::query::Params;
use super::state::Api;
use crate::config::{Builtin, HttpTool};

/// The agent's tools.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToolList {
    /// The agent's name.
    agent: String,
    /// Its version.
    version: String,
    /// Its tools, declared ones first.
    tools: Vec<ToolBody>,
}

/// One tool.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tool)]
pub(super) struct ToolBody {
    /// The name that the model calls.
    name: String,
    /// `http` or `builtin`.
    kind: &'static str,
    /// Semantic version of a declared tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// What it does.
    description: String,
    /// What repeating a call means: `read`, `idempotent` or `write`.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<crate::tools::Effect>,
    /// JSON Schema of the arguments.
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<serde_json::Value>,
    /// Bound on one attempt, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    /// Whether a person approves each call.
    approval: bool,
}

impl From<&HttpTool> for ToolBody {
    fn from(tool: &HttpTool) -> Self {
        Self {
            name: tool.name.clone(),
            kind: "http",
            version: Some(tool.version.clone()),
            description: tool.description.clone(),
            effect: Some(tool.effect),
            input: Some(tool.input.clone()),
            timeout_ms: Some(u64::try_from(tool.timeout.as_millis()).unwrap_or(u64::MAX)),
            approval: tool.approval,
        }
    }
}

impl From<Builtin> for ToolBody {
    fn from(tool: Builtin) -> Self {
        let (name, description) = match tool {
            Builtin::WaitForSignal => ("wait_for_signal", "Waits for a named signal."),
            Builtin::WaitUntil => ("wait_until", "Waits for a time or a duration."),
            Builtin::AskPerson => ("ask_person", "Asks a person a question."),
        };
        Self {
            name: name.to_owned(),
            kind: "builtin",
            version: None,
            description: description.to_owned(),
            effect: None,
            input: None,
            timeout_ms: None,
            approval: false,
        }
    }
}

/// Lists the tools.
#[utoipa::path(
    get, path = "/v1/tools", tag = "tools", operation_id = "list_tools",
    responses((status = 200, description = "The tools.", body = ToolList)),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Caller(_): Caller,
    params: Params,
) -> Result<Json<ToolList>, Problem> {
    params.finish()?;
    let agent = api.runner.agent();
    let declared = agent.tools.iter().map(ToolBody::from);
    let tools = declared.chain(agent.builtins.iter().copied().map(ToolBody::from)).collect();
    Ok(Json(ToolList { agent: agent.name.clone(), version: agent.version.clone(), tools }))
}
