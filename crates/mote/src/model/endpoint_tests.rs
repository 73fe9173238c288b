//! Both providers against a server that answers as it is told, byte for byte, over loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::limits::{MODEL_ERROR_BYTES_MAX, MODEL_EVENT_BYTES_MAX, MODEL_LINGER_MS, MODEL_REPLY_BYTES_MAX};
use crate::message::Part;
use crate::model::anthropic::Anthropic;
use crate::model::config;
use crate::model::openai::OpenAi;
use crate::model::test_support::{configured, request};
use crate::model::transport::Client;
use crate::model::{Delta, Error, ErrorKind, Finish, Provider, Reply, Request};
use crate::secret::SecretValue;
use crate::usage::Usage;

const KEY: &str = "sk-test-0123456789";

/// What the server does after a request.
#[derive(Clone)]
enum Then {
    /// Waits for the next request on the connection.
    Go,
    /// Closes it.
    Close,
    /// Keeps it open and says no more.
    Hang,
}

struct Server {
    origin: String,
    /// Heads and bodies, as they came.
    asked: Arc<Mutex<Vec<(String, String)>>>,
    connections: Arc<Mutex<usize>>,
}

async fn serve(answer: impl Into<Vec<u8>>, then: Then) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let server = Server { origin, asked: Arc::default(), connections: Arc::default() };
    let (asked, connections) = (server.asked.clone(), server.connections.clone());
    let answer: Arc<[u8]> = answer.into().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            *connections.lock().unwrap() += 1;
            let (asked, answer, then) = (asked.clone(), answer.clone(), then.clone());
            tokio::spawn(async move {
                while let Some(request) = read_request(&mut stream).await {
                    asked.lock().unwrap().push(request);
                    // The client may have had enough and gone.
                    let _ = stream.write_all(&answer).await;
                    match then {
                        Then::Go => {}
                        Then::Close => return,
                        Then::Hang => std::future::pending().await,
                    }
                }
            });
        }
    });
    server
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
        if body.len() >= length {
            return Some((head, body.to_owned()));
        }
    }
}

fn chunked(body: &str) -> String {
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"
    )
}

/// A whole event stream.
fn stream(body: &str) -> String {
    format!("{}0\r\n\r\n", chunked(body))
}

fn status(line: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn client() -> Client {
    Client::new(crate::tls::client_config(None).unwrap())
}

fn model(provider: config::Provider, origin: &str) -> config::Model {
    configured(provider, origin)
}

fn anthropic(origin: &str) -> Anthropic {
    let key = Some(SecretValue::new(KEY));
    Anthropic::new(&model(config::Provider::Anthropic, origin), key, client(), Arc::new(crate::clock::System)).unwrap()
}

fn openai(origin: &str) -> OpenAi {
    let key = Some(SecretValue::new(KEY));
    let base = format!("{origin}/v1");
    OpenAi::new(&model(config::Provider::OpenAi, &base), key, client(), Arc::new(crate::clock::System)).unwrap()
}

async fn ask(provider: &dyn Provider, request: &Request) -> (Result<Reply, Error>, Vec<Delta>) {
    let mut seen = Vec::new();
    let reply = provider.complete(request, &mut |delta| seen.push(delta)).await;
    (reply, seen)
}

/// The error of one call of an Anthropic endpoint that answers so.
async fn anthropic_error(answer: impl Into<Vec<u8>>, then: Then) -> Error {
    let server = serve(answer, then).await;
    ask(&anthropic(&server.origin), &request("x")).await.0.unwrap_err()
}

async fn openai_error(answer: impl Into<Vec<u8>>, then: Then) -> Error {
    let server = serve(answer, then).await;
    ask(&openai(&server.origin), &request("x")).await.0.unwrap_err()
}

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hel"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"lo"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":12}}

event: message_stop
data: {"type":"message_stop"}

"#;

const OPENAI: &str = r#"data: {"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"get","arguments":"{\"id\":1}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":32}}}

"#;

#[tokio::test]
async fn anthropic_replies_and_what_was_asked() {
    let server = serve(stream(ANTHROPIC), Then::Go).await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let asked = Request { traceparent: Some(traceparent.into()), ..request("hi") };
    let (reply, seen) = ask(&anthropic(&server.origin), &asked).await;
    let reply = reply.unwrap();
    assert_eq!(reply.message.plain_text(), "Hello");
    let Part::Reasoning { opaque: Some(opaque), .. } = &reply.message.parts[0] else { unreachable!("reasoning first") };
    assert_eq!(opaque["signature"], "c2ln", "a signature without a word is kept");
    assert_eq!(reply.usage, Some(Usage { input: 100, cache_read: 90, output: 12, ..Usage::default() }));
    assert_eq!(
        (reply.finish, reply.provider.as_str(), reply.model.as_str()),
        (Finish::Stop, "anthropic", "test-model")
    );
    assert_eq!(seen, [Delta::Text("Hel".into()), Delta::Text("lo".into())]);

    let (head, body) = server.asked.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("post /v1/messages http/1.1\r\n"), "{head}");
    for line in [&format!("x-api-key: {KEY}"), "anthropic-version: 2023-06-01", &format!("traceparent: {traceparent}")]
    {
        assert!(head.lines().any(|l| l == line), "{line} in {head}");
    }
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["messages"][0]["role"], "user");

    // The next turn returns the reasoning to where it came from.
    let mut next = asked;
    next.messages.push(reply.message);
    ask(&anthropic(&server.origin), &next).await.0.unwrap();
    let (_, body) = server.asked.lock().unwrap().pop().unwrap();
    let thinking = json!({"type": "thinking", "thinking": "", "signature": "c2ln"});
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["messages"][1]["content"][0], thinking);
}

#[tokio::test]
async fn openai_replies_and_what_was_asked() {
    let server = serve(stream(&format!("{OPENAI}data: [DONE]\n\n")), Then::Go).await;
    let (reply, seen) = ask(&openai(&server.origin), &request("hi")).await;
    let reply = reply.unwrap();
    let call = Part::Call { id: "c1".into(), name: "get".into(), arguments: "{\"id\":1}".into(), opaque: None };
    assert_eq!(reply.message.parts.last(), Some(&call));
    assert_eq!(reply.usage, Some(Usage { input: 50, cache_read: 32, output: 9, ..Usage::default() }));
    assert_eq!(reply.finish, Finish::ToolCalls);
    assert_eq!(seen, [Delta::Reasoning("hm".into()), Delta::Call { name: "get".into() }]);
    let (head, _) = server.asked.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: bearer {KEY}")));
    assert!(head.contains("accept-encoding: identity"), "{head}");
}

#[tokio::test]
async fn a_finished_stream_gives_its_connection_back() {
    let server = serve(stream(ANTHROPIC), Then::Go).await;
    let provider = anthropic(&server.origin);
    for _ in 0..3 {
        ask(&provider, &request("x")).await.0.unwrap();
    }
    assert_eq!(*server.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn statuses_are_mapped_and_retry_after_is_read() {
    let error = anthropic_error(
        status(
            "429 Too Many Requests",
            "retry-after: 7\r\n",
            r#"{"error":{"type":"rate_limit_error","message":"slow"}}"#,
        ),
        Then::Go,
    )
    .await;
    assert_eq!((error.kind, error.retry_after), (ErrorKind::RateLimited, Some(Duration::from_secs(7))));
    let error = openai_error(status("503 Service Unavailable", "retry-after-ms: 20\r\n", ""), Then::Go).await;
    assert_eq!((error.kind, error.retry_after), (ErrorKind::Overloaded, Some(Duration::from_millis(20))));
    let error = anthropic_error(status("529 Overloaded", "", ""), Then::Go).await;
    assert_eq!(error.kind, ErrorKind::Overloaded);
    let error = openai_error(status("500 Internal Server Error", "", "boom"), Then::Go).await;
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Broken, "HTTP 500: boom"));
    let long = r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    assert_eq!(openai_error(status("400 Bad Request", "", long), Then::Go).await.kind, ErrorKind::ContextLength);
}

#[tokio::test]
async fn errors_name_the_endpoint_and_never_the_key() {
    let body = json!({"error": {"message": format!("Incorrect API key provided: {KEY}.")}}).to_string();
    let error = openai_error(status("401 Unauthorized", "", &body), Then::Go).await;
    assert_eq!(error.kind, ErrorKind::Rejected);
    let text = error.to_string();
    assert!(text.starts_with("failed to call model test-model at http://127.0.0.1:"), "{text}");
    assert!(text.ends_with(": HTTP 401: Incorrect API key provided: [key]."), "{text}");
    assert!(!format!("{error:?}").contains(KEY));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = serve(stream(ANTHROPIC), Then::Go).await;
    let location = format!("location: {}/v1/messages\r\n", elsewhere.origin);
    let error = anthropic_error(status("307 Temporary Redirect", &location, ""), Then::Go).await;
    assert_eq!(error.kind, ErrorKind::Rejected);
    assert_eq!(*elsewhere.connections.lock().unwrap(), 0, "the key would have gone there");
}

#[tokio::test]
async fn an_endless_error_body_is_cut() {
    let body = "x".repeat(MODEL_ERROR_BYTES_MAX * 4);
    let head = "HTTP/1.1 500 Internal Server Error\r\ntransfer-encoding: chunked\r\n\r\n";
    let error = openai_error(format!("{head}{:x}\r\n{body}\r\n", body.len()), Then::Hang).await;
    assert_eq!(error.kind, ErrorKind::Broken);
}

#[tokio::test]
async fn an_error_body_that_is_whole_is_not_waited_out() {
    let body = r#"{"error":{"message":"slow down"}}"#;
    let answer = format!("HTTP/1.1 429 Too Many Requests\r\n\r\n{body}");
    // Silence is borne for a minute there.
    assert_eq!(openai_error(answer, Then::Hang).await.message, "HTTP 429: slow down");
}

#[tokio::test]
async fn an_error_within_a_stream_is_what_it_says() {
    let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let begun = ANTHROPIC.split_once("event: message_delta").unwrap().0;
    let error = anthropic_error(stream(&format!("{begun}{overloaded}")), Then::Go).await;
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Overloaded, "the endpoint gave up: Overloaded"));
    let error = openai_error(stream("data: {\"error\":{\"message\":\"m\",\"code\":429}}\n\n"), Then::Go).await;
    assert_eq!(error.kind, ErrorKind::RateLimited);
    let json = "content-type: application/json\r\n";
    let error = openai_error(status("200 OK", json, r#"{"error":{"message":"no"}}"#), Then::Go).await;
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Broken, "the endpoint gave up: no"));
    let error = openai_error(status("200 OK", "content-type: text/html\r\n", "<p>Sign in"), Then::Go).await;
    assert_eq!(error.message, "expected an event stream, got text/html");
}

#[tokio::test]
async fn a_truncated_stream_is_broken() {
    let begun = ANTHROPIC.split_once("event: message_delta").unwrap().0;
    let error = anthropic_error(stream(begun), Then::Close).await;
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Broken, "the stream ended before the reply did"));
    assert_eq!(error.usage.map(|usage| usage.input), Some(100), "what it said of its cost is kept");
    let error = anthropic_error(chunked(begun), Then::Close).await;
    assert_eq!(error.kind, ErrorKind::Broken);
    assert!(error.message.starts_with("the stream broke off: "), "{error}");
    let error = openai_error(stream("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"), Then::Go).await;
    assert_eq!((error.kind, error.usage), (ErrorKind::Broken, None));
}

#[tokio::test]
async fn a_finished_reply_is_whole_however_its_stream_ends() {
    let counted = ANTHROPIC.split_once("event: message_stop").unwrap().0;
    for (answer, then) in [(stream(counted), Then::Go), (chunked(counted), Then::Close), (chunked(counted), Then::Hang)]
    {
        let server = serve(answer, then).await;
        let reply = ask(&anthropic(&server.origin), &request("x")).await.0.unwrap();
        assert_eq!((reply.message.plain_text().as_str(), reply.usage.map(|u| u.output)), ("Hello", Some(12)));
    }
    let uncounted = OPENAI.split_once("data: {\"choices\":[],").unwrap().0;
    for (answer, usage) in [(chunked(OPENAI), Some(9)), (chunked(uncounted), None)] {
        let server = serve(answer, Then::Hang).await;
        let configured = configured(config::Provider::OpenAi, &server.origin);
        let configured = config::Model { idle_timeout: Duration::from_secs(600), ..configured };
        let provider = OpenAi::new(&configured, None, client(), Arc::new(crate::clock::System)).unwrap();
        let reply = ask(&provider, &request("x")).await.0.unwrap();
        assert_eq!((reply.finish, reply.usage.map(|usage| usage.output)), (Finish::ToolCalls, usage));
    }
    let unterminated = format!("{OPENAI}data: [DONE]");
    let server = serve(stream(&unterminated), Then::Go).await;
    assert_eq!(ask(&openai(&server.origin), &request("x")).await.0.unwrap().finish, Finish::ToolCalls);
}

#[tokio::test]
async fn a_reason_in_every_event_does_not_cut_the_reply() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        for text in ["a", "b", "c"] {
            let choice = json!({"delta": {"content": text}, "finish_reason": "stop"});
            let usage = json!({"prompt_tokens": 1, "completion_tokens": 1});
            let event = format!("data: {}\n\n", json!({"choices": [choice], "usage": usage}));
            stream.write_all(event.as_bytes()).await.unwrap();
            // Longer than a stream is waited for that is finished and counted.
            tokio::time::sleep(Duration::from_millis(MODEL_LINGER_MS + 100)).await;
        }
    });
    assert_eq!(ask(&openai(&origin), &request("x")).await.0.unwrap().message.plain_text(), "abc");
}

#[tokio::test]
async fn a_whole_answer_is_taken_for_a_stream_whatever_its_type() {
    let body = json!({
        "object": "chat.completion", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    });
    for (kind, then) in [("application/json", Then::Go), ("text/event-stream", Then::Close)] {
        let server = serve(status("200 OK", &format!("content-type: {kind}\r\n"), &body.to_string()), then).await;
        let (reply, seen) = ask(&openai(&server.origin), &request("x")).await;
        assert_eq!(reply.unwrap().usage, Some(Usage { input: 3, output: 2, ..Usage::default() }), "{kind}");
        assert_eq!(seen, [Delta::Text("Hi".into())]);
    }
    // Its end is known from the text itself.
    let open =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.to_string().len());
    let server = serve(open, Then::Hang).await;
    assert_eq!(ask(&openai(&server.origin), &request("x")).await.0.unwrap().message.plain_text(), "Hi");
    let untyped = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{ANTHROPIC}", ANTHROPIC.len());
    let server = serve(untyped, Then::Go).await;
    assert_eq!(ask(&anthropic(&server.origin), &request("x")).await.0.unwrap().message.plain_text(), "Hello");
}

#[tokio::test]
async fn an_encoded_answer_is_refused_by_name() {
    let error = openai_error(status("200 OK", "content-encoding: gzip\r\n", "\u{1f}"), Then::Go).await;
    assert_eq!(error.kind, ErrorKind::Rejected);
    assert!(error.message.starts_with("the answer is encoded as gzip"), "{error}");
    let error = openai_error(status("500 Internal Server Error", "content-encoding: br\r\n", "\u{1f}"), Then::Go).await;
    assert!(error.message.ends_with("encoded as br)"), "{error}");
}

#[tokio::test]
async fn openai_streams_may_end_without_done_once_finished() {
    let server = serve(stream(OPENAI), Then::Go).await;
    assert_eq!(ask(&openai(&server.origin), &request("x")).await.0.unwrap().finish, Finish::ToolCalls);
}

#[tokio::test]
async fn malformed_events_are_broken() {
    for body in ["data: {\"choices\": [}\n\n", "data: {\"choices\": 7}\n\n", "data: hello\n\n"] {
        let error = openai_error(stream(body), Then::Go).await;
        assert_eq!(error.kind, ErrorKind::Broken, "{body}");
        assert!(error.message.starts_with("malformed event: "), "{error}");
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    let error = openai_error([head.as_bytes(), b"data: \xff\n\n"].concat(), Then::Go).await;
    assert!(error.message.starts_with("malformed event: "), "{error}");
}

#[tokio::test]
async fn limits_are_named() {
    let long = format!("data: {}\n\n", "x".repeat(MODEL_EVENT_BYTES_MAX + 1));
    let error = anthropic_error(stream(&long), Then::Close).await;
    assert_eq!(error.kind, ErrorKind::Broken);
    assert!(error.message.ends_with(&format!("an event is longer than {MODEL_EVENT_BYTES_MAX} bytes")), "{error}");
    let text = "y".repeat(MODEL_EVENT_BYTES_MAX / 2);
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let events = event.repeat(MODEL_REPLY_BYTES_MAX / text.len() + 1);
    let error = openai_error(stream(&events), Then::Close).await;
    assert_eq!(error.kind, ErrorKind::Broken);
    assert!(error.message.contains("limit MODEL_REPLY_BYTES_MAX"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_unreachable() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let error = ask(&openai(&origin), &request("x")).await.0.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.starts_with("cannot connect: "), "{error}");
    assert!(error.message.contains("refused") && !error.message.contains("/v1"), "{error}");
    // A server that does not speak TLS.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", plain.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = ask(&openai(&origin), &request("x")).await.0.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_reply_comes_over_tls_from_whom_the_ca_vouches_for_and_from_nobody_else() {
    crate::tls::install_provider();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // One of the two clients refuses.
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            tls.read_buf(&mut Vec::new()).await.unwrap();
            tls.write_all(stream(OPENAI).as_bytes()).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, cert.pem()).unwrap();
    for (ca, expected) in [(Some(ca.as_path()), Ok(Finish::ToolCalls)), (None, Err(ErrorKind::Unreachable))] {
        let client = Client::new(crate::tls::client_config(ca).unwrap());
        let model = model(config::Provider::OpenAi, &origin);
        let provider = OpenAi::new(&model, None, client, Arc::new(crate::clock::System)).unwrap();
        let reply = ask(&provider, &request("x")).await.0;
        assert_eq!(reply.map(|reply| reply.finish).map_err(|error| error.kind), expected);
    }
}

#[tokio::test]
async fn silence_times_out() {
    let short = Duration::from_millis(60);
    for (answer, timeout, idle_timeout, says) in [
        (String::new(), short, Duration::from_secs(60), "no whole reply within 60 ms"),
        (
            chunked("data: {\"choices\":[]}\n\n"),
            Duration::from_secs(60),
            short,
            "nothing came in the stream within 60 ms",
        ),
    ] {
        let server = serve(answer, Then::Hang).await;
        let configured = configured(config::Provider::OpenAi, &server.origin);
        let configured = config::Model { timeout, idle_timeout, ..configured };
        let provider = OpenAi::new(&configured, None, client(), Arc::new(crate::clock::System)).unwrap();
        let error = ask(&provider, &request("x")).await.0.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::TimedOut, says));
    }
}
