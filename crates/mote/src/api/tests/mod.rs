//! The router with a real runner and a real store, and a model that a test holds in its hand.

mod access;
mod closing;
mod events;
mod operation;
mod run;
mod server;
mod socket;
mod tasks;
mod tokens;
mod turn;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::api::{ApiState, Metrics, ReadyCheck, router};
use crate::auth::Keys;
use crate::clock::{Clock, System, UnixMs};
use crate::config;
use crate::message::{Message, Role};
use crate::model::{Delta, DeltaSink, Error, ErrorKind, Finish, Provider, Reply};
use crate::runner::{Parts, Runner, Takes};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Batch, Claim, Commit, End, Lease, NewEntry, Status, StatusChange, Store, Task, Totals};
use crate::tools::policy::network::Private;
use crate::tools::registry::Registry;
use crate::usage::Usage;

/// Long enough for any machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says "hello", in two pieces: the second when the test lets it.
pub(super) struct Model {
    gate: Semaphore,
    reached: Semaphore,
    failure: Option<ErrorKind>,
}

impl Model {
    fn new(permits: usize, failure: Option<ErrorKind>) -> Arc<Self> {
        Arc::new(Self { gate: Semaphore::new(permits), reached: Semaphore::new(0), failure })
    }

    /// Until a call has arrived and given its first piece.
    async fn reached(&self) {
        within(self.reached.acquire()).await.unwrap().forget();
    }

    /// Lets one call go on.
    fn let_go(&self) {
        self.gate.add_permits(1);
    }
}

#[async_trait]
impl Provider for Model {
    async fn complete(&self, _: &crate::model::Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        deltas(Delta::Text("hel".into()));
        self.reached.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        if let Some(kind) = self.failure {
            return Err(Error {
                kind,
                model: "test".into(),
                endpoint: "http://model.test".into(),
                message: "no".into(),
                retry_after: None,
                began: false,
                usage: None,
                answer: crate::model::Answer::default(),
            });
        }
        deltas(Delta::Text("lo".into()));
        Ok(Reply {
            message: Message::text(Role::Assistant, "hello"),
            finish: Finish::Stop,
            usage: Some(Usage { input: 10, output: 2, ..Usage::default() }),
            provider: "scripted".into(),
            model: "test".into(),
        })
    }
}

/// The machine's clock, which a test may put forward.
#[derive(Default)]
pub(super) struct Shifted(AtomicU64);

impl Shifted {
    fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Shifted {
    fn boot_ms(&self) -> u64 {
        self.now_ms()
    }
    fn now_ms(&self) -> UnixMs {
        System.now_ms() + self.0.load(Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        System.random()
    }
}

/// Remembers requests.
#[derive(Default)]
pub(super) struct Counted(std::sync::Mutex<Vec<(String, String, u16)>>);

impl Metrics for Counted {
    fn stream(&self) -> Box<dyn std::any::Any + Send> {
        Box::new(())
    }

    fn render(&self) -> BoxFuture<'_, (String, &'static str)> {
        Box::pin(std::future::ready(("# EOF\n".to_owned(), "application/openmetrics-text; version=1.0.0")))
    }

    fn request(&self, method: &Method, route: &str, status: u16, _: Duration) {
        self.0.lock().unwrap().push((method.to_string(), route.to_owned(), status));
    }
}

/// How a service under test is set up.
pub(super) struct Setup {
    /// Places for runs; with 0 the worker is idle and the test moves tasks by its own commits.
    runs: usize,
    /// Calls that the model answers at once.
    replies: usize,
    failure: Option<ErrorKind>,
    rate: Option<u32>,
    cors: Vec<String>,
    /// Lines of the keys file; empty is no authentication.
    keys: String,
    checks: Vec<ReadyCheck>,
}

/// Nothing runs but what the test does itself.
pub(super) fn passive() -> Setup {
    Setup { runs: 0, replies: 0, failure: None, rate: None, cors: Vec::new(), keys: String::new(), checks: Vec::new() }
}

/// Runs go on with the real runner; so many model calls are answered at once.
pub(super) fn active(replies: usize) -> Setup {
    Setup { runs: 4, replies, ..passive() }
}

pub(super) struct Service {
    router: Router,
    runner: Runner,
    store: Arc<dyn Store>,
    model: Arc<Model>,
    clock: Arc<Shifted>,
    metrics: Arc<Counted>,
    closing: CancellationToken,
    folder: tempfile::TempDir,
}

pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    json: Value,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of a problem, checked to be one.
    #[track_caller]
    fn problem(&self) -> &str {
        assert_eq!(self.header("content-type"), "application/problem+json", "{:?}", self.json);
        assert_eq!(self.json["status"], self.status.as_u16());
        assert!(self.json["instance"].as_str().unwrap().ends_with(self.header("x-request-id")));
        self.json["code"].as_str().unwrap()
    }
}

impl Setup {
    pub(super) fn start(self) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Shifted::default());
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&folder.path().join("state.sqlite"), Options::default()).unwrap());
        let model = Model::new(self.replies, self.failure);
        let mut agent = agent();
        agent.server.runs = self.runs;
        agent.server.rate = self.rate;
        agent.server.cors = self.cors;
        let registry = Registry::build(&agent.tools, &agent.builtins).unwrap();
        let agent = Arc::new(agent);
        let provider: Arc<dyn Provider> = model.clone();
        let metrics = Arc::new(crate::telemetry::Metrics::new("test", 0));
        let tracer = crate::telemetry::Tracer::off(clock.clone());
        let (store_part, clock_part, takes) = (store.clone(), clock.clone(), Takes::Everything);
        let parts = Parts { agent, store: store_part, clock: clock_part, provider, registry, metrics, tracer, takes };
        let runner = Runner::start(parts).unwrap();
        let keys = (!self.keys.is_empty()).then(|| {
            let path = folder.path().join("keys");
            std::fs::write(&path, &self.keys).unwrap();
            Arc::new(Keys::open(&path, clock.clone()).unwrap())
        });
        let (metrics, closing) = (Arc::new(Counted::default()), CancellationToken::new());
        let state = ApiState {
            runner: runner.clone(),
            keys,
            checks: self.checks,
            metrics: metrics.clone(),
            closing: closing.clone(),
        };
        Service { router: router(state), runner, store, model, clock, metrics, closing, folder }
    }
}

impl Service {
    async fn response(&self, request: Request<Body>) -> Response {
        within(self.router.clone().oneshot(request)).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.response(request).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = within(to_bytes(response.into_body(), usize::MAX)).await.unwrap();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, headers, json }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, None)).await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(request("POST", path, Some(body))).await
    }

    /// Submits a task and gives its id.
    async fn submit(&self, body: &str) -> String {
        let answer = self.post("/tasks", body).await;
        assert_eq!(answer.status, 202, "{:?}", answer.json);
        answer.json["id"].as_str().unwrap().to_owned()
    }

    async fn task(&self, id: &str) -> Task {
        self.store.task(None, id).await.unwrap().unwrap()
    }

    /// The only task there is, once there is one.
    async fn only_task(&self) -> String {
        let find = async {
            loop {
                let page = self.store.list(crate::store::Filter::default(), None, 2).await.unwrap();
                if let [task] = page.tasks.as_slice() {
                    return task.id.clone();
                }
                tokio::task::yield_now().await;
            }
        };
        within(find).await
    }

    /// Until the task has the status.
    async fn until(&self, id: &str, status: Status) -> Task {
        let waiting = async {
            let mut changes = self.store.subscribe(id);
            loop {
                changes.borrow_and_update();
                let task = self.task(id).await;
                if task.status == status {
                    return task;
                }
                changes.changed().await.unwrap();
            }
        };
        within(waiting).await
    }

    /// Claims every due task as a worker would.
    async fn claim(&self) -> Vec<Claim> {
        let now = self.runner.now();
        let lease = Lease { worker: "test".into(), until: now + 600_000 };
        self.store.claim(lease, now, 10).await.unwrap()
    }

    /// Appends events of these kinds to a claimed task and leaves it so.
    async fn commit(&self, id: &str, kinds: &[&'static str], status: StatusChange) {
        let (task, now) = (self.task(id).await, self.runner.now());
        let entry = |kind: &&'static str| NewEntry {
            at: now,
            kind,
            record: vec![1],
            payload: Some(format!("{{\"type\": \"{kind}\"}}")),
        };
        let batch = Batch {
            entries: kinds.iter().map(entry).collect(),
            effects: Vec::new(),
            budget: Vec::new(),
            mail_consumed: Vec::new(),
            outbox: Vec::new(),
            session: None,
            status,
            totals: Totals::default(),
        };
        let commit = Commit { task: id.into(), epoch: task.epoch, expected_seq: task.seq, now, batch };
        self.store.commit(commit).await.unwrap();
    }
}

fn completed() -> StatusChange {
    let result = Some("\"done\"".to_owned());
    StatusChange::Finished(End { status: Status::Completed, result, error: None, dead: false })
}

fn waiting() -> StatusChange {
    StatusChange::Waiting { wake_at: None, waiting: "[{\"kind\": \"signal\"}]".into(), mail_seen: 0 }
}

fn request(method: &str, path: &str, body: Option<&str>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    match body {
        Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_owned())),
        None => request.body(Body::empty()),
    }
    .unwrap()
}

fn with_header(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

fn tool() -> crate::tools::config::HttpTool {
    crate::tools::config::HttpTool {
        name: "get_ticket".into(),
        version: "1.0.0".into(),
        description: "Reads a ticket.".into(),
        method: "GET".into(),
        url: "https://tickets.internal/{id}".into(),
        headers: std::collections::BTreeMap::new(),
        input: serde_json::json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}),
        effect: crate::tools::Effect::Read,
        timeout: Duration::from_secs(10),
        output_max: 1_000,
        key_ttl: None,
        allow_hosts: Vec::new(),
        allow_private: Private::None,
        approval: true,
    }
}

fn agent() -> config::Agent {
    let second = Duration::from_secs;
    config::Agent {
        name: "test-agent".into(),
        version: "1.2.3".into(),
        description: "Says hello.".into(),
        prompt: "Say hello.".into(),
        models: vec![crate::model::config::Model {
            provider: crate::model::config::Provider::OpenAi,
            name: "test".into(),
            key: None,
            base_url: "http://model.test".into(),
            price: crate::model::config::Price::default(),
            is_priced: true,
            output_tokens_max: 1_000,
            timeout: second(60),
            idle_timeout: second(60),
            temperature: None,
            cache: false,
            output_limit_field: crate::model::config::OutputLimitField::Auto,
        }],
        tools: vec![tool()],
        builtins: vec![crate::tools::config::Builtin::WaitForSignal],
        sandbox: None,
        output: None,
        limits: config::RunLimits {
            steps: 5,
            tool_calls: 5,
            parallel: 2,
            model_attempts: 1,
            model_outage: Duration::from_millis(1),
            tool_attempts: 1,
            backoff: Duration::from_millis(1),
            backoff_max: Duration::from_millis(1),
            repeats: 3,
            repairs: 1,
            active: second(600),
            expires: second(3_600),
        },
        on_change: config::OnChange::Continue,
        budget: config::Budgets::default(),
        context: config::Context { window: 100_000, reserve: 1_000, low_water: 60 },
        server: config::Server {
            listen: ([127, 0, 0, 1], 0).into(),
            runs: 4,
            lease: second(30),
            drain: second(5),
            rate: None,
            cors: Vec::new(),
            idempotency_ttl: second(3_600),
            retention: second(86_400),
        },
        auth: None,
        telemetry: crate::telemetry::Config { otlp: None, content: false, log: "info".into() },
        events: None,
        digest: [7; 32],
        folder: std::path::PathBuf::new(),
    }
}
