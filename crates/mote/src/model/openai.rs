//! OpenAI's Chat Completions API, and servers compatible with it: requests out of transcripts; replies come through
//! [`mote_wire::openai`].
//!
//! What only OpenAI itself understands is sent only to it. It does not speak the Responses API.

use async_trait::async_trait;
use mote_wire::openai::REASONING_FIELDS;
use serde_json::{Map, Value, json};

use super::assembly::Reasoning;
use super::endpoint::Endpoint;
use super::schema::{self, Subset};
use super::transport::Client;
use super::{BuildError, DeltaSink, Error, Provider, Reply, Request, ToolDefinition};
use crate::config;
use crate::config::SecretValue;
use crate::message::{Message, Part, Role};

/// This provider's kind.
pub const KIND: &str = "openai";
/// Where it is, unless configured.
pub const BASE_URL: &str = "https://api.openai.com/v1";
/// Hosts that are OpenAI's own service, or Azure's.
const OWN_HOSTS: [&str; 3] = ["api.openai.com", ".api.openai.com", ".openai.azure.com"];

/// An endpoint that speaks Chat Completions.
pub struct OpenAi {
    endpoint: Endpoint,
    own: bool,
    output_tokens_max: u32,
    temperature: Option<f64>,
}

impl OpenAi {
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
        if let Some(key) = &key {
            super::insert_key(&mut headers, http::header::AUTHORIZATION, "Bearer ", key, &model.name)?;
        }
        let uri = super::uri(model, BASE_URL, "chat/completions")?;
        let own = uri.host().is_some_and(|host| {
            OWN_HOSTS.iter().any(|name| if name.starts_with('.') { host.ends_with(name) } else { host == *name })
        });
        let (timeout, idle_timeout) = (model.timeout, model.idle_timeout);
        let endpoint = Endpoint { client, uri, model: model.name.clone(), headers, key, timeout, idle_timeout, clock };
        Ok(Self { endpoint, own, output_tokens_max: model.output_tokens_max, temperature: model.temperature })
    }

    fn body(&self, request: &Request) -> Value {
        let mut system = request.system.to_string();
        let mut body = json!({
            "model": self.endpoint.model,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        // OpenAI's newer models refuse the old name, compatible servers may not know the new one.
        let limit = if self.own { "max_completion_tokens" } else { "max_tokens" };
        body[limit] = json!(super::output_tokens(self.output_tokens_max, request));
        if let Some(temperature) = self.temperature {
            body["temperature"] = json!(temperature);
        }
        if let Some(wanted) = &request.output_schema {
            // Servers that constrain by grammar would constrain calls away: there, only a request without tools.
            if self.own || request.tools.is_empty() {
                let strict = schema::fits(wanted, Subset { all_required: true });
                let named = json!({"name": "result", "strict": strict, "schema": wanted});
                body["response_format"] = json!({"type": "json_schema", "json_schema": named});
            } else {
                system = super::with_instruction(&system, &schema::instruction(wanted));
            }
        }
        if !request.tools.is_empty() {
            body["tools"] = request.tools.iter().map(tool).collect();
        }
        let mut messages = Vec::with_capacity(request.messages.len() + 1);
        if !system.is_empty() {
            messages.push(json!({"role": "system", "content": system}));
        }
        let turn = request.messages.iter().rposition(|message| message.role == Role::User).unwrap_or(0);
        for (place, message) in request.messages.iter().enumerate() {
            match message.role {
                Role::User => messages.push(json!({"role": "user", "content": message.plain_text()})),
                Role::Assistant => messages.push(self.assistant(message, place > turn)),
                Role::Tool => messages.extend(message.parts.iter().filter_map(result)),
            }
        }
        body["messages"] = Value::Array(messages);
        body
    }

    /// `current` is whether the message belongs to the turn under way: only there do servers want reasoning back.
    fn assistant(&self, message: &Message, current: bool) -> Value {
        let mut sent = Map::from_iter([("role".to_owned(), json!("assistant"))]);
        let mut calls = Vec::new();
        for part in &message.parts {
            match part {
                Part::Call { id, name, arguments } => calls.push(json!({
                    "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
                })),
                Part::Reasoning { text, opaque: Some(opaque) } if current && self.is_from_here(opaque) => {
                    if let Some(field) = opaque["field"].as_str().filter(|field| REASONING_FIELDS.contains(field)) {
                        sent.insert(field.to_owned(), json!(text));
                    }
                }
                _ => {}
            }
        }
        let text = message.plain_text();
        sent.insert("content".to_owned(), if text.is_empty() && !calls.is_empty() { Value::Null } else { json!(text) });
        if !calls.is_empty() {
            sent.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        Value::Object(sent)
    }

    fn is_from_here(&self, opaque: &Value) -> bool {
        opaque["provider"] == KIND && opaque["model"] == self.endpoint.model.as_str()
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let body = self.body(request);
        let mut decoder = mote_wire::openai::Decoder;
        let traceparent = request.traceparent.as_deref();
        let assembly = self.endpoint.call(body, traceparent, &mut decoder, deltas).await?;
        let model = &self.endpoint.model;
        let reply = assembly.into_reply(|reasoning| match reasoning {
            Reasoning::Open { index, .. } => {
                let field = REASONING_FIELDS.get(usize::try_from(index).ok()?)?;
                Some(json!({"provider": KIND, "model": model, "field": field}))
            }
            Reasoning::Redacted { .. } => None,
        });
        Ok(super::reply(reply, KIND, model))
    }
}

fn tool(tool: &ToolDefinition) -> Value {
    let ToolDefinition { name, description, input_schema } = tool;
    json!({"type": "function", "function": {"name": name, "description": description, "parameters": input_schema}})
}

/// The format has no field for a failed call: the text says it.
fn result(part: &Part) -> Option<Value> {
    match part {
        Part::Result { id, content, is_error } => {
            let content = if *is_error { format!("[failed] {content}") } else { content.clone() };
            Some(json!({"role": "tool", "tool_call_id": id, "content": content}))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::{configured, request, transcript};

    fn provider(base_url: &str) -> OpenAi {
        let clock = std::sync::Arc::new(crate::clock::System);
        let client = Client::new(crate::tls::client_config(None).unwrap());
        OpenAi::new(&configured(config::Provider::OpenAi, base_url), None, client, clock).unwrap()
    }

    #[test]
    fn a_transcript_becomes_messages() {
        let body = provider("http://127.0.0.1:9/v1").body(&transcript());
        let call =
            |id, arguments| json!({"id": id, "type": "function", "function": {"name": "get", "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sort T-1"},
            {"role": "assistant", "content": "Looking",
             "tool_calls": [call("functions.get:0", "{\"id\":\"T-1\"}"), call("b", "{oops")]},
            {"role": "tool", "tool_call_id": "functions.get:0", "content": "{\"open\":true}"},
            {"role": "tool", "tool_call_id": "b", "content": "[failed] not JSON"},
            {"role": "user", "content": "Hurry"},
        ]);
        assert_eq!(body["messages"], expected);
        assert_eq!(body["tools"][0]["function"]["parameters"], json!({"type": "object"}));
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
        assert_eq!(body["max_tokens"], 512);
    }

    #[test]
    fn what_only_openai_knows_is_sent_only_there() {
        let mut asked = transcript();
        asked.output_schema = Some(json!({"type": "object"}).into());
        let own = provider("https://api.openai.com/v1").body(&asked);
        assert_eq!((&own["max_completion_tokens"], own.get("max_tokens")), (&json!(512), None));
        assert_eq!(own["response_format"]["json_schema"]["strict"], false);
        let compatible = provider("http://localhost:11434/v1").body(&asked);
        assert!(compatible.get("response_format").is_none(), "a grammar would keep the model from calling tools");
        assert!(compatible["messages"][0]["content"].as_str().unwrap().contains("JSON Schema"));
        asked.tools = [].into();
        let compatible = provider("http://localhost:11434/v1").body(&asked);
        assert_eq!(compatible["response_format"]["type"], "json_schema");
    }

    #[test]
    fn a_strict_schema_is_sent_as_strict() {
        let mut asked = request("x");
        asked.output_schema = Some(
            json!({"type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {"a": {"type": "string"}}})
            .into(),
        );
        let body = provider("https://api.openai.com/v1").body(&asked);
        assert_eq!(body["response_format"]["json_schema"]["strict"], true);
    }

    #[test]
    fn reasoning_goes_back_in_its_field_within_the_turn() {
        let thought = |model: &str| {
            let opaque = Some(json!({"provider": KIND, "model": model, "field": "reasoning_content"}));
            let call = Part::Call { id: "a".into(), name: "get".into(), arguments: "{}".into() };
            Message { role: Role::Assistant, parts: vec![Part::Reasoning { text: "hm".into(), opaque }, call] }
        };
        let result = Part::Result { id: "a".into(), content: "1".into(), is_error: false };
        let result = Message { role: Role::Tool, parts: vec![result] };
        let mut asked = request("x");
        asked.messages.extend([thought("test-model"), result]);
        let provider = provider("http://127.0.0.1:9/v1");
        assert_eq!(provider.body(&asked)["messages"][2]["reasoning_content"], "hm");
        assert_eq!(provider.body(&asked)["messages"][2]["content"], Value::Null);
        asked.messages.push(Message::text(Role::User, "next"));
        assert!(!provider.body(&asked).to_string().contains("hm"), "an earlier turn's reasoning stays away");
        let mut foreign = request("x");
        foreign.messages.push(thought("another-model"));
        assert!(!provider.body(&foreign).to_string().contains("hm"));
    }
}
