//! Model endpoints as they are: the bytes of servers in use, played to the shipped binary over plain TCP, and what must come of
//! them.
//!
//! Each file in `cases/` is one kind. A case has an `id`, the `api`, the `replies` (one a request; the last is repeated), and
//! what is to `expect`. A reply is a list of steps: `{"write": bytes}`, or `{"hold": true}`, which keeps the socket open until the
//! other end closes it. [`expect::Expect`] says what can be asked for.

mod adapted;
mod expect;
mod history_cases;
mod player;

use serde::Deserialize;
use serde_json::{Value, json};
use system_tests::backend::Backend;
use system_tests::process::service::{Launch, Service};
use tempfile::TempDir;

use self::expect::Expect;
use self::player::{Player, Reply};
use crate::stage::{MODEL_KEY, TOOL_KEY};

/// Cases that are played at the same time.
const SIDE_BY_SIDE: usize = 4;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    api: String,
    /// What is peculiar, for who reads the file.
    #[serde(default)]
    about: String,
    replies: Vec<Reply>,
    expect: Expect,
}

/// An agent whose model is a [`Player`], with tools of which the backend says what reached it.
struct Stand {
    folder: TempDir,
    player: Player,
    backend: Backend,
    agent: Value,
}

impl Stand {
    async fn new(api: &str, replies: Vec<Reply>) -> Self {
        let player = Player::start(replies).await;
        let backend = Backend::start().await.unwrap();
        let base_url = if api == "openai" { format!("{}/v1", player.url()) } else { player.url() };
        let agent = agent(api, &base_url, &backend.url());
        Self { folder: TempDir::with_prefix("mote-wire-").unwrap(), player, backend, agent }
    }

    async fn serve(&self) -> Service {
        let file = self.folder.path().join("agent.yaml");
        std::fs::write(&file, self.agent.to_string()).unwrap();
        let launch = Launch::new(file, self.folder.path().join("state"));
        launch.env("MODEL_KEY", MODEL_KEY).env("TOOL_KEY", TOOL_KEY).start().await.unwrap()
    }
}

fn tool(name: &str, effect: &str, method: &str, url: &str, input: &Value) -> Value {
    json!({
        "name": name, "description": format!("The tool {name}."), "effect": effect, "input": input,
        "http": {"method": method, "url": url, "allow_private": true},
    })
}

fn agent(api: &str, base_url: &str, backend: &str) -> Value {
    let input =
        |field: &str, kind: &str| json!({"type": "object", "required": [field], "properties": {field: {"type": kind}}});
    json!({
        "apiVersion": "mote/v1", "kind": "Agent", "name": "wired", "version": "1.0.0",
        "description": "An agent under test.", "prompt": "You are an agent under test.",
        // USD a million tokens: 1,000 and 10,000 nano-USD a token. Silence on a socket is waited for longer than a test is.
        "model": {
            "provider": api, "name": "m", "base_url": base_url, "key": {"env": "MODEL_KEY"},
            "price": {"input": 1, "output": 10}, "timeout": "10m", "idle_timeout": "10m",
        },
        "tools": [
            tool("get_ticket", "read", "GET", &format!("{backend}/read/{{id}}"), &input("id", "string")),
            tool("by_number", "read", "GET", &format!("{backend}/read/{{n}}"), &input("n", "integer")),
            tool("purge", "write", "POST", &format!("{backend}/write/purge"), &json!({"type": "object"})),
        ],
        "limits": {"backoff": "10ms", "backoff_max": "20ms"},
    })
}

/// Plays a case; what is not as expected.
async fn play(case: Case) -> Vec<String> {
    let stand = Stand::new(&case.api, case.replies.clone()).await;
    let service = stand.serve().await;
    let answer = service.post("/run", &json!({"input": "Sort ticket 1"})).send().await.unwrap();
    let task: Value = answer.json().await.unwrap();
    let reached: Vec<String> =
        stand.backend.requests().into_iter().map(|request| format!("{} {}", request.method, request.target)).collect();
    let misses = case.expect.misses(&task, &reached, &stand.player.requests());
    misses.into_iter().map(|miss| format!("{} ({}): {miss}", case.id, case.about)).collect()
}

/// Plays every case of a file.
async fn play_all(file: &str) {
    let cases: Vec<Case> = serde_json::from_str(file).unwrap();
    assert!(!cases.is_empty());
    let ids: std::collections::BTreeSet<_> = cases.iter().map(|case| case.id.clone()).collect();
    assert_eq!(ids.len(), cases.len(), "each case has an id of its own");
    let mut missed = Vec::new();
    for some in cases.chunks(SIDE_BY_SIDE) {
        missed.extend(futures_util::future::join_all(some.iter().cloned().map(play)).await.concat());
    }
    assert!(missed.is_empty(), "{} not as expected:\n{}", missed.len(), missed.join("\n"));
}

#[tokio::test]
async fn ends_that_are_no_ends() {
    play_all(include_str!("cases/ends.json")).await;
}

#[tokio::test]
async fn deltas_are_put_together() {
    play_all(include_str!("cases/deltas.json")).await;
}

#[tokio::test]
async fn counts_are_read() {
    play_all(include_str!("cases/counts.json")).await;
}

#[tokio::test]
async fn refusals_are_told_apart() {
    play_all(include_str!("cases/refusals.json")).await;
}

#[tokio::test]
async fn sockets_and_bodies_of_every_kind() {
    play_all(include_str!("cases/sockets.json")).await;
}
