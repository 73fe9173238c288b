//! E2B's network options as a policy, and a policy as E2B's options.
//!
//! E2B reaches every public destination unless told otherwise, and what `allowOut` names wins over what `denyOut` names. So does
//! a policy that is made here: it begins with an allowance of everything, which every denial wins over; without it nothing is
//! reached but what is named. Private addresses and the host's own are no public destinations: no option of E2B's opens them.

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

/// Whether everything that nothing denies is reached.
pub(super) fn is_open(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| rule.verdict == Verdict::Allow && rule.to == "*" && rule.headers.is_empty())
}

/// E2B's own words where names are allowed, and all the rest is, too.
const NAMES_ALONE: &str = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block \
                           all other traffic.";

/// The policy of E2B's options. `open` is what `allow_internet_access` comes to; what the options do not speak of is as in
/// `before`.
///
/// # Errors
/// `unsupported`, naming the option; `invalid`.
pub(super) fn policy(network: &Network, open: bool, before: Policy) -> Result<Policy, Failure> {
    let refuse = |option: &str, why: &str| Err(Failure::unsupported(&format!("network.{option}"), why));
    if network.egress_proxy.as_ref().is_some_and(|proxy| !proxy.is_null()) {
        return refuse("egressProxy", "egress goes through the daemon's own proxy alone");
    }
    if network.dns_servers.is_some() {
        return refuse("dnsServers", "names are resolved by the daemon");
    }
    let is_all = |to: &String| ALL.contains(&to.as_str());
    let (allow, deny) =
        (network.allow_out.as_deref().unwrap_or_default(), network.deny_out.as_deref().unwrap_or_default());
    let allows_all = allow.iter().any(is_all);
    let mut rules = Vec::new();
    if open || allows_all {
        rules.push(rule(Verdict::Allow, "*"));
    }
    let named = allow.iter().filter(|to| !is_all(to)).map(|to| destination(Verdict::Allow, to));
    rules.extend(named.map(|rule| Rule { over_deny: true, ..rule }));
    // What is allowed wins over what is denied, everything over everything too.
    let denied = deny.iter().filter(|to| !(allows_all && is_all(to)));
    rules.extend(denied.map(|to| destination(Verdict::Deny, to)));
    let mut headers = transforms(network, &rules);
    let secrets = secrets(&mut headers)?;
    let names_alone = rules.iter().any(|rule| rule.verdict == Verdict::Allow && is_name(rule));
    if open && !allows_all && !deny.iter().any(is_all) && names_alone {
        return Err(Failure::invalid("network.allowOut", NAMES_ALONE));
    }
    rules.extend(headers);
    Ok(Policy {
        rules,
        secrets,
        ingress_token: network.allow_public_traffic.map_or(before.ingress_token, |open| !open),
        ingress_host: network.mask_request_host.clone().filter(|host| !host.is_empty()).or(before.ingress_host),
        ingress_tls_ports: network.https_ports.clone().unwrap_or(before.ingress_tls_ports),
        ..before
    })
}

/// Whether a rule that allows means names, and not every destination.
fn is_name(rule: &Rule) -> bool {
    rule.to != "*" && rule.to.parse::<ipnet::IpNet>().is_err() && rule.to.parse::<std::net::IpAddr>().is_err()
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

/// The options that a policy is told as. Values of headers are not told.
pub(super) fn told(policy: &Policy) -> Value {
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
            // An allowance of everything is told as `allowInternetAccess`.
            .filter(|rule| verdict == Verdict::Deny || rule.to != "*")
            .flat_map(|rule| match rule.ports.as_slice() {
                [] => vec![rule.to.clone()],
                ports => ports.iter().map(|port| format!("{}:{port}", rule.to)).collect(),
            })
            .map(|to| if to == "*" { ALL[0].to_owned() } else { to })
            .collect()
    };
    let mut denied = texts(Verdict::Deny);
    if !is_open(policy) && !denied.iter().any(|to| to == ALL[0]) {
        denied.insert(0, ALL[0].to_owned());
    }
    let mut network = json!({
        "allowOut": texts(Verdict::Allow),
        "denyOut": denied,
        "allowPublicTraffic": !policy.ingress_token,
    });
    if let Some(host) = &policy.ingress_host {
        network["maskRequestHost"] = host.clone().into();
    }
    if !policy.ingress_tls_ports.is_empty() {
        network["httpsPorts"] = policy.ingress_tls_ports.clone().into();
    }
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
    network
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
