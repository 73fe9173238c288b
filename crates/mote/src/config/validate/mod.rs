//! From the raw file to a validated [`Agent`]: everything that needs more than a type.
//!
//! A part that is wrong is reported and replaced by a default, so that the parts behind it are looked at too; the caller
//! throws the result away if there was an error. It reads the prompt's file and no other.

mod bounds;
mod model;
mod sandbox;
mod service;
mod tool;

use std::path::{Path, PathBuf};

use super::diagnostic::FieldPath;
use super::findings::Findings;
use super::{Agent, OnChange, raw, units};
use crate::limits::{CONFIG_BYTES_MAX, PROMPT_BYTES_MAX};

pub(super) use model::key_variable;

/// What validation needs beside the file.
pub(super) struct Surroundings<'a> {
    /// The folder of `agent.yaml`.
    pub(super) folder: &'a Path,
    /// Whether validators are built for the schemas that the file carries.
    pub(super) compile_schemas: bool,
}

impl Surroundings<'_> {
    fn resolve(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }
}

/// Validates everything. The result counts only if `findings` has no error.
pub(super) fn agent(raw: raw::Agent, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> Agent {
    let name_path = FieldPath::top("name");
    if !is_agent_name(&raw.name) {
        let message =
            "must be lower-case letters, digits and hyphens, at most 63, starting and ending with a letter or digit";
        findings.error(&name_path, message);
    }
    let version = raw.version.unwrap_or_else(|| "0.0.0".to_owned());
    check_version(&version, &FieldPath::top("version"), findings);
    let prompt = prompt(raw.prompt, around, findings);
    let models = model::models(raw.model, around, findings);
    let tool::Tools { declared, builtins, sandbox } = tool::tools(raw.tools, around, findings);
    let output = raw.output.map(|output| {
        let path = FieldPath::top("output").key("schema");
        tool::object_schema(&output.schema, &path, around, findings);
        output.schema
    });
    let auth_waived = matches!(raw.auth, Some(raw::Auth::None(_)));
    let auth = service::auth(raw.auth, around, findings);
    let server = service::server(raw.server.unwrap_or_default(), auth.is_none() && !auth_waived, findings);
    let context = bounds::context(raw.context.unwrap_or_default(), &models, findings);
    let mut agent = Agent {
        name: raw.name,
        version,
        description: raw.description.unwrap_or_default(),
        prompt,
        models,
        tools: declared,
        builtins,
        sandbox,
        output,
        limits: bounds::limits(raw.limits.unwrap_or_default(), findings),
        on_change: match raw.on_change {
            Some(raw::OnChange::Fail) => OnChange::Fail,
            Some(raw::OnChange::Continue) | None => OnChange::Continue,
        },
        budget: raw.budget.map(|budget| bounds::budgets(&budget, findings)).unwrap_or_default(),
        context,
        server,
        auth,
        telemetry: service::telemetry(raw.telemetry.unwrap_or_default(), findings),
        events: raw.events.map(|events| service::events(events, around, findings)),
        digest: [0; 32],
        folder: around.folder.to_owned(),
    };
    bounds::check_prices(&agent, findings);
    agent.digest = super::digest::capabilities(&agent);
    agent
}

fn prompt(prompt: raw::Prompt, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> String {
    let path = FieldPath::top("prompt");
    let (text, path) = match prompt {
        raw::Prompt::Text(text) => (text, path),
        raw::Prompt::File(reference) => {
            let path = path.key("file");
            match read_bounded(&around.resolve(&reference.file), PROMPT_BYTES_MAX) {
                Ok(text) => (text, path),
                Err(message) => {
                    findings.error_hint(&path, message, "a relative path starts at the folder of agent.yaml");
                    return String::new();
                }
            }
        }
    };
    if text.trim().is_empty() {
        findings.error(&path, "the prompt is empty");
    }
    if text.len() > PROMPT_BYTES_MAX {
        findings.error(&path, format!("the prompt is longer than {PROMPT_BYTES_MAX} bytes (PROMPT_BYTES_MAX)"));
    }
    text
}

/// Reads a text file of at most `max` bytes.
pub(super) fn read_bounded(path: &Path, max: usize) -> Result<String, String> {
    use std::io::Read;
    let fail = |reason: String| format!("failed to read {}: {reason}", path.display());
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if bytes.len() > max {
        let name = if max == CONFIG_BYTES_MAX { "CONFIG_BYTES_MAX" } else { "PROMPT_BYTES_MAX" };
        return Err(fail(format!("it is larger than {max} bytes ({name})")));
    }
    String::from_utf8(bytes).map_err(|_| fail("it is not UTF-8".to_owned()))
}

fn is_agent_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

/// `MAJOR.MINOR.PATCH`, with a pre-release and build part as semver.org has them.
fn check_version(version: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let number = |text: &&str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'))
    };
    let rest = version[core.len()..].bytes().all(|b| b.is_ascii_alphanumeric() || b"-+.".contains(&b));
    if numbers.len() != 3 || !numbers.iter().all(number) || !rest || version.len() > 64 {
        findings.error(path, format!("{version:?} is not a semantic version; write MAJOR.MINOR.PATCH, such as 1.4.0"));
    }
}

/// A duration above zero, or its default.
fn duration(
    raw: Option<&raw::Duration>,
    default: std::time::Duration,
    path: &FieldPath,
    findings: &mut Findings<'_>,
) -> std::time::Duration {
    optional_duration(raw, path, findings).unwrap_or(default)
}

fn optional_duration(
    raw: Option<&raw::Duration>,
    path: &FieldPath,
    findings: &mut Findings<'_>,
) -> Option<std::time::Duration> {
    match units::duration(&raw?.0) {
        Ok(duration) if duration.is_zero() => {
            findings.error(path, "must be more than zero");
            None
        }
        Ok(duration) => Some(duration),
        Err(error) => {
            findings.error(path, error.to_string());
            None
        }
    }
}

fn tokens(raw: Option<&raw::Tokens>, path: &FieldPath, findings: &mut Findings<'_>) -> Option<u64> {
    let parsed = match raw? {
        raw::Tokens::Number(number) => Ok(*number),
        raw::Tokens::Text(text) => units::tokens(text),
    };
    parsed.map_err(|error| findings.error(path, error.to_string())).ok()
}

/// A token count that fits 32 bits and is not zero, or its default.
fn tokens_32(raw: Option<&raw::Tokens>, default: u32, path: &FieldPath, findings: &mut Findings<'_>) -> u32 {
    let Some(value) = tokens(raw, path, findings) else { return default };
    match u32::try_from(value) {
        Ok(0) => findings.error(path, "must be more than zero"),
        Ok(value) => return value,
        Err(_) => findings.error(path, "is more tokens than any model takes"),
    }
    default
}

/// An `http` or `https` URL with a host, without credentials.
fn http_url(text: &str, path: &FieldPath, findings: &mut Findings<'_>) -> Option<reqwest::Url> {
    let url = match reqwest::Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            findings.error(path, format!("is not a URL: {error}"));
            return None;
        }
    };
    if !matches!(url.scheme(), "http" | "https") {
        findings.error(path, format!("must be an http or https URL, not {}", url.scheme()));
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "send credentials in a header: `authorization: {env: VARIABLE, prefix: \"Bearer \"}`";
        findings.error_hint(path, "a URL must not hold credentials", hint);
        return None;
    }
    if url.host_str().is_none_or(str::is_empty) {
        findings.error(path, "the URL has no host");
        return None;
    }
    Some(url)
}

/// The name of an environment variable.
fn check_variable(name: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(fits) || name.starts_with(|c: char| c.is_ascii_digit()) {
        let hint = "write the variable's name, such as ANTHROPIC_API_KEY; the secret itself never stands in agent.yaml";
        findings.error_hint(path, "is not the name of an environment variable", hint);
    }
}

fn secret(raw: raw::Secret, path: &FieldPath, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> super::Secret {
    match raw {
        raw::Secret::Env(name) => {
            check_variable(&name, &path.key("env"), findings);
            super::Secret::Env(name)
        }
        raw::Secret::File(file) => super::Secret::File(around.resolve(&file)),
    }
}
