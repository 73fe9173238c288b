//! Tasks that failed or were cancelled, and go on.

use super::outage::fails;
use super::*;
use crate::model::ErrorKind;

async fn resumed(world: &World, task: &str) -> Task {
    world.runner.resume(task).await.unwrap();
    world.end(task).await
}

#[tokio::test]
async fn a_failed_task_goes_on_from_its_last_good_step_with_what_it_did_and_spent() {
    let write = Counter::new("write", Effect::Write, 0, false);
    let replies = vec![calls("write", json!({})), Err(fails(ErrorKind::Rejected)), says("done after all")];
    let world = World::new(agent(), replies, std::slice::from_ref(&write));
    let session = Owner { session: Some("s".into()), ..Owner::default() };
    let task = world.submit(Submission { owner: session, ..ask("go") }).await;
    let failed = world.end(&task).await;
    assert_eq!(failed.error.unwrap().code, "model_rejected");
    let task = resumed(&world, &task).await;
    assert_eq!(
        (task.status, task.result.as_deref()),
        (Status::Completed, Some("\"done after all\"")),
        "{:?}",
        task.error
    );
    assert_eq!((task.steps, task.tool_calls, task.usage.input), (2, 1, 200), "nothing is done or paid for twice");
    assert_eq!(write.attempts.load(Ordering::SeqCst), 1);
    assert_eq!(results(&world.last_request()), ["done"]);
    let said = world.store.session("", "s").await.unwrap().unwrap();
    assert_eq!((said.turns, said.messages.len(), said.cost_nano_usd), (1, 2, task.cost_nano_usd));
    kills::assert_adds_up(&world.folder, &task.id);
    assert!(world.runner.resume(&task.id).await.is_err(), "a completed task has nothing to go on to");
}

#[tokio::test]
async fn a_call_of_unknown_outcome_is_told_and_not_repeated() {
    let write = Counter::new("write", Effect::Write, 1, false);
    let replies = vec![calls("write", json!({})), Err(fails(ErrorKind::Rejected)), says("I will look first")];
    let world = World::new(agent(), replies, std::slice::from_ref(&write));
    let task = world.submit(ask("go")).await;
    world.end(&task).await;
    assert_eq!(resumed(&world, &task).await.status, Status::Completed);
    assert_eq!(write.attempts.load(Ordering::SeqCst), 1);
    assert!(results(&world.last_request())[0].starts_with("outcome unknown"));
}

#[tokio::test]
async fn a_cancelled_and_an_expired_task_go_on_with_a_wall_time_of_their_own() {
    let wait = || calls("wait_for_signal", json!({"name": "go"}));
    let world = World::new(agent(), vec![wait(), says("went on")], &[]);
    let task = world.submit(ask("wait")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    world.runner.post(&task, Mail::Cancel).await.unwrap();
    assert_eq!(world.end(&task).await.status, Status::Cancelled);
    let task = resumed(&world, &task).await;
    assert_eq!(task.result.as_deref(), Some("\"went on\""), "{:?}", task.error);
    assert!(results(&world.last_request())[0].starts_with("the call was not made"));

    let world = World::new(agent(), vec![wait(), says("went on")], &[]);
    let task = world.submit(Submission { expires: Some(Duration::from_millis(300)), ..ask("wait") }).await;
    let expired = world.end(&task).await;
    assert_eq!(expired.error.unwrap().code, "expired");
    let task = resumed(&world, &task).await;
    assert_eq!(task.result.as_deref(), Some("\"went on\""), "{:?}", task.error);
    assert!(task.expires_at > expired.expires_at);
}

#[tokio::test]
async fn a_task_that_was_cancelled_before_it_ran_begins() {
    let world = World::new(agent(), vec![], &[]);
    world.runner.drain(Duration::ZERO).await;
    let (_next, model) = {
        let now = crate::clock::Clock::now_ms(&System);
        let request = serde_json::to_string(&super::super::request::Stored::new(&ask("hi"))).unwrap();
        let new = crate::store::NewTask {
            id: "queued".into(),
            owner: Owner::default(),
            request,
            now,
            expires_at: None,
            idempotency: None,
            claim: None,
            first: None,
            turn_within: None,
        };
        world.store.submit(new).await.unwrap();
        world.store.post("queued", Mail::Cancel, now, 9).await.unwrap();
        start(agent(), &world.store, vec![says("hello")], &[], None)
    };
    _next.resume("queued").await.unwrap();
    assert_eq!(world.end("queued").await.status, Status::Completed);
    assert_eq!(model.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_runs_budget_goes_on_counting_and_may_be_raised() {
    let mut poor = agent();
    poor.budget.per_run.tokens = Some(1_500);
    let replies = vec![calls("wait_for_signal", json!({"name": "go"}))];
    let world = World::new(poor.clone(), replies, &[]);
    let task = world.submit(ask("hi")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    world.runner.post(&task, Mail::Cancel).await.unwrap();
    world.end(&task).await;
    world.runner.drain(Duration::ZERO).await;
    poor.budget.per_run.tokens = Some(300);
    let (next, _) = start(poor.clone(), &world.store, vec![], &[], None);
    let refused = next.resume(&task).await.unwrap_err().to_string();
    assert!(refused.contains("190 left") && refused.contains("budget.per_run"), "110 of 300 are spent: {refused}");
    assert_eq!(world.end(&task).await.status, Status::Cancelled, "it is as it was");
    next.drain(Duration::ZERO).await;
    poor.budget.per_run.tokens = Some(5_000);
    poor.digest = [9; 32];
    poor.on_change = OnChange::Fail;
    let (next, _) = start(poor, &world.store, vec![says("enough")], &[], None);
    next.resume(&task).await.unwrap();
    let task = world.end(&task).await;
    assert_eq!(
        task.result.as_deref(),
        Some("\"enough\""),
        "a person resumed it under the agent as it is now: {:?}",
        task.error
    );
}

#[tokio::test]
async fn a_task_run_again_begins_anew_and_both_lives_are_paid_for() {
    let replies = vec![calls("wait_for_signal", json!({"name": "go"})), says("again")];
    let world = World::new(agent(), replies, &[]);
    let session = Owner { session: Some("s".into()), ..Owner::default() };
    let task = world.submit(Submission { owner: session, ..ask("wait") }).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    world.runner.post(&task, Mail::Cancel).await.unwrap();
    world.end(&task).await;
    world.store.requeue(&task, world.runner.now()).await.unwrap();
    let task = world.end(&task).await;
    assert_eq!((task.result.as_deref(), task.steps, task.lives), (Some("\"again\""), 1, 1));
    kills::assert_adds_up(&world.folder, &task.id);
    let session = world.store.session("", "s").await.unwrap().unwrap();
    assert_eq!(session.cost_nano_usd, 2 * task.cost_nano_usd);
}

#[tokio::test]
async fn a_write_that_was_lost_with_its_worker_is_told_with_the_step_that_made_it() {
    let write = stuck::Stuck::new("write", Effect::Write);
    let events = Some(config::EventSink { url: "http://127.0.0.1:9/events".to_owned(), authorization: None });
    let agent = Agent { events, ..agent() };
    let world = World::new(agent.clone(), vec![], &[]);
    world.runner.drain(Duration::from_secs(5)).await;
    let tools = [Arc::clone(&write) as Arc<dyn Tool>];
    let (first, _) = start_with(agent.clone(), &world.store, vec![calls("write", json!({"n": 7}))], &tools);
    let task = first.submit(ask("go"), true).await.unwrap().task;
    write.called.notified().await;
    first.drain(Duration::ZERO).await;
    let (_next, _) = start_with(agent, &world.store, vec![says("I will look")], &tools);
    assert_eq!(world.end(&task).await.status, Status::Completed);
    let journal = world.store.journal(&task, 0, 99).await.unwrap();
    let recovered = journal.iter().find(|entry| entry.kind == "run.recovered").unwrap();
    let payload: Value = serde_json::from_str(recovered.payload.as_deref().unwrap()).unwrap();
    assert_eq!(payload["unknown"], json!([{"id": "call-write", "tool": "write"}]));
    let told = world.store.outbox(u64::MAX, 9).await.unwrap().into_iter().map(|(_, message)| message);
    let unknown = told.into_iter().find(|message| message.body.contains("outcome_unknown")).unwrap();
    let body: Value = serde_json::from_str(&unknown.body).unwrap();
    assert_eq!((&body["data"]["step"], &body["data"]["arguments"]), (&json!(1), &json!({"n": 7})));
    assert_eq!(unknown.id, format!("{task}/1/call-write"), "the same as a dead letter would have told");
}
