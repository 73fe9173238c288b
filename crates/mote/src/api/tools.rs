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
use crate::model::ToolDefinition;
use crate::tools::config::HttpTool;
use crate::tools::registry::{Binding, Target};

/// The agent's tools.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToolList {
    /// The agent's name.
    agent: String,
    /// Its version.
    version: String,
    /// Its tools: the declared ones as configured, then the built-in ones.
    tools: Vec<ToolBody>,
}

/// One tool.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tool)]
pub(super) struct ToolBody {
    /// The name that the model calls.
    name: String,
    /// `http`, `sandbox` or `builtin`.
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
    #[schema(value_type = Object)]
    input: serde_json::Value,
    /// Bound on one attempt, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    /// Whether a person approves each call.
    approval: bool,
}

impl ToolBody {
    /// What the model sees, and what agent.yaml says of it.
    fn new(definition: &ToolDefinition, binding: Option<&Binding>, declared: Option<&HttpTool>) -> Self {
        let tool = binding.and_then(|binding| match &binding.target {
            Target::Tool(tool) => Some(tool),
            Target::Builtin(_) => None,
        });
        let kind = match (tool, declared) {
            (None, _) => "builtin",
            (Some(_), Some(_)) => "http",
            (Some(_), None) => "sandbox",
        };
        Self {
            name: definition.name.clone(),
            kind,
            version: declared.map(|tool| tool.version.clone()),
            description: definition.description.clone(),
            effect: binding.map(Binding::effect),
            input: definition.input_schema.clone(),
            timeout_ms: tool.map(|tool| u64::try_from(tool.timeout().as_millis()).unwrap_or(u64::MAX)),
            approval: tool.is_some_and(|tool| tool.needs_approval()),
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
    let (agent, registry) = (api.runner.agent(), api.runner.registry());
    let declared = |name: &str| agent.tools.iter().find(|tool| tool.name == name);
    let body = |tool: &ToolDefinition| ToolBody::new(tool, registry.get(&tool.name), declared(&tool.name));
    let tools = registry.definitions().iter().map(body).collect();
    Ok(Json(ToolList { agent: agent.name.clone(), version: agent.version.clone(), tools }))
}
