//! What an operator sees, checked by the tools that operators use; and what nobody may see.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Fault, Plan, When};
use system_tests::limits::{PATIENCE, POLL};
use system_tests::otlp::Receiver;
use system_tests::process::Process;

use super::run::three_tools;
use crate::stage::{MODEL_KEY, Stage, TOOL_KEY, contains};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn metrics(service: &system_tests::process::service::Service) -> String {
    service.get("/metrics").send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// Waits for what is to be counted: the answer to a request does not wait for the counters.
async fn metrics_with(service: &system_tests::process::service::Service, samples: &[&str]) -> String {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let text = metrics(service).await;
        let has = |sample: &&str| text.lines().any(|line| line.starts_with(*sample) && !line.ends_with(" 0"));
        let Some(missing) = samples.iter().find(|sample| !has(sample)) else { return text };
        assert!(tokio::time::Instant::now() < deadline, "{missing} is not there: {text}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let stage = Stage::new(three_tools()).await;
    let service = stage.serve().await;
    assert_eq!(service.post("/run", &json!({"input": "Order a lamp"})).send().await.unwrap().status(), 200);
    let families = [
        "mote_model_call_duration_seconds_bucket",
        "mote_model_tokens_total",
        "mote_tool_calls_total",
        "mote_tasks_finished_total",
        "mote_store_commit_duration_seconds_count",
    ];
    let text = metrics_with(&service, &families).await;
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().expect("promtool (Debian package prometheus)");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{text}");
}

#[tokio::test]
async fn prometheus_scrapes_the_service() {
    let stage = Stage::new(three_tools()).await;
    let service = stage.serve().await;
    let config = format!(
        "scrape_configs: [{{job_name: mote, scrape_interval: 1s, scrape_timeout: 1s, static_configs: [{{targets: ['{}']}}]}}]",
        service.address
    );
    let config = stage.write("prometheus.yml", &config);
    // Prometheus does not say which port it got: take one that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = tokio::process::Command::new("prometheus");
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", stage.path("tsdb").display()));
    command.arg(format!("--web.listen-address={address}"));
    let prometheus = Process::spawn(command).expect("prometheus (Debian package prometheus)");
    let url = format!("http://{address}/api/v1/query?query=up");
    let scraped = async {
        loop {
            if let Ok(answer) = service.client.get(&url).send().await {
                let answer: Value = answer.json().await.unwrap_or_default();
                if answer["data"]["result"][0]["value"][1] == "1" {
                    return;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, scraped).await;
    assert!(waited.is_ok(), "{}", prometheus.output());
}

#[tokio::test]
async fn labels_stay_bounded_however_many_names_clients_make_up() {
    const CLIENTS: usize = 60;
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let service = stage.serve().await;
    let run = async |n: usize| {
        let made_up = |kind: &str| format!("madeup-{kind}-{n}");
        let body = json!({"input": "x", "session": made_up("session"), "user": made_up("user"),
            "tenant": made_up("tenant"), "labels": {made_up("label"): made_up("value")}});
        assert_eq!(service.post("/run", &body).send().await.unwrap().status(), 200);
        service.get(&format!("/no/such/{}", made_up("path"))).send().await.unwrap();
        service.get(&format!("/tasks/{}", made_up("task"))).send().await.unwrap();
    };
    let finished = |count: usize| format!("mote_tasks_finished_total{{status=\"completed\"}} {count}");
    run(0).await;
    let before = metrics_with(&service, &[&finished(1)]).await.lines().count();
    for n in 1..CLIENTS {
        run(n).await;
    }
    let after = metrics_with(&service, &[&finished(CLIENTS)]).await;
    let grown = after.lines().count() - before;
    assert!(grown < CLIENTS - 1, "{grown} lines more for {} clients more: {after}", CLIENTS - 1);
    assert!(!after.contains("madeup"), "{after}");
}

#[tokio::test]
async fn spans_carry_the_callers_trace_to_the_model_and_to_the_tools() {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url();
    let stage = Stage::new(three_tools()).await.with(|agent| agent["telemetry"] = json!({"otlp": url}));
    let mut service = stage.serve().await;
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let request = service.post("/run", &json!({"input": "Order a lamp"})).header("traceparent", traceparent);
    assert_eq!(request.send().await.unwrap().status(), 200);
    service.terminate().await.unwrap();
    let agent = receiver.wait_for(|span| span.name.starts_with("invoke_agent")).await.unwrap();
    let tool = receiver.wait_for(|span| span.name == "execute_tool look_up").await.unwrap();
    let chat = receiver.wait_for(|span| span.name == "chat planned").await.unwrap();
    for span in [&agent, &tool, &chat] {
        assert_eq!(span.trace_id, TRACE, "{span:?}");
    }
    assert_eq!(chat.kind, 3, "a model call is a client's span: {chat:?}");
    assert_eq!(tool.attributes.get("gen_ai.tool.name").map(String::as_str), Some("look_up"), "{tool:?}");
    assert!(tool.attributes.contains_key("gen_ai.tool.call.id"), "{tool:?}");
    assert_eq!(chat.attributes.get("gen_ai.request.model").map(String::as_str), Some("planned"), "{chat:?}");
    assert!(chat.attributes.contains_key("gen_ai.usage.input_tokens"), "{chat:?}");
    assert!(agent.resource.contains_key("service.name"), "{agent:?}");
    let onward: Vec<String> = stage
        .model
        .requests()
        .iter()
        .filter_map(|request| request.header("traceparent").map(str::to_owned))
        .chain(stage.backend.requests().iter().filter_map(|request| request.header("traceparent").map(str::to_owned)))
        .collect();
    assert_eq!(onward.len(), 2 + 3, "every call carries the context: {onward:?}");
    assert!(onward.iter().all(|header| header.contains(TRACE)), "{onward:?}");
    assert!(receiver.refused().is_empty());
}

/// Content and secrets through every path: input, reply, arguments, results, errors.
async fn leaky(content: bool) -> (Stage, system_tests::process::service::Service, Receiver) {
    let receiver = Receiver::start().await.unwrap();
    let url = receiver.url();
    let calls = Behaviour::text("REPLY-plum").and_call("look_up", json!({"name": "ARGUMENT-plum"}));
    let plan = Plan::turns([calls, Behaviour::text("ANSWER-plum")]);
    let failing = When { input: Some("fail".to_owned()), ..When::default() };
    let stage = Stage::new(plan.rule(failing, None, Behaviour::status(401))).await;
    let stage = stage.with(|agent| {
        let content = if content { "on" } else { "off" };
        agent["telemetry"] = json!({"otlp": url, "content": content, "log": "trace"});
    });
    let mut service = stage.serve().await;
    service.post("/run", &json!({"input": "INPUT-plum"})).send().await.unwrap();
    service.post("/run", &json!({"input": "fail"})).send().await.unwrap();
    service.terminate().await.unwrap();
    receiver.wait_for(|span| span.name.starts_with("invoke_agent")).await.unwrap();
    (stage, service, receiver)
}

#[tokio::test]
async fn secrets_are_in_no_log_no_trace_and_no_file() {
    for content in [false, true] {
        let (stage, service, receiver) = leaky(content).await;
        assert!(stage.backend.requests()[0].header("authorization").unwrap().contains(TOOL_KEY), "it was used");
        for secret in [MODEL_KEY, TOOL_KEY] {
            assert!(!service.process.output().contains(secret), "in the log");
            assert!(!receiver.bodies().iter().any(|body| contains(body, secret)), "in a trace");
            assert!(!stage.state_contains(secret), "in the store");
        }
    }
}

#[tokio::test]
async fn content_is_in_no_log_and_no_trace_unless_it_is_turned_on() {
    let words = ["INPUT-plum", "REPLY-plum", "ARGUMENT-plum", "ANSWER-plum"];
    let (_stage, service, receiver) = leaky(false).await;
    for word in words {
        assert!(!service.process.output().contains(word), "{word} in the log: {}", service.process.output());
        assert!(!receiver.bodies().iter().any(|body| contains(body, word)), "{word} in a trace");
    }
    let (_stage, service, receiver) = leaky(true).await;
    let somewhere = |word: &str| {
        service.process.output().contains(word) || receiver.bodies().iter().any(|body| contains(body, word))
    };
    assert!(words.iter().any(|word| somewhere(word)), "turning it on has an effect");
}

#[tokio::test]
async fn every_line_of_the_log_is_an_object_with_time_level_target_and_message() {
    let stage = Stage::new(three_tools()).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp", "session": "s1"})).await.unwrap();
    service.finished(&id).await.unwrap();
    service.terminate().await.unwrap();
    let output = service.process.stdout();
    let lines: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(!lines.is_empty());
    for line in &lines {
        let time = line["time"].as_str().or_else(|| line["timestamp"].as_str()).unwrap_or_else(|| panic!("{line}"));
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        for field in ["level", "target", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    assert!(lines.iter().any(|line| line["task_id"] == id.as_str()), "a task's lines can be found: {output}");
}

#[tokio::test]
async fn a_service_whose_only_model_is_down_says_so_by_name() {
    let stage = Stage::new(Plan::turns([Behaviour::fault(Fault::Status { status: 503, retry_after: None })])).await;
    let stage = stage.with(|agent| agent["limits"]["model_attempts"] = json!(1));
    let service = stage.serve().await;
    assert_eq!(service.get("/health").send().await.unwrap().status(), 200);
    // Failures open the circuit; while every circuit is open nothing can be answered.
    let unready = async {
        loop {
            service.post("/run", &json!({"input": "x"})).send().await.unwrap();
            let ready = service.get("/ready").send().await.unwrap();
            if ready.status() == 503 {
                return ready.text().await.unwrap();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, unready).await.expect("it stays ready with no model to call");
    assert!(text.contains("model"), "{text}");
    assert_eq!(service.get("/health").send().await.unwrap().status(), 200, "alive nonetheless");
}
