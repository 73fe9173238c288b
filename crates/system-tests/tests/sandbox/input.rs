//! Wrong input, for every endpoint: a typed answer that names what is wrong, and no harm.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// Every route that names a sandbox, with a body that is sound.
fn of_a_sandbox() -> Vec<(Method, &'static str, Value)> {
    vec![
        (Method::GET, "", Value::Null),
        (Method::DELETE, "", Value::Null),
        (Method::POST, "/connect", json!({})),
        (Method::POST, "/pause", json!({})),
        (Method::POST, "/resume", json!({})),
        (Method::POST, "/renew", json!({})),
        (Method::POST, "/snapshots", json!({})),
        (Method::POST, "/rollback", json!({ "snapshot": "snnone" })),
        (Method::POST, "/fork", json!({})),
        (Method::GET, "/diff", Value::Null),
        (Method::POST, "/commit", json!({ "name": "n" })),
        (Method::GET, "/logs", Value::Null),
        (Method::GET, "/usage", Value::Null),
        (Method::PUT, "/network", json!({})),
        (Method::GET, "/network/decisions", Value::Null),
        (Method::POST, "/exec", json!({ "command": "true" })),
        (Method::GET, "/processes", Value::Null),
        (Method::POST, "/processes/1/signal", json!({ "signal": 15 })),
        (Method::GET, "/files?path=/f", Value::Null),
        (Method::PUT, "/files?path=/f", Value::Null),
        (Method::DELETE, "/files?path=/f", Value::Null),
        (Method::GET, "/files/stat?path=/f", Value::Null),
        (Method::GET, "/files/list?path=/", Value::Null),
        (Method::POST, "/files/directory", json!({ "path": "/d" })),
        (Method::POST, "/files/move", json!({ "from": "/a", "to": "/b" })),
        (Method::GET, "/files/watch?path=/", Value::Null),
        (Method::GET, "/ports/80/", Value::Null),
    ]
}

fn others() -> Vec<(Method, &'static str, Value)> {
    vec![
        (Method::POST, "/v1/sandboxes", json!({})),
        (Method::GET, "/v1/sandboxes", Value::Null),
        (Method::GET, "/v1/snapshots", Value::Null),
        (Method::DELETE, "/v1/snapshots/snnone", Value::Null),
        (Method::GET, "/v1/volumes", Value::Null),
        (Method::POST, "/v1/volumes", json!({ "name": "v" })),
        (Method::DELETE, "/v1/volumes/none", Value::Null),
        (Method::GET, "/v1/secrets", Value::Null),
        (Method::PUT, "/v1/secrets/s", json!({ "value": "v" })),
        (Method::DELETE, "/v1/secrets/none", Value::Null),
        (Method::GET, "/v1/capabilities", Value::Null),
    ]
}

#[tokio::test]
async fn nothing_is_answered_without_a_key_and_nothing_is_found_that_is_not_there() {
    let daemon = Daemon::start().await;
    let client = reqwest::Client::new();
    let inside =
        of_a_sandbox().into_iter().map(|(method, rest, body)| (method, format!("/v1/sandboxes/sbnone{rest}"), body));
    let outside = others().into_iter().map(|(method, path, body)| (method, path.to_owned(), body));
    for (method, path, body) in inside.chain(outside) {
        for key in [None, Some("mote_sk_0000"), Some("")] {
            let mut request = client.request(method.clone(), format!("{}{path}", daemon.url())).json(&body);
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            let failure: Value = response.json().await.unwrap();
            assert_eq!(failure["code"], "unauthenticated", "{method} {path}");
        }
        if path.contains("none") {
            let (status, failure) = daemon.ask(method.clone(), &path, body).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}: {failure}");
            assert_eq!(failure["code"], "not_found", "{method} {path}");
        }
    }
    for path in ["/health", "/ready"] {
        assert!(client.get(format!("{}{path}", daemon.url())).send().await.unwrap().status().is_success());
    }
    let (status, failure) = daemon.ask(Method::GET, "/v1/nowhere", Value::Null).await;
    assert_eq!((status, failure["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")));
}

#[tokio::test]
async fn a_token_opens_the_data_plane_of_its_own_sandbox_alone() {
    let daemon = Daemon::start().await;
    let made = daemon.done(Method::POST, "/v1/sandboxes", json!({})).await;
    let other = daemon.create(json!({})).await;
    let (id, token) = (made["id"].as_str().unwrap(), made["access_token"].as_str().unwrap());
    let client = reqwest::Client::new();
    let ask = |method: Method, path: String, body: Value| {
        client.request(method, format!("{}{path}", daemon.url())).header("x-access-token", token).json(&body).send()
    };
    let exec = json!({ "command": "true" });
    let own = ask(Method::POST, format!("/v1/sandboxes/{id}/exec"), exec.clone()).await.unwrap();
    assert_eq!(own.status(), StatusCode::OK);
    let foreign = ask(Method::POST, format!("/v1/sandboxes/{other}/exec"), exec).await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let control = ask(Method::DELETE, format!("/v1/sandboxes/{id}"), Value::Null).await.unwrap();
    assert_eq!(control.status(), StatusCode::UNAUTHORIZED, "a token is not a key");
}

#[tokio::test]
async fn wrong_bodies_name_the_field_or_the_place() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let spec = |spec: Value| ("/v1/sandboxes".to_owned(), json!({ "spec": spec }));
    let inside = |rest: &str, body: Value| (format!("/v1/sandboxes/{id}{rest}"), body);
    let cases = [
        (spec(json!({ "colour": "red" })), "colour"),
        (spec(json!({ "lease": "30" })), "one of ms, s, m, h, d"),
        (spec(json!({ "lease": "0s" })), "spec.lease"),
        (spec(json!({ "resources": { "memory": "1B" } })), "spec.resources.memory"),
        (spec(json!({ "env": { "A=B": "" } })), "spec.env"),
        (spec(json!({ "user": "a:b" })), "spec.user"),
        (spec(json!({ "cwd": "relative" })), "spec.cwd"),
        (spec(json!({ "volumes": [{ "name": "../x", "path": "/v" }] })), "spec.volumes[0].name"),
        (spec(json!({ "profile": "holiday" })), "holiday"),
        (("/v1/sandboxes".to_owned(), json!({ "count": 0 })), "count"),
        (("/v1/sandboxes".to_owned(), json!({ "count": 1000 })), "count"),
        (inside("/exec", json!({ "command": [] })), "command"),
        (inside("/exec", json!({ "command": "true", "timeout": "soon" })), "soon"),
        (inside("/exec", json!({ "command": "true", "env": { "": "x" } })), "env"),
        (inside("/pause", json!({ "kind": "asleep" })), "asleep"),
        (inside("/fork", json!({ "count": 101 })), "count"),
        (inside("/commit", json!({ "name": "../../etc" })), "name"),
        (inside("/snapshots", json!({ "name": "" })), "name"),
        (inside("/files/directory", json!({ "path": "" })), "path"),
        (("/v1/volumes".to_owned(), json!({ "name": "a b" })), "name"),
    ];
    for ((path, body), named) in cases {
        let (status, failure) = daemon.ask(Method::POST, &path, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {failure}");
        assert_eq!(failure["code"], "invalid", "{path} {body}");
        assert!(failure["message"].as_str().unwrap().contains(named), "{path} {body}: {failure}");
    }
    let broken = daemon.request(Method::POST, "/v1/sandboxes").body("{\"spec\":").send().await.unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    assert_eq!(broken.json::<Value>().await.unwrap()["context"]["line"], "1");
    let long = daemon.request(Method::POST, "/v1/sandboxes").body(vec![b' '; 5 << 20]).send().await.unwrap();
    assert_eq!(long.status(), StatusCode::PAYLOAD_TOO_LARGE);
    for query in ["state=blue", "limit=0", "limit=x", "colour=red", "metadata.=1"] {
        let (status, _) = daemon.ask(Method::GET, &format!("/v1/sandboxes?{query}"), Value::Null).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
    let (status, failure) =
        daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": { "image": { "snapshot": "snnone" } } })).await;
    assert_eq!((status, failure["context"]["kind"].as_str()), (StatusCode::NOT_FOUND, Some("snapshot")));
    assert_eq!(daemon.run(&id, "echo unharmed").await, "unharmed\n");
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let daemon = Daemon::start().await;
    let value = "hunter2-hunter2";
    daemon.done(Method::PUT, "/v1/secrets/token", json!({ "value": value })).await;
    let policy = json!({ "secrets": [{ "secret": "token", "env": "TOKEN", "hosts": ["api.test"] }] });
    let id = daemon.create(json!({ "network": policy })).await;
    let seen = daemon.run(&id, "echo $TOKEN; env; cat /proc/self/environ").await;
    assert!(seen.len() > 1 && !seen.contains(value), "a placeholder stands inside");
    let listed = daemon.done(Method::GET, "/v1/secrets", Value::Null).await;
    assert_eq!(listed["items"][0]["name"], "token");
    let (status, failure) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!((status, failure["code"].as_str()), (StatusCode::FORBIDDEN, Some("forbidden")));
    let sandbox = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}"), Value::Null).await;
    let log = daemon.whole_log(&id).await;
    for text in [listed.to_string(), sandbox.to_string(), log] {
        assert!(!text.contains(value));
    }
}
