//! The API's description, OpenAPI 3.1: generated from the handlers, checked in as `docs/openapi.json`, served from there.
//!
//! The running service does not generate it: the checked-in bytes are part of the program and cost no memory until asked
//! for. A test holds the two equal.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod events;

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
    use serde_json::Value;
    use utoipa::openapi::Ref;
    use utoipa::openapi::content::Content;
    use utoipa::openapi::response::ResponseBuilder;
    use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
    use utoipa::{Modify, OpenApi};

    use super::super::{again, dto, events, health, journal, problem, run, sessions, tasks, token, tools, ws};

    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "Mote agent service",
            description = "One process is one agent. Errors are problem details (RFC 9457) with a stable `code`: docs/errors.md.",
            license(name = "Apache-2.0", identifier = "Apache-2.0"),
        ),
        paths(
            run::run, tasks::submit, tasks::list, tasks::get, tasks::erase, events::stream, journal::page, ws::socket,
            token::issue, tasks::cancel, tasks::input, tasks::signal, again::resume, again::rerun, sessions::list,
            sessions::get, sessions::erase, tools::list, health::health, health::ready, health::metrics, super::serve,
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
            let token = ApiKeyValue::with_description(
                "token",
                "A token of `POST /tasks/{id}/stream-token`, for this task alone.",
            );
            components.add_security_scheme("stream_token", SecurityScheme::ApiKey(ApiKey::Query(token)));
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
        (415, "UnsupportedMediaType", "The body must be application/json, in UTF-8, and in no content encoding."),
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
        let mut document = serde_json::to_value(Description::openapi())?;
        super::events::name_kinds(&mut document);
        super::bounds::state(&mut document);
        let mut text = serde_json::to_string_pretty(&sorted(document))?;
        text.push('\n');
        Ok(text)
    }

    /// Objects by their keys, so that the document does not depend on how JSON objects are kept in memory.
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let ordered: std::collections::BTreeMap<String, Value> = map.into_iter().collect();
                Value::Object(ordered.into_iter().map(|(key, value)| (key, sorted(value))).collect())
            }
            Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
            other => other,
        }
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
                assert!(
                    operation["security"].as_array().unwrap().iter().all(|one| {
                        one.as_object().unwrap().values().all(|scopes| scopes.as_array().unwrap().len() == 1)
                    }),
                    "{method} {path} names the scope that it needs"
                );
                let more: &[&str] = if method == "post" { &["408", "413", "415", "422"] } else { &[] };
                for status in ["400", "401", "403", "429", "500", "503"].iter().chain(more) {
                    let response = &operation["responses"][status];
                    let name = response["$ref"].as_str().map(|name| name.trim_start_matches("#/components/responses/"));
                    let response = name.map_or(response, |name| &document["components"]["responses"][name]);
                    assert!(response["content"].is_object(), "{method} {path} {status}: {response}");
                }
            }
        }
        assert!(seen >= 17, "{seen}");
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let described = paths.iter().flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        });
        let mut described: Vec<(String, String)> = described.collect();
        let listed = super::super::ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned()));
        let mut listed: Vec<(String, String)> = listed.collect();
        described.sort();
        listed.sort();
        assert_eq!(described, listed);
    }

    #[test]
    fn every_parameter_and_every_field_of_a_body_has_its_bounds() {
        let document: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
        let bounded = |schema: &serde_json::Value| {
            let text = schema.to_string();
            ["maxLength", "pattern", "maximum", "enum", "format", "\"boolean\"", "$ref", "maxProperties", "maxItems"]
                .iter()
                .any(|word| text.contains(word))
        };
        // What any text may be: a filter that finds nothing, an id that does not exist.
        let free = ["id", "user", "session", "tenant", "context", "content"];
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap();
                    assert!(free.contains(&name) || bounded(&parameter["schema"]), "{path}: {parameter}");
                }
            }
        }
        for body in ["RunRequest", "BudgetRequest", "InputRequest", "InputMessage"] {
            let schema = &document["components"]["schemas"][body];
            assert_eq!(schema["additionalProperties"], false, "{body}");
            for (name, field) in schema["properties"].as_object().unwrap() {
                assert!(["context", "content"].contains(&name.as_str()) || bounded(field), "{body}.{name}: {field}");
            }
        }
        let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
        assert_eq!(codes.len(), super::super::Code::ALL.len());
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
