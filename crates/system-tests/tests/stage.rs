//! What most tests stand on: a folder with an `agent.yaml`, a fake model that it calls and a backend for its tools.
//!
//! It asserts nothing about the product.

use std::path::PathBuf;

use serde_json::{Value, json};
use system_tests::backend::Backend;
use system_tests::fake_model::{FakeModel, Plan, Wire};
use system_tests::process::service::{Launch, Service};
use tempfile::TempDir;

/// What the fake model's key is; must never be seen anywhere else.
pub(crate) const MODEL_KEY: &str = "sk-model-SECRET-0123456789abcdef";
/// What the tools' backend is called with; must never be seen anywhere else.
pub(crate) const TOOL_KEY: &str = "tool-SECRET-fedcba9876543210";

/// A folder, a model and a backend.
pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) model: FakeModel,
    pub(crate) backend: Backend,
    /// The `agent.yaml`; JSON is YAML too.
    pub(crate) agent: Value,
}

impl Stage {
    /// An agent with one tool of each effect class, whose model follows the plan.
    pub(crate) async fn new(plan: Plan) -> Self {
        Self::speaking(Wire::OpenAi, plan).await
    }

    /// The same, in a wire format.
    pub(crate) async fn speaking(wire: Wire, plan: Plan) -> Self {
        let model = FakeModel::start(plan).await.unwrap();
        let backend = Backend::start().await.unwrap();
        let agent = agent(&endpoint(wire, &model), &backend.url());
        Self { folder: TempDir::with_prefix("mote-").unwrap(), model, backend, agent }
    }

    /// Changes the agent.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.agent);
        self
    }

    /// The folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes `agent.yaml` as it now stands.
    pub(crate) fn write_agent(&self) -> PathBuf {
        self.write("agent.yaml", &serde_json::to_string_pretty(&self.agent).unwrap())
    }

    /// How to serve it.
    pub(crate) fn launch(&self) -> Launch {
        Launch::new(self.write_agent(), self.path("state")).env("MODEL_KEY", MODEL_KEY).env("TOOL_KEY", TOOL_KEY)
    }

    /// Serves it.
    pub(crate) async fn serve(&self) -> Service {
        self.launch().start().await.unwrap()
    }

    /// Whether any file under the state folder contains a text.
    pub(crate) fn state_contains(&self, text: &str) -> bool {
        let files = std::fs::read_dir(self.path("state")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).any(|path| contains(&std::fs::read(path).unwrap(), text))
    }
}

/// Whether bytes contain a text.
pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The `model` block for a fake.
pub(crate) fn endpoint(wire: Wire, fake: &FakeModel) -> Value {
    let (provider, base_url) = match wire {
        Wire::OpenAi => ("openai", fake.openai_url()),
        Wire::Anthropic => ("anthropic", fake.url()),
    };
    // USD a million tokens: 1,000 and 10,000 nano-USD a token.
    json!({
        "provider": provider, "name": "planned", "base_url": base_url, "key": {"env": "MODEL_KEY"},
        "price": {"input": 1, "output": 10, "cache_read": 0.1, "cache_write": 1.25},
        "timeout": "20s", "idle_timeout": "2s",
    })
}

/// A tool on the backend. A name like `look_up` stands for one argument `name`.
pub(crate) fn tool(name: &str, effect: &str, method: &str, url: &str) -> Value {
    json!({
        "name": name, "description": format!("The tool {name}."), "effect": effect, "timeout": "20s",
        "http": {
            "method": method, "url": url, "allow_private": true,
            "headers": {"authorization": {"env": "TOOL_KEY", "prefix": "Bearer "}},
        },
        "input": {
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {"name": {"type": "string"}, "note": {"type": "string"}},
        },
    })
}

fn agent(model: &Value, backend: &str) -> Value {
    json!({
        "apiVersion": "mote/v1", "kind": "Agent", "name": "tested", "version": "1.0.0",
        "description": "An agent under test.",
        "prompt": "You are an agent under test.",
        "model": model,
        "tools": [
            tool("look_up", "read", "GET", &format!("{backend}/read/{{name}}")),
            tool("create_order", "idempotent", "POST", &format!("{backend}/idempotent/{{name}}")),
            tool("send_note", "write", "POST", &format!("{backend}/write/{{name}}")),
        ],
        "limits": {"backoff": "10ms", "backoff_max": "50ms"},
        "server": {"lease": "1s", "drain": "5s"},
    })
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) event: String,
    pub(crate) data: Value,
}

/// Reads server-sent events from a response, one at a time.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Events {
    /// Reads a response that must be a stream.
    pub(crate) fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Self { response, buffer: Vec::new() }
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let ending = self.buffer.windows(2).position(|pair| pair == b"\n\n");
            if let Some(at) = ending {
                let block: Vec<u8> = self.buffer.drain(..at + 2).collect();
                if let Some(event) = parse(std::str::from_utf8(&block).unwrap()) {
                    return Some(event);
                }
                continue;
            }
            let more = tokio::time::timeout(system_tests::limits::PATIENCE, self.response.chunk());
            match more.await.expect("the stream went silent").expect("the stream broke") {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return None,
            }
        }
    }

    /// Everything until the stream ends.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Events until one fits, that one included.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let Some(event) = self.next().await else { panic!("the stream ended before that, after {events:?}") };
            let found = fits(&event);
            events.push(event);
            if found {
                return events;
            }
        }
    }
}

/// A block of lines; `None` for a comment.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event { id: None, event: "message".to_owned(), data: Value::Null };
    let mut data = String::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = value.to_owned(),
            "data" => data.push_str(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return None;
    }
    event.data = serde_json::from_str(&data).unwrap_or(Value::String(data));
    Some(event)
}
