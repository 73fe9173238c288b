//! What the types cannot say of the API: how long, how many, which form. Each bound comes from the constant that enforces it.
//!
//! It describes; nothing here refuses a request.

use serde_json::{Value, json};

use super::super::problem::{Code, TaskCode};
use crate::limits;
use crate::tools::builtin::SIGNAL_NAME_PATTERN;

/// No control character (Unicode's category Cc).
const NAME_PATTERN: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";
/// A label's key also has no `=`.
const KEY_PATTERN: &str = r"^[^=\u0000-\u001f\u007f-\u009f]+$";
/// Whole numbers, or to the millisecond; more forms are read, these are those to write.
const DURATION_PATTERN: &str = r"^([1-9][0-9]{0,8}(ms|s|m|h|d|w)|[1-9][0-9]{0,8}\.[0-9]{1,3}(s|m|h|d|w))$";
/// More than blanks.
const SAYS_SOMETHING: &str = r"\S";

/// Enters every bound.
pub(super) fn state(document: &mut Value) {
    bodies(&mut document["components"]["schemas"]);
    answers(document);
    streams(document);
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (path, item) in paths {
        for (_, operation) in item.as_object_mut().into_iter().flatten() {
            let erases = operation["operationId"] == "erase_session";
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap_or_default().to_owned();
                let schema = &mut parameter["schema"];
                // A parameter that is left out is left out; it has no null.
                if let Some(kinds) = schema.get_mut("type").and_then(Value::as_array_mut) {
                    kinds.retain(|kind| kind != "null");
                    let only = kinds.first().cloned().filter(|_| kinds.len() == 1);
                    if let Some(only) = only {
                        schema["type"] = only;
                    }
                }
                merge(schema, parameter_bounds(path, &name, erases));
            }
        }
    }
}

fn name() -> Value {
    json!({"minLength": 1, "maxLength": limits::NAME_CHARS_MAX, "pattern": NAME_PATTERN})
}

fn parameter_bounds(path: &str, name_of: &str, erases: bool) -> Value {
    match name_of {
        "limit" => json!({"minimum": 1, "maximum": limits::PAGE_MAX, "default": 50}),
        "after" | "Last-Event-ID" => json!({"minimum": 0, "maximum": i64::MAX}),
        "cursor" if path == "/sessions" => json!({"pattern": "^([0-9a-f]{2})+$"}),
        "cursor" => json!({"pattern": "^[0-9]{1,18}$"}),
        "label" => json!({"maxItems": limits::LABELS_MAX, "items": {"type": "string", "pattern": "^[^=]*="}}),
        "created_after" | "created_before" => json!({"format": "date-time"}),
        "token" => json!({"maxLength": limits::STREAM_TOKEN_BYTES_MAX}),
        "Idempotency-Key" => json!({
            "minLength": 1, "maxLength": limits::IDEMPOTENCY_KEY_BYTES_MAX,
            "pattern": r#"^([!#-+\--:<-\[\]-~]+|"[ !#-\[\]-~]+")$"#,
        }),
        "name" => json!({"pattern": SIGNAL_NAME_PATTERN}),
        "id" if erases => name(),
        "id" => json!({"minLength": 1}),
        _ => json!({}),
    }
}

fn bodies(schemas: &mut Value) {
    let run = &mut schemas["RunRequest"]["properties"];
    for field in ["session", "tenant", "user"] {
        merge(&mut run[field], name());
    }
    for field in ["active", "expires"] {
        merge(&mut run[field], json!({"pattern": DURATION_PATTERN}));
    }
    let mut value = name();
    merge(&mut value, json!({"type": ["string", "null"]}));
    let labels = json!({
        "maxProperties": limits::LABELS_MAX,
        "propertyNames": {"minLength": 1, "maxLength": limits::NAME_CHARS_MAX, "pattern": KEY_PATTERN},
        "additionalProperties": value,
    });
    merge(&mut run["labels"], labels);
    let budget = &mut schemas["BudgetRequest"]["properties"];
    merge(&mut budget["usd"], json!({"minimum": limits::BUDGET_USD_MIN, "maximum": limits::BUDGET_USD_MAX}));
    merge(&mut budget["tokens"], json!({"minimum": 1, "maximum": limits::BUDGET_TOKENS_MAX}));
    for form in schemas["Input"]["oneOf"].as_array_mut().into_iter().flatten() {
        let bound = match form["type"].as_str() {
            Some("string") => json!({"pattern": SAYS_SOMETHING}),
            _ => json!({"minItems": 1, "maxItems": limits::INPUT_MESSAGES_MAX}),
        };
        merge(form, bound);
    }
    merge(&mut schemas["InputMessage"]["properties"]["content"], json!({"pattern": SAYS_SOMETHING}));
    let input = &mut schemas["InputRequest"];
    for field in ["call", "user"] {
        merge(&mut input["properties"][field], name());
    }
    let given = json!([
        {"required": ["approve"], "properties": {"approve": {"type": "boolean"}}},
        {"required": ["content"], "properties": {"content": {"not": {"type": "null"}}}},
    ]);
    merge(input, json!({"anyOf": given}));
}

/// A stream is described by its frames: the message is the JSON text of one frame's `data`.
fn streams(document: &mut Value) {
    let text = |description: &str| json!({"type": "string", "description": description});
    let data = json!({
        "type": "string", "description": "The message, JSON on one line.",
        "contentMediaType": "application/json", "contentSchema": {"$ref": "#/components/schemas/StreamMessage"},
    });
    document["components"]["schemas"]["StreamFrame"] = json!({
        "type": "object", "description": "One frame of Server-Sent Events.", "required": ["event", "data"],
        "properties": {
            "id": text("Position of a journal event; absent on every other message."),
            "event": text("The journal event's kind, or the message's type."),
            "data": data,
        },
    });
    for (_, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (_, operation) in item.as_object_mut().into_iter().flatten() {
            let stream = operation.pointer_mut("/responses/200/content/text~1event-stream/schema");
            if let Some(schema) = stream {
                *schema = json!({"$ref": "#/components/schemas/StreamFrame"});
            }
        }
    }
}

/// What is known of answers: codes, and which of them comes with which status.
fn answers(document: &mut Value) {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let kinds: Vec<String> = codes.iter().map(|code| format!("urn:mote:error:{code}")).collect();
    let problem = &mut document["components"]["schemas"]["Problem"]["properties"];
    merge(&mut problem["code"], json!({"enum": codes}));
    merge(&mut problem["type"], json!({"enum": kinds}));
    let known: Vec<&str> = TaskCode::ALL.iter().map(|code| code.as_str()).collect();
    let task_code = &mut document["components"]["schemas"]["TaskError"]["properties"]["code"];
    merge(task_code, json!({"examples": known}));
    for (name, response) in document["components"]["responses"].as_object_mut().into_iter().flatten() {
        let status = match name.as_str() {
            "BadRequest" => 400,
            "Unauthenticated" => 401,
            "Forbidden" => 403,
            "BodyTimeout" => 408,
            "BodyTooLarge" => 413,
            "UnsupportedMediaType" => 415,
            "NotAcceptable" => 422,
            "TooManyRequests" => 429,
            "Internal" => 500,
            _ => 503,
        };
        let of_status = Code::ALL.iter().filter(|code| code.status().as_u16() == status);
        let codes: Vec<String> = of_status.map(|code| format!("`{}`", code.as_str())).collect();
        let text = response["description"].as_str().unwrap_or_default();
        response["description"] = json!(format!("{text} Codes: {}.", codes.join(", ")));
    }
}

fn merge(into: &mut Value, more: Value) {
    let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) else { return };
    into.extend(more);
}
