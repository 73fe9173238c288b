//! `POST /run` into a session in which another task is under way.

use super::*;

const BODY: &str = r#"{"input": "hi", "session": "s"}"#;
const WAITS: &str = r#"[{"call": "c1", "kind": "approval", "tool": "send", "arguments": {"to": "bob"}, "until": null,
    "answer": {"method": "POST", "path": "/tasks/first/input", "body": {"call": "c1", "approve": true}, "how": "…"}}]"#;

fn waits() -> StatusChange {
    StatusChange::Waiting { wake_at: None, waiting: WAITS.into(), mail_seen: 0 }
}

/// A service whose session `s` has a claimed task.
async fn occupied() -> (Service, String) {
    let service = active(3).start();
    let task = crate::store::NewTask {
        id: "first".into(),
        owner: crate::store::Owner { session: Some("s".into()), ..Default::default() },
        request: "{}".into(),
        now: service.runner.now(),
        expires_at: None,
        idempotency: None,
        claim: Some(Lease { worker: "test".into(), until: service.runner.now() + 600_000 }),
        first: None,
        turn_within: None,
    };
    service.store.submit(task).await.unwrap();
    (service, "first".into())
}

#[tokio::test]
async fn a_run_behind_a_task_that_waits_is_told_so_at_once_and_how_to_answer() {
    let (service, first) = occupied().await;
    service.commit(&first, &["model.replied"], waits()).await;
    let stream = with_header(request("POST", "/run", Some(BODY)), "accept", "text/event-stream");
    for request in [request("POST", "/run", Some(BODY)), stream] {
        let answer = service.send(request).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (409, "session_busy"));
        assert_eq!(answer.json["task"], "first");
        assert_eq!(answer.json["waiting"][0]["arguments"]["to"], "bob");
        let detail = answer.json["detail"].as_str().unwrap();
        for part in ["task first of session s waits for approval of send", "POST /tasks/first/input", "detach=true"] {
            assert!(detail.contains(part), "{detail}");
        }
    }
    let listed = service.get("/tasks").await;
    assert_eq!(listed.json["tasks"].as_array().unwrap().len(), 1, "nothing was submitted");
    // Another session is free.
    assert_eq!(service.post("/run", r#"{"input": "hi", "session": "t"}"#).await.status, 200);
}

#[tokio::test]
async fn a_detached_run_behind_a_task_that_waits_is_queued_and_found_under_its_location() {
    let (service, first) = occupied().await;
    service.commit(&first, &["model.replied"], waits()).await;
    let answer = service.post("/run?detach=true", BODY).await;
    assert_eq!((answer.status.as_u16(), &answer.json["status"]), (202, &"queued".into()));
    let id = answer.json["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/tasks/{id}"));
    assert_eq!(service.send(request("DELETE", &format!("/tasks/{first}"), None)).await.status, 200);
    service.until(&id, Status::Completed).await;
}

#[tokio::test]
async fn a_run_behind_a_task_that_waits_for_a_model_or_a_tool_goes_on_as_a_task() {
    for kind in ["model", "retry"] {
        let (service, first) = occupied().await;
        let waiting = format!(r#"[{{"kind": "{kind}", "until": "2027-01-01T00:00:00Z"}}]"#);
        let waits = StatusChange::Waiting { wake_at: None, waiting, mail_seen: 0 };
        // One comes before the task waits, the others find it waiting.
        let early = tokio::spawn(service.router.clone().oneshot(request("POST", "/run", Some(BODY))));
        let queued = async {
            while service.store.list(crate::store::Filter::default(), None, 9).await.unwrap().tasks.len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        within(queued).await;
        service.commit(&first, &["model.unavailable"], waits).await;
        assert_eq!(within(early).await.unwrap().unwrap().status(), 202);
        let stream = with_header(request("POST", "/run", Some(BODY)), "accept", "text/event-stream");
        let mut tasks = Vec::new();
        for request in [request("POST", "/run", Some(BODY)), stream] {
            let answer = within(service.send(request)).await;
            assert_eq!((answer.status.as_u16(), &answer.json["status"]), (202, &"queued".into()), "{kind}");
            let id = answer.json["id"].as_str().unwrap().to_owned();
            assert_eq!(answer.header("location"), format!("/tasks/{id}"));
            tasks.push(id);
        }
        assert_eq!(service.send(request("DELETE", &format!("/tasks/{first}"), None)).await.status, 200);
        for id in tasks {
            service.until(&id, Status::Completed).await;
        }
    }
}

#[tokio::test]
async fn a_run_waits_its_turn_behind_a_task_that_runs() {
    let (service, first) = occupied().await;
    let running = tokio::spawn(service.router.clone().oneshot(request("POST", "/run", Some(BODY))));
    let queued = async {
        while service.store.list(crate::store::Filter::default(), None, 9).await.unwrap().tasks.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    within(queued).await;
    service.commit(&first, &["model.replied"], completed()).await;
    assert_eq!(within(running).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_run_whose_turn_cannot_come_any_more_by_itself_is_taken_back() {
    let (service, first) = occupied().await;
    let keyed = with_header(request("POST", "/run", Some(BODY)), "idempotency-key", "k");
    let running = tokio::spawn(service.router.clone().oneshot(keyed));
    let queued = async {
        while service.store.list(crate::store::Filter::default(), None, 9).await.unwrap().tasks.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    within(queued).await;
    service.commit(&first, &["model.replied"], waits()).await;
    let refused = within(running).await.unwrap().unwrap();
    assert_eq!(refused.status(), 409);
    let listed = service.get("/tasks").await;
    assert_eq!(listed.json["tasks"].as_array().unwrap().len(), 1, "nothing is left of it");
    let again = service.send(with_header(request("POST", "/run", Some(BODY)), "idempotency-key", "k")).await;
    assert_eq!(again.problem(), "session_busy", "its key is free");
}

#[tokio::test]
async fn so_many_runs_wait_their_turn_and_no_more() {
    let (service, _) = occupied().await;
    for _ in 1..crate::limits::SESSION_RUNS_MAX {
        service.submit(BODY).await;
    }
    let full = service.post("/run", BODY).await;
    assert_eq!((full.status.as_u16(), full.problem()), (409, "session_busy"));
    assert!(full.json["detail"].as_str().unwrap().contains("16 tasks are open"), "{}", full.json);
    assert_eq!(full.header("retry-after"), "1");
    // What may wait for days is not bounded so.
    service.submit(BODY).await;
}
