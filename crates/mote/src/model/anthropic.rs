//! Anthropic's Messages API: requests out of transcripts; replies come through [`mote_wire::anthropic`].
//!
//! Reasoning blocks go back as they came, and only where the provider will take them: it binds a block to its model and
//! to everything before it, so each carries a digest of that, and one whose past has changed (trimmed, or answered by
//! another model) is left out. It does not turn extended thinking on or off: models decide by their own defaults.

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::adapt::{Learned, Shape};
use super::assembly::Reasoning;
use super::endpoint::Endpoint;
use super::history::{self, Ids};
use super::schema::{self, Subset};
use super::transport::Client;
use super::{BuildError, DeltaSink, Error, Provider, Reply, Request, ToolDefinition};
use crate::arguments;
use crate::message::{Message, Part, Role};
use crate::model::config;
use crate::model::config::OutputLimitField;
use crate::secret::SecretValue;

/// This provider's kind.
pub const KIND: &str = "anthropic";
/// Where it is, unless configured.
pub const BASE_URL: &str = "https://api.anthropic.com";
/// The API's version: <https://docs.claude.com/en/api/versioning>.
const VERSION: &str = "2023-06-01";
/// Models (by the beginning of their names) from before structured outputs.
const UNCONSTRAINED: [&str; 8] = [
    "claude-2",
    "claude-3",
    "claude-instant",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-opus-4-2025",
    "claude-sonnet-4-0",
    "claude-sonnet-4-2025",
];

/// Whether the host is Anthropic's own service.
pub(crate) fn is_own_host(host: &str) -> bool {
    host == "api.anthropic.com"
}

/// An Anthropic endpoint.
pub struct Anthropic {
    endpoint: Endpoint,
    output_tokens_max: u32,
    temperature: Option<f64>,
    cache: bool,
}

impl Anthropic {
    /// An endpoint as configured; `key` is its secret's value.
    ///
    /// # Errors
    /// If the base URL is none, or the key cannot be sent in a header.
    pub fn new(
        model: &config::Model,
        key: Option<SecretValue>,
        client: Client,
        clock: crate::clock::SharedClock,
    ) -> Result<Self, BuildError> {
        let mut headers = super::headers();
        headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static(VERSION));
        if let Some(key) = &key {
            super::insert_key(&mut headers, HeaderName::from_static("x-api-key"), "", key, &model.name)?;
        }
        let base = model.base_url.split('?').next().unwrap_or_default().trim_end_matches('/');
        let path = if base.ends_with("/v1") { "messages" } else { "v1/messages" };
        let uri = super::uri(model, BASE_URL, path)?;
        let (timeout, idle_timeout) = (model.timeout, model.idle_timeout);
        let learned = Learned::new(Shape::new(OutputLimitField::MaxTokens, false));
        let model_name = model.name.clone();
        let endpoint = Endpoint { client, uri, model: model_name, headers, key, timeout, idle_timeout, clock, learned };
        let (output_tokens_max, temperature, cache) = (model.output_tokens_max, model.temperature, model.cache);
        Ok(Self { endpoint, output_tokens_max, temperature, cache })
    }

    /// The body that is sent first.
    #[cfg(test)]
    pub(super) fn body(&self, request: &Request) -> (Value, String) {
        self.shaped(request, self.endpoint.learned.shape())
    }

    /// The request's body, and the digest of the conversation that a reply's reasoning will be bound to.
    fn shaped(&self, request: &Request, shape: Shape) -> (Value, String) {
        let mut system = request.system.to_string();
        let mut body = json!({
            "model": self.endpoint.model,
            "max_tokens": super::output_tokens(self.output_tokens_max, request),
            "stream": true,
        });
        if let Some(wanted) = &request.output_schema {
            let old = UNCONSTRAINED.iter().any(|prefix| self.endpoint.model.starts_with(prefix));
            if shape.constrained && !old && schema::fits(wanted, Subset { all_required: false }) {
                body["output_config"] = json!({"format": {"type": "json_schema", "schema": wanted}});
            } else {
                system = super::with_instruction(&system, &schema::instruction(wanted));
            }
        }
        if let Some(temperature) = self.temperature.filter(|_| shape.temperature) {
            body["temperature"] = json!(temperature);
        }
        let tools: Vec<Value> = request.tools.iter().map(tool).collect();
        let mut past = Past::new(&self.endpoint.model, &system, &tools);
        let messages = messages(&history::presentable(&request.messages, Ids::Word), &mut past);
        if !tools.is_empty() {
            body["tools"] = Value::Array(tools);
        }
        if !system.is_empty() {
            body["system"] = json!([{"type": "text", "text": system}]);
        }
        body["messages"] = Value::Array(messages);
        if self.cache {
            mark(&mut body);
        }
        (body, past.digest())
    }
}

#[async_trait]
impl Provider for Anthropic {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let mut past = String::new();
        let mut write = |shape| {
            let (body, digest) = self.shaped(request, shape);
            past = digest;
            body
        };
        let mut decoder = mote_wire::anthropic::Decoder::default();
        let traceparent = request.traceparent.as_deref();
        let assembly = self.endpoint.call(&mut write, traceparent, &mut decoder, deltas).await?;
        let reply = assembly.into_reply(|reasoning| {
            Some(match reasoning {
                Reasoning::Open { signature, .. } => json!({"provider": KIND, "past": past, "signature": signature}),
                Reasoning::Redacted { data } => json!({"provider": KIND, "past": past, "redacted": data}),
            })
        });
        Ok(super::reply(reply, KIND, &self.endpoint.model, request))
    }
}

/// What stands before a message, as a running digest of what is sent.
struct Past(Sha256);

impl Past {
    fn new(model: &str, system: &str, tools: &[Value]) -> Self {
        let mut past = Self(Sha256::new());
        past.add(&json!([model, system, tools]));
        past
    }

    fn add(&mut self, sent: &Value) {
        self.0.update(sent.to_string());
        self.0.update([0]);
    }

    /// The first 16 bytes, in hexadecimal.
    fn digest(&self) -> String {
        self.0.clone().finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The transcript in Anthropic's form: two roles that take turns, results of calls first within a user's turn.
fn messages(messages: &[Message], past: &mut Past) -> Vec<Value> {
    let speaker = |message: &Message| if message.role == Role::Assistant { "assistant" } else { "user" };
    let mut turns = Vec::new();
    for said in messages.chunk_by(|a, b| speaker(a) == speaker(b)) {
        let Some(role) = said.first().map(speaker) else { continue };
        let digest = past.digest();
        let parts = said.iter().flat_map(|message| &message.parts);
        let content: Vec<Value> = parts.filter_map(|part| block(part, &digest)).collect();
        if content.is_empty() {
            continue;
        }
        let turn = json!({"role": role, "content": content});
        past.add(&turn);
        // The one before may have the same role: what stood between the two said nothing.
        history::add_turn(&mut turns, turn, |text| json!([{"type": "text", "text": text}]));
    }
    turns
}

fn block(part: &Part, past: &str) -> Option<Value> {
    match part {
        // The API refuses blocks of nothing but white space.
        Part::Text { text } => (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text})),
        Part::Reasoning { text, opaque } => {
            let opaque = opaque.as_ref().filter(|opaque| opaque["provider"] == KIND && opaque["past"] == past)?;
            if let Some(data) = opaque.get("redacted") {
                return Some(json!({"type": "redacted_thinking", "data": data}));
            }
            Some(json!({"type": "thinking", "thinking": text, "signature": opaque["signature"]}))
        }
        Part::Call { id, name, arguments, .. } => {
            let input = arguments::as_history_value(arguments);
            Some(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
        }
        Part::Result { id, content, is_error } => {
            let mut result = json!({"type": "tool_result", "tool_use_id": id, "content": content});
            if *is_error {
                result["is_error"] = json!(true);
            }
            Some(result)
        }
    }
}

fn tool(tool: &ToolDefinition) -> Value {
    json!({"name": tool.name, "description": tool.description, "input_schema": tool.input_schema})
}

/// Places the marks that the prompt cache works by (four at most): after the tools, after the system prompt, and after the
/// last two turns of the user, so that each step reads what the step before it wrote.
fn mark(body: &mut Value) {
    let ephemeral = || json!({"type": "ephemeral"});
    for field in ["tools", "system"] {
        if let Some(last) = body.get_mut(field).and_then(Value::as_array_mut).and_then(|list| list.last_mut()) {
            last["cache_control"] = ephemeral();
        }
    }
    let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) else { return };
    let turns = messages.iter_mut().rev().filter(|message| message["role"] == "user");
    for turn in turns.take(2) {
        if let Some(last) = turn.get_mut("content").and_then(Value::as_array_mut).and_then(|list| list.last_mut()) {
            last["cache_control"] = ephemeral();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::{configured, request, transcript};

    fn body(cache: bool, request: &Request) -> (Value, String) {
        let model = config::Model { cache, ..configured(config::Provider::Anthropic, "http://127.0.0.1:9") };
        provider(&model).body(request)
    }

    fn provider(model: &config::Model) -> Anthropic {
        let clock = std::sync::Arc::new(crate::clock::System);
        Anthropic::new(model, None, Client::new(crate::tls::client_config(None).unwrap()), clock).unwrap()
    }

    #[test]
    fn a_transcript_becomes_turns() {
        let (body, _) = body(false, &transcript());
        let expected = json!([
            {"role": "user", "content": [{"type": "text", "text": "Sort T-1"}]},
            {"role": "assistant", "content": [
                {"type": "text", "text": "Looking"},
                {"type": "tool_use", "id": "functions_get_0", "name": "get", "input": {"id": "T-1"}},
                {"type": "tool_use", "id": "b", "name": "get", "input": {"invalid_arguments": "{oops"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "functions_get_0", "content": "{\"open\":true}"},
                {"type": "tool_result", "tool_use_id": "b", "content": "not JSON", "is_error": true},
                {"type": "text", "text": "Hurry"},
            ]},
        ]);
        assert_eq!(body["messages"], expected);
        assert_eq!(body["system"], json!([{"type": "text", "text": "Be brief."}]));
        assert_eq!(body["tools"][0]["input_schema"], json!({"type": "object"}));
        assert_eq!((&body["max_tokens"], &body["stream"]), (&json!(512), &json!(true)));
        assert!(!body.to_string().contains("cache_control"));
    }

    #[test]
    fn cache_marks_stand_at_four_places() {
        let (body, _) = body(true, &transcript());
        let mark = json!({"type": "ephemeral"});
        assert_eq!(body["tools"][0]["cache_control"], mark);
        assert_eq!(body["system"][0]["cache_control"], mark);
        assert_eq!(body["messages"][2]["content"][2]["cache_control"], mark);
        assert_eq!(body["messages"][0]["content"][0]["cache_control"], mark);
        assert_eq!(body.to_string().matches("cache_control").count(), 4);
    }

    fn thought(past: &str) -> Message {
        let signed = json!({"provider": KIND, "past": past, "signature": "sig"});
        let hidden = json!({"provider": KIND, "past": past, "redacted": "xyz"});
        let foreign = json!({"provider": "openai", "field": "reasoning"});
        let reasoning = |opaque| Part::Reasoning { text: "hm".into(), opaque };
        let mut message = Message::text(Role::Assistant, "answer");
        message.parts.splice(0..0, [Some(signed), Some(hidden), Some(foreign), None].map(reasoning));
        message
    }

    #[test]
    fn reasoning_goes_back_only_to_the_conversation_it_came_from() {
        let mut asked = request("one");
        let (_, past) = body(false, &asked);
        asked.messages.extend([thought(&past), Message::text(Role::User, "two")]);
        let (with, second_past) = body(true, &asked);
        let expected = json!([
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "xyz"},
            {"type": "text", "text": "answer"},
        ]);
        assert_eq!(with["messages"][1]["content"], expected, "cache marks do not count as a change");

        // A second thought, bound to a past that holds the first.
        asked.messages.extend([thought(&second_past), Message::text(Role::User, "three")]);
        assert_eq!(body(false, &asked).0.to_string().matches("signature").count(), 2);
        let mut trimmed = asked.clone();
        trimmed.messages.drain(..1);
        assert!(!body(false, &trimmed).0.to_string().contains("thinking"), "the past changed");
        let mut rewritten = asked.clone();
        rewritten.system = format!("{}!", rewritten.system).into();
        assert!(!body(false, &rewritten).0.to_string().contains("thinking"), "the system prompt changed");
    }

    #[test]
    fn output_is_constrained_where_the_model_and_the_schema_allow() {
        let closed = json!({"type": "object", "additionalProperties": false, "properties": {"a": {"type": "string"}}});
        let mut asked = request("x");
        asked.output_schema = Some(closed.clone().into());
        let (native, _) = body(false, &asked);
        assert_eq!(native["output_config"], json!({"format": {"type": "json_schema", "schema": closed}}));
        assert_eq!(native["system"][0]["text"], "Be brief.");
        asked.output_schema = Some(json!({"type": "object"}).into());
        let (told, _) = body(false, &asked);
        assert!(told.get("output_config").is_none());
        assert!(told["system"][0]["text"].as_str().unwrap().ends_with("{\"type\":\"object\"}"));
    }

    #[test]
    fn schemas_keep_the_authors_order_and_numbers_their_digits() {
        let written = r#"{"type":"object","additionalProperties":false,"properties":{"z":{"type":"string"},"a":{"type":"string"}}}"#;
        let mut asked = transcript();
        asked.output_schema = Some(serde_json::from_str::<Value>(written).unwrap().into());
        let tool = ToolDefinition { input_schema: serde_json::from_str(written).unwrap(), ..asked.tools[0].clone() };
        asked.tools = [tool].into();
        let big = "{\"n\":123456789012345678901234567890}";
        if let Part::Call { arguments, .. } = &mut asked.messages[1].parts[1] {
            *arguments = big.to_owned();
        }
        let (sent, _) = body(false, &asked);
        assert_eq!(sent["tools"][0]["input_schema"].to_string(), written);
        assert_eq!(sent["output_config"]["format"]["schema"].to_string(), written);
        assert_eq!(sent["messages"][1]["content"][1]["input"].to_string(), big);
    }

    #[test]
    fn a_conversation_that_lost_its_beginning_starts_with_the_user() {
        let mut asked = request("two");
        asked.messages.insert(0, Message::text(Role::Assistant, "one"));
        let (sent, _) = body(false, &asked);
        assert_eq!(
            sent["messages"][0],
            json!({"role": "user", "content": [{"type": "text", "text": history::BEGINNING}]})
        );
        assert_eq!(sent["messages"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn base_urls_may_end_in_the_version() {
        for base in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/messages"] {
            let provider = provider(&configured(config::Provider::Anthropic, base));
            assert_eq!(provider.endpoint.uri, "http://h:1/v1/messages");
        }
        let provider = provider(&configured(config::Provider::Anthropic, "http://h:1/proxy"));
        assert_eq!(provider.endpoint.uri, "http://h:1/proxy/v1/messages");
    }
}
