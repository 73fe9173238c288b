//! Lists: by metadata and state, page by page, while sandboxes come and go.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

fn ids(items: &Value) -> Vec<String> {
    items.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn made(daemon: &Daemon, count: u32, spec: Value) -> Vec<String> {
    let batch = daemon.done(Method::POST, "/v1/sandboxes", json!({ "count": count, "spec": spec })).await;
    let items = batch["items"].as_array().unwrap().iter();
    items.map(|item| item["sandbox"]["id"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned()).collect()
}

#[tokio::test]
async fn metadata_tells_sandboxes_apart_whatever_it_says() {
    let daemon = Daemon::start().await;
    let both = daemon.create(json!({ "metadata": { "team": "a", "run/no": "7 & 8=é" } })).await;
    let one = daemon.create(json!({ "metadata": { "team": "a" } })).await;
    daemon.create(json!({ "metadata": { "team": "b" } })).await;
    daemon.done(Method::POST, &format!("/v1/sandboxes/{one}/pause"), json!({})).await;
    let list = async |query: &str| {
        ids(&daemon.done(Method::GET, &format!("/v1/sandboxes?{query}"), Value::Null).await["items"])
    };
    assert_eq!(list("metadata.team=a").await, [one.clone(), both.clone()], "the newest first");
    assert_eq!(list("metadata.team=a&metadata.run%2Fno=7+%26+8%3D%C3%A9").await, vec![both.clone()]);
    assert_eq!(list("metadata.team=a&state=paused").await, vec![one.clone()]);
    assert_eq!(list("metadata.team=c").await, Vec::<String>::new());
    // A fork and a restart of the daemon keep it.
    let fork = daemon.done(Method::POST, &format!("/v1/sandboxes/{both}/fork"), json!({})).await;
    assert_eq!(fork["items"][0]["sandbox"]["metadata"], json!({ "team": "a", "run/no": "7 & 8=é" }));
    let mut daemon = daemon;
    daemon.restart().await;
    let kept = daemon.done(Method::GET, "/v1/sandboxes?metadata.team=a&limit=10", Value::Null).await;
    assert_eq!(kept["items"].as_array().unwrap().len(), 3);
    // Bounds are said.
    let many: serde_json::Map<String, Value> = (0..65).map(|at| (format!("k{at}"), json!("v"))).collect();
    let (status, answer) = daemon.ask(Method::POST, "/v1/sandboxes", json!({ "spec": { "metadata": many } })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["message"].as_str().unwrap().contains("metadata"), "{answer}");
}

#[tokio::test]
async fn a_long_list_is_read_in_pages_while_sandboxes_come_and_go() {
    let daemon = Daemon::start().await;
    let mut all = Vec::new();
    for _ in 0..3 {
        let spec = json!({ "metadata": { "fleet": "x" }, "profile": "training", "lease": "10m" });
        all.extend(made(&daemon, 40, spec).await);
    }
    let mut seen = Vec::new();
    let (mut cursor, mut pages) = (String::new(), 0);
    let mut removed = BTreeSet::new();
    loop {
        let path = format!("/v1/sandboxes?metadata.fleet=x&limit=17{cursor}");
        let page = daemon.done(Method::GET, &path, Value::Null).await;
        let items = ids(&page["items"]);
        assert!(items.len() <= 17);
        // The one that the cursor names goes, and one that is still to come; a new one comes.
        let later = all.iter().find(|id| !seen.contains(*id) && !items.contains(id) && !removed.contains(*id)).cloned();
        for id in items.last().cloned().into_iter().chain(later.filter(|_| pages < 3)) {
            daemon.done(Method::DELETE, &format!("/v1/sandboxes/{id}"), Value::Null).await;
            removed.insert(id);
        }
        daemon.create(json!({ "metadata": { "fleet": "x" }, "profile": "training", "lease": "10m" })).await;
        seen.extend(items);
        pages += 1;
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(pages >= 7, "{pages}");
    let once: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "none is told twice");
    let expected = all.iter().filter(|id| !removed.contains(*id));
    assert!(expected.clone().all(|id| once.contains(id)), "none that was there throughout is left out");
    // A cursor that is none says so, rather than ending the list.
    for cursor in ["x", "12", "-", "12-", "1e3-sbx"] {
        let (status, answer) = daemon.ask(Method::GET, &format!("/v1/sandboxes?cursor={cursor}"), Value::Null).await;
        assert_eq!(
            (status, answer["context"]["field"].as_str()),
            (StatusCode::BAD_REQUEST, Some("cursor")),
            "{cursor}"
        );
    }
}
