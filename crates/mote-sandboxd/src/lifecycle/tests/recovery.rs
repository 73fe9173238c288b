//! A start of the daemon where something cannot be mended.

use super::*;

#[tokio::test]
async fn what_cannot_be_ended_keeps_nobody_else_from_being_recovered() {
    let stage = stage();
    let broken = stage.create().await;
    let lives = stage.create().await;
    let mut records = stage.sandboxes.store().sandboxes().await.unwrap();
    let record = records.iter_mut().find(|record| record.id == broken).unwrap();
    record.state = State::Failed;
    stage.sandboxes.store().put_sandbox(record).await.unwrap();
    {
        let mut world = stage.fake.world();
        for id in ["sbstray", "sbroot"] {
            world.roots.insert(id.to_owned());
        }
        world.living.insert("sbstray".to_owned(), false);
        world.snapshots.insert("snstray".to_owned());
        world.broken.extend(["end", "remove", "remove_snapshot"]);
    }
    let (stage, recovered) = stage.restart().await;
    assert_eq!(recovered.adopted, 1);
    assert_eq!([stage.state(&broken), stage.state(&lives)], [State::Failed, State::Running]);
    stage.sandboxes.awake(&lives).await.unwrap();
    stage.fake.world().broken.clear();
    // What stayed is found again.
    let (stage, _) = stage.restart().await;
    for id in [&broken, &lives] {
        stage.sandboxes.remove(id).await.unwrap();
    }
    stage.assert_nothing_leaked();
    assert!(stage.fake.world().snapshots.is_empty());
}

#[tokio::test]
async fn a_warm_sandbox_that_failed_is_not_kept() {
    let stage = stage();
    stage.create().await;
    let mut record = stage.sandboxes.store().sandboxes().await.unwrap().remove(0);
    (record.state, record.pooled) = (State::Failed, true);
    stage.sandboxes.store().put_sandbox(&record).await.unwrap();
    let (stage, recovered) = stage.restart().await;
    assert_eq!(recovered.reaped, 1);
    stage.assert_nothing_leaked();
    assert!(stage.sandboxes.store().sandboxes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rollback_that_cannot_be_finished_leaves_the_filesystem() {
    let stage = stage();
    let id = stage.create().await;
    let snapshot = stage.sandboxes.snapshot(&id, None).await.unwrap().id;
    let mut record = stage.sandboxes.store().sandboxes().await.unwrap().remove(0);
    (record.state, record.rolling_back_to) = (State::Snapshotting, Some(snapshot));
    stage.sandboxes.store().put_sandbox(&record).await.unwrap();
    stage.fake.world().broken.insert("rollback_begin");
    let (stage, _) = stage.restart().await;
    let sandbox = stage.sandboxes.get(&id).unwrap();
    assert_eq!((sandbox.state, sandbox.pause), (State::Paused, Some(PauseKind::Stopped)));
    stage.sandboxes.awake(&id).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_that_does_not_answer_keeps_only_its_own_callers_waiting() {
    let stage = stage();
    let (one, other) = (stage.create().await, stage.create().await);
    let Stage { directory, fake, sandboxes } = stage;
    fake.deafen();
    drop(sandboxes);
    let silent = fake.hold("adopt");
    let sandboxes = daemon(directory.path(), &fake, Vec::new());
    let (recovered, rest) = sandboxes.remember().await.unwrap();
    assert_eq!(recovered.adopted, 2);
    let rest = tokio::spawn(rest.complete(tokio::sync::oneshot::channel().0));
    // Everything else is served.
    let stage = Stage { directory, fake, sandboxes };
    assert_eq!(stage.listed(), 2);
    let made = stage.create().await;
    stage.sandboxes.awake(&made).await.unwrap();
    // Who asks for what is being adopted waits for that, and for no change of its state.
    let (waiting, id) = (stage.sandboxes.clone(), one.clone());
    let waiting = tokio::spawn(async move { waiting.awake(&id).await });
    let (pausing, id) = (stage.sandboxes.clone(), other.clone());
    let pausing = tokio::spawn(async move { pausing.pause(&id, PauseKind::Frozen).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished() && !pausing.is_finished() && !rest.is_finished());
    drop(silent);
    waiting.await.unwrap().unwrap();
    pausing.await.unwrap().unwrap();
    rest.await.unwrap();
    assert_eq!([stage.state(&one), stage.state(&other)], [State::Running, State::Paused]);
}
