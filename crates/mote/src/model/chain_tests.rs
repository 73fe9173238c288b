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

/// What a call of an endpoint comes to: the model that answered, or the one that failed and how.
async fn call(chain: &Chain, endpoint: u8) -> Result<String, (String, ErrorKind)> {
    let request = Request { endpoint, ..request("x") };
    match chain.complete(&request, &mut |_| {}).await {
        Ok(reply) => Ok(reply.model),
        Err(error) => Err((error.model, error.kind)),
    }
}

use ErrorKind::{Broken, CircuitOpen, ContextLength, Overloaded, Rejected};

#[tokio::test]
async fn a_call_goes_to_the_endpoint_that_it_names_and_to_no_other() {
    let (chain, _) = chain(&[("a", &[Overloaded]), ("b", &[Rejected]), ("c", &[ContextLength])]);
    assert_eq!(call(&chain, 1).await, Err(("b".into(), Rejected)));
    assert_eq!(call(&chain, 0).await, Err(("a".into(), Overloaded)));
    assert_eq!(call(&chain, 2).await, Err(("c".into(), ContextLength)));
    assert_eq!(call(&chain, 0).await, Ok("a".into()));
    assert_eq!(call(&chain, 3).await, Err(("a".into(), CircuitOpen)), "there is no fourth");
}

#[tokio::test]
async fn an_open_circuit_is_told_until_a_probe_closes_it() {
    let (chain, clock) = chain(&[("a", &[Overloaded; BREAKER_FAILURES as usize]), ("b", &[])]);
    for _ in 0..BREAKER_FAILURES {
        assert_eq!(chain.available(), 0b11);
        assert_eq!(call(&chain, 0).await, Err(("a".into(), Overloaded)));
    }
    assert_eq!((chain.available(), chain.is_reachable()), (0b10, true));
    assert_eq!(call(&chain, 0).await, Err(("a".into(), CircuitOpen)));
    assert_eq!(call(&chain, 1).await, Ok("b".into()));
    clock.0.fetch_add(BREAKER_OPEN_MS, Ordering::SeqCst);
    assert_eq!(chain.available(), 0b11, "a probe may go");
    assert_eq!(call(&chain, 0).await, Ok("a".into()));
    assert!(chain.circuits().iter().all(|(.., state)| *state == State::Closed));
}

#[tokio::test]
async fn unreachable_only_while_every_circuit_is_open() {
    let (chain, clock) = chain(&[("a", &[Broken; 9])]);
    for _ in 0..BREAKER_FAILURES {
        assert!(chain.is_reachable());
        assert_eq!(call(&chain, 0).await, Err(("a".into(), Broken)));
    }
    assert_eq!((chain.available(), chain.is_reachable()), (0, false));
    let request = request("x");
    let error = chain.complete(&request, &mut |_| {}).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (CircuitOpen, Some(Duration::from_millis(BREAKER_OPEN_MS))));
    assert_eq!(
        error.to_string(),
        "failed to call model a at test: its circuit is open after repeated failures; before: told to fail"
    );
    clock.0.fetch_add(BREAKER_OPEN_MS, Ordering::SeqCst);
    assert!(chain.is_reachable(), "half-open is not open");
}

#[tokio::test]
async fn refusals_do_not_open_a_circuit() {
    let (chain, _) = chain(&[("a", &[Rejected; 20])]);
    for _ in 0..20 {
        assert_eq!(call(&chain, 0).await, Err(("a".into(), Rejected)));
    }
    assert_eq!(chain.available(), 0b1);
}

#[tokio::test]
async fn an_abandoned_probe_leaves_room_for_another() {
    let (mut chain, clock) = chain(&[("a", &[Broken; BREAKER_FAILURES as usize])]);
    for _ in 0..BREAKER_FAILURES {
        let _ = call(&chain, 0).await;
    }
    clock.0.fetch_add(BREAKER_OPEN_MS, Ordering::SeqCst);
    let working = std::mem::replace(&mut chain.links[0].provider, Box::new(Silent));
    let request = request("x");
    let mut sink = |_| {};
    let mut probe = chain.complete(&request, &mut sink);
    assert!(futures_util::poll!(&mut probe).is_pending());
    drop(probe);
    chain.links[0].provider = working;
    assert_eq!(call(&chain, 0).await, Ok("a".into()));
}
