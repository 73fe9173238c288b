//! From a declaration and arguments to a request: method, URL, headers, body.
//!
//! It does not send. A header's secret is read once, when the tool is set up, and marked sensitive.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use reqwest::Url;
use serde_json::{Map, Value, json};

use super::template::Template;
use crate::canonical;
use crate::limits::TOOL_URL_BYTES_MAX;
use crate::secret::SecretValue;
use crate::tools::config;
use crate::tools::config::HttpTool;
use crate::tools::{Effect, Invocation};

/// One request to be.
#[derive(Debug, Clone)]
pub(super) struct Hop {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<Bytes>,
}

/// How a tool's requests are made.
#[derive(Debug)]
pub(super) struct Recipe {
    method: Method,
    template: Template,
    /// Sent to the tool's own backend only.
    own_headers: HeaderMap,
    /// Sent along redirects to other allowed hosts.
    plain_headers: HeaderMap,
    secrets: Vec<SecretValue>,
    keyed: bool,
}

/// A field and what is wrong with it.
type Mistake = (String, String);

impl Recipe {
    pub(super) fn build(tool: &HttpTool) -> Result<Self, Mistake> {
        let method = match tool.method.as_str() {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            other => {
                let message = format!("{other:?} is not one of GET, HEAD, POST, PUT, PATCH and DELETE");
                return Err(("http.method".to_owned(), message));
            }
        };
        let template = Template::parse(&tool.url).map_err(|message| ("http.url".to_owned(), message))?;
        if let Some(properties) = tool.input.get("properties").and_then(Value::as_object)
            && let Some(unknown) = template.names().iter().find(|name| !properties.contains_key(*name))
        {
            return Err(("http.url".to_owned(), format!("{{{unknown}}} is not a property of the tool's input")));
        }
        let mut recipe = Self {
            method,
            template,
            own_headers: HeaderMap::new(),
            plain_headers: HeaderMap::new(),
            secrets: Vec::new(),
            keyed: tool.effect == Effect::Idempotent,
        };
        for (name, value) in &tool.headers {
            recipe.add_header(name, value).map_err(|message| (format!("http.headers.{name}"), message))?;
        }
        Ok(recipe)
    }

    fn add_header(&mut self, name: &str, value: &config::HeaderValue) -> Result<(), String> {
        let header: HeaderName = name.parse().map_err(|_| "it is not a header's name".to_owned())?;
        let reserved = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("traceparent"),
        ];
        if reserved.contains(&header) {
            return Err("it is set by mote".to_owned());
        }
        let (text, secret) = match value {
            config::HeaderValue::Literal(text) => (text.clone(), None),
            config::HeaderValue::Secret { prefix, secret } => {
                let secret = secret.read().map_err(|error| error.to_string())?;
                (format!("{prefix}{}", secret.expose()), Some(secret))
            }
        };
        // The error of a bad value is not shown: it could hold the secret.
        let mut value = HeaderValue::from_str(&text).map_err(|_| "its value has characters that no header may have")?;
        let confidential = secret.is_some() || [header::AUTHORIZATION, header::COOKIE].contains(&header);
        value.set_sensitive(confidential);
        let headers = if confidential { &mut self.own_headers } else { &mut self.plain_headers };
        headers.insert(header, value);
        self.secrets.extend(secret);
        Ok(())
    }

    pub(super) fn sample(&self) -> &Url {
        self.template.sample()
    }

    pub(super) fn secrets(&self) -> Vec<SecretValue> {
        self.secrets.clone()
    }

    /// The request that validated arguments ask for; the error is a sentence for the model.
    pub(super) fn first_hop(&self, arguments: &Value) -> Result<Hop, String> {
        // What is sent keeps the model's order; every attempt at the call has the same, out of the journal.
        let arguments = arguments.as_object().ok_or("the arguments must be a JSON object")?;
        let mut url = self.template.expand(arguments)?;
        let used: &BTreeSet<String> = self.template.names();
        let rest: Vec<_> = arguments.iter().filter(|(name, _)| !used.contains(*name)).collect();
        let body = if [Method::GET, Method::HEAD, Method::DELETE].contains(&self.method) {
            add_query(&mut url, &rest)?;
            None
        } else {
            let object: Map<String, Value> =
                rest.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            Some(Bytes::from(Value::Object(object).to_string()))
        };
        Ok(Hop { method: self.method.clone(), url, body })
    }

    /// `own` says whether the hop leads to the tool's own backend, which alone gets secrets.
    pub(super) fn request(
        &self,
        client: &reqwest::Client,
        hop: &Hop,
        invocation: &Invocation,
        own: bool,
    ) -> reqwest::RequestBuilder {
        let mut headers = self.plain_headers.clone();
        if own {
            headers.extend(self.own_headers.clone());
        }
        if !headers.contains_key(header::ACCEPT) {
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.5"));
        }
        if self.keyed
            && hop.method == self.method
            && let Ok(key) = HeaderValue::from_str(&format!("\"{}\"", invocation.key))
        {
            headers.insert("idempotency-key", key);
        }
        if let Some(parent) = invocation.traceparent.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
            headers.insert("traceparent", parent);
        }
        let mut request = client.request(hop.method.clone(), hop.url.clone());
        if let Some(body) = &hop.body {
            if !headers.contains_key(header::CONTENT_TYPE) {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            request = request.body(body.clone());
        } else {
            headers.remove(header::CONTENT_TYPE);
        }
        request.headers(headers)
    }
}

/// A scalar is a pair, an array of scalars a pair each, anything else its JSON; null is left out.
fn add_query(url: &mut Url, rest: &[(&String, &Value)]) -> Result<(), String> {
    if rest.is_empty() {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in rest {
            match value {
                Value::Null => {}
                Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
                    for item in items {
                        pairs.append_pair(name, &text(item));
                    }
                }
                value => {
                    pairs.append_pair(name, &text(value));
                }
            }
        }
    }
    if url.as_str().len() > TOOL_URL_BYTES_MAX {
        return Err(format!("the URL would be longer than {TOOL_URL_BYTES_MAX} bytes: shorten the arguments"));
    }
    Ok(())
}

/// Digest of what a pending call depends on: where it goes, what it takes, and what repeating it means. Description,
/// timeout and output bound may change under a pending call.
pub(super) fn digest(tool: &HttpTool) -> [u8; 32] {
    let headers: Map<String, Value> =
        tool.headers.iter().map(|(name, value)| (name.clone(), describe(value))).collect();
    canonical::digest(&json!({
        "kind": "http",
        "name": tool.name,
        "version": tool.version,
        "method": tool.method,
        "url": tool.url,
        "headers": headers,
        "input": tool.input,
        "effect": tool.effect,
        "key_ttl_ms": tool.key_ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        "allow_hosts": tool.allow_hosts,
        "allow_private": tool.allow_private.to_json(),
    }))
}

fn describe(value: &config::HeaderValue) -> Value {
    match value {
        config::HeaderValue::Literal(text) => json!({"literal": text}),
        config::HeaderValue::Secret { prefix, secret } => json!({"prefix": prefix, "secret": secret.to_string()}),
    }
}
