//! Models that are down, that reply with nothing of use, or that refuse: what of it ends a task, and what it costs.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::clock::Clock;
use crate::model::ErrorKind;

/// A model call that fails.
pub(super) fn fails(kind: model::ErrorKind) -> model::Error {
    model::Error {
        kind,
        model: "test".into(),
        endpoint: "http://127.0.0.1:9".into(),
        message: "it does not work".into(),
        retry_after: None,
        began: false,
        usage: None,
        answer: model::Answer::default(),
    }
}

/// The machine's clock, as far ahead as the test says.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        System.now_ms() + self.0.load(Ordering::SeqCst)
    }
    fn boot_ms(&self) -> u64 {
        System.boot_ms() + self.0.load(Ordering::SeqCst)
    }
    fn random(&self) -> u64 {
        System.random()
    }
}

fn patient() -> Agent {
    let mut agent = agent();
    agent.limits.model_outage = Duration::from_secs(900);
    agent
}

#[tokio::test]
async fn a_model_that_is_down_for_more_attempts_than_one_may_fail_ends_nothing() {
    for kind in [ErrorKind::Unreachable, ErrorKind::Overloaded, ErrorKind::RateLimited, ErrorKind::Broken] {
        let down = || Err(fails(kind));
        let mut replies: Vec<_> = (0..12).map(|_| down()).collect();
        replies.push(says("it is back"));
        let world = World::new(patient(), replies, &[]);
        let task = world.submit(ask("hi")).await;
        let task = world.end(&task).await;
        assert_eq!(task.result.as_deref(), Some("\"it is back\""), "{kind:?}: {:?}", task.error);
    }
}

#[tokio::test]
async fn a_task_waits_for_a_model_without_a_worker_and_says_why() {
    let clock = Arc::new(Ahead::default());
    let asked = model::Error { retry_after: Some(Duration::from_secs(3_000)), ..fails(ErrorKind::RateLimited) };
    let world = World::new(patient(), vec![], &[]);
    world.runner.drain(Duration::ZERO).await;
    let (seen, called) = (Mutex::new(Vec::new()), Notify::new());
    let replies = Mutex::new(VecDeque::from([Err(asked), says("it is back")]));
    let agent = patient();
    let parts = Parts {
        registry: Registry::build(&[], &agent.builtins).unwrap(),
        agent: Arc::new(agent),
        store: Arc::clone(&world.store),
        clock: Arc::clone(&clock) as crate::clock::SharedClock,
        provider: Arc::new(Model { replies, seen, hold: None, called }),
        metrics: Arc::new(crate::telemetry::Metrics::new("test", 0)),
        tracer: crate::telemetry::Tracer::off(Arc::new(System)),
        takes: Takes::Everything,
    };
    let runner = Runner::start(parts).unwrap();
    let task = runner.submit(ask("hi"), false).await.unwrap().task;
    let waiting = world.reach(&task, |task| task.status == Status::Waiting).await;
    let wait: Value = serde_json::from_str(&waiting.waiting.unwrap()).unwrap();
    assert_eq!(wait[0]["kind"], "model");
    assert!(wait[0]["reason"].as_str().unwrap().contains("it does not work"), "{wait}");
    assert!(wait[0]["until"].is_string());
    while runner.active() > 0 {
        tokio::task::yield_now().await;
    }
    clock.0.store(3_000_000, Ordering::SeqCst);
    let task = world.end(&task).await;
    assert_eq!(task.result.as_deref(), Some("\"it is back\""), "{:?}", task.error);
}

#[tokio::test]
async fn an_outage_that_lasts_ends_the_task_and_names_the_limit() {
    let mut brief = agent();
    brief.limits.model_outage = Duration::from_millis(30);
    let down = (0..60).map(|_| Err(fails(ErrorKind::Unreachable))).collect();
    let world = World::new(brief, down, &[]);
    let task = world.submit(ask("hi")).await;
    let error = world.end(&task).await.error.unwrap();
    assert_eq!(error.code, "model_failed");
    assert!(error.message.contains("limits.model_outage") && error.message.contains("it does not work"), "{error:?}");
}

#[tokio::test]
async fn broken_replies_are_bounded_by_attempts_and_a_refusal_ends_at_once() {
    let broken = || Err(model::Error { began: true, ..fails(ErrorKind::Broken) });
    let world = World::new(patient(), vec![broken(), broken(), broken()], &[]);
    let task = world.submit(ask("hi")).await;
    let error = world.end(&task).await.error.unwrap();
    assert_eq!((error.code.as_str(), error.message.contains("all 3 attempts")), ("model_failed", true), "{error:?}");
    let world = World::new(patient(), vec![Err(fails(ErrorKind::Rejected))], &[]);
    let task = world.submit(ask("hi")).await;
    assert_eq!(world.end(&task).await.error.unwrap().code, "model_rejected");
}

#[tokio::test]
async fn what_a_failed_call_used_is_known_where_the_endpoint_said_it_and_uncertain_where_it_did_not() {
    let usage = Some(Usage { input: 70, cache_read: 20, output: 5, reasoning: 1, ..Usage::default() });
    let told = Err(model::Error { began: true, usage, ..fails(ErrorKind::Broken) });
    let silent = Err(model::Error { began: true, ..fails(ErrorKind::Broken) });
    let world = World::new(patient(), vec![told, silent, says("ok")], &[]);
    let task = world.submit(ask("hi")).await;
    let task = world.end(&task).await;
    let expected = Usage { input: 170, cache_read: 20, output: 15, reasoning: 1, ..Usage::default() };
    assert_eq!(task.usage, expected, "the failed call that told, and the reply");
    assert_eq!(task.cost_nano_usd, 50 * 1_000 + 20 * 100 + 5 * 5_000 + 100 * 1_000 + 10 * 5_000);
    assert!(
        task.uncertain.input > 0 && task.uncertain.nano_usd >= task.uncertain.input * 1_000,
        "{:?}",
        task.uncertain
    );
    kills::assert_adds_up(&world.folder, &task.id);
}

#[tokio::test]
async fn what_had_streamed_in_of_a_broken_reply_is_booked_as_output() {
    const LONG: &str = "a reply of some length, which then breaks off";
    struct Breaks(AtomicU32);
    #[async_trait]
    impl Provider for Breaks {
        async fn complete(&self, _: &Request, deltas: DeltaSink<'_>) -> Result<Reply, model::Error> {
            let usage = match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => None,
                // As it stands at the beginning of a stream.
                1 => Some(Usage { input: 1_000, output: 1, ..Usage::default() }),
                _ => return says("ok"),
            };
            deltas(model::Delta::Text(LONG.to_owned()));
            Err(model::Error { usage, ..fails(ErrorKind::Broken) })
        }
    }
    let world = World::new(patient(), vec![], &[]);
    world.runner.drain(Duration::ZERO).await;
    let agent = patient();
    let parts = Parts {
        registry: Registry::build(&[], &agent.builtins).unwrap(),
        agent: Arc::new(agent),
        store: Arc::clone(&world.store),
        clock: Arc::new(System),
        provider: Arc::new(Breaks(AtomicU32::new(0))),
        metrics: Arc::new(crate::telemetry::Metrics::new("test", 0)),
        tracer: crate::telemetry::Tracer::off(Arc::new(System)),
        takes: Takes::Everything,
    };
    let runner = Runner::start(parts).unwrap();
    let task = runner.submit(ask("hi"), false).await.unwrap().task;
    let task = world.end(&task).await;
    assert_eq!(task.uncertain.output, 2 * u64::from(crate::context::tokens(LONG.len())));
    assert!(task.uncertain.input > 1_000, "{:?}", task.uncertain);
    assert_eq!((task.usage.input, task.usage.output), (100, 10), "of the reply alone");
    kills::assert_adds_up(&world.folder, &task.id);
}

#[tokio::test]
async fn a_reply_whose_text_was_not_counted_is_booked_by_estimate() {
    let uncounted =
        says("some text").map(|reply| Reply { usage: Some(Usage { input: 70, ..Usage::default() }), ..reply });
    let world = World::new(patient(), vec![uncounted], &[]);
    let task = world.submit(ask("hi")).await;
    let task = world.end(&task).await;
    assert_eq!(task.usage.input, 70);
    assert!(task.usage.output >= 3, "{:?}", task.usage);
}
