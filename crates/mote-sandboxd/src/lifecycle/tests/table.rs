//! Every state and every request: what is legal succeeds, and what is not says why.
//!
//! The table stands here a second time, on purpose: it is what the documents promise.

use super::*;

/// What can be asked of a sandbox.
const REQUESTS: [&str; 12] =
    ["pause", "resume", "snapshot", "rollback", "fork", "diff", "commit", "remove", "renew", "policy", "exec", "usage"];

/// What the refusal of a transition says.
fn reason(state: State) -> &'static str {
    match state {
        State::Creating => "it is still being created",
        State::Running => "it is running",
        State::Pausing => "it is being paused",
        State::Paused => "it is paused",
        State::Resuming => "it is being resumed",
        State::Snapshotting => "a snapshot or rollback is under way",
        State::Forking => "a fork is under way",
        State::Stopping => "it is being stopped",
        State::Gone => "is gone",
        State::Failed => "it has failed and can only be removed",
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Done,
    /// It is served when what is under way is over.
    Waits,
    /// 409, with the state and the transition.
    Illegal,
    /// 409, with the state and what wakes it.
    Asleep,
    /// 410: there is no sandbox any more that it could be asked of.
    Gone,
}

fn expected(state: State, request: &str) -> Expected {
    use State as S;
    let is_over = matches!(state, S::Stopping | S::Gone | S::Failed);
    match request {
        "usage" if matches!(state, S::Stopping | S::Gone) => Expected::Gone,
        "usage" => Expected::Done,
        "renew" | "policy" | "exec" if is_over => Expected::Gone,
        "renew" => Expected::Done,
        // Its processes are frozen: they could not be told.
        "policy" if state == S::Paused => Expected::Asleep,
        "policy" | "exec" if matches!(state, S::Running | S::Paused) => Expected::Done,
        "policy" | "exec" => Expected::Waits,
        "remove" if matches!(state, S::Running | S::Paused | S::Failed) => Expected::Done,
        "remove" if state != S::Gone => Expected::Waits,
        _ if state == S::Gone => Expected::Gone,
        "pause" if state == S::Running => Expected::Done,
        "resume" if state == S::Paused => Expected::Done,
        "snapshot" | "rollback" | "fork" | "diff" | "commit" if matches!(state, S::Running | S::Paused) => {
            Expected::Done
        }
        _ => Expected::Illegal,
    }
}

/// A sandbox in a state, what holds it there, and a snapshot of it.
struct Held {
    stage: Stage,
    id: String,
    snapshot: String,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Held {
    async fn in_state(state: State) -> Self {
        let stage = stage();
        let network = Some(Policy::default());
        let id = stage.sandboxes.create(Spec { network, ..Spec::default() }).await.unwrap().id;
        let snapshot = stage.sandboxes.snapshot(&id, None).await.unwrap().id;
        if matches!(state, State::Paused | State::Resuming) {
            stage.sandboxes.pause(&id, PauseKind::Frozen).await.unwrap();
        }
        let (gate, request) = match state {
            State::Pausing => ("freeze", "pause"),
            State::Resuming => ("thaw", "resume"),
            State::Snapshotting => ("snapshot", "snapshot"),
            State::Forking => ("fork", "fork"),
            State::Stopping => ("end", "remove"),
            State::Creating => {
                let held = Some(stage.fake.hold("root"));
                let sandboxes = stage.sandboxes.clone();
                let begun = tokio::spawn(async move { sandboxes.create(Spec::default()).await });
                stage.until(async |stage| stage.sandboxes.counts().contains_key(&State::Creating)).await;
                drop(begun);
                let made = stage.sandboxes.all().into_iter().find(|cell| cell.state() == state).unwrap();
                // Of its own, so that the snapshot is of its line.
                let pending = made.change(stage.sandboxes.store(), |record| record.parent = Some(id.clone()));
                pending.await.unwrap();
                return Self { id: made.id().to_owned(), stage, snapshot, held };
            }
            State::Failed => {
                stage.fake.kill_all();
                state_becomes(&stage.sandboxes, &id, State::Failed).await;
                return Self { stage, id, snapshot, held: None };
            }
            State::Gone => {
                stage.sandboxes.remove(&id).await.unwrap();
                return Self { stage, id, snapshot, held: None };
            }
            State::Running | State::Paused => return Self { stage, id, snapshot, held: None },
        };
        let held = Some(stage.fake.hold(gate));
        let (sandboxes, own, of) = (stage.sandboxes.clone(), id.clone(), snapshot.clone());
        tokio::spawn(async move { ask(&sandboxes, request, &own, &of).await });
        state_becomes(&stage.sandboxes, &id, state).await;
        Self { stage, id, snapshot, held }
    }
}

async fn ask(sandboxes: &Sandboxes, request: &str, id: &str, snapshot: &str) -> Result<(), Failure> {
    match request {
        "pause" => sandboxes.pause(id, PauseKind::Frozen).await.map(drop),
        "resume" => sandboxes.resume(id).await.map(drop),
        "snapshot" => sandboxes.snapshot(id, None).await.map(drop),
        "rollback" => sandboxes.rollback(id, snapshot).await.map(drop),
        "fork" => sandboxes.fork(id, Fork::default()).await.map(drop),
        "diff" => sandboxes.diff(id).await.map(drop),
        "commit" => sandboxes.commit(id, "name").await.map(drop),
        "remove" => sandboxes.remove(id).await,
        "renew" => sandboxes.renew(id, None).await.map(drop),
        "policy" => sandboxes.set_policy(id, Policy::default()).await,
        "exec" => sandboxes.awake(id).await.map(drop),
        _ => sandboxes.usage(id).await.map(drop),
    }
}

#[tokio::test]
async fn in_every_state_each_request_is_done_or_says_why_not() {
    for state in State::ALL {
        let refusing = Held::in_state(state).await;
        for request in REQUESTS {
            let case = format!("{request} while {state}");
            let wanted = expected(state, request);
            match wanted {
                Expected::Waits => continue,
                // On a sandbox of its own: it changes the state.
                Expected::Done => {
                    let fresh = Held::in_state(state).await;
                    let done = ask(&fresh.stage.sandboxes, request, &fresh.id, &fresh.snapshot).await;
                    done.unwrap_or_else(|failure| panic!("{case}: {failure}"));
                    continue;
                }
                Expected::Illegal | Expected::Asleep | Expected::Gone => {}
            }
            let failure = ask(&refusing.stage.sandboxes, request, &refusing.id, &refusing.snapshot).await.unwrap_err();
            let code = if wanted == Expected::Gone { Code::Gone } else { Code::IllegalTransition };
            assert_eq!(failure.code, code, "{case}: {failure}");
            assert_eq!(failure.context["state"], state.to_string(), "{case}");
            if wanted == Expected::Illegal {
                assert!(failure.message.contains("is not possible"), "{case}: {failure}");
                assert!(failure.message.contains(reason(state)), "{case}: {failure}");
                assert!(failure.context.contains_key("transition"), "{case}");
            }
            if wanted == Expected::Asleep {
                assert!(failure.remediation.is_some_and(|advice| advice.contains("/resume")), "{case}");
            }
            assert_eq!(refusing.stage.state(&refusing.id), state, "{case}: a refusal changes nothing");
        }
        drop(refusing.held);
    }
}

#[tokio::test]
async fn what_waits_is_served_when_what_is_under_way_is_over() {
    for state in State::ALL {
        for request in REQUESTS.into_iter().filter(|request| expected(state, request) == Expected::Waits) {
            let Held { stage, id, snapshot, held } = Held::in_state(state).await;
            let own = id.clone();
            let sandboxes = stage.sandboxes.clone();
            let asked = tokio::spawn(async move { ask(&sandboxes, request, &own, &snapshot).await });
            if request == "remove" {
                state_becomes(&stage.sandboxes, &id, State::Stopping).await;
            }
            drop(held);
            // It is frozen by then.
            let is_refused = state == State::Pausing && request == "policy";
            let outcome = asked.await.unwrap();
            assert_eq!(outcome.is_err(), is_refused, "{request} while {state}: {outcome:?}");
        }
    }
}
