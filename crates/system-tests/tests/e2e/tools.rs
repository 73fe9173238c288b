//! HTTP tools against a real backend: what is retried and what is not, what is bounded, where they may go.

use serde_json::{Value, json};
use system_tests::backend::{Backend, Conduct};
use system_tests::fake_model::{Behaviour, Plan};

use crate::stage::{Stage, TOOL_KEY};

/// One call of a tool, then an answer that quotes its result.
fn calling(tool: &str, name: &str) -> Plan {
    Plan::turns([Behaviour::call(tool, json!({"name": name})), Behaviour::text("It said: {{results}}")])
}

async fn run(stage: &Stage) -> Value {
    let service = stage.serve().await;
    service.post("/run", &json!({"input": "Go"})).send().await.unwrap().json().await.unwrap()
}

fn failing(times: u64) -> Conduct {
    Conduct { status: Some(500), effect_before_failure: true, times: Some(times), ..Conduct::default() }
}

#[tokio::test]
async fn a_read_that_fails_is_repeated() {
    let stage = Stage::new(calling("look_up", "lamp")).await;
    stage.backend.set("read/lamp", failing(2));
    let task = run(&stage).await;
    assert!(task["result"].as_str().unwrap_or_default().contains("lamp"), "{task}");
    assert_eq!(stage.backend.count("read/lamp").requests, 3);
}

#[tokio::test]
async fn an_idempotent_call_is_repeated_with_the_same_key_and_has_one_effect() {
    let stage = Stage::new(calling("create_order", "order")).await;
    stage.backend.set("idempotent/order", failing(1));
    stage.backend.set(
        "idempotent/order",
        Conduct { reset: true, effect_before_failure: true, times: Some(1), ..Conduct::default() },
    );
    let task = run(&stage).await;
    assert_eq!(task["status"], "completed", "{task}");
    let count = stage.backend.count("idempotent/order");
    assert_eq!((count.requests, count.effects, count.keys.len()), (3, 1, 1), "{count:?}");
}

#[tokio::test]
async fn two_calls_that_differ_have_two_keys_and_so_have_two_equal_calls_of_two_turns() {
    let order = |note: &str| Behaviour::call("create_order", json!({"name": "order", "note": note}));
    let stage = Stage::new(Plan::turns([order("a"), order("b"), order("b"), Behaviour::text("Done.")])).await;
    assert_eq!(run(&stage).await["status"], "completed");
    let count = stage.backend.count("idempotent/order");
    assert_eq!((count.effects, count.keys.len()), (3, 3), "{count:?}");
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_not_repeated_and_its_outcome_is_said_to_be_unknown() {
    let broken = [
        failing(1),
        Conduct { reset: true, effect_before_failure: true, ..Conduct::default() },
        Conduct { hang: true, ..Conduct::default() },
    ];
    for conduct in broken {
        let stage =
            Stage::new(calling("send_note", "note")).await.with(|agent| agent["tools"][2]["timeout"] = json!("500ms"));
        stage.backend.set("write/note", conduct.clone());
        let task = run(&stage).await;
        assert!(task["result"].as_str().unwrap_or_default().contains("outcome unknown"), "{conduct:?} {task}");
        assert_eq!(stage.backend.count("write/note").requests, 1, "{conduct:?}");
    }
}

#[tokio::test]
async fn a_write_that_was_refused_or_never_sent_is_repeated() {
    let stage = Stage::new(calling("send_note", "note")).await;
    let busy = Conduct { status: Some(503), retry_after: Some(1), times: Some(1), ..Conduct::default() };
    stage.backend.set("write/note", busy);
    let task = run(&stage).await;
    assert!(!task["result"].to_string().contains("unknown"), "{task}");
    let count = stage.backend.count("write/note");
    assert_eq!((count.requests, count.effects), (2, 1));
}

#[tokio::test]
async fn a_refusal_of_the_backend_is_told_to_the_model_and_not_repeated() {
    for tool in ["look_up", "create_order", "send_note"] {
        let stage = Stage::new(calling(tool, "x")).await;
        for route in ["read/x", "idempotent/x", "write/x"] {
            let body = Some("{\"reason\": \"no such lamp\"}".to_owned());
            stage.backend.set(route, Conduct { status: Some(404), body, ..Conduct::default() });
        }
        let task = run(&stage).await;
        assert!(task["result"].as_str().unwrap_or_default().contains("no such lamp"), "{tool} {task}");
        assert_eq!(stage.backend.requests().len(), 1, "{tool}");
    }
}

#[tokio::test]
async fn a_long_result_is_cut_and_said_to_be() {
    let stage =
        Stage::new(calling("look_up", "lamp")).await.with(|agent| agent["tools"][0]["output_max"] = json!("1KiB"));
    stage.backend.set("read/lamp", Conduct { body: Some("x".repeat(1 << 20)), ..Conduct::default() });
    let task = run(&stage).await;
    let result = task["result"].as_str().unwrap_or_default();
    assert!(result.contains("xxxx") && result.len() < 2048, "{} bytes", result.len());
    assert!(result.contains("cut") && !result.ends_with('x'), "it says that something is missing: {result}");
}

#[tokio::test]
async fn a_redirect_leads_only_where_it_is_allowed_and_keeps_the_secret_at_home() {
    let elsewhere = Backend::start().await.unwrap();
    let target = format!("{}/read/lamp", elsewhere.url());
    for allowed in [false, true] {
        let stage = Stage::new(calling("look_up", "lamp")).await.with(|agent| {
            let hosts = if allowed { json!([elsewhere.address().to_string()]) } else { json!([]) };
            agent["tools"][0]["http"]["allow_hosts"] = hosts;
        });
        stage.backend.set("read/lamp", Conduct { redirect: Some(target.clone()), ..Conduct::default() });
        let task = run(&stage).await;
        assert_eq!(task["status"], "completed", "{task}");
        assert_eq!(elsewhere.requests().len(), usize::from(allowed), "allowed: {allowed}; {task}");
    }
    let request = &elsewhere.requests()[0];
    assert!(!format!("{request:?}").contains(TOOL_KEY), "another host gets no secret: {request:?}");
}

#[tokio::test]
async fn a_private_address_is_refused_unless_it_is_allowed() {
    let forbid = |agent: &mut Value| agent["tools"][0]["http"]["allow_private"] = json!(false);
    let stage = Stage::new(calling("look_up", "lamp")).await.with(forbid);
    let mut refused = stage.launch().spawn().unwrap();
    assert!(!refused.wait().await.unwrap().success());
    let said = refused.output();
    assert!(
        said.contains("look_up") && said.contains("loopback"),
        "written as an address, before anything runs: {said}"
    );
    let port = stage.backend.address().port();
    let stage = stage.with(|agent| {
        agent["tools"][0]["http"]["url"] = json!(format!("http://localhost:{port}/read/{{name}}"));
    });
    let task = run(&stage).await;
    assert_eq!(task["status"], "completed", "hidden behind a name, when it is called; the model is told: {task}");
    assert!(stage.backend.requests().is_empty(), "{:?}", stage.backend.requests());
}

#[tokio::test]
async fn an_argument_cannot_leave_its_place_in_the_url() {
    let stage = Stage::new(calling("look_up", "../write/note?x=1#")).await;
    let task = run(&stage).await;
    assert_eq!(task["status"], "completed", "{task}");
    assert_eq!(stage.backend.count("write/note").requests, 0, "{:?}", stage.backend.requests());
}
