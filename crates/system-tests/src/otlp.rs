//! An OTLP/HTTP trace receiver: decodes the protobufs that a process exports and hands the spans to a test.
//!
//! Format: OTLP 1.x, `POST /v1/traces`, `application/x-protobuf`. It does not check semantic conventions; tests do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message;

use crate::limits::{PATIENCE, POLL};
use crate::listener::Listener;

/// A span as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Name.
    pub name: String,
    /// Kind (1 internal, 2 server, 3 client, …).
    pub kind: i32,
    /// Trace id, lower-case hex.
    pub trace_id: String,
    /// Span id, lower-case hex.
    pub span_id: String,
    /// Parent's id, lower-case hex; empty for a root.
    pub parent_id: String,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// The resource's attributes as text.
    pub resource: BTreeMap<String, String>,
    /// Status code: 0 unset, 1 ok, 2 error.
    pub status: i32,
}

#[derive(Debug, Default)]
struct Inner {
    spans: Vec<Span>,
    bodies: Vec<Bytes>,
    refused: Vec<String>,
}

/// A running receiver. Dropping it stops it.
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> std::io::Result<Self> {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.address()?;
        let inner = Arc::<Mutex<Inner>>::default();
        let router = Router::new().route("/v1/traces", post(traces)).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, inner, task })
    }

    /// The endpoint, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// The raw bodies so far, to look for what must not be there.
    #[must_use]
    pub fn bodies(&self) -> Vec<Bytes> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).bodies.clone()
    }

    /// Requests that were not OTLP, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).refused.clone()
    }

    /// Waits until a span fits.
    ///
    /// # Errors
    /// When none comes; the message lists what came.
    pub async fn wait_for(&self, fits: impl Fn(&Span) -> bool) -> anyhow::Result<Span> {
        let found = async {
            loop {
                if let Some(span) = self.spans().into_iter().find(|span| fits(span)) {
                    return span;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let names = || self.spans().into_iter().map(|span| span.name).collect::<Vec<_>>();
        tokio::time::timeout(PATIENCE, found)
            .await
            .map_err(|_| anyhow::anyhow!("no span fits; received {:?}, refused {:?}", names(), self.refused()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn traces(State(inner): State<Arc<Mutex<Inner>>>, headers: HeaderMap, body: Bytes) -> Response {
    let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
    let protobuf = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/x-protobuf");
    let decoded = if protobuf {
        ExportTraceServiceRequest::decode(body.clone()).map_err(|error| error.to_string())
    } else {
        Err("the content type is not application/x-protobuf".to_owned())
    };
    match decoded {
        Ok(request) => {
            inner.spans.extend(spans(&request));
            inner.bodies.push(body);
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            ([(header::CONTENT_TYPE, "application/x-protobuf")], answer).into_response()
        }
        Err(why) => {
            inner.refused.push(why.clone());
            (StatusCode::BAD_REQUEST, why).into_response()
        }
    }
}

fn spans(request: &ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for group in &request.resource_spans {
        let resource = group.resource.as_ref().map(|resource| texts(&resource.attributes)).unwrap_or_default();
        for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            spans.push(Span {
                name: span.name.clone(),
                kind: span.kind,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                attributes: texts(&span.attributes),
                resource: resource.clone(),
                status: span.status.as_ref().map_or(0, |status| status.code),
            });
        }
    }
    spans
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|pair| (pair.key.clone(), pair.value.as_ref().map(text).unwrap_or_default())).collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::ArrayValue(list)) => list.values.iter().map(text).collect::<Vec<_>>().join(","),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
