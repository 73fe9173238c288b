//! Budgets, limits and the output schema: what stops a run, and what it is told before that.

use serde_json::{Value, json};
use system_tests::fake_model::{Behaviour, Plan, Tokens};

use crate::stage::Stage;

/// Looks up something else each time, for ever.
fn endless() -> Plan {
    let usage = Tokens { input: 100, output: 100, ..Tokens::default() };
    let look = |turn: usize| Behaviour::call("look_up", json!({"name": format!("n{turn}")})).using(usage);
    Plan::turns((0..100).map(look))
}

async fn run(stage: &Stage, body: &Value) -> Value {
    let service = stage.serve().await;
    service.post("/run", body).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_run_stops_at_its_token_budget() {
    let stage = Stage::new(endless()).await.with(|agent| {
        agent["budget"] = json!({"per_run": {"tokens": 5_000}});
        agent["model"]["output_max"] = json!(1000);
    });
    let task = run(&stage, &json!({"input": "Go on"})).await;
    assert_eq!(
        (task["status"].as_str(), task["error"]["code"].as_str()),
        (Some("failed"), Some("budget_run")),
        "{task}"
    );
    let spent = task["usage"]["input"].as_u64().unwrap() + task["usage"]["output"].as_u64().unwrap();
    assert!(spent <= 5_000, "{task}");
    assert!(stage.model.stats().requests >= 2, "it used what it had");
}

#[tokio::test]
async fn a_request_narrows_the_money_budget_and_never_widens_it() {
    let stage = Stage::new(endless()).await.with(|agent| {
        agent["budget"] = json!({"per_run": {"usd": 0.2}});
        agent["model"]["output_max"] = json!(1000);
    });
    let narrow = run(&stage, &json!({"input": "Go on", "budget": {"usd": 0.02}})).await;
    assert_eq!(narrow["error"]["code"], "budget_run", "{narrow}");
    assert!(narrow["cost"]["nano_usd"].as_u64().unwrap() <= 20_000_000, "{narrow}");
    let wide = run(&stage, &json!({"input": "Go on", "budget": {"usd": 100}})).await;
    assert!(wide["cost"]["nano_usd"].as_u64().unwrap() <= 200_000_000, "{wide}");
    assert_ne!(wide["status"], "completed", "{wide}");
}

#[tokio::test]
async fn a_shared_budget_is_never_overrun_by_runs_side_by_side() {
    let usage = Tokens { input: 100, output: 900, ..Tokens::default() };
    let stage = Stage::new(Plan::turns([Behaviour::text("Costly.").using(usage).after_ms(50)])).await;
    let stage = stage.with(|agent| {
        agent["budget"] = json!({"per_tenant": {"tokens": 5000, "every": "1h"}});
        agent["model"]["output_max"] = json!(1000);
    });
    let service = stage.serve().await;
    let body = json!({"input": "Go"});
    let runs = (0..12).map(|_| service.post("/run", &body).send());
    let (mut spent, mut refused) = (0, 0);
    for answer in futures_util::future::join_all(runs).await {
        let answer: Value = answer.unwrap().json().await.unwrap();
        // Refused as it was submitted (a problem), or as it ran (a failed task).
        if answer["code"] == "budget_exhausted" {
            refused += 1;
            continue;
        }
        let tokens = |kind: &str| answer["usage"][kind].as_u64().unwrap_or_else(|| panic!("{answer}"));
        spent += tokens("input") + tokens("output");
        refused += u64::from(answer["error"]["code"] == "budget_shared");
    }
    assert!(spent <= 5000, "{spent}");
    assert!(spent >= 1000 && refused >= 7, "spent {spent}, refused {refused}");
}

#[tokio::test]
async fn steps_and_tool_calls_are_bounded() {
    let stage = Stage::new(endless()).await.with(|agent| agent["limits"]["steps"] = json!(3));
    let task = run(&stage, &json!({"input": "Go on"})).await;
    assert_eq!((task["error"]["code"].as_str(), task["steps"].as_u64()), (Some("limit_steps"), Some(3)), "{task}");
    let stage = Stage::new(endless()).await.with(|agent| agent["limits"]["tool_calls"] = json!(2));
    let task = run(&stage, &json!({"input": "Go on"})).await;
    assert_eq!(task["error"]["code"], "limit_tool_calls", "{task}");
    assert!(stage.backend.requests().len() <= 2);
}

#[tokio::test]
async fn a_run_that_repeats_itself_is_stopped() {
    let stage = Stage::new(Plan::turns([Behaviour::call("look_up", json!({"name": "same"}))])).await;
    let task = run(&stage, &json!({"input": "Go on"})).await;
    assert_eq!(task["error"]["code"], "repeated_calls", "{task}");
    assert!(stage.model.stats().requests < 10);
}

#[tokio::test]
async fn working_time_is_bounded() {
    let slow = Behaviour::text("Late.").after_ms(60_000);
    let stage = Stage::new(Plan::turns([slow])).await;
    let task = run(&stage, &json!({"input": "Go", "active": "500ms"})).await;
    assert_eq!(task["error"]["code"], "limit_active", "{task}");
}

fn with_output(agent: &mut Value) {
    agent["output"] = json!({"schema": {
        "type": "object", "required": ["verdict"], "additionalProperties": false,
        "properties": {"verdict": {"enum": ["yes", "no"]}},
    }});
}

#[tokio::test]
async fn an_answer_that_fails_the_output_schema_is_repaired() {
    let turns = [Behaviour::text("Well, it depends."), Behaviour::text("{\"verdict\": \"yes\"}")];
    let stage = Stage::new(Plan::default().first(1, turns[0].clone())).await.with(with_output);
    stage.model.set(Plan { turns: vec![turns[1].clone()], ..Plan::default().first(1, turns[0].clone()) });
    let task = run(&stage, &json!({"input": "Yes or no?"})).await;
    assert_eq!(task["result"], json!({"verdict": "yes"}), "{task}");
    let requests = stage.model.requests();
    assert_eq!(requests.len(), 2);
    let second = requests[1].body["messages"].to_string();
    assert!(second.contains("it depends") && second.contains("schema"), "the model is told what was wrong: {second}");
}

#[tokio::test]
async fn an_answer_that_never_fits_the_output_schema_fails_the_run() {
    let stage = Stage::new(Plan::answer("{\"verdict\": \"perhaps\"}")).await.with(with_output);
    let task = run(&stage, &json!({"input": "Yes or no?"})).await;
    assert_eq!(task["error"]["code"], "output_invalid", "{task}");
    assert!(task["result"].is_null(), "{task}");
    assert_eq!(stage.model.stats().requests, 3, "once and two repairs");
}
