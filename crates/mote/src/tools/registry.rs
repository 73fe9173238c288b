//! The tools that an agent is bound to: by name, with their definitions for the model and their validators.
//!
//! It does not call tools and does not retry; the runner does.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::http::{BuildError, Clients, Http};
use super::sandbox::{self, Sandboxes};
use super::validation::{self, Schema};
use super::{Effect, Tool};
use crate::canonical;
use crate::limits::TOOL_ARGUMENTS_BYTES_MAX;
use crate::model::ToolDefinition;
use crate::tools::config::{Builtin, HttpTool};

/// Behind a name.
#[derive(Clone)]
pub enum Target {
    /// A tool with a backend.
    Tool(Arc<dyn Tool>),
    /// A tool that the runner performs.
    Builtin(Builtin),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tool(tool) => f.debug_tuple("Tool").field(&tool.definition().name).finish(),
            Self::Builtin(builtin) => f.debug_tuple("Builtin").field(builtin).finish(),
        }
    }
}

/// One bound tool.
#[derive(Debug)]
pub struct Binding {
    /// What is behind it.
    pub target: Target,
    schema: Schema,
    digest: [u8; 32],
}

impl Binding {
    /// The effect class; waiting has none, so it may be repeated.
    #[must_use]
    pub fn effect(&self) -> Effect {
        match &self.target {
            Target::Tool(tool) => tool.effect(),
            Target::Builtin(_) => Effect::Read,
        }
    }

    /// Digest of the binding: a pending call whose digest changed is not resumed.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// The agent's tools. Fixed at start: nothing that the agent does adds one.
#[derive(Debug)]
pub struct Registry {
    bindings: BTreeMap<String, Binding>,
    definitions: Vec<ToolDefinition>,
    sandboxes: Option<Arc<Sandboxes>>,
}

impl Registry {
    /// Sets up every tool: reads secrets, checks URLs and schemas. Opens no connection.
    ///
    /// # Errors
    /// The first tool that cannot be set up, and why.
    pub fn build(tools: &[HttpTool], builtins: &[Builtin]) -> Result<Self, BuildError> {
        Self::build_with(tools, builtins, Arc::new(Clients::default()))
    }

    /// As [`Registry::build`], with HTTP clients of the caller's (a simulated resolver).
    ///
    /// # Errors
    /// As [`Registry::build`].
    pub fn build_with(tools: &[HttpTool], builtins: &[Builtin], clients: Arc<Clients>) -> Result<Self, BuildError> {
        let mut registry = Self { bindings: BTreeMap::new(), definitions: Vec::new(), sandboxes: None };
        for tool in tools {
            registry.add(Arc::new(Http::build(tool, clients.clone())?))?;
        }
        for &builtin in builtins {
            registry.bind(builtin.definition(), Target::Builtin(builtin), builtin_digest(builtin))?;
        }
        Ok(registry)
    }

    /// Adds a tool of another kind.
    ///
    /// # Errors
    /// If its name is taken or its schema is refused.
    pub fn add(&mut self, tool: Arc<dyn Tool>) -> Result<(), BuildError> {
        let (definition, digest) = (tool.definition().clone(), tool.digest());
        self.bind(definition, Target::Tool(tool), digest)
    }

    /// Adds the tools of the agent's sandbox.
    ///
    /// # Errors
    /// If one of their names is taken.
    pub fn add_sandbox(&mut self, sandboxes: Arc<Sandboxes>) -> Result<(), BuildError> {
        for tool in sandbox::tools(&sandboxes) {
            self.add(tool)?;
        }
        self.sandboxes = Some(sandboxes);
        Ok(())
    }

    /// The agent's sandboxes, if it has any.
    #[must_use]
    pub fn sandboxes(&self) -> Option<&Arc<Sandboxes>> {
        self.sandboxes.as_ref()
    }

    fn bind(&mut self, definition: ToolDefinition, target: Target, digest: [u8; 32]) -> Result<(), BuildError> {
        let fail = |field: &str, message: String| BuildError {
            tool: definition.name.clone(),
            field: field.to_owned(),
            message,
        };
        if self.bindings.contains_key(&definition.name) {
            return Err(fail("name", "another tool has this name".to_owned()));
        }
        let schema = Schema::new(definition.input_schema.clone()).map_err(|error| fail("input", error.to_string()))?;
        self.bindings.insert(definition.name.clone(), Binding { target, schema, digest });
        self.definitions.push(definition);
        Ok(())
    }

    /// The tools as the model sees them, in the order of the configuration, then built-ins, then the sandbox's.
    #[must_use]
    pub fn definitions(&self) -> &[ToolDefinition] {
        &self.definitions
    }

    /// A tool by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Binding> {
        self.bindings.get(name)
    }

    /// Compiles every schema, so that mistakes in them show before the first call (`mote check`).
    ///
    /// # Errors
    /// The first schema that does not compile.
    pub fn check(&self) -> Result<(), BuildError> {
        for (name, binding) in &self.bindings {
            binding.schema.compile().map_err(|error| BuildError {
                tool: name.clone(),
                field: "input".to_owned(),
                message: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// Reads and validates arguments as the model wrote them.
    ///
    /// # Errors
    /// A message for the model: an unknown tool, text that is not JSON, or every violation with its path.
    pub fn validate(&self, name: &str, arguments: &str) -> Result<Value, String> {
        let Some(binding) = self.bindings.get(name) else {
            let known = self.bindings.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!("there is no tool {name:?}; the tools are: {known}"));
        };
        if arguments.len() > TOOL_ARGUMENTS_BYTES_MAX {
            return Err(format!(
                "the arguments have {} bytes, {TOOL_ARGUMENTS_BYTES_MAX} are allowed",
                arguments.len()
            ));
        }
        let value = Value::Object(crate::arguments::read(arguments)?);
        binding.schema.validate(&value).map_err(|violations| {
            format!("the arguments do not match the tool's schema:\n{}", validation::describe(&violations))
        })?;
        if let Target::Builtin(builtin) = binding.target {
            builtin.parse(&value).map_err(|message| format!("the arguments cannot be used: {message}"))?;
        }
        Ok(value)
    }
}

fn builtin_digest(builtin: Builtin) -> [u8; 32] {
    let definition = builtin.definition();
    canonical::digest(&json!({"kind": "builtin", "name": definition.name, "input": definition.input_schema}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::policy::network::Private;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn tool(name: &str) -> HttpTool {
        HttpTool {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            description: "Gets a ticket.".to_owned(),
            method: "GET".to_owned(),
            url: "https://tickets.example/{id}".to_owned(),
            headers: BTreeMap::new(),
            input: json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}),
            effect: Effect::Read,
            timeout: Duration::from_secs(1),
            output_max: 1024,
            key_ttl: None,
            allow_hosts: Vec::new(),
            allow_private: Private::None,
            approval: false,
        }
    }

    fn all() -> Registry {
        let builtins = [Builtin::WaitForSignal, Builtin::WaitUntil, Builtin::AskPerson];
        Registry::build(&[tool("get_ticket")], &builtins).unwrap()
    }

    #[test]
    fn the_model_sees_tools_and_builtins() {
        let registry = all();
        let names: Vec<_> = registry.definitions().iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names, ["get_ticket", "wait_for_signal", "wait_until", "ask_person"]);
        registry.check().unwrap();
    }

    #[test]
    fn invalid_arguments_are_explained_to_the_model() {
        let registry = all();
        assert_eq!(registry.validate("get_ticket", r#"{"id":"a"}"#), Ok(json!({"id": "a"})));
        for (name, arguments, expected) in [
            ("get_ticket", r#"{"id":7}"#, "- /id: "),
            ("get_ticket", "", "required property"),
            ("get_ticket", "{\"id\":", "not JSON"),
            ("get_ticket", "[]", "must be a JSON object"),
            ("get_tickets", "{}", "the tools are: ask_person, get_ticket"),
            ("wait_until", "{}", "less than 1 property"),
            ("wait_until", r#"{"at":"2026-11-21T12:00:00Z","after":"1s"}"#, "more than 1 property"),
            ("wait_until", r#"{"after":"999999999d"}"#, "longest wait"),
            ("wait_for_signal", r#"{"name":"no spaces"}"#, "/name"),
        ] {
            let message = registry.validate(name, arguments).unwrap_err();
            assert!(message.contains(expected), "{name} {arguments}: {message}");
        }
    }

    #[test]
    fn names_are_unique_and_schemas_checked() {
        let twice = Registry::build(&[tool("a"), tool("a")], &[]).unwrap_err().to_string();
        assert_eq!(twice, "failed to set up tool a: name: another tool has this name");
        let taken = Registry::build(&[tool("wait_until")], &[Builtin::WaitUntil]);
        assert!(taken.is_err());
        let remote = HttpTool { input: json!({"$ref": "https://x.example/s.json"}), ..tool("a") };
        assert!(Registry::build(&[remote], &[]).unwrap_err().to_string().contains("input: /$ref"));
    }

    #[test]
    fn a_digest_changes_with_what_a_pending_call_depends_on() {
        let digest = |tool: HttpTool| {
            let registry = Registry::build(&[tool], &[]).unwrap();
            registry.get("a").unwrap().digest()
        };
        let first = digest(tool("a"));
        assert_eq!(first, digest(HttpTool { description: "Other words.".to_owned(), ..tool("a") }));
        assert_eq!(first, digest(HttpTool { timeout: Duration::from_secs(9), ..tool("a") }));
        assert_ne!(first, digest(HttpTool { url: "https://other.example/{id}".to_owned(), ..tool("a") }));
        assert_ne!(first, digest(HttpTool { effect: Effect::Write, ..tool("a") }));
        assert_ne!(first, digest(HttpTool { version: "1.0.1".to_owned(), ..tool("a") }));
    }
}
