//! `POST /tasks/{id}/stream-token`, and what such a token opens.

use super::*;
use crate::auth::{NewKey, Scope, generate};

fn bearing(request: Request<Body>, key: &NewKey) -> Request<Body> {
    with_header(request, "authorization", &format!("Bearer {}", key.key))
}

async fn issued(service: &Service, id: &str, key: &NewKey) -> Answer {
    let answer = service.send(bearing(request("POST", &format!("/tasks/{id}/stream-token"), None), key)).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"), "{}", answer.json);
    answer
}

#[tokio::test]
async fn a_token_opens_its_tasks_stream_and_nothing_else() {
    let key = generate("page", &[Scope::Run, Scope::Read], Some("acme"), None).unwrap();
    let other = generate("other", &[Scope::Run, Scope::Read], Some("acme"), None).unwrap();
    let service = Setup { keys: format!("{}\n{}\n", key.line, other.line), ..passive() }.start();
    let submit = async || {
        let answer = service.send(bearing(request("POST", "/tasks", Some(r#"{"input": "hi"}"#)), &key)).await;
        answer.json["id"].as_str().unwrap().to_owned()
    };
    let (id, another) = (submit().await, submit().await);
    let answer = issued(&service, &id, &key).await;
    let token = answer.json["token"].as_str().unwrap();
    assert_eq!(answer.json["events"], format!("/tasks/{id}/events?token={token}"));
    assert_eq!(answer.json["ws"], format!("/tasks/{id}/ws?token={token}"));
    assert!(!token.contains(&key.key) && !service.folder.path().join("keys").to_string_lossy().contains(token));

    let opened = service.response(request("GET", &format!("/tasks/{id}/events?after=0&token={token}"), None)).await;
    assert_eq!(opened.status(), 200);
    let socket = service.get(&format!("/tasks/{id}/ws?token={token}")).await;
    assert_eq!(socket.problem(), "upgrade_required", "it came through the gate");

    for path in [
        format!("/tasks/{another}/events?token={token}"),
        format!("/tasks/{id}/events?token={token}x"),
        format!("/tasks/{id}/events?token="),
        format!("/tasks/{id}/events"),
        format!("/tasks/{id}?token={token}"),
        format!("/tasks/{id}/journal?token={token}"),
        format!("/tasks?token={token}"),
    ] {
        let refused = service.get(&path).await;
        assert_eq!((refused.status.as_u16(), refused.problem()), (401, "unauthenticated"), "{path}");
        assert!(!refused.json.to_string().contains(token), "{}", refused.json);
    }
    let both = service.send(bearing(request("GET", &format!("/tasks/{id}/events?token={token}"), None), &other)).await;
    assert_eq!(both.status, 401);
    let twice = service.get(&format!("/tasks/{id}/events?token={token}&token={token}")).await;
    assert_eq!(twice.problem(), "invalid_query");
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_with_its_key() {
    let key = generate("page", &[Scope::Run, Scope::Read], None, None).unwrap();
    let service = Setup { keys: key.line.clone(), ..passive() }.start();
    let answer = service.send(bearing(request("POST", "/tasks", Some(r#"{"input": "hi"}"#)), &key)).await;
    let id = answer.json["id"].as_str().unwrap().to_owned();
    let token = issued(&service, &id, &key).await.json["token"].as_str().unwrap().to_owned();
    let path = format!("/tasks/{id}/events?token={token}");
    assert_eq!(service.response(request("GET", &path, None)).await.status(), 200);
    let ttl = u64::try_from(crate::limits::STREAM_TOKEN_TTL.as_millis()).unwrap();
    service.clock.advance(ttl);
    assert_eq!(service.get(&path).await.status, 401);

    let token = issued(&service, &id, &key).await.json["token"].as_str().unwrap().to_owned();
    std::fs::write(service.folder.path().join("keys"), "").unwrap();
    service.clock.advance(crate::limits::KEYS_CHECK_MS);
    assert_eq!(service.get(&format!("/tasks/{id}/events?token={token}")).await.status, 401, "the key is gone");
}

#[tokio::test]
async fn without_keys_a_token_works_the_same() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi"}"#).await;
    let answer = service.post(&format!("/tasks/{id}/stream-token"), "{}").await;
    let path = answer.json["events"].as_str().unwrap();
    assert_eq!(service.response(request("GET", path, None)).await.status(), 200);
    assert_eq!(service.get(&format!("/tasks/{id}/events?token=nonsense")).await.status, 401);
}

#[tokio::test]
async fn a_key_ends_with_its_time() {
    let now = System.now_ms();
    let key = generate("visitor", &[Scope::Read], None, Some(now + 3_600_000)).unwrap();
    let service = Setup { keys: key.line.clone(), ..passive() }.start();
    assert_eq!(service.send(bearing(request("GET", "/tasks", None), &key)).await.status, 200);
    service.clock.advance(3_600_000);
    let refused = service.send(bearing(request("GET", "/tasks", None), &key)).await;
    assert_eq!((refused.status.as_u16(), refused.problem()), (401, "unauthenticated"));
    assert!(refused.json["detail"].as_str().unwrap().contains("expired at 20"), "{}", refused.json);
}
