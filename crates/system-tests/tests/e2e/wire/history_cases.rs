//! What goes back to the provider after a reply that a strict server would not take as it came: arguments, names, ids,
//! signatures, and integers beyond 64 bits.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Case, Stand, play_all};

#[tokio::test]
async fn history_is_what_a_strict_server_takes() {
    play_all(include_str!("cases/history.json")).await;
}

/// The ids of all calls in a request, in either format.
fn call_ids(body: &Value) -> Vec<String> {
    let messages = body["messages"].as_array().unwrap();
    let open = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
    let blocks = messages.iter().filter_map(|message| message["content"].as_array()).flatten();
    let blocks = blocks.filter(|block| block["type"] == "tool_use");
    open.chain(blocks).map(|call| call["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn ids_made_up_here_are_unique_in_the_conversation_and_across_a_fallback() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("cases/noids.json")).unwrap();
    let case = cases.into_iter().next().unwrap();
    let other = Stand::new("anthropic", case.replies.last().map(|reply| vec![reply.clone()]).unwrap()).await;
    let stand = {
        let mut first = case.replies.clone();
        first.truncate(first.len() - 1);
        let mut stand = Stand::new(&case.api, first).await;
        stand.agent["model"]["fallback"] = json!([other.agent["model"].clone()]);
        stand
    };
    let service = stand.serve().await;
    let answer = service.post("/run", &json!({"input": "Sort all tickets"})).send().await.unwrap();
    let task: Value = answer.json().await.unwrap();
    assert_eq!(task["result"], "From the second.", "{task}");
    for request in stand.player.requests().iter().chain(&other.player.requests()) {
        let ids = call_ids(&request.body);
        let unique: BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        assert!(ids.iter().all(|id| !id.is_empty() && id.len() <= 40), "{ids:?}");
    }
    assert_eq!(call_ids(&other.player.requests()[0].body).len(), 3);
}
