//! What goes back to a model: history that strict endpoints take, whatever a model wrote, and reasoning to whom it came
//! from. The fake model refuses what the real endpoints refuse.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, FakeModel, Plan, Wire};

use crate::stage::{Stage, endpoint, tool};

const BIG: &str = "123456789012345678901234567890";

async fn run(stage: &Stage, body: &Value) -> Value {
    let service = stage.serve().await;
    service.post("/run", body).send().await.unwrap().json().await.unwrap()
}

/// Runs, and holds every request against the endpoint's rules.
async fn completes(stage: &Stage) -> Value {
    let task = run(stage, &json!({"input": "Hello"})).await;
    let refused: Vec<_> = stage.model.requests().into_iter().filter_map(|request| request.refused).collect();
    assert_eq!(refused, Vec::<String>::new(), "{task}");
    assert_eq!(task["status"], "completed", "{task}");
    task
}

/// The messages of the last request.
fn last_messages(model: &FakeModel) -> Vec<Value> {
    model.requests().pop().unwrap().body["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn whatever_a_model_wrote_goes_back_in_a_form_that_is_taken() {
    let long = "x".repeat(90);
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let odd = Behaviour::call("look_up", json!("{\"name\":\"1"))
            .under_id(&long)
            .and_call("look_up", json!("[1]"))
            .under_id(&format!("{long}y"))
            .and_call("look_up", json!("null"))
            .under_id("a.b")
            .and_call("look_up", json!("{\"name\":\"a\u{1}b\"}"))
            .under_id("a:b")
            .and_call("look_up", json!("{\"name\":\"1\",\"name\":\"2\"}"))
            .under_id("twice")
            .and_call("look_up", json!("{\"name\":\"lamp\"}"))
            .under_id("twice")
            .and_call("multi_tool_use.parallel", json!("{\"tool_uses\":[]}"))
            .and_call(&"n".repeat(100), json!("{}"));
        let again = Behaviour::call("look_up", json!("{\"name\":\"desk\"}")).under_id("twice");
        let stage = Stage::speaking(wire, Plan::turns([odd, again, Behaviour::text("Good.")])).await;
        assert_eq!(completes(&stage).await["result"], "Good.", "{wire:?}");
        let sent = Value::from(last_messages(&stage.model)).to_string();
        for text in ["invalid_arguments", "no tool multi_tool_use.parallel", "written twice"] {
            assert!(sent.contains(text), "{wire:?}: {text}: {sent}");
        }
        assert_eq!(stage.backend.count("read/lamp").requests, 1, "what was right is performed");
    }
}

#[tokio::test]
async fn a_context_beside_the_input_is_taken_by_a_strict_chat_template() {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let stage = Stage::speaking(wire, Plan::answer("Good.")).await;
        let task = run(&stage, &json!({"input": "Hello", "context": {"customer": "lamp shop"}})).await;
        let refused: Vec<_> = stage.model.requests().into_iter().filter_map(|request| request.refused).collect();
        assert_eq!((refused, &task["result"]), (Vec::<String>::new(), &json!("Good.")), "{wire:?}: {task}");
        assert!(Value::from(last_messages(&stage.model)).to_string().contains("lamp shop"));
    }
}

#[tokio::test]
async fn an_object_encoded_twice_is_the_object() {
    let call = Behaviour::call("send_note", json!("\"{\\\"name\\\":\\\"lamp\\\",\\\"note\\\":\\\"two\\\"}\""));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("Good.")])).await;
    completes(&stage).await;
    assert_eq!(stage.backend.requests()[0].body, r#"{"note":"two"}"#);
    let sent = last_messages(&stage.model);
    assert_eq!(sent[2]["tool_calls"][0]["function"]["arguments"], r#"{"name":"lamp","note":"two"}"#);
}

#[tokio::test]
async fn ids_that_are_made_up_are_new_in_the_conversation_and_find_their_results() {
    let fallback = FakeModel::start(Plan::answer("From the second.")).await.unwrap();
    let other = endpoint(Wire::Anthropic, &fallback);
    let step = |name: &str| Behaviour::call("look_up", json!({"name": name})).under_id("");
    let plan = Plan::turns([step("r0"), step("r1"), step("r2"), Behaviour::status(503)]);
    let stage = Stage::new(plan).await.with(|agent| agent["model"]["fallback"] = json!([other]));
    let task = completes(&stage).await;
    assert_eq!(task["result"], "From the second.");
    let messages = last_messages(&fallback);
    assert_eq!(fallback.requests().pop().unwrap().refused, None);
    let ids: Vec<&Value> =
        messages.iter().filter(|m| m["role"] == "assistant").map(|m| &m["content"][0]["id"]).collect();
    assert_eq!(ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), 3, "{ids:?}");
    let results = messages.iter().filter(|message| message["content"][0]["type"] == "tool_result");
    assert_eq!(results.map(|message| &message["content"][0]["tool_use_id"]).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn a_calls_signature_goes_back_to_its_endpoint_and_to_no_other() {
    let fallback = FakeModel::start(Plan::answer("From the second.")).await.unwrap();
    // The same model's name at another endpoint.
    let other = endpoint(Wire::OpenAi, &fallback);
    let extra = json!({"google": {"thought_signature": "SIG123"}});
    let call = |name: &str| Behaviour::call("look_up", json!({"name": name})).with_extra(extra.clone());
    let plan = Plan::turns([call("a"), call("b"), Behaviour::status(503)]);
    let stage = Stage::new(plan).await.with(|agent| agent["model"]["fallback"] = json!([other]));
    completes(&stage).await;
    let third = &stage.model.requests()[2].body["messages"];
    assert_eq!(
        (&third[2]["tool_calls"][0]["extra_content"], &third[4]["tool_calls"][0]["extra_content"]),
        (&extra, &extra)
    );
    let elsewhere = Value::from(last_messages(&fallback)).to_string();
    assert!(elsewhere.contains("look_up") && !elsewhere.contains("SIG123"), "{elsewhere}");
}

#[tokio::test]
async fn reasoning_goes_back_across_a_repair_of_the_answer() {
    let repair = system_tests::fake_model::When { input: Some("does not satisfy".to_owned()), ..Default::default() };
    let plan = Plan::turns([
        Behaviour::call("look_up", json!({"name": "lamp"})).thinking("first thought"),
        Behaviour::text("no JSON").thinking("second thought"),
    ]);
    let plan = plan.rule(repair, None, Behaviour::text("{\"a\": 1}"));
    let stage = Stage::new(plan).await.with(|agent| {
        agent["output"] =
            json!({"schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}});
    });
    assert_eq!(completes(&stage).await["result"], json!({"a": 1}));
    let sent = last_messages(&stage.model);
    let thoughts: Vec<&Value> = sent.iter().filter_map(|message| message.get("reasoning_content")).collect();
    assert_eq!(thoughts, ["first thought", "second thought"]);
}

#[tokio::test]
async fn a_number_of_any_length_keeps_its_digits_on_every_way() {
    let arguments = json!(format!("{{\"name\":\"x\",\"n\":{BIG},\"d\":0.12345678901234567890}}"));
    let plan = Plan::turns([
        Behaviour::call("send_note", arguments.clone()).and_call("look_up", arguments),
        Behaviour::text(format!("{{\"a\": {BIG}}}")),
    ]);
    let stage = Stage::new(plan).await.with(|agent| {
        let properties = json!({"name": {"type": "string"}, "n": {"type": "integer"}, "d": {"type": "number"}});
        for tool in agent["tools"].as_array_mut().unwrap() {
            tool["input"]["properties"] = properties.clone();
        }
        agent["output"] =
            json!({"schema": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}});
    });
    let body: Value = serde_json::from_str(&format!("{{\"input\": \"go\", \"context\": {{\"id\": {BIG}}}}}")).unwrap();
    let task = run(&stage, &body).await;
    assert_eq!(task["result"].to_string(), format!("{{\"a\":{BIG}}}"), "{task}");
    let requests = stage.backend.requests();
    let write = requests.iter().find(|request| request.method == "POST").unwrap();
    assert_eq!(write.body, format!("{{\"n\":{BIG},\"d\":0.12345678901234567890}}"), "in the model's order");
    let read = requests.iter().find(|request| request.method == "GET").unwrap();
    assert_eq!(read.target, format!("/read/x?n={BIG}&d=0.12345678901234567890"));
    let sent = Value::from(last_messages(&stage.model)).to_string();
    assert!(sent.contains(&format!("{{\\\"id\\\":{BIG}}}")), "the context: {sent}");
    assert!(sent.matches(BIG).count() >= 3, "the context and two calls: {sent}");
}

#[tokio::test]
async fn a_number_that_no_double_holds_is_refused_to_the_model() {
    let call = Behaviour::call("send_note", json!("{\"name\":\"x\",\"note\":1e400}"));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("Good.")])).await;
    completes(&stage).await;
    assert_eq!(stage.backend.requests().len(), 0);
    assert!(
        last_messages(&stage.model)[3]["content"].as_str().unwrap().contains("/note: the number 1e400 is too large")
    );
}

#[tokio::test]
async fn schemas_reach_the_model_in_the_authors_order() {
    for wire in [Wire::OpenAi, Wire::Anthropic] {
        let stage = Stage::speaking(wire, Plan::answer("{\"zeta\": \"1\"}")).await;
        let properties: Value = serde_json::from_str(
            r#"{"zeta": {"type": "string"}, "name": {"type": "string"}, "alpha": {"type": "string"}}"#,
        )
        .unwrap();
        let stage = stage.with(|agent| {
            let mut look_up = tool("look_up", "read", "GET", agent["tools"][0]["http"]["url"].as_str().unwrap());
            look_up["input"]["properties"] = properties.clone();
            agent["tools"] = json!([look_up]);
            agent["output"] = json!({"schema": {"type": "object", "properties": properties}});
        });
        completes(&stage).await;
        let body = stage.model.requests().pop().unwrap().body;
        let schema = match wire {
            Wire::OpenAi => &body["tools"][0]["function"]["parameters"],
            Wire::Anthropic => &body["tools"][0]["input_schema"],
        };
        assert_eq!(schema["properties"].to_string(), properties.to_string(), "{wire:?}");
        let told = body.to_string().replace("\\\"", "\"");
        assert_eq!(told.matches(&properties.to_string()).count(), 2, "the output schema too, {wire:?}: {told}");
    }
}
