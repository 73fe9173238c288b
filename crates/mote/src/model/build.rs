//! Builds the chain of endpoints that `agent.yaml` declares, and what both wire formats need for it.
//!
//! Keys and plans are read here, once; nothing is connected to.

use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::assembly::Assembled;
use super::cassette::{CassetteError, Player, Recorder};
use super::chain::{Chain, Link};
use super::scripted::{PlanError, Scripted};
use super::transport::Client;
use super::{Provider, Reply, Request, anthropic, history, openai};
use crate::clock::SharedClock;
use crate::message::{Message, Role};
use crate::model::config;
use crate::secret::{Error as SecretError, SecretValue};
use crate::tls;

/// Why a model cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its key cannot be read.
    #[error("failed to build model {model}: {source}")]
    Key {
        /// The model.
        model: String,
        /// What is wrong.
        source: SecretError,
    },
    /// Its key has characters that a header cannot carry.
    #[error("failed to build model {model}: its key has characters that an HTTP header cannot carry")]
    KeyCharacters {
        /// The model.
        model: String,
    },
    /// Its base URL is none.
    #[error("failed to build model {model}: base_url {url}: {message}")]
    Url {
        /// The model.
        model: String,
        /// The URL as configured.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The plan of a scripted model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The recording of a cassette.
    #[error(transparent)]
    Cassette(#[from] CassetteError),
}

/// Builds the models, the preferred one first. All share one HTTP client, built only if one of them needs it;
/// `extra_ca` is a PEM file of further root certificates.
///
/// # Errors
/// See [`BuildError`]; names the model and never a key.
pub fn build(models: &[config::Model], extra_ca: Option<&Path>, clock: SharedClock) -> Result<Chain, BuildError> {
    let mut builder = Builder { extra_ca, clock: clock.clone(), client: None };
    let links = models.iter().map(|model| builder.link(model)).collect::<Result<_, _>>()?;
    Ok(Chain::new(links, clock))
}

struct Builder<'b> {
    extra_ca: Option<&'b Path>,
    clock: SharedClock,
    client: Option<Client>,
}

impl Builder<'_> {
    fn link(&mut self, model: &config::Model) -> Result<Link, BuildError> {
        let endpoint = match &model.provider {
            config::Provider::Anthropic => url(model, anthropic::BASE_URL, "")?.origin().ascii_serialization(),
            config::Provider::OpenAi => url(model, openai::BASE_URL, "")?.origin().ascii_serialization(),
            config::Provider::Scripted { plan } => plan.display().to_string(),
            config::Provider::Cassette { file, .. } => file.display().to_string(),
        };
        Ok(Link { provider: self.provider(model)?, model: model.name.clone(), endpoint })
    }

    fn provider(&mut self, model: &config::Model) -> Result<Box<dyn Provider>, BuildError> {
        Ok(match &model.provider {
            config::Provider::Anthropic => {
                Box::new(anthropic::Anthropic::new(model, key(model)?, self.client()?, self.clock.clone())?)
            }
            config::Provider::OpenAi => {
                Box::new(openai::OpenAi::new(model, key(model)?, self.client()?, self.clock.clone())?)
            }
            config::Provider::Scripted { plan } => Box::new(Scripted::load(plan, &model.name)?),
            config::Provider::Cassette { file, record: None } => Box::new(Player::load(file, &model.name)?),
            config::Provider::Cassette { file, record: Some(inner) } => {
                Box::new(Recorder::new(self.provider(inner)?, &model.name, file))
            }
        })
    }

    fn client(&mut self) -> Result<Client, BuildError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Client::new(tls::client_config(self.extra_ca)?);
        Ok(self.client.insert(client).clone())
    }
}

fn key(model: &config::Model) -> Result<Option<SecretValue>, BuildError> {
    let read = |key: &crate::secret::Secret| {
        key.read().map_err(|source| BuildError::Key { model: model.name.clone(), source })
    };
    model.key.as_ref().map(read).transpose()
}

/// The headers of every request.
pub(super) fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    // A gateway that compresses unasked would hold a stream's beginning back.
    headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let agent = concat!("mote/", env!("CARGO_PKG_VERSION"));
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static(agent));
    headers
}

/// Adds the key, marked sensitive, so that no `Debug` shows it.
pub(super) fn insert_key(
    headers: &mut HeaderMap,
    name: HeaderName,
    prefix: &str,
    key: &SecretValue,
    model: &str,
) -> Result<(), BuildError> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose()))
        .map_err(|_| BuildError::KeyCharacters { model: model.to_owned() })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// The URL of a path under the model's base URL, as a client takes it.
pub(super) fn uri(model: &config::Model, default: &str, path: &str) -> Result<http::Uri, BuildError> {
    let url = url(model, default, path)?;
    let fail = |error: http::uri::InvalidUri| {
        let message = error.to_string();
        BuildError::Url { model: model.name.clone(), url: url.to_string(), message }
    };
    url.as_str().parse().map_err(fail)
}

/// The URL of a path under the model's base URL, whose query (Azure's `api-version`) stays at the end.
fn url(model: &config::Model, default: &str, path: &str) -> Result<reqwest::Url, BuildError> {
    let base = if model.base_url.is_empty() { default } else { &model.base_url };
    let (shown, _) = base.split_once('?').unwrap_or((base, ""));
    let fail = |message: String| BuildError::Url { model: model.name.clone(), url: shown.to_owned(), message };
    let mut url = reqwest::Url::parse(base).map_err(|error| fail(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(fail("expected http:// or https:// and a host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let fail = |message: &str| BuildError::Url {
            model: model.name.clone(),
            url: "(not shown)".to_owned(),
            message: message.to_owned(),
        };
        return Err(fail("credentials belong in `key`, not in the URL"));
    }
    // Azure shows the whole URL of an operation ("Target URI"), and so do many guides.
    let path = format!("/{path}");
    let base = url.path().trim_end_matches('/');
    let whole = format!("{}{path}", base.strip_suffix(&path).unwrap_or(base));
    url.set_path(&whole);
    url.set_fragment(None);
    Ok(url)
}

/// The smaller of what the configuration and the request allow.
pub(super) fn output_tokens(configured: u32, request: &Request) -> u32 {
    match request.output_tokens_max {
        0 => configured,
        asked => asked.min(configured),
    }
}

/// The system prompt with an instruction after it.
pub(super) fn with_instruction(system: &str, instruction: &str) -> String {
    if system.is_empty() { instruction.to_owned() } else { format!("{system}\n\n{instruction}") }
}

/// A reply that is somebody's, to this request.
pub(super) fn reply(assembled: Assembled, provider: &str, model: &str, request: &Request) -> Reply {
    let Assembled { mut parts, finish, usage, details: _ } = assembled;
    history::identify(&mut parts, &request.task, request.step);
    let message = Message { role: Role::Assistant, parts };
    Reply { message, finish, usage, provider: provider.to_owned(), model: model.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::configured;
    use std::path::PathBuf;
    use std::sync::Arc;

    fn failure(model: config::Model) -> String {
        match build(&[model], None, Arc::new(crate::clock::System)) {
            Ok(_) => "built".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_provider_is_built() {
        let folder = std::env::temp_dir().join(format!("mote-build-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (plan, tape) = (folder.join("plan.yaml"), folder.join("tape.jsonl"));
        std::fs::write(&plan, "- say: hello\n").unwrap();
        std::fs::write(&tape, "").unwrap();
        let scripted = configured(config::Provider::Scripted { plan }, "");
        let record = Some(Box::new(scripted.clone()));
        let models = [
            configured(config::Provider::Anthropic, ""),
            configured(config::Provider::OpenAi, "http://localhost:11434/v1"),
            scripted,
            configured(config::Provider::Cassette { file: tape.clone(), record }, ""),
            configured(config::Provider::Cassette { file: tape, record: None }, ""),
        ];
        let chain = build(&models, None, Arc::new(crate::clock::System)).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let endpoints: Vec<_> = chain.circuits().iter().map(|(_, endpoint, _)| (*endpoint).to_owned()).collect();
        assert_eq!(endpoints[..2], ["https://api.anthropic.com", "http://localhost:11434"]);
        assert!(chain.is_reachable());
    }

    #[test]
    fn mistakes_name_the_model_and_hide_the_key() {
        let key = std::env::temp_dir().join(format!("mote-key-{}", std::process::id()));
        std::fs::write(&key, "sk-bad\u{1}key").unwrap();
        let mut model = configured(config::Provider::OpenAi, "http://h/v1");
        model.key = Some(crate::secret::Secret::File(key.clone()));
        let error = failure(model.clone());
        std::fs::remove_file(&key).unwrap();
        assert!(error.contains("model test-model") && !error.contains("sk-bad"), "{error}");
        assert!(failure(model).contains(key.to_str().unwrap()), "the missing file is named");
        let with_password = failure(configured(config::Provider::OpenAi, "http://me:secret@h/v1"));
        assert!(with_password.contains("credentials") && !with_password.contains("secret"), "{with_password}");
        for url in ["ftp://h", "nonsense", "http://"] {
            assert!(failure(configured(config::Provider::Anthropic, url)).contains("base_url"), "{url}");
        }
        let plan = config::Provider::Scripted { plan: PathBuf::from("/nonexistent") };
        assert!(failure(configured(plan, "")).contains("/nonexistent"));
    }
}
