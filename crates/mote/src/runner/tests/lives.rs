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
    next.resume(&task).await.unwrap();
    assert_eq!(world.end(&task).await.error.unwrap().code, "budget_run", "110 of 300 are spent");
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
