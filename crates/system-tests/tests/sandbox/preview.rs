//! Previews, as a person meets them: `curl` and a WebSocket against what listens inside, by host name and by path.

use std::process::Output;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::fixture::Daemon;

/// A server inside: says back what it was sent; `/large` is much; `/ws` is a WebSocket that says back what it hears.
const SERVER: &str = r#"
import base64, hashlib, http.server, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self):
        if self.path == "/ws": return self.talk()
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        said = b"x" * 3_000_000 if self.path == "/large" else f"{self.command} {self.path} {self.headers}".encode() + sent
        self.send_response(200); self.send_header("content-length", str(len(said))); self.end_headers(); self.wfile.write(said)
    do_GET = do_POST = answer
    def talk(self):
        key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101); self.send_header("upgrade", "websocket"); self.send_header("connection", "upgrade")
        self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()); self.end_headers()
        head = self.rfile.read(2); mask = self.rfile.read(4); heard = self.rfile.read(head[1] & 127)
        heard = bytes(byte ^ mask[at % 4] for at, byte in enumerate(heard))
        self.wfile.write(bytes([0x81, len(heard)]) + heard); self.close_connection = True
class Server(http.server.ThreadingHTTPServer): pass
server = Server(("127.0.0.1", 3000), Handler); open("/tmp/listens", "w"); server.serve_forever()
"#;

async fn serving(daemon: &Daemon, spec: serde_json::Value) -> String {
    let id = daemon.create(spec).await;
    daemon.put(&id, "/opt/server.py", SERVER).await;
    daemon.run(&id, "python3 /opt/server.py >/dev/null 2>&1 & until [ -e /tmp/listens ]; do :; done").await;
    id
}

/// `curl` as it is typed: the name leads to the daemon, the rest is the URL's.
async fn curl(daemon: &Daemon, host: &str, arguments: &[&str]) -> Output {
    let port = daemon.url().rsplit_once(':').unwrap().1;
    Command::new("curl")
        .args(["-sS", "--max-time", "60", "--noproxy", "*", "--write-out", "\n%{http_code}"])
        .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
        .args(arguments)
        .output()
        .await
        .unwrap()
}

/// The body and the status that `curl` printed.
fn told(output: &Output) -> (String, u16) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (body.to_owned(), status.parse().unwrap())
}

#[tokio::test]
async fn curl_reaches_a_port_by_host_name_and_by_path() {
    let daemon = Daemon::start().await;
    let id = serving(&daemon, json!({ "network": {} })).await;
    let port = daemon.url().rsplit_once(':').unwrap().1;
    let host = format!("3000-{id}.sandbox.localhost");
    let url = |path: &str| format!("http://{host}:{port}{path}");
    let (body, status) = told(&curl(&daemon, &host, &[&url("/a/b?c=d%20e")]).await);
    assert_eq!(status, 200);
    assert!(body.starts_with("GET /a/b?c=d%20e "), "{body}");
    let (body, _) = told(&curl(&daemon, &host, &["-d", "what was sent", &url("/post")]).await);
    assert!(body.starts_with("POST /post ") && body.ends_with("what was sent"), "{body}");
    let (body, _) = told(&curl(&daemon, &host, &[&url("/large")]).await);
    assert_eq!(body.len(), 3_000_000);
    // By path, for those who have no names; the key is for the daemon and goes no further.
    let by_path = |port: u16| format!("{}/v1/sandboxes/{id}/ports/{port}/x?y=z", daemon.url());
    let key = format!("x-api-key: {}", daemon.key());
    let (body, status) = told(&curl(&daemon, &host, &["-H", &key, &by_path(3000)]).await);
    assert_eq!(status, 200);
    assert!(body.starts_with("GET /x?y=z ") && !body.contains(daemon.key()), "{body}");
    assert_eq!(told(&curl(&daemon, &host, &[&by_path(3000)]).await).1, 401);
    // What is not there says so.
    let (body, status) = told(&curl(&daemon, &host, &["-H", &key, &by_path(3001)]).await);
    assert!((400..600).contains(&status) && body.contains("3001"), "{status}: {body}");
    let nobody = "3000-sbnone.sandbox.localhost";
    let (body, status) = told(&curl(&daemon, nobody, &[&format!("http://{nobody}:{port}/")]).await);
    // As E2B's own gateway answers, which its SDKs go by.
    assert_eq!(status, 502);
    assert!(body.contains("sbnone"), "{body}");
    // A pause does not end it: the request wakes the sandbox, and the server answers.
    daemon.done(reqwest::Method::POST, &format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    assert_eq!(told(&curl(&daemon, &host, &[&url("/")]).await).1, 200);
}

#[tokio::test]
async fn a_websocket_passes_through_a_preview() {
    let daemon = Daemon::start().await;
    let id = serving(&daemon, json!({ "network": {} })).await;
    let mut request = format!("{}/ws", daemon.url().replacen("http", "ws", 1)).into_client_request().unwrap();
    request.headers_mut().insert("host", format!("3000-{id}.sandbox.localhost").parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    socket.send(Message::text("there and back")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap().as_str(), "there and back");
}

#[tokio::test]
async fn a_policy_says_which_ports_are_open_and_to_whom() {
    let daemon = Daemon::start().await;
    let policy = json!({ "ingress_ports": [3000], "ingress_token": true });
    let id = serving(&daemon, json!({ "network": policy })).await;
    let port = daemon.url().rsplit_once(':').unwrap().1;
    let host = |inside: u16| format!("{inside}-{id}.sandbox.localhost");
    let ask = async |inside: u16, arguments: &[&str]| {
        let url = format!("http://{}:{port}/", host(inside));
        told(&curl(&daemon, &host(inside), &[arguments, &[&url]].concat()).await).1
    };
    assert_eq!(ask(3000, &[]).await, 403);
    assert_eq!(ask(3000, &["-H", "x-traffic-token: wrong"]).await, 403);
    assert_eq!(ask(22, &[]).await, 403);
    // A key of the daemon opens what is open at all, and is not passed on.
    let key = format!("x-api-key: {}", daemon.key());
    let url = format!("http://{}:{port}/", host(3000));
    let (body, status) =
        told(&curl(&daemon, &host(3000), &["-H", &key, "-H", "authorization: Basic bWU6", &url]).await);
    assert!(status == 200 && !body.contains(daemon.key()) && body.contains("Basic bWU6"), "{status}: {body}");
    assert_eq!(ask(22, &["-H", &key]).await, 403);
    // Live: open to everyone now.
    let open = json!({ "ingress_ports": [3000] });
    daemon.done(reqwest::Method::PUT, &format!("/v1/sandboxes/{id}/network"), open).await;
    assert_eq!(ask(3000, &[]).await, 200);
    assert_eq!(ask(22, &[]).await, 403);
}

/// Nobody said that it is open: it is not, in either profile, and nobody wakes it who could not enter.
#[tokio::test]
async fn a_sandbox_is_closed_to_whoever_shows_nothing_and_is_not_woken_by_them() {
    let daemon = Daemon::start().await;
    let port = daemon.url().rsplit_once(':').unwrap().1;
    for spec in [json!({}), json!({ "profile": "training", "lease": "10m", "auto_resume": true })] {
        let id = serving(&daemon, spec).await;
        let host = format!("3000-{id}.sandbox.localhost");
        let url = format!("http://{host}:{port}/");
        let ask = async |arguments: &[&str]| told(&curl(&daemon, &host, &[arguments, &[&url]].concat()).await).1;
        let path = format!("/v1/sandboxes/{id}");
        let sandbox = || daemon.done(reqwest::Method::GET, &path, serde_json::Value::Null);
        assert_eq!(ask(&[]).await, 403);
        daemon.done(reqwest::Method::POST, &format!("/v1/sandboxes/{id}/pause"), json!({})).await;
        let before = sandbox().await;
        assert_eq!(ask(&[]).await, 403);
        assert_eq!(ask(&["-H", "x-access-token: wrong"]).await, 403);
        assert_eq!(sandbox().await, before, "it sleeps on, its lease as it was");
        let connected = daemon.done(reqwest::Method::POST, &format!("/v1/sandboxes/{id}/connect"), json!({})).await;
        let token = format!("x-access-token: {}", connected["access_token"].as_str().unwrap());
        assert_eq!(ask(&["-H", &token]).await, 200);
    }
}

#[tokio::test]
async fn a_path_arrives_as_it_was_sent() {
    let daemon = Daemon::start().await;
    let id = serving(&daemon, json!({})).await;
    let (name, key) = (format!("3000-{id}.sandbox.localhost"), format!("x-api-key: {}", daemon.key()));
    let port = daemon.url().rsplit_once(':').unwrap().1;
    for path in ["/a%20b", "/a%3Fb", "/a%2Fb%2f..%2Fc", "/%E2%82%AC?q=%26&r=a%20b", "/double//", "/%25", "/a+b;c=d"] {
        let by_path = format!("{}/v1/sandboxes/{id}/ports/3000{path}", daemon.url());
        for url in [by_path, format!("http://{name}:{port}{path}")] {
            let (body, status) = told(&curl(&daemon, &name, &["--path-as-is", "-H", &key, &url]).await);
            assert!(status == 200 && body.starts_with(&format!("GET {path} ")), "{url}: {status} {body}");
        }
    }
}
