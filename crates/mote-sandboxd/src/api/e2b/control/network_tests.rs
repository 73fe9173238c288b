//! E2B's options of the network as policies, asked what they let through.
//!
//! No connection is made: `system-tests` does that.

use super::*;
use crate::network::policy::{Compiled, Destination};

fn made(network: Value, open: bool) -> Policy {
    policy(&serde_json::from_value(network).unwrap(), open, Policy::default()).unwrap()
}

fn of(network: Value, open: bool) -> Vec<(Verdict, String)> {
    made(network, open).rules.into_iter().map(|rule| (rule.verdict, rule.to)).collect()
}

/// Whether `address:port`, or `name@address:port`, is reached.
fn reaches(network: Value, open: bool, to: &str) -> bool {
    let rules = Compiled::new(&made(network, open)).unwrap();
    let (name, socket) = to.split_once('@').map_or((None, to), |(name, socket)| (Name::parse(name).ok(), socket));
    let socket: std::net::SocketAddr = socket.parse().unwrap();
    let told = name.is_some();
    rules.judge(&Destination { address: socket.ip(), port: socket.port(), name: name.as_ref(), told }).is_ok()
}

#[test]
fn where_nothing_is_said_every_public_destination_is_reached_and_none_that_is_private() {
    for open in ["9.9.9.9:443", "any.example@9.9.9.9:80", "[2606:4700::1111]:443"] {
        assert!(reaches(json!({}), true, open), "{open}");
        assert!(!reaches(json!({}), false, open), "{open}");
    }
    let private = ["10.0.0.1:80", "192.168.1.1:443", "172.16.0.1:22", "127.0.0.1:80", "169.254.169.254:80"];
    for shut in private.into_iter().chain(["100.64.0.1:80", "0.0.0.0:80", "[fd00::1]:80", "[::ffff:10.0.0.1]:80"]) {
        assert!(!reaches(json!({}), true, shut), "{shut}");
        assert!(!reaches(json!({"allowOut": ["0.0.0.0/0", "10.0.0.0/8"]}), true, shut), "{shut}");
    }
}

#[test]
fn a_denial_alone_denies_what_it_names_and_nothing_else() {
    let network = json!({"denyOut": ["8.8.8.8", "203.0.113.0/24", "bad.example", "1.0.0.1:25"]});
    for open in ["9.9.9.9:443", "1.1.1.1:80", "good.example@9.9.9.9:443", "1.0.0.1:443"] {
        assert!(reaches(network.clone(), true, open), "{open}");
    }
    for shut in ["8.8.8.8:443", "203.0.113.200:80", "bad.example@9.9.9.9:443", "1.0.0.1:25"] {
        assert!(!reaches(network.clone(), true, shut), "{shut}");
    }
    assert!(!reaches(network, false, "9.9.9.9:443"), "what is closed stays closed");
}

#[test]
fn where_all_is_denied_what_is_allowed_is_reached_and_nothing_else() {
    for all in ["0.0.0.0/0", "::/0", "*"] {
        let network = json!({"allowOut": ["pypi.org", "*.b.example", "1.1.1.1:443"], "denyOut": [all]});
        for open in [true, false] {
            for reached in ["pypi.org@9.9.9.9:443", "x.b.example@9.9.9.9:80", "1.1.1.1:443"] {
                assert!(reaches(network.clone(), open, reached), "{reached}");
            }
            for shut in ["pypi.com@9.9.9.9:443", "b.example@9.9.9.9:443", "1.1.1.1:80", "9.9.9.9:443"] {
                assert!(!reaches(network.clone(), open, shut), "{shut}");
            }
        }
    }
    let closed = json!({"allowOut": ["pypi.org"]});
    assert!(reaches(closed.clone(), false, "pypi.org@9.9.9.9:443") && !reaches(closed, false, "9.9.9.9:443"));
}

#[test]
fn an_allowance_wins_over_the_same_denial_and_over_a_wider_one() {
    let network = json!({
        "allowOut": ["8.8.8.8/32", "203.0.113.7"],
        "denyOut": ["8.8.8.8/32", "203.0.113.0/24", "1.0.0.1"],
    });
    for open in ["8.8.8.8:53", "203.0.113.7:443", "9.9.9.9:443"] {
        assert!(reaches(network.clone(), true, open), "{open}");
    }
    for shut in ["203.0.113.8:443", "1.0.0.1:443"] {
        assert!(!reaches(network.clone(), true, shut), "{shut}");
    }
    let all = json!({"allowOut": ["0.0.0.0/0"], "denyOut": ["1.0.0.1"]});
    assert!(reaches(all.clone(), false, "9.9.9.9:443") && !reaches(all, false, "1.0.0.1:443"));
    assert!(reaches(json!({"allowOut": ["0.0.0.0/0"], "denyOut": ["0.0.0.0/0"]}), true, "9.9.9.9:443"));
}

#[test]
fn names_that_are_allowed_beside_everything_else_are_refused_as_e2b_refuses_them() {
    for network in [
        json!({"allowOut": ["pypi.org"]}),
        json!({"allowOut": ["*.example.org:443"], "denyOut": ["8.8.8.8"]}),
        json!({"allowOut": ["1.1.1.1", "pypi.org"], "denyOut": ["10.0.0.0/8"]}),
    ] {
        let network: Network = serde_json::from_value(network).unwrap();
        let failure = policy(&network, true, Policy::default()).unwrap_err();
        assert!(failure.message.contains("you must include 'ALL_TRAFFIC' in deny out"), "{failure}");
    }
    // Addresses are let pass, and change nothing.
    assert!(reaches(json!({"allowOut": ["1.1.1.1", "8.8.0.0/16"]}), true, "9.9.9.9:443"));
}

#[test]
fn a_transform_allows_nothing_by_itself() {
    let rule = json!({"api.example": [{"transform": {"headers": {"X-Key": "v"}}}]});
    assert!(of(json!({"rules": rule}), false).is_empty());
    assert!(!reaches(json!({"rules": rule, "denyOut": ["9.9.9.9"]}), true, "api.example@9.9.9.9:443"));
    assert!(!reaches(json!({"rules": rule, "denyOut": ["0.0.0.0/0"]}), true, "api.example@9.9.9.9:443"));
    let allowed = json!({"rules": rule, "allowOut": ["*.example:443"], "denyOut": ["0.0.0.0/0"]});
    assert!(!reaches(allowed.clone(), true, "api.example@9.9.9.9:80"));
    let policy = made(allowed, true);
    let told = told(&policy);
    assert!(!told.to_string().contains("\"v\""), "values stay secret");
    assert_eq!((&told["allowOut"], &told["denyOut"]), (&json!(["*.example:443"]), &json!(["0.0.0.0/0"])));
    // Where everything is open the headers are set, too.
    let open = made(json!({"rules": rule}), true);
    let set: Vec<&Rule> = open.rules.iter().filter(|rule| !rule.headers.is_empty()).collect();
    assert_eq!((set.len(), set[0].inspect, set[0].to.as_str()), (1, true, "api.example"));
}

#[test]
fn a_wildcard_is_held_by_a_wildcard_alone() {
    assert!(holds("*.a.example", "*.b.a.example") && holds("*.a.example", "*.A.example"));
    assert!(!holds("a.example", "*.a.example") && !holds("*.a.example", "a.example"));
}

#[test]
fn what_the_options_do_not_speak_of_stays() {
    let before = Policy {
        ingress_token: true,
        ingress_host: Some("a.example".to_owned()),
        ingress_tls_ports: vec![8443],
        private_ranges: vec!["10.1.0.0/16".to_owned()],
        bandwidth_bytes: Some(1000),
        ..Policy::default()
    };
    let network: Network = serde_json::from_value(json!({"denyOut": ["8.8.8.8"]})).unwrap();
    let after = policy(&network, true, before.clone()).unwrap();
    assert_eq!(Policy { rules: Vec::new(), ..after }, before);
    let network: Network =
        serde_json::from_value(json!({"allowPublicTraffic": true, "maskRequestHost": "b", "httpsPorts": []})).unwrap();
    let after = policy(&network, true, before).unwrap();
    assert_eq!(
        (after.ingress_token, after.ingress_host.as_deref(), after.ingress_tls_ports.len()),
        (false, Some("b"), 0)
    );
}

#[test]
fn a_policy_is_told_as_the_options_that_it_was_made_of() {
    let network = json!({
        "allowOut": ["1.1.1.1"], "denyOut": ["8.8.8.8", "10.0.0.0/8"], "maskRequestHost": "h:${PORT}", "httpsPorts": [443],
    });
    let policy = made(network, true);
    assert!(is_open(&policy));
    assert_eq!(
        told(&policy),
        json!({
            "allowOut": ["1.1.1.1"], "denyOut": ["8.8.8.8", "10.0.0.0/8"], "allowPublicTraffic": true,
            "maskRequestHost": "h:${PORT}", "httpsPorts": [443],
        })
    );
    let closed = made(json!({}), false);
    assert!(!is_open(&closed));
    assert_eq!(told(&closed)["denyOut"], json!(["0.0.0.0/0"]));
}

#[test]
fn what_does_not_map_is_named() {
    for (option, value) in [("egressProxy", json!({})), ("dnsServers", json!([]))] {
        let network: Network = serde_json::from_value(json!({ option: value })).unwrap();
        let failure = policy(&network, true, Policy::default()).unwrap_err();
        assert_eq!(failure.context["feature"], format!("network.{option}"));
    }
}
