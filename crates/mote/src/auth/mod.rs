//! Who calls: API keys, what each may do, and which tenant it belongs to.
//!
//! A key is 256 random bits; only its SHA-256 is stored, so the file of keys is worth nothing to a thief. This module
//! does not know HTTP: [`crate::api`] takes the key from a header and asks here.

mod append;
mod keys;
pub mod token;

use std::sync::Arc;

pub use append::{AppendError, append};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
pub use keys::{Error, Keys, Refused};
use sha2::{Digest, Sha256};

use crate::clock::UnixMs;
use crate::timestamp::format_rfc3339;

/// How every key begins, so that scanners for leaked secrets can recognise one.
pub const KEY_PREFIX: &str = "mote_";

/// How the word of a line begins that says when its key expires.
const EXPIRES: &str = "expires=";

/// What a key may do. `admin` includes the other two; `run` and `read` stand beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Submit tasks, cancel them, answer them, signal them.
    Run,
    /// See tasks, their events, sessions and tools.
    Read,
    /// Re-run dead letters, erase tasks and sessions, and all of the above.
    Admin,
}

impl Scope {
    /// As it is written in the file of keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Run, Self::Read, Self::Admin].into_iter().find(|scope| scope.as_str() == text)
    }
}

/// The caller of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key's name; `anonymous` where the service runs without keys.
    pub name: Arc<str>,
    /// What it may do.
    pub scopes: Arc<[Scope]>,
    /// The tenant that it is bound to: it acts as this tenant and sees no other. `None` may name any.
    pub tenant: Option<Arc<str>>,
}

impl Principal {
    /// The caller of a service without keys: may do everything.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "anonymous".into(), scopes: Arc::new([Scope::Admin]), tenant: None }
    }

    /// Whether the key carries the scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|held| *held == scope || *held == Scope::Admin)
    }
}

/// A key that was just made. Its Debug form does not show it.
pub struct NewKey {
    /// The key: shown once to the person who asked for it, stored nowhere.
    pub key: String,
    /// The line for the file of keys.
    pub line: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").field("line", &self.line).finish_non_exhaustive()
    }
}

/// Makes a key that holds until `expires_at`, if that is given: `mote_` and 43 characters of base64url, 256 bits from the operating system's generator.
///
/// # Errors
/// [`Error::Name`] if the name or the tenant cannot stand in a line of the file, [`Error::Entropy`] if the operating
/// system gives no randomness.
pub fn generate(
    name: &str,
    scopes: &[Scope],
    tenant: Option<&str>,
    expires_at: Option<UnixMs>,
) -> Result<NewKey, Error> {
    for (field, text) in [("name", Some(name)), ("tenant", tenant)] {
        if let Some(text) = text
            && !keys::is_word(text)
        {
            return Err(Error::Name { field, text: text.to_owned() });
        }
    }
    if scopes.is_empty() {
        return Err(Error::Name { field: "scopes", text: String::new() });
    }
    let mut secret = [0u8; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| Error::Entropy)?;
    let key = format!("{KEY_PREFIX}{}", BASE64URL_NOPAD.encode(&secret));
    let scopes = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",");
    let mut line = format!("{} {name} {scopes}", HEXLOWER.encode(&digest(&key)));
    if let Some(tenant) = tenant {
        line.push(' ');
        line.push_str(tenant);
    }
    if let Some(at) = expires_at {
        line.push(' ');
        line.push_str(EXPIRES);
        line.push_str(&format_rfc3339(at));
    }
    Ok(NewKey { key, line })
}

/// What is stored of a key. A plain hash is enough: a key has 256 bits of entropy, so there is nothing to guess.
fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognisable_unique_and_never_shown_in_debug() {
        let first = generate("ci", &[Scope::Run, Scope::Read], Some("acme"), None).unwrap();
        let second = generate("ci", &[Scope::Run], None, None).unwrap();
        assert!(first.key.starts_with(KEY_PREFIX));
        assert_eq!(first.key.len(), KEY_PREFIX.len() + 43);
        assert_ne!(first.key, second.key);
        assert!(first.line.ends_with(" ci run,read acme"), "{}", first.line);
        assert!(!first.line.contains(&first.key));
        assert!(!format!("{first:?}").contains(&first.key));
    }

    #[test]
    fn a_name_that_would_break_the_file_is_refused() {
        for name in ["", "two words", "line\nbreak", "#comment"] {
            assert!(
                matches!(generate(name, &[Scope::Run], None, None), Err(Error::Name { field: "name", .. })),
                "{name:?}"
            );
        }
        assert!(matches!(generate("ok", &[Scope::Run], Some("a b"), None), Err(Error::Name { field: "tenant", .. })));
        assert!(matches!(generate("ok", &[], None, None), Err(Error::Name { field: "scopes", .. })));
    }

    #[test]
    fn admin_includes_the_other_scopes_and_they_do_not_include_each_other() {
        let with = |scopes: &[Scope]| Principal { name: "k".into(), scopes: scopes.into(), tenant: None };
        assert!(with(&[Scope::Admin]).may(Scope::Run) && with(&[Scope::Admin]).may(Scope::Read));
        assert!(!with(&[Scope::Run]).may(Scope::Read) && !with(&[Scope::Read]).may(Scope::Run));
        assert!(!with(&[Scope::Run, Scope::Read]).may(Scope::Admin));
    }
}
