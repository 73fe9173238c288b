//! Signed addresses of files: `?signature=v1_…`, made by the client from the sandbox's token (E2B's SDK 2.x).
//!
//! The signature is the base64 (no padding) of the SHA-256 of `PATH:OPERATION:USER:TOKEN[:EXPIRATION]`. It signs nothing
//! itself.

use axum::extract::Request;
use data_encoding::BASE64_NOPAD;
use http::{Method, Uri};
use mote_sandbox_api::error::{Code, Failure};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::E2b;
use super::query::pairs;
use crate::lifecycle::Filter;

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

fn expected(signed: &Signed, method: &Method, token: &str) -> String {
    let operation = if method == Method::POST { "write" } else { "read" };
    let Signed { path, user, expiration, .. } = signed;
    let text = match expiration {
        None => format!("{path}:{operation}:{user}:{token}"),
        Some(expiration) => format!("{path}:{operation}:{user}:{token}:{expiration}"),
    };
    format!("v1_{}", BASE64_NOPAD.encode(&Sha256::digest(text.as_bytes())))
}

/// The sandbox whose token made the signature.
pub(super) fn owner(e2b: &E2b, request: &Request) -> Option<String> {
    let signed = signed(request.uri()).ok()?;
    let filter = Filter { limit: usize::MAX, ..Filter::default() };
    let (sandboxes, _) = e2b.api.sandboxes.list(&filter);
    let made = |id: &str| {
        let expected = expected(&signed, request.method(), &e2b.api.sandboxes.access_token(id));
        bool::from(expected.as_bytes().ct_eq(signed.signature.as_bytes()))
    };
    sandboxes.into_iter().map(|sandbox| sandbox.id).find(|id| made(id))
}

/// What a request's signature allows, where it is the sandbox's and in time.
///
/// # Errors
/// `unauthenticated`; `invalid` where the address says something twice.
pub(super) fn check(e2b: &E2b, sandbox: &str, request: &Request) -> Result<Granted, Failure> {
    let signed = signed(request.uri())?;
    let expected = expected(&signed, request.method(), &e2b.api.sandboxes.access_token(sandbox));
    if !bool::from(expected.as_bytes().ct_eq(signed.signature.as_bytes())) {
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
        assert_eq!(expected(&signed, &Method::GET, "token"), "v1_tjfYa0S6gGZxITz1BilX5UtLirKYatBKVyM/AGdo2UQ");
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
