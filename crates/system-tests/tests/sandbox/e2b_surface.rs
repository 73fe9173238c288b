//! E2B's surface beyond its first steps: E2B's own examples, what outlives a sandbox, E2B's shapes of errors, and what does
//! not map.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::e2b::{client, packages, python};
use super::fixture::Daemon;

/// Runs a script for Python with one argument, against a daemon of its own.
async fn python_client(script: &'static str, argument: &'static str) {
    let daemon = Daemon::start().await;
    let output = client(&daemon, move || {
        let mut command = Command::new(python());
        command.args(["-c", script, argument]);
        command
    });
    assert_eq!(output.await, "ok");
}

/// The same for Node, the script under a name of its own beside the SDKs: modules are found from there.
async fn node_client(name: &'static str, script: &'static str, argument: &'static str) {
    let daemon = Daemon::start().await;
    let output = client(&daemon, move || {
        let folder = packages();
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        let mut command = Command::new("node");
        command.arg(path).arg(argument).current_dir(folder);
        command
    });
    assert_eq!(output.await, "ok");
}

#[tokio::test]
async fn e2bs_own_examples_for_python_run_unmodified() {
    for package in ["e2b", "e2b-code-interpreter"] {
        python_client(include_str!("e2b_examples.py"), package).await;
    }
}

#[tokio::test]
async fn e2bs_own_examples_for_javascript_run_unmodified() {
    for package in ["e2b", "@e2b/code-interpreter"] {
        node_client("e2b_examples.mjs", include_str!("e2b_examples.mjs"), package).await;
    }
}

#[tokio::test]
async fn what_outlives_a_sandbox_works_from_python() {
    python_client(include_str!("e2b_stored.py"), "").await;
}

#[tokio::test]
async fn what_outlives_a_sandbox_works_from_javascript() {
    node_client("e2b_stored.mjs", include_str!("e2b_stored.mjs"), "").await;
}

/// A call of E2B's control plane: status and answer.
async fn ask(daemon: &Daemon, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    daemon.ask(method, path, body).await
}

#[tokio::test]
async fn refusals_have_e2bs_own_shapes() {
    let daemon = Daemon::start().await;
    let made = ask(&daemon, Method::POST, "/sandboxes", json!({ "templateID": "base", "timeout": 300 })).await;
    assert_eq!(made.0, StatusCode::CREATED, "{}", made.1);
    let id = made.1["sandboxID"].as_str().unwrap();
    let cases = [
        (Method::POST, "/sandboxes".to_owned(), json!({ "templateID": "no-such-template" }), 404),
        (Method::POST, "/sandboxes".to_owned(), json!({ "templateID": "base", "timeout": -1 }), 400),
        (Method::GET, "/sandboxes/sbnone".to_owned(), Value::Null, 404),
        (Method::DELETE, "/sandboxes/sbnone".to_owned(), Value::Null, 404),
        (Method::POST, "/sandboxes/sbnone/pause".to_owned(), json!({}), 404),
        (Method::GET, "/v2/sandboxes?limit=0".to_owned(), Value::Null, 400),
        (Method::GET, "/v2/sandboxes?state=blue".to_owned(), Value::Null, 400),
        (Method::POST, format!("/sandboxes/{id}/resume"), json!({ "timeout": 300 }), 409),
        (Method::GET, "/templates/no-such-template".to_owned(), Value::Null, 404),
        (Method::GET, "/secrets/none".to_owned(), Value::Null, 404),
        (Method::GET, "/volumes/none".to_owned(), Value::Null, 404),
    ];
    for (method, path, body, expected) in cases {
        let (status, answer) = ask(&daemon, method.clone(), &path, body.clone()).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert_eq!(answer["code"], expected, "{method} {path}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}: {answer}");
        assert_eq!(answer.as_object().unwrap().len(), 2, "{method} {path}: {answer}");
    }
    let nobody = reqwest::Client::new().get(format!("{}/v2/sandboxes", daemon.url())).send().await.unwrap();
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(nobody.json::<Value>().await.unwrap()["code"], 401);
    // The data plane speaks Connect: a code word, and the status that goes with it.
    let token = made.1["envdAccessToken"].as_str().unwrap();
    let rpc = async |method: &str, token: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("{}/{method}", daemon.url())).json(&body);
        let request = request.header("e2b-sandbox-id", id).header("e2b-sandbox-port", "49983");
        let response = request.header("x-access-token", token).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, answer) = rpc("filesystem.Filesystem/Stat", token, json!({ "path": "/nowhere" })).await;
    assert_eq!((status, answer["code"].as_str()), (404, Some("not_found")), "{answer}");
    let (status, answer) = rpc("filesystem.Filesystem/MakeDir", token, json!({ "path": "/etc" })).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("already_exists")), "{answer}");
    let (status, answer) = rpc("filesystem.Filesystem/Stat", "wrong", json!({ "path": "/" })).await;
    assert_eq!(status, 401, "{answer}");
    let (status, answer) = rpc("filesystem.Filesystem/Nothing", token, json!({})).await;
    assert!([404, 501].contains(&status), "{status} {answer}");
}

#[tokio::test]
async fn what_does_not_map_answers_501_and_names_the_feature() {
    let daemon = Daemon::start().await;
    let (_, made) = ask(&daemon, Method::POST, "/sandboxes", json!({ "templateID": "base", "timeout": 300 })).await;
    let id = made["sandboxID"].as_str().unwrap();
    let create = |more: Value| {
        let mut body = json!({ "templateID": "base", "timeout": 300 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (Method::POST, "/sandboxes".to_owned(), body)
    };
    let cases = [
        (create(json!({ "iam": { "tokens": {} } })), "iam"),
        (create(json!({ "network": { "egressProxy": { "address": "x:1" } } })), "network.egressProxy"),
        (create(json!({ "network": { "dnsServers": ["1.1.1.1"] } })), "network.dnsServers"),
        ((Method::GET, "/teams".to_owned(), Value::Null), "teams"),
    ];
    for ((method, path, body), feature) in cases {
        let (status, answer) = ask(&daemon, method.clone(), &path, body.clone()).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{method} {path} {body}: {answer}");
        assert_eq!(answer["code"], 501);
        assert!(answer["message"].as_str().unwrap().contains(feature), "{feature}: {answer}");
    }
    // Nothing was half made.
    let listed = daemon.done(Method::GET, "/v1/sandboxes", Value::Null).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["items"][0]["id"], id);
}

#[tokio::test]
async fn a_signed_address_opens_what_was_signed_and_a_composed_file_stays() {
    let daemon = Daemon::start().await;
    let (_, made) = ask(&daemon, Method::POST, "/sandboxes", json!({ "templateID": "base", "timeout": 300 })).await;
    let (id, token) = (made["sandboxID"].as_str().unwrap(), made["envdAccessToken"].as_str().unwrap());
    daemon
        .run(id, "echo hidden > /root/secret && chmod 600 /root/secret && echo -n a > /tmp/a && echo -n b > /tmp/b")
        .await;
    daemon.run(id, "chmod 666 /tmp/a /tmp/b; ln -s /tmp/a /tmp/link").await;
    let http = reqwest::Client::new();
    // The signature of the address is of the file as its own user, made as the SDKs make it.
    let text = format!("printf %s '/tmp/a:read:user:{token}' | openssl dgst -sha256 -binary | openssl base64 -A");
    let signature = std::process::Command::new("sh").args(["-c", &text]).output().unwrap().stdout;
    let signature = String::from_utf8(signature).unwrap().trim_end_matches('=').replace('+', "%2B");
    let honest = format!("path=/tmp/a&username=user&signature=v1_{signature}");
    let read = async |query: String| {
        let basic = http.get(format!("{}/files?{query}", daemon.url())).basic_auth("root", Some(""));
        let response = basic.header("e2b-sandbox-id", id).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(read(honest.clone()).await, (200, "a".to_owned()));
    for bent in ["path=/root/secret&username=root", "path=/root/secret", "username=root"] {
        let (status, body) = read(format!("{bent}&{honest}")).await;
        assert!(status == 400 && !body.contains("hidden"), "{bent}: {status} {body}");
    }
    // The destination may be one of the sources, by another name too; those that are not it are removed.
    let compose = async |destination: &str, sources: &[&str]| {
        let body = json!({ "destination": destination, "source_paths": sources, "username": "root" });
        let request = http.post(format!("{}/files/compose", daemon.url())).json(&body).header("x-access-token", token);
        let response = request.header("e2b-sandbox-id", id).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    };
    compose("/tmp/a", &["/tmp/a", "/tmp/b"]).await;
    assert_eq!(daemon.run(id, "cat /tmp/a; ls /tmp/b 2>/dev/null || echo ' removed'").await, "ab removed\n");
    daemon.run(id, "echo -n c > /tmp/c").await;
    compose("/tmp/link", &["/tmp/../tmp/a", "/tmp/c"]).await;
    assert_eq!(daemon.run(id, "cat /tmp/a; ls /tmp/c 2>/dev/null || echo ' removed'").await, "abc removed\n");
}
