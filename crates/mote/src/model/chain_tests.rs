//! The chain over providers that do as they are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::limits::{BREAKER_FAILURES, BREAKER_OPEN_MS};
use crate::message::{Message, Role};
use crate::model::Finish;
use crate::model::test_support::request;

struct Hand(AtomicU64);

impl crate::clock::Clock for Hand {
    fn boot_ms(&self) -> u64 {
        self.now_ms()
    }
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }

    fn random(&self) -> u64 {
        0
    }
}

/// Fails with each kind in turn, then replies.
struct Told {
    name: &'static str,
    failures: Mutex<VecDeque<ErrorKind>>,
}

#[async_trait]
impl Provider for Told {
    async fn complete(&self, _: &Request, _: DeltaSink<'_>) -> Result<Reply, Error> {
        let failure = self.failures.lock().unwrap().pop_front();
        match failure {
            Some(kind) => Err(Error {
                kind,
                model: self.name.into(),
                endpoint: "test".into(),
                message: "told to fail".into(),
                retry_after: None,
                alternative: false,
                place: 0,
                began: false,
                usage: None,
                answer: Answer::default(),
            }),
            None => Ok(Reply {
                message: Message::text(Role::Assistant, "x"),
                finish: Finish::Stop,
                usage: None,
                provider: "test".into(),
                model: self.name.into(),
            }),
        }
    }
}

/// Never answers.
struct Silent;

#[async_trait]
impl Provider for Silent {
    async fn complete(&self, _: &Request, _: DeltaSink<'_>) -> Result<Reply, Error> {
        std::future::pending().await
    }
}

fn chain(endpoints: &[(&'static str, &[ErrorKind])]) -> (Chain, Arc<Hand>) {
    let clock = Arc::new(Hand(AtomicU64::new(1_000)));
    let link = |(name, failures): &(&'static str, &[ErrorKind])| Link {
        provider: Box::new(Told { name, failures: Mutex::new(failures.iter().copied().collect()) }),
        model: (*name).into(),
        endpoint: "test".into(),
    };
    (Chain::new(endpoints.iter().map(link).collect(), clock.clone()), clock)
}

/// What attempt `attempt` at a step comes to: the model that answered, or the one that failed and whether another may be
/// tried at once.
async fn attempt(chain: &Chain, task: &str, attempt: u32) -> Result<String, (String, ErrorKind, bool)> {
    let request = Request { task: task.into(), attempt, ..request("x") };
    match chain.complete(&request, &mut |_| {}).await {
        Ok(reply) => Ok(reply.model),
        Err(error) => Err((error.model, error.kind, error.alternative)),
    }
}

use ErrorKind::{Broken, CircuitOpen, ContextLength, Overloaded, RateLimited, Rejected, Unreachable};

#[tokio::test]
async fn fallbacks_are_tried_at_once_and_in_order() {
    let (chain, _) = chain(&[("a", &[RateLimited]), ("b", &[Unreachable]), ("c", &[])]);
    assert_eq!(attempt(&chain, "t", 1).await, Err(("a".into(), RateLimited, true)));
    assert_eq!(attempt(&chain, "t", 2).await, Err(("b".into(), Unreachable, true)));
    assert_eq!(attempt(&chain, "t", 3).await, Ok("c".into()));
    assert_eq!(attempt(&chain, "t", 1).await, Ok("a".into()), "the next step starts with the first again");
}

#[tokio::test]
async fn the_last_endpoint_of_a_round_leaves_the_wait_to_the_core() {
    let (chain, _) = chain(&[("a", &[Broken]), ("b", &[Broken])]);
    assert_eq!(attempt(&chain, "t", 1).await, Err(("a".into(), Broken, true)));
    assert_eq!(attempt(&chain, "other", 1).await, Ok("a".into()), "another task is not affected");
    assert_eq!(attempt(&chain, "t", 2).await, Err(("b".into(), Broken, false)));
    assert_eq!(attempt(&chain, "t", 3).await, Ok("a".into()), "a new round starts with the first");
}

#[tokio::test]
async fn a_refused_request_goes_to_the_next_but_a_long_context_does_not() {
    let (chain, _) = chain(&[("a", &[Rejected, ContextLength]), ("b", &[])]);
    assert_eq!(attempt(&chain, "t", 1).await, Err(("a".into(), Rejected, true)));
    assert_eq!(attempt(&chain, "t", 2).await, Ok("b".into()));
    assert_eq!(attempt(&chain, "t", 1).await, Err(("a".into(), ContextLength, false)));
    assert_eq!(attempt(&chain, "t", 2).await, Ok("a".into()), "compacted, it is the first one's again");
}

#[tokio::test]
async fn a_refusal_is_final_only_if_every_endpoint_refused() {
    let (chain, _) = chain(&[("a", &[Rejected]), ("b", &[Rejected])]);
    assert_eq!(attempt(&chain, "t", 1).await, Err(("a".into(), Rejected, true)));
    assert_eq!(attempt(&chain, "t", 2).await, Err(("b".into(), Rejected, false)));
}

#[tokio::test]
async fn a_refusing_fallback_does_not_end_what_the_first_may_yet_do() {
    let (chain, _) = chain(&[("a", &[Overloaded]), ("b", &[Rejected])]);
    assert_eq!(attempt(&chain, "t", 1).await, Err(("a".into(), Overloaded, true)));
    assert_eq!(attempt(&chain, "t", 2).await, Err(("b".into(), Overloaded, false)));
    assert_eq!(attempt(&chain, "t", 3).await, Ok("a".into()));

    let refusing = [Rejected; 9];
    let (chain, _) = self::chain(&[("a", &[Broken; BREAKER_FAILURES as usize]), ("b", &refusing)]);
    for n in 0..BREAKER_FAILURES {
        let _ = attempt(&chain, &n.to_string(), 1).await;
    }
    assert_eq!(attempt(&chain, "t", 1).await, Err(("b".into(), CircuitOpen, false)), "a is not asked, but may return");
}

#[tokio::test]
async fn an_open_circuit_is_passed_over_until_a_probe_closes_it() {
    let (chain, clock) = chain(&[("a", &[Overloaded; BREAKER_FAILURES as usize]), ("b", &[])]);
    for n in 0..BREAKER_FAILURES {
        assert_eq!(attempt(&chain, &n.to_string(), 1).await, Err(("a".into(), Overloaded, true)));
    }
    assert_eq!(attempt(&chain, "t", 1).await, Ok("b".into()));
    assert!(chain.available());
    clock.0.fetch_add(BREAKER_OPEN_MS, Ordering::SeqCst);
    assert_eq!(attempt(&chain, "t", 1).await, Ok("a".into()));
    assert!(chain.circuits().iter().all(|(.., state)| *state == State::Closed));
}

#[tokio::test]
async fn unavailable_only_while_every_circuit_is_open() {
    let (chain, clock) = chain(&[("a", &[Broken; 9])]);
    for n in 0..BREAKER_FAILURES {
        assert!(chain.available());
        assert_eq!(attempt(&chain, &n.to_string(), 1).await, Err(("a".into(), Broken, false)));
    }
    assert!(!chain.available());
    let request = request("x");
    let error = chain.complete(&request, &mut |_| {}).await.unwrap_err();
    assert_eq!((error.kind, error.alternative), (CircuitOpen, false));
    assert_eq!(error.retry_after, Some(Duration::from_millis(BREAKER_OPEN_MS)));
    assert_eq!(
        error.to_string(),
        "failed to call model a at test: its circuit is open after repeated failures; before: told to fail"
    );
    clock.0.fetch_add(BREAKER_OPEN_MS, Ordering::SeqCst);
    assert!(chain.available(), "half-open is not open");
}

#[tokio::test]
async fn refusals_do_not_open_a_circuit() {
    let (chain, _) = chain(&[("a", &[Rejected; 20])]);
    for n in 0..20 {
        assert_eq!(attempt(&chain, &n.to_string(), 1).await, Err(("a".into(), Rejected, false)));
    }
    assert!(chain.available());
}

#[tokio::test]
async fn an_abandoned_probe_leaves_room_for_another() {
    let (mut chain, clock) = chain(&[("a", &[Broken; BREAKER_FAILURES as usize])]);
    for n in 0..BREAKER_FAILURES {
        let _ = attempt(&chain, &n.to_string(), 1).await;
    }
    clock.0.fetch_add(BREAKER_OPEN_MS, Ordering::SeqCst);
    let working = std::mem::replace(&mut chain.links[0].provider, Box::new(Silent));
    let request = request("x");
    let mut sink = |_| {};
    let mut call = chain.complete(&request, &mut sink);
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    chain.links[0].provider = working;
    assert_eq!(attempt(&chain, "t", 1).await, Ok("a".into()));
}

#[tokio::test]
async fn memory_of_failures_is_bounded() {
    let (chain, _) = chain(&[("a", &[]), ("b", &[])]);
    let mut memory = chain.memory();
    for n in 0..CHAIN_STEPS_MAX + 10 {
        memory.remember(&Request { task: n.to_string(), ..request("x") }, Round::default());
    }
    assert_eq!((memory.failed.len(), memory.order.len()), (CHAIN_STEPS_MAX, CHAIN_STEPS_MAX));
    assert!(!memory.failed.contains_key("0"));
}
