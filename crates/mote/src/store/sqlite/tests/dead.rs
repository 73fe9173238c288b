//! What is told of a dead letter, and what becomes of that when it is resumed.

use super::*;

#[tokio::test]
async fn a_dead_letter_tells_what_it_forfeits_and_whose_outcome_nobody_knows() {
    use crate::store::{Amount, BudgetOp, EffectOp, Spender, Spending, Uncertain};
    use crate::usage::Usage;
    let dir = tempfile::tempdir().unwrap();
    let announcer = Some(announcer());
    let store = SqliteStore::open(&dir.path().join("store.db"), Options { announcer, ..options() }).unwrap();
    let mut first = batch(StatusChange::Running);
    let effect = |key: &str, class| {
        let (key, tool, call) = (key.to_owned(), format!("tool-{key}"), format!("call-{key}"));
        EffectOp::Reserve { key, tool, class, attempt: 1, step: 2, call }
    };
    first.effects = vec![effect("w", "write"), effect("r", "read")];
    let part = r#"{"type":"call","id":"call-w","name":"tool-w","arguments":"{\"to\":\"ann\"}"}"#;
    let said = format!(r#"{{"type":"model.replied","step":2,"message":{{"role":"assistant","parts":[{part}]}}}}"#);
    first.entries = vec![NewEntry { at: 1_000, kind: "model.replied", record: vec![1], payload: Some(said) }];
    first.budget = vec![BudgetOp::Reserve {
        spender: Spender::Model,
        lines: Vec::new(),
        amount: Amount { tokens: 30, nano_usd: 7 },
        output: 10,
    }];
    let mut owner = new_task("a").owner;
    owner.session = Some("s".to_owned());
    store.submit(NewTask { owner, claim: Some(lease(1_500)), first: Some(first), ..new_task("a") }).await.unwrap();
    for now in (2_000..).step_by(10).take(1 + (CLAIMS_TOGETHER_MAX + TRIALS_MAX) as usize) {
        for claim in store.claim(lease(now), now, 1).await.unwrap() {
            store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
        }
    }
    let task = store.task(None, "a").await.unwrap().unwrap();
    let uncertain = Uncertain { input: 20, output: 10, nano_usd: 7 };
    assert_eq!((task.dead, task.cost_nano_usd, task.uncertain), (true, 0, uncertain));
    assert_eq!(store.session("", "s").await.unwrap().unwrap().uncertain, uncertain);
    let reader = Connection::open(dir.path().join("store.db")).unwrap();
    let row = "SELECT tokens_input || ' ' || tokens_output || ' ' || nano_usd || ' ' || uncertain FROM ledger";
    assert_eq!(reader.query_row(row, [], |row| row.get::<_, String>(0)).unwrap(), "20 10 7 1");
    let told: Vec<String> =
        store.outbox(u64::MAX, 9).await.unwrap().into_iter().map(|(_, message)| message.body).collect();
    let unknown: Vec<&String> = told.iter().filter(|body| body.contains("outcome_unknown")).collect();
    assert_eq!((unknown.len(), told.len()), (1, 2), "{told:?}");
    assert!(unknown[0].contains("tool-w") && unknown[0].contains("call-w"), "{unknown:?}");
    assert!(unknown[0].contains(r#""arguments":{"to":"ann"}"#), "{unknown:?}");

    // Resumed, its run settles the same call: it is not booked twice.
    store.resume("a", 9_000).await.unwrap();
    let lease = Lease { until: 99_000, ..lease(0) };
    let claim = store.claim(lease, 9_000, 1).await.unwrap().pop().unwrap();
    let usage = Usage { input: 20, output: 10, ..Usage::default() };
    let lost =
        Spending { spender: Spender::Model, step: 1, model: "unknown".to_owned(), usage, nano_usd: 7, uncertain: true };
    let mut work = batch(StatusChange::Running);
    work.budget = vec![BudgetOp::Settle(lost.clone()), BudgetOp::Settle(lost)];
    let commit = Commit { task: "a".to_owned(), epoch: claim.epoch, expected_seq: 1, now: 9_001, batch: work };
    store.commit(commit).await.unwrap();
    let task = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!(task.uncertain, Uncertain { input: 40, output: 20, nano_usd: 14 }, "the second loss is another");
}

#[tokio::test]
async fn the_task_that_holds_the_session_is_its_head_also_beside_an_older_one_that_was_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let owner = || Owner { session: Some("s".to_owned()), ..Owner::default() };
    store.submit(NewTask { owner: owner(), ..new_task("older") }).await.unwrap();
    store.post("older", Mail::Cancel, 2, MAIL_MAX).await.unwrap();
    store.submit(NewTask { owner: owner(), claim: Some(lease(99_000)), ..new_task("holds") }).await.unwrap();
    store.submit(NewTask { owner: owner(), ..new_task("behind") }).await.unwrap();
    store.resume("older", 1_500).await.unwrap();
    let head = async || store.session_head("", "s").await.unwrap().unwrap().id;
    assert_eq!(head().await, "holds");
    // One that goes away from behind it makes nobody due.
    store.post("behind", Mail::Cancel, 1_600, MAIL_MAX).await.unwrap();
    assert!(store.claim(lease(90_000), 2_000, 9).await.unwrap().is_empty(), "one task of a session at a time");
}
