//! OpenAI's Chat Completions API, and servers compatible with it: requests out of transcripts; replies come through
//! [`mote_wire::openai`].
//!
//! What only OpenAI itself understands is sent only to it. It does not speak the Responses API.

use async_trait::async_trait;
use http::HeaderName;
use mote_wire::openai::REASONING_FIELDS;
use serde_json::{Map, Value, json};

use super::adapt::{Learned, Shape};
use super::assembly::{Assembled, Reasoning};
use super::endpoint::Endpoint;
use super::history::{self, Ids};
use super::schema::{self, Subset};
use super::transport::Client;
use super::{BuildError, DeltaSink, Error, Provider, Reply, Request, ToolDefinition};
use crate::arguments;
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

/// What the names of Mistral's models have in them: wherever these run, ids of calls are nine letters and digits.
const MISTRAL_NAMES: [&str; 4] = ["mistral", "mixtral", "pixtral", "stral-"];
/// Google's host. From Gemini 3 on, its models refuse a call that comes back without a signature.
const GOOGLE_HOST: &str = "generativelanguage.googleapis.com";
/// Models of Google's that want no signature.
const GOOGLE_UNCHECKED: [&str; 3] = ["gemini-1", "gemini-2", "gemma"];
/// What Google takes in place of the signature of a call that another model made:
/// <https://ai.google.dev/gemini-api/docs/thought-signatures>.
const GOOGLE_UNSIGNED: &str = "skip_thought_signature_validator";

/// An endpoint that speaks Chat Completions.
pub struct OpenAi {
    endpoint: Endpoint,
    own: bool,
    ids: Ids,
    google: bool,
    output_tokens_max: u32,
    temperature: Option<f64>,
}

/// Whether the host is OpenAI's own service, or Azure's.
pub(crate) fn is_own_host(host: &str) -> bool {
    OWN_HOSTS.iter().any(|name| if name.starts_with('.') { host.ends_with(name) } else { host == *name })
}

/// Whether the host is Azure's.
fn is_azure(host: &str) -> bool {
    AZURE_HOSTS.iter().any(|name| host.ends_with(name))
}

/// Whether the host is Google's.
pub(crate) fn is_google(host: &str) -> bool {
    host == GOOGLE_HOST
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
        let own = uri.host().is_some_and(is_own_host);
        if let Some(key) = &key {
            // Azure takes its own keys in a header of their own, and tokens of Entra as everyone does.
            let azure = uri.host().is_some_and(is_azure) && !is_token(key.expose());
            let (name, prefix) =
                if azure { (HeaderName::from_static("api-key"), "") } else { (http::header::AUTHORIZATION, "Bearer ") };
            super::insert_key(&mut headers, name, prefix, key, &model.name)?;
        }
        let mistral = uri.host().is_some_and(|host| host.ends_with("mistral.ai"))
            || MISTRAL_NAMES.iter().any(|name| model.name.to_ascii_lowercase().contains(name));
        let ids = if mistral { Ids::Nine } else { Ids::Printable };
        let google =
            uri.host().is_some_and(is_google) && !GOOGLE_UNCHECKED.iter().any(|name| model.name.contains(name));
        let (timeout, idle_timeout) = (model.timeout, model.idle_timeout);
        let learned = Learned::new(Shape::new(model.output_limit_field, own));
        let model_name = model.name.clone();
        let endpoint = Endpoint { client, uri, model: model_name, headers, key, timeout, idle_timeout, clock, learned };
        Ok(Self {
            endpoint,
            own,
            ids,
            google,
            output_tokens_max: model.output_tokens_max,
            temperature: model.temperature,
        })
    }

    /// The body that is sent first.
    #[cfg(test)]
    pub(super) fn body(&self, request: &Request) -> Value {
        self.shaped(request, self.endpoint.learned.shape())
    }

    fn shaped(&self, request: &Request, shape: Shape) -> Value {
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
            if shape.constrained && (self.own || request.tools.is_empty()) && schema::is_plain_object(wanted) {
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
        for message in history::presentable(&request.messages, self.ids) {
            match message.role {
                Role::User => messages.push(json!({"role": "user", "content": message.plain_text()})),
                Role::Assistant => messages.extend(self.assistant(&message)),
                Role::Tool => messages.extend(message.parts.iter().filter_map(result)),
            }
        }
        body["messages"] = Value::Array(messages);
        body
    }

    /// A message of the model; none if it said nothing that goes back.
    ///
    /// Reasoning goes back to whom it came from, wherever it stands: a session keeps none of an earlier turn, so all that
    /// there is belongs to the turn under way, across the repair of an answer too.
    fn assistant(&self, message: &Message) -> Option<Value> {
        let mut sent = Map::from_iter([("role".to_owned(), json!("assistant"))]);
        let mut calls = Vec::new();
        for part in &message.parts {
            match part {
                Part::Call { id, name, arguments, opaque } => {
                    let arguments = arguments::as_history(arguments);
                    let mut call =
                        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
                    let extra = opaque
                        .as_ref()
                        .filter(|opaque| self.is_from_here(opaque))
                        .map(|opaque| &opaque["extra_content"]);
                    if let Some(extra) = extra {
                        call["extra_content"] = extra.clone();
                    } else if self.google && calls.is_empty() {
                        call["extra_content"] = json!({"google": {"thought_signature": GOOGLE_UNSIGNED}});
                    }
                    calls.push(call);
                }
                Part::Reasoning { text, opaque: Some(opaque) } if self.is_from_here(opaque) => {
                    if let Some(details) = opaque.get("details") {
                        sent.insert("reasoning_details".to_owned(), details.clone());
                    } else if let Some(field) =
                        opaque["field"].as_str().filter(|field| REASONING_FIELDS.contains(field))
                    {
                        sent.insert(field.to_owned(), json!(text));
                    }
                }
                _ => {}
            }
        }
        let text = message.plain_text();
        if text.is_empty() && calls.is_empty() {
            return None;
        }
        sent.insert("content".to_owned(), if text.is_empty() { Value::Null } else { json!(text) });
        if !calls.is_empty() {
            sent.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        Some(Value::Object(sent))
    }

    /// What says whom an opaque part came from: two links may have the same model at different endpoints.
    fn here(&self) -> Map<String, Value> {
        let uri = &self.endpoint.uri;
        let endpoint = format!("{}{}", self.endpoint.origin(), uri.path());
        let model = self.endpoint.model.as_str();
        [("provider", json!(KIND)), ("model", json!(model)), ("endpoint", json!(endpoint))]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    fn is_from_here(&self, opaque: &Value) -> bool {
        // Journals of earlier versions do not name the endpoint.
        self.here().iter().all(|(key, here)| match opaque.get(key) {
            Some(from) => from == here,
            None => key == "endpoint",
        })
    }

    fn opaque(&self, key: &str, value: impl Into<Value>) -> Value {
        let mut opaque = self.here();
        opaque.insert(key.to_owned(), value.into());
        Value::Object(opaque)
    }

    /// Marks what only this endpoint takes back.
    fn sign(&self, assembled: &mut Assembled) {
        for part in &mut assembled.parts {
            if let Part::Call { opaque: opaque @ Some(_), .. } = part {
                *opaque = opaque.take().map(|extra| self.opaque("extra_content", extra));
            }
        }
        let details = std::mem::take(&mut assembled.details);
        if !details.is_empty() {
            // The list says what the plain text says: only one of them goes back.
            assembled.parts.iter_mut().for_each(|part| {
                if let Part::Reasoning { opaque, .. } = part {
                    *opaque = None;
                }
            });
            let opaque = Some(self.opaque("details", details));
            assembled.parts.insert(0, Part::Reasoning { text: String::new(), opaque });
        }
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let mut write = |shape| self.shaped(request, shape);
        let mut decoder = mote_wire::openai::Decoder::default();
        let traceparent = request.traceparent.as_deref();
        let assembly = self.endpoint.call(&mut write, traceparent, &mut decoder, deltas).await?;
        let mut reply = assembly.into_reply(|reasoning| match reasoning {
            Reasoning::Open { index, .. } => {
                Some(self.opaque("field", *REASONING_FIELDS.get(usize::try_from(index).ok()?)?))
            }
            Reasoning::Redacted { .. } => None,
        });
        self.sign(&mut reply);
        Ok(super::reply(reply, KIND, &self.endpoint.model, request))
    }
}

/// Whether a key is a JSON Web Token: a header, a body and a signature.
fn is_token(key: &str) -> bool {
    key.starts_with("eyJ") && key.split('.').count() == 3
}

fn tool(tool: &ToolDefinition) -> Value {
    let ToolDefinition { name, description, input_schema } = tool;
    let mut parameters = input_schema.clone();
    if let Value::Object(schema) = &mut parameters
        && schema.get("type").is_some_and(|kind| kind == "object")
    {
        // "object schema missing properties": a tool without arguments is refused unless it says so.
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
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
        built(&configured(config::Provider::OpenAi, base_url))
    }

    fn built(model: &config::Model) -> OpenAi {
        let clock = std::sync::Arc::new(crate::clock::System);
        OpenAi::new(model, None, Client::new(crate::tls::client_config(None).unwrap()), clock).unwrap()
    }

    #[test]
    fn a_transcript_becomes_messages() {
        let body = provider("http://127.0.0.1:9/v1").body(&transcript());
        let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "get", "arguments": arguments}});
        let expected = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Sort T-1"},
            {"role": "assistant", "content": "Looking",
             "tool_calls": [call("functions.get:0", "{\"id\":\"T-1\"}"), call("b", "{\"invalid_arguments\":\"{oops\"}")]},
            {"role": "tool", "tool_call_id": "functions.get:0", "content": "{\"open\":true}"},
            {"role": "tool", "tool_call_id": "b", "content": "[failed] not JSON"},
            {"role": "user", "content": "Hurry"},
        ]);
        assert_eq!(body["messages"], expected);
        assert_eq!(body["tools"][0]["function"]["parameters"], json!({"type": "object", "properties": {}}));
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
        assert_eq!(body["max_tokens"], 512);
    }

    #[test]
    fn what_only_openai_knows_is_sent_only_there() {
        let mut asked = transcript();
        let combined = json!({"type": "object", "anyOf": [{"required": ["a"]}]});
        asked.output_schema = Some(combined.into());
        let own = provider("https://api.openai.com/v1").body(&asked);
        assert!(own.get("response_format").is_none(), "its top may not be a combination");
        assert!(own["messages"][0]["content"].as_str().unwrap().contains("anyOf"));
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
    fn schemas_keep_the_authors_order() {
        let written = r#"{"type":"object","properties":{"zeta":{"type":"string"},"alpha":{"type":"string"}}}"#;
        let mut asked = transcript();
        asked.output_schema = Some(serde_json::from_str::<Value>(written).unwrap().into());
        let tool = ToolDefinition { input_schema: serde_json::from_str(written).unwrap(), ..asked.tools[0].clone() };
        asked.tools = [tool].into();
        let sent = provider("https://api.openai.com/v1").body(&asked);
        assert_eq!(sent["tools"][0]["function"]["parameters"].to_string(), written);
        assert_eq!(sent["response_format"]["json_schema"]["schema"].to_string(), written);
        let told = provider("http://127.0.0.1:9/v1").body(&asked);
        assert!(told["messages"][0]["content"].as_str().unwrap().ends_with(written));
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

    fn call(id: &str, opaque: Option<Value>) -> Part {
        Part::Call { id: id.into(), name: "get".into(), arguments: "{}".into(), opaque }
    }

    fn thought(opaque: Value) -> Message {
        let thought = Part::Reasoning { text: "hm".into(), opaque: Some(opaque) };
        Message { role: Role::Assistant, parts: vec![thought, call("a", None)] }
    }

    fn result(id: &str) -> Message {
        let result = Part::Result { id: id.into(), content: "1".into(), is_error: false };
        Message { role: Role::Tool, parts: vec![result] }
    }

    #[test]
    fn reasoning_goes_back_in_its_field_across_a_repair() {
        let here = provider("http://127.0.0.1:9/v1");
        let mut asked = request("x");
        let wrong = Message {
            role: Role::Assistant,
            parts: vec![
                Part::Reasoning { text: "so".into(), opaque: Some(here.opaque("field", "reasoning")) },
                Part::Text { text: "no JSON".into() },
            ],
        };
        asked.messages.extend([thought(here.opaque("field", "reasoning_content")), result("a"), wrong]);
        asked.messages.push(Message::text(Role::User, "Your answer does not satisfy the output schema."));
        let sent = here.body(&asked);
        assert_eq!(sent["messages"][2]["reasoning_content"], "hm");
        assert_eq!(sent["messages"][2]["content"], Value::Null);
        assert_eq!(sent["messages"][4]["reasoning"], "so");
        let elsewhere = provider("http://127.0.0.1:9/other/v1").body(&asked).to_string();
        assert!(!elsewhere.contains("hm") && !elsewhere.contains("reasoning"), "the same model at another endpoint");
        let mut foreign = request("x");
        foreign.messages.push(thought(json!({"provider": KIND, "model": "another", "field": "reasoning"})));
        assert!(!here.body(&foreign).to_string().contains("hm"));
        let mut earlier = request("x");
        earlier.messages.push(thought(json!({"provider": KIND, "model": "test-model", "field": "reasoning"})));
        assert!(here.body(&earlier).to_string().contains("hm"), "journals of before named no endpoint");
    }

    fn assembled(parts: Vec<Part>, details: Vec<Value>) -> Assembled {
        Assembled { parts, finish: crate::model::Finish::ToolCalls, usage: None, details }
    }

    #[test]
    fn a_calls_signature_goes_back_to_whom_it_came_from() {
        let here = provider("http://127.0.0.1:9/v1");
        let extra = json!({"google": {"thought_signature": "SIG123"}});
        let mut reply = assembled(vec![call("a", Some(extra.clone())), call("b", None)], Vec::new());
        here.sign(&mut reply);
        let mut asked = request("x");
        asked.messages.push(Message { role: Role::Assistant, parts: reply.parts });
        let sent = here.body(&asked);
        assert_eq!(sent["messages"][2]["tool_calls"][0]["extra_content"], extra);
        assert!(sent["messages"][2]["tool_calls"][1].get("extra_content").is_none());
        let other_model =
            config::Model { name: "other".into(), ..configured(config::Provider::OpenAi, "http://127.0.0.1:9/v1") };
        for other in [built(&other_model), provider("http://127.0.0.1:10/v1")] {
            assert!(!other.body(&asked).to_string().contains("SIG123"));
        }
    }

    #[test]
    fn google_gets_its_word_for_no_signature() {
        let named = |name: &str| {
            let model = configured(config::Provider::OpenAi, "https://generativelanguage.googleapis.com/v1beta/openai");
            built(&config::Model { name: name.into(), ..model })
        };
        let mut asked = request("x");
        asked.messages.push(Message { role: Role::Assistant, parts: vec![call("a", None), call("b", None)] });
        let calls = named("gemini-3-pro-preview").body(&asked)["messages"][2]["tool_calls"].clone();
        assert_eq!(calls[0]["extra_content"]["google"]["thought_signature"], GOOGLE_UNSIGNED);
        assert!(calls[1].get("extra_content").is_none(), "the first of a turn carries it");
        assert!(!named("gemini-2.5-flash").body(&asked).to_string().contains("extra_content"));
    }

    #[test]
    fn reasoning_details_go_back_whole_and_alone() {
        let here = provider("http://127.0.0.1:9/v1");
        let thought = Part::Reasoning { text: "hm".into(), opaque: Some(here.opaque("field", "reasoning")) };
        let details = vec![json!({"type": "reasoning.encrypted", "data": "xyz", "id": "r1", "index": 0})];
        let mut reply = assembled(vec![thought, call("a", None)], details.clone());
        here.sign(&mut reply);
        let mut asked = request("x");
        asked.messages.push(Message { role: Role::Assistant, parts: reply.parts });
        let sent = here.body(&asked)["messages"][2].clone();
        assert_eq!((&sent["reasoning_details"], sent.get("reasoning")), (&json!(details), None));
        assert!(!provider("http://127.0.0.1:10/v1").body(&asked).to_string().contains("xyz"));
    }

    #[test]
    fn mistral_gets_ids_of_its_own_form() {
        let named = |name: &str, base: &str| {
            built(&config::Model { name: name.into(), ..configured(config::Provider::OpenAi, base) }).ids
        };
        assert_eq!(named("x", "https://api.mistral.ai/v1"), Ids::Nine);
        assert_eq!(named("mistralai/Devstral-Small", "https://openrouter.ai/api/v1"), Ids::Nine);
        assert_eq!(named("codestral-latest", "http://h/v1"), Ids::Nine);
        assert_eq!(named("gpt-5", "https://openrouter.ai/api/v1"), Ids::Printable);
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
