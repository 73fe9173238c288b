//! E2B's SDKs, unmodified from their registries, against the real daemon; `curl`'s way into a preview beside them.
//!
//! They are installed under the target folder, once. Versions are pinned here (npm) and in `xtask/requirements/sandbox.txt`
//! (PyPI). What each script checks stands in the script.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use system_tests::process::binary::{environment, scratch, workspace};

use super::fixture::Daemon;

/// The SDKs for JavaScript.
const PACKAGES: [&str; 2] = ["e2b@2.51.0", "@e2b/code-interpreter@2.8.0"];

pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?} failed: {}\n{stdout}\n{stderr}", output.status);
    stdout.trim().to_owned()
}

pub(super) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let named = environment("MOTE_TEST_E2B_VENV").map(PathBuf::from);
            let venv = named.unwrap_or_else(|| scratch().unwrap().join("venv-e2b"));
            let python = venv.join("bin/python");
            let has =
                Command::new(&python).args(["-c", "import e2b, e2b_code_interpreter, swerex.runtime.remote"]).output();
            if !has.is_ok_and(|output| output.status.success()) {
                run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
                let pinned = workspace().join("xtask/requirements/sandbox.txt");
                run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(pinned));
            }
            python
        })
        .clone()
}

pub(super) fn packages() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let named = environment("MOTE_TEST_E2B_NODE").map(PathBuf::from);
            let folder = named.unwrap_or_else(|| scratch().unwrap().join("node-e2b"));
            if !folder.join("node_modules/@e2b/code-interpreter").exists() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("package.json"), "{\"private\": true}").unwrap();
                run(Command::new("npm")
                    .args(["install", "--no-fund", "--no-audit"])
                    .args(PACKAGES)
                    .current_dir(&folder));
            }
            folder
        })
        .clone()
}

/// Runs a client with the environment that E2B's SDKs read.
pub(super) async fn client(daemon: &Daemon, command: impl FnOnce() -> Command + Send + 'static) -> String {
    let (url, key) = (daemon.url().to_owned(), daemon.key().to_owned());
    let running = tokio::task::spawn_blocking(move || {
        let mut command = command();
        command.env("E2B_API_URL", &url).env("E2B_SANDBOX_URL", &url).env("E2B_API_KEY", key);
        run(command.env("E2B_VALIDATE_API_KEY", "false").env("NO_PROXY", "127.0.0.1"))
    });
    running.await.unwrap()
}

async fn python_client(script: &'static str) {
    let daemon = Daemon::start().await;
    let output = client(&daemon, move || {
        let mut command = Command::new(python());
        command.args(["-c", script]);
        command
    });
    assert_eq!(output.await, "ok");
}

#[tokio::test]
async fn the_sdk_for_python_works_unmodified() {
    python_client(include_str!("e2b_python.py")).await;
}

#[tokio::test]
async fn the_code_interpreter_sdk_for_python_works_unmodified() {
    python_client(include_str!("e2b_code.py")).await;
}

#[tokio::test]
async fn the_sdks_for_javascript_work_unmodified() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let folder = packages();
        // Modules are found from the script's own folder.
        let script = folder.join("e2b_javascript.mjs");
        std::fs::write(&script, include_str!("e2b_javascript.mjs")).unwrap();
        let mut command = Command::new("node");
        command.arg(script).current_dir(Path::new(&folder));
        command
    });
    assert_eq!(output.await, "ok");
}

#[tokio::test]
async fn a_preview_is_reached_by_its_host_name_and_by_the_sdks_headers() {
    let daemon = Daemon::start().await;
    let http = reqwest::Client::new();
    let made: serde_json::Value = http
        .post(format!("{}/v2/sandboxes", daemon.url()))
        .header("x-api-key", daemon.key())
        .json(&json!({"templateID": "host", "timeout": 300, "network": {"allowPublicTraffic": false}}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id = made["sandboxID"].as_str().unwrap();
    let start = json!({"command": "cd /tmp && echo inside > index.html && (python3 -m http.server 3000 >/dev/null 2>&1 &) \
                       && until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 3000))' 2>/dev/null; \
                       do :; done; sleep 600"});
    let _server = tokio::spawn({
        let request = http.post(format!("{}/v1/sandboxes/{id}/exec", daemon.url())).header("x-api-key", daemon.key());
        request.json(&start).send()
    });
    let host = format!("3000-{id}.sandbox.localhost");
    let ask = |headers: Vec<(&'static str, String)>| {
        let request = http.get(format!("{}/", daemon.url()));
        headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)).send()
    };
    let token = made["trafficAccessToken"].as_str().unwrap().to_owned();
    let by_headers = vec![
        ("e2b-sandbox-id", id.to_owned()),
        ("e2b-sandbox-port", "3000".to_owned()),
        ("e2b-traffic-access-token", token.clone()),
    ];
    // The server inside is up when it answers: until then the port is not open.
    let answer = loop {
        let answer = ask(by_headers.clone()).await.unwrap();
        if answer.status() != reqwest::StatusCode::BAD_GATEWAY {
            break answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(answer.text().await.unwrap(), "inside\n");
    let by_host = vec![("host", host.clone()), ("e2b-traffic-access-token", token)];
    assert_eq!(ask(by_host).await.unwrap().text().await.unwrap(), "inside\n");
    assert_eq!(ask(vec![("host", host)]).await.unwrap().status(), reqwest::StatusCode::FORBIDDEN);
}
