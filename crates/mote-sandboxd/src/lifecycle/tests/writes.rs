//! The state's disk is full, or fails: no sandbox is lost by it, and none is stuck.

use super::*;

impl Stage {
    fn sql(&self, statement: &str) {
        let connection = rusqlite::Connection::open(self.directory.path().join(crate::state::FILE)).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        connection.execute_batch(statement).unwrap();
    }

    /// Records in one of these states cannot be written.
    fn refuse_writes(&self, states: &[State]) {
        let states = states.iter().map(|state| format!("'{state}'")).collect::<Vec<_>>().join(", ");
        self.sql(&format!(
            "CREATE TRIGGER refused BEFORE INSERT ON sandboxes WHEN NEW.state IN ({states})
             BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
        ));
    }

    fn allow_writes(&self) {
        self.sql("DROP TRIGGER refused");
    }

    async fn kept(&self, id: &str) -> State {
        let records = self.sandboxes.store().sandboxes().await.unwrap();
        records.into_iter().find(|record| record.id == id).unwrap().state
    }
}

async fn perform(stage: &Stage, operation: &str, id: &str, snapshot: &str) -> Result<(), Failure> {
    match operation {
        "freeze" => stage.sandboxes.pause(id, PauseKind::Frozen).await.map(drop),
        "stop" => stage.sandboxes.pause(id, PauseKind::Stopped).await.map(drop),
        "resume" => stage.sandboxes.resume(id).await.map(drop),
        "snapshot" => stage.sandboxes.snapshot(id, None).await.map(drop),
        "rollback" => stage.sandboxes.rollback(id, snapshot).await.map(drop),
        "fork" => stage.sandboxes.fork(id, Fork::default()).await.map(drop),
        _ => stage.sandboxes.renew(id, Some(Duration::from_secs(9_000))).await.map(drop),
    }
}

#[tokio::test]
async fn an_intent_that_cannot_be_kept_is_taken_back_and_can_be_had_again() {
    for operation in ["freeze", "stop", "snapshot", "rollback", "fork", "renew", "resume"] {
        let stage = stage();
        let id = stage.create().await;
        let snapshot = stage.sandboxes.snapshot(&id, None).await.unwrap().id;
        if operation == "resume" {
            stage.sandboxes.pause(&id, PauseKind::Frozen).await.unwrap();
        }
        let before = stage.sandboxes.get(&id).unwrap();
        let living = stage.fake.world().living.clone();
        stage.refuse_writes(&State::ALL);
        let failure = perform(&stage, operation, &id, &snapshot).await.unwrap_err();
        assert!(failure.message.contains("the disk is full"), "{operation}: {failure}");
        let after = stage.sandboxes.get(&id).unwrap();
        assert_eq!((after.state, after.pause), (before.state, before.pause), "{operation}");
        assert_eq!(stage.fake.world().living, living, "{operation}: nothing was done");
        stage.allow_writes();
        perform(&stage, operation, &id, &snapshot).await.unwrap_or_else(|failure| panic!("{operation}: {failure}"));
        stage.sandboxes.remove(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_removal_makes_room_also_where_nothing_can_be_kept() {
    let stage = stage();
    let id = stage.create().await;
    stage.refuse_writes(&State::ALL);
    stage.sandboxes.remove(&id).await.unwrap();
    assert_eq!(stage.state(&id), State::Gone);
    stage.assert_nothing_leaked();
    assert_eq!(stage.sandboxes.remove(&id).await.unwrap_err().code, Code::Gone);
    assert_eq!(stage.kept(&id).await, State::Running);
    stage.allow_writes();
    stage.until(async |stage| stage.kept(&id).await == State::Gone).await;
}

#[tokio::test]
async fn a_crash_before_a_removal_could_be_kept_is_no_sandbox_without_a_filesystem() {
    let stage = stage();
    let running = stage.create().await;
    let paused = stage.create().await;
    stage.sandboxes.pause(&paused, PauseKind::Stopped).await.unwrap();
    stage.refuse_writes(&State::ALL);
    for id in [&running, &paused] {
        stage.sandboxes.remove(id).await.unwrap();
    }
    stage.allow_writes();
    let (stage, recovered) = stage.restart().await;
    // Unless they were kept between the two.
    assert!(recovered.rested == 0 && recovered.adopted == 0, "{recovered:?}");
    assert_eq!([stage.state(&running), stage.state(&paused)], [State::Gone, State::Gone]);
}

#[tokio::test]
async fn an_outcome_that_cannot_be_kept_stands_and_is_kept_when_it_can_be() {
    for kind in [PauseKind::Frozen, PauseKind::Stopped] {
        let stage = stage();
        let id = stage.create().await;
        stage.refuse_writes(&[State::Paused]);
        assert_eq!(stage.sandboxes.pause(&id, kind).await.unwrap().state, State::Paused);
        assert_eq!(stage.kept(&id).await, State::Pausing);
        stage.allow_writes();
        stage.until(async |stage| stage.kept(&id).await == State::Paused).await;
        stage.refuse_writes(&[State::Running]);
        stage.sandboxes.awake(&id).await.unwrap();
        assert_eq!(stage.state(&id), State::Running);
        stage.allow_writes();
        stage.until(async |stage| stage.kept(&id).await == State::Running).await;
    }
}

#[tokio::test]
async fn a_crash_before_an_outcome_could_be_kept_comes_to_the_same() {
    let stage = stage();
    // Of this profile nothing is kept whose processes ended unasked.
    let spec = Spec { profile: Profile::Training, ..Spec::default() };
    let stopped = stage.sandboxes.create(spec).await.unwrap().id;
    let frozen = stage.create().await;
    stage.refuse_writes(&[State::Paused]);
    stage.sandboxes.pause(&stopped, PauseKind::Stopped).await.unwrap();
    stage.sandboxes.pause(&frozen, PauseKind::Frozen).await.unwrap();
    let (stage, recovered) = stage.restart().await;
    assert_eq!((recovered.rested, recovered.adopted), (1, 1), "{recovered:?}");
    for (id, kind) in [(&stopped, PauseKind::Stopped), (&frozen, PauseKind::Frozen)] {
        assert_eq!(stage.sandboxes.get(id).unwrap().pause, Some(kind));
        assert_eq!(stage.state(id), State::Paused);
    }
}

#[tokio::test]
async fn a_creation_or_a_snapshot_that_cannot_be_kept_is_given_back() {
    let stage = stage();
    stage.refuse_writes(&[State::Running]);
    let failure = stage.sandboxes.create(Spec::default()).await.unwrap_err();
    assert!(failure.message.contains("the disk is full"), "{failure}");
    stage.assert_nothing_leaked();
    assert_eq!(stage.listed(), 0);
    stage.allow_writes();
    let id = stage.create().await;
    stage.sql(
        "CREATE TRIGGER incomplete BEFORE INSERT ON snapshots WHEN json_extract(NEW.record, '$.complete')
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    stage.sandboxes.snapshot(&id, None).await.unwrap_err();
    assert_eq!(stage.state(&id), State::Running);
    assert!(stage.fake.world().snapshots.is_empty());
    assert!(stage.sandboxes.store().snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rollback_that_cannot_be_kept_is_told_and_the_sandbox_goes_on() {
    let stage = stage();
    let id = stage.create().await;
    let snapshot = stage.sandboxes.snapshot(&id, None).await.unwrap().id;
    stage.refuse_writes(&[State::Running]);
    let failure = stage.sandboxes.rollback(&id, &snapshot).await.unwrap_err();
    assert!(failure.message.contains("the disk is full"), "{failure}");
    stage.sandboxes.awake(&id).await.unwrap();
    stage.allow_writes();
    stage.until(async |stage| stage.kept(&id).await == State::Running).await;
    stage.sandboxes.rollback(&id, &snapshot).await.unwrap();
}
