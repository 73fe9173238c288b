//! What sandboxes of E2B's API reach: everything public unless they say otherwise, never what is private; in the test's
//! internet of its own (`boundary`).

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::boundary::{METADATA, OTHER, PRIVATE, SERVER, World, curl, with_options, with_world};
use super::fixture::{Daemon, Options};

async fn create(daemon: &Daemon, more: Value) -> String {
    let mut body = json!({ "templateID": "base", "timeout": 600 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = daemon.done(Method::POST, "/v2/sandboxes", body).await;
    made["sandboxID"].as_str().unwrap().to_owned()
}

async fn reaches(daemon: &Daemon, id: &str, to: &str) -> bool {
    curl(daemon, id, &format!("http://{to}/")).await.starts_with("internet")
}

/// That something answers there at all: what a sandbox does not reach, the host does.
async fn is_there(world: &Arc<World>, to: impl std::fmt::Display) -> bool {
    world.on_the_host(&format!("print(status(http('{to}', '{to}')))")).await == "200"
}

#[test]
fn a_sandbox_that_says_nothing_reaches_every_public_destination_and_no_private_one() {
    with_world(async |world, daemon| {
        let id = &create(&daemon, json!({})).await;
        for open in ["shared.example", &SERVER.to_string(), &OTHER.to_string()] {
            assert!(reaches(&daemon, id, open).await, "{open}");
        }
        for shut in [PRIVATE, METADATA] {
            assert!(is_there(&world, shut).await, "{shut} answers the host");
            assert!(!reaches(&daemon, id, &shut.to_string()).await, "{shut}");
        }
        let closed = &create(&daemon, json!({ "allow_internet_access": false })).await;
        assert!(
            !reaches(&daemon, closed, "shared.example").await && !reaches(&daemon, closed, &SERVER.to_string()).await
        );
        let native = &daemon.create(json!({})).await;
        assert!(!reaches(&daemon, native, "shared.example").await, "the native API opens nothing by itself");
    });
}

#[test]
fn a_denial_denies_what_it_names_and_an_update_keeps_the_rest_open() {
    with_world(async |_, daemon| {
        let (server, other) = (SERVER.to_string(), OTHER.to_string());
        let id = &create(&daemon, json!({ "network": { "denyOut": [server] } })).await;
        assert!(!reaches(&daemon, id, &server).await && reaches(&daemon, id, &other).await);
        let update = async |network: Value| {
            daemon.done(Method::PUT, &format!("/sandboxes/{id}/network"), network).await;
            (reaches(&daemon, id, &server).await, reaches(&daemon, id, &other).await)
        };
        assert_eq!(update(json!({ "denyOut": [other] })).await, (true, false));
        assert_eq!(update(json!({})).await, (true, true), "what is left out of the lists is taken back");
        let alone = json!({ "allowOut": [server], "denyOut": ["0.0.0.0/0"] });
        assert_eq!(update(alone).await, (true, false));
        assert_eq!(update(json!({ "allow_internet_access": false })).await, (false, false));
        assert_eq!(update(json!({ "allowOut": [other] })).await, (false, true), "what was closed stays closed");
        assert_eq!(update(json!({ "allow_internet_access": true })).await, (true, true));
    });
}

#[test]
fn a_daemon_may_forbid_the_open_default_and_says_so() {
    let options = Options { config: "open_egress_default: false".to_owned(), ..Options::default() };
    with_options(options, async |_, daemon| {
        let body = json!({ "templateID": "base", "timeout": 600 });
        let made = daemon.done(Method::POST, "/v2/sandboxes", body).await;
        assert_eq!(made["allowInternetAccess"], false, "{made}");
        assert!(made["notice"].as_str().unwrap().contains("open_egress_default"), "{made}");
        assert!(!reaches(&daemon, made["sandboxID"].as_str().unwrap(), "shared.example").await);
        let asked = &create(&daemon, json!({ "allow_internet_access": true })).await;
        assert!(reaches(&daemon, asked, "shared.example").await);
        let told = daemon.done(Method::GET, "/v1/capabilities", Value::Null).await;
        let open = &told["features"]["egress.open_default"];
        assert!(
            open["available"] == false && open["detail"].as_str().unwrap().contains("open_egress_default"),
            "{open}"
        );
    });
}
