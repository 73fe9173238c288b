//! The code interpreter over the native API: what ends a cell, and what its context keeps through that.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// A language: its name; a cell that sets `x`, says so and never ends; a cell that prints `x`; the error of an interrupt.
struct Language {
    name: &'static str,
    endless: &'static str,
    print: &'static str,
    interrupted: &'static str,
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "python",
        endless: "x = 42\nprint('begun', flush=True)\nwhile True: pass",
        print: "print(x)",
        interrupted: "KeyboardInterrupt",
    },
    Language {
        name: "javascript",
        endless: "var x = 42; console.log('begun'); while (true) {}",
        print: "console.log(x)",
        interrupted: "Interrupted",
    },
    Language { name: "bash", endless: "x=42; echo begun; while :; do :; done", print: "echo $x", interrupted: "" },
];

/// A cell that runs: its messages as they come.
struct Running {
    response: Response,
    buffer: Vec<u8>,
}

impl Running {
    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.unwrap()?);
        }
    }

    /// Waits until it has printed something.
    async fn begun(&mut self) {
        while let Some(message) = self.next().await {
            if message["type"] == "stdout" {
                assert_eq!(message["text"].as_str().unwrap().trim(), "begun");
                return;
            }
        }
        panic!("the cell ended before it printed anything");
    }

    /// The rest of it: what it printed, and its error's name and text where it failed.
    async fn ended(mut self) -> (String, Option<(String, String)>) {
        let (mut printed, mut error, mut last) = (String::new(), None, Value::Null);
        while let Some(message) = self.next().await {
            match message["type"].as_str().unwrap() {
                "stdout" => printed.push_str(message["text"].as_str().unwrap()),
                "error" => {
                    let text = |name: &str| message[name].as_str().unwrap().to_owned();
                    error = Some((text("name"), text("value")));
                }
                _ => {}
            }
            last = message;
        }
        assert_eq!(last["type"], "end_of_execution", "the last message says that it is the last");
        (printed, error)
    }
}

async fn execute(daemon: &Daemon, id: &str, body: Value) -> Running {
    let path = format!("/v1/sandboxes/{id}/code/execute");
    let response = daemon.request(Method::POST, &path).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{body}");
    Running { response, buffer: Vec::new() }
}

async fn context(daemon: &Daemon, id: &str, language: &str) -> String {
    let body = json!({ "language": language, "cwd": "/tmp" });
    let made = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/code/contexts"), body).await;
    made["id"].as_str().unwrap().to_owned()
}

/// What a context prints for `x`.
async fn kept(daemon: &Daemon, id: &str, context: &str, language: &Language) -> String {
    let (printed, error) =
        execute(daemon, id, json!({ "code": language.print, "context_id": context })).await.ended().await;
    assert_eq!(error, None, "{}", language.name);
    printed.trim().to_owned()
}

#[tokio::test]
async fn an_interrupt_ends_the_cell_and_the_context_keeps_what_it_had() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let mut cell = execute(&daemon, &id, json!({ "code": language.endless, "context_id": context })).await;
        cell.begun().await;
        let interrupt = format!("/v1/sandboxes/{id}/code/contexts/{context}/interrupt");
        let response = daemon.request(Method::POST, &interrupt).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let (_, error) = cell.ended().await;
        let (name, value) = error.unwrap_or_else(|| panic!("{}: it ended as if it were done", language.name));
        assert!(name.contains(language.interrupted), "{}: {name}: {value}", language.name);
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
        // With nothing under way there is nothing to interrupt, and nothing breaks.
        assert!(daemon.request(Method::POST, &interrupt).send().await.unwrap().status().is_success());
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
    }
}

#[tokio::test]
async fn a_cells_own_time_limit_ends_it_alone() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let body = json!({ "code": language.endless, "context_id": context, "timeout_ms": 2000 });
        let (printed, error) = execute(&daemon, &id, body).await.ended().await;
        assert_eq!(printed.trim(), "begun", "{}", language.name);
        let (name, value) = error.unwrap_or_else(|| panic!("{}: it ended as if it were done", language.name));
        assert_eq!(name, "TimeoutError", "{}", language.name);
        assert!(value.contains("2000 ms"), "{}: {value}", language.name);
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
    }
    for wrong in [json!(0), json!(100_000_000_000_u64), json!(-1)] {
        let body = json!({ "code": "1", "timeout_ms": wrong });
        let (status, _) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/code/execute"), body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

/// A client goes away amid a cell, and then the daemon does: whoever comes next finds the context with what was set.
#[tokio::test]
async fn a_context_outlives_its_client_and_the_daemon() {
    let mut daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let mut contexts = Vec::new();
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let mut cell = execute(&daemon, &id, json!({ "code": language.endless, "context_id": context })).await;
        cell.begun().await;
        drop(cell);
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
        contexts.push(context);
    }
    // Another client's connection finds them all.
    let listed = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/code/contexts"), Value::Null).await;
    for context in &contexts {
        assert!(listed.to_string().contains(context.as_str()), "{listed}");
    }
    let mut cells = Vec::new();
    for (language, context) in LANGUAGES.iter().zip(&contexts) {
        let code = language.endless.replace("42", "43");
        let mut cell = execute(&daemon, &id, json!({ "code": code, "context_id": context })).await;
        cell.begun().await;
        cells.push(cell);
    }
    daemon.restart().await;
    drop(cells);
    for (language, context) in LANGUAGES.iter().zip(&contexts) {
        assert_eq!(kept(&daemon, &id, context, language).await, "43", "{}", language.name);
    }
}

#[tokio::test]
async fn a_restart_begins_a_context_anew_also_amid_a_cell() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let mut cell = execute(&daemon, &id, json!({ "code": language.endless, "context_id": context })).await;
        cell.begun().await;
        let restart = format!("/v1/sandboxes/{id}/code/contexts/{context}/restart");
        let response = daemon.request(Method::POST, &restart).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let (_, error) = tokio::time::timeout(Duration::from_secs(60), cell.ended()).await.unwrap();
        assert_eq!(error.map(|(name, _)| name).as_deref(), Some("ContextEnded"), "{}", language.name);
        let body = json!({ "code": language.print, "context_id": context });
        let (printed, error) = execute(&daemon, &id, body).await.ended().await;
        // Bash prints an empty line for what is not set.
        assert!(error.is_some() || printed.trim().is_empty(), "{}: {printed}", language.name);
    }
}
