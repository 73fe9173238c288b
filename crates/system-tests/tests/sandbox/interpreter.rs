//! The code interpreter by E2B's own SDKs, and what becomes of a context whose process does not survive.

use std::path::PathBuf;
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::process::binary::scratch;

use crate::e2b::{client, interpreter, packages, python};
use crate::fixture::Daemon;

/// The SDK for Python of an earlier generation.
fn earlier() -> PathBuf {
    interpreter(scratch().unwrap().join("venv-e2b-earlier"), "sandbox-earlier.txt", "e2b, e2b_code_interpreter")
}

#[tokio::test]
async fn both_generations_of_the_code_interpreters_sdk_work_unmodified() {
    for python in [python, earlier] {
        let daemon = Daemon::start().await;
        let output = client(&daemon, move || {
            let mut command = Command::new(python());
            command.args(["-c", include_str!("e2b_interpreter.py")]);
            command
        });
        assert_eq!(output.await, "ok");
    }
}

#[tokio::test]
async fn the_code_interpreters_sdk_for_javascript_works_unmodified() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let folder = packages();
        let script = folder.join("e2b_interpreter.mjs");
        std::fs::write(&script, include_str!("e2b_interpreter.mjs")).unwrap();
        let mut command = Command::new("node");
        command.arg(script).current_dir(folder);
        command
    });
    assert_eq!(output.await, "ok");
}

/// Everything that a cell told; the status and the text where it was refused.
async fn cell(daemon: &Daemon, id: &str, body: Value) -> Vec<Value> {
    let response =
        daemon.request(Method::POST, &format!("/v1/sandboxes/{id}/code/execute")).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{body}");
    let text = response.text().await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(told: &'a [Value], kind: &str) -> Vec<&'a Value> {
    told.iter().filter(|message| message["type"] == kind).collect()
}

#[tokio::test]
async fn a_context_that_memory_ran_out_for_says_so_and_begins_anew() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({ "resources": { "memory": "128MiB" } })).await;
    let greedy = "held = []\nwhile True: held.append(bytearray(b'x') * 1_000_000)";
    let told = cell(&daemon, id, json!({ "code": greedy })).await;
    let error = of(&told, "error")[0];
    assert_eq!(error["name"], "ContextRestarting", "{error}");
    assert!(error["value"].as_str().unwrap().contains("memory ran out"), "{error}");
    assert_eq!(told.last().unwrap()["type"], "end_of_execution");
    assert_eq!(of(&cell(&daemon, id, json!({ "code": "1 + 1" })).await, "result")[0]["text"], "2");
    // One of the code's own children: the cell goes on, and hears of it.
    let child = format!("import subprocess, sys\nsubprocess.run([sys.executable, '-c', {greedy:?}]).returncode");
    let told = cell(&daemon, id, json!({ "code": child })).await;
    assert_eq!(of(&told, "result")[0]["text"], "-9", "{told:?}");
    assert!(of(&told, "stderr")[0]["text"].as_str().unwrap().contains("memory ran out"), "{told:?}");
}

/// The driver drops what a result cannot hold, and the daemon what no driver would write: the cell goes on, and its client knows.
#[tokio::test]
async fn a_part_of_the_output_that_is_too_large_is_dropped_and_said_to_be() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({ "resources": { "memory": "1GiB" } })).await;
    let python =
        "class Big:\n    def _repr_png_(self): return bytes(20_000_000)\n    def __repr__(self): return 'big'\nBig()";
    let told = cell(&daemon, id, json!({ "code": python })).await;
    let result = of(&told, "result")[0];
    assert!(result.get("png").is_none(), "26 MiB in base64");
    assert!(result["text"].as_str().unwrap().starts_with("big\n[dropped"), "{result}");
    let javascript = "const big = { [Symbol.for('Jupyter.display')]: () => ({ 'text/plain': 'big', 'image/png': 'x'.repeat(25 << 20) }) }; big";
    let told = cell(&daemon, id, json!({ "code": javascript, "language": "javascript" })).await;
    let result = of(&told, "result")[0];
    assert!(result.get("png").is_none() && result["text"].as_str().unwrap().starts_with("big\n[dropped"), "{result}");
    // Code that writes to the driver's own stream: a line without an end.
    let forged = "import os\nwire = get_ipython()._kernel.wire.messages\nfor _ in range(33):\n    rest = memoryview(b'x' * (1 << 20))\n    \
                  while rest: rest = rest[os.write(wire, rest):]\nos.write(wire, b'\\n')\nprint('on')";
    let told = cell(&daemon, id, json!({ "code": forged })).await;
    assert_eq!(of(&told, "error")[0]["name"], "OutputTooLarge", "{told:?}");
    assert_eq!(of(&told, "stdout")[0]["text"], "on\n");
}
