//! The parts of an agent that its configuration alone makes: keys, models, tools, output schema. `serve` and `run` start
//! with them; `check` builds them and throws them away, so that it finds what the others would refuse.
//!
//! It opens no store, binds no address and connects to nothing.

use std::path::Path;
use std::sync::Arc;

use crate::auth::Keys;
use crate::clock::{SharedClock, System};
use crate::config::{Agent, Places};
use crate::model::chain::Chain;
use crate::model::{self, BuildError};
use crate::service::{Error, STORE_FILE};
use crate::store::sqlite;
use crate::tools::config::{HeaderValue, HttpTool};
use crate::tools::http::{Clients, Http};
use crate::tools::registry::Registry;
use crate::tools::sandbox::Sandboxes;
use crate::tools::validation;

/// What is built.
pub struct Components {
    /// API keys, where there are any.
    pub keys: Option<Arc<Keys>>,
    /// The models behind their breakers.
    pub models: Arc<Chain>,
    /// HTTP clients that the tools share.
    pub clients: Arc<Clients>,
    /// The tools, without those of a sandbox, which need a store.
    pub registry: Registry,
}

/// One part that cannot be built.
#[derive(Debug)]
pub struct Fault {
    /// The field at fault: `model.fallback[0]`, `auth.keys.file`.
    field: String,
    /// Of a field of a tool: the tool's name.
    tool: Option<String>,
    is_of_sandbox: bool,
    /// A secret has no value here; where the service runs it may have one.
    pub is_missing_secret: bool,
    /// Why.
    pub error: Error,
}

impl Fault {
    fn new(field: impl Into<String>, error: impl Into<Error>) -> Self {
        Self { field: field.into(), tool: None, is_of_sandbox: false, is_missing_secret: false, error: error.into() }
    }

    /// The field's path in the file.
    #[must_use]
    pub fn path(&self, places: &Places) -> String {
        match &self.tool {
            Some(tool) => places.tool(tool, &self.field),
            None if self.is_of_sandbox => places.sandbox(&self.field),
            None => self.field.clone(),
        }
    }
}

/// Every part that cannot be built.
#[derive(Debug)]
pub struct Faults(pub Vec<Fault>);

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|fault| fault.error.to_string()).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for Faults {}

/// Builds the parts of an agent.
///
/// # Errors
/// Every part that cannot be built, in the order of the file's usual form.
pub fn build(agent: &Agent, clock: &SharedClock) -> Result<Components, Faults> {
    let mut faults = Vec::new();
    let models = model::build(&agent.models, None, Arc::clone(clock));
    if models.is_err() {
        faults.extend(models_at_fault(agent, clock));
    }
    let clients = Arc::new(Clients::default());
    let registry = Registry::build_with(&agent.tools, &agent.builtins, Arc::clone(&clients));
    if let Err(error) = &registry {
        let before = faults.len();
        faults.extend(agent.tools.iter().filter_map(tool_at_fault));
        if faults.len() == before {
            // What only shows between tools: two of one name.
            let fault = Fault::new(error.field.clone(), error.clone());
            faults.push(Fault { tool: Some(error.tool.clone()), ..fault });
        }
    }
    if let Some(Err(error)) = agent.output.clone().map(validation::Schema::new) {
        faults.push(Fault::new("output.schema", error));
    }
    let keys = agent.auth.as_ref().map(|auth| Keys::open(&auth.keys, Arc::clone(clock))).transpose();
    let keys = keys.map_err(|error| faults.push(Fault::new("auth.keys.file", error))).unwrap_or_default();
    if let Some(config) = &agent.sandbox
        && let Err(error) = Sandboxes::access(config)
    {
        let is_missing_secret = config.key.as_ref().is_some_and(|key| key.read().is_err());
        faults.push(Fault { is_of_sandbox: true, is_missing_secret, ..Fault::new(error.field.clone(), error) });
    }
    match (models, registry) {
        (Ok(models), Ok(registry)) if faults.is_empty() => {
            Ok(Components { keys: keys.map(Arc::new), models: Arc::new(models), clients, registry })
        }
        _ => Err(Faults(faults)),
    }
}

fn models_at_fault(agent: &Agent, clock: &SharedClock) -> Vec<Fault> {
    let fault = |(index, model): (usize, &crate::model::config::Model)| {
        let error = model::build(std::slice::from_ref(model), None, Arc::clone(clock)).err()?;
        let at = if index == 0 { "model".to_owned() } else { format!("model.fallback[{}]", index - 1) };
        let (field, is_missing_secret) = match &error {
            BuildError::Key { .. } => ("key", true),
            BuildError::KeyCharacters { .. } => ("key", false),
            BuildError::Url { .. } => ("base_url", false),
            BuildError::Plan(_) => ("plan", false),
            BuildError::Cassette(_) => ("file", false),
            BuildError::Tls(_) => ("provider", false),
        };
        Some(Fault { is_missing_secret, ..Fault::new(format!("{at}.{field}"), error) })
    };
    agent.models.iter().enumerate().filter_map(fault).collect()
}

fn tool_at_fault(tool: &HttpTool) -> Option<Fault> {
    let error = Http::build(tool, Arc::default()).err()?;
    let header = error.field.strip_prefix("http.headers.").and_then(|name| tool.headers.get(name));
    let is_missing_secret =
        header.is_some_and(|value| matches!(value, HeaderValue::Secret { secret, .. } if secret.read().is_err()));
    Some(Fault { tool: Some(tool.name.clone()), is_missing_secret, ..Fault::new(error.field.clone(), error) })
}

/// Finds what would keep the agent from using a state folder, and changes nothing there.
///
/// # Errors
/// What stands at the folder's place is none, or its store is damaged, newer, or another agent's.
pub fn check_state(agent: &Agent, folder: &Path) -> Result<(), Error> {
    let failed = |source| Error::State { path: folder.to_owned(), source };
    match std::fs::metadata(folder) {
        Ok(data) if data.is_dir() => {}
        Ok(_) => return Err(failed(std::io::ErrorKind::NotADirectory.into())),
        // It is made by the first start.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    let file = folder.join(STORE_FILE);
    if !file.exists() {
        return Ok(());
    }
    Ok(sqlite::probe(&file, &agent.name)?)
}

/// The parts of an agent, with the clock of the system.
///
/// # Errors
/// As [`build`].
pub fn check(agent: &Agent) -> Result<(), Faults> {
    build(agent, &(Arc::new(System) as SharedClock)).map(|_| ())
}
