//! Runs on a real store with a model and tools that the test plays: what a client would notice.

mod ends;
mod kills;
mod lives;
mod outage;
mod places;
mod stuck;
mod suspended;
mod waits;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Parts, Runner, Submission, Takes};
use crate::clock::System;
use crate::cloudevent::Publisher;
use crate::config::{self, Agent, Bound, OnChange, Windowed};
use crate::message::{Message, Part, Role};
use crate::model::{self, DeltaSink, Finish, Provider, Reply, Request, ToolDefinition};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Announcer, Mail, Owner, Status, Store, Task};
use crate::tools::config::Builtin;
use crate::tools::registry::Registry;
use crate::tools::{Effect, Failure, FailureKind, Invocation, Output, Progress, Tool};
use crate::usage::Usage;

/// A model that plays replies in order, and can be made to hold each until it is told to go on.
pub(super) struct Model {
    replies: Mutex<VecDeque<Result<Reply, model::Error>>>,
    seen: Mutex<Vec<Request>>,
    hold: Option<Arc<Notify>>,
    called: Notify,
}

#[async_trait]
impl Provider for Model {
    async fn complete(&self, request: &Request, _deltas: DeltaSink<'_>) -> Result<Reply, model::Error> {
        self.seen.lock().unwrap().push(request.clone());
        self.called.notify_one();
        if let Some(hold) = &self.hold {
            hold.notified().await;
        }
        self.replies.lock().unwrap().pop_front().expect("the model was called once more than the test expects")
    }
}

fn reply(parts: Vec<Part>) -> Result<Reply, model::Error> {
    let calls = parts.iter().any(|part| matches!(part, Part::Call { .. }));
    Ok(Reply {
        message: Message { role: Role::Assistant, parts },
        finish: if calls { Finish::ToolCalls } else { Finish::Stop },
        usage: Some(Usage { input: 100, output: 10, ..Usage::default() }),
        provider: "test".into(),
        model: "test".into(),
    })
}

pub(super) fn says(text: &str) -> Result<Reply, model::Error> {
    reply(vec![Part::Text { text: text.into() }])
}

pub(super) fn calls(name: &str, arguments: Value) -> Result<Reply, model::Error> {
    reply(vec![Part::Call {
        id: format!("call-{name}"),
        name: name.into(),
        arguments: arguments.to_string(),
        opaque: None,
    }])
}

/// A tool that counts its attempts and fails the first `failures` of them.
pub(super) struct Counter {
    definition: ToolDefinition,
    effect: Effect,
    approval: bool,
    failures: u32,
    attempts: AtomicU32,
    keys: Mutex<Vec<String>>,
}

impl Counter {
    fn new(name: &str, effect: Effect, failures: u32, approval: bool) -> Arc<Self> {
        let input_schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let definition = ToolDefinition { name: name.into(), description: String::new(), input_schema };
        let (attempts, keys) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        Arc::new(Self { definition, effect, approval, failures, attempts, keys })
    }
}

#[async_trait]
impl Tool for Counter {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }
    fn effect(&self) -> Effect {
        self.effect
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }
    fn key_ttl(&self) -> Option<Duration> {
        None
    }
    fn needs_approval(&self) -> bool {
        self.approval
    }
    fn digest(&self) -> [u8; 32] {
        [1; 32]
    }
    async fn call(&self, invocation: Invocation) -> Result<Progress, Failure> {
        self.keys.lock().unwrap().push(invocation.key);
        if self.attempts.fetch_add(1, Ordering::SeqCst) < self.failures {
            let (kind, tool) = (FailureKind::Unknown, self.definition.name.clone());
            return Err(Failure { kind, tool, message: "reset".into(), retry_after: None });
        }
        Ok(Output::free("done", false).into())
    }
}

/// An agent for tests: no file, generous limits.
pub(super) fn agent() -> Agent {
    let price = crate::model::config::Price { input: 1_000, cache_read: 100, cache_write: 1_250, output: 5_000 };
    let model = crate::model::config::Model {
        provider: crate::model::config::Provider::OpenAi,
        name: "test".into(),
        key: None,
        base_url: "http://127.0.0.1:9".into(),
        price,
        is_priced: true,
        output_tokens_max: 1_000,
        timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        temperature: None,
        cache: false,
        output_limit_field: crate::model::config::OutputLimitField::Auto,
    };
    Agent {
        name: "test".into(),
        version: "1.0.0".into(),
        description: "A test.".into(),
        prompt: "You are a test.".into(),
        models: vec![model],
        tools: Vec::new(),
        builtins: vec![Builtin::WaitForSignal, Builtin::WaitUntil, Builtin::AskPerson],
        sandbox: None,
        output: None,
        limits: config::RunLimits {
            steps: 10,
            tool_calls: 20,
            parallel: 4,
            model_attempts: 3,
            model_outage: Duration::from_millis(50),
            tool_attempts: 3,
            backoff: Duration::from_millis(1),
            backoff_max: Duration::from_millis(10),
            repeats: 5,
            repairs: 1,
            active: Duration::from_secs(60),
            expires: Duration::from_secs(3600),
        },
        on_change: OnChange::Continue,
        budget: config::Budgets::default(),
        context: config::Context { window: 20_000, reserve: 1_000, low_water: 60 },
        server: config::Server {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            runs: 8,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            rate: None,
            cors: Vec::new(),
            idempotency_ttl: Duration::from_secs(3600),
            retention: Duration::from_secs(3600),
        },
        auth: None,
        telemetry: crate::telemetry::Config { otlp: None, content: false, log: "off".into() },
        events: None,
        digest: [7; 32],
        folder: PathBuf::from("."),
    }
}

pub(super) struct World {
    pub(super) runner: Runner,
    pub(super) store: Arc<dyn Store>,
    model: Arc<Model>,
    pub(super) folder: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl World {
    pub(super) fn new(agent: Agent, replies: Vec<Result<Reply, model::Error>>, tools: &[Arc<Counter>]) -> Self {
        Self::with(agent, replies, tools, None)
    }

    fn with(
        agent: Agent,
        replies: Vec<Result<Reply, model::Error>>,
        tools: &[Arc<Counter>],
        hold: Option<Arc<Notify>>,
    ) -> Self {
        let tools: Vec<Arc<dyn Tool>> = tools.iter().map(|tool| Arc::clone(tool) as Arc<dyn Tool>).collect();
        Self::with_tools(agent, replies, &tools, hold)
    }

    /// One with tools of any kind.
    fn with_tools(
        agent: Agent,
        replies: Vec<Result<Reply, model::Error>>,
        tools: &[Arc<dyn Tool>],
        hold: Option<Arc<Notify>>,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mote-runner-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let publisher = |_| Arc::new(Publisher { agent: agent.name.as_str().into() }) as Arc<dyn Announcer>;
        let options = Options { announcer: agent.events.as_ref().map(publisher), ..Options::default() };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.join("mote.db"), options).unwrap());
        let (runner, model) = start_held(agent, &store, replies, tools, hold);
        Self { runner, store, model, folder }
    }

    pub(super) async fn submit(&self, submission: Submission) -> String {
        self.runner.submit(submission, true).await.unwrap().task
    }

    pub(super) async fn reach(&self, task: &str, reached: impl Fn(&Task) -> bool) -> Task {
        let mut changes = self.store.subscribe(task);
        let waiting = async {
            loop {
                changes.borrow_and_update();
                let task = self.store.task(None, task).await.unwrap().unwrap();
                if reached(&task) {
                    return task;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), waiting).await {
            Ok(task) => task,
            Err(_) => panic!("the task never got there: {:?}", self.kinds(task).await),
        }
    }

    pub(super) async fn end(&self, task: &str) -> Task {
        self.reach(task, |task| task.status.is_terminal()).await
    }

    async fn kinds(&self, task: &str) -> Vec<String> {
        self.store.journal(task, 0, 100).await.unwrap().into_iter().map(|entry| entry.kind).collect()
    }

    fn last_request(&self) -> Request {
        self.model.seen.lock().unwrap().last().unwrap().clone()
    }
}

pub(super) fn start(
    agent: Agent,
    store: &Arc<dyn Store>,
    replies: Vec<Result<Reply, model::Error>>,
    tools: &[Arc<Counter>],
    hold: Option<Arc<Notify>>,
) -> (Runner, Arc<Model>) {
    let tools: Vec<Arc<dyn Tool>> = tools.iter().map(|tool| Arc::clone(tool) as Arc<dyn Tool>).collect();
    start_held(agent, store, replies, &tools, hold)
}

fn start_with(
    agent: Agent,
    store: &Arc<dyn Store>,
    replies: Vec<Result<Reply, model::Error>>,
    tools: &[Arc<dyn Tool>],
) -> (Runner, Arc<Model>) {
    start_held(agent, store, replies, tools, None)
}

fn start_held(
    agent: Agent,
    store: &Arc<dyn Store>,
    replies: Vec<Result<Reply, model::Error>>,
    tools: &[Arc<dyn Tool>],
    hold: Option<Arc<Notify>>,
) -> (Runner, Arc<Model>) {
    let mut registry = Registry::build(&[], &agent.builtins).unwrap();
    for tool in tools {
        registry.add(Arc::clone(tool)).unwrap();
    }
    let (seen, called) = (Mutex::new(Vec::new()), Notify::new());
    let model = Arc::new(Model { replies: Mutex::new(replies.into()), seen, hold, called });
    let parts = Parts {
        agent: Arc::new(agent),
        store: Arc::clone(store),
        clock: Arc::new(System),
        provider: Arc::clone(&model) as Arc<dyn Provider>,
        registry,
        metrics: Arc::new(crate::telemetry::Metrics::new("test", 0)),
        tracer: crate::telemetry::Tracer::off(Arc::new(System)),
        takes: Takes::Everything,
    };
    (Runner::start(parts).unwrap(), model)
}

pub(crate) fn ask(text: &str) -> Submission {
    Submission {
        owner: Owner::default(),
        input: vec![Message::text(Role::User, text)],
        context: None,
        budget: Bound::default(),
        active: None,
        expires: None,
        idempotency: None,
        traceparent: None,
    }
}

fn results(request: &Request) -> Vec<String> {
    let parts = request.messages.iter().flat_map(|message| &message.parts);
    let content = |part: &Part| match part {
        Part::Result { content, .. } => Some(content.clone()),
        _ => None,
    };
    parts.filter_map(content).collect()
}

#[tokio::test]
async fn a_run_without_tools_is_answered_in_two_commits() {
    let world = World::new(agent(), vec![says("hello")], &[]);
    let task = world.submit(ask("hi")).await;
    let task = world.end(&task).await;
    assert_eq!((task.status, task.result.as_deref()), (Status::Completed, Some("\"hello\"")));
    assert_eq!(world.kinds(&task.id).await, ["run.opened", "run.started", "budget.granted", "model.replied"]);
    assert_eq!((task.usage.input, task.usage.output, task.steps), (100, 10, 1));
    assert_eq!(task.cost_nano_usd, 100 * 1_000 + 10 * 5_000);
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_goes_back_to_the_model() {
    let tool = Counter::new("look", Effect::Read, 0, false);
    let world = World::new(agent(), vec![calls("look", json!({"n": 1})), says("ok")], std::slice::from_ref(&tool));
    let task = world.submit(ask("look")).await;
    let task = world.end(&task).await;
    assert_eq!((task.status, task.steps, task.tool_calls), (Status::Completed, 2, 1));
    assert_eq!(results(&world.last_request()), ["done"]);
}

#[tokio::test]
async fn a_read_is_retried_under_one_key_and_a_write_that_may_have_happened_is_not() {
    let (read, write) = (Counter::new("read", Effect::Read, 2, false), Counter::new("write", Effect::Write, 1, false));
    let replies = vec![calls("read", json!({})), calls("write", json!({})), says("ok")];
    let events = Some(config::EventSink { url: "http://127.0.0.1:9/events".to_owned(), authorization: None });
    let world = World::new(Agent { events, ..agent() }, replies, &[Arc::clone(&read), Arc::clone(&write)]);
    let task = world.submit(ask("go")).await;
    assert_eq!(world.end(&task).await.status, Status::Completed);
    let told = world.store.outbox(u64::MAX, 9).await.unwrap().into_iter().map(|(_, message)| message.body);
    let told: Vec<Value> = told.map(|body| serde_json::from_str(&body).unwrap()).collect();
    let unknown = told.iter().find(|event| event["type"] == "dev.mote.effect.outcome_unknown").unwrap();
    assert_eq!((&unknown["data"]["tool"], told.len()), (&json!("write"), 2), "and the end is told: {told:?}");
    let keys = read.keys.lock().unwrap().clone();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(write.attempts.load(Ordering::SeqCst), 1);
    assert!(results(&world.last_request())[1].starts_with("outcome unknown"));
}

#[tokio::test]
async fn invalid_arguments_reach_the_model_and_no_backend() {
    let tool = Counter::new("look", Effect::Read, 0, false);
    let replies = vec![calls("look", json!({"n": "one"})), calls("find", json!({})), says("ok")];
    let world = World::new(agent(), replies, std::slice::from_ref(&tool));
    let task = world.submit(ask("look")).await;
    assert_eq!(world.end(&task).await.status, Status::Completed);
    assert_eq!(tool.attempts.load(Ordering::SeqCst), 0);
    let told = results(&world.last_request());
    assert!(told[0].contains("/n"), "{told:?}");
    assert!(told[1].contains("no tool find"), "{told:?}");
}

#[tokio::test]
async fn a_client_cancels_a_run_while_the_model_thinks() {
    let world = World::with(agent(), vec![says("too late")], &[], Some(Arc::new(Notify::new())));
    let task = world.submit(ask("hi")).await;
    world.model.called.notified().await;
    world.runner.post(&task, Mail::Cancel).await.unwrap();
    let task = world.end(&task).await;
    assert_eq!(task.status, Status::Cancelled);
    assert!(task.uncertain.nano_usd > 0, "what was sent to the model may have to be paid for");
}

#[tokio::test]
async fn the_second_turn_of_a_session_sees_the_first() {
    let world = World::new(agent(), vec![says("hello Ada"), says("you are Ada")], &[]);
    let turn = |text: &str| {
        let owner = Owner { session: Some("s1".into()), ..Owner::default() };
        Submission { owner, ..ask(text) }
    };
    let first = world.submit(turn("I am Ada")).await;
    world.end(&first).await;
    let second = world.submit(turn("who am I?")).await;
    world.end(&second).await;
    let texts: Vec<String> = world.last_request().messages.iter().map(Message::plain_text).collect();
    assert_eq!(texts, ["I am Ada", "hello Ada", "who am I?"]);
}

#[tokio::test]
async fn an_answer_that_fails_the_schema_is_asked_for_again() {
    let schema = json!({"type": "object", "required": ["n"]});
    let agent = || Agent { output: Some(schema.clone()), ..agent() };
    let world = World::new(agent(), vec![says("one"), says("```json\n{\"n\": 1}\n```")], &[]);
    let task = world.submit(ask("count")).await;
    assert_eq!(world.end(&task).await.result.as_deref(), Some(r#"{"n":1}"#));
    let world = World::new(agent(), vec![says("one"), says("{}")], &[]);
    let task = world.submit(ask("count")).await;
    assert_eq!(world.end(&task).await.error.unwrap().code, "output_invalid");
}

#[tokio::test]
async fn budgets_stop_a_run_before_the_model_is_called() {
    let mut poor = agent();
    poor.budget.per_run.nano_usd = Some(1_000);
    let world = World::new(poor, vec![], &[]);
    let task = world.submit(ask("hi")).await;
    assert_eq!(world.end(&task).await.error.unwrap().code, "budget_run");

    let bound = Bound { nano_usd: Some(1_000_000), tokens: None };
    let mut shared = agent();
    shared.budget.agent = Some(Windowed { bound, every: Duration::from_secs(86_400) });
    let world = World::new(shared, vec![], &[]);
    let task = world.runner.submit(ask("hi"), false).await.unwrap().task;
    let error = world.end(&task).await.error.unwrap();
    assert_eq!(error.code, "budget_shared");
    assert!(error.message.contains("agent"), "{}", error.message);
}

#[tokio::test]
async fn the_same_key_is_one_task() {
    let world = World::new(agent(), vec![says("hello")], &[]);
    let keyed = |text: &str| Submission { idempotency: Some(("POST /tasks".into(), "k".into())), ..ask(text) };
    let first = world.runner.submit(keyed("hi"), true).await.unwrap();
    let again = world.runner.submit(keyed("hi"), true).await.unwrap();
    assert_eq!((again.task == first.task, again.replayed), (true, true));
    assert!(world.runner.submit(keyed("other"), true).await.is_err());
    world.end(&first.task).await;
}

#[tokio::test]
async fn a_drained_run_goes_on_in_the_next_process() {
    let tool = Counter::new("look", Effect::Read, 0, false);
    let hold = Arc::new(Notify::new());
    let tools = std::slice::from_ref(&tool);
    let world = World::with(agent(), vec![calls("look", json!({}))], tools, Some(Arc::clone(&hold)));
    let task = world.submit(ask("go")).await;
    world.model.called.notified().await;
    let draining = tokio::spawn({
        let runner = world.runner.clone();
        async move { runner.drain(Duration::from_secs(20)).await }
    });
    while !world.runner.draining() {
        tokio::task::yield_now().await;
    }
    assert!(world.runner.submit(ask("more"), true).await.is_err());
    hold.notify_one();
    draining.await.unwrap();
    assert!(!world.store.task(None, &task).await.unwrap().unwrap().status.is_terminal());
    let (_next, model) = start(agent(), &world.store, vec![says("done")], tools, None);
    assert_eq!(world.end(&task).await.status, Status::Completed);
    assert_eq!(tool.attempts.load(Ordering::SeqCst), 1, "a finished call is never made again");
    assert_eq!(results(&model.seen.lock().unwrap()[0]), ["done"]);
}

#[tokio::test]
async fn a_changed_capability_set_goes_on_or_fails_as_the_agent_says() {
    for (on_change, status) in [(OnChange::Continue, Status::Completed), (OnChange::Fail, Status::Failed)] {
        let world = World::new(agent(), vec![calls("wait_for_signal", json!({"name": "go"}))], &[]);
        let task = world.submit(ask("wait")).await;
        world.reach(&task, |task| task.status == Status::Waiting).await;
        world.runner.drain(Duration::from_secs(5)).await;
        let changed = Agent { digest: [8; 32], on_change, ..agent() };
        let (next, _model) = start(changed, &world.store, vec![says("went")], &[], None);
        next.post(&task, Mail::Signal { name: "go".into(), payload: json!(null) }).await.unwrap();
        let task = world.end(&task).await;
        assert_eq!(task.status, status, "{:?}", task.error);
        assert!(world.kinds(&task.id).await.contains(&"run.rebound".to_owned()));
    }
}

#[tokio::test]
async fn a_journal_replays_to_what_the_task_says() {
    let tool = Counter::new("look", Effect::Read, 1, false);
    let world = World::new(agent(), vec![calls("look", json!({})), says("ok")], std::slice::from_ref(&tool));
    let task = world.submit(ask("look")).await;
    let task = world.end(&task).await;
    let mut steps = 0;
    let run = super::replay(&*world.store, &task.id, |_| steps += 1).await.unwrap().unwrap();
    assert_eq!((steps, run.steps(), run.tool_calls()), (task.seq, task.steps, task.tool_calls));
    assert_eq!(run.budget().spent.nano_usd, task.cost_nano_usd);
}
