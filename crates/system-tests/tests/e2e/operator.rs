//! What an operator has to rely on: logs that say why, checks that find what the service refuses, keys and backups.

use serde_json::{Value, json};
use system_tests::backend::Conduct;
use system_tests::fake_model::{Behaviour, Fault, Plan};
use system_tests::limits::POLL;
use system_tests::process::service::{Finished, Launch, Service, run_mote};

use crate::stage::{MODEL_KEY, Stage, TOOL_KEY};

async fn mote(stage: &Stage, arguments: &[&str]) -> Finished {
    stage.write_agent();
    let variables = [("MODEL_KEY", MODEL_KEY), ("TOOL_KEY", TOOL_KEY)];
    run_mote(&stage.path(""), arguments, &variables).await.unwrap()
}

/// Waits for a log line with this message.
async fn line(service: &mut Service, message: &str) -> Value {
    let found = service.process.line(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == message).then_some(line)
    });
    found.await.unwrap()
}

/// A model endpoint that answers everything with 400 and this body; its base URL.
async fn refusing(body: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = move || std::future::ready((axum::http::StatusCode::BAD_REQUEST, body.clone()));
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn each_failed_attempt_and_each_failed_task_are_logged_with_their_cause_and_without_content() {
    let stage = Stage::new(Plan::default()).await;
    let secret = "my card is 4111 1111 1111 1111";
    let refusal = json!({"error": {
        "type": "invalid_request_error", "code": "bad_words",
        "message": format!("These words are not taken here; key {MODEL_KEY}; you sent: {secret}"),
    }});
    let base = refusing(refusal.to_string()).await;
    let stage = stage.with(|agent| {
        agent["model"]["base_url"] = json!(base);
    });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": secret})).await.unwrap();
    let warned = line(&mut service, "an attempt at a model call failed").await;
    assert_eq!(warned["level"], "WARN", "{warned}");
    assert_eq!(
        (&warned["status"], &warned["code"], &warned["kind"]),
        (&json!(400), &json!("bad_words"), &json!("rejected"))
    );
    let said = warned["said"].as_str().unwrap();
    assert!(said.contains("These words are not taken here"), "{warned}");
    assert_eq!(warned["task_id"], id.as_str());
    let failed = line(&mut service, "a task failed").await;
    assert_eq!((&failed["level"], &failed["task_id"]), (&json!("ERROR"), &json!(id)));
    assert!(failed["code"].as_str().unwrap().starts_with("model_"), "{failed}");
    assert!(failed["cause"].as_str().unwrap().contains("These words are not taken here"), "{failed}");
    service.terminate().await.unwrap();
    let output = service.process.output();
    for hidden in [MODEL_KEY, "4111 1111 1111 1111"] {
        assert!(!output.contains(hidden), "{hidden} is in the log: {output}");
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_logged_and_named_to_the_model() {
    let call = Behaviour::call("send_note", json!({"name": "note", "note": "one lamp, please"}));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("It said: {{results}}")])).await;
    stage.backend.set("write/note", Conduct { reset: true, ..Conduct::default() });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it"})).await.unwrap();
    let warned = line(&mut service, "the outcome of a call is unknown").await;
    assert_eq!(
        (&warned["level"], &warned["tool"], &warned["task_id"]),
        (&json!("WARN"), &json!("send_note"), &json!(id))
    );
    assert!(!warned.to_string().contains("one lamp"), "arguments are content: {warned}");
    let task = service.finished(&id).await.unwrap();
    let result = task["result"].as_str().unwrap();
    for part in ["outcome unknown", "send_note", "one lamp, please"] {
        assert!(result.contains(part), "{part}: {result}");
    }
}

#[tokio::test]
async fn refusals_are_logged_with_request_route_and_key() {
    let stage = Stage::new(Plan::answer("Fine.")).await.with(|agent| agent["auth"] = json!({"keys": {"file": "keys"}}));
    let made = mote(&stage, &["key", "new", "--name", "reader", "--scope", "read", "--append", "keys", "--json"]).await;
    let reader = serde_json::from_str::<Value>(&made.stdout).unwrap()["key"].as_str().unwrap().to_owned();
    let made = mote(&stage, &["key", "new", "--name", "runner", "--append", "keys", "--json"]).await;
    let runner = serde_json::from_str::<Value>(&made.stdout).unwrap()["key"].as_str().unwrap().to_owned();
    let mut service = stage.serve().await;
    for (key, body, id, status, code, name) in [
        ("mote_nonsense", json!({"input": "x"}), "req-1", 401, "unauthenticated", Value::Null),
        (&*reader, json!({"input": "x"}), "req-2", 403, "forbidden", json!("reader")),
        (&*runner, json!({"input": ""}), "req-3", 422, "invalid_request", json!("runner")),
    ] {
        let request = service.post("/tasks", &body).bearer_auth(key).header("x-request-id", id);
        assert_eq!(request.send().await.unwrap().status(), status);
        let found = service.process.line(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "refused" && line["request_id"] == id).then_some(line)
        });
        let found = found.await.unwrap();
        assert_eq!((&found["level"], &found["status"], &found["code"]), (&json!("INFO"), &json!(status), &json!(code)));
        assert_eq!((&found["route"], &found["key"]), (&json!("/tasks"), &name), "{found}");
    }
    assert!(!service.process.output().contains(&runner), "no key is in the log");
}

#[tokio::test]
async fn a_stranger_cannot_fill_the_log() {
    let stage = Stage::new(Plan::answer("Fine.")).await.with(|agent| agent["auth"] = json!({"keys": {"file": "keys"}}));
    mote(&stage, &["key", "new", "--append", "keys"]).await;
    let mut service = stage.serve().await;
    let started = tokio::time::Instant::now();
    for _ in 0..300 {
        let refused = service.post("/tasks", &json!({"input": "x"})).bearer_auth("mote_no").send().await.unwrap();
        assert_eq!(refused.status(), 401);
    }
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap() + 2;
    service.terminate().await.unwrap();
    let lines = service.process.output().lines().filter(|line| line.contains("\"refused\"")).count();
    let most = seconds * mote::limits::REFUSAL_LINES_PER_SECOND as usize;
    assert!((1..=most).contains(&lines), "{lines} lines");
}

#[tokio::test]
async fn check_finds_what_serve_refuses() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 3] = [
        ("is loopback (127.0.0.0/8)", |agent| agent["tools"][0]["http"]["allow_private"] = json!(false)),
        ("line 1: expected `<sha256-hex> <name> <scopes> [tenant] [expires=<time>]`", |agent| {
            agent["auth"] = json!({"keys": {"file": "bad-keys"}})
        }),
        ("failed to read the keys file", |agent| agent["auth"] = json!({"keys": {"file": "no-keys"}})),
    ];
    for (expected, change) in cases {
        let stage = Stage::new(Plan::default()).await.with(change);
        stage.write("bad-keys", "nonsense\n");
        let checked = mote(&stage, &["check", "agent.yaml"]).await;
        assert_eq!(checked.code, Some(2), "{checked:?}");
        assert!(checked.stderr.contains(expected) && checked.stderr.contains("agent.yaml:"), "{checked:?}");
        let served = mote(&stage, &["serve", "agent.yaml", "--listen", "127.0.0.1:0", "--state", "state"]).await;
        assert_eq!(served.code, Some(2), "{served:?}");
        assert!(served.stderr.contains(expected), "{served:?}");
    }
}

#[tokio::test]
async fn check_warns_of_secrets_that_are_not_here_and_strict_wants_no_collector() {
    let stage = Stage::new(Plan::default()).await.with(|agent| agent["tools"][2]["approval"] = json!(true));
    let stage = stage.with(|agent| agent["budget"] = json!({"per_run": {"usd": 1}}));
    let strict = mote(&stage, &["check", "agent.yaml", "--strict"]).await;
    assert_eq!(strict.code, Some(0), "{strict:?}");
    assert!(strict.stderr.contains("note: telemetry.otlp: no traces are sent"), "{strict:?}");
    stage.write_agent();
    let without = run_mote(&stage.path(""), &["check", "agent.yaml"], &[("TOOL_KEY", TOOL_KEY)]).await.unwrap();
    assert_eq!(without.code, Some(0), "{without:?}");
    assert!(without.stderr.contains("warning: model.key: ") && without.stderr.contains("MODEL_KEY"), "{without:?}");
    assert_eq!(without.stderr.matches("MODEL_KEY").count(), 1, "it is said once: {without:?}");
}

#[tokio::test]
async fn check_looks_at_the_state_folder_as_serve_does() {
    let stage = Stage::new(Plan::default()).await;
    drop(stage.serve().await);
    assert_eq!(mote(&stage, &["check", "agent.yaml", "--state", "state"]).await.code, Some(0));
    assert_eq!(mote(&stage, &["check", "agent.yaml", "--state", "not-yet"]).await.code, Some(0));
    let stage = stage.with(|agent| agent["name"] = json!("another"));
    let foreign = mote(&stage, &["check", "agent.yaml", "--state", "state"]).await;
    assert_eq!(foreign.code, Some(2), "{foreign:?}");
    assert!(foreign.stderr.contains("error: --state state: ") && foreign.stderr.contains("tested"), "{foreign:?}");
    stage.write("file", "");
    assert_eq!(mote(&stage, &["check", "agent.yaml", "--state", "file"]).await.code, Some(2));
}

#[tokio::test]
async fn a_key_is_appended_once_a_name() {
    let stage = Stage::new(Plan::default()).await;
    let first = mote(&stage, &["key", "new", "--name", "ci", "--append", "keys"]).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(first.stdout.lines().count(), 1, "the key alone: {first:?}");
    let kept = std::fs::read_to_string(stage.path("keys")).unwrap();
    assert!(kept.contains(" ci run,read") && !kept.contains(first.stdout.trim()), "{kept}");
    let again = mote(&stage, &["key", "new", "--name", "ci", "--append", "keys"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("line 1") && again.stdout.is_empty(), "no key that nothing knows: {again:?}");
    assert_eq!(std::fs::read_to_string(stage.path("keys")).unwrap(), kept);
}

#[tokio::test]
async fn a_restored_backup_that_is_held_runs_nothing_until_it_is_released() {
    let hang = Behaviour::fault(Fault::Hang);
    let mut stage = Stage::new(Plan::answer("Done.").first(1, hang)).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Once"})).await.unwrap();
    while stage.model.stats().open == 0 {
        tokio::time::sleep(POLL).await;
    }
    let backup = mote(&stage, &["store", "backup", "monday.db", "--state", "state"]).await;
    assert_eq!(backup.code, Some(0), "{backup:?}");
    service.process.kill().await.unwrap();
    let restored = mote(&stage, &["store", "restore", "monday.db", "--state", "again", "--hold"]).await;
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert!(
        restored.stderr.contains("1 unfinished tasks") && restored.stderr.contains("mote store release"),
        "{restored:?}"
    );
    let twice = mote(&stage, &["store", "restore", "monday.db", "--state", "again"]).await;
    assert_eq!(twice.code, Some(2), "it overwrites nothing: {twice:?}");
    stage.agent["description"] = json!("Restored.");
    let launch = Launch::new(stage.write_agent(), stage.path("again"));
    let mut service = launch.env("MODEL_KEY", MODEL_KEY).env("TOOL_KEY", TOOL_KEY).start().await.unwrap();
    let warned = line(&mut service, "held since the store was restored; `mote store release` lets them go on").await;
    assert_eq!(warned["tasks"], 1, "{warned}");
    // What is new runs, and what is held does not, although its lease has long run out.
    let new = service.submit(&json!({"input": "New"})).await.unwrap();
    assert_eq!(service.finished(&new).await.unwrap()["status"], "completed");
    let asked = stage.model.stats().requests;
    let held = service.task(&id).await.unwrap();
    assert!(!["completed", "failed"].contains(&held["status"].as_str().unwrap()), "{held}");
    assert_eq!(held["held"], true, "{held}");
    let shown = mote(&stage, &["task", "--url", &service.url(""), "get", &id]).await;
    assert!(shown.stdout.contains("held until `mote store release`"), "{shown:?}");
    assert_eq!(asked, 2, "the one that hung and the new one");
    let released = mote(&stage, &["store", "release", "--state", "again"]).await;
    assert_eq!(released.code, Some(0), "{released:?}");
    assert!(released.stderr.contains("released: 1 unfinished tasks"), "{released:?}");
    assert_eq!(service.finished(&id).await.unwrap()["status"], "completed");
    let nothing = mote(&stage, &["store", "release", "--state", "again"]).await;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
}

#[tokio::test]
async fn what_is_no_backup_is_not_restored() {
    let stage = Stage::new(Plan::default()).await;
    stage.write("text.db", "not a database, but long enough to be read as one for a moment");
    stage.write("empty.db", "");
    for (file, code) in [("text.db", 1), ("empty.db", 1), ("none.db", 2)] {
        let refused = mote(&stage, &["store", "restore", file, "--state", "fresh"]).await;
        assert_eq!(refused.code, Some(code), "{refused:?}");
        assert!(refused.stderr.contains(file), "{refused:?}");
        assert!(!stage.path("fresh").exists(), "nothing is left of it");
    }
}

#[tokio::test]
async fn another_endpoint_does_not_switch_a_bound_on_money_off() {
    let stage =
        Stage::new(Plan::answer("Dear.")).await.with(|agent| agent["budget"] = json!({"per_run": {"usd": 0.0015}}));
    let url = stage.model.openai_url();
    let unpriced = mote(&stage, &["run", "agent.yaml", "x", "--model", "openai/other", "--base-url", &url]).await;
    assert_eq!(unpriced.code, Some(2), "{unpriced:?}");
    for part in ["error: --model openai/other: its price is not known", "budget.per_run.usd", "--price"] {
        assert!(unpriced.stderr.contains(part), "{part}: {unpriced:?}");
    }
    assert_eq!(stage.model.stats().requests, 0);
    // The model of the file keeps its price elsewhere too, and so the bound holds.
    let kept = mote(&stage, &["run", "agent.yaml", "x", "--model", "openai/planned", "--base-url", &url]).await;
    assert_eq!(kept.code, Some(1), "{kept:?}");
    assert!(
        kept.stderr.contains("budget_run: the run's budget ($0.0015)") && kept.stderr.contains("$0.0015 left"),
        "{kept:?}"
    );
    let free = ["run", "agent.yaml", "x", "--model", "openai/other", "--base-url", &url, "--price", "0"];
    let free = mote(&stage, &free).await;
    assert_eq!((free.code, free.stdout.contains("Dear.")), (Some(0), true), "{free:?}");
}

#[tokio::test]
async fn a_bound_on_money_is_refused_of_a_model_without_a_price() {
    let stage = Stage::new(Plan::answer("Free?")).await.with(|agent| {
        agent["model"].as_object_mut().unwrap().remove("price");
    });
    let service = stage.serve().await;
    let refused = service.post("/tasks", &json!({"input": "x", "budget": {"usd": 0.01}})).send().await.unwrap();
    assert_eq!(refused.status(), 422);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["field"]), (&json!("invalid_request"), &json!("budget.usd")), "{problem}");
}

#[tokio::test]
async fn a_budget_says_in_dollars_what_is_needed_and_what_is_left() {
    let stage = Stage::new(Plan::answer("Dear.")).await;
    let stage = stage.with(|agent| agent["budget"] = json!({"agent": {"usd": 0.0015, "every": "1d"}}));
    let service = stage.serve().await;
    let refused = service.post("/run", &json!({"input": "x"})).send().await.unwrap();
    let body: Value = refused.json().await.unwrap();
    let said = body["detail"].as_str().or_else(|| body["error"]["message"].as_str()).unwrap();
    assert!(said.contains("needs $0.") && said.contains("$0.0015 left"), "{body}");
    let id = service.submit(&json!({"input": "x"})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    let said = task["error"]["message"].as_str().unwrap();
    assert!(said.contains("needs $0.") && said.contains("$0.0015 left"), "{task}");
}

#[tokio::test]
async fn an_invalid_answer_names_what_the_schema_refused() {
    let stage = Stage::new(Plan::answer("{\"color\": 5}")).await.with(|agent| {
        agent["output"] = json!({"schema": {"type": "object", "properties": {"color": {"type": "string"}}}});
        agent["limits"]["repairs"] = json!(0);
    });
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "x"})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    let error = &task["error"];
    assert_eq!(error["code"], "output_invalid", "{task}");
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("/color") && said.contains("string"), "{said}");
    let failed = line(&mut service, "a task failed").await;
    assert!(!failed.to_string().contains("/color"), "the answer is content: {failed}");
}

#[tokio::test]
async fn a_changed_tool_of_a_pending_call_is_named() {
    let call = Behaviour::call("send_note", json!({"name": "note", "note": "one lamp"}));
    let stage = Stage::new(Plan::turns([call, Behaviour::text("Sent.")])).await;
    let mut stage = stage.with(|agent| agent["tools"][2]["approval"] = json!(true));
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Send it"})).await.unwrap();
    service.task_in(&id, "waiting").await.unwrap();
    service.process.kill().await.unwrap();
    stage.agent["tools"][2]["version"] = json!("2.0.0");
    let service = stage.serve().await;
    service.post(&format!("/tasks/{id}/input"), &json!({"approve": true})).send().await.unwrap();
    let task = service.finished(&id).await.unwrap();
    assert_eq!(task["error"]["code"], "capabilities_changed", "{task}");
    let said = task["error"]["message"].as_str().unwrap();
    for part in ["send_note", "one lamp", "declared otherwise"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
