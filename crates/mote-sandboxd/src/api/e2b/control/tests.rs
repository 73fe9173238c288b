//! E2B's control plane over a substrate that runs nothing: what a network is made of, what pauses keep, lists, metrics,
//! secrets, and E2B's words.

use http::StatusCode;
use mote_sandbox_api::lifecycle::State as Life;
use mote_sandbox_api::network::{Policy, Verdict};
use mote_sandbox_api::request::PauseKind;
use mote_sandbox_api::spec::{OnLeaseEnd, Spec};
use serde_json::{Value, json};

use crate::api::e2b::tests::Stage;
use crate::config::Config;

fn id(made: &Value) -> &str {
    made["sandboxID"].as_str().unwrap()
}

fn policy(stage: &Stage, id: &str) -> Policy {
    stage.api.sandboxes.network_policy(id).unwrap().unwrap()
}

async fn told(stage: &Stage, id: &str) -> Value {
    let (status, told) = stage.ask("GET", &format!("/sandboxes/{id}"), &[], Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    told
}

#[tokio::test]
async fn a_network_is_open_where_nothing_is_said_and_closed_where_that_is_said() {
    let stage = Stage::new().await;
    for (more, open) in [
        (json!({}), true),
        (json!({"network": {"denyOut": ["8.8.8.8"]}}), true),
        (json!({"allow_internet_access": null}), true),
        (json!({"allow_internet_access": true}), true),
        (json!({"allow_internet_access": false}), false),
        (json!({"allow_internet_access": false, "network": {"denyOut": ["8.8.8.8"]}}), false),
    ] {
        let mut body = json!({"templateID": "base"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = stage.create(body).await;
        assert_eq!(made["allowInternetAccess"], open, "{more}");
        let everything = policy(&stage, id(&made)).rules.iter().any(|rule| rule.verdict == Verdict::Allow);
        assert_eq!(everything, open, "{more}");
        assert_eq!(told(&stage, id(&made)).await["allowInternetAccess"], open, "{more}");
    }
    // The native API reaches nothing unless that is said.
    let spec = json!({"spec": {"profile": "production"}});
    let (status, made) = stage.ask("POST", "/v1/sandboxes", &[], spec).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert!(policy(&stage, made["id"].as_str().unwrap()).rules.is_empty());
}

#[tokio::test]
async fn a_daemon_that_forbids_the_open_default_says_so_and_lets_it_be_asked_for() {
    let stage = Stage::configured(Config { open_egress_default: false, ..Config::default() }).await;
    for network in [json!(null), json!({"denyOut": ["8.8.8.8"]}), json!({"allowOut": ["pypi.org"]})] {
        let made = stage.create(json!({"templateID": "base", "network": network})).await;
        assert_eq!(made["allowInternetAccess"], false, "{network}");
        assert!(made["notice"].as_str().unwrap().contains("open_egress_default"), "{made}");
        let lines = stage.api.sandboxes.logs(id(&made), 0).unwrap();
        assert!(lines.iter().any(|line| line.message.contains("open_egress_default")), "{lines:?}");
        assert!(!super::network::is_open(&policy(&stage, id(&made))));
    }
    let made = stage.create(json!({"templateID": "base", "allow_internet_access": true})).await;
    assert_eq!((&made["allowInternetAccess"], &made["notice"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn an_update_takes_back_what_it_leaves_out_of_the_lists_and_keeps_the_rest() {
    let stage = Stage::new().await;
    let network = json!({
        "allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "allowPublicTraffic": false, "maskRequestHost": "h:${PORT}",
        "httpsPorts": [8443],
    });
    let made = stage.create(json!({"templateID": "base", "network": network})).await;
    let path = format!("/sandboxes/{}/network", id(&made));
    let put = async |body: Value| {
        let (status, answer) = stage.ask("PUT", &path, &[], body).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
        told(&stage, id(&made)).await
    };
    let after = put(json!({"denyOut": ["8.8.8.8"]})).await;
    assert_eq!(
        after["network"],
        json!({
            "allowOut": [], "denyOut": ["8.8.8.8"], "allowPublicTraffic": false, "maskRequestHost": "h:${PORT}",
            "httpsPorts": [8443],
        })
    );
    assert_eq!(after["allowInternetAccess"], true, "nobody closed it");
    assert_eq!(put(json!({})).await["network"]["denyOut"], json!([]));
    // Closed is closed until it is opened, whatever else an update says.
    assert_eq!(put(json!({"allow_internet_access": false})).await["allowInternetAccess"], false);
    let after = put(json!({"allowOut": ["pypi.org"]})).await;
    assert_eq!((&after["allowInternetAccess"], &after["network"]["allowOut"]), (&json!(false), &json!(["pypi.org"])));
    assert_eq!(put(json!({"denyOut": []})).await["allowInternetAccess"], false);
    assert_eq!(put(json!({"allow_internet_access": true})).await["allowInternetAccess"], true);
    let (status, answer) = stage.ask("PUT", &path, &[], json!({"allowOut": ["pypi.org"]})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::BAD_REQUEST, &json!(400)), "{answer}");
}

#[tokio::test]
async fn what_the_operators_profile_bounds_holds_for_e2bs_sandboxes_too() {
    use mote_sandbox_api::capability::ProfileName;
    let network = Policy {
        private_ranges: vec!["10.1.0.0/16".to_owned()],
        bandwidth_bytes: Some(1_000_000),
        ingress_token: true,
        ..Policy::default()
    };
    let profile = Spec { network: Some(network), ..Spec::default() };
    let profiles = std::collections::BTreeMap::from([(ProfileName::Production, profile)]);
    let stage = Stage::configured(Config { profiles, ..Config::default() }).await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let policy = policy(&stage, id(&made));
    assert_eq!(
        (policy.private_ranges.len(), policy.bandwidth_bytes, policy.ingress_token),
        (1, Some(1_000_000), false)
    );
}

#[tokio::test]
async fn a_pause_of_the_files_alone_is_what_a_lease_may_end_in() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base", "autoPause": true, "autoPauseMemory": false})).await;
    let spec = stage.api.sandboxes.spec(id(&made)).unwrap();
    assert_eq!((spec.on_lease_end, spec.auto_resume), (Some(OnLeaseEnd::Stop), Some(false)));
    assert_eq!(told(&stage, id(&made)).await["lifecycle"], json!({"onTimeout": "pause", "autoResume": false}));
    let made = stage.create(json!({"templateID": "base", "autoPause": true, "autoPauseMemory": true})).await;
    assert_eq!(stage.api.sandboxes.spec(id(&made)).unwrap().on_lease_end, Some(OnLeaseEnd::Pause));
    let both = json!({
        "templateID": "base", "autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true},
    });
    assert_eq!(stage.ask("POST", "/v2/sandboxes", &[], both).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_connection_without_memory_starts_a_frozen_sandbox_anew() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let (pause, connect) = (format!("/sandboxes/{}/pause", id(&made)), format!("/v2/sandboxes/{}/connect", id(&made)));
    for (memory, mode) in [(json!(true), "full"), (json!(false), "filesystem"), (Value::Null, "full")] {
        assert_eq!(stage.ask("POST", &pause, &[], json!({"memory": memory})).await.0, StatusCode::NO_CONTENT);
        assert_eq!(told(&stage, id(&made)).await["pauseMode"], mode);
        let body = json!({"timeout": 60, "memory": false});
        assert_eq!(stage.ask("POST", &connect, &[], body).await.0, StatusCode::CREATED);
        let told = told(&stage, id(&made)).await;
        assert_eq!((&told["state"], &told["pauseMode"]), (&json!("running"), &Value::Null));
    }
}

#[tokio::test]
async fn lists_are_filtered_by_template_start_and_state() {
    let stage = Stage::new().await;
    let named = stage.create(json!({"templateID": "base", "metadata": {"a": "1", "b": "2"}})).await;
    let other = stage.create(json!({"templateID": "other", "metadata": {"a": "1"}})).await;
    let pause = format!("/sandboxes/{}/pause", id(&other));
    assert_eq!(stage.ask("POST", &pause, &[], json!({})).await.0, StatusCode::NO_CONTENT);
    let started = told(&stage, id(&named)).await["startedAt"].as_str().unwrap().to_owned();
    let found = async |query: &str| {
        let (status, items) = stage.ask("GET", &format!("/v2/sandboxes?{query}"), &[], Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{query}: {items}");
        let ids: Vec<String> = items.as_array().unwrap().iter().map(|item| id(item).to_owned()).collect();
        (ids.contains(&id(&named).to_owned()), ids.contains(&id(&other).to_owned()))
    };
    assert_eq!(found("").await, (true, true));
    assert_eq!(found("metadata=a%3D1").await, (true, true));
    assert_eq!(found("metadata=a%3D1%26b%3D2").await, (true, false));
    assert_eq!(found("state=paused").await, (false, true));
    assert_eq!(found("template=base").await, (true, false));
    assert_eq!(found("template=host").await, (true, false), "what the default image is");
    assert_eq!(found("template=other&state=running").await, (false, false));
    // A sandbox started at that very moment is among those that started from then on.
    assert!(found(&format!("startedAfter={started}")).await.0);
    assert_eq!(found("startedAfter=2999-01-01T00:00:00Z").await, (false, false));
}

#[tokio::test]
async fn metrics_are_told_of_the_span_that_is_asked_for() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let path = format!("/sandboxes/{}/metrics", id(&made));
    let ask = async |query: &str| stage.ask("GET", &format!("{path}{query}"), &[], Value::Null).await;
    let (_, points) = ask("").await;
    let now = points.as_array().unwrap().last().unwrap()["timestampUnix"].as_u64().unwrap();
    assert!(ask(&format!("?start={now}")).await.1.as_array().is_some_and(|points| !points.is_empty()));
    for outside in [format!("?end={}", now - 60), format!("?start={}", now + 600), format!("?start=1&end={}", now - 60)]
    {
        assert_eq!(ask(&outside).await, (StatusCode::OK, json!([])), "{outside}");
    }
    for wrong in ["?start=x", "?start=20&end=10"] {
        assert_eq!(ask(wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let pause = format!("/sandboxes/{}/pause", id(&made));
    assert_eq!(stage.ask("POST", &pause, &[], json!({})).await.0, StatusCode::NO_CONTENT);
    assert!(!ask("").await.1.as_array().unwrap().is_empty(), "a pause keeps the history");
    let of = format!("/sandboxes/metrics?sandbox_ids={},sbnone", id(&made));
    let (_, told) = stage.ask("GET", &of, &[], Value::Null).await;
    assert_eq!(told["sandboxes"].as_object().unwrap().keys().collect::<Vec<_>>(), [id(&made)]);
    assert!(told["sandboxes"][id(&made)]["memTotal"].is_u64(), "{told}");
    let many =
        (0..=crate::limits::METRICS_SANDBOXES_TOLD_MAX).map(|at| format!("sb{at}")).collect::<Vec<_>>().join(",");
    let (status, answer) = stage.ask("GET", &format!("/sandboxes/metrics?sandbox_ids={many}"), &[], Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
}

#[tokio::test]
async fn a_sandbox_that_is_not_there_is_told_in_e2bs_words() {
    let stage = Stage::new().await;
    let made = stage.create(json!({"templateID": "base"})).await;
    let gone = id(&made);
    assert_eq!(stage.ask("DELETE", &format!("/sandboxes/{gone}"), &[], Value::Null).await.0, StatusCode::NO_CONTENT);
    assert_eq!(stage.api.sandboxes.get(gone).unwrap().state, Life::Gone);
    for absent in [gone, "sbnone"] {
        for (method, path, body) in [
            ("GET", String::new(), Value::Null),
            ("DELETE", String::new(), Value::Null),
            ("POST", "/pause".to_owned(), json!({})),
            ("POST", "/connect".to_owned(), json!({"timeout": 60})),
            ("POST", "/resume".to_owned(), json!({"timeout": 60})),
            ("POST", "/timeout".to_owned(), json!({"timeout": 60})),
            ("POST", "/refreshes".to_owned(), json!({"duration": 60})),
            ("POST", "/fork".to_owned(), json!({})),
            ("POST", "/snapshots".to_owned(), json!({})),
            ("PUT", "/network".to_owned(), json!({})),
            ("GET", "/metrics".to_owned(), Value::Null),
        ] {
            let (status, answer) = stage.ask(method, &format!("/sandboxes/{absent}{path}"), &[], body).await;
            let words = format!("Sandbox {absent:?} doesn't exist or you don't have access to it");
            assert_eq!(
                (status, &answer),
                (StatusCode::NOT_FOUND, &json!({"code": 404, "message": words})),
                "{method} {path}"
            );
        }
        let headers = [("e2b-sandbox-id", absent), ("x-access-token", "any")];
        let (status, answer) = stage.ask("POST", "/filesystem.Filesystem/Stat", &headers, json!({"path": "/"})).await;
        assert_eq!((status, &answer["message"]), (StatusCode::BAD_GATEWAY, &json!("The sandbox was not found")));
    }
}

#[tokio::test]
async fn a_secret_carries_metadata_and_a_version() {
    let stage = Stage::new().await;
    let made = json!({"name": "a", "value": "first", "metadata": {"team": "x"}});
    let (status, told) = stage.ask("POST", "/secrets", &[], made).await;
    assert_eq!(
        (status, &told["metadata"], &told["currentVersion"]),
        (StatusCode::CREATED, &json!({"team": "x"}), &json!(1))
    );
    let (_, told) = stage.ask("POST", "/secrets/a", &[], json!({"value": "second"})).await;
    assert_eq!((&told["metadata"], &told["currentVersion"]), (&json!({"team": "x"}), &json!(2)));
    let (_, told) = stage.ask("POST", "/secrets/a", &[], json!({"value": "third", "metadata": {"b": "c"}})).await;
    assert_eq!((&told["metadata"], &told["currentVersion"]), (&json!({"b": "c"}), &json!(3)));
    assert_eq!(stage.ask("GET", "/secrets", &[], Value::Null).await.1, json!([told]));
    let long = |bytes: usize| "x".repeat(bytes);
    let many: serde_json::Map<String, Value> = (0..33).map(|at| (at.to_string(), "v".into())).collect();
    let heavy: serde_json::Map<String, Value> = (0..9).map(|at| (at.to_string(), long(1000).into())).collect();
    for metadata in [json!({"": "v"}), json!({long(129): "v"}), json!({"k": long(1025)}), many.into(), heavy.into()] {
        let (status, answer) = stage.ask("POST", "/secrets/a", &[], json!({"value": "v", "metadata": metadata})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_given_its_gateway_is_not_left_behind() {
    let stage = Stage::new().await;
    let (status, answer) = stage.ask("POST", "/v2/sandboxes", &[], json!({"templateID": "base", "mcp": ["x"]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    // The guest of this substrate answers nothing: nothing can be written there.
    let body = json!({"templateID": "mcp-gateway", "mcp": {"x": {}}});
    let (status, answer) = stage.ask("POST", "/v2/sandboxes", &[], body).await;
    assert!(!status.is_success(), "{answer}");
    assert_eq!(stage.api.sandboxes.ids(), Vec::<String>::new());
    stage.create(json!({"templateID": "mcp-gateway", "mcp": null})).await;
}

#[tokio::test]
async fn a_host_for_ports_and_ports_of_tls_are_taken_and_told() {
    let stage = Stage::new().await;
    let network = json!({"maskRequestHost": "${PORT}-app.example", "httpsPorts": [8443]});
    let made = stage.create(json!({"templateID": "base", "network": network})).await;
    let told = told(&stage, id(&made)).await;
    assert_eq!(
        (&told["network"]["maskRequestHost"], &told["network"]["httpsPorts"]),
        (&json!("${PORT}-app.example"), &json!([8443]))
    );
    for network in
        [json!({"maskRequestHost": "a b"}), json!({"maskRequestHost": "${HOST}"}), json!({"httpsPorts": [0]})]
    {
        let (status, answer) =
            stage.ask("POST", "/v2/sandboxes", &[], json!({"templateID": "base", "network": network})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    }
    assert_eq!(stage.api.sandboxes.pause(id(&made), PauseKind::Frozen).await.unwrap().state, Life::Paused);
}
