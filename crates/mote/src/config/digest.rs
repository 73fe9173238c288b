//! SHA-256 over the canonical JSON of what an agent can do.
//!
//! Where secrets are kept, where the service listens and what is logged
//! do not change what the agent can do and are not part of it.

use serde_json::{Map, Value, json};

use super::{
    Agent, Bound, Builtin, HeaderValue, HttpTool, Model, OnChange, OutputLimitField, Provider, SandboxTool, Windowed,
};
use crate::canonical;

/// The digest of an agent's capability set; its own `digest` field is not read.
#[must_use]
pub fn capabilities(agent: &Agent) -> [u8; 32] {
    let mut tools: Vec<Value> = agent.tools.iter().map(tool).collect();
    // The order of tools means nothing; the order of models does.
    tools.sort_by_cached_key(canonical::canonical);
    let mut builtins: Vec<&str> = agent.builtins.iter().map(|builtin| Builtin::name(*builtin)).collect();
    builtins.sort_unstable();
    let limits = &agent.limits;
    let mut said = json!({
        "name": agent.name,
        "prompt": agent.prompt,
        "models": agent.models.iter().map(|each| model(each, agent)).collect::<Vec<_>>(),
        "tools": tools,
        "builtins": builtins,
        "output": agent.output,
        "limits": {
            "steps": limits.steps,
            "tool_calls": limits.tool_calls,
            "parallel": limits.parallel,
            "model_attempts": limits.model_attempts,
            "model_outage_ms": millis(limits.model_outage),
            "tool_attempts": limits.tool_attempts,
            "backoff_ms": millis(limits.backoff),
            "backoff_max_ms": millis(limits.backoff_max),
            "repeats": limits.repeats,
            "repairs": limits.repairs,
            "active_ms": millis(limits.active),
            "expires_ms": millis(limits.expires),
        },
        "on_change": match agent.on_change { OnChange::Continue => "continue", OnChange::Fail => "fail" },
        "budget": {
            "per_run": bound(&agent.budget.per_run),
            "agent": agent.budget.agent.as_ref().map(windowed),
            "per_tenant": agent.budget.per_tenant.as_ref().map(windowed),
            "per_user": agent.budget.per_user.as_ref().map(windowed),
            "per_session": agent.budget.per_session.as_ref().map(bound),
        },
        "context": {
            "window": agent.context.window,
            "reserve": agent.context.reserve,
            "low_water": agent.context.low_water,
        },
    });
    // Absent where there is none: an agent without a sandbox keeps the digest that it had before there were any.
    if let Some(sandbox) = &agent.sandbox {
        said["sandbox"] = self::sandbox(sandbox);
    }
    canonical::digest(&said)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn model(model: &Model, agent: &Agent) -> Value {
    let relative = |path: &std::path::Path| path.strip_prefix(&agent.folder).unwrap_or(path).display().to_string();
    let provider = match &model.provider {
        Provider::Anthropic => json!("anthropic"),
        Provider::OpenAi => json!("openai"),
        Provider::Scripted { plan } => json!({"scripted": relative(plan)}),
        Provider::Cassette { file, record } => {
            json!({"cassette": relative(file), "record": record.as_deref().map(|inner| self::model(inner, agent))})
        }
    };
    let mut described = json!({
        "provider": provider,
        "name": model.name,
        "base_url": model.base_url,
        "output_tokens_max": model.output_tokens_max,
        "timeout_ms": millis(model.timeout),
        "idle_timeout_ms": millis(model.idle_timeout),
        "temperature": model.temperature,
        "price": [model.price.input, model.price.cache_read, model.price.cache_write, model.price.output],
    });
    // Left out where it is not set: agents from before it keep their digests.
    let field = match model.output_limit_field {
        OutputLimitField::Auto => None,
        OutputLimitField::MaxTokens => Some("max_tokens"),
        OutputLimitField::MaxCompletionTokens => Some("max_completion_tokens"),
    };
    if let Some(field) = field {
        described["output_limit_field"] = json!(field);
    }
    described
}

fn tool(tool: &HttpTool) -> Value {
    let headers: Map<String, Value> = tool
        .headers
        .iter()
        .map(|(name, value)| {
            let value = match value {
                HeaderValue::Literal(text) => json!(text),
                HeaderValue::Secret { prefix, .. } => json!({"prefix": prefix}),
            };
            (name.clone(), value)
        })
        .collect();
    json!({
        "name": tool.name,
        "version": tool.version,
        "description": tool.description,
        "method": tool.method,
        "url": tool.url,
        "headers": headers,
        "input": tool.input,
        "effect": tool.effect,
        "timeout_ms": millis(tool.timeout),
        "output_max": tool.output_max,
        "key_ttl_ms": tool.key_ttl.map(millis),
        "allow_hosts": tool.allow_hosts,
        "allow_private": tool.allow_private.to_json(),
        "approval": tool.approval,
    })
}

fn sandbox(sandbox: &SandboxTool) -> Value {
    json!({
        "url": sandbox.url,
        "allow": sandbox.allow.iter().map(|facility| facility.name()).collect::<Vec<_>>(),
        "spec": sandbox.spec,
        "release": sandbox.release.name(),
        "timeout_ms": millis(sandbox.timeout),
        "output_max": sandbox.output_max,
        "approval": sandbox.approval,
    })
}

fn bound(bound: &Bound) -> Value {
    json!({"nano_usd": bound.nano_usd, "tokens": bound.tokens})
}

fn windowed(windowed: &Windowed) -> Value {
    json!({"bound": bound(&windowed.bound), "every_ms": millis(windowed.every)})
}
