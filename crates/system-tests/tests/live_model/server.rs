//! The server of `examples/local-model` as a child process, and what it counts.
//!
//! It asserts nothing about the product. Where the model is not installed, the server's own message says what to run.

use serde_json::{Value, json};
use system_tests::limits::{PATIENCE, POLL};
use system_tests::process::Process;
use system_tests::process::binary::workspace;
use system_tests::process::service::{clean, client};
use tokio::process::Command;

/// The name under which a grammar holds the model's choice of tools.
pub(crate) const HELD: &str = "gemma-3-270m";
/// The same model, held to nothing but `response_format`.
pub(crate) const FREE: &str = "gemma-3-270m-free";

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    _process: Process,
    url: String,
}

impl Server {
    /// Starts it with so many tokens of context, and waits until it has loaded the model.
    pub(crate) async fn start(context: u32) -> Self {
        let mut command = Command::new("node");
        command.arg(workspace().join("examples/local-model/server.mjs"));
        // One thread: other tests may be at work.
        command.args(["--port", "0", "--threads", "1", "--context", &context.to_string()]);
        clean(&mut command);
        let mut process = Process::spawn(command).unwrap();
        let listening = |line: &str| Some(line.strip_prefix("listening on ")?.split_once("/v1")?.0.to_owned());
        let url = process.line(listening).await.unwrap();
        println!("live: a model of 270 million parameters, {context} tokens of context, at {url}");
        Self { _process: process, url }
    }

    /// The `model` block for it.
    pub(crate) fn endpoint(&self, name: &str) -> Value {
        json!({
            "provider": "openai", "name": name, "base_url": format!("{}/v1", self.url), "temperature": 0,
            "price": {"input": 0.1, "output": 0.4}, "output_max": 192, "timeout": "2m", "idle_timeout": "1m",
        })
    }

    /// What it counted so far.
    pub(crate) async fn stats(&self) -> Value {
        client().get(format!("{}/stats", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Waits until it works on nothing; what it counted then.
    pub(crate) async fn at_rest(&self) -> Value {
        let resting = async {
            loop {
                let stats = self.stats().await;
                if stats["open"] == 0 {
                    return stats;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, resting).await.expect("the model goes on for nobody")
    }

    /// A request of Chat Completions.
    pub(crate) async fn ask(&self, body: &Value) -> reqwest::Response {
        client().post(format!("{}/v1/chat/completions", self.url)).json(body).send().await.unwrap()
    }
}
