//! What people and their programs need of the API: to be told of a wait and to answer it, to stream from a browser, to read a
//! journal, to know why nothing happens.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use system_tests::backend::Backend;
use system_tests::fake_model::{Behaviour, Plan, When};
use system_tests::process::service::{Service, run_mote};

use super::tasks::problem;
use crate::stage::{Events, Stage};

/// An agent whose first call needs approval.
async fn with_approval() -> Stage {
    let call = Behaviour::call("send_note", json!({"name": "lamp", "note": "two of them"}));
    let plan = Plan::turns([call, Behaviour::text("Sent: {{results}}")]);
    let later = When { input: Some("And now?".to_owned()), ..When::default() };
    let stage = Stage::new(plan.rule(later, None, Behaviour::text("Later."))).await;
    stage.with(|agent| agent["tools"][2]["approval"] = json!(true))
}

#[tokio::test]
async fn a_wait_is_told_on_the_stream_and_to_the_sink_with_how_to_answer_and_the_journal_says_who_did() {
    let sink = Backend::start().await.unwrap();
    let url = format!("{}/idempotent/events", sink.url());
    let stage = with_approval().await.with(|agent| agent["events"] = json!({"sink": url}));
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it", "user": "eve"})).await.unwrap();
    let stream = service.get(&format!("/tasks/{id}/events")).send().await.unwrap();
    let told = Events::of(stream).until(|event| event.event == "waiting").await.pop().unwrap();
    assert_eq!(told.id, None);
    let wait = &told.data["waiting"][0];
    assert_eq!((&wait["kind"], &wait["tool"]), (&json!("approval"), &json!("send_note")));
    assert_eq!(wait["arguments"], json!({"name": "lamp", "note": "two of them"}));

    // The sink is told the same.
    let event = async {
        loop {
            let requests = sink.requests();
            let bodies = requests.iter().filter_map(|request| serde_json::from_str::<Value>(&request.body).ok());
            if let Some(found) = bodies.into_iter().find(|body| body["type"] == "dev.mote.task.waiting") {
                return found;
            }
            tokio::time::sleep(system_tests::limits::POLL).await;
        }
    };
    let event = tokio::time::timeout(system_tests::limits::PATIENCE, event).await.unwrap();
    assert_eq!((&event["subject"], &event["data"]["user"]), (&json!(id), &json!("eve")));
    assert_eq!(event["data"]["waiting"][0], *wait);

    // What it says how to answer, answers it.
    let answer = &wait["answer"];
    let mut body = answer["body"].clone();
    body["user"] = json!("ada");
    assert_eq!(answer["method"], "POST");
    let answered = service.post(answer["path"].as_str().unwrap(), &body).send().await.unwrap();
    assert_eq!(answered.status(), 202);
    service.finished(&id).await.unwrap();
    let journal: Value =
        service.get(&format!("/tasks/{id}/journal?limit=200")).send().await.unwrap().json().await.unwrap();
    let entries = journal["entries"].as_array().unwrap();
    let approved = entries.iter().find(|entry| entry["kind"] == "call.approved").unwrap();
    assert_eq!(approved["payload"]["by"], json!({"key": "anonymous", "user": "ada"}));
    assert!(journal["next"].is_null());
    let task = service.task(&id).await.unwrap();
    assert_eq!(task["input"], "Send it");
}

#[tokio::test]
async fn a_run_into_a_session_that_waits_is_refused_at_once_with_the_way_on() {
    let stage = with_approval().await;
    let service = stage.serve().await;
    let first = service.submit(&json!({"input": "Send it", "session": "s"})).await.unwrap();
    service.task_in(&first, "waiting").await.unwrap();
    let body = json!({"input": "And now?", "session": "s"});
    let refused = problem(service.post("/run", &body).send().await.unwrap(), 409, "session_busy").await;
    assert_eq!(refused["task"], json!(first));
    let answer = refused["waiting"][0]["answer"].clone();
    let queued = service.post("/run?detach=true", &body).send().await.unwrap();
    assert_eq!(queued.status(), 202);
    let location = queued.headers()["location"].to_str().unwrap().to_owned();
    service.post(answer["path"].as_str().unwrap(), &answer["body"]).send().await.unwrap();
    let id = location.trim_start_matches("/tasks/");
    assert_eq!(service.finished(id).await.unwrap()["status"], "completed");
    assert_eq!(service.post("/run", &body).send().await.unwrap().status(), 200, "the session is free");
}

/// Opens a WebSocket by its address alone, as a page does.
async fn socket(service: &Service, path: &str) -> Vec<Value> {
    let url = service.url(path).replacen("http", "ws", 1);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut said = Vec::new();
    while let Some(Ok(frame)) = socket.next().await {
        match frame {
            tokio_tungstenite::tungstenite::Message::Text(text) => said.push(serde_json::from_str(&text).unwrap()),
            tokio_tungstenite::tungstenite::Message::Close(Some(frame)) => {
                said.push(json!({"close": u16::from(frame.code)}));
            }
            _ => {}
        }
    }
    said
}

#[tokio::test]
async fn a_browser_streams_with_a_token_made_by_a_key_that_expires_and_no_log_has_either() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let arguments = ["key", "new", "--name", "page", "--scope", "run", "--scope", "read", "--expires", "1h", "--json"];
    let made = run_mote(&stage.path("."), &arguments, &[]).await.unwrap();
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let (key, line) = (made["key"].as_str().unwrap(), made["line"].as_str().unwrap());
    assert!(line.contains(" expires=20"), "{line}");
    stage.write("keys", line);
    let stage = stage.with(|agent| {
        agent["auth"] = json!({"keys": {"file": "keys"}});
        agent["telemetry"] = json!({"log": "trace"});
    });
    let mut service = stage.serve().await;
    let submit = service.post("/tasks", &json!({"input": "x"})).bearer_auth(key).send().await.unwrap();
    let id = submit.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    let token = service.post(&format!("/tasks/{id}/stream-token"), &json!({})).bearer_auth(key).send().await.unwrap();
    let token: Value = token.json().await.unwrap();
    let stream = service.get(token["events"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(Events::of(stream).rest().await.pop().unwrap().event, "end");
    let said = socket(&service, token["ws"].as_str().unwrap()).await;
    assert_eq!(said.last(), Some(&json!({"close": 1000})), "{said:?}");
    problem(service.get(&format!("/tasks/{id}/events?token=wrong")).send().await.unwrap(), 401, "unauthenticated")
        .await;
    // Another process of the same store takes the token too.
    service.terminate().await.unwrap();
    let again = stage.serve().await;
    let stream = again.get(token["events"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(Events::of(stream).rest().await.pop().unwrap().event, "end");
    for secret in [key, token["token"].as_str().unwrap()] {
        assert!(!service.process.output().contains(secret) && !again.process.output().contains(secret));
    }
}

#[tokio::test]
async fn a_bad_line_in_the_keys_file_warns_and_counts_and_the_old_keys_hold() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let made = run_mote(&stage.path("."), &["key", "new", "--json"], &[]).await.unwrap();
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let (key, line) = (made["key"].as_str().unwrap(), made["line"].as_str().unwrap());
    stage.write("keys", line);
    let stage = stage.with(|agent| agent["auth"] = json!({"keys": {"file": "keys"}}));
    let service = stage.serve().await;
    let metrics = async || service.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics().await.contains("\nmote_keys_file_failures_total 0\n"));
    stage.write("keys", &format!("{line}\nnot a key\n"));
    let noticed = async {
        while !metrics().await.contains("\nmote_keys_file_broken 1\n") {
            tokio::time::sleep(system_tests::limits::POLL).await;
        }
    };
    tokio::time::timeout(system_tests::limits::PATIENCE, noticed).await.unwrap();
    assert!(metrics().await.contains("\nmote_keys_file_failures_total 1\n"));
    assert_eq!(service.get("/ready").send().await.unwrap().status(), 200);
    assert_eq!(service.get("/tasks").bearer_auth(key).send().await.unwrap().status(), 200);
    let output = service.process.output();
    let warned = output.lines().find(|text| text.contains("the keys read before stay in force")).unwrap();
    assert!(warned.contains("\"WARN\"") && warned.contains("line 2"), "{warned}");
}

#[tokio::test]
async fn every_documented_counter_is_at_zero_before_anything_happens() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let service = stage.serve().await;
    let text = service.get("/metrics").send().await.unwrap().text().await.unwrap();
    let document =
        std::fs::read_to_string(system_tests::process::binary::workspace().join("docs/observability.md")).unwrap();
    let counters = document.lines().filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next()?.strip_prefix("`mote_")?.strip_suffix('`')?;
        (cells.next() == Some("counter")).then(|| format!("mote_{name}"))
    });
    let counters: Vec<String> = counters.collect();
    assert!(counters.len() > 14, "{counters:?}");
    for counter in counters {
        let found = text.lines().any(|line| line.split(['{', ' ']).next() == Some(counter.as_str()));
        assert!(found, "{counter} is not there from the start");
    }
    assert!(text.contains("mote_tool_calls_total{tool=\"send_note\",outcome=\"unknown\"} 0"), "{text}");
}
