//! The commit: whole or not at all.

use mote::limits::{MAIL_MAX, STORE_INLINE_BYTES};
use mote::store::{
    BudgetOp, CommitError, EffectOp, End, Error, Mail, OutboxMessage, Spender, Spending, Status, StatusChange, Store,
    TaskError, Totals,
};
use mote::usage::Usage;

use super::Bench;
use super::sample::{NOW, batch, commit, completed, entry, line, reserve, start, task};

fn message(id: &str) -> OutboxMessage {
    OutboxMessage { id: id.to_owned(), body: r#"{"specversion":"1.0"}"#.to_owned() }
}

/// Everything that a batch may hold arrives.
pub async fn a_commit_applies_all_of_its_batch(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let usage = Usage { input: 10, cache_read: 4, cache_write: 3, output: 5, reasoning: 2 };
    let spent =
        Spending { spender: Spender::Model, step: 1, model: "m".to_owned(), usage, nano_usd: 7, uncertain: false };
    let mut work = batch(StatusChange::Running);
    work.entries = vec![entry(r#"{"n":1}"#), entry(r#"{"n":2}"#)];
    let (key, tool) = ("k".to_owned(), "get".to_owned());
    work.effects =
        vec![EffectOp::Reserve { key: key.clone(), tool, class: "write", attempt: 1, step: 1, call: "c".to_owned() }];
    work.budget = vec![reserve(&[line("agent", 100)], 10)];
    work.outbox = vec![message("m")];
    work.totals = Totals { steps: 2, tool_calls: 3 };
    commit(&*store, "a", 0, work).await.unwrap();
    let mut last = batch(StatusChange::Finished(End {
        status: Status::Failed,
        result: None,
        error: Some(TaskError { code: "step_limit".to_owned(), message: "too many steps".to_owned() }),
        dead: true,
    }));
    last.effects = vec![EffectOp::Finalise { key, outcome: "done" }];
    last.budget = vec![BudgetOp::Settle(spent)];
    last.totals = Totals { steps: 2, tool_calls: 3 };
    commit(&*store, "a", 2, last).await.unwrap();
    let task = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((task.status, task.dead, task.seq, task.epoch), (Status::Failed, true, 2, 1));
    assert_eq!((task.usage, task.cost_nano_usd, task.steps, task.tool_calls), (usage, 7, 2, 3));
    assert_eq!(task.error.unwrap().code, "step_limit");
    assert_eq!(task.finished_at, Some(NOW));
    let journal = store.journal("a", 0, 10).await.unwrap();
    assert_eq!(journal.iter().map(|entry| (entry.seq, entry.epoch)).collect::<Vec<_>>(), [(1, 1), (2, 1)]);
    assert_eq!(journal[1].payload.as_deref(), Some(r#"{"n":2}"#));
    assert_eq!((journal[0].kind.as_str(), journal[0].record.as_slice()), ("tool.finished", &[1, 2, 3][..]));
    assert_eq!(store.outbox(NOW, 8).await.unwrap()[0].1, message("m"));
}

/// A worker that is not where it thinks it is stops.
pub async fn a_commit_at_another_sequence_number_is_refused(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let mut work = batch(StatusChange::Running);
    work.entries = vec![entry("1")];
    commit(&*store, "a", 0, work.clone()).await.unwrap();
    for expected in [0, 2] {
        let refused = commit(&*store, "a", expected, work.clone()).await.unwrap_err();
        assert!(
            matches!(refused, CommitError::Sequence { expected: told, found: 1, .. } if told == expected),
            "{refused}"
        );
    }
    commit(&*store, "a", 1, work).await.unwrap();
    assert_eq!(store.journal("a", 0, 10).await.unwrap().len(), 2);
}

/// A refusal leaves no trace: journal, mail, outbox, totals, status and other budgets are as before.
pub async fn a_commit_that_a_budget_refuses_applies_nothing(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let signal = Mail::Signal { name: "ci".to_owned(), payload: serde_json::json!({}) };
    store.post("a", signal, NOW, MAIL_MAX).await.unwrap();
    let before = store.task(None, "a").await.unwrap().unwrap();
    let counts = store.counts().await.unwrap();
    let mut work = batch(completed());
    work.entries = vec![entry("1"), entry(&"x".repeat(STORE_INLINE_BYTES + 1))];
    work.mail_consumed = store.mail("a").await.unwrap().iter().map(|row| row.id).collect();
    work.outbox = vec![message("m")];
    work.totals.steps = 9;
    work.budget = vec![reserve(&[line("roomy", 1_000), line("tight", 5)], 10)];
    let refused = commit(&*store, "a", 0, work.clone()).await.unwrap_err();
    assert!(matches!(&refused, CommitError::Budget { scope, .. } if scope == "tight"), "{refused}");
    assert_eq!(store.task(None, "a").await.unwrap().unwrap(), before);
    assert!(store.journal("a", 0, 10).await.unwrap().is_empty());
    assert_eq!(store.mail("a").await.unwrap().len(), 1);
    assert!(store.outbox(NOW, 8).await.unwrap().is_empty());
    assert_eq!(store.counts().await.unwrap(), counts);
    // The room that it would have taken on the other line is still there.
    work.budget = vec![reserve(&[line("roomy", 1_000)], 1_000)];
    commit(&*store, "a", 0, work).await.unwrap();
}

/// Terminal means terminal.
pub async fn a_finished_task_changes_no_more(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let unfinished = StatusChange::Finished(End { status: Status::Queued, result: None, error: None, dead: false });
    let refused = commit(&*store, "a", 0, batch(unfinished)).await.unwrap_err();
    assert!(matches!(refused, CommitError::Store(Error::Conflict { .. })), "{refused}");
    commit(&*store, "a", 0, batch(completed())).await.unwrap();
    let before = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!(before.result.as_deref(), Some(r#""done""#));
    let refused = commit(&*store, "a", 0, batch(StatusChange::Running)).await.unwrap_err();
    assert!(matches!(refused, CommitError::Fenced { .. }), "{refused}");
    let refused = commit(&*store, "nobody", 0, batch(StatusChange::Running)).await.unwrap_err();
    assert!(matches!(refused, CommitError::Fenced { .. }), "{refused}");
    assert_eq!(store.task(None, "a").await.unwrap().unwrap(), before);
}

/// A reader gets on from where it stopped and sees no entry twice.
pub async fn a_journal_is_read_in_pages(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let mut work = batch(StatusChange::Running);
    work.entries = (1..=7).map(|n: u64| entry(&n.to_string())).collect();
    commit(&*store, "a", 0, work).await.unwrap();
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = store.journal("a", after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.seq;
        seen.extend(page.into_iter().map(|entry| entry.payload.unwrap()));
    }
    assert_eq!(seen, ["1", "2", "3", "4", "5", "6", "7"]);
    assert!(store.journal("nobody", 0, 3).await.unwrap().is_empty());
}

/// Where a payload is kept is nobody's business.
pub async fn large_payloads_come_back_as_they_were(bench: &dyn Bench) {
    let store = bench.open().await;
    let sizes = [STORE_INLINE_BYTES - 2, STORE_INLINE_BYTES - 1, 4 << 20, 4 << 20];
    let payloads: Vec<String> = sizes.iter().map(|size| format!("\"{}\"", "ü".repeat(size / 2))).collect();
    for id in ["a", "b"] {
        start(&*store, task(id)).await;
        let mut work = batch(StatusChange::Running);
        work.entries = payloads.iter().map(|payload| entry(payload)).collect();
        work.entries[3].payload = None;
        commit(&*store, id, 0, work).await.unwrap();
    }
    let mut journal = store.journal("b", 0, 10).await.unwrap();
    assert_eq!(journal.len(), 3, "a page ends after so many bytes");
    journal.extend(store.journal("b", 3, 10).await.unwrap());
    for (entry, payload) in journal.iter().zip(&payloads[..3]) {
        assert!(entry.payload.as_ref() == Some(payload), "entry {} differs", entry.seq);
    }
    assert_eq!(journal[3].payload, None);
}

/// What a subscriber is told of is already durable.
pub async fn a_subscriber_hears_of_what_it_can_then_read(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let (mut changes, mut others) = (store.subscribe("a"), store.subscribe("b"));
    assert!(!changes.has_changed().unwrap());
    let listener = tokio::spawn({
        let store = store.clone();
        async move {
            let mut after = 0;
            while after < 20 {
                changes.changed().await.unwrap();
                let page = store.journal("a", after, 64).await.unwrap();
                assert!(!page.is_empty(), "a change was announced before it was there");
                after = page.last().unwrap().seq;
                // Several commits may be one change.
                changes.mark_unchanged();
                if !store.journal("a", after, 1).await.unwrap().is_empty() {
                    changes.mark_changed();
                }
            }
        }
    });
    for seq in 0..20 {
        let mut work = batch(StatusChange::Running);
        work.entries = vec![entry("1")];
        commit(&*store, "a", seq, work).await.unwrap();
    }
    tokio::time::timeout(std::time::Duration::from_secs(60), listener).await.unwrap().unwrap();
    assert!(!others.has_changed().unwrap());
    store.submit(task("b")).await.unwrap();
    store.post("b", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    others.changed().await.unwrap();
}

/// Two that hold the same epoch (a bug) still cannot both write.
pub async fn concurrent_commits_at_one_place_let_one_through(bench: &dyn Bench) {
    let stores = [bench.open().await, bench.open().await];
    start(&*stores[0], task("a")).await;
    let commits = (0..8).map(|n: usize| {
        let store = stores[n % 2].clone();
        tokio::spawn(async move {
            let mut work = batch(StatusChange::Running);
            work.entries = vec![entry(&n.to_string())];
            commit(&*store as &dyn Store, "a", 0, work).await.is_ok()
        })
    });
    let mut through = 0;
    for commit in commits.collect::<Vec<_>>() {
        through += usize::from(commit.await.unwrap());
    }
    assert_eq!(through, 1);
    assert_eq!(stores[1].journal("a", 0, 10).await.unwrap().len(), 1);
}
