//! A task's events: as server-sent events that resume by `Last-Event-ID`, and over a WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use system_tests::backend::Conduct;
use system_tests::fake_model::{Behaviour, Plan};
use tokio_tungstenite::tungstenite::Message;

use super::run::three_tools;
use crate::stage::{Event, Events, Stage};

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().filter_map(|event| event.id.as_ref()?.parse().ok()).collect()
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_that_was_seen() {
    let stage = Stage::new(three_tools()).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    let task = service.finished(&id).await.unwrap();
    let place = format!("/tasks/{id}/events");
    let all = Events::of(service.get(&place).send().await.unwrap()).rest().await;
    let seqs = ids(&all);
    assert_eq!(seqs, (1..=task["seq"].as_u64().unwrap()).collect::<Vec<_>>(), "every journal event once, in order");
    for seen in [1, seqs.len() as u64 / 2, seqs.len() as u64 - 1] {
        let request = service.get(&place).header("last-event-id", seen.to_string());
        let rest = Events::of(request.send().await.unwrap()).rest().await;
        assert_eq!(ids(&rest), seqs[usize::try_from(seen).unwrap()..], "after {seen}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_and_resumes_misses_nothing() {
    let stage = Stage::new(three_tools()).await;
    stage.backend.set("read/lamp", Conduct { delay_ms: 400, ..Conduct::default() });
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    let place = format!("/tasks/{id}/events");
    let first = {
        let mut events = Events::of(service.get(&place).send().await.unwrap());
        events.until(|event| event.id.is_some()).await
    };
    let last = ids(&first).last().copied().unwrap();
    let request = service.get(&place).header("last-event-id", last.to_string());
    let rest = Events::of(request.send().await.unwrap()).rest().await;
    let seq = service.finished(&id).await.unwrap()["seq"].as_u64().unwrap();
    let both: Vec<u64> = ids(&first).into_iter().chain(ids(&rest)).collect();
    assert_eq!(both, (1..=seq).collect::<Vec<_>>());
}

#[tokio::test]
async fn text_arrives_while_the_model_still_speaks() {
    let slow = Behaviour::text("one.two.thr.fou.fiv.six.sev.eig.").trickling(50, 4);
    let stage = Stage::new(Plan::turns([slow])).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Count"})).await.unwrap();
    let mut events = Events::of(service.get(&format!("/tasks/{id}/events")).send().await.unwrap());
    let seen = events.until(|event| event.data.to_string().contains("thr.")).await;
    assert!(!seen.iter().any(|event| event.data.to_string().contains("eig.")), "the rest is not yet there: {seen:?}");
    // Every piece says which attempt it belongs to: a retried call may leave pieces behind.
    let piece = seen.last().unwrap();
    assert!(piece.data["attempt"].is_u64() && piece.data["step"].is_u64(), "{piece:?}");
    let rest = events.rest().await;
    assert!(rest.iter().any(|event| event.data.to_string().contains("eig.")));
}

#[tokio::test]
async fn a_websocket_carries_the_same_events() {
    let stage = Stage::new(three_tools()).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    let seq = service.finished(&id).await.unwrap()["seq"].as_u64().unwrap();
    let url = format!("ws://{}/tasks/{id}/ws", service.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let (mut seqs, mut ended) = (Vec::new(), false);
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                seqs.extend(event["seq"].as_u64());
                ended |= event["type"] == "end";
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    assert_eq!(seqs, (1..=seq).collect::<Vec<_>>());
    assert!(ended, "the last message is the end");
}

#[tokio::test]
async fn a_task_is_cancelled_over_its_websocket() {
    let hang = Behaviour::fault(system_tests::fake_model::Fault::Hang);
    let stage = Stage::new(Plan::turns([hang])).await;
    let service = stage.serve().await;
    let id = service.submit(&json!({"input": "Wait"})).await.unwrap();
    let url = format!("ws://{}/tasks/{id}/ws", service.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    socket.send(Message::text("{\"type\": \"cancel\"}")).await.unwrap();
    assert_eq!(service.finished(&id).await.unwrap()["status"], "cancelled");
}

#[tokio::test]
async fn a_finished_task_keeps_its_events_over_a_restart() {
    let stage = Stage::new(three_tools()).await;
    let mut service = stage.serve().await;
    let id = service.submit(&json!({"input": "Order a lamp"})).await.unwrap();
    service.finished(&id).await.unwrap();
    let place = format!("/tasks/{id}/events");
    let before = Events::of(service.get(&place).send().await.unwrap()).rest().await;
    service.process.kill().await.unwrap();
    let service = stage.serve().await;
    let after = Events::of(service.get(&place).send().await.unwrap()).rest().await;
    assert_eq!(before, after);
}
