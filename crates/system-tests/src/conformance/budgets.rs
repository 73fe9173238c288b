//! Shared budgets: reserved before, settled after, never raced past.

use mote::store::{BudgetLine, CommitError, Store};

use super::Bench;
use super::sample::{commit, finish, line, reserve, settle, spending, start, task};

async fn try_reserve(store: &dyn Store, task: &str, lines: &[BudgetLine], nano_usd: u64) -> bool {
    match commit(store, task, 0, spending(vec![reserve(lines, nano_usd)])).await {
        Ok(()) => true,
        Err(CommitError::Budget { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

/// How much of `max` is left on a line, found by trying.
async fn room(store: &dyn Store, probe: &str, line: &BudgetLine) -> u64 {
    start(store, task(probe)).await;
    let mut room = 0;
    for step in [64, 32, 16, 8, 4, 2, 1] {
        if try_reserve(store, probe, std::slice::from_ref(line), room + step).await {
            room += step;
            commit(store, probe, 0, spending(vec![settle(0)])).await.unwrap();
        }
    }
    finish(store, probe).await;
    room
}

/// Thirty-two tasks in two processes want ten each of a hundred: ten of them get it.
pub async fn racing_tasks_never_exceed_a_budget(bench: &dyn Bench) {
    let stores = [bench.open().await, bench.open().await];
    for n in 0..32 {
        start(&*stores[0], task(&format!("t{n}"))).await;
    }
    let racers = (0..32).map(|n: usize| {
        let store = stores[n % 2].clone();
        tokio::spawn(async move { try_reserve(&*store, &format!("t{n}"), &[line("agent", 100)], 10).await })
    });
    let mut granted = 0;
    for racer in racers.collect::<Vec<_>>() {
        granted += usize::from(racer.await.unwrap());
    }
    assert_eq!(granted, 10);
}

/// What was not spent is free again.
pub async fn a_settled_amount_replaces_its_reservation(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let agent = line("agent", 100);
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&agent), 80).await);
    assert_eq!(room(&*store, "during", &agent).await, 20);
    commit(&*store, "a", 0, spending(vec![settle(30)])).await.unwrap();
    assert_eq!(room(&*store, "after", &agent).await, 70);
    // One commit may settle a call and reserve the next.
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&agent), 10).await);
    let both = spending(vec![settle(10), reserve(std::slice::from_ref(&agent), 50)]);
    commit(&*store, "a", 0, both).await.unwrap();
    assert_eq!(room(&*store, "last", &agent).await, 10);
}

/// An estimate may be too low; what was really spent counts.
pub async fn an_overshoot_is_booked_and_stops_the_next(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let agent = line("agent", 100);
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&agent), 90).await);
    commit(&*store, "a", 0, spending(vec![settle(105)])).await.unwrap();
    start(&*store, task("b")).await;
    assert!(!try_reserve(&*store, "b", std::slice::from_ref(&agent), 1).await);
    let raised = line("agent", 110);
    assert_eq!(room(&*store, "probe", &raised).await, 5);
}

/// A run that ends without settling holds nothing back.
pub async fn a_finished_task_gives_its_reservation_back(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let agent = line("agent", 100);
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&agent), 100).await);
    finish(&*store, "a").await;
    assert_eq!(room(&*store, "probe", &agent).await, 100);
}

/// Money, tokens, agent, tenant: the tightest decides, and the others are untouched.
pub async fn one_full_line_refuses_all_lines(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let agent = line("agent", 100);
    // Ten tokens a nano-USD.
    let tenant = BudgetLine { nano_usd_max: None, tokens_max: Some(200), ..line("tenant:acme", 0) };
    assert!(!try_reserve(&*store, "a", &[agent.clone(), tenant.clone()], 21).await);
    assert_eq!(room(&*store, "agent", &agent).await, 100);
    assert!(try_reserve(&*store, "a", &[agent.clone(), tenant.clone()], 20).await);
    assert_eq!(room(&*store, "after", &agent).await, 80);
    assert_eq!(room(&*store, "tenant", &tenant).await, 0);
}

/// A new window starts from nothing.
pub async fn windows_are_apart(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let today = BudgetLine { window_start: 1_000, ..line("agent", 100) };
    let tomorrow = BudgetLine { window_start: 2_000, ..today.clone() };
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&today), 100).await);
    assert_eq!(room(&*store, "tomorrow", &tomorrow).await, 100);
    // It is settled where it was reserved.
    commit(&*store, "a", 0, spending(vec![settle(60)])).await.unwrap();
    assert_eq!(room(&*store, "today", &today).await, 40);
}

/// A line that is called otherwise than before goes on from what was spent, once; the earlier name stays its owner's.
pub async fn a_renamed_line_begins_with_what_was_spent(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let before = line("user:a:b:c", 100);
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&before), 60).await);
    commit(&*store, "a", 0, spending(vec![settle(60)])).await.unwrap();
    let renamed = BudgetLine { formerly: Some(before.scope.clone()), ..line("user:a%3Ab:c", 100) };
    start(&*store, task("b")).await;
    assert!(!try_reserve(&*store, "b", std::slice::from_ref(&renamed), 41).await);
    assert!(try_reserve(&*store, "b", std::slice::from_ref(&renamed), 10).await);
    commit(&*store, "b", 0, spending(vec![settle(10)])).await.unwrap();
    assert_eq!(room(&*store, "renamed", &renamed).await, 30);
    assert_eq!(room(&*store, "before", &before).await, 40);
}

/// A reservation is the task's, not its worker's.
pub async fn a_reservation_outlives_its_process(bench: &dyn Bench) {
    let agent = line("agent", 100);
    let store = bench.open().await;
    start(&*store, task("a")).await;
    assert!(try_reserve(&*store, "a", std::slice::from_ref(&agent), 70).await);
    drop(store);
    let store = bench.open().await;
    assert_eq!(room(&*store, "during", &agent).await, 30);
    commit(&*store, "a", 0, spending(vec![settle(70)])).await.unwrap();
    assert_eq!(room(&*store, "after", &agent).await, 30);
}
