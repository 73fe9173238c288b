//! What the routes share: the handles that the process gives to the API, and the counters that bound it.
//!
//! It owns no task and no store; it holds handles to them.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::health::{ReadyCache, ReadyCheck};
use super::problem::{Code, Problem};
use super::ratelimit::Limiter;
use super::refusals::Refusals;
use crate::auth::token::StreamTokens;
use crate::auth::{Keys, Principal};
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
    _of_key: Option<KeyStream>,
}

/// Open streams of each API key that has some.
type KeyStreams = Arc<Mutex<HashMap<Arc<str>, usize>>>;

/// One open stream of a key.
struct KeyStream {
    key: Arc<str>,
    open: KeyStreams,
}

impl KeyStream {
    /// One more; `None` if the key has its share already.
    fn open(open: &KeyStreams, key: &Arc<str>) -> Option<Self> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(Arc::clone(key)).or_default();
        if *count >= limits::STREAMS_PER_KEY_MAX {
            return None;
        }
        *count += 1;
        Some(Self { key: Arc::clone(key), open: Arc::clone(open) })
    }
}

impl Drop for KeyStream {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
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
    pub(super) refusals: Refusals,
    streams: Arc<Semaphore>,
    key_streams: KeyStreams,
    /// Made when the first token is.
    pub(super) stream_tokens: OnceCell<StreamTokens>,
    /// Bytes that bodies under way may still take.
    bodies: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(state: ApiState) -> Self {
        let ApiState { runner, keys, checks, metrics, closing } = state;
        let limiter = runner.agent().server.rate.and_then(Limiter::new);
        let streams = Arc::new(Semaphore::new(limits::STREAMS_MAX));
        let bodies = Arc::new(Semaphore::new(limits::BODIES_BYTES_MAX));
        let (ready, key_streams, stream_tokens) = (ReadyCache::default(), KeyStreams::default(), OnceCell::new());
        let refusals = Refusals::default();
        Self {
            runner,
            keys,
            checks,
            ready,
            metrics,
            closing,
            limiter,
            refusals,
            streams,
            key_streams,
            stream_tokens,
            bodies,
        }
    }

    /// Room for a body of so many bytes, held until it is parsed.
    pub(super) fn body_share(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        if bytes == 0 {
            return Ok(None);
        }
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.bodies).try_acquire_many_owned(wanted).map_err(|_| {
            let detail = format!("bodies of {} bytes are under way (BODIES_BYTES_MAX)", limits::BODIES_BYTES_MAX);
            Problem::new(Code::Overloaded, detail).retry_after(limits::RETRY_AFTER)
        });
        share.map(Some)
    }

    /// A place for one more stream of this caller, held as long as the stream is open.
    pub(super) fn stream_place(&self, principal: &Principal) -> Result<StreamPlace, Problem> {
        let of_key = match &self.keys {
            Some(_) => Some(KeyStream::open(&self.key_streams, &principal.name).ok_or_else(|| {
                let detail =
                    format!("the key {:?} has {} event streams open", principal.name, limits::STREAMS_PER_KEY_MAX);
                Problem::new(Code::StreamsExhausted, detail).retry_after(limits::RETRY_AFTER)
            })?),
            None => None,
        };
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let detail = format!("{} event streams are open", limits::STREAMS_MAX);
            Problem::new(Code::StreamsExhausted, detail).retry_after(limits::RETRY_AFTER)
        })?;
        Ok(StreamPlace { _permit: permit, _counted: self.metrics.stream(), _of_key: of_key })
    }
}
