//! Sessions: a transcript across turns, one task at a time.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan, When};

use crate::stage::Stage;

#[tokio::test]
async fn the_second_turn_sees_the_first() {
    let stage = Stage::new(Plan::answer("I heard: {{input}}")).await;
    let service = stage.serve().await;
    for input in ["My name is Ada", "What is my name?"] {
        let body = json!({"input": input, "session": "s1", "user": "ada"});
        let answer = service.post("/run", &body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let requests = stage.model.requests();
    let second = requests[1].body["messages"].to_string();
    assert!(second.contains("My name is Ada") && second.contains("I heard: My name is Ada"), "{second}");
    let session: Value = service.get("/sessions/s1").send().await.unwrap().json().await.unwrap();
    assert_eq!(session["turns"], 2, "{session}");
    assert_eq!(session["messages"].as_array().unwrap().len(), 4, "{session}");
}

#[tokio::test]
async fn another_session_and_another_tenant_see_nothing_of_it() {
    let stage = Stage::new(Plan::answer("Noted.")).await;
    let service = stage.serve().await;
    let bodies = [
        json!({"input": "the plum is ripe", "session": "s1", "tenant": "t1"}),
        json!({"input": "hello", "session": "s2", "tenant": "t1"}),
        json!({"input": "hello", "session": "s1", "tenant": "t2"}),
    ];
    for body in &bodies {
        assert_eq!(service.post("/run", body).send().await.unwrap().status(), 200);
    }
    for request in &stage.model.requests()[1..] {
        assert!(!request.body.to_string().contains("plum"), "{}", request.body);
    }
}

#[tokio::test]
async fn tasks_of_a_session_run_one_at_a_time_and_in_order() {
    let slow = Behaviour::text("Slow: {{input}}").after_ms(300);
    let stage = Stage::new(Plan::turns([slow])).await;
    let service = stage.serve().await;
    let mut ids = Vec::new();
    for input in ["one", "two", "three"] {
        ids.push(service.submit(&json!({"input": input, "session": "s"})).await.unwrap());
    }
    for id in &ids {
        assert_eq!(service.finished(id).await.unwrap()["status"], "completed");
    }
    assert_eq!(stage.model.stats().peak, 1, "never two at once");
    let last = &stage.model.requests()[2].body["messages"];
    let text = last.to_string();
    let places: Vec<_> = ["one", "two", "three"].iter().map(|word| text.find(&format!("\"{word}\""))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[tokio::test]
async fn a_failed_turn_does_not_spoil_the_session() {
    let refused = Behaviour::status(400);
    let when = When { input: Some("poison".to_owned()), ..When::default() };
    let stage = Stage::new(Plan::answer("Fine.").rule(when, None, refused)).await;
    let service = stage.serve().await;
    for (input, good) in [("first", true), ("poison", false), ("third", true)] {
        let answer = service.post("/run", &json!({"input": input, "session": "s"})).send().await.unwrap();
        assert_eq!(answer.status().is_success(), good, "{input}");
    }
}
