//! Signed addresses of files: `?signature=v1_…`, made by the client from the sandbox's token (E2B's SDK 2.x).
//!
//! The signature is the base64 (no padding) of the SHA-256 of `PATH:OPERATION:USER:TOKEN[:EXPIRATION]`. It signs nothing
//! itself.

use axum::extract::Request;
use data_encoding::BASE64_NOPAD;
use http::{Method, Uri};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::limits::NAME_BYTES_MAX;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

use super::E2b;
use super::query::pairs;
use crate::limits::{SIGNATURE_SEARCHES_PER_SECOND, SIGNED_PATH_BYTES_MAX};

/// Digits of base 64 of a hash.
const SIGNATURE_DIGITS: usize = 43;

/// What is signed.
#[derive(Debug, Default)]
struct Signed {
    path: String,
    user: String,
    signature: String,
    expiration: Option<String>,
}

/// What a signature allows, in the extensions of its request: this, and nothing that the request says beside it.
#[derive(Clone, Debug)]
pub(in crate::api::e2b) struct Granted {
    /// The file; `None` where whoever signed left the name to the upload.
    pub(in crate::api::e2b) path: Option<String>,
    /// In whose name; the sandbox's own user where `None`.
    pub(in crate::api::e2b) user: Option<String>,
}

pub(super) fn is_signed(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("signature=")))
}

/// Reads a signed address, in which each name stands once: of two, somebody else might read the other.
fn signed(uri: &Uri) -> Result<Signed, Failure> {
    let mut found: [Option<String>; 4] = Default::default();
    for (name, value) in pairs(uri.query().unwrap_or_default()) {
        let Some(at) =
            ["path", "username", "signature", "signature_expiration"].iter().position(|known| *known == name)
        else {
            continue;
        };
        if found[at].replace(value).is_some() {
            return Err(Failure::invalid(&name, "a signed address has it once"));
        }
    }
    let [path, user, signature, expiration] = found;
    let text = Option::unwrap_or_default;
    Ok(Signed { path: text(path), user: text(user), signature: text(signature), expiration })
}

/// What a signature is the hash of, up to the token: the same for every sandbox.
fn begun(signed: &Signed, method: &Method) -> Sha256 {
    let operation = if method == Method::POST { "write" } else { "read" };
    Sha256::new().chain_update(&signed.path).chain_update(format!(":{operation}:{}:", signed.user))
}

/// The rest of it, for one token.
fn completed(begun: Sha256, signed: &Signed, token: &str) -> [u8; 32] {
    let hash = begun.chain_update(token);
    match &signed.expiration {
        None => hash,
        Some(expiration) => hash.chain_update(":").chain_update(expiration),
    }
    .finalize()
    .into()
}

/// The hash that a signature claims; nothing where an address has not the form of a signed one, which costs a look.
fn claimed(signed: &Signed) -> Option<[u8; 32]> {
    let is_time =
        |text: &String| !text.is_empty() && text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    if signed.path.len() > SIGNED_PATH_BYTES_MAX
        || signed.user.len() > NAME_BYTES_MAX
        || !signed.expiration.as_ref().is_none_or(is_time)
    {
        return None;
    }
    let text = signed.signature.strip_prefix("v1_").filter(|text| text.len() == SIGNATURE_DIGITS)?;
    BASE64_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

/// The sandbox whose token made the signature.
///
/// # Errors
/// `exhausted` where too many are looked for.
pub(super) fn owner(e2b: &E2b, request: &Request) -> Result<Option<String>, Failure> {
    let Ok(signed) = signed(request.uri()) else { return Ok(None) };
    let Some(claimed) = claimed(&signed) else { return Ok(None) };
    if !e2b.searches.try_take(Instant::now()) {
        return Err(Failure::new(Code::Exhausted, "too many signed addresses name no sandbox")
            .with("limit", SIGNATURE_SEARCHES_PER_SECOND)
            .with("retry_after_s", 1)
            .remedy("address the sandbox by its host name or by the header E2b-Sandbox-Id"));
    }
    let begun = begun(&signed, request.method());
    let made = |id: &String| {
        let hash = completed(begun.clone(), &signed, &e2b.api.sandboxes.access_token(id));
        bool::from(hash.ct_eq(&claimed))
    };
    Ok(e2b.api.sandboxes.ids().into_iter().find(made))
}

/// What a request's signature allows, where it is the sandbox's and in time.
///
/// # Errors
/// `unauthenticated`; `invalid` where the address says something twice.
pub(super) fn check(e2b: &E2b, sandbox: &str, request: &Request) -> Result<Granted, Failure> {
    let signed = signed(request.uri())?;
    let is_right = claimed(&signed).is_some_and(|claimed| {
        let token = e2b.api.sandboxes.access_token(sandbox);
        bool::from(completed(begun(&signed, request.method()), &signed, &token).ct_eq(&claimed))
    });
    if !is_right {
        return Err(Failure::new(Code::Unauthenticated, "invalid signature"));
    }
    if let Some(expiration) = &signed.expiration {
        let now_s = e2b.api.sandboxes.clock().now_ms() / 1000;
        if expiration.parse::<u64>().map_or(true, |expiration| expiration < now_s) {
            return Err(Failure::new(Code::Unauthenticated, "signature is already expired"));
        }
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Granted { path: given(signed.path), user: given(signed.user) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_that_the_sdk_makes() {
        let signed = Signed { path: "/a b".to_owned(), ..Signed::default() };
        // sha256("/a b:read::token") as the SDK for Python encodes it.
        let hash = completed(begun(&signed, &Method::GET), &signed, "token");
        assert_eq!(BASE64_NOPAD.encode(&hash), "tjfYa0S6gGZxITz1BilX5UtLirKYatBKVyM/AGdo2UQ");
    }

    #[test]
    fn what_is_no_signature_is_not_hashed() {
        let right = "v1_tjfYa0S6gGZxITz1BilX5UtLirKYatBKVyM/AGdo2UQ";
        let of = |signature: &str, path: &str, expiration: Option<&str>| {
            let expiration = expiration.map(str::to_owned);
            claimed(&Signed { path: path.to_owned(), signature: signature.to_owned(), expiration, user: String::new() })
        };
        assert!(of(right, "/a", None).is_some() && of(right, "/a", Some("1700000000")).is_some());
        let long = "/".repeat(SIGNED_PATH_BYTES_MAX + 1);
        for (signature, path, expiration) in [
            ("", "/a", None),
            ("x", "/a", None),
            (&right[3..], "/a", None),
            (&format!("{right}A"), "/a", None),
            (&right.replace('j', "!"), "/a", None),
            (right, &long, None),
            (right, "/a", Some("")),
            (right, "/a", Some("soon")),
            (right, "/a", Some(&"9".repeat(21))),
        ] {
            assert_eq!(of(signature, path, expiration), None, "{signature} {expiration:?}");
        }
    }

    #[test]
    fn the_query_is_read_as_a_url_has_it() {
        let signed =
            signed(&"/files?path=%2Fa%20b&username=root&signature=v1_a%2Bb&signature_expiration=7".parse().unwrap())
                .unwrap();
        assert_eq!((signed.path.as_str(), signed.user.as_str()), ("/a b", "root"));
        assert_eq!((signed.signature.as_str(), signed.expiration.as_deref()), ("v1_a+b", Some("7")));
    }

    #[test]
    fn what_is_signed_is_said_once() {
        for twice in ["path=/b", "username=root", "signature=x", "signature_expiration=9", "pat%68=/b"] {
            let uri = format!("/files?{twice}&path=/a&username=user&signature=v1_a&signature_expiration=7");
            assert_eq!(signed(&uri.parse().unwrap()).unwrap_err().code, Code::Invalid, "{twice}");
        }
    }
}
