//! SWE-ReX's `RemoteRuntime`, unmodified from PyPI, against the real daemon. What it checks stands in the script.

use std::process::Command;

use serde_json::{Value, json};

use super::e2b::{python, run};
use super::fixture::Daemon;

#[tokio::test]
async fn the_remote_runtime_of_swe_rex_works_unmodified() {
    let daemon = Daemon::start().await;
    let made = daemon.done(reqwest::Method::POST, "/v1/sandboxes", json!({"spec": {"lease": "10m"}})).await;
    let other = daemon.create(json!({"lease": "10m"})).await;
    let at = |id: &str| format!("{}/v1/sandboxes/{id}/swerex", daemon.url());
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(python());
    command.args(["-c", include_str!("swerex.py")]).current_dir(folder.path());
    command.env("REX_HOST", at(made["id"].as_str().unwrap())).env("REX_OTHER", at(&other));
    command.env("REX_TOKEN", made["access_token"].as_str().unwrap()).env("REX_KEY", daemon.key());
    command.env("NO_PROXY", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    assert!(output.ends_with("every check passed"), "{output}");
    // What it leaves is the sandbox, which is its holder's to remove.
    let id = made["id"].as_str().unwrap();
    let contexts = daemon.done(reqwest::Method::GET, &format!("/v1/sandboxes/{id}/code/contexts"), Value::Null).await;
    // The default ones are listed before anybody uses them.
    let begun = |context: &&Value| !context["id"].as_str().unwrap().starts_with("default-");
    assert_eq!(contexts.as_array().unwrap().iter().find(begun), None);
}
