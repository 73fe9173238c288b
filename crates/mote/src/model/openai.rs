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
use crate::message::{Message, Part, Role};
use crate::model::config;
use crate::secret::SecretValue;

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
/// Stands between results and a user's message at Mistral, which wants the model's word after results.
const UNSAID: &str = "(No answer was given here.)";
/// Moonshot's hosts: a call must come back with a `reasoning_content`, even an empty one.
const MOONSHOT_HOSTS: [&str; 2] = [".moonshot.ai", ".moonshot.cn"];
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
    moonshot: bool,
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
        let moonshot = uri.host().is_some_and(|host| MOONSHOT_HOSTS.iter().any(|name| host.ends_with(name)));
        let (timeout, idle_timeout) = (model.timeout, model.idle_timeout);
        let learned = Learned::new(Shape::new(model.output_limit_field, own));
        let model_name = model.name.clone();
        let endpoint = Endpoint { client, uri, model: model_name, headers, key, timeout, idle_timeout, clock, learned };
        Ok(Self {
            endpoint,
            own,
            ids,
            google,
            moonshot,
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
        body["messages"] = Value::Array(self.messages(&system, &request.messages));
        body
    }

    fn messages(&self, system: &str, said: &[Message]) -> Vec<Value> {
        let mut turns = Vec::with_capacity(said.len() + 1);
        if !system.is_empty() {
            turns.push(json!({"role": "system", "content": system}));
        }
        for message in history::presentable(said, self.ids) {
            let said = match message.role {
                Role::User => Some(json!({"role": "user", "content": message.plain_text()})),
                Role::Assistant => self.assistant(&message),
                Role::Tool => {
                    turns.extend(message.parts.iter().filter_map(result));
                    continue;
                }
            };
            // "Unexpected role 'user' after role 'tool'".
            let unsaid = self.ids == Ids::Nine
                && message.role == Role::User
                && turns.last().is_some_and(|last: &Value| last["role"] == "tool");
            let unsaid = unsaid.then(|| json!({"role": "assistant", "content": UNSAID}));
            for turn in unsaid.into_iter().chain(said) {
                history::add_turn(&mut turns, turn, |text| text.into());
            }
        }
        turns
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
            if self.moonshot {
                sent.entry(REASONING_FIELDS[0]).or_insert_with(|| json!(""));
            }
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
#[path = "openai_tests.rs"]
mod tests;
