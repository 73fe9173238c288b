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

/// The route of an answer that stands at no pattern, in its extensions: a preview, say.
#[derive(Clone, Copy)]
pub(super) struct Route(pub(super) &'static str);

pub(super) fn layer(router: Router, api: &Api) -> Router {
    layer_of("", router, api)
}

/// [`layer`], for routes that are reached by more than their path: `at` stands before the pattern.
pub(super) fn layer_of(at: &'static str, router: Router, api: &Api) -> Router {
    // A layer on routes, so that the pattern that matched is known.
    router.layer(from_fn_with_state((api.clone(), at), observe))
}

async fn observe(State((api, at)): State<(Api, &'static str)>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| format!("{at}{}", path.as_str()));
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
        let route = route.as_deref().or_else(|| response.extensions().get().map(|Route(route)| *route));
        api.metrics.request(route, &method, response.status().as_u16());
        response.extensions_mut().insert(Counted);
    }
    response
}
