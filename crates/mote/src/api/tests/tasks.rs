//! `/tasks` and `/sessions`.

use super::*;
use crate::limits;
use crate::store::{Mail, SessionTurn};

const BODY: &str = r#"{"input": "hi"}"#;

#[tokio::test]
async fn a_submitted_task_is_durable_and_can_be_found() {
    let service = passive().start();
    let body =
        r#"{"input": "hi", "session": "s", "tenant": "acme", "user": "u", "labels": {"team": "a"}, "expires": "1h"}"#;
    let answer = service.post("/tasks", body).await;
    assert_eq!(answer.status, 202, "{:?}", answer.json);
    let id = answer.json["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/tasks/{id}"));
    assert_eq!(service.task(id).await.owner.tenant, "acme");

    let found = service.get(answer.header("location")).await;
    assert_eq!(found.status, 200);
    assert_eq!(found.json["status"], "queued");
    assert_eq!(found.json["session"], "s");
    assert_eq!(found.json["labels"]["team"], "a");
    assert_eq!(found.json["cost"], serde_json::json!({"usd": 0.0, "nano_usd": 0}));
    assert!(found.json["times"]["created"].as_str().unwrap().ends_with('Z'));
    assert!(found.json["times"]["expires"].is_string() && found.json["times"]["finished"].is_null());
}

#[tokio::test]
async fn a_repeated_submission_is_the_same_task() {
    let service = passive().start();
    let keyed = |path: &str, body: &str| with_header(request("POST", path, Some(body)), "idempotency-key", "\"k 1\"");
    let first = service.send(keyed("/tasks", BODY)).await;
    let again = service.send(keyed("/tasks", BODY)).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202));
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(first.header("idempotency-key-ttl"), "3600");
    let other = service.send(keyed("/tasks", r#"{"input": "else"}"#)).await;
    assert_eq!((other.status.as_u16(), other.problem()), (422, "idempotency_key_reused"));
    let elsewhere = service.send(keyed("/tasks", r#"{"input": "hi", "tenant": "other"}"#)).await;
    assert_eq!(elsewhere.status, 202, "a key belongs to a tenant");
    assert_ne!(elsewhere.header("location"), first.header("location"));
}

#[tokio::test]
async fn tasks_are_listed_by_page_and_by_filter() {
    let service = passive().start();
    for n in 0..3 {
        service
            .submit(&format!(
                r#"{{"input": "hi", "session": "s{n}", "user": "u", "labels": {{"n": "{n}", "k": "v"}}}}"#
            ))
            .await;
    }
    let ids = |answer: &Answer| -> Vec<String> {
        let tasks = answer.json["tasks"].as_array().unwrap();
        tasks.iter().map(|task| task["session"].as_str().unwrap().to_owned()).collect()
    };
    let first = service.get("/tasks?limit=2").await;
    assert_eq!(ids(&first), ["s2", "s1"]);
    let cursor = first.json["next"].as_str().unwrap();
    let second = service.get(&format!("/tasks?limit=2&cursor={cursor}")).await;
    assert_eq!(ids(&second), ["s0"]);
    assert!(second.json["next"].is_null());
    for (query, expected) in [
        ("session=s1", &["s1"][..]),
        ("user=u&label=n%3D2", &["s2"]),
        ("label=k=v&label=n=0", &["s0"]),
        ("label=k=v&label=n=9", &[]),
        ("status=queued&session=s1", &["s1"]),
        ("status=completed", &[]),
        ("tenant=acme", &[]),
        ("dead=true", &[]),
    ] {
        assert_eq!(ids(&service.get(&format!("/tasks?{query}")).await), expected, "{query}");
    }
}

#[tokio::test]
async fn a_wrong_listing_is_refused_naming_the_parameter() {
    let service = passive().start();
    for (query, code, field) in [
        ("limit=0", "invalid_query", "limit"),
        ("limit=201", "invalid_query", "limit"),
        ("limit=x", "invalid_query", "limit"),
        ("status=done", "invalid_query", "status"),
        ("label=novalue", "invalid_query", "label"),
        ("label=a=1&label=a=2", "invalid_query", "label"),
        ("dead=1", "invalid_query", "dead"),
        ("sesion=s", "invalid_query", "sesion"),
        ("cursor=nonsense", "cursor_invalid", "cursor"),
    ] {
        let answer = service.get(&format!("/tasks?{query}")).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (400, code), "{query}");
        assert_eq!(answer.json["field"], field, "{query}");
    }
}

#[tokio::test]
async fn a_task_that_does_not_exist_is_a_404_on_every_route() {
    let service = passive().start();
    for (method, path, body) in [
        ("GET", "/tasks/nope", None),
        ("GET", "/tasks/nope/events", None),
        ("GET", "/tasks/nope/ws", None),
        ("POST", "/tasks/nope/cancel", None),
        ("POST", "/tasks/nope/input", Some(r#"{"approve": true}"#)),
        ("POST", "/tasks/nope/signals/go", None),
        ("POST", "/tasks/nope/resume", None),
        ("POST", "/tasks/nope/rerun", None),
    ] {
        let answer = service.send(request(method, path, body)).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (404, "task_not_found"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_queued_task_is_cancelled_at_once_and_again_without_harm() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    for _ in 0..2 {
        let answer = service.send(request("POST", &format!("/tasks/{id}/cancel"), None)).await;
        assert_eq!((answer.status.as_u16(), &answer.json["status"]), (202, &"cancelled".into()));
    }
    let answer = service.post(&format!("/tasks/{id}/cancel"), r#"{"why": "x"}"#).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (422, "invalid_request"));
}

#[tokio::test]
async fn a_running_task_is_cancelled_by_its_worker() {
    let service = active(0).start();
    let id = service.submit(BODY).await;
    service.model.reached().await;
    assert_eq!(service.post(&format!("/tasks/{id}/cancel"), "{}").await.status, 202);
    service.until(&id, Status::Cancelled).await;
}

#[tokio::test]
async fn input_and_signals_reach_the_tasks_mail() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    // Another process drives it: what it asks is not known here, and the answer is left for it.
    service.claim().await;
    let answer = service.post(&format!("/tasks/{id}/input"), r#"{"call": "c1", "approve": true}"#).await;
    assert_eq!(answer.status, 202, "{:?}", answer.json);
    assert_eq!(service.post(&format!("/tasks/{id}/signals/ci"), r#"{"green": true}"#).await.status, 202);
    assert_eq!(service.send(request("POST", &format!("/tasks/{id}/signals/go.on"), None)).await.status, 202);
    let mail: Vec<Mail> = service.store.mail(&id).await.unwrap().into_iter().map(|row| row.mail).collect();
    assert_eq!(
        mail,
        [
            Mail::Input { call: Some("c1".into()), approve: Some(true), content: None },
            Mail::Signal { name: "ci".into(), payload: serde_json::json!({"green": true}) },
            Mail::Signal { name: "go.on".into(), payload: Value::Null },
        ]
    );
    for _ in 2..limits::MAIL_MAX {
        service.post(&format!("/tasks/{id}/signals/more"), "1").await;
    }
    let full = service.post(&format!("/tasks/{id}/signals/more"), "1").await;
    assert_eq!((full.status.as_u16(), full.problem()), (429, "mailbox_full"));
}

#[tokio::test]
async fn an_answer_to_what_was_not_asked_is_refused() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    let early = service.post(&format!("/tasks/{id}/input"), r#"{"approve": true}"#).await;
    assert_eq!((early.status.as_u16(), early.problem()), (409, "not_asked"));
    service.claim().await;
    let question = r#"[{"call": "c1", "kind": "question", "tool": "ask_person", "arguments": {}, "until": null}]"#;
    let asks = StatusChange::Waiting { wake_at: None, waiting: question.into(), mail_seen: 0 };
    service.commit(&id, &["run.started"], asks).await;
    for (body, status, code) in [
        (r#"{"approve": true}"#, 422, "answer_misfit"),
        (r#"{"call": "c1", "approve": true}"#, 422, "answer_misfit"),
        (r#"{"call": "nope", "content": "x"}"#, 409, "not_asked"),
    ] {
        let answer = service.post(&format!("/tasks/{id}/input"), body).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (status, code), "{body}");
    }
    assert!(service.store.mail(&id).await.unwrap().is_empty());
    assert_eq!(service.post(&format!("/tasks/{id}/input"), r#"{"call": "c1", "content": "x"}"#).await.status, 202);
}

#[tokio::test]
async fn wrong_input_and_signals_are_refused() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
    for (path, body, status, code) in [
        ("input".to_owned(), "{}", 422, "invalid_request"),
        ("input".to_owned(), r#"{"approve": "yes"}"#, 422, "invalid_request"),
        ("input".to_owned(), r#"{"approve": true, "note": ""}"#, 422, "invalid_request"),
        ("input".to_owned(), r#"{"call": "", "approve": true}"#, 422, "invalid_request"),
        ("input".to_owned(), "nonsense", 400, "invalid_json"),
        (format!("signals/{long}"), "{}", 422, "invalid_request"),
        ("signals/go".to_owned(), "nonsense", 400, "invalid_json"),
    ] {
        let answer = service.post(&format!("/tasks/{id}/{path}"), body).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (status, code), "{path} {body}");
    }
    assert!(service.store.mail(&id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_finished_task_takes_no_mail() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    service.claim().await;
    service.commit(&id, &["run.started"], completed()).await;
    for (path, body) in [("cancel", "{}"), ("input", r#"{"approve": true}"#), ("signals/go", "{}")] {
        let answer = service.post(&format!("/tasks/{id}/{path}"), body).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (409, "task_finished"), "{path}");
    }
    assert_eq!(service.get(&format!("/tasks/{id}")).await.json["result"], "done");
}

#[tokio::test]
async fn a_waiting_task_says_what_it_waits_for() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    service.claim().await;
    service.commit(&id, &["run.started"], waiting()).await;
    let answer = service.get(&format!("/tasks/{id}")).await;
    assert_eq!(answer.json["status"], "waiting");
    assert_eq!(answer.json["waiting"][0]["kind"], "signal");
}

#[tokio::test]
async fn a_dead_letter_is_listed_and_run_again() {
    let service = passive().start();
    let id = service.submit(BODY).await;
    let refused = service.send(request("POST", &format!("/tasks/{id}/rerun"), None)).await;
    assert_eq!((refused.status.as_u16(), refused.problem()), (409, "not_failed"));

    let start = service.runner.now();
    for claims in 0..=u64::from(limits::CLAIMS_TOGETHER_MAX + limits::TRIALS_MAX) {
        let now = start + 10 * claims;
        let lease = Lease { worker: format!("dying-{claims}"), until: now };
        for claim in service.store.claim(lease, now + 1, 10).await.unwrap() {
            service.store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
        }
    }
    let dead = service.get("/tasks?dead=true").await;
    assert_eq!(dead.json["tasks"][0]["id"], id.as_str(), "{:?}", service.task(&id).await);
    assert_eq!(dead.json["tasks"][0]["error"]["code"], "dead_letter");
    assert_eq!(dead.json["tasks"][0]["dead"], true);

    let rerun = service.send(request("POST", &format!("/tasks/{id}/rerun"), None)).await;
    assert_eq!((rerun.status.as_u16(), &rerun.json["status"]), (202, &"queued".into()));
    assert_eq!(rerun.header("location"), format!("/tasks/{id}"));
}

#[tokio::test]
async fn a_session_is_shown_and_erased() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi", "session": "s 1", "user": "u"}"#).await;
    service.claim().await;
    let busy = service.send(request("DELETE", "/sessions/s%201", None)).await;
    assert_eq!((busy.status.as_u16(), busy.problem()), (409, "session_busy"));

    let now = service.runner.now();
    let messages = vec![Message::text(Role::User, "hi"), Message::text(Role::Assistant, "hello")];
    let batch = Batch {
        entries: vec![NewEntry { at: now, kind: "model.replied", record: vec![1], payload: None }],
        effects: Vec::new(),
        budget: Vec::new(),
        mail_consumed: Vec::new(),
        outbox: Vec::new(),
        session: Some(SessionTurn { messages }),
        status: completed(),
        totals: Totals::default(),
    };
    let commit = Commit { task: id.clone(), epoch: 1, expected_seq: 0, now, batch };
    service.store.commit(commit).await.unwrap();

    let shown = service.get("/sessions/s%201").await;
    assert_eq!(shown.status, 200, "{:?}", shown.json);
    assert_eq!(shown.json["messages"][1]["parts"][0]["text"], "hello");
    assert_eq!((&shown.json["turns"], &shown.json["user"]), (&1.into(), &"u".into()));

    let elsewhere = service.get("/sessions/s%201?tenant=acme").await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.problem()), (404, "session_not_found"));
    let erased = service.send(request("DELETE", "/sessions/s%201", None)).await;
    assert_eq!((erased.status.as_u16(), &erased.json["tasks"]), (200, &1.into()));
    for method in ["GET", "DELETE"] {
        let gone = service.send(request(method, "/sessions/s%201", None)).await;
        assert_eq!((gone.status.as_u16(), gone.problem()), (404, "session_not_found"), "{method}");
    }
    assert_eq!(service.get(&format!("/tasks/{id}")).await.status, 404);
}

#[tokio::test]
async fn the_tools_are_listed_without_their_backends() {
    let service = passive().start();
    let answer = service.get("/v1/tools").await;
    let tools = answer.json["tools"].as_array().unwrap();
    assert_eq!(tools[0]["name"], "get_ticket");
    assert_eq!((&tools[0]["effect"], &tools[0]["timeout_ms"]), (&"read".into(), &10_000.into()));
    assert_eq!((&tools[0]["approval"], &tools[0]["version"]), (&true.into(), &"1.0.0".into()));
    assert_eq!(tools[0]["input"]["required"][0], "id");
    assert_eq!((&tools[1]["name"], &tools[1]["kind"]), (&"wait_for_signal".into(), &"builtin".into()));
    assert!(!answer.json.to_string().contains("tickets.internal"));
    assert_eq!(service.get("/v1/tools?x=1").await.problem(), "invalid_query");
}
