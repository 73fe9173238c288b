//! Secrets at egress: placeholders stand inside a sandbox, and are swapped for the values on the way to their hosts.
//!
//! It does not store secrets: a [`Vault`] reveals them. Values are swapped over TLS alone, for hosts bound to them, at
//! addresses that were told for those hosts. Of a secret that is not there the placeholder is sent as it is. Nothing here
//! prints a value.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use mote_sandbox_api::error::Failure;

use super::echo::{escaped, forms, quoted, replaced};
use super::name::Name;
use super::policy::{Binding, Compiled};
use crate::limits::NETWORK_SECRET_BYTES_MAX;

/// A secret's value.
#[derive(Clone)]
pub struct Value(String);

impl Value {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value(…)")
    }
}

/// Whoever keeps the secrets.
pub trait Vault: Send + Sync + fmt::Debug {
    /// The value of a secret; `None` where there is no such secret.
    ///
    /// # Errors
    /// Where the store cannot be read.
    fn reveal(&self, secret: &str) -> Result<Option<Value>, Failure>;
}

/// The secrets of one sandbox: placeholders, values, and whom they are for.
#[derive(Debug, Default)]
pub(super) struct Secrets(Vec<Secret>);

#[derive(Debug)]
struct Secret {
    name: String,
    placeholder: String,
    reference: String,
    /// Or why there is none to be used.
    value: Result<Value, String>,
    /// What the value looks like where it is sent back.
    forms: Vec<Value>,
    binding: Binding,
}

/// What every placeholder begins with.
const MARK: &str = "mote-secret-";

/// The placeholder of a secret in a sandbox: the same for as long as the daemon keeps its key, so that what stands in a
/// process's environment outlives a restart of the daemon.
pub(super) fn placeholder(key: &hmac::Key, sandbox: &str, secret: &str) -> String {
    let tag = hmac::sign(key, format!("{sandbox}\0{secret}").as_bytes());
    let hex: String = tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{MARK}{hex}")
}

/// How a header that a rule sets names a secret: the value takes its place on the way to the secret's hosts, and nowhere else.
/// Who writes a policy knows no placeholder, which is the sandbox's own.
#[must_use]
pub fn reference(secret: &str) -> String {
    format!("{MARK}{{{secret}}}")
}

/// The secrets that a header's value names.
pub(super) fn named(value: &str) -> impl Iterator<Item = &str> {
    value.split(MARK).skip(1).filter_map(|rest| rest.strip_prefix('{')?.split_once('}').map(|(name, _)| name))
}

/// The value of a secret, or why there is none that can be used.
fn usable(vault: &dyn Vault, secret: &str) -> Result<Value, String> {
    let value = vault.reveal(secret).map_err(|failure| failure.message)?;
    let value = value.ok_or_else(|| format!("there is no secret {secret:?}"))?;
    if value.0.len() > NETWORK_SECRET_BYTES_MAX || value.0.is_empty() || HeaderValue::from_str(&value.0).is_err() {
        let message = "a secret is one line of text that can stand in a header";
        return Err(format!("{message}, of at most {NETWORK_SECRET_BYTES_MAX} bytes"));
    }
    Ok(value)
}

impl Secret {
    /// The value, where it is there and the host may receive it.
    fn value_for(&self, host: &Name) -> Option<&str> {
        let value = self.value.as_ref().ok()?;
        self.binding.is_for(host).then_some(value.0.as_str())
    }

    /// A text with the value where it names the secret, one way or the other; `None` where it does not.
    fn put_in(&self, text: &str, value: &str) -> Option<String> {
        let mut swapped = None;
        for name in [&self.placeholder, &self.reference] {
            let current = swapped.as_deref().unwrap_or(text);
            if current.contains(name.as_str()) {
                swapped = Some(current.replace(name.as_str(), value));
            }
        }
        swapped
    }
}

impl Secrets {
    /// Reveals the secrets that a policy binds, as far as they are there.
    pub(super) fn reveal(rules: &Compiled, vault: &dyn Vault, key: &hmac::Key, sandbox: &str) -> Self {
        let of_one = |binding: &Binding| {
            let value = usable(vault, &binding.secret);
            let forms = value.iter().flat_map(|value| forms(&value.0)).map(Value).collect();
            let placeholder = placeholder(key, sandbox, &binding.secret);
            let (name, reference) = (binding.secret.clone(), reference(&binding.secret));
            Secret { name, placeholder, reference, value, forms, binding: binding.clone() }
        };
        Self(rules.bindings().iter().map(of_one).collect())
    }

    /// Whether every secret is there and can be used.
    ///
    /// # Errors
    /// `invalid`, naming the binding: there is no such secret, or its value cannot stand in a header.
    pub(super) fn complete(&self) -> Result<(), Failure> {
        for (at, secret) in self.0.iter().enumerate() {
            if let Err(why) = &secret.value {
                return Err(Failure::invalid(&format!("network.secrets[{at}].secret"), why));
            }
        }
        Ok(())
    }

    /// Swaps placeholders for the values that a host may receive: in the headers of each binding, inside Basic credentials too,
    /// and in those that a rule set. Says whether a value that must not be followed by another protocol is in it now.
    pub(super) fn swap_headers(&self, host: &Name, headers: &mut HeaderMap, by_rule: &[HeaderName]) -> bool {
        let mut binds = false;
        for (name, value) in headers.iter_mut() {
            let Ok(text) = value.to_str() else { continue };
            let may = |secret: &Secret| by_rule.contains(name) || secret.binding.is_in(name);
            let swapped = if name == AUTHORIZATION { self.swap_basic(host, text, may) } else { None };
            let swapped = swapped.or_else(|| self.swap_text(host, text, may));
            if let Some(mut new) = swapped.and_then(|text| HeaderValue::try_from(text).ok()) {
                // What a rule sets is the policy's own word.
                binds |=
                    !by_rule.contains(name) && self.of(host).any(|(secret, _)| may(secret) && !secret.binding.upgrade);
                new.set_sensitive(true);
                *value = new;
            }
        }
        binds
    }

    /// Swaps placeholders in a text; `None` where there are none for this host.
    fn swap_text(&self, host: &Name, text: &str, may: impl Fn(&Secret) -> bool) -> Option<String> {
        if !text.contains(MARK) {
            return None;
        }
        let mut swapped = None;
        for (secret, value) in self.of(host).filter(|(secret, _)| may(secret)) {
            let current = swapped.as_deref().unwrap_or(text);
            if let Some(new) = secret.put_in(current, value) {
                swapped = Some(new);
            }
        }
        swapped
    }

    /// Swaps placeholders in a query, where the value is escaped as a URL wants it.
    pub(super) fn swap_query(&self, host: &Name, target: &str) -> Option<String> {
        self.swap_escaped(host, target, |secret| secret.binding.query)
    }

    /// Whether a value that may stand in a query of a host must not be followed by another protocol.
    pub(super) fn query_binds(&self, host: &Name) -> bool {
        self.of(host).any(|(secret, _)| secret.binding.query && !secret.binding.upgrade)
    }

    fn swap_escaped(&self, host: &Name, target: &str, may: impl Fn(&Secret) -> bool) -> Option<String> {
        if !target.contains(MARK) {
            return None;
        }
        let mut swapped = None;
        for (secret, value) in self.of(host).filter(|(secret, _)| may(secret)) {
            let current = swapped.as_deref().unwrap_or(target);
            if current.contains(&secret.placeholder) {
                swapped = Some(current.replace(&secret.placeholder, &escaped(value)));
            }
        }
        swapped
    }

    /// The secrets that a host may receive, with their values.
    fn of(&self, host: &Name) -> impl Iterator<Item = (&Secret, &str)> {
        self.0.iter().filter_map(|secret| secret.value_for(host).map(|value| (secret, value)))
    }

    /// Swaps placeholders in a body; `None` where there are none for this host. The kind of the body decides how a value is
    /// escaped.
    pub(super) fn swap_body(&self, host: &Name, kind: BodyKind, body: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(body).ok()?;
        let swapped = match kind {
            BodyKind::Form => self.swap_escaped(host, text, |secret| secret.binding.body),
            BodyKind::Json => self.swap_json(host, text),
            BodyKind::Other => self.swap_text(host, text, |secret| secret.binding.body),
        };
        swapped.map(String::into_bytes)
    }

    fn swap_json(&self, host: &Name, text: &str) -> Option<String> {
        if !text.contains(MARK) {
            return None;
        }
        let mut swapped = None;
        for (secret, value) in self.of(host).filter(|(secret, _)| secret.binding.body) {
            let current = swapped.as_deref().unwrap_or(text);
            if current.contains(&secret.placeholder) {
                swapped = Some(current.replace(&secret.placeholder, &quoted(value)));
            }
        }
        swapped
    }

    fn swap_basic(&self, host: &Name, text: &str, may: impl Fn(&Secret) -> bool) -> Option<String> {
        let (scheme, encoded) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let swapped = self.swap_text(host, &decoded, may)?;
        Some(format!("{scheme} {}", STANDARD.encode(swapped)))
    }

    /// Puts a secret's name where its value or its placeholder stands: what a tape may hold.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            let shown = format!("{{{{secret:{}}}}}", secret.name);
            text = text.replace(&secret.placeholder, &shown).replace(&secret.reference, &shown);
            for form in &secret.forms {
                text = text.replace(&form.0, &shown);
            }
        }
        text
    }

    /// Puts placeholders where values stand: for what a host sends back.
    pub(super) fn hide(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut hidden: Option<Vec<u8>> = None;
        for secret in &self.0 {
            for form in &secret.forms {
                let current = hidden.as_deref().unwrap_or(bytes);
                if let Some(replaced) = replaced(current, form.0.as_bytes(), secret.placeholder.as_bytes()) {
                    hidden = Some(replaced);
                }
            }
        }
        hidden
    }

    /// How many bytes at the end may be the beginning of a value.
    pub(super) fn begins_at_end(&self, bytes: &[u8]) -> usize {
        let of_one = |form: &Value| {
            let value = form.0.as_bytes();
            let longest = value.len().saturating_sub(1).min(bytes.len());
            (1..=longest).rev().find(|length| bytes.ends_with(&value[..*length])).unwrap_or(0)
        };
        self.0.iter().flat_map(|secret| &secret.forms).map(of_one).max().unwrap_or(0)
    }

    /// Whether a host may receive one in a body.
    pub(super) fn are_in_bodies(&self, host: &Name) -> bool {
        self.of(host).any(|(secret, _)| secret.binding.body)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How a value is written into a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// JSON.
    Json,
    /// As it is.
    Other,
}

#[cfg(test)]
mod tests {
    use mote_sandbox_api::network::{Policy, SecretBinding};

    use super::*;

    #[derive(Debug)]
    struct One;

    impl Vault for One {
        fn reveal(&self, secret: &str) -> Result<Option<Value>, Failure> {
            Ok((secret == "key").then(|| Value::new("s3cr&t\"x".to_owned())))
        }
    }

    fn secrets() -> (Secrets, String) {
        let binding = |secret: &str| SecretBinding {
            secret: secret.to_owned(),
            env: "K".to_owned(),
            hosts: vec!["*.api.example".to_owned()],
            query: true,
            body: true,
            ..SecretBinding::default()
        };
        let policy = Policy { secrets: vec![binding("key")], ..Policy::default() };
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"test");
        let secrets = Secrets::reveal(&Compiled::new(&policy).unwrap(), &One, &key, "sb1");
        (secrets, placeholder(&key, "sb1", "key"))
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn a_placeholder_is_swapped_for_its_hosts_and_for_no_other() {
        let (secrets, placeholder) = secrets();
        let swapped = |host: &str| secrets.swap_text(&name(host), &format!("Bearer {placeholder}"), |_| true);
        assert_eq!(swapped("v1.api.example").as_deref(), Some("Bearer s3cr&t\"x"));
        assert_eq!(swapped("evil.example"), None);
        assert_eq!(swapped("api.example"), None);
    }

    #[test]
    fn each_place_is_written_as_it_must_be() {
        let (secrets, placeholder) = secrets();
        let host = name("v1.api.example");
        assert_eq!(secrets.swap_query(&host, &format!("/x?k={placeholder}")).as_deref(), Some("/x?k=s3cr%26t%22x"));
        let body =
            |kind, text: String| String::from_utf8(secrets.swap_body(&host, kind, text.as_bytes()).unwrap()).unwrap();
        assert_eq!(body(BodyKind::Json, format!(r#"{{"k":"{placeholder}"}}"#)), r#"{"k":"s3cr&t\"x"}"#);
        assert_eq!(body(BodyKind::Form, format!("k={placeholder}")), "k=s3cr%26t%22x");
        let mut headers = HeaderMap::new();
        let basic = STANDARD.encode(format!("me:{placeholder}"));
        headers.insert(AUTHORIZATION, format!("Basic {basic}").parse().unwrap());
        secrets.swap_headers(&host, &mut headers, &[]);
        assert_eq!(headers[AUTHORIZATION], format!("Basic {}", STANDARD.encode("me:s3cr&t\"x")));
        assert!(headers[AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn a_placeholder_is_swapped_where_its_binding_says_and_in_authorization() {
        let of = |binding: SecretBinding| {
            let binding = SecretBinding {
                secret: "key".to_owned(),
                env: "K".to_owned(),
                hosts: vec!["a.example".to_owned()],
                ..binding
            };
            let policy = Policy { secrets: vec![binding], ..Policy::default() };
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"test");
            (Secrets::reveal(&Compiled::new(&policy).unwrap(), &One, &key, "sb1"), placeholder(&key, "sb1", "key"))
        };
        let host = name("a.example");
        let (plain, placeholder) = of(SecretBinding::default());
        let headers = || -> HeaderMap {
            ["authorization", "x-api-key", "cookie", "x-team"]
                .map(|name| (HeaderName::from_static(name), HeaderValue::try_from(&placeholder).unwrap()))
                .into_iter()
                .collect()
        };
        let swapped = |secrets: &Secrets, by_rule: &[HeaderName]| {
            let mut headers = headers();
            let binds = secrets.swap_headers(&host, &mut headers, by_rule);
            let names = headers.iter().filter(|(_, value)| *value != placeholder.as_str());
            let mut names: Vec<String> = names.map(|(name, _)| name.to_string()).collect();
            names.sort_unstable();
            (names, binds)
        };
        assert_eq!(swapped(&plain, &[]), (vec!["authorization".to_owned()], true));
        for kind in [BodyKind::Form, BodyKind::Json, BodyKind::Other] {
            assert_eq!(plain.swap_body(&host, kind, placeholder.as_bytes()), None);
        }
        assert_eq!(plain.swap_query(&host, &format!("/?k={placeholder}")), None);
        // A header that a rule sets is the policy's own.
        let by_rule = [HeaderName::from_static("x-team")];
        assert_eq!(swapped(&plain, &by_rule).0, ["authorization", "x-team"]);
        let (more, _) = of(SecretBinding {
            headers: vec!["X-Api-Key".to_owned()],
            query: true,
            upgrade: true,
            ..Default::default()
        });
        assert_eq!(swapped(&more, &[]), (vec!["authorization".to_owned(), "x-api-key".to_owned()], false));
        assert!(more.swap_query(&host, &format!("/?k={placeholder}")).is_some());
    }

    #[test]
    fn no_text_of_ours_shows_a_value() {
        let (secrets, placeholder) = secrets();
        assert!(!format!("{secrets:?}").contains("s3cr"));
        let text = format!("a {placeholder} b s3cr&t\"x c s3cr%26t%22x");
        assert_eq!(secrets.redact(&text), "a {{secret:key}} b {{secret:key}} c {{secret:key}}");
        assert_eq!(secrets.hide(b"echo: s3cr&t\"x."), Some(format!("echo: {placeholder}.").into_bytes()));
        assert_eq!(secrets.hide(b"nothing"), None);
    }

    #[test]
    fn a_value_does_not_come_back_in_any_form_in_which_it_was_sent() {
        let (secrets, placeholder) = secrets();
        let host = name("v1.api.example");
        let body =
            |kind, text: &str| String::from_utf8(secrets.swap_body(&host, kind, text.as_bytes()).unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        let basic = STANDARD.encode(format!("me:{placeholder}"));
        headers.insert(AUTHORIZATION, format!("Basic {basic}").parse().unwrap());
        secrets.swap_headers(&host, &mut headers, &[]);
        let sent = [
            secrets.swap_query(&host, &format!("/x?k={placeholder}&z")).unwrap(),
            body(BodyKind::Json, &format!(r#"{{"k":"{placeholder}"}}"#)),
            body(BodyKind::Form, &format!("k={placeholder}")),
            headers[AUTHORIZATION].to_str().unwrap().to_owned(),
        ];
        for echo in sent {
            let hidden = secrets.hide(echo.as_bytes()).unwrap_or_else(|| panic!("{echo}"));
            assert!(String::from_utf8(hidden).unwrap().contains(&placeholder), "{echo}");
            assert!(secrets.redact(&echo).contains("{{secret:key}}"), "{echo}");
            // Nor where it comes in pieces: what may be its beginning is held.
            let half = echo.find("s3cr").map_or(echo.len() / 2, |at| at + 5);
            assert!(echo.contains("Basic") || secrets.begins_at_end(&echo.as_bytes()[..half]) >= 5, "{echo}");
        }
    }

    #[test]
    fn a_secret_that_is_not_there_is_named() {
        let policy = Policy {
            secrets: vec![SecretBinding {
                secret: "nope".to_owned(),
                env: "K".to_owned(),
                hosts: vec!["a.example".to_owned()],
                ..SecretBinding::default()
            }],
            ..Policy::default()
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"test");
        let secrets = Secrets::reveal(&Compiled::new(&policy).unwrap(), &One, &key, "sb1");
        assert_eq!(secrets.complete().unwrap_err().context["field"], "network.secrets[0].secret");
        // A sandbox that has it bound already lives on, and sends what it holds.
        let text = placeholder(&key, "sb1", "nope");
        assert_eq!(secrets.swap_text(&name("a.example"), &text, |_| true), None);
        assert_eq!(secrets.hide(text.as_bytes()), None);
    }
}
