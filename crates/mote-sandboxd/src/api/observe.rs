//! What is seen of every request: a span with the caller's trace, and a count by route.
//!
//! It logs no body, no query and no header: they may hold secrets.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tracing::Instrument as _;

use super::Api;
use crate::telemetry::trace;

/// Marks an answer that was counted where its route was known.
#[derive(Clone, Copy)]
struct Counted;

pub(super) fn layer(router: Router, api: &Api) -> Router {
    // A layer on routes, so that the pattern that matched is known.
    router.layer(from_fn_with_state(api.clone(), observe))
}

async fn observe(State(api): State<Api>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    let context = trace::read(request.headers());
    let name = route.as_deref().unwrap_or("none");
    let span = match &context {
        Some(context) => tracing::info_span!(
            "request",
            method = method.as_str(),
            route = name,
            trace_id = context.trace_id,
            parent_span_id = context.parent_id
        ),
        None => tracing::info_span!("request", method = method.as_str(), route = name),
    };
    let mut response = next.run(request).instrument(span).await;
    if response.extensions().get::<Counted>().is_none() {
        api.metrics.request(route.as_deref(), &method, response.status().as_u16());
        response.extensions_mut().insert(Counted);
    }
    response
}
