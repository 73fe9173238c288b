//! The API's description, OpenAPI 3.1: generated from the handlers, checked in as `docs/openapi.json`, served from there.
//!
//! The running service does not generate it: the checked-in bytes are part of the program and cost no memory until asked
//! for. A test holds the two equal.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

/// The document, as `docs/openapi.json` holds it.
pub const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");

/// Describes the API.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation", operation_id = "openapi",
    responses((status = 200, description = "This document.", body = serde_json::Value)),
)]
pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT).into_response()
}

#[cfg(test)]
mod generated {
    use utoipa::openapi::Ref;
    use utoipa::openapi::content::Content;
    use utoipa::openapi::response::ResponseBuilder;
    use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
    use utoipa::{Modify, OpenApi};

    use super::super::{again, dto, events, health, problem, run, sessions, tasks, tools, ws};

    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "Mote agent service",
            description = "One process is one agent. Errors are problem details (RFC 9457) with a stable `code`: docs/errors.md.",
            license(name = "Apache-2.0", identifier = "Apache-2.0"),
        ),
        paths(
            run::run, tasks::submit, tasks::list, tasks::get, events::stream, ws::socket, tasks::cancel, tasks::input,
            tasks::signal, again::resume, again::rerun, sessions::get, sessions::erase, tools::list, health::health,
            health::ready, health::metrics, super::serve,
        ),
        components(schemas(problem::Body, events::StreamMessage, dto::TaskBody)),
        tags(
            (name = "tasks", description = "Runs of the agent."),
            (name = "sessions", description = "State across tasks."),
            (name = "tools", description = "What the agent may do."),
            (name = "operation", description = "Probes and metrics; open to whoever reaches the port."),
        ),
        modifiers(&Security, &Refusals),
    )]
    struct Description;

    struct Security;

    impl Modify for Security {
        fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
            let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API key.")).build();
            let header = ApiKey::Header(ApiKeyValue::with_description("X-API-Key", "An API key."));
            let components = document.components.get_or_insert_default();
            components.add_security_scheme("key", SecurityScheme::Http(bearer));
            components.add_security_scheme("header_key", SecurityScheme::ApiKey(header));
        }
    }

    /// What every route with a caller may answer, beside what it says itself; the second where a body is read.
    struct Refusals;

    const BY_ALL: [(u16, &str, &str); 6] = [
        (400, "BadRequest", "The query, a header or the body's JSON is not understood."),
        (401, "Unauthenticated", "An API key is needed."),
        (403, "Forbidden", "The API key lacks the scope, or is bound to another tenant."),
        (429, "TooManyRequests", "Too many requests, or a bound of the task is reached; see Retry-After."),
        (500, "Internal", "Something failed here; the log has more under the request's id."),
        (503, "Unavailable", "Overloaded, shutting down, or the store cannot be used; see Retry-After."),
    ];
    const BY_POST: [(u16, &str, &str); 4] = [
        (408, "BodyTimeout", "The body did not arrive in time."),
        (413, "BodyTooLarge", "The body is too large."),
        (415, "UnsupportedMediaType", "The body must be application/json."),
        (422, "NotAcceptable", "A field is not acceptable."),
    ];

    impl Modify for Refusals {
        fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
            let components = document.components.get_or_insert_default();
            for (_, name, description) in BY_ALL.iter().chain(&BY_POST) {
                let problem = Content::new(Some(Ref::from_schema_name("Problem")));
                let response = ResponseBuilder::new().description(*description);
                let response = response.content("application/problem+json", problem).build();
                components.responses.insert((*name).to_owned(), response.into());
            }
            for item in document.paths.paths.values_mut() {
                let posts = item.post.iter_mut().map(|operation| (operation, &BY_POST[..]));
                let others =
                    [&mut item.get, &mut item.delete].into_iter().flatten().map(|operation| (operation, &[][..]));
                for (operation, more) in posts.chain(others).filter(|(operation, _)| operation.security.is_some()) {
                    for (status, name, _) in BY_ALL.iter().chain(more) {
                        let refusal = || Ref::from_response_name(*name).into();
                        operation.responses.responses.entry(status.to_string()).or_insert_with(refusal);
                    }
                }
            }
        }
    }

    /// The description as the code has it, pretty JSON.
    ///
    /// # Errors
    /// If it cannot be serialised, which a test rules out.
    pub(super) fn document() -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string_pretty(&Description::openapi())?;
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::DOCUMENT;
    use super::generated::document;

    #[test]
    fn every_route_with_a_caller_tells_how_it_may_refuse() {
        let document: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
        let mut seen = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if operation["security"].is_null() {
                    continue;
                }
                seen += 1;
                let more: &[&str] = if method == "post" { &["408", "413", "415", "422"] } else { &[] };
                for status in ["400", "401", "403", "429", "500", "503"].iter().chain(more) {
                    let response = &operation["responses"][status];
                    let name = response["$ref"].as_str().map(|name| name.trim_start_matches("#/components/responses/"));
                    let response = name.map_or(response, |name| &document["components"]["responses"][name]);
                    assert!(response["content"].is_object(), "{method} {path} {status}: {response}");
                }
            }
        }
        assert!(seen >= 13, "{seen}");
    }

    /// `UPDATE=1 cargo test -p mote openapi` writes the document anew.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a switch for the person who runs the test")]
    fn the_document_in_the_repository_is_what_the_code_says() {
        let generated = document().unwrap();
        if std::env::var_os("UPDATE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
            return std::fs::write(path, generated).unwrap();
        }
        assert!(generated == DOCUMENT, "docs/openapi.json is out of date: run `UPDATE=1 cargo test -p mote openapi`");
    }
}
