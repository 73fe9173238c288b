//! Spans as a collector receives them: a real OTLP receiver on loopback decodes the protobufs.

use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::clock::System;
use crate::message::{Message, Role};
use crate::model::{ErrorKind, Finish};
use crate::tools::FailureKind;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SOON: Duration = Duration::from_secs(10);

type Received = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// Refuses the first `refusals` exports with 503.
async fn collector(refusals: usize) -> (String, Received) {
    let received = Received::default();
    let state = (received.clone(), Arc::new(Mutex::new(refusals)));
    type Shared = (Received, Arc<Mutex<usize>>);
    async fn take(State((received, refusals)): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let mut left = refusals.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        received.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
        StatusCode::OK
    }
    let router = Router::new().route("/v1/traces", post(take)).with_state(state);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, received)
}

fn spans(received: &Received) -> Vec<Span> {
    let requests = received.lock().unwrap();
    let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|spans| &spans.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value?;
    Some(match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(value) => value.to_string(),
        any_value::Value::ArrayValue(array) => format!("{:?}", array.values.len()),
        other => format!("{other:?}"),
    })
}

async fn tracer(url: &str, content: bool, semconv: Semconv) -> (Tracer, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new("0", 0));
    let service = Service { name: "triage", version: "1.4.0", instance: "w1" };
    let tracer = Tracer::start(url, content, semconv, &service, metrics.clone(), Arc::new(System)).unwrap();
    (tracer, metrics)
}

fn start<'a>(labels: &'a BTreeMap<String, String>, traceparent: Option<&'a str>) -> RunStart<'a> {
    RunStart {
        task: "task_1",
        session: Some("s1"),
        agent: "triage",
        agent_version: "1.4.0",
        agent_description: "Sorts.",
        provider: "openai",
        model: "gpt",
        tenant: "acme",
        user: Some("u1"),
        labels,
        epoch: 2,
        traceparent,
    }
}

fn request() -> Request {
    Request {
        system: "You sort.".into(),
        messages: vec![Message::text(Role::User, "secret question")],
        tools: [].into(),
        output_schema: None,
        output_tokens_max: 100,
        task: "task_1".to_owned(),
        step: 1,
        attempt: 1,
        endpoint: 0,
        traceparent: None,
    }
}

fn usage() -> Usage {
    Usage { input: 10, cache_read: 4, cache_write: 1, output: 5, reasoning: 2 }
}

/// One run with a model call, a failed model call and a tool call, as the runner would record it.
fn record_a_run(tracer: &Tracer, traceparent: Option<&str>) {
    let labels = BTreeMap::from([("team".to_owned(), "ops".to_owned())]);
    let run = tracer.run_span(&start(&labels, traceparent));
    let reply = Reply {
        message: Message::text(Role::Assistant, "secret answer"),
        finish: Finish::Stop,
        usage: Some(usage()),
        provider: "openai".to_owned(),
        model: "gpt-backup".to_owned(),
    };
    let call = run.model_call("openai", "gpt", "https://api.example/v1", &request());
    call.end(Ok(&reply), Some(Duration::from_millis(30)));
    let error = model::Error {
        kind: ErrorKind::RateLimited,
        model: "gpt".to_owned(),
        endpoint: String::new(),
        message: String::new(),
        retry_after: None,
        began: false,
        usage: None,
        answer: model::Answer::default(),
    };
    run.model_call("openai", "gpt", "https://api.example/v1", &request()).end(Err(&error), None);
    let arguments = json!({"card": "secret argument"});
    let tool = ToolStart {
        name: "pay",
        description: "Pays.",
        call_id: "call_1",
        step: 1,
        attempt: 1,
        effect: Effect::Write,
        arguments: &arguments,
    };
    let failure =
        Failure { kind: FailureKind::Unknown, tool: "pay".to_owned(), message: String::new(), retry_after: None };
    run.tool_call(&tool).end(&Err(failure));
    run.end(&RunEnd { status: "completed", error: None, usage: &usage(), cost_nano_usd: 1234, steps: 1 });
}

#[tokio::test]
async fn a_run_is_a_trace_in_the_conventions_form() {
    let (url, received) = collector(0).await;
    let (tracer, metrics) = tracer(&url, false, Semconv::V1_41).await;
    record_a_run(&tracer, Some(PARENT));
    tracer.flush(SOON).await;

    let spans = spans(&received);
    let names: Vec<_> = spans.iter().map(|span| (span.name.as_str(), span.kind)).collect();
    assert_eq!(names, [("chat gpt", 3), ("chat gpt", 3), ("execute_tool pay", 1), ("invoke_agent triage", 1)]);
    let run = &spans[3];
    assert!(spans.iter().all(|span| format!("{:032x}", to_u128(&span.trace_id)) == PARENT[3..35]));
    assert_eq!(format!("{:016x}", to_u128(&run.parent_span_id)), PARENT[36..52]);
    assert!(spans[..3].iter().all(|span| span.parent_span_id == run.span_id));
    for (span, key, expected) in [
        (run, "gen_ai.operation.name", "invoke_agent"),
        (run, "gen_ai.agent.name", "triage"),
        (run, "gen_ai.conversation.id", "s1"),
        (run, "mote.task.id", "task_1"),
        (run, "mote.tenant", "acme"),
        (run, "user.id", "u1"),
        (run, "mote.label.team", "ops"),
        (run, "gen_ai.usage.input_tokens", "10"),
        (run, "mote.cost_nano_usd", "1234"),
        (run, "gen_ai.provider.name", "openai"),
        (&spans[0], "gen_ai.request.model", "gpt"),
        (&spans[0], "gen_ai.response.model", "gpt-backup"),
        (&spans[0], "gen_ai.usage.cache_read.input_tokens", "4"),
        (&spans[0], "gen_ai.response.finish_reasons", "1"),
        (&spans[0], "server.address", "api.example"),
        (&spans[0], "server.port", "443"),
        (&spans[1], "error.type", "rate_limited"),
        (&spans[2], "gen_ai.tool.call.id", "call_1"),
        (&spans[2], "error.type", "unknown"),
        (&spans[2], "mote.tool.effect", "write"),
    ] {
        assert_eq!(attribute(span, key).as_deref(), Some(expected), "{key}");
    }
    assert_eq!(spans[1].status.clone().unwrap().code, 2);
    let request = received.lock().unwrap()[0].clone();
    let resource = request.resource_spans[0].resource.clone().unwrap();
    assert!(resource.attributes.iter().any(|pair| pair.key == "service.name"));
    assert_eq!(request.resource_spans[0].scope_spans[0].schema_url, "https://opentelemetry.io/schemas/1.41.0");
    assert!(metrics.render().contains("mote_spans_total{result=\"exported\"} 4"));
}

fn to_u128(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| (number << 8) | u128::from(*byte))
}

#[tokio::test]
async fn content_is_recorded_only_when_it_is_turned_on() {
    for content in [false, true] {
        let (url, received) = collector(0).await;
        let (tracer, _) = tracer(&url, content, Semconv::V1_41).await;
        record_a_run(&tracer, None);
        tracer.flush(SOON).await;
        let text = format!("{:?}", spans(&received));
        for secret in ["secret question", "secret answer", "secret argument", "You sort."] {
            assert_eq!(text.contains(secret), content, "{secret}");
        }
    }
}

#[tokio::test]
async fn the_newer_conventions_are_an_opt_in() {
    assert_eq!(Semconv::from_opt_in("http, gen_ai_latest_experimental"), Semconv::Latest);
    assert_eq!(Semconv::from_opt_in(""), Semconv::V1_41);
    let (url, received) = collector(0).await;
    let (tracer, _) = tracer(&url, false, Semconv::Latest).await;
    record_a_run(&tracer, None);
    tracer.flush(SOON).await;
    let spans = spans(&received);
    assert_eq!(attribute(&spans[3], "gen_ai.provider.name"), None);
    assert_eq!(attribute(&spans[0], "gen_ai.request.stream").as_deref(), Some("true"));
    assert_eq!(attribute(&spans[0], "gen_ai.usage.reasoning.output_tokens").as_deref(), Some("2"));
    assert!(attribute(&spans[0], "gen_ai.response.time_to_first_chunk").is_some());
}

#[tokio::test]
async fn a_resumed_run_stays_in_its_trace() {
    let (url, received) = collector(0).await;
    let (first, _) = tracer(&url, false, Semconv::V1_41).await;
    let (second, _) = tracer(&url, false, Semconv::V1_41).await;
    record_a_run(&first, None);
    record_a_run(&second, None);
    first.flush(SOON).await;
    second.flush(SOON).await;
    let spans = spans(&received);
    assert_eq!(spans.len(), 8);
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id));
    let runs: Vec<_> = spans.iter().filter(|span| span.name == "invoke_agent triage").collect();
    assert_ne!(runs[0].span_id, runs[1].span_id);
}

#[tokio::test]
async fn the_callers_sampling_flag_is_followed() {
    let (url, received) = collector(0).await;
    let (tracer, _) = tracer(&url, false, Semconv::V1_41).await;
    let unsampled = PARENT.replace("-01", "-00");
    record_a_run(&tracer, Some(&unsampled));
    let labels = BTreeMap::new();
    let run = tracer.run_span(&start(&labels, Some(&unsampled)));
    assert_eq!(run.traceparent(), Some(unsampled.clone()));
    drop(run);
    tracer.flush(SOON).await;
    assert!(spans(&received).is_empty());
}

#[tokio::test]
async fn without_a_collector_the_context_is_passed_on() {
    let tracer = Tracer::off(Arc::new(System));
    let labels = BTreeMap::new();
    let run = tracer.run_span(&start(&labels, Some(PARENT)));
    let call = run.model_call("openai", "gpt", "https://api.example", &request());
    assert_eq!((run.traceparent().as_deref(), call.traceparent().as_deref()), (Some(PARENT), Some(PARENT)));
    assert_eq!(tracer.run_span(&start(&labels, None)).traceparent(), None);
    assert_eq!(tracer.run_span(&start(&labels, Some("nonsense"))).traceparent(), None);
    tracer.flush(SOON).await;
}

#[tokio::test]
async fn each_hop_gets_its_own_parent_and_a_dropped_span_is_abandoned() {
    let (url, received) = collector(0).await;
    let (tracer, _) = tracer(&url, false, Semconv::V1_41).await;
    let labels = BTreeMap::new();
    let run = tracer.run_span(&start(&labels, Some(PARENT)));
    let call = run.model_call("openai", "gpt", "https://api.example", &request());
    let (outer, inner) = (run.traceparent().unwrap(), call.traceparent().unwrap());
    assert_eq!((&outer[..36], &outer[52..]), (&inner[..36], &inner[52..]));
    assert_ne!(outer, inner);
    drop(call);
    drop(run);
    tracer.flush(SOON).await;
    let spans = spans(&received);
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| attribute(span, "error.type").as_deref() == Some("abandoned")));
    assert_eq!(format!("{:016x}", to_u128(&spans[0].span_id)), inner[36..52]);
}

#[tokio::test]
async fn an_export_that_is_refused_is_tried_again() {
    let (url, received) = collector(1).await;
    let (tracer, metrics) = tracer(&url, false, Semconv::V1_41).await;
    record_a_run(&tracer, None);
    tracer.flush(SOON).await;
    assert_eq!(spans(&received).len(), 4);
    assert!(!metrics.render().contains("result=\"failed\""));
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let (url, _) = collector(0).await;
    let (tracer, metrics) = tracer(&url, false, Semconv::V1_41).await;
    // The exporting task does not run until this one yields.
    for _ in 0..=crate::limits::SPAN_QUEUE / 4 {
        record_a_run(&tracer, None);
    }
    assert!(metrics.render().contains("mote_spans_total{result=\"dropped\"} 4"), "{}", metrics.render());
}

#[tokio::test]
async fn an_unusable_endpoint_is_named() {
    let metrics = Arc::new(Metrics::new("0", 0));
    let service = Service { name: "a", version: "1", instance: "w" };
    for endpoint in ["collector:4318", "ftp://x", ""] {
        let result = Tracer::start(endpoint, false, Semconv::V1_41, &service, metrics.clone(), Arc::new(System));
        assert!(result.err().unwrap().to_string().starts_with("telemetry.otlp: "), "{endpoint}");
    }
}
