//! What a key with fewer scopes may do: by every surface of the shipped daemon, with keys that the shipped program made.

use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use system_tests::process::binary::mote_sandboxd;

use super::fixture::{Daemon, Options};

/// Makes a key, as an operator does.
async fn key(daemon: &Daemon, scope: &str) -> String {
    let mut command = Command::new(mote_sandboxd().unwrap());
    command.args(["key", "new", "--name", scope, "--scope", scope, "--state"]).arg(daemon.state());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn ask(daemon: &Daemon, key: &str, method: &Method, path: &str, body: Value) -> (StatusCode, String) {
    let url = format!("{}{path}", daemon.url());
    let request = reqwest::Client::new().request(method.clone(), url).header("x-api-key", key).json(&body);
    let response = request.send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

/// Routes of every surface, and the scopes of which one is enough.
const ROUTES: &[(&str, &str, &[&str])] = &[
    ("GET", "/v1/sandboxes", &["sandbox"]),
    ("POST", "/v1/sandboxes/none/pause", &["sandbox"]),
    ("POST", "/v1/sandboxes/none/exec", &["sandbox"]),
    ("GET", "/v1/sandboxes/none/files?path=/x", &["sandbox"]),
    ("GET", "/v1/sandboxes/none/ports/80", &["sandbox"]),
    ("GET", "/v1/sandboxes/none/swerex/is_alive", &["sandbox"]),
    ("PUT", "/v1/sandboxes/none/network", &["sandbox"]),
    ("POST", "/v1/sandboxes/none/commit", &["template"]),
    ("GET", "/v1/snapshots", &["sandbox"]),
    ("DELETE", "/v1/snapshots/none", &["sandbox"]),
    ("GET", "/v1/snapshots/none/export", &["sandbox"]),
    ("GET", "/v1/volumes", &["sandbox"]),
    ("DELETE", "/v1/volumes/none", &["sandbox"]),
    ("GET", "/v1/images", &["sandbox", "template"]),
    ("POST", "/v1/images", &["template"]),
    ("DELETE", "/v1/images/none", &["template"]),
    ("GET", "/v1/secrets", &["secret"]),
    ("DELETE", "/v1/secrets/none", &["secret"]),
    ("GET", "/metrics", &["sandbox"]),
    ("GET", "/sandboxes", &["sandbox"]),
    ("GET", "/v2/sandboxes", &["sandbox"]),
    ("POST", "/sandboxes/none/timeout", &["sandbox"]),
    ("GET", "/sandboxes/none/metrics", &["sandbox"]),
    ("GET", "/snapshots", &["sandbox"]),
    ("GET", "/templates", &["sandbox", "template"]),
    ("GET", "/v2/templates", &["sandbox", "template"]),
    ("DELETE", "/templates/none", &["template"]),
    ("POST", "/v3/templates", &["template"]),
    ("POST", "/templates/tags", &["template"]),
    ("GET", "/templates/none/builds/none/status", &["template"]),
    ("GET", "/secrets", &["secret"]),
    ("DELETE", "/secrets/none", &["secret"]),
    ("GET", "/volumes", &["sandbox"]),
    ("DELETE", "/volumes/none", &["sandbox"]),
    ("GET", "/v1/capabilities", &["sandbox", "template", "secret"]),
];

#[tokio::test]
async fn a_key_does_on_every_surface_what_its_scopes_allow_and_no_more() {
    let daemon = Daemon::start().await;
    for scope in ["sandbox", "template", "secret"] {
        let key = key(&daemon, scope).await;
        for (method, path, enough) in ROUTES {
            let method: Method = method.parse().unwrap();
            let (status, told) = ask(&daemon, &key, &method, path, json!({})).await;
            if enough.contains(&scope) {
                // What is asked about is not there, or the body is empty: neither is the key's fault.
                let beyond = [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&status);
                assert!(!beyond && !status.is_server_error(), "{scope}: {method} {path}: {status} {told}");
            } else {
                assert_eq!(status, StatusCode::FORBIDDEN, "{scope}: {method} {path}: {told}");
                assert!(told.contains(&format!("scope \\\"{}\\\"", enough[0])), "{scope}: {method} {path}: {told}");
            }
        }
    }
    // The daemon's first key may do everything, and a key of several scopes all of theirs.
    let several = key(&daemon, "sandbox,template").await;
    for (method, path, enough) in ROUTES {
        let (status, told) = ask(&daemon, &several, &method.parse().unwrap(), path, json!({})).await;
        let allowed = *enough != ["secret"];
        assert_eq!(status != StatusCode::FORBIDDEN, allowed, "{method} {path}: {told}");
        let (status, told) = ask(&daemon, daemon.key(), &method.parse().unwrap(), path, json!({})).await;
        assert_ne!(status, StatusCode::FORBIDDEN, "{method} {path}: {told}");
    }
}

#[tokio::test]
async fn a_secret_is_bound_by_who_may_bind_it_on_either_surface() {
    let daemon = Daemon::start().await;
    for name in ["one", "two"] {
        daemon.done(Method::PUT, &format!("/v1/secrets/{name}"), json!({ "value": "a secret value" })).await;
    }
    let policy = |secret: &str| {
        let binding = json!({ "secret": secret, "env": "KEY", "hosts": ["api.example"] });
        json!({ "rules": [{ "verdict": "allow", "to": "api.example" }], "secrets": [binding] })
    };
    let headers = |secret: &str| {
        let rule = json!({ "transform": { "headers": { "X-Key": format!("${{e2b.secrets.{secret}}}") } } });
        json!({ "allowOut": ["api.example"], "denyOut": ["0.0.0.0/0"], "rules": { "api.example": [rule] } })
    };
    let (none, one, every) =
        (key(&daemon, "sandbox").await, key(&daemon, "sandbox,secret:one").await, key(&daemon, "sandbox,secret").await);
    let id = daemon.create(json!({ "network": { "rules": [] } })).await;
    let bound = daemon.create(json!({ "network": policy("two") })).await;
    for secret in ["one", "two"] {
        let attempts = [
            (Method::POST, "/v1/sandboxes".to_owned(), json!({ "spec": { "network": policy(secret) } })),
            (Method::PUT, format!("/v1/sandboxes/{id}/network"), policy(secret)),
            (Method::POST, "/sandboxes".to_owned(), json!({ "templateID": "base", "network": headers(secret) })),
            (Method::PUT, format!("/sandboxes/{id}/network"), headers(secret)),
        ];
        for (method, path, body) in attempts {
            for (key, allowed) in [(&none, false), (&one, secret == "one"), (&every, true)] {
                let (status, told) = ask(&daemon, key, &method, &path, body.clone()).await;
                assert_eq!(status.is_success(), allowed, "{method} {path} {secret}: {status} {told}");
                let named = told.contains("scope \\\"secret\\\"");
                assert!(allowed || status == StatusCode::FORBIDDEN && named, "{method} {path} {secret}: {told}");
            }
        }
    }
    // A fork that shares its parent's secrets binds them anew. What was bound stays bound, whoever asks for it.
    let fork = format!("/v1/sandboxes/{bound}/fork");
    for (key, allowed) in [(&none, false), (&one, false), (&every, true)] {
        let (status, told) = ask(&daemon, key, &Method::POST, &fork, json!({ "share_secrets": true })).await;
        assert_eq!(status.is_success(), allowed, "{status} {told}");
    }
    assert!(ask(&daemon, &none, &Method::GET, &format!("/v1/sandboxes/{bound}"), json!({})).await.0.is_success());
}

#[tokio::test]
async fn an_image_is_brought_in_by_who_may_make_templates() {
    let offered = tempfile::tempdir().unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(offered.path(), readable).unwrap();
    let tarball = offered.path().join("root.tar");
    let made = Command::new("tar").args(["-cf"]).arg(&tarball).args(["-C", "/", "etc/hostname"]).status().unwrap();
    assert!(made.success());
    let config = format!("directories: [{}]", offered.path().display());
    let daemon = Daemon::start_with(Options { config, ..Options::default() }).await;
    let (user, builder) = (key(&daemon, "sandbox").await, key(&daemon, "template").await);
    let sources = [json!({ "tarball": tarball }), json!({ "registry": "127.0.0.1:1/none:v1" })];
    for source in &sources {
        let body = json!({ "spec": { "image": source } });
        let (status, told) = ask(&daemon, &user, &Method::POST, "/v1/sandboxes", body).await;
        let named = told.contains("scope \\\"template\\\"");
        assert!(status == StatusCode::FORBIDDEN && named, "{source}: {status} {told}");
    }
    let import = json!({ "source": sources[0] });
    let (status, told) = ask(&daemon, &builder, &Method::POST, "/v1/images", import).await;
    assert_eq!(status, StatusCode::CREATED, "{told}");
    // What is there is no import: it may not run, which is another matter.
    let body = json!({ "spec": { "image": sources[0] } });
    let (status, told) = ask(&daemon, &user, &Method::POST, "/v1/sandboxes", body).await;
    assert_ne!(status, StatusCode::FORBIDDEN, "{told}");
}
