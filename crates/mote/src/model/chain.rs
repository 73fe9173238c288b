//! Several endpoints in order of preference, each behind its circuit breaker.
//!
//! A call goes to the endpoint that the request names. Which that is, and whether another is tried, is the core's to say; here it
//! is told whose circuits let a call through. It does not wait and does not retry.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::breaker::{Breaker, Permit, State};
use super::{Answer, DeltaSink, Error, ErrorKind, Provider, Reply, Request};
use crate::clock::{SharedClock, UnixMs};
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
}

impl Chain {
    /// A chain of endpoints, the preferred one first. At most [`mote_core::ENDPOINTS_MAX`] are used.
    #[must_use]
    pub fn new(mut links: Vec<Link>, clock: SharedClock) -> Self {
        links.truncate(mote_core::ENDPOINTS_MAX);
        let (breakers, said) = (vec![Breaker::default(); links.len()], vec![String::new(); links.len()]);
        Self { links, clock, state: Mutex::new(Memory { breakers, said }) }
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

    /// Tells the endpoint's breaker how its call ended.
    fn settle(&self, request: &Request, place: usize, permit: Permit, error: &Error) {
        let now = self.clock.now_ms();
        let mut memory = self.memory();
        let Some(breaker) = memory.breakers.get_mut(place) else { return };
        let before = breaker.state(now);
        match error.kind {
            // The endpoint works; it is the request that it does not want.
            ErrorKind::Rejected | ErrorKind::ContextLength | ErrorKind::CircuitOpen => breaker.succeed(permit),
            _ => breaker.fail(permit, now, error.retry_after),
        }
        let after = breaker.state(now);
        if !matches!(error.kind, ErrorKind::Rejected | ErrorKind::ContextLength | ErrorKind::CircuitOpen) {
            let quoted = request.messages.iter().flat_map(redact::texts).chain([&*request.system]);
            if let Some(said) = memory.said.get_mut(place) {
                *said = redact::hide(&error.message, quoted);
            }
        }
        if let (false, State::Open { until }) = (before == after, after) {
            let (model, endpoint, open_ms) = (&error.model, &error.endpoint, until.saturating_sub(now));
            tracing::warn!(model, endpoint, open_ms, "model circuit opened");
        }
    }

    /// The endpoint's circuit lets no call through; where none does, the one that soon may says when to come back.
    fn circuit_open(&self, place: usize, now: UnixMs) -> Error {
        let memory = self.memory();
        let until = |breaker: &Breaker| match breaker.state(now) {
            State::Open { until } => until,
            // A probe is under way: ask again soon.
            _ => now.saturating_add(1_000),
        };
        let wait =
            memory.breakers.iter().map(until).min().map(|until| Duration::from_millis(until.saturating_sub(now)));
        let link = self.links.get(place).or(self.links.first());
        let (model, endpoint) = link.map(|link| (link.model.clone(), link.endpoint.clone())).unwrap_or_default();
        let open = memory.breakers.iter().filter(|breaker| !breaker.permits(now)).count();
        let mut message = match self.links.len() {
            all if all > 1 && open == all => {
                format!("the circuits of all {all} endpoints are open after repeated failures")
            }
            _ => "its circuit is open after repeated failures".to_owned(),
        };
        let said = memory.said.get(place).into_iter().chain(&memory.said).find(|said| !said.is_empty());
        if let Some(said) = said {
            message.push_str("; before: ");
            message.push_str(said);
        }
        let (kind, answer) = (ErrorKind::CircuitOpen, Answer::default());
        Error { kind, model, endpoint, message, retry_after: wait, began: false, usage: None, answer }
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
        let (now, place) = (self.clock.now_ms(), usize::from(request.endpoint));
        let permit = self.memory().breakers.get_mut(place).and_then(|breaker| breaker.permit(now));
        let (Some(link), Some(permit)) = (self.links.get(place), permit) else {
            return Err(self.circuit_open(place, now));
        };
        let held = Held { chain: self, place, permit: Some(permit) };
        let result = link.provider.complete(request, deltas).await;
        let Some(permit) = held.take() else { return result };
        match &result {
            Ok(_) => {
                if let Some(breaker) = self.memory().breakers.get_mut(place) {
                    breaker.succeed(permit);
                    if permit.probe {
                        tracing::info!(model = link.model, endpoint = link.endpoint, "model circuit closed");
                    }
                }
            }
            Err(error) => self.settle(request, place, permit, error),
        }
        result
    }

    fn available(&self) -> u16 {
        let now = self.clock.now_ms();
        let memory = self.memory();
        let permitted = memory.breakers.iter().enumerate().filter(|(_, breaker)| breaker.permits(now));
        permitted.fold(0, |bits, (place, _)| bits | 1 << place)
    }

    fn is_reachable(&self) -> bool {
        let now = self.clock.now_ms();
        self.memory().breakers.iter().any(|breaker| !matches!(breaker.state(now), State::Open { .. }))
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
