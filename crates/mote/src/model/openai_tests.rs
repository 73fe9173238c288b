//! Requests in OpenAI's format, held against what each server takes.

use super::*;
use crate::model::test_support::{configured, request, transcript};

fn provider(base_url: &str) -> OpenAi {
    built(&configured(crate::model::config::Provider::OpenAi, base_url))
}

fn built(model: &crate::model::config::Model) -> OpenAi {
    let clock = std::sync::Arc::new(crate::clock::System);
    OpenAi::new(model, None, Client::new(crate::tls::client_config(None).unwrap()), clock).unwrap()
}

#[test]
fn a_transcript_becomes_messages() {
    let body = provider("http://127.0.0.1:9/v1").body(&transcript());
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "get", "arguments": arguments}});
    let expected = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Sort T-1"},
        {"role": "assistant", "content": "Looking",
         "tool_calls": [call("functions.get:0", "{\"id\":\"T-1\"}"), call("b", "{\"invalid_arguments\":\"{oops\"}")]},
        {"role": "tool", "tool_call_id": "functions.get:0", "content": "{\"open\":true}"},
        {"role": "tool", "tool_call_id": "b", "content": "[failed] not JSON"},
        {"role": "user", "content": "Hurry"},
    ]);
    assert_eq!(body["messages"], expected);
    assert_eq!(body["tools"][0]["function"]["parameters"], json!({"type": "object", "properties": {}}));
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert_eq!(body["max_tokens"], 512);
}

#[test]
fn what_only_openai_knows_is_sent_only_there() {
    let mut asked = transcript();
    let combined = json!({"type": "object", "anyOf": [{"required": ["a"]}]});
    asked.output_schema = Some(combined.into());
    let own = provider("https://api.openai.com/v1").body(&asked);
    assert!(own.get("response_format").is_none(), "its top may not be a combination");
    assert!(own["messages"][0]["content"].as_str().unwrap().contains("anyOf"));
    asked.output_schema = Some(json!({"type": "object"}).into());
    let own = provider("https://api.openai.com/v1").body(&asked);
    assert_eq!((&own["max_completion_tokens"], own.get("max_tokens")), (&json!(512), None));
    assert_eq!(own["response_format"]["json_schema"]["strict"], false);
    let compatible = provider("http://localhost:11434/v1").body(&asked);
    assert!(compatible.get("response_format").is_none(), "a grammar would keep the model from calling tools");
    assert!(compatible["messages"][0]["content"].as_str().unwrap().contains("JSON Schema"));
    asked.tools = [].into();
    let compatible = provider("http://localhost:11434/v1").body(&asked);
    assert_eq!(compatible["response_format"]["type"], "json_schema");
}

#[test]
fn schemas_keep_the_authors_order() {
    let written = r#"{"type":"object","properties":{"zeta":{"type":"string"},"alpha":{"type":"string"}}}"#;
    let mut asked = transcript();
    asked.output_schema = Some(serde_json::from_str::<Value>(written).unwrap().into());
    let tool = ToolDefinition { input_schema: serde_json::from_str(written).unwrap(), ..asked.tools[0].clone() };
    asked.tools = [tool].into();
    let sent = provider("https://api.openai.com/v1").body(&asked);
    assert_eq!(sent["tools"][0]["function"]["parameters"].to_string(), written);
    assert_eq!(sent["response_format"]["json_schema"]["schema"].to_string(), written);
    let told = provider("http://127.0.0.1:9/v1").body(&asked);
    assert!(told["messages"][0]["content"].as_str().unwrap().ends_with(written));
}

#[test]
fn a_strict_schema_is_sent_as_strict() {
    let mut asked = request("x");
    asked.output_schema = Some(
        json!({"type": "object", "additionalProperties": false, "required": ["a"],
        "properties": {"a": {"type": "string"}}})
        .into(),
    );
    let body = provider("https://api.openai.com/v1").body(&asked);
    assert_eq!(body["response_format"]["json_schema"]["strict"], true);
}

fn call(id: &str, opaque: Option<Value>) -> Part {
    Part::Call { id: id.into(), name: "get".into(), arguments: "{}".into(), opaque }
}

fn thought(opaque: Value) -> Message {
    let thought = Part::Reasoning { text: "hm".into(), opaque: Some(opaque) };
    Message { role: Role::Assistant, parts: vec![thought, call("a", None)] }
}

fn result(id: &str) -> Message {
    let result = Part::Result { id: id.into(), content: "1".into(), is_error: false };
    Message { role: Role::Tool, parts: vec![result] }
}

#[test]
fn reasoning_goes_back_in_its_field_across_a_repair() {
    let here = provider("http://127.0.0.1:9/v1");
    let mut asked = request("x");
    let wrong = Message {
        role: Role::Assistant,
        parts: vec![
            Part::Reasoning { text: "so".into(), opaque: Some(here.opaque("field", "reasoning")) },
            Part::Text { text: "no JSON".into() },
        ],
    };
    asked.messages.extend([thought(here.opaque("field", "reasoning_content")), result("a"), wrong]);
    asked.messages.push(Message::text(Role::User, "Your answer does not satisfy the output schema."));
    let sent = here.body(&asked);
    assert_eq!(sent["messages"][2]["reasoning_content"], "hm");
    assert_eq!(sent["messages"][2]["content"], Value::Null);
    assert_eq!(sent["messages"][4]["reasoning"], "so");
    let elsewhere = provider("http://127.0.0.1:9/other/v1").body(&asked).to_string();
    assert!(!elsewhere.contains("hm") && !elsewhere.contains("reasoning"), "the same model at another endpoint");
    let mut foreign = request("x");
    foreign.messages.push(thought(json!({"provider": KIND, "model": "another", "field": "reasoning"})));
    assert!(!here.body(&foreign).to_string().contains("hm"));
    let mut earlier = request("x");
    earlier.messages.push(thought(json!({"provider": KIND, "model": "test-model", "field": "reasoning"})));
    assert!(here.body(&earlier).to_string().contains("hm"), "journals of before named no endpoint");
}

fn assembled(parts: Vec<Part>, details: Vec<Value>) -> Assembled {
    Assembled { parts, finish: crate::model::Finish::ToolCalls, usage: None, details }
}

#[test]
fn a_calls_signature_goes_back_to_whom_it_came_from() {
    let here = provider("http://127.0.0.1:9/v1");
    let extra = json!({"google": {"thought_signature": "SIG123"}});
    let mut reply = assembled(vec![call("a", Some(extra.clone())), call("b", None)], Vec::new());
    here.sign(&mut reply);
    let mut asked = request("x");
    asked.messages.push(Message { role: Role::Assistant, parts: reply.parts });
    let sent = here.body(&asked);
    assert_eq!(sent["messages"][2]["tool_calls"][0]["extra_content"], extra);
    assert!(sent["messages"][2]["tool_calls"][1].get("extra_content").is_none());
    let other_model = crate::model::config::Model {
        name: "other".into(),
        ..configured(crate::model::config::Provider::OpenAi, "http://127.0.0.1:9/v1")
    };
    for other in [built(&other_model), provider("http://127.0.0.1:10/v1")] {
        assert!(!other.body(&asked).to_string().contains("SIG123"));
    }
}

#[test]
fn google_gets_its_word_for_no_signature() {
    let named = |name: &str| {
        let model = configured(
            crate::model::config::Provider::OpenAi,
            "https://generativelanguage.googleapis.com/v1beta/openai",
        );
        built(&crate::model::config::Model { name: name.into(), ..model })
    };
    let mut asked = request("x");
    asked.messages.push(Message { role: Role::Assistant, parts: vec![call("a", None), call("b", None)] });
    let calls = named("gemini-3-pro-preview").body(&asked)["messages"][2]["tool_calls"].clone();
    assert_eq!(calls[0]["extra_content"]["google"]["thought_signature"], GOOGLE_UNSIGNED);
    assert!(calls[1].get("extra_content").is_none(), "the first of a turn carries it");
    assert!(!named("gemini-2.5-flash").body(&asked).to_string().contains("extra_content"));
}

#[test]
fn reasoning_details_go_back_whole_and_alone() {
    let here = provider("http://127.0.0.1:9/v1");
    let thought = Part::Reasoning { text: "hm".into(), opaque: Some(here.opaque("field", "reasoning")) };
    let details = vec![json!({"type": "reasoning.encrypted", "data": "xyz", "id": "r1", "index": 0})];
    let mut reply = assembled(vec![thought, call("a", None)], details.clone());
    here.sign(&mut reply);
    let mut asked = request("x");
    asked.messages.push(Message { role: Role::Assistant, parts: reply.parts });
    let sent = here.body(&asked)["messages"][2].clone();
    assert_eq!((&sent["reasoning_details"], sent.get("reasoning")), (&json!(details), None));
    assert!(!provider("http://127.0.0.1:10/v1").body(&asked).to_string().contains("xyz"));
}

#[test]
fn moonshot_gets_a_call_with_its_reasoning_even_where_there_is_none() {
    let mut asked = request("x");
    asked.messages.extend([Message { role: Role::Assistant, parts: vec![call("a", None)] }, result("a")]);
    let sent = provider("https://api.moonshot.ai/v1").body(&asked);
    assert_eq!(sent["messages"][2]["reasoning_content"], "");
    assert!(!provider("https://api.groq.com/openai/v1").body(&asked).to_string().contains("reasoning_content"));
}

#[test]
fn mistral_gets_ids_of_its_own_form() {
    let named = |name: &str, base: &str| {
        built(&crate::model::config::Model {
            name: name.into(),
            ..configured(crate::model::config::Provider::OpenAi, base)
        })
        .ids
    };
    assert_eq!(named("x", "https://api.mistral.ai/v1"), Ids::Nine);
    assert_eq!(named("mistralai/Devstral-Small", "https://openrouter.ai/api/v1"), Ids::Nine);
    assert_eq!(named("codestral-latest", "http://h/v1"), Ids::Nine);
    assert_eq!(named("gpt-5", "https://openrouter.ai/api/v1"), Ids::Printable);
}

#[test]
fn azure_takes_its_own_header_and_keeps_its_query() {
    let azure = "https://x.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21";
    let of = |base_url: &str, key: &str| {
        let clock = std::sync::Arc::new(crate::clock::System);
        let client = Client::new(crate::tls::client_config(None).unwrap());
        let model = configured(crate::model::config::Provider::OpenAi, base_url);
        OpenAi::new(&model, Some(SecretValue::new(key)), client, clock).unwrap()
    };
    let provider = of(azure, "0123456789abcdef");
    assert_eq!(
        provider.endpoint.uri,
        "https://x.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    );
    let headers = &provider.endpoint.headers;
    assert_eq!((&headers["api-key"], headers.get("authorization")), (&"0123456789abcdef".parse().unwrap(), None));
    assert!(headers["api-key"].is_sensitive());
    let headers = of(azure, "eyJa.b.c").endpoint.headers;
    assert_eq!((headers.get("api-key"), &headers["authorization"]), (None, &"Bearer eyJa.b.c".parse().unwrap()));
    let headers = of("http://127.0.0.1:9/v1/?a=b", "0123456789abcdef").endpoint.headers;
    assert_eq!((headers.get("api-key"), headers.contains_key("authorization")), (None, true));
    for base in ["http://h/v1/?a=b", "http://h/v1/chat/completions?a=b", "http://h/v1/chat/completions/?a=b"] {
        assert_eq!(of(base, "k").endpoint.uri, "http://h/v1/chat/completions?a=b", "{base}");
    }
}
