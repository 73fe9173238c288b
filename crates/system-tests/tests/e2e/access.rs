//! Who may do what, and how often: keys, scopes, tenants, rates.

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use system_tests::fake_model::Plan;
use system_tests::process::service::Service;

use super::tasks::problem;
use crate::stage::Stage;

const KEYS: [(&str, &str, &str); 4] = [
    ("key-run-1", "run", ""),
    ("key-read-1", "read", ""),
    ("key-admin-1", "run,read,admin", ""),
    ("key-blue-1", "run,read", "blue"),
];

async fn guarded() -> (Stage, Service) {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let lines = KEYS.iter().map(|(key, scopes, tenant)| {
        let hash = Sha256::digest(key).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        format!("{hash} {key}-name {scopes} {tenant}").trim_end().to_owned() + "\n"
    });
    stage.write("keys", &lines.collect::<String>());
    let stage = stage.with(|agent| agent["auth"] = json!({"keys": {"file": "keys"}}));
    let service = stage.serve().await;
    (stage, service)
}

async fn with_key(request: RequestBuilder, key: &str) -> reqwest::Response {
    request.bearer_auth(key).send().await.unwrap()
}

#[tokio::test]
async fn without_a_known_key_nothing_is_done() {
    let (stage, service) = guarded().await;
    let body = json!({"input": "x"});
    problem(service.post("/tasks", &body).send().await.unwrap(), 401, "unauthenticated").await;
    problem(with_key(service.post("/run", &body), "key-run-2").await, 401, "unauthenticated").await;
    problem(service.get("/tasks").send().await.unwrap(), 401, "unauthenticated").await;
    // What an orchestrator and a scraper need stays open.
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(service.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(stage.model.stats().requests, 0);
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_no_more() {
    let (_stage, service) = guarded().await;
    let body = json!({"input": "x", "session": "s"});
    assert_eq!(with_key(service.post("/run", &body), "key-run-1").await.status(), 200);
    problem(with_key(service.get("/tasks"), "key-run-1").await, 403, "forbidden").await;
    assert_eq!(with_key(service.get("/tasks"), "key-read-1").await.status(), 200);
    problem(with_key(service.post("/tasks", &body), "key-read-1").await, 403, "forbidden").await;
    let erase = || service.request(reqwest::Method::DELETE, "/sessions/s");
    problem(with_key(erase(), "key-read-1").await, 403, "forbidden").await;
    assert!(with_key(erase(), "key-admin-1").await.status().is_success());
    assert_eq!(with_key(service.get("/sessions/s"), "key-read-1").await.status(), 404, "it is erased");
}

#[tokio::test]
async fn a_key_bound_to_a_tenant_sees_and_makes_that_tenants_tasks_only() {
    let (_stage, service) = guarded().await;
    let red = json!({"input": "x", "tenant": "red"});
    let made: Value = with_key(service.post("/tasks", &red), "key-admin-1").await.json().await.unwrap();
    let id = made["id"].as_str().unwrap();
    problem(with_key(service.get(&format!("/tasks/{id}")), "key-blue-1").await, 404, "task_not_found").await;
    let cancel = service.post(&format!("/tasks/{id}/cancel"), &json!({}));
    problem(with_key(cancel, "key-blue-1").await, 404, "task_not_found").await;
    problem(with_key(service.post("/tasks", &red), "key-blue-1").await, 403, "tenant_forbidden").await;
    let own: Value = with_key(service.post("/tasks", &json!({"input": "x"})), "key-blue-1").await.json().await.unwrap();
    assert_eq!(own["tenant"], "blue", "{own}");
    let page: Value = with_key(service.get("/tasks"), "key-blue-1").await.json().await.unwrap();
    assert_eq!(page["tasks"].as_array().unwrap().len(), 1, "{page}");
}

#[tokio::test]
async fn a_rate_is_announced_and_then_held() {
    let stage = Stage::new(Plan::answer("Fine.")).await.with(|agent| agent["server"]["rate"] = json!(5));
    let service = stage.serve().await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = service.get("/tasks").send().await.unwrap();
        assert!(answer.headers().contains_key("ratelimit"), "{:?}", answer.headers());
        let policy = answer.headers()["ratelimit-policy"].to_str().unwrap();
        assert!(policy.contains("q=5") && policy.contains("w=60"), "{policy}");
        if answer.status() == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the rate is never held");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    problem(refused, 429, "rate_limited").await;
    assert_eq!(service.get("/health").send().await.unwrap().status(), 200, "probes are not counted");
}

#[tokio::test]
async fn a_request_keeps_its_id_and_browsers_are_not_let_in() {
    let stage = Stage::new(Plan::answer("Fine.")).await;
    let service = stage.serve().await;
    let request = service.get("/tasks").header("x-request-id", "req-abc-1").header("origin", "https://evil.example");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "req-abc-1");
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}
