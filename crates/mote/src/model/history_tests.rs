//! What is sent as history, held against the providers' own rules, whatever a model wrote.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::Request;
use crate::model::anthropic::Anthropic;
use crate::model::config;
use crate::model::openai::OpenAi;
use crate::model::test_support::{configured, request};
use crate::model::transport::Client;

fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::Call { id: id.into(), name: name.into(), arguments: arguments.into(), opaque: None }
}

fn result(id: &str, content: &str) -> Part {
    Part::Result { id: id.into(), content: content.into(), is_error: false }
}

fn assistant(parts: Vec<Part>) -> Message {
    Message { role: Role::Assistant, parts }
}

fn tool(parts: Vec<Part>) -> Message {
    Message { role: Role::Tool, parts }
}

/// The calls' ids and, in order, the ids and contents of the results.
fn pairs(messages: &[Message]) -> (Vec<String>, Vec<(String, String)>) {
    let parts = || messages.iter().flat_map(|message| &message.parts);
    let calls = parts().filter_map(|part| match part {
        Part::Call { id, .. } => Some(id.clone()),
        _ => None,
    });
    let results = parts().filter_map(|part| match part {
        Part::Result { id, content, .. } => Some((id.clone(), content.clone())),
        _ => None,
    });
    (calls.collect(), results.collect())
}

#[test]
fn one_id_for_several_calls_becomes_several() {
    let step = |content: &str| {
        [
            assistant(vec![call("call_0", "get", "{}"), call("call_0", "get", "{}")]),
            tool(vec![result("call_0", content), result("call_0", "other")]),
        ]
    };
    let messages: Vec<Message> = [step("first"), step("second")].concat();
    let (calls, results) = pairs(&presentable(&messages, Ids::Printable));
    assert_eq!(calls.iter().collect::<HashSet<_>>().len(), 4, "{calls:?}");
    assert_eq!(calls[0], "call_0", "what can stay, stays");
    let contents = ["first", "other", "second", "other"];
    assert_eq!(results, calls.iter().cloned().zip(contents.map(str::to_owned)).collect::<Vec<_>>());
    let longer = [&messages[..], &step("third")].concat();
    assert_eq!(pairs(&presentable(&longer, Ids::Printable)).0[..4], calls, "what was sent once is sent so again");
}

#[test]
fn ids_keep_apart_what_was_apart() {
    let long = "x".repeat(60);
    let ids = ["a.b", "a:b", "a_b", "", "é", &long, &format!("{long}y")];
    for rule in [Ids::Printable, Ids::Word, Ids::Nine] {
        let messages = [assistant(ids.iter().map(|id| call(id, "get", "{}")).collect())];
        let (calls, _) = pairs(&presentable(&messages, rule));
        assert_eq!(calls.iter().collect::<HashSet<_>>().len(), ids.len(), "{rule:?}: {calls:?}");
    }
    let kept = [assistant(vec![call("functions.get:0", "get", "{}")])];
    assert_eq!(
        pairs(&presentable(&kept, Ids::Printable)).0,
        ["functions.get:0"],
        "some servers count on their own form"
    );
}

#[test]
fn every_call_has_its_result_and_every_result_its_call() {
    let messages = [
        tool(vec![result("lost", "an orphan")]),
        Message::text(Role::User, "go"),
        assistant(vec![call("a", "get", "{}"), call("b", "get", "{}")]),
        Message::text(Role::User, "hurry"),
        tool(vec![result("b", "two"), result("b", "two again")]),
    ];
    let sent = presentable(&messages, Ids::Word);
    let roles: Vec<Role> = sent.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::User]);
    let expected = [
        Part::Result { id: "a".into(), content: NO_RESULT.into(), is_error: true },
        Part::Result { id: "b".into(), content: "two".into(), is_error: false },
    ];
    assert_eq!(sent[2].parts, expected);
}

#[test]
fn names_become_legal() {
    let long = "n".repeat(200);
    for (name, expected) in [
        ("multi_tool_use.parallel", "multi_tool_use_parallel"),
        ("", NAMELESS),
        ("get ticket", "get_ticket"),
        ("日本", "__"),
        (long.as_str(), &long[..64]),
        ("get-Ticket_1", "get-Ticket_1"),
    ] {
        assert_eq!(legal_name(name), expected);
    }
}

#[test]
fn calls_without_an_id_get_one_that_is_new_in_the_conversation() {
    let step = |task: &str, step: u32| {
        let mut parts = vec![call("", "get", "{}"), call("same", "get", "{}"), call("same", "get", "{}")];
        identify(&mut parts, task, step);
        pairs(&[assistant(parts)]).0
    };
    let steps = [step("task_1", 1), step("task_1", 2), step("task_1", 3), step("task_2", 1)];
    let made: Vec<&String> = steps.iter().flat_map(|ids| [&ids[0], &ids[2]]).collect();
    assert_eq!(made.iter().collect::<HashSet<_>>().len(), made.len(), "{steps:?}");
    assert!(made.iter().all(|id| Ids::Nine.legal(id) == **id), "every server takes them: {made:?}");
    assert_eq!(step("task_1", 2), steps[1], "the same at every replay");
    assert_eq!(steps[0][1], "same");
}

#[test]
fn pieces_of_reasoning_details_are_put_together() {
    let mut details = Vec::new();
    let text =
        |text: &str| json!({"type": "reasoning.text", "index": 0, "format": "f", "text": text, "signature": null});
    append_details(&mut details, vec![text("I "), text("see")]);
    append_details(&mut details, vec![json!({"type": "reasoning.text", "index": 0, "text": "", "signature": "S"})]);
    append_details(&mut details, vec![json!({"type": "reasoning.encrypted", "index": 1, "data": "x"}), json!("odd")]);
    let expected = [
        json!({"type": "reasoning.text", "index": 0, "format": "f", "text": "I see", "signature": "S"}),
        json!({"type": "reasoning.encrypted", "index": 1, "data": "x"}),
        json!("odd"),
    ];
    assert_eq!(details, expected);
}

#[test]
fn neighbours_of_one_role_become_one_message_and_the_user_begins() {
    let (openai, mistral, _) = clients();
    let (user, said) = (|text| Message::text(Role::User, text), |text| Message::text(Role::Assistant, text));
    let silent = || assistant(vec![Part::Reasoning { text: "hm".into(), opaque: None }]);
    let roles = |body: &Value| {
        let messages = body["messages"].as_array().unwrap();
        let parts = messages.iter().skip(1).map(|message| (message["role"].clone(), message["content"].clone()));
        parts.map(|(role, content)| json!([role, content])).collect::<Vec<_>>()
    };
    for (messages, expected) in [
        (vec![user("context"), user("hi")], json!([["user", "context\n\nhi"]])),
        (vec![user("a"), silent(), user("b"), user("")], json!([["user", "a\n\nb"]])),
        (vec![said("one"), user("two")], json!([["user", BEGINNING], ["assistant", "one"], ["user", "two"]])),
        (
            vec![user("a"), said("b"), assistant(vec![call("123456789", "get", "{}")]), said("c"), said("d")],
            json!([
                ["user", "a"],
                ["assistant", "b"],
                ["tool", format!("[failed] {NO_RESULT}")],
                ["assistant", "c\n\nd"]
            ]),
        ),
    ] {
        for client in [&openai, &mistral] {
            let body = client.body(&Request { messages: messages.clone(), ..request("x") });
            assert_eq!(json!(roles(&body)), expected);
            assert_eq!(check_template(&body), Ok(()));
        }
    }
    let asked =
        Request { messages: vec![user("a"), assistant(vec![call("a", "get", "{}")]), user("b")], ..request("x") };
    assert_eq!(mistral.body(&asked)["messages"].as_array().unwrap().len(), 6, "no user's message right after results");
    assert_eq!(openai.body(&asked)["messages"].as_array().unwrap().len(), 5);
}

/// What the templates of many models refuse (Gemma, Mistral): "Conversation roles must alternate".
fn check_template(body: &Value) -> Result<(), String> {
    let messages = body["messages"].as_array().ok_or("no messages")?;
    let mut before = "assistant";
    for role in messages.iter().map(|message| message["role"].as_str().unwrap_or_default()) {
        let one_after_another = role == "tool" || role == "system";
        if before == "assistant" && role == "assistant" || role == before && !one_after_another {
            return Err(format!("{role} after {before}"));
        }
        before = if role == "system" { before } else { role };
    }
    Ok(())
}

fn clients() -> (OpenAi, OpenAi, Anthropic) {
    let client = || Client::new(crate::tls::client_config(None).unwrap());
    let clock = || Arc::new(crate::clock::System);
    let openai =
        |base: &str| OpenAi::new(&configured(config::Provider::OpenAi, base), None, client(), clock()).unwrap();
    let claude = configured(config::Provider::Anthropic, "http://127.0.0.1:9");
    let claude = Anthropic::new(&claude, None, client(), clock()).unwrap();
    (openai("https://api.openai.com/v1"), openai("https://api.mistral.ai/v1"), claude)
}

/// What OpenAI and strict servers of its format refuse in `messages`.
fn check_openai(body: &Value, is_id: fn(&str) -> bool) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut open: Vec<String> = Vec::new();
    for message in body["messages"].as_array().ok_or("no messages")? {
        let role = message["role"].as_str().unwrap_or_default();
        if role == "tool" {
            let id = message["tool_call_id"].as_str().ok_or("a result without an id")?;
            let at = open.iter().position(|other| other == id).ok_or_else(|| format!("an orphan: {id}"))?;
            open.remove(at);
            message["content"].as_str().ok_or("a result without content")?;
            continue;
        }
        if !open.is_empty() {
            return Err(format!("no results for {open:?}"));
        }
        let calls = message["tool_calls"].as_array();
        if calls.is_some_and(Vec::is_empty) {
            return Err("an empty list of calls".to_owned());
        }
        let content = message["content"].as_str().unwrap_or_default();
        if role == "assistant" && content.is_empty() && calls.is_none() {
            return Err("an assistant's message of nothing".to_owned());
        }
        for call in calls.into_iter().flatten() {
            let id = call["id"].as_str().filter(|id| is_id(id)).ok_or_else(|| format!("an id: {}", call["id"]))?;
            if !seen.insert(id.to_owned()) {
                return Err(format!("an id twice: {id}"));
            }
            open.push(id.to_owned());
            check_name(&call["function"]["name"])?;
            let arguments = call["function"]["arguments"].as_str().ok_or("arguments that are no text")?;
            let parsed: Value = serde_json::from_str(arguments).map_err(|error| error.to_string())?;
            parsed.as_object().ok_or("arguments that are no object")?;
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("no results for {open:?}")) }
}

fn check_name(name: &Value) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let fits = |name: &&str| (1..=64).contains(&name.len()) && name.chars().all(legal);
    name.as_str().filter(fits).map(|_| ()).ok_or_else(|| format!("a name: {name}"))
}

/// What Anthropic refuses in `messages`.
fn check_anthropic(body: &Value) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut open: Vec<String> = Vec::new();
    let mut before = "assistant";
    for message in body["messages"].as_array().ok_or("no messages")? {
        let role = message["role"].as_str().unwrap_or_default();
        if role == before {
            return Err(format!("two turns of {role}"));
        }
        before = if role == "user" { "user" } else { "assistant" };
        let blocks = message["content"].as_array().filter(|blocks| !blocks.is_empty()).ok_or("no content")?;
        let mut results_may_come = true;
        for block in blocks {
            let kind = block["type"].as_str().unwrap_or_default();
            match kind {
                "tool_result" => {
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    let at = open.iter().position(|other| other == id).ok_or_else(|| format!("an orphan: {id}"))?;
                    open.remove(at);
                    if role != "user" || !results_may_come {
                        return Err("a result behind other content".to_owned());
                    }
                }
                "tool_use" => {
                    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    let id = block["id"].as_str().filter(|id| !id.is_empty() && id.chars().all(legal));
                    let id = id.ok_or_else(|| format!("an id: {}", block["id"]))?;
                    if !seen.insert(id.to_owned()) {
                        return Err(format!("an id twice: {id}"));
                    }
                    open.push(id.to_owned());
                    check_name(&block["name"])?;
                    block["input"].as_object().ok_or("input that is no object")?;
                }
                "text" if block["text"].as_str().is_none_or(|text| text.trim().is_empty()) => {
                    return Err("a text of nothing".to_owned());
                }
                _ => {}
            }
            results_may_come &= kind == "tool_result";
            if role == "user" && !results_may_come && !open.is_empty() {
                return Err(format!("no results for {open:?}"));
            }
        }
        if role == "user" && !open.is_empty() {
            return Err(format!("no results for {open:?}"));
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("no results for {open:?}")) }
}

fn arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("{\"id\":\"1".to_owned()),
        Just("{\"id\":1,\"id\":2}".to_owned()),
        Just("\"{\\\"id\\\":1}\"".to_owned()),
        Just("null".to_owned()),
        Just("[1]".to_owned()),
        Just("{\"n\":1e400}".to_owned()),
        Just("{\"n\":123456789012345678901234567890}".to_owned()),
        Just("{\"s\":\"a\u{1}b\"}".to_owned()),
        Just("{\"s\":\"\\ud83d\"}".to_owned()),
        ".{0,20}",
    ]
}

/// Few ids, so that they meet.
fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("a".to_owned()),
        Just("a.b".to_owned()),
        Just("a:b".to_owned()),
        Just("a_b".to_owned()),
        Just("y".repeat(90)),
        "[a-z]{9}",
        ".{0,3}"
    ]
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        prop_oneof![Just(String::new()), Just(" \n".to_owned()), ".{1,5}"].prop_map(|text| Part::Text { text }),
        (id(), prop_oneof![Just("get".to_owned()), ".{0,80}"], arguments())
            .prop_map(|(id, name, arguments)| call(&id, &name, &arguments)),
        (id(), ".{0,5}", any::<bool>()).prop_map(|(id, content, is_error)| Part::Result { id, content, is_error }),
        Just(Part::Reasoning { text: "hm".into(), opaque: Some(json!({"provider": "openai"})) }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let role = prop_oneof![Just(Role::User), Just(Role::Assistant), Just(Role::Tool)];
    (role, proptest::collection::vec(part(), 0..4)).prop_map(|(role, parts)| Message { role, parts })
}

proptest! {
    #[test]
    fn whatever_a_model_wrote_a_strict_server_takes_it(messages in proptest::collection::vec(message(), 0..8)) {
        let (openai, mistral, claude) = clients();
        let asked = Request { messages, ..request("x") };
        let graphic = |id: &str| (1..=40).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic());
        let nine = |id: &str| id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric());
        prop_assert_eq!(check_openai(&openai.body(&asked), graphic), Ok(()));
        prop_assert_eq!(check_openai(&mistral.body(&asked), nine), Ok(()));
        prop_assert_eq!(check_template(&openai.body(&asked)), Ok(()));
        prop_assert_eq!(check_template(&mistral.body(&asked)), Ok(()));
        prop_assert_eq!(check_anthropic(&claude.body(&asked).0), Ok(()));
    }
}
