//! Requests and models for this module's tests.

use std::time::Duration;

use serde_json::json;

use super::{Request, ToolDefinition};
use crate::message::{Message, Part, Role};
use crate::model::config;

/// A request of one message, with one tool.
pub(crate) fn request(input: &str) -> Request {
    let tool = ToolDefinition {
        name: "get".into(),
        description: "Gets a ticket.".into(),
        input_schema: json!({"type": "object"}),
    };
    Request {
        system: "Be brief.".into(),
        messages: vec![Message::text(Role::User, input)],
        tools: [tool].into(),
        output_schema: None,
        output_tokens_max: 512,
        task: "task_1".into(),
        step: 1,
        attempt: 1,
        endpoint: 0,
        traceparent: None,
    }
}

/// A request with a turn of calls behind it: one good, one whose arguments are no JSON.
pub(crate) fn transcript() -> Request {
    let call = |id: &str, arguments: &str| Part::Call {
        id: id.into(),
        name: "get".into(),
        arguments: arguments.into(),
        opaque: None,
    };
    let result = |id: &str, content: &str, is_error| Part::Result { id: id.into(), content: content.into(), is_error };
    let mut request = request("Sort T-1");
    request.messages.extend([
        Message {
            role: Role::Assistant,
            parts: vec![
                Part::Text { text: "Looking".into() },
                call("functions.get:0", "{\"id\":\"T-1\"}"),
                call("b", "{oops"),
            ],
        },
        Message {
            role: Role::Tool,
            parts: vec![result("functions.get:0", "{\"open\":true}", false), result("b", "not JSON", true)],
        },
        Message::text(Role::User, "Hurry"),
    ]);
    request
}

/// A configured model.
pub(crate) fn configured(provider: config::Provider, base_url: &str) -> config::Model {
    config::Model {
        provider,
        name: "test-model".into(),
        key: None,
        base_url: base_url.into(),
        price: config::Price::default(),
        is_priced: true,
        output_tokens_max: 1_024,
        timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(5),
        temperature: None,
        cache: false,
        output_limit_field: config::OutputLimitField::Auto,
    }
}
