//! Who may call: takes the API key, or a stream's token, from a request, checks its scope and its rate.
//!
//! It does not know the keys; [`crate::auth`] does.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, Query, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Uri, header};

use super::problem::{Code, Problem};
use super::ratelimit::Bucket;
use super::state::Api;
use super::token;
use crate::auth::{Principal, Refused, Scope};
use crate::timestamp::format_rfc3339;
use mote_http::ClientAddr;

pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What a group of routes asks of its caller.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) api: Arc<Api>,
    pub(super) scope: Scope,
    /// Whether a stream token in the query does as well as a key.
    pub(super) tokens: bool,
}

/// Lets a request through with its [`Principal`], or refuses it. A refused key counts against its address, so that
/// guessing is bounded too.
pub(super) async fn admit(
    State(gate): State<Gate>,
    places: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = request.extensions().get::<ClientAddr>().map(|client| client.0.ip());
    let token = if gate.tokens { stream_token(request.uri()) } else { None };
    let principal = match token {
        Some(_) if carries_key(request.headers()) => {
            Err(Problem::new(Code::Unauthenticated, "a key and ?token= are both there; send one"))
        }
        Some(token) => {
            // What is no text names no task.
            let id =
                |places: &RawPathParams| places.iter().find(|(name, _)| *name == "id").map(|(_, id)| id.to_owned());
            let task = places.ok().as_ref().and_then(id).unwrap_or_default();
            token::authenticate(&gate.api, &task, &token).await
        }
        None => authenticate(&gate.api, request.headers()),
    };
    if let Ok(principal) = &principal {
        tracing::Span::current().record("key", &*principal.name);
    }
    let bucket = match &principal {
        Ok(principal) if gate.api.keys.is_some() => Bucket::Key(Arc::clone(&principal.name)),
        _ => Bucket::of_address(address.unwrap_or(IpAddr::from([0, 0, 0, 0]))),
    };
    let verdict = gate.api.limiter.as_ref().map(|limiter| limiter.check(bucket));
    let admitted = match &verdict {
        Some(verdict) if !verdict.allowed() => Err(verdict.problem()),
        _ => principal.and_then(|principal| allow(principal, gate.scope)),
    };
    let mut response = match admitted {
        Ok(principal) => {
            request.extensions_mut().insert(Caller(principal));
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    if let Some(verdict) = verdict {
        verdict.write(response.headers_mut());
    }
    response
}

fn carries_key(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.contains_key(API_KEY)
}

/// The token of a stream's query, if it has one. The handler refuses a second one.
fn stream_token(uri: &Uri) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    pairs.into_iter().find(|(name, _)| name == token::PARAMETER).map(|(_, value)| value)
}

fn allow(principal: Principal, scope: Scope) -> Result<Principal, Problem> {
    if principal.may(scope) {
        return Ok(principal);
    }
    let detail = format!("the key {:?} lacks the scope {}", principal.name, scope.as_str());
    Err(Problem::new(Code::Forbidden, detail))
}

fn authenticate(api: &Api, headers: &HeaderMap) -> Result<Principal, Problem> {
    let Some(keys) = &api.keys else { return Ok(Principal::anonymous()) };
    let refused = |detail: &str| Problem::new(Code::Unauthenticated, detail);
    let key = match (headers.get(header::AUTHORIZATION), headers.get(API_KEY)) {
        (Some(_), Some(_)) => return Err(refused("Authorization and X-API-Key are both set; send one")),
        (Some(value), None) => {
            // The scheme's name is case-insensitive (RFC 9110, section 11.1).
            let split = value.to_str().ok().and_then(|text| text.split_once(' '));
            match split {
                Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
                _ => return Err(refused("the Authorization header must be `Bearer <key>`")),
            }
        }
        (None, Some(value)) => value.to_str().unwrap_or_default(),
        (None, None) => return Err(refused("send `Authorization: Bearer <key>` or `X-API-Key: <key>`")),
    };
    keys.check(key).map_err(|why| match why {
        Refused::Unknown => refused("the API key is not known"),
        Refused::Expired { at } => refused(&format!("the API key expired at {}", format_rfc3339(at))),
    })
}

/// The caller, as [`admit`] found it.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Principal);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // A route outside every gate has no caller; that is a mistake of this program, not the client's.
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::new(Code::Internal, "the route has no gate"))
    }
}
