//! What the routes share: the handles that the process gives to the API, and the counters that bound it.
//!
//! It owns no task and no store; it holds handles to them.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::health::{ReadyCache, ReadyCheck};
use super::problem::{Code, Problem};
use super::ratelimit::Limiter;
use crate::auth::Keys;
use crate::limits;
use crate::runner::Runner;

/// What `/metrics` shows and where requests are counted. Implemented beside the registry, so that the API does not know
/// the metrics' names.
pub trait Metrics: Send + Sync + 'static {
    /// The exposition (Prometheus or OpenMetrics text) and its media type.
    fn render(&self) -> BoxFuture<'_, (String, &'static str)>;
    /// A request was answered. `route` is the route's pattern (`/tasks/{id}`) or empty if none matched; `elapsed` ends
    /// with the response's head.
    fn request(&self, method: &Method, route: &str, status: u16, elapsed: Duration);
    /// A stream was opened; it counts as open until what is returned is dropped.
    fn stream(&self) -> Box<dyn Any + Send>;
}

/// What the process gives to the API.
pub struct ApiState {
    /// The runner; with it the agent, the store and the clock.
    pub runner: Runner,
    /// The API keys; `None` serves everybody.
    pub keys: Option<Arc<Keys>>,
    /// What `/ready` asks beside the store, the keys and the drain.
    pub checks: Vec<ReadyCheck>,
    /// Metrics.
    pub metrics: Arc<dyn Metrics>,
    /// Cancelled once the runner has drained: streams end (clients resume elsewhere) and a waiting `POST /run` is answered
    /// with 202.
    pub closing: CancellationToken,
}

/// A place for one open stream.
pub(super) struct StreamPlace {
    _permit: OwnedSemaphorePermit,
    _counted: Box<dyn Any + Send>,
}

/// What the routes share.
pub(super) struct Api {
    pub(super) runner: Runner,
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) checks: Vec<ReadyCheck>,
    pub(super) ready: ReadyCache,
    pub(super) metrics: Arc<dyn Metrics>,
    pub(super) closing: CancellationToken,
    pub(super) limiter: Option<Limiter>,
    streams: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(state: ApiState) -> Self {
        let ApiState { runner, keys, checks, metrics, closing } = state;
        let limiter = runner.agent().server.rate.and_then(Limiter::new);
        let streams = Arc::new(Semaphore::new(limits::STREAMS_MAX));
        Self { runner, keys, checks, ready: ReadyCache::default(), metrics, closing, limiter, streams }
    }

    /// A place for one more stream, held as long as the stream is open.
    pub(super) fn stream_place(&self) -> Result<StreamPlace, Problem> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let detail = format!("{} event streams are open", limits::STREAMS_MAX);
            Problem::new(Code::StreamsExhausted, detail).retry_after(limits::RETRY_AFTER)
        })?;
        Ok(StreamPlace { _permit: permit, _counted: self.metrics.stream() })
    }
}
