//! OpenAI's Chat Completions API, and servers compatible with it: requests out of transcripts; replies come through
//! [`mote_wire::openai`].
//!
//! What only OpenAI itself understands is sent only to it. It does not speak the Responses API.

use async_trait::async_trait;
use http::HeaderName;
use mote_wire::openai::REASONING_FIELDS;
use serde_json::{Map, Value, json};

use super::adapt::{Learned, Shape};
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
/// Azure's hosts of models: <https://learn.microsoft.com/azure/ai-services/authentication>.
const AZURE_HOSTS: [&str; 4] =
    [".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".openai.azure.us"];

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
        let uri = super::uri(model, BASE_URL, "chat/completions")?;
        let host = uri.host().unwrap_or_default();
        let is_of = |name: &&str| if name.starts_with('.') { host.ends_with(*name) } else { host == *name };
        let own = OWN_HOSTS.iter().any(is_of);
        if let Some(key) = &key {
            // Azure takes its own keys in a header of their own, and tokens of Entra as everyone does.
            let azure = AZURE_HOSTS.iter().any(is_of) && !is_token(key.expose());
            let (name, prefix) =
                if azure { (HeaderName::from_static("api-key"), "") } else { (http::header::AUTHORIZATION, "Bearer ") };
            super::insert_key(&mut headers, name, prefix, key, &model.name)?;
        }
        let (timeout, idle_timeout) = (model.timeout, model.idle_timeout);
        let learned = Learned::new(Shape::new(model.output_limit_field, own));
        let model_name = model.name.clone();
        let endpoint = Endpoint { client, uri, model: model_name, headers, key, timeout, idle_timeout, clock, learned };
        Ok(Self { endpoint, own, output_tokens_max: model.output_tokens_max, temperature: model.temperature })
    }

    fn body(&self, request: &Request, shape: Shape) -> Value {
        let mut system = request.system.to_string();
        let mut body = json!({"model": self.endpoint.model, "stream": true});
        if shape.counted {
            body["stream_options"] = json!({"include_usage": true});
        }
        body[shape.limit.name()] = json!(super::output_tokens(self.output_tokens_max, request));
        if let Some(temperature) = self.temperature.filter(|_| shape.temperature) {
            body["temperature"] = json!(temperature);
        }
        if let Some(wanted) = &request.output_schema {
            // Servers that constrain by grammar would constrain calls away: there, only a request without tools.
            if shape.constrained && (self.own || request.tools.is_empty()) {
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
        let mut write = |shape| self.body(request, shape);
        let mut decoder = mote_wire::openai::Decoder::default();
        let traceparent = request.traceparent.as_deref();
        let assembly = self.endpoint.call(&mut write, traceparent, &mut decoder, deltas).await?;
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

/// Whether a key is a JSON Web Token: a header, a body and a signature.
fn is_token(key: &str) -> bool {
    key.starts_with("eyJ") && key.split('.').count() == 3
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

    impl OpenAi {
        /// What is sent first.
        fn sent(&self, request: &Request) -> Value {
            self.body(request, self.endpoint.learned.shape())
        }
    }

    #[test]
    fn a_transcript_becomes_messages() {
        let body = provider("http://127.0.0.1:9/v1").sent(&transcript());
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
        let own = provider("https://api.openai.com/v1").sent(&asked);
        assert_eq!((&own["max_completion_tokens"], own.get("max_tokens")), (&json!(512), None));
        assert_eq!(own["response_format"]["json_schema"]["strict"], false);
        let compatible = provider("http://localhost:11434/v1").sent(&asked);
        assert!(compatible.get("response_format").is_none(), "a grammar would keep the model from calling tools");
        assert!(compatible["messages"][0]["content"].as_str().unwrap().contains("JSON Schema"));
        asked.tools = [].into();
        let compatible = provider("http://localhost:11434/v1").sent(&asked);
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
        let body = provider("https://api.openai.com/v1").sent(&asked);
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
        assert_eq!(provider.sent(&asked)["messages"][2]["reasoning_content"], "hm");
        assert_eq!(provider.sent(&asked)["messages"][2]["content"], Value::Null);
        asked.messages.push(Message::text(Role::User, "next"));
        assert!(!provider.sent(&asked).to_string().contains("hm"), "an earlier turn's reasoning stays away");
        let mut foreign = request("x");
        foreign.messages.push(thought("another-model"));
        assert!(!provider.sent(&foreign).to_string().contains("hm"));
    }

    #[test]
    fn azure_takes_its_own_header_and_keeps_its_query() {
        let azure = "https://x.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21";
        let of = |base_url: &str, key: &str| {
            let clock = std::sync::Arc::new(crate::clock::System);
            let client = Client::new(crate::tls::client_config(None).unwrap());
            let model = configured(config::Provider::OpenAi, base_url);
            OpenAi::new(&model, Some(SecretValue::new(key)), client, clock).unwrap()
        };
        let provider = of(azure, "0123456789abcdef");
        assert_eq!(
            provider.endpoint.uri,
            "https://x.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
        );
        let headers = &provider.endpoint.headers;
        assert_eq!((&headers["api-key"], headers.get("authorization")), (&"0123456789abcdef".parse().unwrap(), None));
        assert!(headers["api-key"].is_sensitive());
        let headers = of(azure, "eyJa.b.c").endpoint.headers;
        assert_eq!((headers.get("api-key"), &headers["authorization"]), (None, &"Bearer eyJa.b.c".parse().unwrap()));
        let headers = of("http://127.0.0.1:9/v1/?a=b", "0123456789abcdef").endpoint.headers;
        assert_eq!((headers.get("api-key"), headers.contains_key("authorization")), (None, true));
        assert_eq!(of("http://h/v1/?a=b", "k").endpoint.uri, "http://h/v1/chat/completions?a=b");
    }
}
