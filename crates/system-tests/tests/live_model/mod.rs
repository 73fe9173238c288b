//! A real model behind a real server: what only one that computes its tokens can show.
//!
//! The model is small and says odd things, so nothing here looks at its words. `cargo xtask test live` installs it and runs these
//! tests, one at a time, with what they print; `cargo test` alone needs `cargo xtask local-model` before.
#![expect(clippy::print_stdout, reason = "these tests say what the model did")]

mod server;

use serde_json::{Value, json};
use system_tests::fake_model::Plan;
use system_tests::process::binary::workspace;
use system_tests::process::service::{Finished, Service, run_mote};

use crate::stage::{Event, Events, Stage, tool};
use server::{FREE, HELD, Server};

/// An agent that asks the server; `change` says what else is different.
async fn stage(server: &Server, name: &str, change: impl FnOnce(&mut Value)) -> Stage {
    let stage = Stage::new(Plan::default()).await;
    stage.with(|agent| {
        agent["prompt"] = json!("You work in a shop. Look things up before you answer.");
        agent["model"] = server.endpoint(name);
        agent["tools"] = json!([]);
        agent["server"]["lease"] = json!("15s");
        change(agent);
    })
}

/// A tool of which the model can choose little: what it calls is a real backend.
fn look_up(stage_url: &str) -> Value {
    let mut look_up = tool("look_up", "read", "GET", &format!("{stage_url}/read/{{name}}"));
    look_up["input"]["properties"] = json!({"name": {"enum": ["lamp", "chair"]}});
    look_up
}

/// A result of some words at most.
fn short_answer() -> Value {
    json!({"schema": {"type": "object", "required": ["answer"], "additionalProperties": false,
        "properties": {"answer": {"type": "string", "maxLength": 40}}}})
}

/// A result that takes the model a while: hundreds of numbers.
fn long_answer() -> Value {
    json!({"schema": {"type": "object", "required": ["numbers"], "additionalProperties": false,
        "properties": {"numbers": {"type": "array", "minItems": 400, "items": {"type": "integer"}}}}})
}

fn pieces<'a>(events: impl IntoIterator<Item = &'a Value>, part: &str) -> Vec<String> {
    let deltas = events.into_iter().filter(|event| event["type"] == "delta" && event["part"] == part);
    deltas.map(|delta| delta["text"].as_str().unwrap().to_owned()).collect()
}

fn is_piece_of_text(event: &Event) -> bool {
    event.data["type"] == "delta" && event.data["part"] == "text"
}

/// One task to its end, however it goes.
async fn run(service: &Service, body: &Value) -> Value {
    service.post("/run", body).send().await.unwrap().json().await.unwrap()
}

/// A copy of the examples, where every server has a port of its own.
fn examples() -> tempfile::TempDir {
    let folder = tempfile::TempDir::with_prefix("mote-local-model-").unwrap();
    let ports = ["4717", "4718"].map(|port| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        (port, free.to_string())
    });
    for example in ["quickstart", "local-model"] {
        std::fs::create_dir(folder.path().join(example)).unwrap();
        for entry in std::fs::read_dir(workspace().join("examples").join(example)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                let text = ports.iter().fold(text, |text, (port, free)| text.replace(port, free));
                std::fs::write(folder.path().join(example).join(path.file_name().unwrap()), text).unwrap();
            }
        }
    }
    folder
}

#[tokio::test]
async fn the_example_runs_as_it_ships_with_a_model_on_this_machine() {
    let folder = examples();
    println!("live: mote run examples/local-model, which starts its backend and its model");
    let Finished { code, stdout, stderr } =
        run_mote(folder.path(), &["run", "--json", "local-model"], &[]).await.unwrap();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let task = &lines.last().unwrap()["task"];
    println!("live: {}; it used {}", task["result"], task["usage"]);
    assert_eq!(task["status"], "completed");
    let category = task["result"]["category"].as_str().unwrap();
    assert!(["delivery", "refund", "account", "other"].contains(&category), "{task}");
    let result: Value = serde_json::from_str(&pieces(&lines, "text").concat()).unwrap();
    assert_eq!(result, task["result"], "the deltas are the result");
    let answered = lines.iter().find(|line| line["kind"] == "call.answered").unwrap();
    println!("live: the backend answered {}", answered["payload"]["content"]);
    assert_eq!(answered["payload"]["tool"], "get_ticket");
}

#[tokio::test]
async fn the_example_says_what_to_install_where_the_model_is_not() {
    let folder = examples();
    let empty = tempfile::TempDir::new().unwrap();
    let variables = [("MOTE_LOCAL_MODEL", empty.path().to_str().unwrap())];
    let done = run_mote(folder.path(), &["run", "local-model"], &variables).await.unwrap();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stderr.contains("cargo xtask local-model"), "{done:?}");
}

#[tokio::test]
async fn a_run_streams_calls_its_tool_satisfies_its_schema_and_is_charged_what_the_server_counted() {
    let server = Server::start(2048).await;
    let stage = stage(&server, HELD, |agent| agent["output"] = short_answer()).await;
    let tools = json!([look_up(&stage.backend.url())]);
    let stage = stage.with(|agent| agent["tools"] = tools);
    let service = stage.serve().await;
    let request = service.post("/run", &json!({"input": "Is the lamp there?"})).header("accept", "text/event-stream");
    let events = Events::of(request.send().await.unwrap()).rest().await;
    let events: Vec<Value> = events.into_iter().map(|event| event.data).collect();
    let task = &events.last().unwrap()["task"];
    let text = pieces(&events, "text");
    println!("live: {} deltas of text; called {:?}; {task}", text.len(), pieces(&events, "call"));
    assert_eq!(task["status"], "completed", "{events:?}");
    assert!(text.len() > 1, "the answer comes in pieces: {text:?}");
    assert_eq!(serde_json::from_str::<Value>(&text.concat()).unwrap(), task["result"]);
    assert!(task["result"]["answer"].is_string(), "{task}");
    let called: u64 = ["read/lamp", "read/chair"].iter().map(|route| stage.backend.count(route).requests).sum();
    assert!(called > 0 && task["tool_calls"] == called, "{called}: {task}");
    let stats = server.at_rest().await;
    assert!(stats["prompt_tokens"].as_u64() > Some(0) && stats["completion_tokens"].as_u64() > Some(0), "{stats}");
    assert_eq!(
        (&task["usage"]["input"], &task["usage"]["output"]),
        (&stats["prompt_tokens"], &stats["completion_tokens"])
    );
    let tokens = |name: &str| stats[name].as_u64().unwrap();
    assert_eq!(task["cost"]["nano_usd"], tokens("prompt_tokens") * 100 + tokens("completion_tokens") * 400);
}

#[tokio::test]
async fn a_task_that_is_cancelled_and_a_client_that_goes_away_stop_the_model() {
    let server = Server::start(4096).await;
    let stage = stage(&server, HELD, |agent| {
        agent["output"] = long_answer();
        agent["model"]["output_max"] = json!(3000);
    });
    let stage = stage.await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Count."})).await.unwrap();
    let mut events = Events::of(service.get(&format!("/tasks/{id}/events")).send().await.unwrap());
    events.until(is_piece_of_text).await;
    assert_eq!(service.post(&format!("/tasks/{id}/cancel"), &json!({})).send().await.unwrap().status(), 202);
    assert_eq!(service.finished(&id).await.unwrap()["status"], "cancelled");
    let stats = server.at_rest().await;
    println!("live: cancelled within a reply: {stats}");
    assert_eq!((&stats["abandoned"], &stats["replied"]), (&json!(1), &json!(0)), "{stats}");

    let request = service.post("/run", &json!({"input": "Count."})).header("accept", "text/event-stream");
    let mut events = Events::of(request.send().await.unwrap());
    events.until(is_piece_of_text).await;
    drop(events);
    let page: Value = service.get("/tasks").send().await.unwrap().json().await.unwrap();
    for task in page["tasks"].as_array().unwrap() {
        assert_eq!(service.finished(task["id"].as_str().unwrap()).await.unwrap()["status"], "cancelled");
    }
    let stats = server.at_rest().await;
    println!("live: the client went away within a reply: {stats}");
    assert_eq!((&stats["abandoned"], &stats["replied"]), (&json!(2), &json!(0)), "{stats}");
}

/// The agent takes the window to be larger than it is: the server refuses, the run leaves out the oldest and goes on.
#[tokio::test]
async fn a_session_that_outgrows_the_servers_window_goes_on() {
    let server = Server::start(512).await;
    let stage = stage(&server, HELD, |agent| {
        agent["output"] = short_answer();
        agent["model"]["output_max"] = json!(64);
    });
    let stage = stage.await;
    let service = stage.serve().await;
    let mut after = 0;
    for turn in 1.. {
        let input = format!("Turn {turn}. {}", "The lamp is on the table by the door. ".repeat(6));
        let task = run(&service, &json!({"input": input, "session": "long"})).await;
        assert_eq!(task["status"], "completed", "turn {turn}: {task}");
        let refused = server.stats().await["refused"].as_u64().unwrap();
        println!("live: turn {turn}: {} tokens in, {refused} refused so far", task["usage"]["input"]);
        assert!(task["usage"]["input"].as_u64() < Some(512), "{task}");
        after += u32::from(refused > 0);
        if after == 3 {
            break;
        }
        assert!(turn < 20, "the server never refused");
    }
}

/// The agent knows the window: the server has nothing to refuse.
#[tokio::test]
async fn a_session_is_trimmed_before_it_outgrows_the_window_that_the_agent_names() {
    let server = Server::start(1024).await;
    let stage = stage(&server, HELD, |agent| {
        agent["output"] = short_answer();
        agent["model"]["output_max"] = json!(64);
        agent["context"] = json!({"window": 1024, "reserve": 128});
    });
    let stage = stage.await;
    let service = stage.serve().await;
    let mut sent = 0;
    for turn in 1..=8 {
        let input = format!("Turn {turn}. {}", "The lamp is on the table by the door. ".repeat(12));
        sent += input.len();
        let task = run(&service, &json!({"input": input, "session": "long"})).await;
        println!("live: turn {turn}: {} tokens in", task["usage"]["input"]);
        assert_eq!(task["status"], "completed", "turn {turn}: {task}");
    }
    assert!(sent > 4 * 896, "more than the window was said");
    assert_eq!(server.stats().await["refused"], 0);
}

#[tokio::test]
async fn an_input_that_no_trimming_fits_into_the_window_fails_with_its_code() {
    let server = Server::start(512).await;
    let stage = stage(&server, HELD, |agent| agent["output"] = short_answer()).await;
    let service = stage.serve().await;
    let task = run(&service, &json!({"input": "lamp and chair ".repeat(1000)})).await;
    println!("live: {}", task["error"]);
    assert_eq!((&task["status"], &task["error"]["code"]), (&json!("failed"), &json!("context_overflow")), "{task}");
    assert_eq!(server.stats().await["refused"], 1);
}

/// A small model that is held to nothing neither calls nor writes JSON reliably: whatever it says, the run ends in a way that
/// docs/errors.md has.
#[tokio::test]
async fn a_model_that_is_held_to_nothing_ends_each_run_in_a_documented_way() {
    let server = Server::start(2048).await;
    let documented = std::fs::read_to_string(workspace().join("docs/errors.md")).unwrap();
    for (tools, output) in [(false, false), (true, false), (true, true)] {
        let stage = stage(&server, FREE, |agent| {
            agent["model"]["output_max"] = json!(64);
            if output {
                agent["output"] = short_answer();
            }
        });
        let stage = stage.await;
        let offered = if tools { json!([look_up(&stage.backend.url())]) } else { json!([]) };
        let stage = stage.with(|agent| agent["tools"] = offered);
        let service = stage.serve().await;
        let task = run(&service, &json!({"input": "Is the lamp there?"})).await;
        println!("live: tools {tools}, schema {output}: {} {}{}", task["status"], task["result"], task["error"]);
        let code = task["error"]["code"].as_str();
        assert!(
            task["status"] == "completed" || code.is_some_and(|code| documented.contains(&format!("| `{code}` |"))),
            "{task}"
        );
        assert!(task["usage"]["output"].as_u64() > Some(0), "{task}");
    }
}

/// The server itself: what other clients than Mote rely on.
#[tokio::test]
async fn the_server_answers_whole_replies_and_refuses_as_openai_does() {
    let server = Server::start(512).await;
    let messages = json!([{"role": "user", "content": "Hello."}]);
    let whole: Value =
        server.ask(&json!({"model": HELD, "messages": messages, "max_tokens": 8})).await.json().await.unwrap();
    let choice = &whole["choices"][0];
    assert!(
        choice["message"]["content"].is_string() && whole["usage"]["completion_tokens"].as_u64() <= Some(8),
        "{whole}"
    );
    assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()), "{whole}");
    let call = json!({"type": "function", "function": {"name": "look_up", "description": "Looks up.", "parameters":
        {"type": "object", "required": ["name"], "properties": {"name": {"enum": ["lamp"]}}}}});
    let asked = json!({"model": HELD, "messages": messages, "tools": [call]});
    let called: Value = server.ask(&asked).await.json().await.unwrap();
    let choice = &called["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{called}");
    let arguments = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({"name": "lamp"}));
    let result = json!({"role": "tool", "tool_call_id": "1", "content": "It is there."});
    let told = json!([{"role": "user", "content": "Is it there?"}, {"role": "assistant", "content": null,
        "tool_calls": [choice["message"]["tool_calls"][0]]}, result, result]);
    let asked = json!({"model": HELD, "messages": told, "tools": [call], "stream": true, "max_tokens": 24});
    let mut events = Events::of(server.ask(&asked).await);
    let chunks: Vec<Value> = events.rest().await.into_iter().map(|event| event.data).collect();
    let delta = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
    let said: String = chunks.iter().map(delta).collect();
    println!("live: after its calls a model without a schema answers in words: {said:?}");
    assert!(!said.trim().is_empty() && !said.contains("\"answer\""), "{chunks:?}");
    for (body, status, code) in [
        (json!({"model": "gpt", "messages": messages}), 404, "model_not_found"),
        (json!({"model": HELD, "messages": []}), 400, "invalid_messages"),
        (
            json!({"model": HELD, "messages": [{"role": "user", "content": "a b ".repeat(1000)}]}),
            400,
            "context_length_exceeded",
        ),
    ] {
        let answer = server.ask(&body).await;
        assert_eq!(answer.status(), status);
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
}
