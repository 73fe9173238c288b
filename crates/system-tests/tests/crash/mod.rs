//! Processes that die, stand still or come back changed, and what remains: one journal, one end, no effect twice.

mod change;
mod fencing;
mod kills;
mod matrix;

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan};
use system_tests::process::service::Service;

use crate::stage::{Events, Stage};

/// A read and a keyed effect in one turn, an unkeyed write in the next, then the answer.
fn effects() -> Plan {
    let first = Behaviour::default()
        .and_call("look_up", json!({"name": "lamp"}))
        .and_call("create_order", json!({"name": "order"}));
    let second = Behaviour::call("send_note", json!({"name": "note"}));
    Plan::turns([first, second, Behaviour::text("Done: {{results}}")])
}

/// A task's journal as its stream shows it.
async fn journal(service: &Service, id: &str) -> Vec<Value> {
    let stream = service.get(&format!("/tasks/{id}/events")).send().await.unwrap();
    let events = Events::of(stream).rest().await;
    let ends = events.iter().filter(|event| event.event == "end").count();
    assert_eq!(ends, 1, "the stream of a finished task ends: {events:?}");
    events.into_iter().filter(|event| event.data["type"] == "event").map(|event| event.data).collect()
}

/// The journal has no gap, its epochs only rise, and it ends where the task says.
fn assert_sound(journal: &[Value], task: &Value, context: &str) {
    let seqs: Vec<_> = journal.iter().filter_map(|entry| entry["seq"].as_u64()).collect();
    let last = task["seq"].as_u64().unwrap_or_default();
    assert_eq!(seqs, (1..=last).collect::<Vec<_>>(), "{context}: {task}");
    let epochs: Vec<_> = journal.iter().filter_map(|entry| entry["epoch"].as_u64()).collect();
    assert!(epochs.is_sorted() && epochs.len() == seqs.len(), "{context}: {epochs:?}");
    let opened = journal.iter().filter(|entry| entry["kind"] == "run.opened").count();
    assert_eq!(opened, 1, "{context}: one run");
}

/// What must hold of [`effects`] whatever died in between. Returns whether the write's outcome was reported as unknown.
fn assert_effects(stage: &Stage, task: &Value, context: &str) -> bool {
    assert_eq!(task["status"], "completed", "{context}: {task}");
    assert_eq!((task["steps"].as_u64(), task["tool_calls"].as_u64()), (Some(3), Some(3)), "{context}: {task}");
    let result = task["result"].as_str().unwrap_or_default();
    assert!(result.starts_with("Done: "), "{context}: {task}");
    let order = stage.backend.count("idempotent/order");
    assert_eq!((order.effects, order.keys.len()), (1, 1), "{context}: a keyed effect exactly once: {order:?}");
    let note = stage.backend.count("write/note");
    assert!(note.requests <= 1, "{context}: an unkeyed write at most once: {note:?}");
    let unknown = result.contains("outcome unknown");
    assert!(unknown || note.effects == 1, "{context}: a write that did not happen is not reported as done: {task}");
    assert!(stage.backend.count("read/lamp").requests >= 1, "{context}");
    unknown
}
