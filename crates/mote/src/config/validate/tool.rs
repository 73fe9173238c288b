//! Tools: names, URL templates against schemas, headers, effect classes.
//!
//! It does not build the tools; [`crate::tools`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::super::diagnostic::FieldPath;
use super::super::findings::Findings;
use super::super::{Builtin, HeaderValue, HttpTool, SandboxTool, Secret, raw, schema_keywords, units};
use super::{Surroundings, check_variable, check_version, duration, http_url, optional_duration};
use crate::limits::{TOOL_OUTPUT_BYTES, TOOL_OUTPUT_BYTES_MAX, TOOLS_MAX};
use crate::tools::Effect;
use crate::tools::policy::network::{Network, Private};

const TIMEOUT: Duration = Duration::from_secs(30);
/// Headers that carry credentials: their value is never written in the file.
const SECRET_HEADERS: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token"];
/// Headers that the service sets itself.
const OWN_HEADERS: [&str; 7] =
    ["host", "content-length", "transfer-encoding", "connection", "idempotency-key", "traceparent", "te"];

/// What an agent may call.
#[derive(Default)]
pub(super) struct Tools {
    pub(super) declared: Vec<HttpTool>,
    pub(super) builtins: Vec<Builtin>,
    pub(super) sandbox: Option<SandboxTool>,
}

/// Every tool: declared, built in, or of the sandbox.
pub(super) fn tools(raw: Vec<raw::Tool>, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> Tools {
    let path = FieldPath::top("tools");
    if raw.len() > TOOLS_MAX {
        findings.error(&path, format!("has more than {TOOLS_MAX} tools (TOOLS_MAX)"));
    }
    let mut names = BTreeSet::new();
    let mut tools = Tools::default();
    for (index, tool) in raw.into_iter().enumerate() {
        let path = path.index(index);
        // An entry that was replaced by a stand-in as a whole has nothing to say.
        if findings.is_replaced(&path) {
            continue;
        }
        match tool {
            raw::Tool::Http(tool) => {
                claim(&mut names, &tool.name, &path.key("name"), findings);
                tools.declared.push(http_tool(*tool, &path, around, findings));
            }
            raw::Tool::Builtin(tool) => {
                claim(&mut names, builtin(&tool).name(), &path.key("builtin"), findings);
                tools.builtins.push(builtin(&tool));
            }
            raw::Tool::Sandbox(tool) => {
                let path = path.key("sandbox");
                if tools.sandbox.is_some() {
                    findings.error(&path, "an agent has one sandbox, and this is another");
                    continue;
                }
                let sandbox = super::sandbox::sandbox(tool.sandbox, &path, around, findings);
                for name in sandbox.allow.iter().flat_map(|facility| facility.tools()) {
                    claim(&mut names, name, &path.key("allow"), findings);
                }
                tools.sandbox = Some(sandbox);
            }
        }
    }
    tools.builtins.sort_unstable();
    tools.builtins.dedup();
    tools
}

/// Takes a name, which must be free.
fn claim(names: &mut BTreeSet<String>, name: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    if !findings.is_broken(path) && !names.insert(name.to_owned()) {
        findings.error(path, format!("two tools are named `{name}`"));
    }
}

fn builtin(raw: &raw::BuiltinTool) -> Builtin {
    match raw.builtin {
        raw::Builtin::WaitForSignal => Builtin::WaitForSignal,
        raw::Builtin::WaitUntil => Builtin::WaitUntil,
        raw::Builtin::AskPerson => Builtin::AskPerson,
    }
}

fn http_tool(raw: raw::HttpTool, path: &FieldPath, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> HttpTool {
    let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !(1..=64).contains(&raw.name.len()) || !raw.name.chars().all(named) {
        findings.error(&path.key("name"), "must be letters, digits, `_` and `-`, at most 64");
    }
    if Builtin::ALL.iter().any(|builtin| builtin.name() == raw.name) {
        let hint = format!("write `- builtin: {}` to have it", raw.name);
        findings.error_hint(&path.key("name"), "is the name of a built-in tool", hint);
    }
    if raw.description.trim().is_empty() {
        findings.error(&path.key("description"), "is empty: the model chooses tools by their descriptions");
    }
    let version = raw.version.unwrap_or_else(|| "1.0.0".to_owned());
    check_version(&version, &path.key("version"), findings);
    let method = raw.http.method.unwrap_or(raw::Method::Get);
    check_effect(raw.effect, method, path, findings);
    object_schema(&raw.input, &path.key("input"), around, findings);
    let key_ttl = optional_duration(raw.key_ttl.as_ref(), &path.key("key_ttl"), findings);
    if key_ttl.is_some() && raw.effect != Effect::Idempotent {
        findings.error(&path.key("key_ttl"), "only an `idempotent` tool sends a key");
    }
    let output_max = output_max(raw.output_max.as_ref(), &path.key("output_max"), findings);
    let http = path.key("http");
    check_template(&raw.http.url, &raw.input, &http.key("url"), &path.key("input"), findings);
    for (index, host) in raw.http.allow_hosts.iter().enumerate() {
        check_host(host, &http.key("allow_hosts").index(index), findings);
    }
    HttpTool {
        name: raw.name,
        version,
        description: raw.description,
        method: method_name(method).to_owned(),
        url: raw.http.url,
        headers: headers(raw.http.headers, &http.key("headers"), around, findings),
        input: raw.input,
        effect: raw.effect,
        timeout: duration(raw.timeout.as_ref(), TIMEOUT, &path.key("timeout"), findings),
        output_max,
        key_ttl,
        allow_hosts: raw.http.allow_hosts,
        allow_private: private(raw.http.allow_private, &http.key("allow_private"), findings),
        approval: raw.approval.unwrap_or(false),
    }
}

/// Which private addresses may be reached.
fn private(raw: Option<raw::AllowPrivate>, path: &FieldPath, findings: &mut Findings<'_>) -> Private {
    let networks = match raw {
        None | Some(raw::AllowPrivate::All(false)) => return Private::None,
        Some(raw::AllowPrivate::All(true)) => return Private::All,
        Some(raw::AllowPrivate::Networks(networks)) => networks,
    };
    let mut parse = |(index, text): (usize, &String)| match text.parse::<Network>() {
        Ok(network) => Some(network),
        Err(message) => {
            findings.error(&path.index(index), message);
            None
        }
    };
    Private::Networks(networks.iter().enumerate().filter_map(&mut parse).collect())
}

/// Bound on a result, bytes.
pub(super) fn output_max(raw: Option<&raw::Size>, path: &FieldPath, findings: &mut Findings<'_>) -> usize {
    let bytes = match raw.map(|size| units::size(&size.0)) {
        None => TOOL_OUTPUT_BYTES,
        Some(Ok(bytes)) => usize::try_from(bytes).unwrap_or(usize::MAX),
        Some(Err(error)) => {
            findings.error(path, error.to_string());
            TOOL_OUTPUT_BYTES
        }
    };
    if bytes == 0 || bytes > TOOL_OUTPUT_BYTES_MAX {
        findings.error(path, format!("must be from 1B to {TOOL_OUTPUT_BYTES_MAX}B"));
    }
    bytes
}

fn check_effect(effect: Effect, method: raw::Method, path: &FieldPath, findings: &mut Findings<'_>) {
    let changes = matches!(method, raw::Method::Put | raw::Method::Patch | raw::Method::Delete);
    if effect == Effect::Read && changes && !findings.is_broken(&path.key("effect")) {
        let method = method_name(method);
        let hint = "write `effect: idempotent` if the backend honours Idempotency-Key or the call may be repeated, else `effect: write`";
        findings.error_hint(&path.key("effect"), format!("a {method} request is not a `read`"), hint);
    }
}

fn method_name(method: raw::Method) -> &'static str {
    match method {
        raw::Method::Get => "GET",
        raw::Method::Head => "HEAD",
        raw::Method::Post => "POST",
        raw::Method::Put => "PUT",
        raw::Method::Patch => "PATCH",
        raw::Method::Delete => "DELETE",
    }
}

/// A JSON Schema of an object: arguments and results are objects.
pub(super) fn object_schema(schema: &Value, path: &FieldPath, around: &Surroundings<'_>, findings: &mut Findings<'_>) {
    if findings.is_broken(path) {
        return;
    }
    let faults = schema_keywords::faults(schema);
    let sound = faults.is_empty();
    for fault in faults {
        let mut place = path.clone();
        for step in &fault.way {
            place = match step.parse() {
                Ok(index) if fault_is_in_list(schema, &fault.way, step) => place.index(index),
                _ => place.key(step),
            };
        }
        match fault.hint {
            Some(hint) => findings.error_hint(&place, fault.message, hint),
            None => findings.error(&place, fault.message),
        }
    }
    if sound && schema.get("type").and_then(Value::as_str) != Some("object") {
        findings.error_hint(path, "must describe an object", "add `type: object` at its top");
    }
    if sound
        && around.compile_schemas
        && let Err(message) = schema_keywords::compile(schema)
    {
        findings.error(path, format!("is not a usable JSON Schema: {message}"));
    }
}

/// Whether the step (a number) is an element of a list and not a property that is named by a number.
fn fault_is_in_list(schema: &Value, way: &[String], step: &String) -> bool {
    let mut before = way.iter().take_while(|other| !std::ptr::eq(*other, step));
    let parent = before.try_fold(schema, |value, key| value.get(key).or_else(|| value.get(key.parse::<usize>().ok()?)));
    parent.is_some_and(Value::is_array)
}

/// Each `{name}` must be an argument that is always there, and the host must be fixed.
fn check_template(url: &str, input: &Value, path: &FieldPath, input_path: &FieldPath, findings: &mut Findings<'_>) {
    let (names, filled) = match template(url) {
        Ok(parts) => parts,
        Err(message) => return findings.error(path, message),
    };
    let authority_end = url
        .find("://")
        .map_or(0, |start| url[start + 3..].find(['/', '?', '#']).map_or(url.len(), |end| start + 3 + end));
    if url[..authority_end].contains('{') {
        let message =
            "the scheme, host and port of a tool's URL are fixed; `{…}` may stand in the path and the query only";
        return findings.error(path, message);
    }
    let _ = http_url(&filled, path, findings);
    if findings.is_broken(input_path) {
        return;
    }
    let required: Vec<&str> =
        input["required"].as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    for name in names {
        if input["properties"].get(name).is_none() {
            let known = input["properties"].as_object();
            let meant = known.and_then(|map| super::super::diagnostic::closest(name, map.keys().map(String::as_str)));
            let hint = match meant {
                Some(meant) => format!("did you mean `{{{meant}}}`?"),
                None => format!("describe `{name}` under `input.properties`"),
            };
            findings.error_hint(path, format!("`{{{name}}}` is no property of `input`"), hint);
        } else if !required.contains(&name) {
            let hint = format!("add it: `required: [{name}]`");
            findings.error_hint(path, format!("`{{{name}}}` is not in `input.required`"), hint);
        }
    }
}

/// The names in a template, and the template with every name replaced by `x`.
fn template(url: &str) -> Result<(Vec<&str>, String), String> {
    let mut names = Vec::new();
    let mut filled = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(start) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(start);
        let inner = from.strip_prefix('{').ok_or("`}` without `{` before it")?;
        let end = inner.find('}').ok_or("`{` without `}` behind it")?;
        let name = &inner[..end];
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return Err(format!("`{{{name}}}` is not a name: letters, digits, `_` and `-`"));
        }
        names.push(name);
        filled.push_str(before);
        filled.push('x');
        rest = &inner[end + 1..];
    }
    filled.push_str(rest);
    Ok((names, filled))
}

fn check_host(host: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    let parsed = reqwest::Url::parse(&format!("http://{host}/"));
    let plain = parsed.is_ok_and(|url| url.path() == "/" && url.username().is_empty() && url.query().is_none());
    if !plain || host.contains(['/', '@', '*', ' ']) {
        findings.error(path, "must be `host` or `host:port`, without a scheme, a path or a wildcard");
    }
}

fn headers(
    raw: BTreeMap<String, raw::Header>,
    path: &FieldPath,
    around: &Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, HeaderValue> {
    let mut headers = BTreeMap::new();
    for (name, value) in raw {
        let path = path.key(&name);
        let lower = name.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            findings.error(&path, format!("`{name}` is not the name of a header"));
        }
        if OWN_HEADERS.contains(&lower.as_str()) {
            findings.error(&path, format!("`{lower}` is set by the service"));
        }
        let (prefix, secret) = match value {
            raw::Header::Literal(text) => {
                if SECRET_HEADERS.contains(&lower.as_str()) {
                    let hint = "a secret is never written into agent.yaml: `{env: VARIABLE, prefix: \"Bearer \"}` or `{file: PATH}`";
                    findings.error_hint(
                        &path,
                        format!("`{lower}` carries a secret, which stands here in the open"),
                        hint,
                    );
                }
                if http::HeaderValue::from_str(&text).is_err() {
                    findings.error(&path, "is not a header's value");
                }
                headers.insert(lower, HeaderValue::Literal(text));
                continue;
            }
            raw::Header::Env(header) => {
                check_variable(&header.env, &path.key("env"), findings);
                (header.prefix, Secret::Env(header.env))
            }
            raw::Header::File(header) => (header.prefix, Secret::File(around.resolve(&header.file))),
        };
        let prefix = prefix.unwrap_or_default();
        if http::HeaderValue::from_str(&prefix).is_err() {
            findings.error(&path.key("prefix"), "is not part of a header's value");
        }
        if headers.insert(lower.clone(), HeaderValue::Secret { prefix, secret }).is_some() {
            findings.error(&path, format!("`{lower}` is written twice"));
        }
    }
    headers
}
