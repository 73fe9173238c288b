//! HTTP tools against real servers on loopback: what is sent, what is refused, what is said about failures.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::secret::Secret;
use crate::tools::config::{HeaderValue, HttpTool};
use crate::tools::policy::network::Private;
use crate::tools::policy::resolver::Lookup;

const SECRET: &str = "s3cr3t-0123456789";

/// A request as a backend saw it.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    headers: axum::http::HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Answer = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;

/// A backend that keeps what it saw.
struct Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Backend {
    async fn start(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let state: (Answer, Arc<Mutex<Vec<Seen>>>) = (Arc::new(answer), seen.clone());
        let router = Router::new().fallback(serve).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn serve(State((answer, seen)): State<(Answer, Arc<Mutex<Vec<Seen>>>)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let request = Seen { line: format!("{} {}", parts.method, parts.uri), headers: parts.headers, body };
    seen.lock().unwrap().push(request.clone());
    answer(&request)
}

/// Every name is at one address; counts how often it is asked.
struct Fixed {
    address: IpAddr,
    asked: AtomicUsize,
}

#[async_trait]
impl Lookup for Fixed {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if host.ends_with(".missing") {
            return Err(std::io::Error::other("no such name"));
        }
        Ok(vec![self.address])
    }
}

fn loopback() -> Arc<Fixed> {
    Arc::new(Fixed { address: IpAddr::from([127, 0, 0, 1]), asked: AtomicUsize::new(0) })
}

fn declared(method: &str, url: String, effect: Effect) -> HttpTool {
    HttpTool {
        name: "t".to_owned(),
        version: "1.0.0".to_owned(),
        description: String::new(),
        method: method.to_owned(),
        url,
        headers: BTreeMap::new(),
        input: json!({"type": "object"}),
        effect,
        timeout: Duration::from_secs(5),
        output_max: 1000,
        key_ttl: None,
        allow_hosts: Vec::new(),
        allow_private: Private::All,
        approval: false,
    }
}

fn built(tool: &HttpTool) -> Http {
    Http::build(tool, Arc::new(Clients::new(loopback()))).unwrap()
}

/// An HTTP tool suspends nothing.
fn answered(result: Result<Progress, Failure>) -> Result<Output, Failure> {
    result.map(|progress| match progress {
        Progress::Answered(output) => output,
        Progress::Suspended(suspension) => panic!("{suspension:?}"),
    })
}

async fn call(tool: &HttpTool, arguments: Value) -> Result<Output, Failure> {
    answered(built(tool).call(invocation(arguments)).await)
}

fn invocation(arguments: Value) -> Invocation {
    Invocation {
        tenant: String::new(),
        session: None,
        task: "task_1".to_owned(),
        call_id: "call_1".to_owned(),
        key: "abc123".to_owned(),
        arguments,
        attempt: 1,
        lease: crate::tools::LeaseGuard::always(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

/// A secret in a file of its own; the file is gone once the tool is built.
struct SecretFile(std::path::PathBuf);

impl SecretFile {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mote-http-{}-{name}", std::process::id()));
        std::fs::write(&path, format!("{SECRET}\n")).unwrap();
        Self(path)
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::Secret { prefix: "Bearer ".to_owned(), secret: Secret::File(self.0.clone()) }
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn redirect(status: u16, location: String) -> Response {
    (StatusCode::from_u16(status).unwrap(), [(header::LOCATION, location)]).into_response()
}

#[tokio::test]
async fn a_read_sends_path_query_headers_and_trace() {
    let backend = Backend::start(|_| axum::Json(json!({"ok": true})).into_response()).await;
    let secret = SecretFile::new("read");
    let mut tool = declared("GET", format!("http://api.example:{}/v1/{{id}}", backend.port()), Effect::Read);
    tool.headers.insert("Authorization".to_owned(), secret.header());
    tool.headers.insert("X-Plain".to_owned(), HeaderValue::Literal("p".to_owned()));
    let output = call(&tool, json!({"id": "a/b", "tags": ["x", "y z"], "n": 3, "none": null, "o": {"k": 1}})).await;
    assert_eq!(output.unwrap(), Output::free(r#"{"ok":true}"#, false));
    let seen = backend.seen().remove(0);
    assert_eq!(seen.line, "GET /v1/a%2Fb?tags=x&tags=y+z&n=3&o=%7B%22k%22%3A1%7D");
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    assert_eq!(seen.header("x-plain"), Some("p"));
    assert_eq!(seen.header("traceparent"), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    assert_eq!(seen.header("idempotency-key"), None);
    assert_eq!(seen.header("host"), Some(format!("api.example:{}", backend.port()).as_str()));
}

#[tokio::test]
async fn what_the_url_leaves_over_is_the_body_and_the_key_is_quoted() {
    let backend = Backend::start(|_| StatusCode::CREATED.into_response()).await;
    let url = format!("http://api.example:{}/orders/{{id}}", backend.port());
    for (effect, key) in [(Effect::Idempotent, Some("\"abc123\"")), (Effect::Write, None)] {
        let tool = declared("POST", url.clone(), effect);
        let written = r#"{"note":"é","id":7,"amount":12345678901234567890.10,"at":{"z":1,"a":2}}"#;
        let output = call(&tool, serde_json::from_str(written).unwrap()).await.unwrap();
        assert!(output.content.contains("HTTP 201"), "{output:?}");
        let seen = backend.seen().pop().unwrap();
        assert_eq!(seen.line, "POST /orders/7");
        assert_eq!(seen.body, r#"{"note":"é","amount":12345678901234567890.10,"at":{"z":1,"a":2}}"#);
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!(seen.header("idempotency-key"), key);
    }
}

#[tokio::test]
async fn private_addresses_need_the_exception() {
    let backend = Backend::start(|_| "in".into_response()).await;
    let named = declared("GET", format!("http://inside.example:{}/", backend.port()), Effect::Read);
    let refused = HttpTool { allow_private: Private::None, ..named.clone() };
    let failure = call(&refused, json!({})).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
    assert!(failure.message.contains("127.0.0.1 of inside.example is loopback"), "{failure}");
    assert!(backend.seen().is_empty());
    assert_eq!(call(&named, json!({})).await.unwrap().content, "in");

    let literal = declared("GET", format!("http://{}/", backend.address), Effect::Read);
    let error = Http::build(&HttpTool { allow_private: Private::None, ..literal.clone() }, Arc::default()).unwrap_err();
    assert_eq!(error.field, "http.url");
    assert_eq!(call(&literal, json!({})).await.unwrap().content, "in");
}

#[tokio::test]
async fn the_vetted_address_is_the_one_that_is_used() {
    // A rebinding name answers differently when asked again: it is asked once, and what was vetted is connected to.
    let backend = Backend::start(|_| "in".into_response()).await;
    let tool = declared("GET", format!("http://rebind.example:{}/", backend.port()), Effect::Read);
    let lookup = loopback();
    let http = Http::build(&tool, Arc::new(Clients::new(lookup.clone()))).unwrap();
    assert_eq!(answered(http.call(invocation(json!({}))).await).unwrap().content, "in");
    assert_eq!(lookup.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_redirect_leads_only_where_the_allowlist_says_and_secrets_stay_at_home() {
    let other = Backend::start(|_| "other".into_response()).await;
    let target = format!("http://other.example:{}/landing", other.port());
    let location = target.clone();
    let home = Backend::start(move |_| redirect(302, location.clone())).await;
    let secret = SecretFile::new("redirect");
    let mut tool = declared("GET", format!("http://home.example:{}/", home.port()), Effect::Read);
    tool.headers.insert("X-Api-Key".to_owned(), secret.header());
    tool.headers.insert("Cookie".to_owned(), HeaderValue::Literal("session=1".to_owned()));
    tool.headers.insert("X-Plain".to_owned(), HeaderValue::Literal("p".to_owned()));

    let failure = call(&tool, json!({})).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
    assert!(failure.message.contains("not in the tool's allow_hosts"), "{failure}");
    assert!(other.seen().is_empty(), "the other host was reached");

    tool.allow_hosts = vec![format!("other.example:{}", other.port())];
    assert_eq!(call(&tool, json!({})).await.unwrap().content, "other");
    let seen = other.seen().remove(0);
    assert_eq!(seen.line, "GET /landing");
    assert_eq!((seen.header("x-api-key"), seen.header("cookie"), seen.header("x-plain")), (None, None, Some("p")));
    assert!(home.seen().iter().all(|seen| seen.header("x-api-key").is_some()));
}

#[tokio::test]
async fn a_redirect_to_a_refused_address_is_refused_though_its_host_is_named() {
    let backend = Backend::start(|seen| match seen.line.as_str() {
        "GET /there" => "there".into_response(),
        _ => redirect(302, seen.header("x-to").unwrap().to_owned()),
    })
    .await;
    let port = backend.port();
    for (host, reached) in [("127.0.0.1", true), ("0.0.0.0", false), ("[::ffff:0.0.0.0]", false)] {
        let mut tool = declared("GET", format!("http://home.example:{port}/"), Effect::Read);
        tool.allow_hosts = vec![format!("{host}:{port}")];
        tool.headers.insert("X-To".to_owned(), HeaderValue::Literal(format!("http://{host}:{port}/there")));
        let result = call(&tool, json!({})).await;
        assert_eq!(result.is_ok(), reached, "{host}: {result:?}");
        if let Err(failure) = result {
            assert_eq!(failure.kind, FailureKind::Forbidden, "{failure}");
        }
    }
}

#[tokio::test]
async fn the_metadata_service_and_a_downgrade_are_refused() {
    let mut tool = declared("GET", "https://api.example/".to_owned(), Effect::Read);
    tool.allow_private = Private::None;
    tool.allow_hosts = vec!["169.254.169.254".to_owned(), "cdn.example".to_owned()];
    let http = built(&tool);
    let url = |text: &str| Url::parse(text).unwrap();
    for address in ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://0x7f.1/", "http://2130706433/"]
    {
        assert_eq!(http.vet(&url(address)).unwrap_err().kind, FailureKind::Forbidden, "{address}");
    }
    assert!(http.vet(&url("https://1.1.1.1/")).is_ok());
    let home = url("https://api.example/");
    assert!(http.target(&home, "http://cdn.example/x").unwrap_err().contains("leaves HTTPS"));
    assert!(http.target(&home, "https://u:p@cdn.example/x").unwrap_err().contains("credentials"));
    assert!(http.target(&home, "//evil.example/x").unwrap_err().contains("allow_hosts"));
    assert_eq!(http.target(&home, "https://cdn.example/x#f").unwrap().as_str(), "https://cdn.example/x");
}

#[tokio::test]
async fn methods_survive_only_the_redirects_that_keep_them() {
    for (status, expected) in
        [(307, Some("POST /next")), (308, Some("POST /next")), (303, Some("GET /next")), (301, None), (302, None)]
    {
        let backend = Backend::start(move |seen| match seen.line.as_str() {
            "POST /" => redirect(status, "/next".to_owned()),
            _ => "done".into_response(),
        })
        .await;
        let tool = declared("POST", format!("http://api.example:{}/", backend.port()), Effect::Idempotent);
        let answer = call(&tool, json!({"a": 1})).await;
        let seen = backend.seen();
        match expected {
            Some(line) => {
                let output = answer.unwrap();
                assert_eq!((output.content.as_str(), seen[1].line.as_str()), ("done", line));
                let repeated = line.starts_with("POST");
                assert_eq!(seen[1].header("idempotency-key").is_some(), repeated, "{status}");
                assert_eq!(!seen[1].body.is_empty(), repeated, "{status}");
            }
            None => {
                let failure = answer.unwrap_err();
                assert_eq!(failure.kind, FailureKind::Unknown);
                assert!(failure.message.contains("not followed"), "{failure:?}");
                assert_eq!(seen.len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn after_see_other_nothing_is_reported_as_not_done() {
    let backend = Backend::start(|seen| match seen.line.as_str() {
        "POST /" => redirect(303, "/receipt".to_owned()),
        _ => StatusCode::TOO_MANY_REQUESTS.into_response(),
    })
    .await;
    let tool = declared("POST", format!("http://api.example:{}/", backend.port()), Effect::Write);
    assert_eq!(call(&tool, json!({})).await.unwrap_err().kind, FailureKind::Unknown);
    let away = Backend::start(|_| redirect(303, "http://elsewhere.example/".to_owned())).await;
    let tool = declared("POST", format!("http://api.example:{}/", away.port()), Effect::Write);
    let failure = call(&tool, json!({})).await.unwrap_err();
    assert!(failure.kind == FailureKind::Unknown && failure.message.contains("took the request"), "{failure:?}");
}

#[tokio::test]
async fn a_redirect_that_is_not_followed_leaves_a_write_in_doubt_and_a_read_not() {
    let nowhere = || StatusCode::FOUND.into_response();
    let elsewhere = || redirect(302, "/next".to_owned());
    for answer in [nowhere, elsewhere] {
        let backend = Backend::start(move |_| answer()).await;
        let url = || format!("http://api.example:{}/", backend.port());
        for effect in [Effect::Write, Effect::Idempotent] {
            let failure = call(&declared("POST", url(), effect), json!({})).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Unknown, "{effect:?}: {failure:?}");
        }
        let output = call(&declared("POST", url(), Effect::Read), json!({})).await.unwrap();
        assert!(output.is_error, "{output:?}");
    }
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let backend = Backend::start(|_| redirect(302, "/again".to_owned())).await;
    let tool = declared("GET", format!("http://api.example:{}/", backend.port()), Effect::Read);
    assert_eq!(call(&tool, json!({})).await.unwrap_err().kind, FailureKind::Forbidden);
    assert_eq!(backend.seen().len(), TOOL_REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn bodies_are_bounded_and_binary_is_described() {
    let backend = Backend::start(|seen| match seen.line.as_str() {
        "GET /long" => "é".repeat(5000).into_response(),
        "GET /image" => ([(header::CONTENT_TYPE, "image/png")], vec![0u8; 300]).into_response(),
        "GET /gone" => (StatusCode::NOT_FOUND, "x".repeat(5000)).into_response(),
        _ => ([(header::CONTENT_TYPE, "text/plain")], vec![b'a', 0, b'b']).into_response(),
    })
    .await;
    let get = |path: &str| declared("GET", format!("http://api.example:{}{path}", backend.port()), Effect::Read);
    let long = call(&get("/long"), json!({})).await.unwrap();
    assert!(long.content.len() <= 1000 && long.content.ends_with("longer than 1000 bytes]"), "{}", long.content);
    assert!(!long.content.contains('\u{fffd}'));
    let image = call(&get("/image"), json!({})).await.unwrap();
    assert_eq!(image.content, "(the body is image/png, 300 bytes: not text, not shown)");
    let gone = call(&get("/gone"), json!({})).await.unwrap();
    assert!(gone.is_error && gone.content.starts_with("HTTP 404 Not Found\nxxx") && gone.content.len() <= 1000);
    let nul = call(&get("/nul"), json!({})).await.unwrap();
    assert!(nul.content.contains("not text"), "{}", nul.content);
}

#[tokio::test]
async fn statuses_become_what_is_known() {
    let backend = Backend::start(|seen| {
        let status: u16 = seen.line.rsplit('/').next().unwrap().parse().unwrap();
        (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, "3")], "why").into_response()
    })
    .await;
    let tool = declared("GET", format!("http://api.example:{}/{{status}}", backend.port()), Effect::Read);
    for (status, kind) in [(429, FailureKind::Refused), (503, FailureKind::Refused), (500, FailureKind::Unknown)] {
        let failure = call(&tool, json!({"status": status})).await.unwrap_err();
        assert_eq!((failure.kind, failure.retry_after), (kind, Some(Duration::from_secs(3))), "{failure}");
    }
    let refused = call(&tool, json!({"status": 422})).await.unwrap();
    assert_eq!(refused, Output::free("HTTP 422 Unprocessable Entity\nwhy", true));
}

#[tokio::test]
async fn a_backend_that_is_not_reached_did_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let closed = call(&declared("POST", format!("http://api.example:{port}/x?y=1"), Effect::Write), json!({})).await;
    let failure = closed.unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotSent, "{failure}");
    assert!(!failure.to_string().contains("y=1"), "an error names the host only: {failure}");
    let missing = call(&declared("GET", "http://api.missing/".to_owned(), Effect::Read), json!({})).await;
    assert_eq!(missing.unwrap_err().kind, FailureKind::NotSent);
}

/// Reads a request's head, writes `reply`, closes.
async fn raw_backend(reply: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_broken_connection_after_sending_is_unknown() {
    for reply in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial", "nonsense\r\n\r\n"] {
        let address = raw_backend(reply).await;
        let failure =
            call(&declared("POST", format!("http://{address}/"), Effect::Write), json!({})).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unknown, "{reply:?}: {failure}");
    }
    // A refusal stands though its words are lost.
    let address = raw_backend("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\npartial").await;
    let output = call(&declared("POST", format!("http://{address}/"), Effect::Write), json!({})).await.unwrap();
    assert!(output.is_error && output.content.contains("403"), "{output:?}");
}

#[tokio::test]
async fn a_slow_backend_is_abandoned_by_dropping_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tool = declared("GET", format!("http://{address}/"), Effect::Read);
    let http = built(&tool);
    let running = tokio::spawn(async move { http.call(invocation(json!({}))).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = vec![0; 4096];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(stream.read(&mut buffer).await.unwrap_or(0), 0, "the connection is closed");
}

#[tokio::test]
async fn secrets_are_in_no_output_error_or_debug() {
    let backend = Backend::start(|seen| {
        let echo = seen.header("x-api-key").unwrap_or_default().to_owned();
        match seen.line.as_str() {
            "GET /fail" => (StatusCode::INTERNAL_SERVER_ERROR, echo).into_response(),
            "GET /deny" => (StatusCode::FORBIDDEN, echo).into_response(),
            // Straddles the output bound.
            "GET /edge" => format!("{}{echo}", "x".repeat(990)).into_response(),
            _ => echo.into_response(),
        }
    })
    .await;
    let secret = SecretFile::new("leak");
    let mut shown = String::new();
    for path in ["/echo", "/fail", "/deny", "/edge"] {
        let mut tool = declared("GET", format!("http://api.example:{}{path}", backend.port()), Effect::Read);
        tool.headers.insert("X-Api-Key".to_owned(), secret.header());
        shown += &format!("{:?} {:?}\n", built(&tool), call(&tool, json!({})).await);
    }
    assert!(shown.contains("[redacted]"), "{shown}");
    assert!(!shown.contains("s3cr3t"), "{shown}");
    assert_eq!(backend.seen()[0].header("x-api-key"), Some(format!("Bearer {SECRET}").as_str()));
}

#[tokio::test]
async fn mistakes_in_a_declaration_name_their_field() {
    let good = || declared("GET", "https://api.example/{id}".to_owned(), Effect::Read);
    let header = |name: &str, value: &str| {
        let mut tool = good();
        tool.headers.insert(name.to_owned(), HeaderValue::Literal(value.to_owned()));
        tool
    };
    let mut unset = good();
    let secret = HeaderValue::Secret { prefix: String::new(), secret: Secret::Env("MOTE_TEST_UNSET".to_owned()) };
    unset.headers.insert("X-Key".to_owned(), secret);
    for (tool, expected) in [
        (HttpTool { method: "FETCH".to_owned(), ..good() }, "http.method"),
        (HttpTool { url: "https://{id}/".to_owned(), ..good() }, "http.url"),
        (HttpTool { input: json!({"properties": {"x": {}}}), ..good() }, "{id} is not a property"),
        (HttpTool { allow_hosts: vec!["*".to_owned()], ..good() }, "allow_hosts"),
        (header("Host", "x"), "http.headers.Host: it is set by mote"),
        (header("X Y", "x"), "http.headers.X Y"),
        (header("X-Y", "a\nb"), "http.headers.X-Y"),
        (unset, "MOTE_TEST_UNSET is not set"),
    ] {
        let error = Http::build(&tool, Arc::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
