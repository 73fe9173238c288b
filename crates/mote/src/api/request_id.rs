//! The outermost layers: a request's id, its log line, its metrics, and the writing out of problems.
//!
//! They know nothing of any route.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use tracing::Instrument;

use super::problem::{Code, Problem};
use super::refusals::is_worth_a_line;
use super::state::Api;
use crate::{clock, limits};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the client's, if it is fit for a log, else one of ours.
#[derive(Debug, Clone)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    fn of(request: &Request, clock: &dyn clock::Clock) -> Self {
        let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
        match given.filter(|id| is_fit(id)) {
            Some(id) => Self(id.into()),
            None => Self(clock::new_id("req", clock).into()),
        }
    }
}

/// Nothing that could break a log line or a header.
fn is_fit(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    (1..=limits::REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain)
}

/// Gives the request its id, logs and counts it, and writes out its problem, if that is what it came to.
pub(super) async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    let id = RequestId::of(&request, api.runner.clock().as_ref());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let pattern = route.as_ref().map_or("", MatchedPath::as_str);
    let key = tracing::field::Empty;
    let span = tracing::info_span!("http", request_id = %id.0, %method, route = pattern, key);
    let mut response = async {
        let response = next.run(request).await;
        let status = response.status().as_u16();
        let elapsed = started.elapsed();
        api.metrics.request(&method, pattern, status, elapsed);
        let latency_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        match response.extensions().get::<Problem>() {
            Some(problem) if is_worth_a_warning(problem.code) => {
                tracing::warn!(status, latency_ms, code = problem.code.as_str(), "answered");
            }
            Some(problem) if is_worth_a_line(problem.code) => api.refusals.log(problem, status, latency_ms),
            Some(problem) => tracing::debug!(status, latency_ms, code = problem.code.as_str(), "answered"),
            None => tracing::debug!(status, latency_ms, "answered"),
        }
        response
    }
    .instrument(span)
    .await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = written(&problem, &id.0, &response);
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Whether an operator should look. Overload is none of these: it comes in thousands, and the metrics count it.
fn is_worth_a_warning(code: Code) -> bool {
    matches!(code, Code::Internal | Code::StoreUnavailable)
}

/// The problem's response, with the headers that inner layers set (rate limits, CORS, Allow).
fn written(problem: &Problem, id: &str, inner: &Response) -> Response {
    let mut response = problem.respond(id);
    let own = std::mem::replace(response.headers_mut(), inner.headers().clone());
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    for (name, value) in &own {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_does_not_flood_the_log() {
        let warned = |code: &&Code| is_worth_a_warning(**code);
        let warnings: Vec<&str> = Code::ALL.iter().filter(warned).map(|code| code.as_str()).collect();
        assert_eq!(warnings, ["internal", "store_unavailable"]);
    }

    #[test]
    fn an_id_that_could_break_a_log_line_is_not_taken() {
        for (id, fit) in [
            ("req-1", true),
            ("01J.A:b_c/d+e=@f", true),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("a{b}", false),
            (&"x".repeat(limits::REQUEST_ID_BYTES_MAX), true),
            (&"x".repeat(limits::REQUEST_ID_BYTES_MAX + 1), false),
        ] {
            assert_eq!(is_fit(id), fit, "{id:?}");
        }
    }
}
