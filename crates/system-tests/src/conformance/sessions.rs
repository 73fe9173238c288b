//! Sessions: one task at a time, and a transcript.

use mote::limits::{CONTEXT_UNITS, MAIL_MAX};
use mote::message::{Message, Part, Role};
use mote::store::{Mail, NewTask, SessionTurn, StatusChange, Submitted};

use super::Bench;
use super::sample::{
    NOW, batch, claim, claimed, commit, commit_as, completed, finish, lease, lose, settle, start, turn, waiting,
};

/// The order of submission is the order of the conversation.
pub async fn tasks_of_a_session_run_one_at_a_time_in_order(bench: &dyn Bench) {
    let (store, other) = (bench.open().await, bench.open().await);
    for id in ["a", "b", "c"] {
        store.submit(turn(id, "s")).await.unwrap();
    }
    for id in ["a", "b", "c"] {
        assert_eq!(claimed(&*other, 8).await, [id]);
        assert!(claimed(&*store, 8).await.is_empty());
        assert_eq!(store.session("", "s").await.unwrap().unwrap().active_task.as_deref(), Some(id));
        finish(&*other, id).await;
    }
    assert_eq!(store.session("", "s").await.unwrap().unwrap().active_task, None);
}

/// A conversation does not go on while an answer is outstanding.
pub async fn a_waiting_task_occupies_its_session(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("a", "s")).await;
    store.submit(turn("b", "s")).await.unwrap();
    commit(&*store, "a", 0, batch(waiting(None, 0))).await.unwrap();
    assert!(claimed(&*store, 8).await.is_empty());
    assert_eq!(store.session("", "s").await.unwrap().unwrap().active_task.as_deref(), Some("a"));
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["a"]);
    commit_as(&*store, "a", 2, 0, batch(completed())).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["b"]);
}

/// A task that is cancelled before it ran lets the next one in; one behind it lets nobody past.
pub async fn a_cancelled_head_lets_the_next_one_in(bench: &dyn Bench) {
    let store = bench.open().await;
    for id in ["a", "b", "c", "d"] {
        store.submit(turn(id, "s")).await.unwrap();
    }
    store.post("c", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    store.post("a", Mail::Cancel, NOW, MAIL_MAX).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["b"]);
    finish(&*store, "b").await;
    assert_eq!(claimed(&*store, 8).await, ["d"]);
}

/// A restart of its worker does not cost a task its turn.
pub async fn a_released_head_keeps_its_place(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("a", "s")).await;
    store.submit(turn("b", "s")).await.unwrap();
    store.release("a", 1).await.unwrap();
    store.submit(turn("c", "s")).await.unwrap();
    assert_eq!(claimed(&*store, 8).await, ["a"]);
}

/// Only tasks of the same tenant's session of that name wait for each other.
pub async fn sessions_do_not_hold_each_other_up(bench: &dyn Bench) {
    let store = bench.open().await;
    let mut foreign = turn("b", "s");
    foreign.owner.tenant = "acme".to_owned();
    for new in [turn("a", "s"), foreign, turn("c", "t"), super::sample::task("d")] {
        store.submit(new).await.unwrap();
    }
    assert_eq!(claimed(&*store, 8).await, ["a", "b", "c", "d"]);
}

/// A task that should run at once is queued if its session is busy.
pub async fn a_busy_session_refuses_a_claim_at_once(bench: &dyn Bench) {
    let store = bench.open().await;
    let at_once = |id| NewTask { claim: Some(lease("worker")), first: Some(batch(completed())), ..turn(id, "s") };
    start(&*store, turn("a", "s")).await;
    assert_eq!(store.submit(at_once("b")).await.unwrap(), Submitted::Created { epoch: None });
    finish(&*store, "a").await;
    let queued = claim(&*store, 8).await;
    assert_eq!((queued[0].task.id.as_str(), queued[0].task.seq), ("b", 0));
    finish(&*store, "b").await;
    assert_eq!(store.submit(at_once("c")).await.unwrap(), Submitted::Created { epoch: Some(1) });
}

/// Workers in two processes see the same free session; one gets its task.
pub async fn claimers_race_for_a_session_and_one_wins(bench: &dyn Bench) {
    let stores = [bench.open().await, bench.open().await];
    for n in 0..8 {
        stores[0].submit(turn(&format!("t{n}"), "s")).await.unwrap();
    }
    for n in 0..8 {
        let racers = (0..8).map(|racer: usize| {
            let store = stores[racer % 2].clone();
            tokio::spawn(async move { claimed(&*store, 4).await })
        });
        let mut winners = Vec::new();
        for racer in racers.collect::<Vec<_>>() {
            winners.extend(racer.await.unwrap());
        }
        assert_eq!(winners, [format!("t{n}")]);
        finish(&*stores[n % 2], &winners[0]).await;
    }
}

/// The next turn finds what was said, what it cost, and who spoke first.
pub async fn a_turn_is_added_to_the_transcript(bench: &dyn Bench) {
    let store = bench.open().await;
    assert_eq!(store.session("", "s").await.unwrap(), None);
    let said = [Message::text(Role::User, "hello"), Message::text(Role::Assistant, "good day")];
    for (n, id) in ["a", "b"].into_iter().enumerate() {
        start(&*store, NewTask { now: NOW + n as u64, ..turn(id, "s") }).await;
        let mut work = batch(StatusChange::Running);
        work.budget = vec![settle(7), lose(3)];
        commit(&*store, id, 0, work.clone()).await.unwrap();
        work.status = completed();
        work.session = Some(SessionTurn { messages: said.to_vec() });
        work.budget = vec![settle(2)];
        commit(&*store, id, 0, work).await.unwrap();
    }
    let session = bench.open().await.session("", "s").await.unwrap().unwrap();
    assert_eq!(session.messages, [&said[..], &said[..]].concat());
    assert_eq!((session.turns, session.cost_nano_usd), (2, 18));
    assert_eq!((session.usage.input, session.usage.output), (2 * 72, 2 * 18));
    let uncertain = session.uncertain;
    assert_eq!(
        (uncertain.input, uncertain.output, uncertain.nano_usd),
        (2 * 24, 2 * 6, 6),
        "told apart from what is known"
    );
    assert_eq!((session.user.as_deref(), session.active_task), (Some("ada"), None));
    assert_eq!((session.created_at, session.updated_at), (NOW, NOW + 1));
    assert_eq!(store.session("acme", "s").await.unwrap(), None);
}

/// Old messages go, but never the call without its result or the result without its call.
pub async fn a_transcript_is_bounded_and_never_cut_between_call_and_result(bench: &dyn Bench) {
    let store = bench.open().await;
    start(&*store, turn("a", "s")).await;
    let id = "call".to_owned();
    let call = Part::Call { id: id.clone(), name: "get".to_owned(), arguments: "{}".to_owned(), opaque: None };
    let result = Part::Result { id, content: "1".to_owned(), is_error: false };
    let mut messages = vec![
        Message::text(Role::User, "first"),
        Message { role: Role::Assistant, parts: vec![call] },
        Message { role: Role::Tool, parts: vec![result] },
    ];
    messages.extend((1..CONTEXT_UNITS).map(|n| Message::text(Role::User, n.to_string())));
    let mut work = batch(completed());
    work.session = Some(SessionTurn { messages: messages.clone() });
    commit(&*store, "a", 0, work).await.unwrap();
    let session = store.session("", "s").await.unwrap().unwrap();
    assert_eq!(session.messages, messages[3..]);
}
