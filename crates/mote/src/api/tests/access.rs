//! Keys, scopes, tenants, rates, request ids, CORS, bodies.

use super::*;
use crate::api::ClientAddr;
use crate::auth::{NewKey, Scope, generate};
use crate::limits;

const BODY: &str = r#"{"input": "hi"}"#;

fn key(name: &str, scopes: &[Scope], tenant: Option<&str>) -> NewKey {
    generate(name, scopes, tenant, None).unwrap()
}

fn locked(keys: &[&NewKey]) -> Service {
    let lines: Vec<&str> = keys.iter().map(|key| key.line.as_str()).collect();
    Setup { keys: lines.join("\n"), ..passive() }.start()
}

fn bearing(request: Request<Body>, key: &NewKey) -> Request<Body> {
    with_header(request, "authorization", &format!("Bearer {}", key.key))
}

#[tokio::test]
async fn a_request_without_a_known_key_is_refused() {
    let admin = key("admin", &[Scope::Admin], None);
    let service = locked(&[&admin]);
    let list = || request("GET", "/tasks", None);
    for wrong in [
        list(),
        with_header(list(), "authorization", "Bearer mote_wrong"),
        with_header(list(), "authorization", &format!("Basic {}", admin.key)),
        with_header(list(), "x-api-key", "mote_wrong"),
        with_header(bearing(list(), &admin), "x-api-key", &admin.key),
    ] {
        let answer = service.send(wrong).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (401, "unauthenticated"));
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"mote\"");
        assert!(!answer.json.to_string().contains(&admin.key));
    }
    assert_eq!(service.send(bearing(list(), &admin)).await.status, 200);
    assert_eq!(service.send(with_header(list(), "x-api-key", &admin.key)).await.status, 200);
    let lower = with_header(list(), "authorization", &format!("bearer {}", admin.key));
    assert_eq!(service.send(lower).await.status, 200);
}

#[tokio::test]
async fn every_route_asks_for_its_scope() {
    let (run, read) = (key("run", &[Scope::Run], None), key("read", &[Scope::Read], None));
    let admin = key("admin", &[Scope::Admin], None);
    let service = locked(&[&run, &read, &admin]);
    for (method, path, scope) in [
        ("POST", "/run", Scope::Run),
        ("POST", "/tasks", Scope::Run),
        ("POST", "/tasks/x/cancel", Scope::Run),
        ("POST", "/tasks/x/input", Scope::Run),
        ("POST", "/tasks/x/signals/s", Scope::Run),
        ("POST", "/tasks/x/resume", Scope::Run),
        ("GET", "/tasks", Scope::Read),
        ("GET", "/tasks/x", Scope::Read),
        ("GET", "/tasks/x/events", Scope::Read),
        ("GET", "/tasks/x/ws", Scope::Read),
        ("GET", "/sessions/x", Scope::Read),
        ("GET", "/v1/tools", Scope::Read),
        ("POST", "/tasks/x/rerun", Scope::Admin),
        ("DELETE", "/sessions/x", Scope::Admin),
    ] {
        for (holder, held) in [(&run, Scope::Run), (&read, Scope::Read), (&admin, Scope::Admin)] {
            let answer = service.send(bearing(request(method, path, None), holder)).await;
            let allowed = held == scope || held == Scope::Admin;
            assert_eq!(answer.status != 403, allowed, "{method} {path} with {}", held.as_str());
            if !allowed {
                assert_eq!(answer.problem(), "forbidden");
            }
        }
    }
    for path in ["/health", "/ready", "/metrics", "/openapi.json"] {
        assert_eq!(service.get(path).await.status, 200, "{path} is open");
    }
}

#[tokio::test]
async fn the_journal_of_an_earlier_life_is_read_by_whoever_sees_the_task() {
    let acme = key("acme", &[Scope::Admin], Some("acme"));
    let other = key("other", &[Scope::Admin], Some("other"));
    let service = locked(&[&acme, &other]);
    let submitted = service.send(bearing(request("POST", "/tasks", Some(BODY)), &acme)).await;
    let id = submitted.json["id"].as_str().unwrap();
    assert_eq!(submitted.json["life"], 1);
    service.claim().await;
    let failed = StatusChange::Finished(End { status: Status::Failed, result: None, error: None, dead: false });
    service.commit(id, &["run.opened", "run.started", "run.failed"], failed).await;
    let rerun = service.send(bearing(request("POST", &format!("/tasks/{id}/rerun"), None), &acme)).await;
    assert_eq!((rerun.status.as_u16(), &rerun.json["life"], &rerun.json["seq"]), (202, &2.into(), &0.into()));

    let page = async |name: &str, query: &str, holder: &NewKey| {
        service.send(bearing(request("GET", &format!("/tasks/{name}/journal{query}"), None), holder)).await
    };
    let first = page(&format!("{id}.1"), "?limit=2", &acme).await;
    assert_eq!((first.status.as_u16(), &first.json["next"]), (200, &2.into()), "{:?}", first.json);
    assert_eq!(first.json["entries"][1]["kind"], "run.started");
    let last = page(&format!("{id}.1"), "?after=2", &acme).await;
    assert_eq!((&last.json["entries"][0]["seq"], &last.json["next"]), (&3.into(), &Value::Null));
    for now in [id.to_owned(), format!("{id}.2")] {
        assert_eq!(page(&now, "", &acme).await.json["entries"], serde_json::json!([]), "{now}");
    }
    for (name, holder) in [("0", &acme), ("3", &acme), ("x", &acme), ("1", &other), ("2", &other)] {
        let answer = page(&format!("{id}.{name}"), "", holder).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (404, "task_not_found"), "{name}");
    }
    let beyond = service.send(bearing(request("GET", &format!("/tasks/{id}/events?after=3"), None), &acme)).await;
    assert_eq!(beyond.problem(), "cursor_invalid");
}

#[tokio::test]
async fn a_bound_key_sees_its_own_tenant_only() {
    let acme = key("acme", &[Scope::Admin], Some("acme"));
    let other = key("other", &[Scope::Admin], Some("other"));
    let unbound = key("ops", &[Scope::Admin], None);
    let service = locked(&[&acme, &other, &unbound]);
    let body = r#"{"input": "hi", "session": "s"}"#;
    let submitted = service.send(bearing(request("POST", "/tasks", Some(body)), &acme)).await;
    assert_eq!((submitted.status.as_u16(), &submitted.json["tenant"]), (202, &"acme".into()));
    let id = submitted.json["id"].as_str().unwrap();

    for (method, path, body) in [
        ("GET", format!("/tasks/{id}"), None),
        ("GET", format!("/tasks/{id}/events"), None),
        ("GET", format!("/tasks/{id}/ws"), None),
        ("POST", format!("/tasks/{id}/cancel"), None),
        ("POST", format!("/tasks/{id}/input"), Some(r#"{"approve": true}"#)),
        ("POST", format!("/tasks/{id}/signals/s"), None),
        ("POST", format!("/tasks/{id}/resume"), None),
        ("POST", format!("/tasks/{id}/rerun"), None),
        ("POST", format!("/tasks/{id}/stream-token"), None),
        ("GET", format!("/tasks/{id}/journal"), None),
        ("DELETE", format!("/tasks/{id}"), None),
        ("GET", "/sessions/s".into(), None),
    ] {
        let answer = service.send(bearing(request(method, &path, body), &other)).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    for (holder, query, count) in
        [(&acme, "", 1), (&acme, "?tenant=acme", 1), (&other, "", 0), (&unbound, "", 1), (&unbound, "?tenant=other", 0)]
    {
        let answer = service.send(bearing(request("GET", &format!("/tasks{query}"), None), holder)).await;
        assert_eq!(answer.json["tasks"].as_array().unwrap().len(), count, "{} {query}", holder.line);
        let sessions = service.send(bearing(request("GET", &format!("/sessions{query}"), None), holder)).await;
        assert_eq!(sessions.json["sessions"].as_array().unwrap().len(), count, "{} {query}", holder.line);
    }
    // An empty list, or a 404, would say that the other tenant has nothing.
    for (method, path) in [
        ("GET", "/tasks?tenant=acme"),
        ("GET", "/tasks?tenant="),
        ("GET", "/sessions?tenant=acme"),
        ("GET", "/sessions/s?tenant=acme"),
        ("DELETE", "/sessions/s?tenant=acme"),
    ] {
        let answer = service.send(bearing(request(method, path, None), &other)).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (403, "tenant_forbidden"), "{method} {path}");
    }
    let foreign = bearing(request("POST", "/tasks", Some(r#"{"input": "hi", "tenant": "other"}"#)), &acme);
    let answer = service.send(foreign).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (403, "tenant_forbidden"));
}

#[tokio::test]
async fn each_key_has_its_own_rate_and_is_told_of_it() {
    let (first, second) = (key("a", &[Scope::Read], None), key("b", &[Scope::Read], None));
    let service = Setup { rate: Some(2), keys: format!("{}\n{}", first.line, second.line), ..passive() }.start();
    let list = |key: &NewKey| bearing(request("GET", "/tasks", None), key);
    for left in ["r=1", "r=0"] {
        let answer = service.send(list(&first)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=2;w=60");
        assert!(answer.header("ratelimit").contains(left), "{}", answer.header("ratelimit"));
    }
    let refused = service.send(list(&first)).await;
    assert_eq!((refused.status.as_u16(), refused.problem()), (429, "rate_limited"));
    assert!((1..=30).contains(&refused.header("retry-after").parse::<u64>().unwrap()));
    assert_eq!(refused.header("ratelimit-policy"), "\"default\";q=2;w=60");
    assert_eq!(service.send(list(&second)).await.status, 200);
    assert_eq!(service.get("/health").await.status, 200, "probes are not counted");
}

#[tokio::test]
async fn without_keys_each_address_has_its_own_rate() {
    let service = Setup { rate: Some(1), ..passive() }.start();
    let from = |address: &str| {
        let mut request = request("GET", "/tasks", None);
        request.extensions_mut().insert(ClientAddr(address.parse().unwrap()));
        request
    };
    assert_eq!(service.send(from("192.0.2.1:1000")).await.status, 200);
    assert_eq!(service.send(from("192.0.2.1:2000")).await.status, 429);
    assert_eq!(service.send(from("192.0.2.2:1000")).await.status, 200);
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let service = passive().start();
    let given = service.send(with_header(request("GET", "/tasks/x", None), "x-request-id", "abc-1")).await;
    assert_eq!(given.header("x-request-id"), "abc-1");
    assert_eq!(given.json["instance"], "urn:mote:request:abc-1");
    let unfit = service.send(with_header(request("GET", "/health", None), "x-request-id", "a b\"")).await;
    assert!(unfit.header("x-request-id").starts_with("req_"));
    assert_ne!(
        service.get("/health").await.header("x-request-id"),
        service.get("/health").await.header("x-request-id")
    );
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_only_where_the_configuration_names_them() {
    let preflight = |origin: &str| {
        let request = with_header(request("OPTIONS", "/tasks", None), "origin", origin);
        with_header(request, "access-control-request-method", "POST")
    };
    let off = passive().start();
    let answer = off.send(preflight("https://app.example")).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));

    let on = Setup { cors: vec!["https://app.example".into()], ..passive() }.start();
    let answer = on.send(preflight("https://app.example")).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, "https://app.example"));
    let foreign = on.send(preflight("https://evil.example")).await;
    assert!(!foreign.headers.contains_key("access-control-allow-origin"));
    // A problem keeps the headers, or the page could not read it.
    let refused = on.send(with_header(request("GET", "/tasks/x", None), "origin", "https://app.example")).await;
    assert_eq!(refused.problem(), "task_not_found");
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example");
}

#[tokio::test]
async fn bodies_are_bounded_and_json() {
    let service = passive().start();
    let large = format!(r#"{{"input": "{}"}}"#, "x".repeat(limits::REQUEST_BODY_BYTES_MAX));
    for path in ["/run", "/tasks", "/tasks/x/input", "/tasks/x/signals/s"] {
        let answer = service.post(path, &large).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (413, "body_too_large"), "{path}");
        let typed = with_header(request("POST", path, Some(BODY)), "content-type", "text/plain");
        let answer = service.send(typed).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (415, "unsupported_media_type"), "{path}");
    }
    let charset = with_header(request("POST", "/tasks", Some(BODY)), "content-type", "application/json; charset=utf-8");
    assert_eq!(service.send(charset).await.status, 202);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let service = passive().start();
    let answer = service.get("/nope").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (404, "route_not_found"));
    for (method, path) in [("DELETE", "/tasks"), ("GET", "/run"), ("POST", "/sessions/x")] {
        let answer = service.send(request(method, path, None)).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (405, "method_not_allowed"), "{method} {path}");
        assert!(!answer.header("allow").is_empty());
    }
}

#[tokio::test]
async fn a_path_that_is_no_text_and_a_parameter_that_nobody_knows_are_problems() {
    let service = passive().start();
    for (method, path) in [
        ("GET", "/tasks/%ff"),
        ("GET", "/tasks/%ff/events"),
        ("GET", "/sessions/%ff"),
        ("DELETE", "/sessions/%ff"),
        ("POST", "/tasks/%ff/cancel"),
        ("POST", "/tasks/x/signals/%ff"),
    ] {
        let answer = service.send(request(method, path, None)).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (404, "route_not_found"), "{method} {path}");
    }
    for (method, path) in [
        ("GET", "/tasks/x?verbose=true"),
        ("POST", "/tasks/x/cancel?force=true"),
        ("POST", "/tasks/x/input?force=true"),
        ("POST", "/tasks/x/signals/go?force=true"),
        ("POST", "/tasks/x/resume?force=true"),
        ("POST", "/tasks/x/rerun?force=true"),
    ] {
        let answer = service.send(request(method, path, (method == "POST").then_some("{}"))).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (400, "invalid_query"), "{method} {path}");
    }
}

#[tokio::test]
async fn one_key_cannot_take_every_stream() {
    let (greedy, modest) = (key("greedy", &[Scope::Read], None), key("modest", &[Scope::Read], None));
    let service = locked(&[&greedy, &modest]);
    let id = service.runner.submit(crate::runner::tests::ask("hi"), false).await.unwrap().task;
    let open = async |key: &NewKey| {
        let path = format!("/tasks/{id}/events");
        service.response(bearing(request("GET", &path, None), key)).await
    };
    let mut streams = Vec::new();
    for _ in 0..limits::STREAMS_PER_KEY_MAX {
        streams.push(open(&greedy).await);
    }
    assert!(streams.iter().all(|stream| stream.status() == 200));
    assert_eq!(open(&greedy).await.status(), 503);
    assert_eq!(open(&modest).await.status(), 200);
    streams.pop();
    assert_eq!(open(&greedy).await.status(), 200, "a stream that ended leaves its place");
}

#[tokio::test]
async fn bodies_under_way_are_bounded_together() {
    let service = passive().start();
    let slow = || {
        let mut slow = request("POST", "/tasks", Some(""));
        *slow.body_mut() = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        slow
    };
    let whole = limits::REQUEST_BODY_BYTES_MAX;
    let mut under_way = Vec::new();
    for _ in 0..limits::BODIES_BYTES_MAX / whole {
        let mut arriving = Box::pin(service.router.clone().oneshot(slow()));
        assert!(futures_util::poll!(&mut arriving).is_pending());
        under_way.push(arriving);
    }
    let refused = service.post("/tasks", BODY).await;
    assert_eq!((refused.status.as_u16(), refused.problem()), (503, "overloaded"));
    assert!(refused.headers.contains_key("retry-after"));
    under_way.pop();
    assert_eq!(service.post("/tasks", BODY).await.status, 202);
}
