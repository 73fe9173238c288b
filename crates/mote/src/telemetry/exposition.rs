//! What `GET /metrics` answers: the metrics, with the store's own counts read at the scrape.
//!
//! A store that does not answer in time leaves its gauges as they were; the scrape still succeeds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::metrics::{Metrics, PROMETHEUS_TEXT};
use crate::limits::SCRAPE_STORE_TIMEOUT;
use crate::store::Store;

/// The metrics together with the store.
pub struct Exposition {
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
}

impl Exposition {
    /// Shows `metrics` and counts of `store`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, store: Arc<dyn Store>) -> Self {
        Self { metrics, store }
    }
}

impl crate::api::Metrics for Exposition {
    fn render(&self) -> BoxFuture<'_, (String, &'static str)> {
        async {
            if let Ok(Ok(counts)) = tokio::time::timeout(SCRAPE_STORE_TIMEOUT, self.store.counts()).await {
                self.metrics.set_counts(&counts);
            }
            (self.metrics.render(), PROMETHEUS_TEXT)
        }
        .boxed()
    }

    fn request(&self, method: &http::Method, route: &str, status: u16, elapsed: Duration) {
        self.metrics.http_request(method, route, status, elapsed);
    }
}
