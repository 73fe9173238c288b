//! Tasks, leases and batches to test with.

use std::collections::BTreeMap;

use mote::store::{
    Amount, Batch, BudgetLine, BudgetOp, Claim, Commit, CommitError, End, IdempotencyKey, Lease, NewEntry, NewTask,
    Owner, Spender, Spending, Status, StatusChange, Store, Totals,
};
use mote::usage::Usage;

/// When the tests happen, milliseconds since the Unix epoch.
pub const NOW: u64 = 1_800_000_000_000;
/// When leases end, unless a test says otherwise.
pub const LEASE: u64 = NOW + 30_000;

/// A plain task, submitted at [`NOW`].
#[must_use]
pub fn task(id: &str) -> NewTask {
    NewTask {
        id: id.to_owned(),
        owner: Owner::default(),
        request: r#"{"input":"hello"}"#.to_owned(),
        now: NOW,
        expires_at: None,
        idempotency: None,
        claim: None,
        first: None,
        turn_within: None,
    }
}

/// A task of a session.
#[must_use]
pub fn turn(id: &str, session: &str) -> NewTask {
    let owner = Owner { session: Some(session.to_owned()), user: Some("ada".to_owned()), ..Owner::default() };
    NewTask { owner, ..task(id) }
}

/// Labels from pairs.
#[must_use]
pub fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A key for `POST /tasks` that lives for a second.
#[must_use]
pub fn key(key: &str, request: u8) -> IdempotencyKey {
    IdempotencyKey {
        route: "POST /tasks".to_owned(),
        key: key.to_owned(),
        fingerprint: [request; 32],
        expires_at: NOW + 1_000,
    }
}

/// A lease until [`LEASE`].
#[must_use]
pub fn lease(worker: &str) -> Lease {
    Lease { worker: worker.to_owned(), until: LEASE }
}

/// Claims at [`NOW`].
pub async fn claim(store: &dyn Store, limit: usize) -> Vec<Claim> {
    store.claim(lease("worker"), NOW, limit).await.unwrap()
}

/// Claims at [`NOW`] and gives the ids.
pub async fn claimed(store: &dyn Store, limit: usize) -> Vec<String> {
    claim(store, limit).await.into_iter().map(|claim| claim.task.id).collect()
}

/// Submits a task and claims it at once (epoch 1).
pub async fn start(store: &dyn Store, task: NewTask) {
    let claim = Some(lease("worker"));
    store.submit(NewTask { claim, ..task }).await.unwrap();
}

/// A batch that changes nothing but the status.
#[must_use]
pub fn batch(status: StatusChange) -> Batch {
    Batch {
        entries: Vec::new(),
        effects: Vec::new(),
        budget: Vec::new(),
        mail_consumed: Vec::new(),
        outbox: Vec::new(),
        session: None,
        status,
        totals: Totals::default(),
    }
}

/// A batch of these budget operations.
#[must_use]
pub fn spending(budget: Vec<BudgetOp>) -> Batch {
    Batch { budget, ..batch(StatusChange::Running) }
}

/// One journal entry with a payload.
#[must_use]
pub fn entry(payload: &str) -> NewEntry {
    NewEntry { at: NOW, kind: "tool.finished", record: vec![1, 2, 3], payload: Some(payload.to_owned()) }
}

/// Finished with a result.
#[must_use]
pub fn completed() -> StatusChange {
    StatusChange::Finished(End {
        status: Status::Completed,
        result: Some(r#""done""#.to_owned()),
        error: None,
        dead: false,
    })
}

/// Waiting, all mail up to `mail_seen` read.
#[must_use]
pub fn waiting(wake_at: Option<u64>, mail_seen: i64) -> StatusChange {
    StatusChange::Waiting { wake_at, waiting: "[]".to_owned(), mail_seen }
}

/// Commits to a task at epoch 1 whose journal ends at `seq`.
pub async fn commit(store: &dyn Store, task: &str, seq: u64, batch: Batch) -> Result<(), CommitError> {
    commit_as(store, task, 1, seq, batch).await
}

/// Commits to a task under an epoch.
pub async fn commit_as(store: &dyn Store, task: &str, epoch: u64, seq: u64, batch: Batch) -> Result<(), CommitError> {
    store.commit(Commit { task: task.to_owned(), epoch, expected_seq: seq, now: NOW, batch }).await
}

/// Finishes a task at epoch 1 with an empty journal.
pub async fn finish(store: &dyn Store, task: &str) {
    commit(store, task, 0, batch(completed())).await.unwrap();
}

/// A budget line on money without a window.
#[must_use]
pub fn line(scope: &str, nano_usd_max: u64) -> BudgetLine {
    let (scope, nano_usd_max) = (scope.to_owned(), Some(nano_usd_max));
    BudgetLine { scope, formerly: None, window_start: 0, nano_usd_max, tokens_max: None }
}

/// Nano-USD with ten times as many tokens.
#[must_use]
pub fn amount(nano_usd: u64) -> Amount {
    Amount { tokens: nano_usd * 10, nano_usd }
}

/// Reserves on lines.
#[must_use]
pub fn reserve(lines: &[BudgetLine], nano_usd: u64) -> BudgetOp {
    BudgetOp::Reserve { spender: Spender::Model, lines: lines.to_vec(), amount: amount(nano_usd), output: nano_usd * 2 }
}

/// Settles.
#[must_use]
pub fn settle(nano_usd: u64) -> BudgetOp {
    let usage = Usage { input: nano_usd * 8, output: nano_usd * 2, ..Usage::default() };
    BudgetOp::Settle(Spending {
        spender: Spender::Model,
        step: 1,
        model: "m".to_owned(),
        usage,
        nano_usd,
        uncertain: false,
    })
}

/// Settles a call of which nobody knows what it cost.
#[must_use]
pub fn lose(nano_usd: u64) -> BudgetOp {
    let usage = Usage { input: nano_usd * 8, output: nano_usd * 2, ..Usage::default() };
    BudgetOp::Settle(Spending {
        spender: Spender::Model,
        step: 1,
        model: "unknown".to_owned(),
        usage,
        nano_usd,
        uncertain: true,
    })
}

/// Workers claim whatever is due and end at once, one after another, from `from` on; what the last of them claimed.
pub async fn perish(store: &dyn Store, from: u64, workers: u32) -> Vec<Claim> {
    let mut last = Vec::new();
    for n in 0..u64::from(workers) {
        let now = from + n * 10;
        let lease = Lease { worker: format!("dying-{from}-{n}"), until: now + 10 };
        last = store.claim(lease, now, 8).await.unwrap();
        for claim in last.iter().filter(|claim| claim.suspect) {
            store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
        }
    }
    last
}
