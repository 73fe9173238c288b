//! The description put together: operations, and the schemas of the types that they name.
//!
//! What each operation is stands in `operations`.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Who may ask.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// Anybody who reaches the port.
    Open,
    /// Who holds an API key.
    Key,
    /// Who holds an API key, or the sandbox's own token.
    Token,
}

/// An operation that is being described.
pub(super) struct Operation<'a> {
    document: &'a mut Document,
    method: &'static str,
    path: &'static str,
    value: Value,
}

/// What is described so far.
#[derive(Default)]
pub(super) struct Document {
    paths: Map<String, Value>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Document {
    /// Begins an operation. Parameters of the path are taken from it.
    pub(super) fn operation(
        &mut self,
        access: Access,
        method: &'static str,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Operation<'_> {
        let parameters: Vec<Value> = path
            .split('{')
            .skip(1)
            .filter_map(|part| part.split('}').next())
            .map(|name| {
                let kind = if matches!(name, "pid" | "port") { "integer" } else { "string" };
                json!({ "name": name, "in": "path", "required": true, "schema": { "type": kind } })
            })
            .collect();
        let tag = match path.split('/').nth(2) {
            Some(tag) if path.starts_with("/v1/") => tag,
            _ => "daemon",
        };
        let failure = self.reference::<mote_sandbox_api::error::Failure>();
        let mut value = json!({
            "operationId": id,
            "summary": summary,
            "tags": [tag],
            "parameters": parameters,
            "responses": { "default": {
                "description": "A failure; its code says which (docs/sandbox-errors.md).",
                "content": { "application/json": { "schema": failure } },
            } },
        });
        value["security"] = match access {
            Access::Open => json!([]),
            Access::Key => json!([{ "key": [] }, { "bearer": [] }]),
            Access::Token => json!([{ "key": [] }, { "bearer": [] }, { "access_token": [] }]),
        };
        Operation { document: self, method, path, value }
    }

    fn reference<T: ToSchema>(&mut self) -> Value {
        let name = T::name().into_owned();
        if !self.schemas.iter().any(|(known, _)| *known == name) {
            self.schemas.push((name.clone(), T::schema()));
            T::schemas(&mut self.schemas);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

impl Operation<'_> {
    fn parameter(mut self, parameter: Value) -> Self {
        if let Some(parameters) = self.value["parameters"].as_array_mut() {
            parameters.push(parameter);
        }
        self
    }

    /// A parameter of the query that is a text.
    pub(super) fn query(self, name: &str, description: &str) -> Self {
        self.parameter(
            json!({ "name": name, "in": "query", "description": description, "schema": { "type": "string" } }),
        )
    }

    /// The fields of a type as parameters of the query.
    pub(super) fn queries<T: PartialSchema>(mut self) -> Self {
        let schema = serde_json::to_value(T::schema()).unwrap();
        for (name, schema) in schema["properties"].as_object().unwrap() {
            let required = schema_requires(&T::schema(), name);
            self = self.parameter(json!({ "name": name, "in": "query", "required": required, "schema": schema }));
        }
        self
    }

    /// A repetition with the same key is answered as the first was.
    pub(super) fn idempotent(self) -> Self {
        self.parameter(json!({
            "name": "Idempotency-Key", "in": "header", "schema": { "type": "string" },
            "description": "A repetition with the same key and body is answered as the first was.",
        }))
    }

    /// A JSON body.
    pub(super) fn body<T: ToSchema>(mut self) -> Self {
        let schema = self.document.reference::<T>();
        self.value["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
        self
    }

    /// A body of another type.
    pub(super) fn bytes(mut self, media_type: &str) -> Self {
        self.value["requestBody"] = json!({ "content": { media_type: {} } });
        self
    }

    /// What succeeds answers this, as JSON.
    pub(super) fn answers<T: ToSchema>(self, status: u16) {
        let schema = self.document.reference::<T>();
        self.put(status, json!({ "application/json": { "schema": schema } }));
    }

    /// What succeeds answers a page of these.
    pub(super) fn answers_page<T: ToSchema>(self, status: u16) {
        let items = self.document.reference::<T>();
        let next = json!({ "type": "string", "description": "Cursor of the next page; absent on the last." });
        let properties = json!({ "items": { "type": "array", "items": items }, "next": next });
        let schema = json!({ "type": "object", "properties": properties, "required": ["items"] });
        self.put(status, json!({ "application/json": { "schema": schema } }));
    }

    /// What succeeds answers a list of these, as JSON.
    pub(super) fn answers_list<T: ToSchema>(self, status: u16) {
        let items = self.document.reference::<T>();
        self.put(status, json!({ "application/json": { "schema": { "type": "array", "items": items } } }));
    }

    /// What succeeds answers an object whose fields are texts or numbers.
    pub(super) fn answers_fields(self, status: u16, fields: &[&str]) {
        let properties: Map<String, Value> = fields.iter().map(|field| ((*field).to_owned(), json!({}))).collect();
        let schema = json!({ "type": "object", "properties": properties });
        self.put(status, json!({ "application/json": { "schema": schema } }));
    }

    /// What succeeds answers another type.
    pub(super) fn answers_as(self, status: u16, media_type: &str) {
        self.put(status, json!({ media_type: {} }));
    }

    /// What succeeds has no body.
    pub(super) fn answers_nothing(self, status: u16) {
        self.put(status, Value::Null);
    }

    fn put(mut self, status: u16, content: Value) {
        let mut response = json!({ "description": self.value["summary"] });
        if !content.is_null() {
            response["content"] = content;
        }
        self.value["responses"][status.to_string()] = response;
        let at = self.document.paths.entry(self.path).or_insert_with(|| json!({}));
        assert!(at.get(self.method).is_none(), "{} {} is described twice", self.method, self.path);
        at[self.method] = self.value;
    }
}

fn schema_requires(schema: &RefOr<Schema>, name: &str) -> bool {
    let schema = serde_json::to_value(schema).unwrap();
    schema["required"].as_array().is_some_and(|required| required.iter().any(|field| field == name))
}

/// The description as the code has it, pretty JSON.
pub(super) fn document() -> String {
    let mut document = Document::default();
    super::operations::all(&mut document);
    let Document { paths, schemas } = document;
    let schemas: Map<String, Value> =
        schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap())).collect();
    let mut value = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Mote sandbox runtime",
            "description": "Sandboxes over HTTP. Failures have one shape with a stable code: docs/sandbox-errors.md. An unknown \
                            field is an error that names it.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
                "bearer": { "type": "http", "scheme": "bearer", "description": "An API key." },
                "access_token": {
                    "type": "apiKey", "in": "header", "name": "X-Access-Token",
                    "description": "The token of the sandbox in the path.",
                },
            },
        },
    });
    // The published file has its keys in order: a diff then shows what changed and nothing else.
    value.sort_all_objects();
    // Links of the code's own documentation lead nowhere here.
    let mut text = serde_json::to_string_pretty(&value).unwrap().replace("[`", "`").replace("`]", "`");
    text.push('\n');
    text
}
