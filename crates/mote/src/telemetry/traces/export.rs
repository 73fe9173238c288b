//! Exporting finished spans over OTLP/HTTP with protobuf: a bounded queue and one task on the service's runtime.
//!
//! Retrying is done here, because the exporter's own would put an async worker to sleep. A queue that is full drops
//! spans and counts them; nothing waits for a collector.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Service;
use crate::limits::{
    COLLECTOR_ANSWER_BYTES_MAX, SPAN_BATCH, SPAN_DELAY, SPAN_EXPORT_ATTEMPTS, SPAN_EXPORT_TIMEOUT, SPAN_QUEUE,
    SPAN_RETRY_DELAY,
};
use crate::telemetry::metrics::Metrics;
use crate::tls;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is no URL or asks for what is not built in.
    #[error("telemetry.otlp: {0}")]
    Endpoint(String),
    /// There is no HTTP client.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// It needs a runtime to run on.
    #[error("failed to export traces: there is no tokio runtime here")]
    NoRuntime,
}

/// Where finished spans go.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// Starts the exporting task on the current runtime. `endpoint` is the collector's base URL; `/v1/traces` is added
    /// unless it is there. Headers come from `OTEL_EXPORTER_OTLP_HEADERS`, as the exporter's specification says.
    pub(super) fn start(endpoint: &str, service: &Service<'_>, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let url = reqwest::Url::parse(endpoint).map_err(|error| Error::Endpoint(error.to_string()))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(Error::Endpoint("it must begin with http:// or https://".to_owned()));
        }
        let base = endpoint.trim_end_matches('/');
        let target = if base.ends_with("/v1/traces") { base.to_owned() } else { format!("{base}/v1/traces") };
        let client = tls::http_client(None)?
            .timeout(SPAN_EXPORT_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|error| tls::Error::Client(error.to_string()))?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(client))
            .with_endpoint(target)
            .with_timeout(SPAN_EXPORT_TIMEOUT)
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| Error::Endpoint(error.to_string()))?;
        exporter.set_resource(&resource(service));
        let (spans, received) = mpsc::channel(SPAN_QUEUE);
        let (flushes, asked) = mpsc::channel(1);
        let task = Task { exporter, spans: received, flushes: asked, metrics: metrics.clone(), failing: false };
        runtime.spawn(task.run());
        Ok(Self { spans, flushes, metrics })
    }

    pub(super) fn push(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans("dropped", 1);
        }
    }

    /// Exports what is queued now, at most for `within`.
    pub(super) async fn flush(&self, within: Duration) {
        let (done, exported) = oneshot::channel();
        let flush = async {
            if self.flushes.send(done).await.is_ok() {
                let _ = exported.await;
            }
        };
        let _ = tokio::time::timeout(within, flush).await;
    }
}

fn resource(service: &Service<'_>) -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service.name.to_owned()),
            KeyValue::new("service.version", service.version.to_owned()),
            KeyValue::new("service.instance.id", service.instance.to_owned()),
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
        ])
        .build()
}

struct Task {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    metrics: Arc<Metrics>,
    failing: bool,
}

impl Task {
    /// Runs until every queue handle is gone, then exports what is left.
    async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let mut flush = None;
            let mut deadline = None;
            while batch.len() < SPAN_BATCH && flush.is_none() {
                let room = SPAN_BATCH - batch.len();
                tokio::select! {
                    received = self.spans.recv_many(&mut batch, room) => {
                        if received == 0 {
                            self.export(&mut batch).await;
                            return;
                        }
                        deadline.get_or_insert_with(|| Instant::now() + SPAN_DELAY);
                    }
                    Some(done) = self.flushes.recv() => flush = Some(done),
                    () = sleep_until(deadline) => break,
                }
            }
            if let Some(done) = flush {
                while let Ok(span) = self.spans.try_recv() {
                    batch.push(span);
                    if batch.len() >= SPAN_BATCH {
                        self.export(&mut batch).await;
                    }
                }
                self.export(&mut batch).await;
                let _ = done.send(());
            } else {
                self.export(&mut batch).await;
            }
        }
    }

    async fn export(&mut self, batch: &mut Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let mut attempt = 1;
        let outcome = loop {
            let export = self.exporter.export(batch.clone());
            let outcome = match tokio::time::timeout(SPAN_EXPORT_TIMEOUT, export).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            if outcome.is_ok() || attempt >= SPAN_EXPORT_ATTEMPTS {
                break outcome;
            }
            attempt += 1;
            tokio::time::sleep(SPAN_RETRY_DELAY).await;
        };
        batch.clear();
        match outcome {
            Ok(()) => {
                self.metrics.spans("exported", count);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("traces are exported again");
                }
            }
            Err(error) => {
                self.metrics.spans("failed", count);
                // Once an outage, not once a batch.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(error, "failed to export traces; spans are lost until the collector answers");
                }
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The exporter's HTTP, over the client that everything else uses too.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut response = self.0.execute(request.try_into()?).await?;
        let mut answer = Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            *headers = response.headers().clone();
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > COLLECTOR_ANSWER_BYTES_MAX {
                return Err(format!("the collector's answer is longer than {COLLECTOR_ANSWER_BYTES_MAX} bytes").into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(answer.body(body.into())?)
    }
}
