//! Model endpoints: which fields belong to which provider, defaults, prices.
//!
//! It does not look whether a key is set or an endpoint answers.

use std::time::Duration;

use super::super::diagnostic::FieldPath;
use super::super::findings::Findings;
use super::super::{Model, Price, Provider, raw, units};
use super::{Surroundings, duration, http_url, secret, tokens_32};
use crate::limits::FALLBACKS_MAX;
use crate::model::scripted::Plan;

const OUTPUT_TOKENS: u32 = 4_000;
const TIMEOUT: Duration = Duration::from_secs(300);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The primary model and its fallbacks.
pub(super) fn models(mut raw: raw::Model, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> Vec<Model> {
    let path = FieldPath::top("model");
    let fallbacks = std::mem::take(&mut raw.fallback);
    let mut models = vec![model(raw, &path, around, findings)];
    let path = path.key("fallback");
    if fallbacks.len() > FALLBACKS_MAX {
        findings.error(&path, format!("has more than {FALLBACKS_MAX} entries (FALLBACKS_MAX)"));
    }
    for (index, fallback) in fallbacks.into_iter().enumerate() {
        models.push(model(fallback, &path.index(index), around, findings));
    }
    models
}

fn model(raw: raw::Model, path: &FieldPath, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> Model {
    if !raw.fallback.is_empty() {
        findings.error(&path.key("fallback"), "only the first model has a `fallback` list");
    }
    // Which fields belong to it is not known of a provider that is not known.
    let known = !findings.is_replaced(&path.key("provider"));
    if known {
        check_fields(&raw, path, findings);
    }
    let output_max = tokens_32(raw.output_max.as_ref(), OUTPUT_TOKENS, &path.key("output_max"), findings);
    let timeout = duration(raw.timeout.as_ref(), TIMEOUT, &path.key("timeout"), findings);
    let idle_timeout = duration(raw.idle_timeout.as_ref(), IDLE_TIMEOUT, &path.key("idle_timeout"), findings);
    let base_url = base_url(&raw, known, path, findings);
    // Of one that is reported already, the price is not asked.
    let is_sound = known && raw.name.is_some() && !findings.is_broken(&path.key("name"));
    let name = raw.name.unwrap_or_else(|| match raw.provider {
        raw::Provider::Scripted => "scripted".to_owned(),
        _ => "cassette".to_owned(),
    });
    let is_sound = is_sound && !findings.is_broken(&path.key("price"));
    let provider = match raw.provider {
        raw::Provider::Anthropic => Provider::Anthropic,
        raw::Provider::Openai => Provider::OpenAi,
        raw::Provider::Scripted => {
            let plan = around.resolve(raw.plan.as_deref().unwrap_or_default());
            if raw.plan.is_some()
                && let Err(error) = Plan::load(&plan)
            {
                findings.error(&path.key("plan"), error.to_string());
            }
            Provider::Scripted { plan }
        }
        raw::Provider::Cassette => {
            let file = around.resolve(raw.file.as_deref().unwrap_or_default());
            let record = raw.record.map(|inner| Box::new(model(*inner, &path.key("record"), around, findings)));
            if record.is_none() && raw.file.is_some() && !file.is_file() {
                let hint = "add `record: {provider: …}` to make it";
                findings.error_hint(
                    &path.key("file"),
                    format!("failed to find the recording {}", file.display()),
                    hint,
                );
            }
            Provider::Cassette { file, record }
        }
    };
    let written = raw.price.as_ref().map(|price| self::price(price, &path.key("price"), findings));
    let (price, is_priced) = cost(written, &provider, &name, is_sound);
    Model {
        provider,
        name,
        key: raw.key.map(|key| secret(key, &path.key("key"), around, findings)),
        base_url,
        price,
        is_priced,
        output_tokens_max: output_max,
        timeout,
        idle_timeout,
        temperature: raw.temperature,
        cache: raw.cache.unwrap_or(true),
        output_limit_field: raw.output_limit_field.unwrap_or_default(),
    }
}

/// What the model costs, and whether that is known: as it is written, else as the table has it. What is replayed costs
/// nothing; what is recorded costs what the model behind it does.
fn cost(written: Option<Price>, provider: &Provider, name: &str, is_sound: bool) -> (Price, bool) {
    match (provider, written.or_else(|| crate::model::price::default_price(name))) {
        (_, Some(price)) => (price, true),
        (Provider::Cassette { record: Some(inner), .. }, None) => (inner.price, inner.is_priced),
        (Provider::Anthropic | Provider::OpenAi, None) => (Price::default(), !is_sound),
        (Provider::Scripted { .. } | Provider::Cassette { .. }, None) => (Price::default(), true),
    }
}

/// The endpoint: what is written, else the provider's own, which needs a key.
fn base_url(raw: &raw::Model, known: bool, path: &FieldPath, findings: &mut Findings<'_>) -> String {
    if let Some(url) = &raw.base_url {
        let _ = http_url(url, &path.key("base_url"), findings);
        return url.trim_end_matches('/').to_owned();
    }
    let default = match raw.provider {
        raw::Provider::Anthropic => "https://api.anthropic.com",
        raw::Provider::Openai => "https://api.openai.com/v1",
        raw::Provider::Scripted | raw::Provider::Cassette => return String::new(),
    };
    if known && raw.key.is_none() && !findings.is_broken(&path.key("key")) {
        let variable = key_variable(raw.provider);
        let hint = format!("write `key: {{env: {variable}}}`, or a `base_url` of an endpoint that needs none");
        findings.error_hint(path, format!("{default} needs a key"), hint);
    }
    default.to_owned()
}

/// The usual variable of a provider's key.
pub(in super::super) fn key_variable(provider: raw::Provider) -> &'static str {
    if provider == raw::Provider::Anthropic { "ANTHROPIC_API_KEY" } else { "OPENAI_API_KEY" }
}

/// Each provider needs some fields and knows nothing of others.
fn check_fields(raw: &raw::Model, path: &FieldPath, findings: &mut Findings<'_>) {
    let provider = match raw.provider {
        raw::Provider::Anthropic => "anthropic",
        raw::Provider::Openai => "openai",
        raw::Provider::Scripted => "scripted",
        raw::Provider::Cassette => "cassette",
    };
    let live = matches!(raw.provider, raw::Provider::Anthropic | raw::Provider::Openai);
    let scripted = raw.provider == raw::Provider::Scripted;
    let cassette = raw.provider == raw::Provider::Cassette;
    // Field, whether it is written, whether the provider knows it, whether the provider needs it.
    let fields = [
        ("name", raw.name.is_some(), true, live),
        ("key", raw.key.is_some(), live, false),
        ("base_url", raw.base_url.is_some(), live, false),
        ("plan", raw.plan.is_some(), scripted, scripted),
        ("file", raw.file.is_some(), cassette, cassette),
        ("record", raw.record.is_some(), cassette, false),
        ("temperature", raw.temperature.is_some(), live, false),
        ("output_limit_field", raw.output_limit_field.is_some(), raw.provider == raw::Provider::Openai, false),
    ];
    for (name, written, known, needed) in fields {
        if written && !known {
            findings.error(&path.key(name), format!("provider `{provider}` has no `{name}`"));
        } else if needed && !written && !findings.is_broken(&path.key(name)) {
            findings.error(path, format!("provider `{provider}` needs `{name}`"));
        }
    }
    if raw.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
        findings.error(&path.key("name"), "is empty");
    }
}

fn price(raw: &raw::Price, path: &FieldPath, findings: &mut Findings<'_>) -> Price {
    let mut parse = |name: &str, number: &serde_json::Number| match units::price(number) {
        Ok(nano_usd) => nano_usd,
        Err(error) => {
            findings.error(&path.key(name), error.to_string());
            0
        }
    };
    let input = parse("input", &raw.input);
    Price {
        input,
        output: parse("output", &raw.output),
        cache_read: raw.cache_read.as_ref().map_or(input, |number| parse("cache_read", number)),
        cache_write: raw.cache_write.as_ref().map_or(input, |number| parse("cache_write", number)),
    }
}
