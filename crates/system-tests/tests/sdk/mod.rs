//! The official OpenAI and Anthropic SDKs for Python against the fake model: it speaks the formats that it claims.
//!
//! They are installed from PyPI into a venv under the target folder, once; `MOTE_TEST_VENV` names another. Versions are
//! pinned in `xtask/requirements/tests.txt`. What the fake refuses to a client is tested in `equipment.rs`, not here.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use system_tests::fake_model::{Behaviour, FakeModel, Plan, Tokens};
use system_tests::process::binary::{environment, scratch, workspace};

pub(crate) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let venv = environment("MOTE_TEST_VENV").map_or_else(|| scratch().unwrap().join("venv"), PathBuf::from);
            let python = venv.join("bin/python");
            let has = |python: &PathBuf| {
                let check = Command::new(python).args(["-c", "import openai, anthropic, schemathesis"]).output();
                check.is_ok_and(|output| output.status.success())
            };
            if !has(&python) {
                run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
                let pinned = workspace().join("xtask/requirements/tests.txt");
                run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(pinned));
            }
            python
        })
        .clone()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script against a fake that calls a tool first and answers then, with reasoning and cached tokens.
async fn against_the_fake(script: &'static str) {
    let usage = Tokens { input: 120, cache_read: 100, cache_write: 5, output: 40, reasoning: 10 };
    let first = Behaviour::text("Let me look.").and_call("get_ticket", json!({"id": "T-1"})).using(usage);
    let second = Behaviour::text("It is about {{results}}.").thinking("A short thought, in pieces.").using(usage);
    let fake = FakeModel::start(Plan::turns([first, second])).await.unwrap();
    let url = fake.url();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(python());
        command.args(["-W", "error", "-c", script]).env("FAKE_URL", url).env("NO_PROXY", "127.0.0.1");
        run(&mut command)
    });
    assert_eq!(output.await.unwrap().trim(), "ok");
    // The Anthropic script edits a thinking block on purpose; nothing else may be refused.
    let requests = fake.requests();
    let mut refusals = requests.iter().filter_map(|request| request.refused.as_deref());
    assert!(refusals.all(|why| why.contains("signature")), "{requests:?}");
}

#[tokio::test]
async fn the_openai_sdk_works_against_the_fake_streamed_and_not() {
    against_the_fake(include_str!("openai_client.py")).await;
}

#[tokio::test]
async fn the_anthropic_sdk_works_against_the_fake_streamed_and_not() {
    against_the_fake(include_str!("anthropic_client.py")).await;
}
