//! What `GET /metrics` answers: the metrics, with the store's own counts and the models' circuits read at the scrape.
//!
//! A store that does not answer in time leaves its gauges as they were; the scrape still succeeds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::auth::Keys;
use crate::limits::SCRAPE_STORE_TIMEOUT;
use crate::model::breaker;
use crate::model::chain::Chain;
use crate::store::Store;
use crate::telemetry::metrics::{Circuit, Metrics, PROMETHEUS_TEXT};

/// The metrics together with the store.
pub(super) struct Exposition {
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    models: Arc<Chain>,
    providers: Vec<&'static str>,
    keys: Option<Arc<Keys>>,
}

impl Exposition {
    /// Shows `metrics`, counts of `store` and circuits of `models`, whose providers' kinds are `providers`, in order.
    #[must_use]
    pub(super) fn new(
        metrics: Arc<Metrics>,
        store: Arc<dyn Store>,
        models: Arc<Chain>,
        providers: Vec<&'static str>,
    ) -> Self {
        Self { metrics, store, models, providers, keys: None }
    }

    /// Shows also how the file of keys is.
    #[must_use]
    pub(super) fn with_keys(self, keys: Option<Arc<Keys>>) -> Self {
        Self { keys, ..self }
    }

    fn circuits(&self) {
        for (provider, (model, _, state)) in self.providers.iter().zip(self.models.circuits()) {
            let state = match state {
                breaker::State::Closed => Circuit::Closed,
                breaker::State::Open { .. } => Circuit::Open,
                breaker::State::HalfOpen { .. } => Circuit::HalfOpen,
            };
            self.metrics.circuit(provider, model, state);
        }
    }
}

impl crate::api::Metrics for Exposition {
    fn render(&self) -> BoxFuture<'_, (String, &'static str)> {
        async {
            if let Ok(Ok(counts)) = tokio::time::timeout(SCRAPE_STORE_TIMEOUT, self.store.counts()).await {
                self.metrics.set_counts(&counts);
            }
            self.circuits();
            if let Some(keys) = &self.keys {
                let broken = keys.problem().is_some();
                self.metrics.keys_file(keys.failures(), broken);
            }
            (self.metrics.render(), PROMETHEUS_TEXT)
        }
        .boxed()
    }

    fn stream(&self) -> Box<dyn std::any::Any + Send> {
        Box::new(self.metrics.http_stream())
    }

    fn request(&self, method: &http::Method, route: &str, status: u16, elapsed: Duration) {
        self.metrics.http_request(method, route, status, elapsed);
    }
}
