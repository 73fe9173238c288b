//! Who asks: an API key for everything, a sandbox's own token for that sandbox's data plane.
//!
//! It does not make keys; `state` does and keeps their hashes alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use mote_sandbox_api::error::{Code, Failure};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::Api;
use super::failure::Refusal;
use crate::limits::{KEY_CACHE_MAX, KEY_CACHE_TIME};
use crate::state::State;

/// The header for a key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys, with those that were seen lately.
#[derive(Debug)]
pub struct Keys {
    state: State,
    seen: Mutex<HashMap<[u8; 32], (String, Instant)>>,
}

impl Keys {
    /// The keys of a state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state, seen: Mutex::default() }
    }

    /// Who holds a key, if it is known. A revoked key is refused within [`KEY_CACHE_TIME`].
    ///
    /// # Errors
    /// Where the state cannot be asked.
    pub async fn holder(&self, key: &str) -> Result<Option<String>, Failure> {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let now = Instant::now();
        {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((name, until)) = seen.get(&hash)
                && *until > now
            {
                return Ok(Some(name.clone()));
            }
        }
        let Some(found) = self.state.key(key).await? else { return Ok(None) };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= KEY_CACHE_MAX {
            seen.clear();
        }
        seen.insert(hash, (found.name.clone(), now + KEY_CACHE_TIME));
        Ok(Some(found.name))
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

/// Somebody who holds an API key.
#[derive(Debug, Clone)]
pub struct Holder {
    /// The key's name.
    pub name: String,
}

impl FromRequestParts<Api> for Holder {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let key = presented(&parts.headers).ok_or_else(unauthenticated)?;
        let name = api.keys.holder(key).await?.ok_or_else(unauthenticated)?;
        Ok(Self { name })
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
