//! Waits as events, who answered them, and what of a task is to be read: its input, its journal, its end by deletion.

use super::*;
use crate::auth::{NewKey, Scope, generate};

/// A task that a person has to answer, and the list of its waits.
async fn waiting_task(service: &Service) -> String {
    let id = service.submit(r#"{"input": "hi", "context": {"a": 1}}"#).await;
    service.claim().await;
    service.commit(&id, &["run.started", "model.replied"], super::waiting()).await;
    id
}

#[tokio::test]
async fn a_stream_tells_of_a_wait_once_and_again_to_who_comes_later() {
    for after in [0_usize, 2] {
        let service = passive().start();
        let id = waiting_task(&service).await;
        let mut frames = service.response(request("GET", &format!("/tasks/{id}/events?after={after}"), None)).await;
        let mut said = String::new();
        while !said.contains("event: waiting") {
            let frame = within(http_body_util::BodyExt::frame(frames.body_mut())).await.unwrap().unwrap();
            said.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        assert!(
            said.ends_with(
                "event: waiting\ndata: {\"type\":\"waiting\",\"seq\":2,\"waiting\":[{\"kind\": \"signal\"}]}\n\n"
            ),
            "{said}"
        );
        assert_eq!(said.matches("event: waiting").count(), 1, "{said}");
        assert_eq!(said.matches("id: ").count(), 2 - after, "journal events come first: {said}");
    }
}

#[tokio::test]
async fn a_task_shows_its_input_to_who_reads_it_and_in_no_list() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi", "context": {"a": 1}}"#).await;
    let shown = service.get(&format!("/tasks/{id}")).await;
    assert_eq!((&shown.json["input"], &shown.json["context"]["a"]), (&"hi".into(), &1.into()));
    let listed = service.get("/tasks").await;
    assert!(listed.json["tasks"][0]["input"].is_null() && listed.json["tasks"][0]["context"].is_null());
    let messages = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]"#;
    let id = service.submit(&format!(r#"{{"input": {messages}}}"#)).await;
    let shown = service.get(&format!("/tasks/{id}")).await;
    assert_eq!(shown.json["input"], serde_json::from_str::<Value>(messages).unwrap());
}

#[tokio::test]
async fn a_journal_is_read_a_page_at_a_time() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi"}"#).await;
    service.claim().await;
    service.commit(&id, &["run.started", "model.replied", "call.answered"], completed()).await;
    let first = service.get(&format!("/tasks/{id}/journal?limit=2")).await;
    let kinds = |answer: &Answer| -> Vec<String> {
        let entries = answer.json["entries"].as_array().unwrap();
        entries.iter().map(|entry| format!("{} {}", entry["seq"], entry["payload"]["type"].as_str().unwrap())).collect()
    };
    assert_eq!(
        (kinds(&first), &first.json["next"]),
        (vec!["1 run.started".into(), "2 model.replied".into()], &2.into())
    );
    let rest = service.get(&format!("/tasks/{id}/journal?after=2")).await;
    assert_eq!((kinds(&rest), &rest.json["next"]), (vec!["3 call.answered".into()], &Value::Null));
    assert!(rest.json["entries"][0]["record"].is_null());
    for (query, code) in [("after=9", "cursor_invalid"), ("limit=0", "invalid_query"), ("limit=201", "invalid_query")] {
        assert_eq!(service.get(&format!("/tasks/{id}/journal?{query}")).await.problem(), code, "{query}");
    }
    assert_eq!(service.get("/tasks/nope/journal").await.status, 404);
}

#[tokio::test]
async fn mail_carries_its_sender() {
    let key = generate("ops", &[Scope::Admin], None, None).unwrap();
    let service = Setup { keys: key.line.clone(), ..passive() }.start();
    let bearing = |request, key: &NewKey| with_header(request, "x-api-key", &key.key);
    let answer = service.send(bearing(request("POST", "/tasks", Some(r#"{"input": "hi"}"#)), &key)).await;
    let id = answer.json["id"].as_str().unwrap().to_owned();
    service.claim().await;
    service.commit(&id, &["run.started"], StatusChange::Running).await;
    for (path, body) in [
        ("input", r#"{"call": "c1", "approve": true, "user": "ada"}"#),
        ("signals/ci", r#"[1, 2]"#),
        ("cancel", "null"),
    ] {
        let answer = service.send(bearing(request("POST", &format!("/tasks/{id}/{path}"), Some(body)), &key)).await;
        assert_eq!(answer.status, 202, "{path} {}", answer.json);
    }
    let mail = service.store.mail(&id).await.unwrap();
    let users: Vec<_> = mail.into_iter().map(|row| row.by.map(|by| (by.key, by.user))).collect();
    let by = |user: Option<&str>| Some(("ops".to_owned(), user.map(str::to_owned)));
    assert_eq!(users, [by(Some("ada")), by(None), by(None)]);
}

#[tokio::test]
async fn a_task_is_deleted_unless_it_runs() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi", "session": "s"}"#).await;
    let path = format!("/tasks/{id}");
    service.claim().await;
    service.commit(&id, &["run.started"], StatusChange::Running).await;
    let running = service.send(request("DELETE", &path, None)).await;
    assert_eq!((running.status.as_u16(), running.problem()), (409, "task_running"));
    service.commit(&id, &["model.replied"], completed()).await;
    let deleted = service.send(request("DELETE", &path, None)).await;
    assert_eq!((deleted.status.as_u16(), &deleted.json["tasks"]), (200, &1.into()));
    assert_eq!(service.get(&path).await.status, 404);
    assert_eq!(service.get(&format!("{path}/journal")).await.status, 404);
    let again = service.send(request("DELETE", &path, None)).await;
    assert_eq!((again.status.as_u16(), again.problem()), (404, "task_not_found"));
    assert_eq!(service.get("/sessions/s").await.status, 404, "a session goes with its last task");
}

#[tokio::test]
async fn tasks_are_listed_by_date_and_sessions_by_name() {
    let service = passive().start();
    let mut made = Vec::new();
    for session in ["b", "a", "c"] {
        let id = service.submit(&format!(r#"{{"input": "hi", "session": "{session}", "user": "u-{session}"}}"#)).await;
        let shown = service.get(&format!("/tasks/{id}")).await;
        made.push((id, shown.json["times"]["created"].as_str().unwrap().to_owned()));
        service.clock.advance(60_000);
    }
    let ids = |answer: &Answer| -> Vec<String> {
        let tasks = answer.json["tasks"].as_array().unwrap();
        tasks.iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
    };
    let [first, second, third] = &made[..] else { unreachable!() };
    let after = service.get(&format!("/tasks?created_after={}", first.1)).await;
    assert_eq!(ids(&after), [third.0.clone(), second.0.clone()]);
    let between = format!("/tasks?created_after={}&created_before={}", first.1, third.1);
    assert_eq!(ids(&service.get(&between).await), std::slice::from_ref(&second.0));
    assert_eq!(ids(&service.get("/tasks?created_before=1960-01-01T00:00:00Z").await), Vec::<String>::new());
    let zoned = format!("/tasks?created_before={}", first.1.replace('Z', "+00:00"));
    assert_eq!(service.get(&zoned).await.status, 200, "an offset whose plus was not escaped");
    for wrong in ["yesterday", "2026-13-01T00:00:00Z", ""] {
        let refused = service.get(&format!("/tasks?created_after={wrong}")).await;
        assert_eq!(refused.problem(), "invalid_query", "{wrong}");
    }

    let names = |answer: &Answer| -> Vec<String> {
        let sessions = answer.json["sessions"].as_array().unwrap();
        sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
    };
    let page = service.get("/sessions?limit=2").await;
    assert_eq!(names(&page), ["a", "b"]);
    let next = page.json["next"].as_str().unwrap();
    let rest = service.get(&format!("/sessions?limit=2&cursor={next}")).await;
    assert_eq!((names(&rest), &rest.json["next"]), (vec!["c".into()], &Value::Null));
    assert_eq!(names(&service.get("/sessions?user=u-c").await), ["c"]);
    for (query, code) in
        [("cursor=zz", "cursor_invalid"), ("cursor=abc", "cursor_invalid"), ("limit=0", "invalid_query")]
    {
        assert_eq!(service.get(&format!("/sessions?{query}")).await.problem(), code, "{query}");
    }
    assert_eq!(service.get("/tasks?cursor=-1").await.problem(), "cursor_invalid");
}

#[tokio::test]
async fn a_signal_that_no_tool_can_wait_for_is_refused() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi"}"#).await;
    for name in ["go%20on", "-x", "%C3%A9"] {
        let refused = service.post(&format!("/tasks/{id}/signals/{name}"), "{}").await;
        assert_eq!((refused.status.as_u16(), refused.problem()), (422, "invalid_request"), "{name}");
        assert!(refused.json["detail"].as_str().unwrap().contains("A-Za-z0-9"), "{}", refused.json);
    }
    assert!(service.store.mail(&id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_body_in_an_encoding_or_a_charset_that_is_not_understood_is_refused() {
    let service = passive().start();
    let body = Some(r#"{"input": "hi"}"#);
    for (name, value, status) in [
        ("content-encoding", "gzip", 415),
        ("content-encoding", "identity, br", 415),
        ("content-encoding", "identity", 202),
        ("content-type", "application/json; charset=utf-8", 202),
        ("content-type", "application/json; charset=\"UTF-8\"", 202),
        ("content-type", "application/json; charset=latin1", 415),
        ("content-type", "application/x-www-form-urlencoded", 415),
        ("content-type", "application/cloudevents+json", 415),
    ] {
        let answer = service.send(with_header(request("POST", "/tasks", body), name, value)).await;
        assert_eq!(answer.status, status, "{name}: {value}");
        if status == 415 {
            assert_eq!(answer.problem(), "unsupported_media_type");
            assert_eq!(answer.header("accept-encoding") == "identity", name == "content-encoding");
        }
    }
    let id = service.submit(r#"{"input": "hi"}"#).await;
    let empty = with_header(request("POST", &format!("/tasks/{id}/cancel"), None), "content-encoding", "gzip");
    assert_eq!(service.send(empty).await.status, 415);
}
