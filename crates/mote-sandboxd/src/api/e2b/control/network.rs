//! E2B's network options as a policy, and a policy as E2B's options.
//!
//! E2B reaches everything unless told otherwise and lets an allowance win over a denial; Mote reaches nothing unless told
//! otherwise and lets a denial win. What would widen is never assumed: only `allow_internet_access: true` opens everything.

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::network::{Header, Policy, Rule, Verdict};
use serde_json::{Value, json};

use super::body::Network;

/// Every address, as E2B writes it.
const ALL: [&str; 3] = ["0.0.0.0/0", "::/0", "*"];

fn rule(verdict: Verdict, to: &str) -> Rule {
    Rule { verdict, to: to.to_owned(), ports: Vec::new(), inspect: false, headers: Vec::new() }
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
    let opens_all = internet == Some(true) && !denies_all;
    let mut rules = Vec::new();
    if opens_all {
        rules.push(rule(Verdict::Allow, "*"));
    }
    rules.extend(allow.iter().map(|to| destination(Verdict::Allow, to)));
    // A denial of everything is how it is without a rule. One of what is allowed by name loses there, and would win here.
    let denied = deny.iter().filter(|to| !ALL.contains(&to.as_str()) && !allow.contains(to));
    rules.extend(denied.map(|to| destination(Verdict::Deny, to)));
    for (host, transforms) in &network.rules {
        let headers: Vec<Header> = transforms
            .iter()
            .filter_map(|rule| rule.transform.as_ref())
            .flat_map(|transform| &transform.headers)
            .map(|(name, value)| Header { name: name.clone(), value: value.clone() })
            .collect();
        // A transform changes what may pass; it allows nothing that is not allowed.
        let is_allowed = opens_all || allow.iter().any(|to| to == host || ALL.contains(&to.as_str()));
        if is_allowed && !headers.is_empty() {
            rules.retain(|rule| rule.to != *host || rule.verdict == Verdict::Deny);
            rules.push(Rule { inspect: true, headers, ..rule(Verdict::Allow, host) });
        }
    }
    Ok(Policy { rules, ingress_token: network.allow_public_traffic == Some(false), ..Policy::default() })
}

/// Whether everything is allowed, and the options that a policy is told as. Values of headers are not told.
pub(super) fn told(policy: &Policy) -> (bool, Value) {
    let texts = |verdict: Verdict| -> Vec<String> {
        policy
            .rules
            .iter()
            .filter(|rule| rule.verdict == verdict)
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

    #[test]
    fn what_is_allowed_by_name_is_what_is_reached_where_all_is_denied() {
        let rules = of(json!({"allowOut": ["pypi.org", "1.1.1.1:443"], "denyOut": ["0.0.0.0/0"]}), Some(true));
        assert_eq!(rules, [(Verdict::Allow, "pypi.org".to_owned()), (Verdict::Allow, "1.1.1.1".to_owned())]);
    }

    #[test]
    fn an_allowance_wins_over_the_same_denial() {
        let rules = of(json!({"allowOut": ["8.8.8.8/32"], "denyOut": ["8.8.8.8/32", "9.9.9.9/32"]}), Some(true));
        assert!(!rules.contains(&(Verdict::Deny, "8.8.8.8/32".to_owned())));
        assert!(rules.contains(&(Verdict::Deny, "9.9.9.9/32".to_owned())));
    }

    #[test]
    fn a_transform_allows_nothing_by_itself() {
        let rule = json!({"api.example": [{"transform": {"headers": {"X-Key": "v"}}}]});
        assert!(of(json!({"rules": rule}), None).is_empty());
        let network: Network = serde_json::from_value(json!({"rules": rule, "allowOut": ["api.example"]})).unwrap();
        let policy = policy(&network, None).unwrap();
        assert_eq!(policy.rules.len(), 1);
        assert!(policy.rules[0].inspect);
        assert!(!told(&policy).1.to_string().contains("\"v\""), "values stay secret");
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
