//! What production would want that the file does not have: warnings, never errors.
//!
//! It looks at the validated agent and at whether secrets are there; it does not connect to anything.

use mote_sandbox_api::network::{Rule, Verdict};

use super::diagnostic::FieldPath;
use super::findings::Findings;
use super::sandbox::SANDBOX_KEY_VARIABLE;
use super::{Agent, HeaderValue, Model, Provider, Secret};
use crate::tools::Effect;

/// Adds the warnings. Called only for a file without errors.
pub(super) fn advise(agent: &Agent, findings: &mut Findings<'_>) {
    for (index, model) in agent.models.iter().enumerate() {
        let path = FieldPath::top("model");
        let path = if index == 0 { path } else { path.key("fallback").index(index - 1) };
        advise_model(model, &path, findings);
    }
    advise_tools(agent, findings);
    advise_sandbox(agent, findings);
    advise_service(agent, findings);
    let budget = FieldPath::top("budget");
    if agent.budget.per_run.nano_usd.is_none() && agent.budget.per_run.tokens.is_none() {
        let hint = "add `budget: {per_run: {usd: 0.50, tokens: 200k}}`";
        findings.warn(&budget.key("per_run"), "nothing bounds what a run may spend", hint);
    }
}

fn advise_model(model: &Model, path: &FieldPath, findings: &mut Findings<'_>) {
    match &model.provider {
        Provider::Scripted { .. } => {
            let hint = "use provider `anthropic` or `openai`, or run with --model";
            findings.warn(&path.key("provider"), "`scripted` replays a plan: no model is asked", hint);
        }
        Provider::Cassette { record: None, .. } => {
            let hint = "use provider `anthropic` or `openai`";
            findings.warn(&path.key("provider"), "`cassette` replays a recording: no model is asked", hint);
        }
        Provider::Cassette { record: Some(inner), .. } => {
            advise_model(inner, &path.key("record"), findings);
            let hint = "record on a developer's machine only";
            findings.warn(&path.key("record"), "every exchange is written to a file, content included", hint);
        }
        Provider::Anthropic | Provider::OpenAi => {
            if !model.is_priced {
                let hint = "add `price: {input: …, output: …}` in USD per million tokens";
                let message = format!(
                    "the price of `{}` is not known: its cost counts as 0, and no budget in USD applies",
                    model.name
                );
                findings.warn(&path.key("name"), message, hint);
            }
            plain_http(&model.base_url, &path.key("base_url"), findings);
        }
    }
    if let Some(key) = &model.key {
        missing_secret(key, &path.key("key"), findings);
    }
}

fn advise_tools(agent: &Agent, findings: &mut Findings<'_>) {
    for tool in &agent.tools {
        // Built-in tools stand in the same list of the file, so the position is looked up by name.
        let Some(path) = findings.tool_path(&tool.name) else { continue };
        if tool.effect == Effect::Write && !tool.approval {
            let hint =
                "add `approval: true`, or make the backend honour Idempotency-Key and write `effect: idempotent`";
            let message = format!("`{}` writes without a person's approval", tool.name);
            findings.warn(&path.key("effect"), message, hint);
        }
        plain_http(&tool.url, &path.key("http").key("url"), findings);
        for (name, value) in &tool.headers {
            if let HeaderValue::Secret { secret, .. } = value {
                missing_secret(secret, &path.key("http").key("headers").key(name), findings);
            }
        }
    }
}

fn advise_sandbox(agent: &Agent, findings: &mut Findings<'_>) {
    let (Some(sandbox), Some(path)) = (&agent.sandbox, findings.sandbox_path()) else { return };
    plain_http(&sandbox.url, &path.key("url"), findings);
    match &sandbox.key {
        Some(key) => missing_secret(key, &path.key("key"), findings),
        None => {
            let hint =
                format!("set {SANDBOX_KEY_VARIABLE}, or write `key: {{env: VARIABLE}}` or `key: {{file: PATH}}`");
            findings.warn(&path.key("key"), "there is no key for the sandbox's daemon", hint);
        }
    }
    let open = |rule: &Rule| rule.verdict == Verdict::Allow && rule.to == "*";
    if sandbox.spec.network.as_ref().is_some_and(|policy| policy.rules.iter().any(open)) {
        let hint = "name the hosts that the agent needs";
        findings.warn(&path.key("network").key("allow"), "what the agent runs reaches every public host", hint);
    }
}

fn advise_service(agent: &Agent, findings: &mut Findings<'_>) {
    let server = FieldPath::top("server");
    match &agent.auth {
        None if !agent.server.listen.ip().is_loopback() => {
            let message = format!("everybody who reaches {} may use the agent", agent.server.listen);
            let hint = "add `auth: {keys: {file: PATH}}`, unless something in front of the service authenticates";
            findings.warn(&server.key("listen"), message, hint);
        }
        Some(_) | None => {}
    }
    let telemetry = FieldPath::top("telemetry");
    match &agent.telemetry.otlp {
        // A collector is a choice: nobody is kept from passing `--strict` without one.
        None => findings.note(
            &telemetry.key("otlp"),
            "no traces are sent",
            "add `telemetry: {otlp: http://collector:4318}`",
        ),
        Some(url) => plain_http(url, &telemetry.key("otlp"), findings),
    }
    if agent.telemetry.content {
        let hint = "leave it off unless everybody who reads the logs may read the conversations";
        findings.warn(&telemetry.key("content"), "prompts, tool arguments and results appear in logs and traces", hint);
    }
    if let Some(events) = &agent.events {
        plain_http(&events.url, &FieldPath::top("events").key("sink"), findings);
        if let Some(secret) = &events.authorization {
            missing_secret(secret, &FieldPath::top("events").key("authorization"), findings);
        }
    }
}

fn missing_secret(secret: &Secret, path: &FieldPath, findings: &mut Findings<'_>) {
    if let Err(error) = secret.read() {
        findings.warn(path, error.to_string(), "the service does not start without it");
    }
}

/// Plain HTTP to another machine shows keys and content to the network between.
fn plain_http(url: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    let Some(rest) = url.strip_prefix("http://") else { return };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let Ok(parsed) = reqwest::Url::parse(&format!("http://{authority}/")) else { return };
    let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !local {
        findings.warn(path, format!("plain HTTP to {host}: readable on the way"), "use https");
    }
}
