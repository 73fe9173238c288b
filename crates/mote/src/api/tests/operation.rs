//! Probes, metrics and the description.

use super::*;

#[tokio::test]
async fn health_tells_the_agent_and_touches_nothing() {
    let broken = ReadyCheck::flag("model", "every endpoint's circuit is open", || false);
    let service = Setup { checks: vec![broken], ..passive() }.start();
    let answer = service.get("/health").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json, serde_json::json!({"status": "ok", "name": "test-agent", "version": "1.2.3"}));
}

#[tokio::test]
async fn readiness_names_what_fails() {
    let with = |closed: bool| {
        let model = ReadyCheck::flag("model", "every endpoint's circuit is open", move || closed);
        Setup { checks: vec![model], ..passive() }.start()
    };
    let service = with(false);
    let answer = service.get("/ready").await;
    assert_eq!((answer.status.as_u16(), &answer.json["status"]), (503, &"unready".into()));
    let names = |answer: &Answer, ok: bool| -> Vec<String> {
        let checks = answer.json["checks"].as_array().unwrap().iter();
        checks.filter(|check| check["ok"] == ok).map(|check| check["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&answer, false), ["model"]);
    assert_eq!(names(&answer, true), ["store", "configuration", "drain"]);
    assert_eq!(answer.json["checks"][2]["detail"], "every endpoint's circuit is open");

    let answer = with(true).get("/ready").await;
    assert_eq!((answer.status.as_u16(), &answer.json["status"]), (200, &"ready".into()));
}

#[tokio::test]
async fn a_draining_service_is_unready_at_once_and_alive() {
    let service = passive().start();
    assert_eq!(service.get("/ready").await.status, 200);
    service.runner.drain(PATIENCE).await;
    let answer = service.get("/ready").await;
    assert_eq!(answer.status, 503);
    let drain = answer.json["checks"].as_array().unwrap().last().unwrap();
    assert_eq!((&drain["name"], &drain["ok"]), (&"drain".into(), &false.into()));
    assert_eq!(service.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_check_that_hangs_fails_readiness_by_name() {
    let hung = ReadyCheck::new("hung", std::future::pending::<Result<(), String>>);
    let service = Setup { checks: vec![hung], ..passive() }.start();
    let answer = service.get("/ready").await;
    assert_eq!(answer.status, 503);
    assert_eq!((&answer.json["checks"][2]["name"], &answer.json["checks"][2]["ok"]), (&"hung".into(), &false.into()));
}

#[tokio::test]
async fn a_keys_file_that_breaks_keeps_the_keys_and_the_service_ready_and_says_so() {
    let key = crate::auth::generate("k", &[crate::auth::Scope::Read], None, None).unwrap();
    let service = Setup { keys: key.line.clone(), ..passive() }.start();
    std::fs::write(service.folder.path().join("keys"), "nonsense").unwrap();
    service.clock.advance(crate::limits::KEYS_CHECK_MS);
    let answer = service.get("/ready").await;
    let configuration = &answer.json["checks"][1];
    assert_eq!((answer.status.as_u16(), &configuration["name"]), (200, &"configuration".into()));
    assert_eq!((&answer.json["status"], &configuration["ok"]), (&"ready".into(), &true.into()));
    assert!(configuration["detail"].as_str().unwrap().contains("keys file"), "{configuration}");
    let list = with_header(request("GET", "/tasks", None), "x-api-key", &key.key);
    assert_eq!(service.send(list).await.status, 200);
}

#[tokio::test]
async fn metrics_are_served_and_requests_are_counted_by_pattern() {
    let service = passive().start();
    let answer = service.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    service.get("/tasks/one").await;
    service.get("/elsewhere").await;
    let counted = service.metrics.0.lock().unwrap().clone();
    let row = |route: &str, status| ("GET".to_owned(), route.to_owned(), status);
    assert_eq!(counted, [row("/metrics", 200), row("/tasks/{id}", 404), row("", 404)]);
}

#[tokio::test]
async fn the_description_is_served_and_has_every_route() {
    let service = passive().start();
    let answer = service.get("/openapi.json").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    assert!(answer.json["openapi"].as_str().unwrap().starts_with("3.1"));
    let document = include_str!("../../../../../docs/http.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()?.split_once(" /"));
    let mut routes = 0;
    for (method, path) in rows {
        let operation = &answer.json["paths"][format!("/{path}")][method.to_lowercase()];
        assert!(operation.is_object(), "{method} /{path} is documented and not described");
        routes += 1;
    }
    let described: usize =
        answer.json["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(routes, described, "every described route stands in docs/http.md");
}
