//! Loads `agent.yaml`: read, parse, compare with the schema, validate, advise.
//!
//! It reads the file once; nothing is watched. Changing what an agent may do means starting it anew.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Severity};
use super::document;
use super::findings::Findings;
use super::validate::{self, Surroundings};
use super::{Agent, advice, json_schema, raw, refusals, structure};
use crate::limits::CONFIG_BYTES_MAX;

/// An agent that may run, and what production would want.
#[derive(Debug)]
pub struct Loaded {
    /// The agent.
    pub agent: Agent,
    /// Advice, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// What the command line says instead of the file, and how closely to look.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instead of `server.listen`.
    pub listen: Option<SocketAddr>,
    /// Instead of `model`.
    pub model: Option<ModelChoice>,
    /// Build validators for the schemas that the file carries: finds patterns that are no regular expressions, costs
    /// megabytes. `mote check` does; a service builds them when they are first used.
    pub compile_schemas: bool,
}

/// A model that was chosen outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelChoice {
    /// `anthropic` or `openai`.
    pub provider: String,
    /// The model's name at the endpoint.
    pub name: String,
    /// The endpoint; the provider's own without it.
    pub base_url: Option<String>,
    /// The environment variable of the key; none is sent without it.
    pub key_variable: Option<String>,
}

impl ModelChoice {
    /// Reads `provider/name`. The name may hold slashes itself. The key's variable is the provider's usual one; an
    /// endpoint of one's own gets it only if the variable is set.
    pub fn parse(text: &str, base_url: Option<String>) -> Result<Self, String> {
        let expected = "write PROVIDER/NAME, such as anthropic/MODEL or openai/MODEL";
        let (provider, name) = text.split_once('/').ok_or_else(|| format!("{text:?} names no provider; {expected}"))?;
        let provider_kind = match provider {
            "anthropic" => raw::Provider::Anthropic,
            "openai" => raw::Provider::Openai,
            _ => return Err(format!("{provider:?} is not a provider of live models; {expected}")),
        };
        if name.is_empty() {
            return Err(format!("{text:?} names no model; {expected}"));
        }
        let variable = validate::key_variable(provider_kind).to_owned();
        let wanted = base_url.is_none() || super::Secret::Env(variable.clone()).read().is_ok();
        let key_variable = wanted.then_some(variable);
        Ok(Self { provider: provider.to_owned(), name: name.to_owned(), base_url, key_variable })
    }
}

/// Loads an agent from a file, or from the `agent.yaml` of a folder.
pub fn load(path: &Path) -> Result<Loaded, Vec<Diagnostic>> {
    load_with(path, &Options::default())
}

/// Loads an agent, some of it replaced by the command line.
pub fn load_with(path: &Path, options: &Options) -> Result<Loaded, Vec<Diagnostic>> {
    let file = file_of(path);
    let text = validate::read_bounded(&file, CONFIG_BYTES_MAX).map_err(|message| vec![Diagnostic::of_file(message)])?;
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    from_text(&text, &folder, options)
}

/// The file that is meant: `agent.yaml` within, if the path is a folder.
#[must_use]
pub fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("agent.yaml") } else { path.to_owned() }
}

/// Loads an agent from text; relative paths start at `folder`.
pub(super) fn from_text(text: &str, folder: &Path, options: &Options) -> Result<Loaded, Vec<Diagnostic>> {
    let document = document::parse(text).map_err(|diagnostic| vec![diagnostic])?;
    let mut findings = Findings::new(&document);
    let schema = json_schema::published()
        .map_err(|error| vec![Diagnostic::of_file(format!("failed to read the schema of agent.yaml: {error}"))])?;
    let checked = structure::check(&document, &schema, &mut findings);
    let mut raw: raw::Agent = match serde_json::from_value(checked) {
        Ok(raw) => raw,
        // The schema is generated from the types, so this is a gap between the two; say what is known.
        Err(error) => {
            let mut list = findings.into_list();
            list.push(Diagnostic::of_file(format!("failed to read the file: {error}")));
            return Err(list);
        }
    };
    override_with(&mut raw, options);
    let around =
        Surroundings { folder, compile_schemas: options.compile_schemas, is_model_chosen: options.model.is_some() };
    let agent = validate::agent(raw, &around, &mut findings);
    if findings.has_errors() {
        return Err(findings.into_list());
    }
    refusals::refuse(&agent, &mut findings);
    if findings.has_errors() {
        return Err(findings.into_list());
    }
    advice::advise(&agent, &mut findings);
    let warnings = findings.into_list();
    debug_assert!(warnings.iter().all(|diagnostic| diagnostic.severity == Severity::Warning));
    Ok(Loaded { agent, warnings })
}

fn override_with(raw: &mut raw::Agent, options: &Options) {
    if let Some(listen) = options.listen {
        raw.server.get_or_insert_default().listen = Some(listen.to_string());
    }
    if let Some(choice) = &options.model {
        let model = &mut raw.model;
        model.provider = match choice.provider.as_str() {
            "anthropic" => raw::Provider::Anthropic,
            _ => raw::Provider::Openai,
        };
        model.name = Some(choice.name.clone());
        model.base_url.clone_from(&choice.base_url);
        model.key = choice.key_variable.clone().map(raw::Secret::Env);
        (model.plan, model.file, model.record, model.price) = (None, None, None, None);
        model.fallback.clear();
    }
}
