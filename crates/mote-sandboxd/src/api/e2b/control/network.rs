//! E2B's network options as a policy, and a policy as E2B's options.
//!
//! E2B reaches everything unless told otherwise, and what `allowOut` names wins over what `denyOut` names; Mote reaches
//! nothing unless told otherwise. What would widen is never assumed: only `allow_internet_access: true` opens everything,
//! and an allowance of everything wins over no denial.

use std::collections::BTreeMap;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::network::{Header, Policy, Rule, SecretBinding, Verdict};
use serde_json::{Value, json};

use super::body::Network;
use crate::network::name::{Name, Pattern};
use crate::network::secret::reference;

/// Every address, as E2B writes it.
const ALL: [&str; 3] = ["0.0.0.0/0", "::/0", "*"];

fn rule(verdict: Verdict, to: &str) -> Rule {
    Rule {
        verdict,
        to: to.to_owned(),
        ports: Vec::new(),
        over_deny: false,
        inspect: false,
        headers: Vec::new(),
        plain_http: false,
    }
}

/// A destination, with `0.0.0.0/0` as the policy's `*`. A port may follow a name or an address.
fn destination(verdict: Verdict, text: &str) -> Rule {
    if ALL.contains(&text) {
        return rule(verdict, "*");
    }
    if let Some((to, port)) = text.rsplit_once(':')
        && let Ok(port) = port.parse()
        && !to.contains(':')
    {
        return Rule { ports: vec![port], ..rule(verdict, to) };
    }
    rule(verdict, text)
}

/// The policy of E2B's options. `internet` is `allow_internet_access` beside them.
///
/// # Errors
/// `unsupported`, naming the option.
pub(super) fn policy(network: &Network, internet: Option<bool>) -> Result<Policy, Failure> {
    let refuse = |option: &str, why: &str| Err(Failure::unsupported(&format!("network.{option}"), why));
    if network.mask_request_host.is_some() {
        return refuse("maskRequestHost", "previews pass the host name on as it is");
    }
    if network.https_ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        return refuse("httpsPorts", "previews speak plain HTTP to the sandbox's ports");
    }
    if network.egress_proxy.as_ref().is_some_and(|proxy| !proxy.is_null()) {
        return refuse("egressProxy", "egress goes through the daemon's own proxy alone");
    }
    if network.dns_servers.is_some() {
        return refuse("dnsServers", "names are resolved by the daemon");
    }
    let (allow, deny) =
        (network.allow_out.as_deref().unwrap_or_default(), network.deny_out.as_deref().unwrap_or_default());
    let internet = network.allow_internet_access.or(internet);
    let denies_all = deny.iter().any(|to| ALL.contains(&to.as_str()));
    let mut rules = Vec::new();
    if internet == Some(true) && !denies_all {
        rules.push(rule(Verdict::Allow, "*"));
    }
    rules.extend(allow.iter().map(|to| destination(Verdict::Allow, to)));
    for rule in &mut rules {
        rule.over_deny = rule.to != "*";
    }
    // A denial of everything is how it is without a rule.
    let denied = deny.iter().filter(|to| !ALL.contains(&to.as_str()));
    rules.extend(denied.map(|to| destination(Verdict::Deny, to)));
    let mut headers = transforms(network, &rules);
    let secrets = secrets(&mut headers)?;
    rules.extend(headers);
    Ok(Policy { rules, secrets, ingress_token: network.allow_public_traffic == Some(false), ..Policy::default() })
}

/// How E2B's SDKs write a secret in a header (`Secret.fill`), and what it ends with.
const FILLED: (&str, &str) = ("${e2b.secrets.", "}");
/// The same of a token of a workload's identity.
const IDENTITY: &str = "${e2b.identity.";

/// Replaces E2B's way of naming a secret in a header by the policy's, and binds each secret to the hosts of its headers.
fn secrets(rules: &mut [Rule]) -> Result<Vec<SecretBinding>, Failure> {
    let mut bound: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Rule { to, headers, .. } in rules {
        for header in headers {
            if header.value.contains(IDENTITY) {
                return Err(Failure::unsupported("iam", "sandboxes have no workload identity here"));
            }
            while let Some((before, rest)) = header.value.split_once(FILLED.0)
                && let Some((name, after)) = rest.split_once(FILLED.1)
            {
                let hosts = bound.entry(name.to_owned()).or_default();
                if !hosts.contains(to) {
                    hosts.push(to.clone());
                }
                header.value = format!("{before}{}{after}", reference(name));
            }
        }
    }
    Ok(bound
        .into_iter()
        .map(|(secret, hosts)| SecretBinding { env: variable(&secret), secret, hosts, ..SecretBinding::default() })
        .collect())
}

/// The variable inside with a secret's placeholder.
fn variable(secret: &str) -> String {
    let word = secret.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' });
    format!("SECRET_{}", word.collect::<String>().to_ascii_uppercase())
}

/// Rules that set headers. A transform changes what may pass; it allows nothing that is not allowed, and at no other ports.
fn transforms(network: &Network, rules: &[Rule]) -> Vec<Rule> {
    let mut found = Vec::new();
    for (host, transforms) in &network.rules {
        let headers: Vec<Header> = transforms
            .iter()
            .filter_map(|rule| rule.transform.as_ref())
            .flat_map(|transform| &transform.headers)
            .map(|(name, value)| Header { name: name.clone(), value: value.clone() })
            .collect();
        if headers.is_empty() {
            continue;
        }
        for allowing in rules.iter().filter(|rule| rule.verdict == Verdict::Allow && holds(&rule.to, host)) {
            found.push(Rule { to: host.clone(), inspect: true, headers: headers.clone(), ..allowing.clone() });
        }
    }
    found
}

/// Whether what a rule means holds all of what a host or a wildcard of `rules` means.
fn holds(to: &str, host: &str) -> bool {
    if to == "*" || to.eq_ignore_ascii_case(host) {
        return true;
    }
    let (below, name) = host.strip_prefix("*.").map_or((false, host), |name| (true, name));
    let (Ok(pattern), Ok(name)) = (Pattern::parse(to), Name::parse(name)) else { return false };
    pattern.matches(&name) && (!below || matches!(pattern, Pattern::Below(_)))
}

/// Whether everything is allowed, and the options that a policy is told as. Values of headers are not told.
pub(super) fn told(policy: &Policy) -> (bool, Value) {
    let plain = |rule: &&Rule| rule.verdict == Verdict::Allow && rule.headers.is_empty();
    // One that only sets headers on what another rule allows.
    let is_transform = |rule: &Rule| {
        !rule.headers.is_empty() && policy.rules.iter().filter(plain).any(|other| holds(&other.to, &rule.to))
    };
    let texts = |verdict: Verdict| -> Vec<String> {
        policy
            .rules
            .iter()
            .filter(|rule| rule.verdict == verdict && !is_transform(rule))
            .flat_map(|rule| match rule.ports.as_slice() {
                [] => vec![rule.to.clone()],
                ports => ports.iter().map(|port| format!("{}:{port}", rule.to)).collect(),
            })
            .map(|to| if to == "*" { ALL[0].to_owned() } else { to })
            .collect()
    };
    let opens_all = policy.rules.iter().any(|rule| rule.verdict == Verdict::Allow && rule.to == "*");
    let mut network = json!({
        "allowOut": texts(Verdict::Allow),
        "denyOut": if opens_all { texts(Verdict::Deny) } else { vec![ALL[0].to_owned()] },
        "allowPublicTraffic": !policy.ingress_token,
    });
    let changed = policy.rules.iter().filter(|rule| !rule.headers.is_empty());
    let rules: serde_json::Map<String, Value> = changed
        .map(|rule| {
            let names = rule.headers.iter().map(|header| (header.name.clone(), "".into()));
            let headers: serde_json::Map<String, Value> = names.collect();
            (rule.to.clone(), json!([{ "transform": { "headers": headers } }]))
        })
        .collect();
    if !rules.is_empty() {
        network["rules"] = rules.into();
    }
    (opens_all, network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::policy::{Compiled, Destination};

    fn of(network: Value, internet: Option<bool>) -> Vec<(Verdict, String)> {
        let network: Network = serde_json::from_value(network).unwrap();
        policy(&network, internet).unwrap().rules.into_iter().map(|rule| (rule.verdict, rule.to)).collect()
    }

    #[test]
    fn nothing_is_open_unless_it_is_said() {
        assert!(of(json!({}), None).is_empty());
        assert!(of(json!({}), Some(false)).is_empty());
        assert_eq!(of(json!({}), Some(true)), [(Verdict::Allow, "*".to_owned())]);
    }

    /// Whether `address:port`, or `name@address:port`, is reached.
    fn reaches(network: Value, internet: Option<bool>, to: &str) -> bool {
        let network: Network = serde_json::from_value(network).unwrap();
        let rules = Compiled::new(&policy(&network, internet).unwrap()).unwrap();
        let (name, socket) = to.split_once('@').map_or((None, to), |(name, socket)| (Name::parse(name).ok(), socket));
        let socket: std::net::SocketAddr = socket.parse().unwrap();
        let told = name.is_some();
        rules.judge(&Destination { address: socket.ip(), port: socket.port(), name: name.as_ref(), told }).is_ok()
    }

    #[test]
    fn where_all_is_denied_what_is_allowed_is_reached_and_nothing_else() {
        let network = json!({"allowOut": ["pypi.org", "*.b.example", "1.1.1.1:443"], "denyOut": ["0.0.0.0/0"]});
        for internet in [None, Some(true), Some(false)] {
            for open in ["pypi.org@9.9.9.9:443", "x.b.example@9.9.9.9:80", "1.1.1.1:443"] {
                assert!(reaches(network.clone(), internet, open), "{open}");
            }
            for shut in ["pypi.com@9.9.9.9:443", "b.example@9.9.9.9:443", "1.1.1.1:80", "9.9.9.9:443"] {
                assert!(!reaches(network.clone(), internet, shut), "{shut}");
            }
        }
        // No denial shadows the allowance.
        let rules = of(network, Some(true));
        assert!(rules.iter().all(|(verdict, _)| *verdict == Verdict::Allow), "{rules:?}");
    }

    #[test]
    fn an_allowance_wins_over_the_same_denial_and_over_a_wider_one() {
        let network = json!({
            "allowOut": ["8.8.8.8/32", "203.0.113.7", "good.example"],
            "denyOut": ["8.8.8.8/32", "203.0.113.0/24", "1.0.0.1"],
        });
        for open in ["8.8.8.8:53", "203.0.113.7:443", "good.example@203.0.113.9:443", "9.9.9.9:443"] {
            assert!(reaches(network.clone(), Some(true), open), "{open}");
        }
        for shut in ["203.0.113.8:443", "other.example@203.0.113.9:443", "1.0.0.1:443"] {
            assert!(!reaches(network.clone(), Some(true), shut), "{shut}");
        }
        let all = json!({"allowOut": ["0.0.0.0/0"], "denyOut": ["1.0.0.1"]});
        assert!(reaches(all.clone(), None, "9.9.9.9:443") && !reaches(all, None, "1.0.0.1:443"));
    }

    #[test]
    fn a_transform_allows_nothing_by_itself() {
        let rule = json!({"api.example": [{"transform": {"headers": {"X-Key": "v"}}}]});
        assert!(of(json!({"rules": rule}), None).is_empty());
        assert!(!reaches(json!({"rules": rule, "denyOut": ["9.9.9.9"]}), Some(true), "api.example@9.9.9.9:443"));
        let allowed = json!({"rules": rule, "allowOut": ["*.example:443"]});
        assert!(!reaches(allowed.clone(), None, "api.example@9.9.9.9:80"));
        let network: Network = serde_json::from_value(allowed).unwrap();
        let policy = policy(&network, None).unwrap();
        let set: Vec<&Rule> = policy.rules.iter().filter(|rule| !rule.headers.is_empty()).collect();
        assert_eq!((set.len(), set[0].inspect, set[0].to.as_str()), (1, true, "api.example"));
        let told = told(&policy).1;
        assert!(!told.to_string().contains("\"v\""), "values stay secret");
        assert_eq!(told["allowOut"], json!(["*.example:443"]));
    }

    #[test]
    fn a_wildcard_is_held_by_a_wildcard_alone() {
        assert!(holds("*.a.example", "*.b.a.example") && holds("*.a.example", "*.A.example"));
        assert!(!holds("a.example", "*.a.example") && !holds("*.a.example", "a.example"));
    }

    #[test]
    fn what_does_not_map_is_named() {
        for (option, value) in [
            ("maskRequestHost", json!("x")),
            ("httpsPorts", json!([1])),
            ("egressProxy", json!({})),
            ("dnsServers", json!([])),
        ] {
            let network: Network = serde_json::from_value(json!({ option: value })).unwrap();
            assert_eq!(policy(&network, None).unwrap_err().context["feature"], format!("network.{option}"));
        }
    }
}
