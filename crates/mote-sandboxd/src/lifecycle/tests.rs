//! The order of things, over a substrate that only remembers what it was asked.
//!
//! It does not test containers: the system tests do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::network::{Policy, SecretBinding};
use mote_sandbox_api::request::{Fork, PauseKind};
use mote_sandbox_api::spec::{ImageSource, OnLeaseEnd, Profile, Spec};

use super::fake::Fake;
use super::profiles::Profiles;
use super::*;

mod keys;
mod races;
mod recovery;
mod table;
mod writes;

struct Stage {
    directory: tempfile::TempDir,
    fake: Arc<Fake>,
    sandboxes: Sandboxes,
}

fn daemon(directory: &std::path::Path, fake: &Arc<Fake>, pool: Vec<pool::Entry>) -> Sandboxes {
    Sandboxes::new(Parts {
        substrate: Arc::clone(fake) as Arc<dyn Substrate>,
        store: Store::open(directory).unwrap(),
        clock: Arc::new(crate::clock::System),
        profiles: Profiles::new(&ImageSource::Host, &BTreeMap::new()),
        sandboxes_max: 8,
        import_bytes_max: 1 << 20,
        pool,
    })
}

fn stage() -> Stage {
    let directory = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let sandboxes = daemon(directory.path(), &fake, Vec::new());
    Stage { directory, fake, sandboxes }
}

impl Stage {
    /// Another daemon on the same state and host, as after `kill -9`.
    async fn restart(self) -> (Self, Recovered) {
        let Self { directory, fake, sandboxes } = self;
        fake.deafen();
        drop(sandboxes);
        let sandboxes = daemon(directory.path(), &fake, Vec::new());
        let recovered = sandboxes.recover().await.unwrap();
        (Self { directory, fake, sandboxes }, recovered)
    }

    async fn create(&self) -> String {
        self.sandboxes.create(Spec::default()).await.unwrap().id
    }

    fn state(&self, id: &str) -> State {
        self.sandboxes.get(id).unwrap().state
    }

    fn listed(&self) -> usize {
        self.sandboxes.list(&Filter { limit: 99, ..Filter::default() }).0.len()
    }

    /// Waits for what nothing tells of.
    async fn until(&self, is_so: impl AsyncFn(&Self) -> bool) {
        while !is_so(self).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn assert_nothing_leaked(&self) {
        let world = self.fake.world();
        assert!(world.roots.is_empty() && world.living.is_empty(), "{world:?}");
    }
}

async fn state_becomes(sandboxes: &Sandboxes, id: &str, state: State) {
    let mut states = sandboxes.cell(id).unwrap().states();
    states.wait_for(|now| *now == state).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_is_made_used_and_given_back() {
    let stage = stage();
    let made = stage.sandboxes.create(Spec::default()).await.unwrap();
    assert_eq!(made.state, State::Running);
    assert!(made.access_token.is_some());
    assert!(stage.sandboxes.get(&made.id).unwrap().access_token.is_none(), "a token is told only on creation");
    stage.sandboxes.awake(&made.id).await.unwrap();
    stage.sandboxes.remove(&made.id).await.unwrap();
    assert_eq!(stage.sandboxes.get(&made.id).unwrap().state, State::Gone);
    assert_eq!(stage.sandboxes.remove(&made.id).await.unwrap_err().code, Code::Gone);
    stage.assert_nothing_leaked();
}

#[tokio::test]
async fn whatever_step_of_a_creation_fails_nothing_is_left() {
    for step in ["image", "root", "start", "configure"] {
        let stage = stage();
        stage.fake.world().broken.insert(step);
        let failure = stage.sandboxes.create(Spec::default()).await.unwrap_err();
        assert!(failure.message.contains(step), "{failure}");
        stage.assert_nothing_leaked();
        assert!(stage.sandboxes.list(&Filter { limit: 9, ..Filter::default() }).0.is_empty());
        assert!(stage.sandboxes.store().sandboxes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_pause_says_how_and_a_request_resumes() {
    let stage = stage();
    let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    for kind in [PauseKind::Frozen, PauseKind::Stopped] {
        assert_eq!(stage.sandboxes.pause(&id, kind).await.unwrap().pause, Some(kind));
        let again = stage.sandboxes.pause(&id, kind).await.unwrap_err();
        assert_eq!(again.message, "pause is not possible: it is paused");
        stage.sandboxes.awake(&id).await.unwrap();
        assert_eq!(stage.sandboxes.get(&id).unwrap().state, State::Running);
        assert_eq!(stage.sandboxes.get(&id).unwrap().pause, None);
    }
}

#[tokio::test]
async fn what_does_not_resume_by_itself_says_how_to() {
    let stage = stage();
    let spec = Spec { auto_resume: Some(false), ..Spec::default() };
    let id = stage.sandboxes.create(spec).await.unwrap().id;
    stage.sandboxes.pause(&id, PauseKind::Frozen).await.unwrap();
    let failure = stage.sandboxes.awake(&id).await.unwrap_err();
    assert_eq!(failure.code, Code::IllegalTransition);
    assert!(failure.remediation.unwrap().contains("/resume"));
}

#[tokio::test]
async fn a_removal_during_a_snapshot_waits_for_it_and_the_snapshot_stays() {
    let stage = stage();
    let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    let gate = stage.fake.hold("snapshot");
    let snapshotting = tokio::spawn({
        let (sandboxes, id) = (stage.sandboxes.clone(), id.clone());
        async move { sandboxes.snapshot(&id, None).await }
    });
    state_becomes(&stage.sandboxes, &id, State::Snapshotting).await;
    stage.until(async |stage| !stage.fake.world().snapshots.is_empty()).await;
    assert_eq!(stage.sandboxes.fork(&id, Fork::default()).await.unwrap_err().code, Code::IllegalTransition);
    let removing = tokio::spawn({
        let (sandboxes, id) = (stage.sandboxes.clone(), id.clone());
        async move { sandboxes.remove(&id).await }
    });
    state_becomes(&stage.sandboxes, &id, State::Stopping).await;
    drop(gate);
    removing.await.unwrap().unwrap();
    assert!(snapshotting.await.unwrap().is_err(), "the sandbox it was taken of is gone");
    stage.assert_nothing_leaked();
    assert_eq!(stage.sandboxes.snapshots(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_snapshot_that_fails_leaves_neither_a_row_nor_a_change() {
    let stage = stage();
    let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    stage.fake.world().broken.insert("snapshot");
    stage.sandboxes.snapshot(&id, None).await.unwrap_err();
    assert_eq!(stage.sandboxes.get(&id).unwrap().state, State::Running);
    assert!(stage.fake.world().snapshots.is_empty());
    assert!(stage.sandboxes.store().snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rollback_takes_snapshots_of_its_own_line_alone() {
    let stage = stage();
    let parent = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    let stranger = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    let snapshot = stage.sandboxes.snapshot(&parent, Some("start".to_owned())).await.unwrap().id;
    let fork = stage.sandboxes.fork(&parent, Fork::default()).await.unwrap().remove(0).unwrap();
    assert_eq!(fork.parent.as_deref(), Some(parent.as_str()));
    assert_eq!(stage.sandboxes.rollback(&parent, "start").await.unwrap().id, parent);
    stage.sandboxes.rollback(&fork.id, &snapshot).await.unwrap();
    let failure = stage.sandboxes.rollback(&stranger, &snapshot).await.unwrap_err();
    assert_eq!(failure.code, Code::Invalid);
    assert_eq!(stage.sandboxes.rollback(&parent, "sn-none").await.unwrap_err().code, Code::NotFound);
}

fn policy(port: u16) -> Policy {
    Policy { ingress_ports: Some(vec![port]), ..Policy::default() }
}

#[tokio::test]
async fn what_is_inside_cannot_keep_a_policy_from_holding() {
    let stage = stage();
    let spec = Spec { network: Some(policy(1)), ..Spec::default() };
    let id = stage.sandboxes.create(spec).await.unwrap().id;
    // Root inside made a file of the folder, say, that the authority's certificate goes to.
    stage.fake.world().broken.insert("prepare_policy");
    stage.sandboxes.set_policy(&id, policy(2)).await.unwrap();
    let told = stage.sandboxes.logs(&id, 0).unwrap();
    assert!(told.iter().any(|line| line.level == "warn" && line.message.contains("prepare_policy")), "{told:?}");
    // One that cannot be put in place changes nothing.
    stage.fake.world().broken.insert("policy");
    assert!(stage.sandboxes.set_policy(&id, policy(3)).await.is_err());
    assert_eq!(stage.fake.world().policies[&id], policy(2));
    let (stage, _) = stage.restart().await;
    assert_eq!(stage.sandboxes.network_policy(&id).unwrap(), Some(policy(2)), "what holds is what is recorded");
}

#[tokio::test]
async fn a_policy_that_cannot_be_recorded_does_not_hold() {
    let stage = stage();
    let spec = Spec { network: Some(policy(1)), ..Spec::default() };
    let id = stage.sandboxes.create(spec).await.unwrap().id;
    // As with a full disk: no record is written any more.
    let database = rusqlite::Connection::open(stage.directory.path().join("sandboxd.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE UPDATE ON sandboxes BEGIN SELECT RAISE(ABORT, 'full'); END";
    database.execute_batch(full).unwrap();
    assert!(stage.sandboxes.set_policy(&id, policy(2)).await.is_err());
    assert_eq!(stage.fake.world().policies[&id], policy(1), "the one before holds");
    assert_eq!(stage.sandboxes.network_policy(&id).unwrap(), Some(policy(1)));
}

#[tokio::test]
async fn headers_that_a_policy_sets_are_sealed_at_rest_and_open_again() {
    use mote_sandbox_api::network::{Header, Rule, Verdict};

    let stage = stage();
    let header = Header { name: "authorization".to_owned(), value: "Bearer literal-value-of-the-test".to_owned() };
    let rule = Rule {
        verdict: Verdict::Allow,
        to: "a.test".to_owned(),
        ports: vec![],
        over_deny: false,
        plain_http: false,
        inspect: true,
        headers: vec![header],
    };
    let policy = Policy { rules: vec![rule], ..Policy::default() };
    let spec = Spec { network: Some(policy.clone()), ..Spec::default() };
    let id = stage.sandboxes.create(spec).await.unwrap().id;
    for entry in std::fs::read_dir(stage.directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(13).any(|window| window == b"literal-value"));
    }
    let (stage, _) = stage.restart().await;
    assert_eq!(stage.sandboxes.network_policy(&id).unwrap(), Some(policy));
}

#[tokio::test]
async fn a_sandbox_open_to_everybody_is_refused_by_name() {
    let spec = Spec { secure: Some(false), ..Spec::default() };
    let failure = stage().sandboxes.create(spec).await.unwrap_err();
    assert_eq!((failure.code, failure.context["feature"].as_str()), (Code::Unsupported, "spec.secure"));
}

#[tokio::test]
async fn a_fork_does_not_share_secrets_unasked() {
    let stage = stage();
    let secrets = vec![SecretBinding {
        secret: "k".to_owned(),
        env: "K".to_owned(),
        hosts: vec!["a.test".to_owned()],
        ..SecretBinding::default()
    }];
    let spec = Spec { network: Some(Policy { secrets, ..Policy::default() }), ..Spec::default() };
    let id = stage.sandboxes.create(spec).await.unwrap().id;
    assert_eq!(stage.sandboxes.fork(&id, Fork::default()).await.unwrap_err().code, Code::Forbidden);
    let shared = Fork { share_secrets: true, count: Some(3), ..Fork::default() };
    assert_eq!(stage.sandboxes.fork(&id, shared).await.unwrap().iter().filter(|fork| fork.is_ok()).count(), 3);
}

#[tokio::test]
async fn the_unexpected_end_of_the_first_process_is_told_and_memory_told_apart() {
    for (oom, expected) in [(false, "ended unexpectedly"), (true, "out of memory")] {
        let stage = stage();
        let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
        stage.fake.world().oom = oom;
        stage.fake.kill_all();
        state_becomes(&stage.sandboxes, &id, State::Failed).await;
        assert!(stage.sandboxes.get(&id).unwrap().reason.unwrap().contains(expected));
        assert_eq!(stage.sandboxes.awake(&id).await.unwrap_err().code, Code::Gone);
        stage.sandboxes.remove(&id).await.unwrap();
        stage.assert_nothing_leaked();
    }
}

#[tokio::test]
async fn admission_is_bounded_and_says_when_to_come_again() {
    let stage = stage();
    let made = stage.sandboxes.create_many(Spec::default(), 10, None).await.unwrap();
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 8);
    let refused = made.into_iter().find_map(Result::err).unwrap();
    assert_eq!((refused.code, refused.context["retry_after_s"].as_str()), (Code::Exhausted, "1"));
    assert_eq!(stage.sandboxes.create_many(Spec::default(), 0, None).await.unwrap_err().code, Code::Invalid);
}

#[tokio::test]
async fn a_lease_that_ends_pauses_or_removes_as_the_specification_says() {
    let stage = stage();
    let keeper = stage.sandboxes.clone();
    let time = tokio::spawn(async move { keeper.keep_time().await });
    let short = Some(Duration::from_millis(30));
    let pausing = Spec { lease: short, on_lease_end: Some(OnLeaseEnd::Pause), ..Spec::default() };
    let stopping = Spec { lease: short, on_lease_end: Some(OnLeaseEnd::Stop), ..Spec::default() };
    let removing = Spec { lease: short, on_lease_end: Some(OnLeaseEnd::Remove), ..Spec::default() };
    let dated = Spec { deadline: short, ..pausing.clone() };
    let pausing = stage.sandboxes.create(pausing).await.unwrap().id;
    let stopping = stage.sandboxes.create(stopping).await.unwrap().id;
    let removing = stage.sandboxes.create(removing).await.unwrap().id;
    let dated = stage.sandboxes.create(dated).await.unwrap().id;
    state_becomes(&stage.sandboxes, &pausing, State::Paused).await;
    state_becomes(&stage.sandboxes, &stopping, State::Paused).await;
    let kinds = [&pausing, &stopping].map(|id| stage.sandboxes.get(id).unwrap().pause);
    assert_eq!(kinds, [Some(PauseKind::Frozen), Some(PauseKind::Stopped)]);
    state_becomes(&stage.sandboxes, &removing, State::Gone).await;
    state_becomes(&stage.sandboxes, &dated, State::Gone).await;
    assert_eq!(stage.sandboxes.get(&removing).unwrap().reason.unwrap(), "its lease ran out");
    assert_eq!(stage.sandboxes.get(&dated).unwrap().reason.unwrap(), "its deadline passed");
    time.abort();
}

#[tokio::test(start_paused = true)]
async fn a_pause_waits_for_processes_that_take_a_while_to_stop_and_not_for_ever() {
    let stage = stage();
    let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    stage.fake.world().freezes_busy = 3;
    assert_eq!(stage.sandboxes.pause(&id, PauseKind::Frozen).await.unwrap().state, State::Paused);
    stage.sandboxes.resume(&id).await.unwrap();
    stage.fake.world().freezes_busy = u32::MAX;
    assert_eq!(stage.sandboxes.pause(&id, PauseKind::Frozen).await.unwrap_err().code, Code::Busy);
    assert_eq!(stage.sandboxes.get(&id).unwrap().state, State::Running);
}

#[tokio::test]
async fn a_reboot_gives_up_what_a_pause_kept_and_starts_anew() {
    let stage = stage();
    for kind in [PauseKind::Frozen, PauseKind::Stopped] {
        let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
        stage.sandboxes.pause(&id, kind).await.unwrap();
        let starts = stage.fake.world().starts;
        assert_eq!(stage.sandboxes.reboot(&id).await.unwrap().pause, None);
        let world = stage.fake.world();
        assert_eq!((world.starts, world.living.get(&id)), (starts + 1, Some(&false)), "{kind:?}");
    }
}

#[tokio::test]
async fn a_reboot_whose_processes_do_not_end_fails_the_sandbox_rather_than_start_a_second_first_process() {
    let stage = stage();
    let id = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    stage.sandboxes.pause(&id, PauseKind::Frozen).await.unwrap();
    let starts = stage.fake.world().starts;
    stage.fake.world().broken.insert("end");
    stage.sandboxes.reboot(&id).await.unwrap_err();
    assert_eq!((stage.sandboxes.get(&id).unwrap().state, stage.fake.world().starts), (State::Failed, starts));
    stage.fake.world().broken.clear();
}

#[tokio::test]
async fn a_renewal_moves_the_lease_and_not_the_deadline() {
    let stage = stage();
    let made = stage.sandboxes.create(Spec::default()).await.unwrap();
    let renewed = stage.sandboxes.renew(&made.id, Some(Duration::from_secs(9_000))).await.unwrap();
    assert!(renewed.lease_ends_ms > made.lease_ends_ms);
    assert_eq!(renewed.deadline_ms, made.deadline_ms);
    assert_eq!(stage.sandboxes.renew(&made.id, Some(Duration::ZERO)).await.unwrap_err().code, Code::Invalid);
    // An end that is set for this lease alone is none of the next one's.
    let ended = stage.sandboxes.end_lease_in(&made.id, Duration::from_secs(60)).await.unwrap();
    assert!(ended.lease_ends_ms < renewed.lease_ends_ms);
    stage.sandboxes.pause(&made.id, PauseKind::Frozen).await.unwrap();
    assert!(stage.sandboxes.resume(&made.id).await.unwrap().lease_ends_ms >= renewed.lease_ends_ms);
    assert_eq!(stage.sandboxes.end_lease_in(&made.id, Duration::ZERO).await.unwrap_err().code, Code::Invalid);
}

#[tokio::test]
async fn a_claim_of_the_warm_pool_binds_what_the_request_brings() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let entry = pool::Entry { spec: Spec { profile: Profile::Training, ..Spec::default() }, size: 2 };
    let sandboxes = daemon(directory.path(), &fake, vec![entry]);
    let keeper = sandboxes.clone();
    let warming = tokio::spawn(async move { keeper.keep_warm().await });
    while sandboxes.warm() != (2, 2) {
        tokio::task::yield_now().await;
    }
    warming.abort();
    assert!(sandboxes.list(&Filter { limit: 9, ..Filter::default() }).0.is_empty(), "nobody is told of the pool");
    let env = BTreeMap::from([("EPISODE".to_owned(), "7".to_owned())]);
    let spec = Spec { profile: Profile::Training, env: env.clone(), ..Spec::default() };
    let claimed = sandboxes.create(spec).await.unwrap();
    assert_eq!(fake.world().starts, 2, "no other one was started");
    assert_eq!(fake.world().configured.last().unwrap().env, env);
    assert!(claimed.lease_ends_ms.is_some());
    sandboxes.create(Spec::default()).await.unwrap();
    assert_eq!(fake.world().starts, 3, "another profile is not on the shelf");
}

#[tokio::test]
async fn after_a_kill_what_lives_is_adopted_and_the_rest_is_reaped() {
    let stage = stage();
    let lives = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    let frozen = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    stage.sandboxes.pause(&frozen, PauseKind::Frozen).await.unwrap();
    let stopped = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    stage.sandboxes.pause(&stopped, PauseKind::Stopped).await.unwrap();
    let training = Spec { profile: Profile::Training, ..Spec::default() };
    let died = stage.sandboxes.create(training).await.unwrap().id;
    let slept = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    {
        let mut world = stage.fake.world();
        world.living.remove(&died);
        world.living.remove(&slept);
        world.living.insert("sbstray".to_owned(), false);
        world.roots.insert("sbstray".to_owned());
    }
    let (stage, recovered) = stage.restart().await;
    assert_eq!(recovered, Recovered { adopted: 2, rested: 1, reaped: 1, strays: 2 });
    let state = |id: &str| stage.sandboxes.get(id).unwrap().state;
    assert_eq!([state(&lives), state(&frozen), state(&stopped)], [State::Running, State::Paused, State::Paused]);
    assert_eq!([state(&died), state(&slept)], [State::Gone, State::Paused]);
    for id in [&lives, &frozen, &stopped, &slept] {
        stage.sandboxes.awake(id).await.unwrap();
    }
    stage.sandboxes.remove_all().await;
    stage.assert_nothing_leaked();
}

#[tokio::test]
async fn after_a_kill_amid_a_transition_the_journal_says_what_to_undo_or_finish() {
    let stage = stage();
    let rolling = stage.sandboxes.create(Spec::default()).await.unwrap().id;
    let snapshot = stage.sandboxes.snapshot(&rolling, None).await.unwrap();
    let mut records = stage.sandboxes.store().sandboxes().await.unwrap();
    // Killed amid a rollback: its processes are ended, the root may be either.
    let mut record = records.remove(0);
    record.state = State::Snapshotting;
    record.rolling_back_to = Some(snapshot.id.clone());
    stage.sandboxes.store().put_sandbox(&record).await.unwrap();
    stage.fake.world().living.clear();
    // Killed amid a creation and amid a removal.
    for (id, state) in [("sbcreating", State::Creating), ("sbstopping", State::Stopping)] {
        let other = record::Record { id: id.to_owned(), state, rolling_back_to: None, ..record.clone() };
        stage.sandboxes.store().put_sandbox(&other).await.unwrap();
        stage.fake.world().roots.insert(id.to_owned());
    }
    // Killed amid a snapshot.
    let incomplete = mote_sandbox_api::request::Snapshot { id: "snhalf".to_owned(), ..snapshot };
    let incomplete = crate::state::SnapshotRecord {
        snapshot: incomplete,
        image: "im0".to_owned(),
        complete: false,
        made_under: None,
    };
    stage.sandboxes.store().put_snapshot(&incomplete).await.unwrap();
    stage.fake.world().snapshots.insert("snhalf".to_owned());

    let (stage, recovered) = stage.restart().await;
    assert_eq!(recovered, Recovered { adopted: 1, rested: 0, reaped: 2, strays: 1 });
    assert_eq!(stage.sandboxes.get(&rolling).unwrap().state, State::Running);
    assert!(!stage.fake.world().snapshots.contains("snhalf"));
    assert_eq!(stage.fake.world().roots.len(), 1);
}
