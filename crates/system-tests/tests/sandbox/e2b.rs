//! E2B's SDKs, unmodified from their registries, against the real daemon; `curl`'s way into a preview beside them.
//!
//! They are installed under the target folder, once. Two generations run: versions are pinned here (npm) and in
//! `xtask/requirements/sandbox.txt` and `sandbox-*.txt` (PyPI). What each script checks stands in the script.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;
use system_tests::process::binary::{environment, scratch, workspace};

use super::fixture::Daemon;

/// The SDKs for JavaScript.
const PACKAGES: [&str; 2] = ["e2b@2.51.0", "@e2b/code-interpreter@2.8.0"];
/// Those of an earlier generation, which refuse keys that do not look like E2B's.
const PACKAGES_EARLIER: [&str; 2] = ["e2b@2.45.0", "@e2b/code-interpreter@2.7.0"];
/// E2B's command line.
const COMMAND_LINE: [&str; 1] = ["@e2b/cli@2.19.0"];

pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?} failed: {}\n{stdout}\n{stderr}", output.status);
    stdout.trim().to_owned()
}

/// An interpreter of Python with what a file of requirements pins, made where `modules` cannot be imported.
pub(super) fn interpreter(venv: PathBuf, requirements: &str, modules: &str) -> PathBuf {
    let python = venv.join("bin/python");
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        let pinned = workspace().join("xtask/requirements").join(requirements);
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(pinned));
    }
    python
}

pub(super) fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON
        .get_or_init(|| {
            let named = environment("MOTE_TEST_E2B_VENV").map(PathBuf::from);
            let venv = named.unwrap_or_else(|| scratch().unwrap().join("venv-e2b"));
            interpreter(venv, "sandbox.txt", "e2b, e2b_code_interpreter, swerex.runtime.remote")
        })
        .clone()
}

fn python_earlier() -> PathBuf {
    let venv = scratch().unwrap().join("venv-e2b-earlier");
    interpreter(venv, "sandbox-earlier.txt", "e2b, e2b_code_interpreter")
}

/// A folder with packages of npm, installed where the last of them is missing.
fn installed(folder: PathBuf, packages: &[&str]) -> PathBuf {
    let last = packages.last().and_then(|package| package.rsplit_once('@')).unwrap().0;
    if !folder.join("node_modules").join(last).exists() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("package.json"), "{\"private\": true}").unwrap();
        run(Command::new("npm").args(["install", "--no-fund", "--no-audit"]).args(packages).current_dir(&folder));
    }
    folder
}

pub(super) fn packages() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let named = environment("MOTE_TEST_E2B_NODE").map(PathBuf::from);
            installed(named.unwrap_or_else(|| scratch().unwrap().join("node-e2b")), &PACKAGES)
        })
        .clone()
}

/// Runs a client with the environment that E2B's SDKs read.
pub(super) async fn client(daemon: &Daemon, command: impl FnOnce() -> Command + Send + 'static) -> String {
    let (url, key) = (daemon.url().to_owned(), daemon.key().to_owned());
    let running = tokio::task::spawn_blocking(move || {
        let mut command = command();
        command.env("E2B_API_URL", &url).env("E2B_SANDBOX_URL", &url).env("E2B_API_KEY", key);
        run(command.env("NO_PROXY", "127.0.0.1"))
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

/// The main surface, with both generations of the SDK for Python.
#[tokio::test]
async fn both_generations_of_the_sdk_for_python_work_unmodified() {
    for python in [python, python_earlier] {
        let daemon = Daemon::start().await;
        let output = client(&daemon, move || {
            let mut command = Command::new(python());
            command.args(["-c", include_str!("e2b_generations.py")]);
            command
        });
        assert_eq!(output.await, "ok");
    }
}

/// The same of the SDK for JavaScript.
#[tokio::test]
async fn both_generations_of_the_sdk_for_javascript_work_unmodified() {
    for packages in [packages, || installed(scratch().unwrap().join("node-e2b-earlier"), &PACKAGES_EARLIER)] {
        let daemon = Daemon::start().await;
        let output = client(&daemon, move || {
            let folder = packages();
            let script = folder.join("e2b_generations.mjs");
            std::fs::write(&script, include_str!("e2b_generations.mjs")).unwrap();
            let mut command = Command::new("node");
            command.arg(script).current_dir(folder);
            command
        });
        assert_eq!(output.await, "ok");
    }
}

#[tokio::test]
async fn e2bs_command_line_works_against_an_address_of_ones_own() {
    let daemon = Daemon::start().await;
    let made = daemon
        .done(
            reqwest::Method::POST,
            "/v2/sandboxes",
            json!({"templateID": "host", "timeout": 300, "metadata": {"made": "here"}}),
        )
        .await;
    let id = made["sandboxID"].as_str().unwrap().to_owned();
    let home = tempfile::tempdir().unwrap();
    let say = async |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let home = home.path().to_owned();
        client(&daemon, move || {
            let folder = installed(scratch().unwrap().join("node-e2b-cli"), &COMMAND_LINE);
            let mut command = Command::new(folder.join("node_modules/.bin/e2b"));
            // It keeps settings of its own below the home directory, and asks for news of itself.
            command.arg("sandbox").args(words).env("HOME", home).env("NO_UPDATE_NOTIFIER", "1").env("CI", "true");
            command
        })
        .await
    };
    let listed: serde_json::Value = serde_json::from_str(&say(&["list", "--format", "json"]).await).unwrap();
    assert_eq!((&listed[0]["sandboxId"], &listed[0]["metadata"]), (&json!(id), &json!({"made": "here"})), "{listed}");
    assert!(say(&["info", &id]).await.contains("State: running"));
    assert_eq!(say(&["exec", &id, "--", "echo", "hello"]).await, "hello");
    let metrics = say(&["metrics", &id, "--format", "json"]).await;
    let metric: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert!(metric["memTotal"].as_u64() > Some(0), "{metric}");
    let logs = say(&["logs", &id, "--format", "json"]).await;
    assert!(logs.contains("\"message\":\"created\""), "{logs}");
    say(&["pause", &id]).await;
    daemon.until(&id, "paused").await;
    say(&["resume", &id]).await;
    daemon.until(&id, "running").await;
    say(&["kill", &id]).await;
    daemon.until(&id, "gone").await;
    assert_eq!(say(&["list", "--format", "json"]).await, "[]");
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
