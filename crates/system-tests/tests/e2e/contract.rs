//! The API against its description: schemathesis makes requests from `docs/openapi.json`, right ones and wrong ones, and
//! compares each answer with what the document says of it. It runs against the shipped binary, for a bounded time.

use std::process::Command;

use serde_json::{Value, json};
use system_tests::fake_model::Plan;
use system_tests::process::binary::workspace;
use system_tests::process::service::run_mote;

use crate::sdk::python;
use crate::stage::Stage;

#[tokio::test]
async fn what_the_service_answers_is_what_its_description_says() {
    let stage = Stage::new(Plan::answer("Fine.")).await.with(|agent| {
        let tools = agent["tools"].as_array_mut().unwrap();
        tools.extend(["wait_for_signal", "wait_until", "ask_person"].map(|name| json!({"builtin": name})));
        agent["server"]["runs"] = json!(64);
        agent["auth"] = json!({"keys": {"file": "keys"}});
    });
    let made = run_mote(&stage.path("."), &["key", "new", "--scope", "admin", "--json"], &[]).await.unwrap();
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let key = made["key"].as_str().unwrap().to_owned();
    stage.write("keys", made["line"].as_str().unwrap());
    let service = stage.serve().await;
    let url = service.url("");
    let folder = stage.path("schemathesis");
    std::fs::create_dir(&folder).unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let program = python().with_file_name("schemathesis");
        let tests = workspace().join("crates/system-tests/tests/e2e");
        Command::new(program)
            .current_dir(folder)
            .arg("--config-file")
            .arg(tests.join("schemathesis.toml"))
            .arg("run")
            .arg(workspace().join("docs/openapi.json"))
            .args(["--url", url.trim_end_matches('/')])
            .env("MOTE_KEY", key)
            .env("PYTHONPATH", tests)
            .env("NO_PROXY", "127.0.0.1,localhost")
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("passed"), "{said}");
}
