//! Several endpoints in order of preference, each behind its circuit breaker.
//!
//! One call tries one endpoint. Whether to try again is the core's to say: an error marked `alternative` tells it that
//! another endpoint may be tried at once, and the next attempt at the same step goes there. It does not wait and does not
//! retry.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::breaker::{Breaker, Permit, State};
use super::{Answer, DeltaSink, Error, ErrorKind, Provider, Reply, Request};
use crate::clock::{SharedClock, UnixMs};
use crate::limits::CHAIN_STEPS_MAX;
use crate::redact;

/// One endpoint of the chain.
pub struct Link {
    /// The provider.
    pub provider: Box<dyn Provider>,
    /// The model, as configured.
    pub model: String,
    /// Scheme, host and port, or the file of a provider without a network.
    pub endpoint: String,
}

/// Ordered fallbacks behind breakers.
pub struct Chain {
    links: Vec<Link>,
    clock: SharedClock,
    state: Mutex<Memory>,
}

/// What the chain remembers between calls. Lost in a crash, which costs a call to an endpoint that failed before.
#[derive(Debug, Default)]
struct Memory {
    breakers: Vec<Breaker>,
    /// What the last failure was that each breaker counted, without what it quotes of its own request: others are told it.
    said: Vec<String>,
    /// Per task: the round of its step.
    failed: HashMap<String, Round>,
    /// Tasks in the order in which they came into `failed`.
    order: VecDeque<String>,
}

/// One round of a step over the endpoints: each is tried once.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    step: u32,
    /// The endpoints that failed, a bit each.
    failed: u64,
    /// The last failure that may pass by itself.
    passing: Option<(ErrorKind, Option<Duration>)>,
}

impl Memory {
    fn round(&self, request: &Request) -> Round {
        let known = self.failed.get(&request.task).copied();
        known
            .filter(|round| round.step == request.step && request.attempt > 1)
            .unwrap_or(Round { step: request.step, ..Round::default() })
    }

    fn remember(&mut self, request: &Request, round: Round) {
        if self.failed.insert(request.task.clone(), round).is_none() {
            self.order.push_back(request.task.clone());
        }
        while self.failed.len() > CHAIN_STEPS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.failed.remove(&oldest);
        }
    }

    /// Tells the endpoint's breaker how its call ended.
    fn settle(&mut self, request: &Request, place: usize, permit: Permit, now: UnixMs, error: &Error) {
        let Some(breaker) = self.breakers.get_mut(place) else { return };
        let before = breaker.state(now);
        match error.kind {
            // The endpoint works; it is the request that it does not want.
            ErrorKind::Rejected | ErrorKind::ContextLength | ErrorKind::CircuitOpen => breaker.succeed(permit),
            _ => {
                breaker.fail(permit, now, error.retry_after);
                let quoted = request.messages.iter().flat_map(redact::texts).chain([&*request.system]);
                if let Some(said) = self.said.get_mut(place) {
                    *said = redact::hide(&error.message, quoted);
                }
            }
        }
        if let (false, State::Open { until }) = (before == breaker.state(now), breaker.state(now)) {
            let (model, endpoint, open_ms) = (&error.model, &error.endpoint, until.saturating_sub(now));
            tracing::warn!(model, endpoint, open_ms, "model circuit opened");
        }
    }

    fn forget(&mut self, task: &str) {
        if self.failed.remove(task).is_some() {
            self.order.retain(|other| other != task);
        }
    }
}

impl Chain {
    /// A chain of endpoints, the preferred one first. At most 64 are used.
    #[must_use]
    pub fn new(mut links: Vec<Link>, clock: SharedClock) -> Self {
        links.truncate(64);
        let (breakers, said) = (vec![Breaker::default(); links.len()], vec![String::new(); links.len()]);
        Self { links, clock, state: Mutex::new(Memory { breakers, said, ..Memory::default() }) }
    }

    /// Each endpoint's model and circuit, for `/ready` and for metrics.
    #[must_use]
    pub fn circuits(&self) -> Vec<(&str, &str, State)> {
        let now = self.clock.now_ms();
        let memory = self.memory();
        let states = memory.breakers.iter().map(|breaker| breaker.state(now));
        self.links
            .iter()
            .zip(states)
            .map(|(link, state)| (link.model.as_str(), link.endpoint.as_str(), state))
            .collect()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What a panicking holder left behind is still a valid memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first endpoint that may be called and has not failed this step in this round.
    fn choose(&self, request: &Request, now: UnixMs) -> Option<(usize, Permit)> {
        let mut memory = self.memory();
        let failed = memory.round(request).failed | request.exhausted;
        let permitted = |(place, breaker): (usize, &mut Breaker)| breaker.permit(now).map(|permit| (place, permit));
        let fresh = |(place, _): &(usize, &mut Breaker)| failed & (1 << place) == 0;
        if let Some(chosen) = memory.breakers.iter_mut().enumerate().filter(fresh).find_map(permitted) {
            return Some(chosen);
        }
        // A new round: all that may be called have failed once.
        memory.forget(&request.task);
        let asked = |(place, _): &(usize, &mut Breaker)| request.exhausted & (1 << place) == 0;
        memory.breakers.iter_mut().enumerate().filter(asked).find_map(permitted)
    }

    /// Notes the failure, and says in it whether another endpoint may be tried, at once or later.
    fn failed(&self, request: &Request, place: usize, permit: Permit, mut error: Error) -> Error {
        let now = self.clock.now_ms();
        error.place = place;
        let mut memory = self.memory();
        memory.settle(request, place, permit, now, &error);
        if error.kind == ErrorKind::ContextLength {
            // The same context is as long for the next endpoint: the core trims it.
            memory.forget(&request.task);
            return error;
        }
        let mut round = memory.round(request);
        round.failed |= 1 << place;
        let mut others = memory
            .breakers
            .iter()
            .enumerate()
            .filter(|(place, _)| (round.failed | request.exhausted) & (1 << place) == 0);
        error.alternative = others.clone().any(|(_, breaker)| breaker.permits(now));
        if error.kind != ErrorKind::Rejected {
            round.passing = Some((error.kind, error.retry_after));
        } else if !error.alternative {
            // What one endpoint refuses for good, another may take once it is back.
            let closed_now = others.next().map(|_| (ErrorKind::CircuitOpen, None));
            if let Some((kind, retry_after)) = round.passing.or(closed_now) {
                (error.kind, error.retry_after) = (kind, retry_after);
                error.message.push_str(" (another endpoint may answer later)");
            }
        }
        if error.alternative {
            memory.remember(request, round);
        } else {
            memory.forget(&request.task);
        }
        error
    }

    fn circuit_open(&self, request: &Request, now: UnixMs) -> Error {
        let memory = self.memory();
        let asked = memory.breakers.iter().enumerate().filter(|(place, _)| request.exhausted & (1 << place) == 0);
        let until = asked.map(|(_, breaker)| match breaker.state(now) {
            State::Open { until } => until,
            // A probe is under way: ask again soon.
            _ => now.saturating_add(1_000),
        });
        let wait = until.min().map(|until| Duration::from_millis(until.saturating_sub(now)));
        let (model, endpoint) =
            self.links.first().map(|link| (link.model.clone(), link.endpoint.clone())).unwrap_or_default();
        let mut message = match self.links.len() {
            1 => "its circuit is open after repeated failures".to_owned(),
            all => format!("the circuits of all {all} endpoints are open after repeated failures"),
        };
        let asked = memory.said.iter().enumerate().filter(|(place, _)| request.exhausted & (1 << place) == 0);
        if let Some((_, said)) = asked.into_iter().find(|(_, said)| !said.is_empty()) {
            message.push_str("; before: ");
            message.push_str(said);
        }
        let (kind, answer) = (ErrorKind::CircuitOpen, Answer::default());
        let (retry_after, alternative, place, began, usage) = (wait, false, 0, false, None);
        Error { kind, model, endpoint, message, retry_after, alternative, place, began, usage, answer }
    }
}

/// Gives a permit back if the call is dropped before its end.
struct Held<'c> {
    chain: &'c Chain,
    place: usize,
    permit: Option<Permit>,
}

impl Held<'_> {
    /// The permit; from here on the caller settles it.
    fn take(mut self) -> Option<Permit> {
        self.permit.take()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && let Some(breaker) = self.chain.memory().breakers.get_mut(self.place)
        {
            breaker.abandon(permit);
        }
    }
}

#[async_trait]
impl Provider for Chain {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let now = self.clock.now_ms();
        let Some((place, permit)) = self.choose(request, now) else { return Err(self.circuit_open(request, now)) };
        let held = Held { chain: self, place, permit: Some(permit) };
        let Some(link) = self.links.get(place) else { return Err(self.circuit_open(request, now)) };
        let result = link.provider.complete(request, deltas).await;
        let Some(permit) = held.take() else { return result };
        match result {
            Ok(reply) => {
                let mut memory = self.memory();
                memory.forget(&request.task);
                if let Some(breaker) = memory.breakers.get_mut(place) {
                    breaker.succeed(permit);
                    if permit.probe {
                        tracing::info!(model = link.model, endpoint = link.endpoint, "model circuit closed");
                    }
                }
                Ok(reply)
            }
            Err(error) => Err(self.failed(request, place, permit, error)),
        }
    }

    fn available(&self) -> bool {
        let now = self.clock.now_ms();
        self.memory().breakers.iter().any(|breaker| !matches!(breaker.state(now), State::Open { .. }))
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
