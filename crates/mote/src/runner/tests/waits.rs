//! What a run waits for, and the mail that fits it or does not.

use super::stuck::Stuck;
use super::*;
use crate::limits::MAIL_MAX;
use crate::runner::PostError;

fn signal(name: &str) -> Mail {
    Mail::Signal { name: name.into(), payload: json!({ "name": name }) }
}

fn answer(content: Value) -> Mail {
    Mail::Input { call: None, approve: None, content: Some(content) }
}

fn approval(call: Option<&str>) -> Mail {
    Mail::Input { call: call.map(Into::into), approve: Some(true), content: None }
}

fn question() -> Result<Reply, model::Error> {
    calls("ask_person", json!({"question": "Which colour?"}))
}

#[tokio::test]
async fn a_run_waits_for_a_signal_and_for_one_that_came_before() {
    let wait = |name: &str| calls("wait_for_signal", json!({ "name": name }));
    let world = World::new(agent(), vec![wait("ci"), wait("review"), says("merged")], &[]);
    let task = world.submit(ask("merge")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    let signal = |name: &str| Mail::Signal { name: name.into(), payload: json!({"name": name}) };
    // The review comes first: it is kept and does not end the wait for the build.
    world.runner.post(&task, signal("review")).await.unwrap();
    world.runner.post(&task, signal("ci")).await.unwrap();
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"merged\""));
    assert_eq!(results(&world.last_request()), [r#"{"name":"ci"}"#, r#"{"name":"review"}"#]);
}

#[tokio::test]
async fn a_call_is_made_only_after_a_person_approves_it() {
    for (approve, attempts) in [(true, 1), (false, 0)] {
        let tool = Counter::new("pay", Effect::Write, 0, true);
        let world = World::new(agent(), vec![calls("pay", json!({"n": 5})), says("ok")], std::slice::from_ref(&tool));
        let task = world.submit(ask("pay")).await;
        let waiting = world.reach(&task, |task| task.status == Status::Waiting).await.waiting.unwrap();
        assert!(waiting.contains("approval") && waiting.contains(r#"{"n":5}"#), "{waiting}");
        let answer = Mail::Input { call: Some("call-pay".into()), approve: Some(approve), content: None };
        world.runner.post(&task, answer).await.unwrap();
        assert_eq!(world.end(&task).await.status, Status::Completed);
        assert_eq!(tool.attempts.load(Ordering::SeqCst), attempts);
    }
}

#[tokio::test]
async fn a_person_answers_a_question_and_a_timer_fires() {
    let question = calls("ask_person", json!({"question": "Which colour?"}));
    let timer = calls("wait_until", json!({"after": "1s"}));
    let world = World::new(agent(), vec![question, timer, says("red")], &[]);
    let task = world.submit(ask("paint")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    let answer = Mail::Input { call: None, approve: None, content: Some(json!("red")) };
    world.runner.post(&task, answer).await.unwrap();
    assert_eq!(world.end(&task).await.status, Status::Completed);
    assert_eq!(results(&world.last_request()), ["red", "the time has come"]);
}

#[tokio::test]
async fn an_answer_to_nothing_is_refused_and_the_right_one_taken() {
    let world = World::with(agent(), vec![question(), says("red")], &[], Some(Arc::new(Notify::new())));
    let task = world.submit(ask("paint")).await;
    world.model.called.notified().await;
    let refused = world.runner.post(&task, answer(json!("red"))).await.unwrap_err();
    assert!(matches!(refused, PostError::NotAsked(_)), "it has asked nothing yet: {refused}");
    world.model.hold.as_ref().unwrap().notify_one();
    world.reach(&task, |task| task.status == Status::Waiting).await;
    let refused = world.runner.post(&task, approval(None)).await.unwrap_err();
    assert!(matches!(refused, PostError::Misfit(_)), "{refused}");
    let refused = world.runner.post(&task, approval(Some("nope"))).await.unwrap_err();
    assert!(matches!(refused, PostError::NotAsked(_)), "{refused}");
    assert!(world.store.mail(&task).await.unwrap().is_empty(), "nothing was left for the task");
    world.runner.post(&task, answer(json!("red"))).await.unwrap();
    world.model.hold.as_ref().unwrap().notify_one();
    assert_eq!(world.end(&task).await.status, Status::Completed);
}

#[tokio::test]
async fn a_second_answer_is_refused_while_the_first_is_unread() {
    let world = World::new(agent(), vec![question()], &[]);
    let task = world.submit(ask("paint")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    // Nobody reads mail any more in this process.
    world.runner.drain(Duration::from_secs(5)).await;
    world.runner.post(&task, answer(json!("red"))).await.unwrap();
    let refused = world.runner.post(&task, answer(json!("blue"))).await.unwrap_err();
    assert!(matches!(refused, PostError::NotAsked(_)), "{refused}");
    let (_next, _model) = start(agent(), &world.store, vec![says("red")], &[], None);
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"red\""));
}

#[tokio::test]
async fn a_question_beside_a_call_under_way_takes_its_answer_and_no_other() {
    let look = Stuck::new("look", Effect::Read);
    let both = || {
        let call = |id: &str, name: &str, arguments: Value| Part::Call {
            id: id.into(),
            name: name.into(),
            arguments: arguments.to_string(),
            opaque: None,
        };
        reply(vec![call("c-look", "look", json!({})), call("c-ask", "ask_person", json!({"question": "Which?"}))])
    };
    let world = World::new(agent(), vec![], &[]);
    world.runner.drain(Duration::from_secs(5)).await;
    let (runner, _model) =
        start_with(agent(), &world.store, vec![both(), says("ok")], &[Arc::clone(&look) as Arc<dyn Tool>]);
    let task = runner.submit(ask("go"), true).await.unwrap().task;
    look.called.notified().await;
    // The call is under way only after its turn was settled in: from then on it is known what is asked.
    let refused = runner.post(&task, approval(None)).await.unwrap_err();
    assert!(matches!(refused, PostError::Misfit(_)), "{refused}");
    runner.post(&task, answer(json!("red"))).await.unwrap();
    look.go.notify_one();
    assert_eq!(world.end(&task).await.status, Status::Completed);
}

#[tokio::test]
async fn mail_that_fits_nothing_does_not_fill_the_mailbox() {
    let world = World::new(agent(), vec![question(), says("red")], &[]);
    let task = world.submit(ask("paint")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    let stray = || Mail::Input { call: Some("old".into()), approve: Some(true), content: None };
    for _ in 0..=MAIL_MAX {
        // Past the check, as another process or an earlier release may leave it.
        world.store.post(&task, stray(), world.runner.now(), MAIL_MAX).await.unwrap();
        world.runner.shared.holdings.ring(&task);
        let mut changes = world.store.subscribe(&task);
        while !world.store.mail(&task).await.unwrap().is_empty() {
            changes.changed().await.unwrap();
        }
    }
    world.runner.post(&task, answer(json!("red"))).await.unwrap();
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"red\""));
}

#[tokio::test]
async fn signals_that_nobody_waits_for_keep_out_neither_an_answer_nor_the_one_awaited() {
    let wait = calls("wait_for_signal", json!({"name": "go"}));
    let world = World::new(agent(), vec![question(), wait, says("went")], &[]);
    let task = world.submit(ask("go")).await;
    world.reach(&task, |task| task.status == Status::Waiting).await;
    for _ in 0..MAIL_MAX {
        world.runner.post(&task, signal("stray")).await.unwrap();
    }
    let full = world.runner.post(&task, signal("stray")).await.unwrap_err();
    assert!(matches!(full, PostError::Store(crate::store::Error::Limit { .. })), "{full}");
    world.runner.post(&task, answer(json!("red"))).await.unwrap();
    world.reach(&task, |task| task.waiting.as_ref().is_some_and(|waiting| waiting.contains("signal"))).await;
    assert!(world.runner.post(&task, signal("stray")).await.is_err());
    world.runner.post(&task, signal("go")).await.unwrap();
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"went\""));
}
