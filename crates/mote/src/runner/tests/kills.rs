//! Processes that are killed anywhere, and what their tasks say they spent: task, session, ledger and journal agree, and no
//! interruption ends a task.

use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;

/// What a task says it spent, by one of its books: known input, output and money, then the uncertain ones.
type Sums = [i64; 6];

fn sums(connection: &Connection, sql: &str, task: &str) -> Sums {
    let read =
        |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?]);
    connection.query_row(sql, [task], read).unwrap()
}

/// Every book of a task says the same. Its session has no other task.
pub(super) fn assert_adds_up(folder: &Path, task: &str) -> Sums {
    let connection = Connection::open(folder.join("mote.db")).unwrap();
    let columns = "tokens_input, tokens_output, cost_nano_usd, uncertain_input, uncertain_output, uncertain_nano_usd";
    let row = sums(&connection, &format!("SELECT {columns} FROM tasks WHERE id = ?1"), task);
    let ledger = sums(
        &connection,
        "SELECT ifnull(sum(iif(uncertain, 0, tokens_input)), 0), ifnull(sum(iif(uncertain, 0, tokens_output)), 0),
           ifnull(sum(iif(uncertain, 0, nano_usd)), 0), ifnull(sum(iif(uncertain, tokens_input, 0)), 0),
           ifnull(sum(iif(uncertain, tokens_output, 0)), 0), ifnull(sum(iif(uncertain, nano_usd, 0)), 0)
         FROM ledger WHERE task = ?1 AND life = (SELECT requeues FROM tasks WHERE id = ?1)",
        task,
    );
    let settled = |field: &str, uncertain: bool| {
        format!(
            "ifnull(sum(iif(json_extract(payload, '$.settled.uncertain') = {uncertain},
               json_extract(payload, '$.settled.{field}'), 0)), 0)"
        )
    };
    let fields = ["input", "output", "nano_usd"];
    let all: Vec<String> = [false, true].iter().flat_map(|kind| fields.map(|field| settled(field, *kind))).collect();
    let journal = sums(&connection, &format!("SELECT {} FROM journal WHERE task = ?1", all.join(", ")), task);
    assert_eq!((row, row), (ledger, journal), "task, ledger and journal");
    let lives: i64 =
        connection.query_row("SELECT requeues FROM tasks WHERE id = ?1", [task], |row| row.get(0)).unwrap();
    let session = "SELECT count(*) FROM tasks WHERE id = ?1 AND session IS NOT NULL";
    if lives == 0 && connection.query_row(session, [task], |row| row.get::<_, i64>(0)).unwrap() == 1 {
        let share = format!("SELECT {columns} FROM sessions WHERE id = (SELECT session FROM tasks WHERE id = ?1)");
        assert_eq!(row, sums(&connection, &share, task), "task and session");
    }
    row
}

/// Kills the process when it has burnt down: at the start or the end of a model call or a tool call.
struct Fuse {
    left: AtomicU32,
    dead: Notify,
}

impl Fuse {
    async fn burn(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.dead.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// Calls a write and a read, then a read, then answers; says what it used every other time.
struct Lethal(Arc<Fuse>);

#[async_trait]
impl Provider for Lethal {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, model::Error> {
        self.0.burn().await;
        deltas(model::Delta::Text("hm".to_owned()));
        self.0.burn().await;
        let mut reply = match request.step {
            1 => {
                let part = |id: &str, name: &str| {
                    let (id, name, arguments) = (id.into(), name.into(), "{}".into());
                    Part::Call { id, name, arguments, opaque: None }
                };
                reply(vec![part("a", "read"), part("b", "write")])?
            }
            2 => calls("read", json!({"n": 2}))?,
            _ => says("done")?,
        };
        reply.usage = reply.usage.filter(|_| request.attempt % 2 == 1);
        Ok(reply)
    }
}

struct Touch {
    definition: ToolDefinition,
    effect: Effect,
    fuse: Arc<Fuse>,
    made: Arc<AtomicU32>,
}

#[async_trait]
impl Tool for Touch {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }
    fn effect(&self) -> Effect {
        self.effect
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(60)
    }
    fn key_ttl(&self) -> Option<Duration> {
        None
    }
    fn needs_approval(&self) -> bool {
        false
    }
    fn digest(&self) -> [u8; 32] {
        [1; 32]
    }
    async fn call(&self, _: Invocation) -> Result<Progress, Failure> {
        self.fuse.burn().await;
        self.made.fetch_add(1, Ordering::SeqCst);
        self.fuse.burn().await;
        Ok(Output::free("touched", false).into())
    }
}

/// One life of a process; whether the task has ended. Dropping the runtime drops all that runs, wherever it stands.
fn live(folder: &Path, submits: bool, burns: u32, written: &Arc<AtomicU32>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(&folder.join("mote.db"), Options::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let fuse = Arc::new(Fuse { left: AtomicU32::new(burns), dead: Notify::new() });
        let mut agent = agent();
        agent.limits.model_outage = Duration::from_secs(900);
        let mut registry = Registry::build(&[], &agent.builtins).unwrap();
        for (name, effect) in [("read", Effect::Read), ("write", Effect::Write)] {
            let input_schema = json!({"type": "object"});
            let definition = ToolDefinition { name: name.into(), description: String::new(), input_schema };
            let made = if name == "write" { Arc::clone(written) } else { Arc::default() };
            registry.add(Arc::new(Touch { definition, effect, fuse: Arc::clone(&fuse), made })).unwrap();
        }
        let parts = Parts {
            agent: Arc::new(agent),
            store: Arc::clone(&store),
            clock: Arc::new(System),
            provider: Arc::new(Lethal(Arc::clone(&fuse))),
            registry,
            metrics: Arc::new(crate::telemetry::Metrics::new("test", 0)),
            tracer: crate::telemetry::Tracer::off(Arc::new(System)),
            takes: Takes::Everything,
        };
        let runner = Runner::start(parts).unwrap();
        if submits {
            let owner = Owner { session: Some("s".into()), ..Owner::default() };
            runner.submit(Submission { owner, ..ask("go") }, false).await.unwrap();
        }
        let task = store.list(Default::default(), None, 1).await.unwrap().tasks.remove(0).id;
        let mut changes = store.subscribe(&task);
        let over = async {
            while !store.task(None, &task).await.unwrap().unwrap().status.is_terminal() {
                changes.changed().await.unwrap();
            }
        };
        tokio::select! {
            () = fuse.dead.notified() => false,
            () = over => true,
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("a dead worker's task is not taken up at once"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The lease is of 30 s and no life waits for its end; each life is killed at one of its first calls.
    #[test]
    fn whatever_is_killed_where_the_books_agree_and_nothing_ends_a_task(burns in prop::collection::vec(1_u32..7, 0..9)) {
        let folder = tempfile::tempdir().unwrap();
        let written = Arc::new(AtomicU32::new(0));
        let mut ended = false;
        for (life, burns) in burns.iter().enumerate() {
            ended = live(folder.path(), life == 0, *burns, &written);
            if ended {
                break;
            }
        }
        if !ended {
            ended = live(folder.path(), burns.is_empty(), u32::MAX, &written);
        }
        prop_assert!(ended);
        let connection = Connection::open(folder.path().join("mote.db")).unwrap();
        let (task, status): (String, String) =
            connection.query_row("SELECT id, status FROM tasks", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        prop_assert_eq!(status, "completed");
        prop_assert!(written.load(Ordering::SeqCst) <= 1, "a write is made once at most");
        assert_adds_up(folder.path(), &task);
    }
}

#[tokio::test]
async fn four_restarts_at_the_drains_deadline_do_not_end_a_task() {
    let world = World::with(agent(), vec![], &[], Some(Arc::new(Notify::new())));
    let task = world.submit(ask("hi")).await;
    world.model.called.notified().await;
    world.runner.drain(Duration::ZERO).await;
    for _ in 0..4 {
        let (next, model) = start(agent(), &world.store, vec![], &[], Some(Arc::new(Notify::new())));
        model.called.notified().await;
        next.drain(Duration::ZERO).await;
    }
    let (_last, model) = start(agent(), &world.store, vec![says("at last")], &[], None);
    let task = world.end(&task).await;
    assert_eq!(task.result.as_deref(), Some("\"at last\""), "{:?}", task.error);
    assert_eq!(model.seen.lock().unwrap()[0].attempt, 6, "each is an attempt of its own");
    let [input, output, money, lost_input, lost_output, lost_money] = assert_adds_up(&world.folder, &task.id);
    assert_eq!((input, output, money), (100, 10, 150_000), "what is known is told apart");
    assert!(lost_input > 0 && lost_output == 5 * 1_000 && lost_money > 5 * 1_000 * 5_000, "five whole reservations");
}

#[tokio::test]
async fn a_crash_loop_ends_no_healthy_task_and_eats_no_budget_of_its_own() {
    let mut agent = agent();
    // A call is reserved at a little more than $0.005: two of them fit.
    agent.budget.per_run.nano_usd = Some(11_000_000);
    let world = World::with(agent.clone(), vec![], &[], Some(Arc::new(Notify::new())));
    let task = world.submit(ask("hi")).await;
    world.model.called.notified().await;
    world.runner.drain(Duration::ZERO).await;
    for _ in 0..crate::limits::INTERRUPTIONS_MAX + 2 {
        let (next, model) = start(agent.clone(), &world.store, vec![], &[], Some(Arc::new(Notify::new())));
        model.called.notified().await;
        next.drain(Duration::ZERO).await;
    }
    let (_last, _model) = start(agent, &world.store, vec![says("at last")], &[], None);
    let task = world.end(&task).await;
    assert_eq!(task.result.as_deref(), Some("\"at last\""), "{:?}", task.error);
    let [.., lost_money] = assert_adds_up(&world.folder, &task.id);
    assert!(lost_money > 23 * 1_000 * 5_000, "each lost call is booked: {lost_money}");
}

#[tokio::test]
async fn a_budget_that_lost_calls_have_used_up_says_so() {
    let mut agent = agent();
    // A call is reserved at a little more than $0.005, and needs more than $0.00128.
    agent.budget.per_run.nano_usd = Some(6_000_000);
    let world = World::with(agent.clone(), vec![], &[], Some(Arc::new(Notify::new())));
    let task = world.submit(ask("hi")).await;
    world.model.called.notified().await;
    world.runner.drain(Duration::ZERO).await;
    let (next, _model) = start(agent, &world.store, vec![], &[], None);
    let error = world.end(&task).await.error.unwrap();
    assert_eq!(error.code, "budget_run");
    let said = |part: &str| assert!(error.message.contains(part), "{part}: {}", error.message);
    said(" left; $0.005");
    said(" is uncertain: 1 call was lost with its worker");
    let refused = next.resume(&task).await.unwrap_err().to_string();
    assert!(refused.contains("does not carry another model call") && refused.contains("1 call was lost"), "{refused}");
}

#[tokio::test]
async fn a_task_that_has_ended_or_rests_is_not_given_up_at_the_drains_deadline() {
    let world = World::new(agent(), vec![says("hello"), calls("wait_for_signal", json!({"name": "go"}))], &[]);
    let ended = world.submit(ask("hi")).await;
    world.end(&ended).await;
    let rests = world.submit(ask("wait")).await;
    world.reach(&rests, |task| task.status == Status::Waiting).await;
    for task in [ended, rests] {
        assert!(!world.runner.shared.give_back(&task, 1).await, "{task}");
    }
}
