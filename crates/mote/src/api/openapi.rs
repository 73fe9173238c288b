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
    use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
    use utoipa::{Modify, OpenApi};

    use super::super::{dto, events, health, problem, run, sessions, tasks, tools, ws};

    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "Mote agent service",
            description = "One process is one agent. Errors are problem details (RFC 9457) with a stable `code`: docs/errors.md.",
            license(name = "Apache-2.0", identifier = "Apache-2.0"),
        ),
        paths(
            run::run, tasks::submit, tasks::list, tasks::get, events::stream, ws::socket, tasks::cancel, tasks::input,
            tasks::signal, tasks::rerun, sessions::get, sessions::erase, tools::list, health::health, health::ready,
            health::metrics, super::serve,
        ),
        components(schemas(problem::Body, events::StreamMessage, dto::TaskBody)),
        tags(
            (name = "tasks", description = "Runs of the agent."),
            (name = "sessions", description = "State across tasks."),
            (name = "tools", description = "What the agent may do."),
            (name = "operation", description = "Probes and metrics; open to whoever reaches the port."),
        ),
        modifiers(&Security),
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
