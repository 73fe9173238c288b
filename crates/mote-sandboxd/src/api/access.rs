//! Who asks: an API key for what its scopes allow, a sandbox's own token for that sandbox's data plane.
//!
//! It does not make keys; `state` does and keeps their hashes alone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use mote_sandbox_api::error::{Code, Failure};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::failure::Refusal;
use super::{Api, scope};
use crate::limits::{KEY_LIST_TIME, KEY_READ_PAUSE};
use crate::state::{KeyName, Scope, Scopes, State};

/// The header for a key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys: all of them, by their hashes, as they were read a moment ago. Whoever guesses keys makes nobody wait for the state.
#[derive(Debug)]
pub struct Keys {
    state: State,
    list: Mutex<List>,
    /// Held by who reads them.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct List {
    keys: HashMap<[u8; 32], KeyName>,
    /// When reading them began.
    read: Option<Instant>,
}

impl List {
    /// What is known of a key at `now`, for a request that came at `asked`: who holds it, or that nobody does.
    fn answer(&self, hash: &[u8; 32], asked: Instant, now: Instant) -> Option<Option<Holder>> {
        let read = self.read?;
        match self.keys.get(hash) {
            Some(key) if read + KEY_LIST_TIME > now => {
                Some(Some(Holder { name: key.name.clone(), scopes: key.scopes.clone() }))
            }
            // A key may have been made a moment ago: that nobody holds it is known only where it was read since.
            None if read >= asked => Some(None),
            _ => None,
        }
    }
}

impl Keys {
    /// The keys of a state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state, list: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// Who holds a key, if it is known. A revoked key is refused within [`KEY_LIST_TIME`].
    ///
    /// # Errors
    /// Where the state cannot be asked.
    pub async fn holder(&self, key: &str) -> Result<Option<Holder>, Failure> {
        if !State::is_key(key) {
            return Ok(None);
        }
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let asked = Instant::now();
        loop {
            if let Some(answer) = self.list().answer(&hash, asked, Instant::now()) {
                return Ok(answer);
            }
            let _reading = self.reading.lock().await;
            // Somebody may have read them meanwhile.
            if let Some(answer) = self.list().answer(&hash, asked, Instant::now()) {
                return Ok(answer);
            }
            let read = self.list().read;
            if let Some(read) = read {
                tokio::time::sleep_until(read + KEY_READ_PAUSE).await;
            }
            let began = Instant::now();
            let keys = self.state.key_hashes().await?;
            *self.list() = List { keys, read: Some(began) };
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key that a request carries: `X-API-Key`, or `Authorization: Bearer`.
#[must_use]
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    key_of(headers, &API_KEY).or_else(|| key_of(headers, &header::AUTHORIZATION))
}

/// The key in one of these headers.
pub(super) fn key_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let text = headers.get(name).and_then(|value| value.to_str().ok())?;
    if *name == header::AUTHORIZATION { text.strip_prefix("Bearer ").map(str::trim) } else { Some(text) }
}

/// Somebody who holds an API key, and may use it for the route that the request has reached.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The key's name.
    pub name: String,
    /// What the key is for.
    pub scopes: Scopes,
}

impl Holder {
    /// Whether the key may be used for what needs this scope.
    ///
    /// # Errors
    /// `forbidden`, naming the scope.
    pub fn may(&self, scope: Scope) -> Result<(), Failure> {
        self.scopes.check(scope)
    }

    /// Whether the key may be used to bind a secret to a sandbox.
    ///
    /// # Errors
    /// `forbidden`, naming the scope and the secret.
    pub fn may_bind(&self, secret: &str) -> Result<(), Failure> {
        self.scopes.check_binding(secret)
    }
}

impl FromRequestParts<Api> for Holder {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let key = presented(&parts.headers).ok_or_else(unauthenticated)?;
        let holder = api.keys.holder(key).await?.ok_or_else(unauthenticated)?;
        scope::check_route(&holder, parts)?;
        Ok(holder)
    }
}

/// Somebody who may use the data plane of the sandbox that the path names: who holds an API key or the sandbox's token
/// (`X-Access-Token`).
#[derive(Debug, Clone)]
pub struct User {
    /// The sandbox.
    pub sandbox: String,
}

impl FromRequestParts<Api> for User {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, api).await;
        let sandbox = path.ok().and_then(|Path(mut names)| names.remove("id")).unwrap_or_default();
        if let Some(token) = parts.headers.get("x-access-token").and_then(|value| value.to_str().ok()) {
            if api.sandboxes.store().vault().is_token("access", &sandbox, token) {
                return Ok(Self { sandbox });
            }
            return Err(Failure::new(Code::Forbidden, "the access token is not the sandbox's").into());
        }
        Holder::from_request_parts(parts, api).await?;
        Ok(Self { sandbox })
    }
}

fn unauthenticated() -> Refusal {
    Failure::new(Code::Unauthenticated, "the request carries no API key that is known")
        .remedy("send `X-API-Key: KEY` or `Authorization: Bearer KEY`; `mote-sandboxd key new` makes one")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STATE_QUEUE_MAX;

    #[tokio::test]
    async fn a_key_is_known_once_it_is_made_and_until_it_is_revoked() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let keys = Keys::new(state.clone());
        let stranger = "mote_sk_0000000000000000000000000000000000000000";
        assert!(keys.holder(stranger).await.unwrap().is_none());
        let made = state.new_key("ci", &Scopes::all(), 1).await.unwrap();
        assert_eq!(keys.holder(&made.key).await.unwrap().unwrap().name, "ci");
        state.revoke_key("ci").await.unwrap();
        tokio::time::pause();
        tokio::time::advance(KEY_LIST_TIME).await;
        tokio::time::resume();
        assert!(keys.holder(&made.key).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn strangers_do_not_reach_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let keys = Keys::new(state.clone());
        let made = state.new_key("ci", &Scopes::all(), 1).await.unwrap();
        assert_eq!(keys.holder(&made.key).await.unwrap().unwrap().name, "ci");
        let first = keys.list().read;
        // What cannot be a key is not even hashed.
        for stranger in ["", "mote_sk_", "secret", &"mote_sk_0".repeat(1000)] {
            assert!(keys.holder(stranger).await.unwrap().is_none());
        }
        assert_eq!(keys.list().read, first);
        // More guesses at once than the state lets wait are answered by one look.
        let guesses = (0..=STATE_QUEUE_MAX).map(|guess| {
            let key = format!("mote_sk_{guess:040x}");
            let keys = &keys;
            async move { keys.holder(&key).await.unwrap() }
        });
        assert!(futures_util::future::join_all(guesses).await.iter().all(Option::is_none));
    }
}
