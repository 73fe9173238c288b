//! The surface over a substrate that runs nothing: routes, errors and who may ask.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use mote_sandbox_api::spec::{ImageSource, Resources};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::api::Api;
use crate::api::access::Keys;
use crate::clock::System;
use crate::config::Config;
use crate::filesystem::Filesystem;
use crate::image::workshop::{self, Workshop};
use crate::keeper;
use crate::lifecycle::fake::Fake;
use crate::lifecycle::profiles::Profiles;
use crate::lifecycle::{Parts, Sandboxes};
use crate::namespace::Containers;
use crate::network::{self, Network};
use crate::state::State;
use crate::telemetry::metrics::Metrics;
use crate::template::files::Files;
use crate::template::{self, Templates};

pub(in crate::api) struct Stage {
    pub(in crate::api) api: Api,
    router: Router,
    key: String,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(in crate::api) async fn new() -> Self {
        Self::configured(Config::default()).await
    }

    pub(in crate::api) async fn configured(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), ..config };
        let store = State::open(folder.path()).unwrap();
        let key = store.new_key("test", &crate::state::Scopes::all(), 0).await.unwrap();
        let sandboxes = Sandboxes::new(Parts {
            substrate: Arc::new(Fake::default()),
            store: store.clone(),
            clock: Arc::new(System),
            profiles: Profiles::new(&ImageSource::Host, &config.profiles),
            sandboxes_max: 100,
            import_bytes_max: 1 << 20,
            pool: Vec::new(),
        });
        let network = Network::new(network::Settings {
            directory: folder.path().join("network"),
            resolver: network::dns::upstream_of("127.0.0.1:1").unwrap(),
            roots: Vec::new(),
            vault: Arc::new(store.clone()),
            now_ms: Arc::new(|| 0),
        })
        .unwrap();
        // No route under test asks the keeper: its end of the socket is closed.
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let keeper = keeper::client::Client::start(socket.into()).unwrap();
        let filesystem = Filesystem::new(keeper.clone());
        let images = crate::service::images(&filesystem, &config, Vec::new()).unwrap();
        let workshop = Workshop {
            containers: Containers::new(keeper.clone()),
            filesystem: filesystem.clone(),
            network: network.clone(),
            policy: config.build_network.clone(),
            prefix: workshop::TEMPLATE_PREFIX,
        };
        let parts = template::Parts {
            store: store.clone(),
            images: images.clone(),
            workshop,
            files: Files::new(folder.path().join("files")),
            default_image: ImageSource::Host,
            resources: Resources::default(),
        };
        let api = Api {
            templates: Templates::open(parts, Arc::new(System)).await.unwrap(),
            images,
            metrics: Arc::new(Metrics::new(&sandboxes, &network)),
            network,
            open_egress_default: config.open_egress_default,
            previews: crate::api::preview::Connections::default(),
            sandboxes,
            keys: Arc::new(Keys::new(store)),
            domain: "box.example".into(),
            closing: tokio_util::sync::CancellationToken::new(),
        };
        Self { router: crate::api::router(&api), api, key: key.key, _folder: folder }
    }

    pub(in crate::api) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path).header("x-api-key", &self.key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(in crate::api) async fn create(&self, body: Value) -> Value {
        let (status, made) = self.ask("POST", "/v2/sandboxes", &[], body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made
    }
}

#[tokio::test]
async fn a_sandbox_is_made_told_of_paused_and_ended() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base", "metadata": {"a": "b"}, "envVars": {}, "timeout": 60})).await;
    let id = made["sandboxID"].as_str().unwrap();
    assert!(made["envdAccessToken"].as_str().is_some_and(|token| token.len() >= 32));
    let (_, told) = stage.ask("GET", &format!("/sandboxes/{id}"), &[], Value::Null).await;
    assert_eq!((&told["state"], &told["metadata"]["a"]), (&json!("running"), &json!("b")));
    assert_eq!(told["lifecycle"], json!({"onTimeout": "kill", "autoResume": false}));
    let pause = format!("/sandboxes/{id}/pause");
    assert_eq!(stage.ask("POST", &pause, &[], json!({})).await.0, StatusCode::NO_CONTENT);
    let (status, again) = stage.ask("POST", &pause, &[], json!({})).await;
    assert_eq!((status, &again["code"]), (StatusCode::CONFLICT, &json!(409)));
    let (status, _) = stage.ask("POST", &format!("/v2/sandboxes/{id}/connect"), &[], json!({"timeout": 60})).await;
    assert_eq!(status, StatusCode::CREATED, "it was paused");
    assert_eq!(stage.ask("DELETE", &format!("/sandboxes/{id}"), &[], Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(stage.ask("GET", &format!("/sandboxes/{id}"), &[], Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn lists_come_in_pages_with_their_cursor_in_a_header() {
    let stage = Stage::new().await;
    for _ in 0..3 {
        stage.create(json!({"templateID": "base"})).await;
    }
    let request = |path: &str| {
        let request = Request::builder().uri(path).header("x-api-key", &stage.key).body(Body::empty()).unwrap();
        stage.router.clone().oneshot(request)
    };
    let first = request("/v2/sandboxes?limit=2").await.unwrap();
    let next = first.headers()["x-next-token"].to_str().unwrap().to_owned();
    let second = request(&format!("/v2/sandboxes?limit=2&nextToken={next}")).await.unwrap();
    assert!(!second.headers().contains_key("x-next-token"));
    let bytes = second.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&bytes).unwrap().len(), 1);
}

#[tokio::test]
async fn what_does_not_map_answers_501_and_names_the_feature() {
    let stage = Stage::new().await;
    for (method, path, body, feature) in [
        ("POST", "/v2/sandboxes", json!({"templateID": "base", "iam": {"tokens": {}}}), "iam"),
        (
            "POST",
            "/v2/sandboxes",
            json!({"templateID": "base", "network": {"egressProxy": {"address": "x:1"}}}),
            "network.egressProxy",
        ),
        (
            "POST",
            "/v2/sandboxes",
            json!({"templateID": "base", "network": {"dnsServers": ["1.1.1.1"]}}),
            "network.dnsServers",
        ),
        ("POST", "/templates", json!({"dockerfile": "FROM x"}), "templates.build.v1"),
        ("GET", "/teams", Value::Null, "teams"),
    ] {
        let (status, told) = stage.ask(method, path, &[], body).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{method} {path}: {told}");
        assert!(told["message"].as_str().unwrap().contains(feature), "{told}");
    }
}

#[tokio::test]
async fn the_data_plane_needs_the_sandboxs_own_token() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let other = stage.create(json!({"templateID": "base"})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let path = "/filesystem.Filesystem/Stat";
    for token in [None, other["envdAccessToken"].as_str(), Some("nonsense")] {
        let mut headers = vec![("e2b-sandbox-id", id), ("content-type", "application/json")];
        headers.extend(token.map(|token| ("x-access-token", token)));
        let (status, _) = stage.ask("POST", path, &headers, json!({"path": "/"})).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    // Whether it runs is told to everybody, through either way of addressing.
    assert_eq!(stage.ask("GET", "/health", &[("e2b-sandbox-id", id)], Value::Null).await.0, StatusCode::NO_CONTENT);
    let host = format!("49983-{id}.box.example");
    assert_eq!(stage.ask("GET", "/health", &[("host", &host)], Value::Null).await.0, StatusCode::NO_CONTENT);
    let (status, told) = stage.ask("GET", "/health", &[("e2b-sandbox-id", "sbnone")], Value::Null).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(told["message"].as_str().unwrap().contains("was not found"), "the SDKs look for it");
}

#[tokio::test]
async fn a_signed_address_finds_its_sandbox_and_expires() {
    use data_encoding::BASE64_NOPAD;
    use sha2::{Digest as _, Sha256};
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let token = made["envdAccessToken"].as_str().unwrap();
    let sign = |text: String| BASE64_NOPAD.encode(&Sha256::digest(text.as_bytes())).replace('+', "%2B");
    let valid = sign(format!("/a:read::{token}"));
    // The guest of this substrate answers nothing: what got as far was let in.
    let (status, _) = stage.ask("GET", &format!("/files?path=/a&signature=v1_{valid}"), &[], Value::Null).await;
    assert_ne!(status, StatusCode::UNAUTHORIZED);
    let expired = sign(format!("/a:read::{token}:1"));
    let path = format!("/files?path=/a&signature=v1_{expired}&signature_expiration=1");
    assert_eq!(stage.ask("GET", &path, &[], Value::Null).await.0, StatusCode::UNAUTHORIZED);
    // A signature of nobody's is for no sandbox, and of another path it is nobody's.
    let (status, _) = stage.ask("GET", &format!("/files?path=/b&signature=v1_{valid}"), &[], Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_signed_address_that_says_a_thing_twice_is_refused() {
    use data_encoding::BASE64_NOPAD;
    use sha2::{Digest as _, Sha256};
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let (id, token) = (made["sandboxID"].as_str().unwrap(), made["envdAccessToken"].as_str().unwrap());
    let signature =
        BASE64_NOPAD.encode(&Sha256::digest(format!("/a:read:user:{token}").as_bytes())).replace('+', "%2B");
    let honest = format!("path=/a&username=user&signature=v1_{signature}");
    for method in ["GET", "POST"] {
        for bent in ["path=/root/secret", "username=root", "p%61th=/root/secret"] {
            let path = format!("/files?{bent}&{honest}");
            let (status, told) = stage.ask(method, &path, &[("e2b-sandbox-id", id)], Value::Null).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{bent}: {told}");
            let (status, told) = stage.ask(method, &path, &[], Value::Null).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{bent}: {told}");
        }
    }
}

#[tokio::test]
async fn an_update_of_the_network_binds_the_secrets_that_it_names_and_no_others() {
    let stage = Stage::new().await;
    let network = |secret: &str| {
        let headers = json!({"X-Key": format!("Key ${{e2b.secrets.{secret}}}")});
        json!({"allowOut": ["a.example"], "denyOut": ["0.0.0.0/0"], "rules": {"a.example": [{"transform": {"headers": headers}}]}})
    };
    let made = stage.create(json!({"templateID": "base", "network": network("first")})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let path = format!("/sandboxes/{id}/network");
    assert_eq!(stage.ask("PUT", &path, &[], network("second")).await.0, StatusCode::NO_CONTENT);
    let policy = stage.api.sandboxes.network_policy(id).unwrap().unwrap();
    let bound: Vec<_> = policy.secrets.iter().map(|binding| (binding.secret.as_str(), &binding.hosts[..])).collect();
    assert_eq!(bound, [("second", &["a.example".to_owned()][..])]);
}

#[tokio::test]
async fn a_secret_is_checked_as_it_is_natively() {
    let stage = Stage::new().await;
    let long = "x".repeat(crate::limits::SECRET_BYTES_MAX + 1);
    for (name, value, expected) in [("a", "", 400), ("a", long.as_str(), 413), ("", "v", 400), ("a", "v", 201)] {
        let (status, told) = stage.ask("POST", "/secrets", &[], json!({"name": name, "value": value})).await;
        assert_eq!(status.as_u16(), expected, "{name:?}: {told}");
    }
    assert_eq!(stage.ask("POST", "/secrets/a", &[], json!({"value": ""})).await.0, StatusCode::BAD_REQUEST);
}

/// A request as anybody may send it.
async fn anonymous(stage: &Stage, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = stage.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn who_may_not_enter_does_not_wake_what_sleeps() {
    let stage = Stage::new().await;
    let closed = json!({"templateID": "base", "network": {"allowPublicTraffic": false}, "autoPause": true, "timeout": 60,
               "autoResume": {"enabled": true}});
    let made = stage.create(closed).await;
    let id = made["sandboxID"].as_str().unwrap();
    let state = || stage.api.sandboxes.get(id).unwrap();
    stage.ask("POST", &format!("/sandboxes/{id}/pause"), &[], json!({})).await;
    let before = state();
    let host = format!("3000-{id}.box.example");
    for headers in [
        vec![("host", host.as_str())],
        vec![("e2b-sandbox-id", id), ("e2b-sandbox-port", "3000")],
        vec![("host", host.as_str()), ("e2b-traffic-access-token", "wrong")],
        vec![("host", host.as_str()), ("x-api-key", "mote_sk_wrong")],
    ] {
        let (status, told) = anonymous(&stage, "/", &headers).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers:?}: {told}");
        assert_eq!(state(), before, "{headers:?}");
    }
    // With what opens the port it wakes; the guest of this substrate answers nothing then.
    let traffic = made["trafficAccessToken"].as_str().unwrap();
    let (status, _) = anonymous(&stage, "/", &[("host", &host), ("e2b-traffic-access-token", traffic)]).await;
    assert_ne!(status, StatusCode::FORBIDDEN);
    assert_eq!(state().state.to_string(), "running");
}

#[tokio::test]
async fn a_sandbox_without_a_policy_is_closed_but_to_those_who_show_something() {
    let stage = Stage::new().await;
    let (status, made) =
        stage.ask("POST", "/v1/sandboxes", &[], json!({"spec": {"profile": "training", "lease": "10m"}})).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (id, access) = (made["id"].as_str().unwrap(), made["access_token"].as_str().unwrap());
    let host = format!("3000-{id}.box.example");
    let traffic = stage.api.sandboxes.traffic_token(id);
    let bearer = format!("Bearer {}", stage.key);
    assert_eq!(anonymous(&stage, "/", &[("host", &host)]).await.0, StatusCode::FORBIDDEN);
    for shown in [
        ("x-traffic-token", traffic.as_str()),
        ("x-access-token", access),
        ("x-api-key", stage.key.as_str()),
        ("authorization", bearer.as_str()),
    ] {
        assert_ne!(anonymous(&stage, "/", &[("host", &host), shown]).await.0, StatusCode::FORBIDDEN, "{}", shown.0);
    }
    let by_path = format!("/v1/sandboxes/{id}/ports/3000/");
    assert_eq!(anonymous(&stage, &by_path, &[]).await.0, StatusCode::UNAUTHORIZED);
    assert_ne!(anonymous(&stage, &by_path, &[("x-api-key", &stage.key)]).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn metrics_name_sandboxes_only_to_who_holds_a_key() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let (status, open) = anonymous(&stage, "/metrics", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!open.contains(id) && open.contains("\nmote_sandbox_all_pids "), "{open}");
    let bearer = format!("Bearer {}", stage.key);
    let (_, told) = anonymous(&stage, "/metrics", &[("authorization", &bearer)]).await;
    assert!(told.contains(&format!("mote_sandbox_pids{{sandbox=\"{id}\"}} ")), "{told}");
    assert_eq!(anonymous(&stage, "/metrics", &[("x-api-key", "mote_sk_wrong")]).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_request_without_a_key_is_refused_in_e2bs_shape() {
    let stage = Stage::new().await;
    let request = Request::builder().uri("/v2/sandboxes").body(Body::empty()).unwrap();
    let response = stage.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap()["code"], 401);
}

#[tokio::test]
async fn requests_are_counted_under_the_route_that_they_are_for() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let (id, token) = (made["sandboxID"].as_str().unwrap(), made["envdAccessToken"].as_str().unwrap());
    stage.ask("GET", &format!("/sandboxes/{id}"), &[], Value::Null).await;
    let at = |port: &'static str| [("e2b-sandbox-id", id), ("e2b-sandbox-port", port), ("x-access-token", token)];
    stage.ask("GET", "/envs", &at("49983"), Value::Null).await;
    stage.ask("GET", "/health", &at("49983"), Value::Null).await;
    stage.ask("GET", "/contexts", &at("49999"), Value::Null).await;
    stage.ask("GET", "/any/where", &at("3000"), Value::Null).await;
    stage.ask("GET", "/nowhere", &[], Value::Null).await;
    let request = Request::builder().uri("/metrics").body(Body::empty()).unwrap();
    let bytes = stage.router.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let routes =
        ["/v2/sandboxes", "/sandboxes/{id}", ":49983/envs", ":49983/health", ":49999/contexts", "preview", "none"];
    for route in routes {
        let counted = format!("mote_sandbox_http_requests_total{{route=\"{route}\",");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(&counted)).collect();
        assert!(lines.len() == 1 && lines[0].ends_with(" 1"), "{route}: {lines:?}\n{text}");
    }
}

#[tokio::test]
async fn a_build_is_asked_for_by_name_and_what_is_wrong_with_it_is_named() {
    let stage = Stage::new().await;
    let body = json!({"name": "My-App:V1", "tags": ["stable"], "cpuCount": 2, "memoryMB": 1024});
    let (status, made) = stage.ask("POST", "/v3/templates", &[], body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{made}");
    assert_eq!((&made["names"], &made["tags"]), (&json!(["my-app"]), &json!(["v1", "stable"])));
    let (template, build) = (made["templateID"].as_str().unwrap(), made["buildID"].as_str().unwrap());
    // A UUID of version 4, which the SDKs read it as.
    let parts: Vec<usize> = build.split('-').map(str::len).collect();
    assert_eq!((parts.as_slice(), &build[14..15]), (&[8, 4, 4, 4, 12][..], "4"), "{build}");
    let (_, again) = stage.ask("POST", "/v3/templates", &[], json!({"alias": "my-app"})).await;
    assert_eq!((&again["templateID"], &again["tags"]), (&made["templateID"], &json!(["default"])));
    assert_ne!(again["buildID"], made["buildID"]);
    let at = |id: &str, build: &str| format!("/templates/{id}/builds/{build}/status");
    let (_, told) = stage.ask("GET", &at(template, build), &[], Value::Null).await;
    assert_eq!((&told["status"], &told["logEntries"]), (&json!("waiting"), &json!([])));
    for (id, build) in [(template, "no-such-build"), ("no-such-app", build)] {
        assert_eq!(stage.ask("GET", &at(id, build), &[], Value::Null).await.0, StatusCode::NOT_FOUND, "{id} {build}");
    }
    let begin = format!("/v2/templates/{template}/builds/{build}");
    let step = json!({"type": "FETCH"});
    for (path, body, says) in [
        ("/v3/templates", json!({}), "name"),
        ("/v3/templates", json!({"name": "a b"}), "name"),
        ("/v3/templates", json!({"name": "base"}), "another name"),
        ("/v3/templates", json!({"name": "x", "tags": ["a/b"]}), "tag"),
        ("/v3/templates", json!({"name": "x", "cpuCount": 0}), "cpuCount"),
        ("/v3/templates", json!({"name": "x", "memoryMB": 1_u64 << 40}), "memoryMB"),
        (begin.as_str(), json!({}), "fromImage"),
        (begin.as_str(), json!({"fromImage": "x", "steps": [step]}), "steps[0].type"),
        ("/templates/tags", json!({"target": "my-app:v1", "tags": []}), "tags"),
    ] {
        let (status, refused) = stage.ask("POST", path, &[], body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {refused}");
        assert!(refused["message"].as_str().unwrap().contains(says), "{path} {body}: {refused}");
    }
    let untag = json!({"name": "my-app", "tags": ["default"]});
    assert_eq!(stage.ask("DELETE", "/templates/tags", &[], untag).await.0, StatusCode::BAD_REQUEST);
    // A tag that no build has yet is no template to start from.
    let (status, refused) = stage.ask("POST", "/v2/sandboxes", &[], json!({"templateID": "my-app:v1"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("tag 'v1' does not exist for template 'my-app'"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_address_of_an_upload_is_the_one_that_the_caller_came_by() {
    let stage = Stage::new().await;
    let (_, made) = stage.ask("POST", "/v3/templates", &[], json!({"name": "app"})).await;
    let path = format!("/templates/{}/files/{}", made["templateID"].as_str().unwrap(), "ab".repeat(32));
    for (headers, begins) in [
        (&[("host", "box.example:7070")][..], "http://box.example:7070/templates/"),
        (&[("host", "box.example"), ("x-forwarded-proto", "https")], "https://box.example/templates/"),
        (&[("host", "box.example"), ("x-forwarded-proto", "file")], "http://box.example/templates/"),
    ] {
        let (status, told) = stage.ask("GET", &path, headers, Value::Null).await;
        assert_eq!((status, &told["present"]), (StatusCode::CREATED, &json!(false)), "{told}");
        assert!(told["url"].as_str().unwrap().starts_with(begins), "{told}");
    }
}
