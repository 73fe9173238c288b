//! Two things at once, and things that fail half-way: each sandbox comes to an end that its user can go on from.

use tokio::task::JoinHandle;

use super::*;

impl Stage {
    /// Begins an operation that is waited for later.
    fn begin<T, F>(&self, operation: impl FnOnce(Sandboxes) -> F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        tokio::spawn(operation(self.sandboxes.clone()))
    }

    /// Removes a sandbox whose operation is held up, and lets that go on once the removal has begun.
    async fn remove_meanwhile(&self, id: &str, held: tokio::sync::OwnedMutexGuard<()>) {
        let own = id.to_owned();
        let removing = self.begin(|sandboxes| async move { sandboxes.remove(&own).await });
        state_becomes(&self.sandboxes, id, State::Stopping).await;
        drop(held);
        removing.await.unwrap().unwrap();
        assert_eq!(self.state(id), State::Gone);
    }

    /// The one that is being made.
    async fn creating(&self) -> String {
        self.until(async |stage| stage.sandboxes.counts().contains_key(&State::Creating)).await;
        self.sandboxes.all().into_iter().find(|cell| cell.state() == State::Creating).unwrap().id().to_owned()
    }
}

#[tokio::test]
async fn a_removal_while_a_first_process_starts_ends_that_too() {
    for operation in ["create", "resume", "rollback"] {
        let stage = stage();
        let (id, held, begun) = if operation == "create" {
            let held = stage.fake.hold("configure");
            let begun = stage.begin(|sandboxes| async move { sandboxes.create(Spec::default()).await.map(drop) });
            (stage.creating().await, held, begun)
        } else {
            let id = stage.create().await;
            let snapshot = stage.sandboxes.snapshot(&id, None).await.unwrap().id;
            let own = id.clone();
            if operation == "resume" {
                stage.sandboxes.pause(&id, PauseKind::Stopped).await.unwrap();
                let held = stage.fake.hold("configure");
                let begun = stage.begin(|sandboxes| async move { sandboxes.resume(&own).await.map(drop) });
                state_becomes(&stage.sandboxes, &id, State::Resuming).await;
                (id, held, begun)
            } else {
                let held = stage.fake.hold("configure");
                let begun = stage.begin(|sandboxes| async move { sandboxes.rollback(&own, &snapshot).await.map(drop) });
                state_becomes(&stage.sandboxes, &id, State::Snapshotting).await;
                (id, held, begun)
            }
        };
        let starts = stage.fake.world().starts;
        // Its first process is there, and is being told what it has to know.
        stage.until(async |stage| stage.fake.world().living.contains_key(&id)).await;
        stage.remove_meanwhile(&id, held).await;
        assert_eq!(begun.await.unwrap().unwrap_err().code, Code::Gone, "{operation}");
        assert!(stage.fake.world().starts >= starts, "{operation}");
        stage.assert_nothing_leaked();
    }
}

#[tokio::test]
async fn forks_whose_parent_is_removed_meanwhile_are_given_back() {
    let stage = stage();
    let parent = stage.create().await;
    let held = stage.fake.hold("fork");
    let own = parent.clone();
    let forking =
        stage.begin(|sandboxes| async move { sandboxes.fork(&own, Fork { count: Some(3), ..Fork::default() }).await });
    stage.creating().await;
    stage.remove_meanwhile(&parent, held).await;
    assert_eq!(forking.await.unwrap().unwrap_err().code, Code::Gone);
    stage.assert_nothing_leaked();
    assert_eq!(stage.listed(), 0);
    assert!(stage.sandboxes.counts().keys().all(|state| *state == State::Gone), "{:?}", stage.sandboxes.counts());
}

#[tokio::test]
async fn a_fork_that_does_not_start_is_given_back_and_says_why() {
    let stage = stage();
    let parent = stage.create().await;
    for step in ["fork", "start", "configure"] {
        stage.fake.world().broken.insert(step);
        let outcome = stage.sandboxes.fork(&parent, Fork { count: Some(2), ..Fork::default() }).await;
        let failures =
            outcome.map_or_else(|failure| vec![failure], |forks| forks.into_iter().filter_map(Result::err).collect());
        assert!(failures.iter().all(|failure| failure.message.contains(step)), "{failures:?}");
        stage.fake.world().broken.clear();
        assert_eq!((stage.listed(), stage.fake.world().roots.len()), (1, 1), "{step}");
        assert_eq!(stage.state(&parent), State::Running);
    }
}

#[tokio::test]
async fn a_rollback_that_comes_to_nothing_costs_the_processes_and_not_the_sandbox() {
    for step in ["rollback_begin", "start"] {
        let stage = stage();
        let id = stage.create().await;
        let snapshot = stage.sandboxes.snapshot(&id, None).await.unwrap().id;
        stage.fake.world().broken.insert(step);
        let failure = stage.sandboxes.rollback(&id, &snapshot).await.unwrap_err();
        assert!(failure.message.contains(step), "{failure}");
        let sandbox = stage.sandboxes.get(&id).unwrap();
        assert_eq!((sandbox.state, sandbox.pause), (State::Paused, Some(PauseKind::Stopped)), "{step}");
        assert!(stage.fake.world().living.is_empty(), "{step}");
        stage.fake.world().broken.clear();
        stage.sandboxes.rollback(&id, &snapshot).await.unwrap();
        stage.sandboxes.awake(&id).await.unwrap();
        stage.sandboxes.remove_snapshot(&snapshot).await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_is_free_again_once_nobody_rolls_back_to_it() {
    let stage = stage();
    let [failed, removed] = [stage.create().await, stage.create().await];
    let snapshot = stage.sandboxes.snapshot(&failed, None).await.unwrap().id;
    let other = stage.sandboxes.snapshot(&removed, None).await.unwrap().id;
    stage.fake.world().broken.insert("rollback");
    stage.sandboxes.rollback(&failed, &snapshot).await.unwrap_err();
    assert_eq!(stage.state(&failed), State::Failed);
    stage.fake.world().broken.clear();
    stage.sandboxes.remove_snapshot(&snapshot).await.unwrap();
    let held = stage.fake.hold("rollback_begin");
    let (own, to) = (removed.clone(), other.clone());
    let rolling = stage.begin(|sandboxes| async move { sandboxes.rollback(&own, &to).await });
    state_becomes(&stage.sandboxes, &removed, State::Snapshotting).await;
    stage.until(async |stage| !stage.fake.world().living.contains_key(&removed)).await;
    assert_eq!(stage.sandboxes.remove_snapshot(&other).await.unwrap_err().code, Code::Busy);
    stage.remove_meanwhile(&removed, held).await;
    rolling.await.unwrap().unwrap_err();
    stage.sandboxes.remove_snapshot(&other).await.unwrap();
}

#[tokio::test]
async fn a_warm_sandbox_that_breaks_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let entry = pool::Entry { spec: Spec { profile: Profile::Training, ..Spec::default() }, size: 1 };
    let sandboxes = daemon(directory.path(), &fake, vec![entry]);
    let stage = Stage { directory, fake, sandboxes };
    let warming = stage.begin(|sandboxes| async move { sandboxes.keep_warm().await });
    stage.until(async |stage| stage.sandboxes.warm() == (1, 1)).await;
    warming.abort();
    stage.fake.kill_all();
    stage.until(async |stage| stage.fake.world().roots.is_empty()).await;
    stage.assert_nothing_leaked();
    stage.until(async |stage| stage.sandboxes.all().is_empty()).await;
    assert_eq!(stage.sandboxes.warm(), (0, 1));
    stage.until(async |stage| stage.sandboxes.store().sandboxes().await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn what_a_creation_could_not_give_back_is_named_until_it_is() {
    let stage = stage();
    stage.fake.world().broken.extend(["configure", "end"]);
    let failure = stage.sandboxes.create(Spec::default()).await.unwrap_err();
    assert!(failure.message.contains("configure"), "{failure}");
    assert_eq!(stage.fake.world().living.len(), 1);
    let (listed, _) = stage.sandboxes.list(&Filter { limit: 9, ..Filter::default() });
    assert_eq!(listed.iter().map(|sandbox| sandbox.state).collect::<Vec<_>>(), [State::Failed]);
    assert_eq!(stage.sandboxes.store().sandboxes().await.unwrap().len(), 1);
    stage.fake.world().broken.clear();
    stage.until(async |stage| stage.fake.world().roots.is_empty()).await;
    stage.assert_nothing_leaked();
    stage.until(async |stage| stage.sandboxes.store().sandboxes().await.unwrap().is_empty()).await;
    assert_eq!(stage.listed(), 0);
}

#[tokio::test]
async fn a_removal_that_failed_can_be_asked_for_again() {
    let stage = stage();
    let id = stage.create().await;
    for step in ["end", "remove"] {
        stage.fake.world().broken.insert(step);
        assert!(stage.sandboxes.remove(&id).await.unwrap_err().message.contains(step));
        assert_eq!(stage.state(&id), State::Failed);
        stage.fake.world().broken.clear();
    }
    stage.sandboxes.remove(&id).await.unwrap();
    stage.assert_nothing_leaked();
}

#[tokio::test]
async fn a_lease_that_ended_while_something_is_under_way_is_not_noted_over_and_over() {
    let stage = stage();
    let time = stage.begin(|sandboxes| async move { sandboxes.keep_time().await });
    let lease = Some(Duration::from_millis(20));
    let spec = Spec { lease, on_lease_end: Some(OnLeaseEnd::Pause), ..Spec::default() };
    let held = stage.fake.hold("snapshot");
    let id = stage.sandboxes.create(spec).await.unwrap().id;
    let own = id.clone();
    let snapshotting = stage.begin(|sandboxes| async move { sandboxes.snapshot(&own, None).await });
    state_becomes(&stage.sandboxes, &id, State::Snapshotting).await;
    // It was due, and tried, several times.
    tokio::time::sleep(Duration::from_millis(3 * crate::limits::TIMER_RETRY_MS)).await;
    drop(held);
    snapshotting.await.unwrap().unwrap();
    state_becomes(&stage.sandboxes, &id, State::Paused).await;
    stage
        .until(async |stage| stage.sandboxes.logs(&id, 0).unwrap().iter().any(|line| line.message.contains("paused")))
        .await;
    let told = stage.sandboxes.logs(&id, 0).unwrap();
    assert_eq!(told.iter().filter(|line| line.message == "its lease ran out").count(), 1, "{told:?}");
    time.abort();
}
