//! Claims, leases and epochs.

use std::collections::HashSet;
use std::time::Duration;

use mote::limits::{CLAIMS_TOGETHER_MAX, TRIALS_MAX};
use mote::store::{CommitError, Error, Filter, Lease, NewTask, Status, StatusChange};

use super::Bench;
use super::sample::{
    LEASE, NOW, batch, claim, claimed, commit, commit_as, completed, lease, line, perish, reserve, spending, start,
    task,
};

/// First come, first served.
pub async fn the_oldest_is_claimed_first_and_no_more_than_asked(bench: &dyn Bench) {
    let store = bench.open().await;
    for (id, age) in [("young", 1), ("old", 3), ("middle", 2)] {
        store.submit(NewTask { now: NOW - age, ..task(id) }).await.unwrap();
    }
    store.submit(NewTask { now: NOW, ..task("newest") }).await.unwrap();
    let claims = claim(&*store, 2).await;
    assert_eq!(claims.iter().map(|claim| claim.task.id.as_str()).collect::<Vec<_>>(), ["old", "middle"]);
    for claim in claims {
        assert_eq!((claim.epoch, claim.task.epoch, claim.task.status), (1, 1, Status::Running));
        assert_eq!(store.task(None, &claim.task.id).await.unwrap().unwrap(), claim.task);
    }
    assert_eq!(claimed(&*store, 8).await, ["young", "newest"]);
    assert!(claimed(&*store, 8).await.is_empty());
}

/// Whoever asks, in whichever process: a task is handed out once.
pub async fn eight_claimers_never_share_a_task(bench: &dyn Bench) {
    const TASKS: usize = 200;
    let stores = [bench.open().await, bench.open().await];
    for n in 0..TASKS {
        stores[0].submit(task(&format!("t{n:03}"))).await.unwrap();
    }
    let claimers = (0..8).map(|n: usize| {
        let store = stores[n % 2].clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let more = store.claim(lease(&format!("w{n}")), NOW, 7).await.unwrap();
                if more.is_empty() {
                    return mine;
                }
                mine.extend(more.into_iter().map(|claim| claim.task.id));
            }
        })
    });
    let mut all = Vec::new();
    for claimer in claimers.collect::<Vec<_>>() {
        all.extend(claimer.await.unwrap());
    }
    assert_eq!(all.len(), TASKS);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), TASKS);
}

/// A worker that dies is replaced; if it was only asleep, it changes nothing any more.
pub async fn a_task_whose_lease_ran_out_changes_hands_and_the_old_worker_is_fenced(bench: &dyn Bench) {
    let (store, other) = (bench.open().await, bench.open().await);
    start(&*store, task("a")).await;
    let next = Lease { worker: "next".to_owned(), until: LEASE + 30_000 };
    assert!(other.claim(next.clone(), LEASE - 1, 8).await.unwrap().is_empty());
    let claims = other.claim(next, LEASE, 8).await.unwrap();
    assert_eq!((claims[0].task.id.as_str(), claims[0].epoch), ("a", 2));
    let fenced = commit(&*store, "a", 0, batch(StatusChange::Running)).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced { epoch: 1, current: 2, .. }), "{fenced}");
    assert_eq!(store.renew("worker", &[("a".to_owned(), 1)], LEASE * 2).await.unwrap(), ["a"]);
    assert!(matches!(store.release("a", 1).await.unwrap_err(), Error::Conflict { .. }));
    commit_as(&*other, "a", 2, 0, batch(StatusChange::Running)).await.unwrap();
}

/// A lease that is over is over, whether or not somebody else has noticed.
pub async fn a_lease_that_ran_out_commits_nothing_even_unclaimed(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    let late = mote::store::Commit {
        task: "a".to_owned(),
        epoch: 1,
        expected_seq: 0,
        now: LEASE,
        batch: batch(StatusChange::Running),
    };
    let fenced = store.commit(late).await.unwrap_err();
    assert!(matches!(fenced, CommitError::Fenced { .. }), "{fenced}");
}

/// Renewal moves the end of those leases that are still held and names the others.
pub async fn a_renewed_lease_is_kept_and_a_lost_one_reported(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    start(&*store, task("b")).await;
    super::sample::finish(&*store, "b").await;
    let held = [("a".to_owned(), 1), ("b".to_owned(), 1), ("gone".to_owned(), 1)];
    assert_eq!(store.renew("worker", &held, LEASE + 10).await.unwrap(), ["b", "gone"]);
    assert_eq!(store.renew("somebody", &held[..1], LEASE + 99).await.unwrap(), ["a"]);
    assert!(store.claim(lease("next"), LEASE + 9, 8).await.unwrap().is_empty());
    assert_eq!(store.claim(lease("next"), LEASE + 10, 8).await.unwrap().len(), 1);
}

/// A worker that shuts down leaves nothing to wait for, and nothing that it may still do.
pub async fn a_released_task_is_claimable_at_once(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    for round in 1..=u64::from(FATAL) + 2 {
        store.release("a", round).await.unwrap();
        let released = store.task(None, "a").await.unwrap().unwrap();
        assert_eq!((released.status, released.epoch), (Status::Queued, round));
        let fenced = commit_as(&*store, "a", round, 0, batch(StatusChange::Running)).await.unwrap_err();
        assert!(matches!(fenced, CommitError::Fenced { .. }), "{fenced}");
        // Rolling restarts are not held against the task.
        assert_eq!(claim(&*store, 8).await[0].epoch, round + 1);
    }
}

/// Somebody has to say that it expired.
pub async fn a_task_past_its_expiry_is_still_handed_out(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(NewTask { expires_at: Some(NOW - 1), ..task("a") }).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["a"]);
}

/// Workers in a row until one that finds nothing but a dead letter.
const FATAL: u32 = CLAIMS_TOGETHER_MAX + TRIALS_MAX;

/// A task that brings down every worker stops going round.
pub async fn claims_in_vain_end_in_the_dead_letters(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(task("a")).await.unwrap();
    let last = perish(&*store, NOW, FATAL).await;
    assert_eq!((last[0].task.id.as_str(), last[0].epoch), ("a", FATAL.into()));
    let now = NOW + u64::from(FATAL) * 10;
    store.submit(NewTask { now, ..task("b") }).await.unwrap();
    let claims = store.claim(Lease { worker: "w".to_owned(), until: now + 10 }, now, 1).await.unwrap();
    assert_eq!(claims[0].task.id, "b", "a dead letter takes nobody's place");
    let dead = store.task(None, "a").await.unwrap().unwrap();
    assert_eq!((dead.status, dead.dead, dead.finished_at), (Status::Failed, true, Some(now)));
    assert_eq!(dead.error.unwrap().code, "dead_letter");
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.dead, counts.running, counts.queued), (1, 1, 0));
    let listed = store.list(Filter { dead: true, ..Filter::default() }, None, 8).await.unwrap();
    assert_eq!(listed.tasks.len(), 1);
}

/// Only claims in a row count.
pub async fn progress_forgives_earlier_claims(bench: &dyn Bench) {
    let store = bench.open().await;
    store.submit(task("a")).await.unwrap();
    let last = perish(&*store, NOW, FATAL - 1).await;
    let now = NOW + u64::from(FATAL) * 10;
    let claims = store.claim(Lease { worker: "w".to_owned(), until: now + 10 }, now, 8).await.unwrap();
    store.begin_trial("a", claims[0].epoch).await.unwrap();
    assert!(last[0].suspect && claims[0].suspect);
    let (epoch, batch) = (claims[0].epoch, batch(StatusChange::Running));
    store.commit(mote::store::Commit { task: "a".to_owned(), epoch, expected_seq: 0, now, batch }).await.unwrap();
    let again = perish(&*store, now + 10, FATAL).await;
    assert_eq!(again[0].task.id, "a", "it is as good as new");
    assert!(!store.task(None, "a").await.unwrap().unwrap().dead);
}

/// A crash loop of the process, whatever else causes it, buries nothing that was not being worked on.
pub async fn workers_that_end_before_they_begin_bury_nothing(bench: &dyn Bench) {
    let store = bench.open().await;
    for id in ["a", "b", "c"] {
        store.submit(task(id)).await.unwrap();
    }
    for n in 0..200 {
        let now = NOW + n * 10;
        store.claim(Lease { worker: format!("w{n}"), until: now + 10 }, now, 8).await.unwrap();
    }
    assert_eq!(store.counts().await.unwrap().dead, 0);
}

/// Of two tasks that were under way when their worker died neither is known to have killed it: each is tried alone.
pub async fn tasks_on_which_workers_died_are_tried_alone(bench: &dyn Bench) {
    let store = bench.open().await;
    for id in ["poison", "healthy"] {
        store.submit(task(id)).await.unwrap();
    }
    let together = perish(&*store, NOW, CLAIMS_TOGETHER_MAX).await;
    assert_eq!(together.len(), 2);
    let now = NOW + 100;
    let lease = |until| Lease { worker: "w".to_owned(), until };
    let alone = store.claim(lease(now + 50), now, 8).await.unwrap();
    assert_eq!((alone.len(), alone[0].suspect), (1, true));
    // Whatever comes meanwhile is left to others until the trial is over.
    store.submit(NewTask { now, ..task("new") }).await.unwrap();
    assert!(store.claim(lease(now + 50), now + 1, 8).await.unwrap().is_empty());
    let elsewhere = Lease { worker: "elsewhere".to_owned(), until: now + 50 };
    assert_eq!(store.claim(elsewhere, now + 1, 8).await.unwrap().len(), 1, "the other suspect, alone too");
    let (id, epoch, batch) = (alone[0].task.id.clone(), alone[0].epoch, batch(StatusChange::Running));
    store.commit(mote::store::Commit { task: id, epoch, expected_seq: 0, now: now + 2, batch }).await.unwrap();
    let next = store.claim(lease(now + 50), now + 3, 8).await.unwrap();
    assert_eq!(next.iter().map(|claim| claim.task.id.as_str()).collect::<Vec<_>>(), ["new"], "it has committed: go on");
}

/// A poison and healthy tasks in one store: the poison alone is buried.
pub async fn a_poison_is_buried_and_what_stood_beside_it_is_not(bench: &dyn Bench) {
    let store = bench.open().await;
    for id in ["healthy-1", "poison", "healthy-2"] {
        store.submit(task(id)).await.unwrap();
    }
    let mut done = std::collections::BTreeSet::new();
    for n in 0..40 {
        let now = NOW + n * 100;
        let worker = format!("w{n}");
        loop {
            let lease = Lease { worker: worker.clone(), until: now + 50 };
            let claims = store.claim(lease, now, 8).await.unwrap();
            // The process dies with whatever it holds as soon as it looks at the poison.
            let dies = claims.iter().any(|claim| claim.task.id == "poison");
            for claim in claims.iter().filter(|claim| claim.suspect) {
                store.begin_trial(&claim.task.id, claim.epoch).await.unwrap();
            }
            if dies || claims.is_empty() {
                break;
            }
            for claim in claims {
                let (task, epoch, batch) = (claim.task.id.clone(), claim.epoch, batch(completed()));
                store.commit(mote::store::Commit { task, epoch, expected_seq: 0, now, batch }).await.unwrap();
                done.insert(claim.task.id);
            }
        }
    }
    assert!(store.task(None, "poison").await.unwrap().unwrap().dead);
    assert_eq!(done.len(), 2, "{done:?}");
}

/// Nobody knows what the last model call of a dead task cost, so it counts in full, and is told as uncertain.
pub async fn a_dead_letter_forfeits_what_it_had_reserved(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, task("a")).await;
    commit(&*store, "a", 0, spending(vec![reserve(&[line("agent", 100)], 60)])).await.unwrap();
    perish(&*store, LEASE, FATAL + 1).await;
    let dead = store.task(None, "a").await.unwrap().unwrap();
    assert!(dead.dead);
    assert_eq!((dead.cost_nano_usd, dead.uncertain.nano_usd), (0, 60));
    assert_eq!((dead.uncertain.input, dead.uncertain.output), (480, 120));
    start(&*store, task("b")).await;
    let refused = commit(&*store, "b", 0, spending(vec![reserve(&[line("agent", 100)], 41)])).await.unwrap_err();
    assert!(matches!(refused, CommitError::Budget { .. }), "{refused}");
    commit(&*store, "b", 0, spending(vec![reserve(&[line("agent", 100)], 40)])).await.unwrap();
}

/// A worker may sleep until there is something to do; word that came before it slept is not lost.
pub async fn work_is_announced(bench: &dyn Bench) {
    let store = bench.open().await;
    let work = store.work();
    store.submit(task("a")).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), work.notified()).await.unwrap();
    assert_eq!(claimed(&*store, 1).await, ["a"]);
    store.release("a", 1).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), work.notified()).await.unwrap();
}
