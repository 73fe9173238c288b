//! What is said of calls that the end of their run cuts off.

use rusqlite::Connection;

use super::stuck::Stuck;
use super::*;

/// Class and outcome of every effect of a task.
fn effects(world: &World, task: &str) -> Vec<(String, String)> {
    let store = Connection::open(world.folder.join("mote.db")).unwrap();
    let mut query = store.prepare("SELECT class, outcome FROM effects WHERE task = ?1 ORDER BY class").unwrap();
    let rows = query.query_map([task], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// Ends a run with a read and a write under way, each of which its backend has, and looks at what is told of them.
async fn cut_off(agent: Agent, active: Option<Duration>, end: impl AsyncFnOnce(&Runner, &str)) -> Task {
    let (read, write) = (Stuck::new("read", Effect::Read), Stuck::new("write", Effect::Write));
    let call = |name: &str| Part::Call { id: name.into(), name: name.into(), arguments: "{}".into(), opaque: None };
    let world = World::new(agent, vec![], &[]);
    world.runner.drain(Duration::from_secs(5)).await;
    let events = Some(config::EventSink { url: "http://127.0.0.1:9/events".to_owned(), authorization: None });
    let agent = Agent { events, ..world.runner.agent().as_ref().clone() };
    let tools = [Arc::clone(&read) as Arc<dyn Tool>, Arc::clone(&write) as Arc<dyn Tool>];
    let (runner, _model) = start_with(agent, &world.store, vec![reply(vec![call("read"), call("write")])], &tools);
    let task = runner.submit(Submission { active, ..ask("go") }, true).await.unwrap().task;
    read.called.notified().await;
    write.called.notified().await;
    end(&runner, &task).await;
    let ended = world.end(&task).await;
    let row = |class: &str, outcome: &str| (class.to_owned(), outcome.to_owned());
    assert_eq!(effects(&world, &task), [row("read", "failed"), row("write", "unknown")]);
    let told = world.store.outbox(u64::MAX, 9).await.unwrap().into_iter();
    let told: Vec<Value> = told.map(|(_, message)| serde_json::from_str(&message.body).unwrap()).collect();
    let unknown: Vec<&Value> = told.iter().filter(|event| event["type"] == "dev.mote.effect.outcome_unknown").collect();
    assert_eq!(unknown.len(), 1, "{told:?}");
    let data = &unknown[0]["data"];
    assert_eq!((&data["tool"], &data["step"], &data["arguments"]), (&json!("write"), &json!(1), &json!({})));
    let journal = world.store.journal(&task, 0, 99).await.unwrap();
    let told: Vec<Value> =
        journal.iter().filter_map(|entry| serde_json::from_str(entry.payload.as_ref()?).ok()).collect();
    let unknown: Vec<&Value> = told.iter().filter_map(|payload| payload.get("unknown")).collect();
    assert_eq!(unknown, [&json!([{"id": "write", "tool": "write"}])], "the journal tells it too");
    // What is told is told after the commit that everybody sees.
    runner.drain(Duration::from_secs(5)).await;
    let metrics = runner.shared.metrics.render();
    let counted = r#"mote_effects_outcome_unknown_total{tool="write"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    ended
}

#[tokio::test]
async fn a_write_under_way_at_a_cancel_is_told_as_unknown() {
    let task = cut_off(agent(), None, async |runner, task| runner.post(task, Mail::Cancel).await.unwrap()).await;
    assert_eq!(task.status, Status::Cancelled);
}

#[tokio::test]
async fn a_write_under_way_at_a_limit_is_told_as_unknown() {
    let task = cut_off(agent(), Some(Duration::from_millis(300)), async |_, _| {}).await;
    assert_eq!(task.error.unwrap().code, "limit_active");
}
