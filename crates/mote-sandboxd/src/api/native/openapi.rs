//! The native API's description, OpenAPI 3.1: written from the types and the routes, checked in as `docs/sandbox-openapi.json`,
//! served from there.
//!
//! The running daemon does not generate it: the checked-in bytes are part of the program. Tests hold them equal to the code.
//! E2B's surface is E2B's to describe.

use axum::response::{IntoResponse as _, Response};
use http::header;

#[cfg(test)]
mod generated;
#[cfg(test)]
mod operations;

/// The document, as `docs/sandbox-openapi.json` holds it.
pub(super) const DOCUMENT: &str = include_str!("../../../../../docs/sandbox-openapi.json");

pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::Router;
    use axum::body::Body;
    use axum::routing::MethodRouter;
    use http::{Method, Request, StatusCode};
    use tower::ServiceExt as _;

    use super::DOCUMENT;
    use super::generated::document;
    use crate::api::code;

    /// `UPDATE=1 cargo test -p mote-sandboxd openapi` writes the document anew.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a switch for the person who runs the test")]
    fn the_document_in_the_repository_is_what_the_code_says() {
        let generated = document();
        if std::env::var_os("UPDATE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/sandbox-openapi.json");
            return std::fs::write(path, generated).unwrap();
        }
        assert!(generated == DOCUMENT, "docs/sandbox-openapi.json is out of date: run `cargo xtask schemas`");
    }

    /// Whether the routes at a path take a method. What they then answer does not matter here.
    async fn takes(path: &str, methods: MethodRouter, method: &Method) -> bool {
        let concrete = path.replace("{port}", "1").replace("{pid}", "1").replace(['{', '}', '*'], "");
        let request = Request::builder().method(method).uri(concrete).body(Body::empty()).unwrap();
        let answer = Router::new().route(path, methods).oneshot(request).await.unwrap();
        answer.status() != StatusCode::METHOD_NOT_ALLOWED
    }

    #[tokio::test]
    async fn every_route_is_described_and_every_description_is_a_route() {
        let stage = crate::api::e2b::tests::Stage::new().await;
        let native = super::super::routes().into_iter();
        let native = native.map(|(path, methods)| (path.to_owned(), methods.with_state(stage.api.clone())));
        let code = code::routes().into_iter().map(|(path, methods)| (format!("{}{path}", code::BELOW), methods));
        let mut found = BTreeSet::new();
        for (path, methods) in native.chain(code) {
            for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS] {
                if takes(&path, methods.clone(), &method).await {
                    found.insert(format!("{} {}", method.as_str().to_lowercase(), path.replace('*', "")));
                }
            }
        }
        let document: serde_json::Value = serde_json::from_str(&document()).unwrap();
        let described: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
            })
            .collect();
        assert!(found.difference(&described).next().is_none(), "not described: {:?}", found.difference(&described));
        assert!(described.difference(&found).next().is_none(), "no route: {:?}", described.difference(&found));
    }

    /// Every reference in a document leads somewhere, and every name of an operation is used once.
    #[test]
    fn references_lead_somewhere_and_names_are_unique() {
        let text = document();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        for part in text.split("\"$ref\": \"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        let names: Vec<&str> =
            text.split("\"operationId\": \"").skip(1).filter_map(|part| part.split('"').next()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names.len() > 50);
    }
}
