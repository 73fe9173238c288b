//! Templates that callers build through E2B's API: by its SDKs, unmodified, and what holds around them: who may, what is bounded,
//! and what is left when a build is cancelled or the daemon ends.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::process::binary::{self, environment, scratch};
use tokio::time::Instant;

use super::e2b::{client, packages, python, run};
use super::fixture::{Daemon, PATIENCE, POLL};
use super::image::Registry;

#[tokio::test]
async fn a_template_is_built_tagged_and_started_from_python() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let mut command = Command::new(python());
        command.args(["-c", include_str!("e2b_templates.py")]);
        command
    });
    assert_eq!(output.await, "ok");
}

#[tokio::test]
async fn a_template_is_built_tagged_and_started_from_javascript() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let folder = packages();
        let script = folder.join("e2b_templates.mjs");
        std::fs::write(&script, include_str!("e2b_templates.mjs")).unwrap();
        let mut command = Command::new("node");
        command.arg(script).current_dir(folder);
        command
    });
    assert_eq!(output.await, "ok");
}

/// The command of E2B's for terminals.
const COMMAND: &str = "@e2b/cli@2.16.0";

#[tokio::test]
async fn e2bs_own_command_builds_lists_publishes_and_deletes() {
    let daemon = Daemon::start().await;
    let output = client(&daemon, || {
        let named = environment("MOTE_TEST_E2B_CLI").map(std::path::PathBuf::from);
        let folder = named.unwrap_or_else(|| scratch().unwrap().join("cli-e2b"));
        let program = folder.join("node_modules/.bin/e2b");
        if !program.exists() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("package.json"), "{\"private\": true}").unwrap();
            run(Command::new("npm").args(["install", "--no-fund", "--no-audit", COMMAND]).current_dir(&folder));
        }
        let script = "set -e\n\
            cd \"$(mktemp -d)\" && export HOME=$PWD\n\
            printf 'FROM e2bdev/base\\nWORKDIR /app\\nCOPY hello .\\nRUN cat hello\\n' > e2b.Dockerfile\n\
            echo from-a-file > hello\n\
            \"$0\" template create --cmd 'sleep infinity' --ready-cmd true --cpu-count 1 --memory-mb 512 by-command > log\n\
            grep -q '\\[stdout\\]: from-a-file' log && grep -q 'by-command finished' log || { cat log; exit 1; }\n\
            \"$0\" template list --format json | grep -q '\"by-command\"'\n\
            \"$0\" template publish --yes by-command > /dev/null\n\
            \"$0\" template list --format json | grep -q '\"public\": true'\n\
            \"$0\" template delete --yes by-command > /dev/null\n\
            ! \"$0\" template list --format json | grep -q '\"by-command\"'\n\
            echo ok\n";
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(program).stdin(std::process::Stdio::null());
        command
    });
    assert_eq!(output.await, "ok");
}

#[tokio::test]
async fn a_private_image_is_pulled_with_its_owners_credentials_and_is_nobody_elses() {
    let registry = Registry::start();
    let daemon = Daemon::configured(&format!("authorities: {}", registry.authority.display())).await;
    let build = async |name: &str, registry_field: Value| {
        let made = request(&daemon, name).await;
        let step = json!({ "type": "ENV", "args": ["KIND", "private"] });
        let mut order = json!({ "fromImage": format!("{}/private/app", registry.host), "steps": [step] });
        if !registry_field.is_null() {
            order["fromImageRegistry"] = registry_field;
        }
        daemon.done(Method::POST, &format!("/v2/templates/{}/builds/{}", made.0, made.1), order).await;
        until(&daemon, &made, has_ended).await
    };
    let with = |password: &str| json!({ "type": "registry", "username": "me", "password": password });
    for refused in [Value::Null, with("wrong")] {
        let told = build("private", refused).await;
        assert_eq!((&told["status"], &told["reason"]["step"]), (&json!("error"), &json!("base")), "{told}");
    }
    let told = build("private", with("open")).await;
    assert_eq!(told["status"], "ready", "{told}");
    assert!(!told.to_string().contains("open\""), "{told}");
    let body = json!({ "templateID": "private", "timeout": 60 });
    let sandbox = daemon.done(Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(sandbox["templateID"], told["templateID"]);
    let told = build("other", Value::Null).await;
    assert_eq!(told["status"], "error", "what credentials have opened is not everybody's: {told}");
    let image = json!({ "source": { "registry": format!("{}/private/app", registry.host) } });
    assert_eq!(daemon.ask(Method::POST, "/v1/images", image).await.0, StatusCode::FORBIDDEN);
}

/// Asks for a build; ids of its template and of itself.
async fn request(daemon: &Daemon, name: &str) -> (String, String) {
    let made = daemon.done(Method::POST, "/v3/templates", json!({ "name": name })).await;
    (made["templateID"].as_str().unwrap().to_owned(), made["buildID"].as_str().unwrap().to_owned())
}

fn order(commands: &[&str]) -> Value {
    let steps: Vec<Value> =
        commands.iter().map(|command| json!({ "type": "RUN", "args": [command, "root"] })).collect();
    json!({ "fromImage": "e2bdev/base", "steps": steps })
}

/// Begins a build of commands; ids of its template and of itself.
async fn begin(daemon: &Daemon, name: &str, commands: &[&str]) -> (String, String) {
    let (template, build) = request(daemon, name).await;
    let path = format!("/v2/templates/{template}/builds/{build}");
    let (status, answer) = daemon.ask(Method::POST, &path, order(commands)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    (template, build)
}

async fn status(daemon: &Daemon, (template, build): &(String, String)) -> Value {
    daemon.done(Method::GET, &format!("/templates/{template}/builds/{build}/status"), Value::Null).await
}

/// Waits until a build says something, or has ended.
async fn until(daemon: &Daemon, build: &(String, String), is: impl Fn(&Value) -> bool) -> Value {
    let since = Instant::now();
    loop {
        let told = status(daemon, build).await;
        if is(&told) {
            return told;
        }
        assert!(since.elapsed() < PATIENCE, "{told}\n{}", daemon.log());
        tokio::time::sleep(POLL).await;
    }
}

fn has_ended(told: &Value) -> bool {
    ["ready", "error"].contains(&told["status"].as_str().unwrap())
}

fn has_logged(told: &Value, text: &str) -> bool {
    told["logEntries"].as_array().unwrap().iter().any(|entry| entry["message"].as_str().unwrap().ends_with(text))
}

/// Names of images that builds have made.
async fn built(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.done(Method::GET, "/v1/images", Value::Null).await;
    let names = listed["items"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("template:")).collect()
}

/// Makes a key through the operator's command.
fn key(daemon: &Daemon, name: &str, scopes: &str) -> String {
    let mut command = Command::new(binary::mote_sandboxd().unwrap());
    command.args(["key", "new", "--name", name, "--scope", scopes, "--state"]).arg(daemon.state());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn building_needs_a_key_with_the_scope_for_it_and_using_does_not() {
    let daemon = Daemon::start().await;
    let made = begin(&daemon, "scoped", &["echo x > /opt/x"]).await;
    assert_eq!(until(&daemon, &made, has_ended).await["status"], "ready");
    let (template, build) = &made;
    let (user, builder) = (key(&daemon, "user", "sandbox"), key(&daemon, "builder", "sandbox,template"));
    let http = reqwest::Client::new();
    let ask = |key: &str, method: Method, path: &str, body: Value| {
        let request = http.request(method, format!("{}{path}", daemon.url())).header("x-api-key", key).json(&body);
        async { request.send().await.unwrap() }
    };
    let hash = "ab".repeat(32);
    for (method, path) in [
        (Method::POST, "/v3/templates".to_owned()),
        (Method::POST, format!("/v2/templates/{template}/builds/{build}")),
        (Method::GET, format!("/templates/{template}/builds/{build}/status")),
        (Method::GET, format!("/templates/{template}/builds/{build}/logs")),
        (Method::GET, format!("/templates/{template}/files/{hash}")),
        (Method::POST, "/templates/tags".to_owned()),
        (Method::DELETE, "/templates/tags".to_owned()),
        (Method::PATCH, format!("/v2/templates/{template}")),
        (Method::DELETE, format!("/templates/{template}")),
    ] {
        let refused = ask(&user, method.clone(), &path, json!({ "name": "other" })).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{method} {path}");
        let told: Value = refused.json().await.unwrap();
        assert!(told["message"].as_str().unwrap().contains("scope \"template\""), "{told}");
    }
    let listed: Value = ask(&user, Method::GET, "/templates", Value::Null).await.json().await.unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "nothing was made by what was refused: {listed}");
    let sandbox = ask(&user, Method::POST, "/v2/sandboxes", json!({ "templateID": "scoped", "timeout": 60 })).await;
    assert_eq!(sandbox.status(), StatusCode::CREATED);
    let asked = ask(&builder, Method::POST, "/v3/templates", json!({ "name": "other" })).await;
    assert_eq!(asked.status(), StatusCode::ACCEPTED);
    let removed = ask(&builder, Method::DELETE, &format!("/templates/{template}"), Value::Null).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let mut list = Command::new(binary::mote_sandboxd().unwrap());
    let listed = list.args(["key", "list", "--state"]).arg(daemon.state()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("builder  sandbox,template\n") && listed.contains("user  sandbox\n"), "{listed}");
    let wrong = Command::new(binary::mote_sandboxd().unwrap())
        .args(["key", "new", "--name", "x", "--scope", "root", "--state"])
        .arg(daemon.state())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("sandbox, template, secret, admin"), "{said}");
}

/// Wherever the daemon is killed, a build is whole or has failed with a reason, and nothing of it is left on the host.
#[tokio::test]
async fn a_build_that_the_daemons_end_interrupts_has_failed_and_says_so() {
    let mut daemon = Daemon::start().await;
    for point in ["template.begun", "template.before_image", "template.after_image"] {
        daemon.crash_at(point).await;
        let (template, build) = request(&daemon, "interrupted").await;
        let path = format!("/v2/templates/{template}/builds/{build}");
        // At the first point the answer does not come any more.
        let _ = daemon.request(Method::POST, &path).json(&order(&["echo done"])).send().await;
        daemon.ended().await;
        daemon.restart().await;
        let told = status(&daemon, &(template.clone(), build.clone())).await;
        assert_eq!(told["status"], "error", "{point}: {told}");
        let reason = told["reason"]["message"].as_str().unwrap();
        assert!(reason.contains("the daemon ended while the template was being built"), "{point}: {reason}");
        assert!(told["logEntries"][0]["message"].as_str().unwrap().contains(reason), "{point}: {told}");
        let since = Instant::now();
        while !built(&daemon).await.is_empty() {
            assert!(since.elapsed() < PATIENCE, "{point}: half an image is left");
            tokio::time::sleep(POLL).await;
        }
        let (refused, answer) =
            daemon.ask(Method::POST, "/v2/sandboxes", json!({ "templateID": "interrupted", "timeout": 60 })).await;
        assert_eq!(refused, StatusCode::NOT_FOUND, "{point}: {answer}");
    }
    let again = begin(&daemon, "interrupted", &["echo done"]).await;
    assert_eq!(until(&daemon, &again, has_ended).await["status"], "ready");
    assert_eq!(built(&daemon).await, [format!("template:{}/{}", again.0, again.1)]);
    assert!(daemon.stop().is_empty(), "what the builds made is gone");
}

#[tokio::test]
async fn a_build_is_cancelled_by_the_next_one_of_its_tag_by_removal_and_by_the_daemons_end() {
    let mut daemon = Daemon::start().await;
    let endless = ["echo begun; sleep infinity"];
    let begun = |told: &Value| has_logged(told, "[stdout]: begun");
    let first = begin(&daemon, "busy", &endless).await;
    until(&daemon, &first, begun).await;
    let second = begin(&daemon, "busy", &endless).await;
    let told = until(&daemon, &first, has_ended).await;
    assert_eq!(
        (&told["status"], &told["reason"]["message"]),
        (&json!("error"), &json!("build was cancelled")),
        "{told}"
    );
    until(&daemon, &second, begun).await;
    let other = begin(&daemon, "busy:other", &["echo x > /opt/x"]).await;
    assert_eq!(until(&daemon, &other, has_ended).await["status"], "ready", "another tag disturbs nobody");
    assert_eq!(status(&daemon, &second).await["status"], "building");
    daemon.done(Method::DELETE, &format!("/templates/{}", second.0), Value::Null).await;
    let path = format!("/templates/{}/builds/{}/status", second.0, second.1);
    assert_eq!(daemon.ask(Method::GET, &path, Value::Null).await.0, StatusCode::NOT_FOUND);
    let since = Instant::now();
    while !built(&daemon).await.is_empty() || !daemon.processes().is_empty() && since.elapsed() < PATIENCE / 4 {
        assert!(since.elapsed() < PATIENCE, "what was removed is left: {:?}", built(&daemon).await);
        tokio::time::sleep(POLL).await;
    }
    let last = begin(&daemon, "busy", &endless).await;
    until(&daemon, &last, begun).await;
    assert_eq!(daemon.stop(), Vec::<String>::new());
}

#[tokio::test]
async fn builds_wait_for_each_other_and_too_many_are_refused() {
    let daemon = Daemon::start().await;
    let mut all = Vec::new();
    // Two run, sixteen wait.
    for number in 0..18 {
        all.push(begin(&daemon, &format!("waiting-{number}"), &["echo begun; sleep infinity"]).await);
    }
    let (template, build) = request(&daemon, "one-too-many").await;
    let path = format!("/v2/templates/{template}/builds/{build}");
    let (refused, told) = daemon.ask(Method::POST, &path, order(&["true"])).await;
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS, "{told}");
    for running in &all[..2] {
        until(&daemon, running, |told| has_logged(told, "[stdout]: begun")).await;
    }
    let waiting = status(&daemon, &all[2]).await;
    assert_eq!((&waiting["status"], &waiting["logEntries"]), (&json!("building"), &json!([])), "{waiting}");
    daemon.done(Method::DELETE, "/templates/waiting-0", Value::Null).await;
    until(&daemon, &all[2], |told| has_logged(told, "[stdout]: begun")).await;
    // There is room again, for the same build.
    daemon.done(Method::POST, &path, order(&["true"])).await;
    let (again, told) = daemon.ask(Method::POST, &path, order(&["true"])).await;
    assert_eq!((again, &told["message"]), (StatusCode::BAD_REQUEST, &json!("build is not in waiting state")));
}

#[tokio::test]
async fn an_upload_needs_its_address_and_what_is_in_it_stays_inside() {
    let daemon = Daemon::start().await;
    let (template, build) = request(&daemon, "uploaded").await;
    let hash = "ab".repeat(32);
    let at = daemon.done(Method::GET, &format!("/templates/{template}/files/{hash}"), Value::Null).await;
    assert_eq!(at["present"], false, "{at}");
    let url = at["url"].as_str().unwrap();
    assert!(url.starts_with(daemon.url()), "{url}");
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    // Entries that lead out of where they are unpacked, and a link to the host for one to be written through.
    let archive = folder.path().join("hostile.tar");
    let script = "import io, sys, tarfile\n\
        tar = tarfile.open(sys.argv[1], 'w')\n\
        def add(name, text=b'owned', **more):\n\
        \x20   entry = tarfile.TarInfo(name)\n\
        \x20   entry.size = len(text)\n\
        \x20   [setattr(entry, key, value) for key, value in more.items()]\n\
        \x20   tar.addfile(entry, io.BytesIO(text))\n\
        add('src/good', b'good')\n\
        add('src/out', b'', type=tarfile.SYMTYPE, linkname=sys.argv[2])\n\
        add(sys.argv[2] + '/victim')\n\
        add('../' * 12 + sys.argv[2] + '/victim')\n\
        tar.close()\n";
    let made = Command::new("python3").args(["-c", script]).args([&archive, folder.path()]).status().unwrap();
    assert!(made.success());
    let bytes = std::fs::read(&archive).unwrap();
    let http = reqwest::Client::new();
    let put = |url: String| http.put(url).body(bytes.clone()).send();
    let other = url.replace(&hash, &"cd".repeat(32));
    let later = url.replace("expires=", "expires=1");
    for wrong in [format!("{}x", url), other, later, url.split('?').next().unwrap().to_owned()] {
        assert_eq!(put(wrong.clone()).await.unwrap().status(), StatusCode::FORBIDDEN, "{wrong}");
    }
    let too_large = http.put(url).header("content-length", (3_u64 << 30).to_string()).body("x").send().await;
    assert!(too_large.is_err() || too_large.unwrap().status() == StatusCode::PAYLOAD_TOO_LARGE);
    for path in ["..%2F..%2Fetc", "AB", &"g".repeat(64)] {
        let (refused, _) = daemon.ask(Method::GET, &format!("/templates/{template}/files/{path}"), Value::Null).await;
        assert_eq!(refused, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(put(url.to_owned()).await.unwrap().status(), StatusCode::OK);
    let at = daemon.done(Method::GET, &format!("/templates/{template}/files/{hash}"), Value::Null).await;
    assert_eq!(at["present"], true, "{at}");
    let copy = json!({ "type": "COPY", "args": ["src/good", "/opt/good"], "filesHash": hash });
    let body = json!({ "fromImage": "e2bdev/base", "steps": [copy] });
    daemon.done(Method::POST, &format!("/v2/templates/{template}/builds/{build}"), body).await;
    let ended = until(&daemon, &(template.clone(), build), has_ended).await;
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched", "{ended}");
    // What was not uploaded is named.
    let (_, build) = request(&daemon, "uploaded").await;
    let copy = json!({ "type": "COPY", "args": ["x", "/opt/x"], "filesHash": "ef".repeat(32) });
    let body = json!({ "fromImage": "e2bdev/base", "steps": [copy] });
    daemon.done(Method::POST, &format!("/v2/templates/{template}/builds/{build}"), body).await;
    let ended = until(&daemon, &(template, build), has_ended).await;
    assert_eq!((&ended["status"], &ended["reason"]["step"]), (&json!("error"), &json!("1")), "{ended}");
    assert!(ended["reason"]["message"].as_str().unwrap().contains("not uploaded"), "{ended}");
}

#[tokio::test]
async fn a_template_is_not_removed_while_a_paused_sandbox_uses_it_and_a_running_one_goes_on_without() {
    let daemon = Daemon::start().await;
    let made = begin(&daemon, "used", &["echo kept > /opt/kept"]).await;
    assert_eq!(until(&daemon, &made, has_ended).await["status"], "ready");
    let body = json!({ "templateID": "used", "timeout": 600 });
    let sandbox = daemon.done(Method::POST, "/v2/sandboxes", body.clone()).await;
    let id = sandbox["sandboxID"].as_str().unwrap();
    assert_eq!(sandbox["templateID"], made.0.as_str());
    daemon.done(Method::POST, &format!("/sandboxes/{id}/pause"), json!({})).await;
    let (refused, told) = daemon.ask(Method::DELETE, "/templates/used", Value::Null).await;
    assert_eq!(refused, StatusCode::BAD_REQUEST, "{told}");
    assert!(told["message"].as_str().unwrap().contains("paused sandboxes"), "{told}");
    daemon.done(Method::POST, &format!("/v2/sandboxes/{id}/connect"), json!({ "timeout": 600 })).await;
    daemon.done(Method::DELETE, "/templates/used", Value::Null).await;
    assert_eq!(daemon.run(id, "cat /opt/kept").await, "kept\n");
    assert_eq!(built(&daemon).await, Vec::<String>::new());
    let (gone, told) = daemon.ask(Method::POST, "/v2/sandboxes", body).await;
    assert_eq!(gone, StatusCode::NOT_FOUND, "{told}");
    assert_eq!(daemon.ask(Method::GET, "/templates/aliases/used", Value::Null).await.0, StatusCode::NOT_FOUND);
    assert_eq!(daemon.ask(Method::DELETE, "/templates/used", Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_no_caller_has_built_is_neither_changed_nor_removed_here() {
    let daemon = Daemon::start().await;
    for (method, path, body, feature) in [
        (Method::POST, "/templates", json!({ "dockerfile": "FROM x" }), "templates.build.v1"),
        (Method::POST, "/templates/x/builds/y", json!({}), "templates.build.v1"),
        (Method::PATCH, "/templates/base", json!({ "public": true }), "templates.update"),
        (Method::PATCH, "/v2/templates/host", json!({ "public": true }), "templates.update"),
        (Method::DELETE, "/templates/host", Value::Null, "templates.delete"),
    ] {
        let (status, told) = daemon.ask(method.clone(), path, body).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{method} {path}: {told}");
        assert!(told["message"].as_str().unwrap().contains(feature), "{method} {path}: {told}");
    }
    for path in ["/templates/no-such", "/v2/templates/no-such"] {
        let (status, told) = daemon.ask(Method::PATCH, path, json!({ "public": true })).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {told}");
    }
}
