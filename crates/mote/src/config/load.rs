//! Loads `agent.yaml`: read, parse, compare with the schema, validate, advise.
//!
//! It reads the file once; nothing is watched. Changing what an agent may do means starting it anew.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, FieldPath, Severity};
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
    /// Where its fields stand.
    pub places: Places,
}

/// Where the fields of a file stand, for what is found out later than its validation.
#[derive(Debug)]
pub struct Places {
    document: document::Node,
    flags: Vec<(FieldPath, String)>,
}

impl Places {
    /// A diagnostic of a field such as `tools[0].http.url`.
    #[must_use]
    pub fn diagnostic(&self, severity: Severity, field: &str, message: impl Into<String>) -> Diagnostic {
        let mut findings = Findings::new(&self.document);
        for (path, flag) in &self.flags {
            findings.blame(path.clone(), flag);
        }
        findings.at(severity, &FieldPath::parse(field), message.into())
    }

    /// The path of a field of the sandbox.
    #[must_use]
    pub fn sandbox(&self, field: &str) -> String {
        let path = Findings::new(&self.document).sandbox_path().unwrap_or_else(|| FieldPath::top("tools"));
        format!("{path}.{field}")
    }

    /// The path of a tool's field.
    #[must_use]
    pub fn tool(&self, name: &str, field: &str) -> String {
        let path = Findings::new(&self.document).tool_path(name).unwrap_or_else(|| FieldPath::top("tools"));
        format!("{path}.{field}")
    }
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
    /// USD per million tokens, input and output; else the price that agent.yaml has for the model, else the table's.
    pub price: Option<[serde_json::Number; 2]>,
    /// What chose it, for messages: `--model openai/NAME`.
    pub origin: String,
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
        let (provider, name, origin) = (provider.to_owned(), name.to_owned(), format!("--model {text}"));
        Ok(Self { provider, name, base_url, key_variable, price: None, origin })
    }

    /// Reads a price: `INPUT,OUTPUT` in USD per million tokens, or one number for both.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse_price(text: &str) -> Result<[serde_json::Number; 2], String> {
        let number = |part: &str| {
            let number: serde_json::Number = part.trim().parse().ok()?;
            super::units::price(&number).is_ok().then_some(number)
        };
        let (input, output) = text.split_once(',').unwrap_or((text, text));
        let expected =
            || format!("{text:?} is not a price; write INPUT,OUTPUT in USD per million tokens, such as 2,10");
        number(input).zip(number(output)).map(|(input, output)| [input, output]).ok_or_else(expected)
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
    override_with(&mut raw, options, &mut findings);
    let around = Surroundings { folder, compile_schemas: options.compile_schemas };
    let agent = validate::agent(raw, &around, &mut findings);
    if findings.has_errors() {
        return Err(findings.into_list());
    }
    refusals::refuse(&agent, &mut findings);
    if findings.has_errors() {
        return Err(findings.into_list());
    }
    advice::advise(&agent, &mut findings);
    let flags = findings.flags();
    let warnings = findings.into_list();
    debug_assert!(warnings.iter().all(|diagnostic| diagnostic.severity != Severity::Error));
    Ok(Loaded { agent, warnings, places: Places { document, flags } })
}

fn override_with(raw: &mut raw::Agent, options: &Options, findings: &mut Findings<'_>) {
    if let Some(listen) = options.listen {
        findings.blame(FieldPath::top("server").key("listen"), &format!("--listen {listen}"));
        raw.server.get_or_insert_default().listen = Some(listen.to_string());
    }
    if let Some(choice) = &options.model {
        let model = &mut raw.model;
        let path = FieldPath::top("model");
        if let Some(url) = &choice.base_url {
            findings.blame(path.key("base_url"), &format!("--base-url {url}"));
        }
        for field in [path.clone(), path.key("name"), path.key("key"), path.key("base_url"), path.key("price")] {
            findings.blame(field, &choice.origin);
        }
        // A bound on money holds for another endpoint of the same model too.
        let price = choice.price.clone().map(raw::Price::of).or_else(|| configured_price(model, &choice.name));
        model.provider = match choice.provider.as_str() {
            "anthropic" => raw::Provider::Anthropic,
            _ => raw::Provider::Openai,
        };
        model.name = Some(choice.name.clone());
        model.base_url.clone_from(&choice.base_url);
        model.key = choice.key_variable.clone().map(raw::Secret::Env);
        (model.plan, model.file, model.record) = (None, None, None);
        model.price = price;
        model.fallback.clear();
    }
}

/// The price that the file has for a model of that name: the dearest, where there are several.
fn configured_price(model: &raw::Model, name: &str) -> Option<raw::Price> {
    let inner = model.record.as_deref();
    let all = std::iter::once(model).chain(inner).chain(&model.fallback);
    let named = all.filter(|model| model.name.as_deref() == Some(name)).filter_map(|model| model.price.as_ref());
    let cost = |price: &&raw::Price| {
        let each = |number: &serde_json::Number| super::units::price(number).unwrap_or_default();
        each(&price.input).saturating_add(each(&price.output))
    };
    named.max_by_key(cost).cloned()
}
