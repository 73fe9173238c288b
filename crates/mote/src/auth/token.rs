//! Tokens that open one task's stream: for browsers, whose `EventSource` and `WebSocket` cannot send an API key in a header.
//!
//! A token names no secret and is kept nowhere: it says whose it is and until when, and carries a signature over that, the
//! task and the tenant. It does not open anything else, and it does not outlive the key that it was issued for.

use aws_lc_rs::hmac;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::{Principal, Scope};
use crate::clock::UnixMs;
use crate::limits::STREAM_TOKEN_BYTES_MAX;

/// How every token begins, so that scanners for leaked secrets can recognise one.
const PREFIX: &str = "motestream_";
/// Bytes of the signing secret.
pub const SECRET_BYTES: usize = 32;

/// Signs and checks stream tokens. Every process of a store has the same secret.
pub struct StreamTokens(hmac::Key);

impl std::fmt::Debug for StreamTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamTokens").finish_non_exhaustive()
    }
}

/// A secret to sign with.
///
/// # Errors
/// [`super::Error::Entropy`] if the operating system gives no randomness.
pub fn fresh_secret() -> Result<Vec<u8>, super::Error> {
    let mut secret = [0u8; SECRET_BYTES];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| super::Error::Entropy)?;
    Ok(secret.to_vec())
}

impl StreamTokens {
    /// Signs with this secret.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A token with which `holder` may follow `task` until `expires_at`.
    #[must_use]
    pub fn issue(&self, holder: &Principal, task: &str, expires_at: UnixMs) -> String {
        let mac = hmac::sign(&self.0, &said(holder, task, expires_at));
        format!("{PREFIX}{expires_at}.{}.{}", HEXLOWER.encode(holder.name.as_bytes()), HEXLOWER.encode(mac.as_ref()))
    }

    /// Whom the token lets follow `task` now: the holder of the key that it was issued for, with the scope `read` alone.
    /// `holder` finds that key by its name, if it is still in force.
    #[must_use]
    pub fn check(
        &self,
        token: &str,
        task: &str,
        now: UnixMs,
        holder: impl FnOnce(&str) -> Option<Principal>,
    ) -> Option<Principal> {
        if token.len() > STREAM_TOKEN_BYTES_MAX {
            return None;
        }
        let mut parts = token.strip_prefix(PREFIX)?.splitn(3, '.');
        let (expires_at, name, mac) = (parts.next()?, parts.next()?, parts.next()?);
        let expires_at: UnixMs = expires_at.parse().ok()?;
        let name = String::from_utf8(HEXLOWER_PERMISSIVE.decode(name.as_bytes()).ok()?).ok()?;
        let holder = holder(&name)?;
        hmac::verify(&self.0, &said(&holder, task, expires_at), &HEXLOWER_PERMISSIVE.decode(mac.as_bytes()).ok()?)
            .ok()?;
        let scopes = if holder.may(Scope::Read) { &[Scope::Read][..] } else { &[] };
        (now < expires_at).then(|| Principal { scopes: scopes.into(), ..holder })
    }
}

/// What is signed. Each part with its length before it, so that no two sayings have the same bytes.
fn said(holder: &Principal, task: &str, expires_at: UnixMs) -> Vec<u8> {
    let mut bytes = b"mote stream 1".to_vec();
    bytes.extend(expires_at.to_be_bytes());
    bytes.push(u8::from(holder.tenant.is_some()));
    for part in [task, &holder.name, holder.tenant.as_deref().unwrap_or_default()] {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str, tenant: Option<&str>, scope: Scope) -> Principal {
        Principal { name: name.into(), scopes: [scope].into(), tenant: tenant.map(Into::into) }
    }

    #[test]
    fn a_token_opens_its_own_task_for_its_own_key_until_its_time() {
        let tokens = StreamTokens::new(&[7; SECRET_BYTES]);
        let holder = principal("ci.é", Some("acme"), Scope::Admin);
        let token = tokens.issue(&holder, "task_1", 5_000);
        let known = |name: &str| (name == "ci.é").then(|| holder.clone());
        let found = tokens.check(&token, "task_1", 4_999, known).unwrap();
        assert_eq!((&found.name, &found.tenant), (&holder.name, &holder.tenant));
        assert!(found.may(Scope::Read) && !found.may(Scope::Run) && !found.may(Scope::Admin));
        assert_eq!(tokens.check(&token, "task_1", 5_000, known), None, "its time is over");
        assert_eq!(tokens.check(&token, "task_2", 0, known), None, "another task");
        assert_eq!(tokens.check(&token, "task_1", 0, |_| None), None, "the key is gone");
        let moved = |_: &str| Some(principal("ci.é", Some("umbrella"), Scope::Admin));
        assert_eq!(tokens.check(&token, "task_1", 0, moved), None, "the key belongs to another tenant now");
        assert_eq!(StreamTokens::new(&[8; SECRET_BYTES]).check(&token, "task_1", 0, known), None, "another secret");
        let later = token.replacen("5000", "9000", 1);
        assert_eq!(tokens.check(&later, "task_1", 0, known), None, "its time was changed");
        for wrong in
            ["", "motestream_", "motestream_1.2.3", &token[1..], &format!("{token}0"), &token[..token.len() - 2]]
        {
            assert_eq!(tokens.check(wrong, "task_1", 0, known), None, "{wrong}");
        }
    }
}
