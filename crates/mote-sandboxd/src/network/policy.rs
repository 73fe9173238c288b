//! A policy made ready to be asked: its texts parsed, its rules in the form that a decision needs.
//!
//! It asks no resolver and opens no connection. The order of a decision: special ranges, then rules that allow over those
//! that deny, then rules that deny, then rules that allow; what none allows is refused.

use std::net::IpAddr;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::limits::NETWORK_RULES_MAX;
use mote_sandbox_api::network::{Policy, Tape, Verdict};

use super::address;
use super::decision::Reason;
use super::name::{Name, Pattern};
use crate::limits::{
    EGRESS_CONNECTIONS_DEFAULT, EGRESS_CONNECTIONS_MAX, NETWORK_HEADERS_MAX, NETWORK_PRIVATE_RANGES_MAX,
    NETWORK_SECRET_HOSTS_MAX, NETWORK_SECRETS_MAX,
};

/// A policy, parsed and validated.
#[derive(Clone, Debug)]
pub struct Compiled {
    rules: Vec<Rule>,
    private: Vec<IpNet>,
    bindings: Vec<Binding>,
    /// Recording or replay.
    pub tape: Option<Tape>,
    /// Bytes a second in each direction.
    pub bandwidth_bytes: Option<u64>,
    /// Connections open at once.
    pub connections: u32,
}

#[derive(Clone, Debug)]
struct Rule {
    verdict: Verdict,
    target: Target,
    ports: Vec<u16>,
    over_deny: bool,
    inspect: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    plain_http: bool,
}

#[derive(Clone, Debug)]
enum Target {
    /// Every public destination.
    Any,
    /// Names.
    Name(Pattern),
    /// Addresses.
    Block(IpNet),
}

/// A secret and the hosts that may receive it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Name of the secret in the daemon's store.
    pub secret: String,
    /// Variable of the environment that holds the placeholder.
    pub env: String,
    hosts: Vec<Pattern>,
    /// Headers beside `authorization` in which it is swapped.
    headers: Vec<HeaderName>,
    /// It is swapped in the query.
    pub query: bool,
    /// It is swapped in bodies.
    pub body: bool,
    /// A request that carries it may change the protocol.
    pub upgrade: bool,
}

impl Binding {
    /// Whether a host may receive the secret.
    #[must_use]
    pub fn is_for(&self, host: &Name) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }

    /// Whether it is swapped in a header of a client's.
    #[must_use]
    pub fn is_in(&self, header: &HeaderName) -> bool {
        header == AUTHORIZATION || self.headers.contains(header)
    }
}

/// Where a connection goes, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The address that is dialled.
    pub address: IpAddr,
    /// The port that is dialled.
    pub port: u16,
    /// The name that the client gave, in a `ClientHello` or a `Host` header.
    pub name: Option<&'a Name>,
    /// The sandbox was told this address for this name.
    pub told: bool,
}

/// How an allowed connection is treated.
#[derive(Clone, Debug, Default)]
pub struct Treatment {
    /// A rule asks for TLS to be terminated (by itself, for its headers, or for a tape): a protocol that cannot be
    /// inspected is then refused.
    pub inspect: bool,
    /// A secret is bound to the host: TLS is terminated; other protocols pass without it.
    pub secrets: bool,
    /// Whatever the name, it would be the same: what hides the name may pass.
    pub any_name: bool,
    /// Headers set on each request over TLS.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Those of them that are set on requests in the clear, too.
    pub plain_headers: Vec<(HeaderName, HeaderValue)>,
}

impl Treatment {
    /// Names of the headers that are set on each request over TLS.
    #[must_use]
    pub fn set(&self) -> Vec<HeaderName> {
        self.headers.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Whether TLS ends at the daemon.
    #[must_use]
    pub fn terminates(&self) -> bool {
        self.inspect || self.secrets
    }
}

impl Compiled {
    /// Parses and validates.
    ///
    /// # Errors
    /// `invalid`, naming the field.
    pub fn new(policy: &Policy) -> Result<Self, Failure> {
        bounded("rules", policy.rules.len(), NETWORK_RULES_MAX)?;
        bounded("secrets", policy.secrets.len(), NETWORK_SECRETS_MAX)?;
        bounded("private_ranges", policy.private_ranges.len(), NETWORK_PRIVATE_RANGES_MAX)?;
        let rules = policy.rules.iter().enumerate().map(|(at, rule)| rule_of(at, rule)).collect::<Result<_, _>>()?;
        let private = policy
            .private_ranges
            .iter()
            .enumerate()
            .map(|(at, text)| {
                block_of(text).ok_or_else(|| {
                    Failure::invalid(&format!("network.private_ranges[{at}]"), format!("{text:?} is no CIDR block"))
                })
            })
            .collect::<Result<_, _>>()?;
        let bindings =
            policy.secrets.iter().enumerate().map(|(at, secret)| binding_of(at, secret)).collect::<Result<_, _>>()?;
        if let Some(Tape::Record(name) | Tape::Replay(name)) = &policy.tape {
            super::tape::check_name(name).map_err(|why| Failure::invalid("network.tape", why))?;
        }
        let connections = policy.connections.unwrap_or(EGRESS_CONNECTIONS_DEFAULT);
        if connections > EGRESS_CONNECTIONS_MAX {
            return Err(Failure::invalid("network.connections", format!("at most {EGRESS_CONNECTIONS_MAX}")));
        }
        if policy.bandwidth_bytes == Some(0) {
            return Err(Failure::invalid("network.bandwidth_bytes", "at least 1"));
        }
        Ok(Self {
            rules,
            private,
            bindings,
            tape: policy.tape.clone(),
            bandwidth_bytes: policy.bandwidth_bytes,
            connections,
        })
    }

    /// Secrets and whom they are for.
    #[must_use]
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The tape that everything is answered from, where there is one.
    #[must_use]
    pub fn replays(&self) -> Option<&str> {
        match &self.tape {
            Some(Tape::Replay(name)) => Some(name),
            Some(Tape::Record(_)) | None => None,
        }
    }

    /// Whether a name is to be resolved: some port of it is allowed.
    ///
    /// # Errors
    /// The reason for which it is not.
    pub fn resolves(&self, name: &Name) -> Result<(), Reason> {
        let means = |rule: &Rule| match &rule.target {
            Target::Any => true,
            Target::Name(pattern) => pattern.matches(name),
            Target::Block(_) => false,
        };
        let denied =
            self.rules.iter().any(|rule| rule.verdict == Verdict::Deny && rule.ports.is_empty() && means(rule));
        if self.rules.iter().any(|rule| rule.may_allow(denied) && means(rule)) {
            return Ok(());
        }
        Err(if denied { Reason::Rule } else { Reason::NoRule })
    }

    /// Whether an address may be dialled at all, whatever the rules: it is public, or a private range that the policy opens.
    ///
    /// # Errors
    /// [`Reason::SpecialRange`] or [`Reason::OwnAddress`].
    pub fn reaches(&self, address: IpAddr) -> Result<(), Reason> {
        if self.opens(address) {
            return Ok(());
        }
        if address::special(address).is_some() {
            return Err(Reason::SpecialRange);
        }
        match address {
            IpAddr::V4(address) if address::is_own(address) => Err(Reason::OwnAddress),
            IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
        }
    }

    fn opens(&self, address: IpAddr) -> bool {
        self.private.iter().any(|block| address::holds(block, address))
    }

    /// Whether a connection could be allowed, before it is known what the client will say: by a rule over addresses, or for
    /// one of the names that its address was told for.
    ///
    /// # Errors
    /// The reason for which no first byte could make it allowed.
    pub fn could_allow(&self, address: IpAddr, port: u16, told: &[Name]) -> Result<(), Reason> {
        self.reaches(address)?;
        let mut reason = match self.weigh(&Destination { address, port, name: None, told: false }) {
            Ok(_) => return Ok(()),
            Err(reason) => reason,
        };
        for name in told {
            match self.weigh(&Destination { address, port, name: Some(name), told: true }) {
                Ok(_) => return Ok(()),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }

    /// Decides about one destination.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub fn judge(&self, to: &Destination<'_>) -> Result<Treatment, Reason> {
        self.reaches(to.address)?;
        self.weigh(to)
    }

    /// [`Self::judge`] by the rules alone.
    fn weigh(&self, to: &Destination<'_>) -> Result<Treatment, Reason> {
        let at_port = |rule: &&Rule| rule.ports.is_empty() || rule.ports.contains(&to.port);
        let denied =
            self.rules.iter().filter(at_port).any(|rule| rule.verdict == Verdict::Deny && rule.target.means(to));
        let mut treatment = Treatment { inspect: self.tape.is_some(), ..Treatment::default() };
        let mut allowed = false;
        let mut untold = false;
        let mut unnamed = false;
        for rule in self.rules.iter().filter(at_port).filter(|rule| rule.may_allow(denied)) {
            let holds = match &rule.target {
                // `*` is every public destination: a private range that is opened needs a rule of its own.
                Target::Any => !self.opens(to.address) || address::special(to.address).is_none(),
                Target::Block(_) => rule.target.means(to),
                Target::Name(_) => {
                    let means = rule.target.means(to);
                    untold |= means && !to.told;
                    means && to.told
                }
            };
            if holds {
                allowed = true;
                unnamed |= !matches!(rule.target, Target::Name(_));
                treatment.inspect |= rule.inspect;
                treatment.headers.extend(rule.headers.iter().cloned());
                let plain = rule.headers.iter().filter(|_| rule.plain_http);
                treatment.plain_headers.extend(plain.cloned());
            }
        }
        if !allowed {
            return Err(match (denied, untold) {
                (true, _) => Reason::Rule,
                (false, true) => Reason::NotTold,
                (false, false) => Reason::NoRule,
            });
        }
        // A name that is hidden could be one that a rule denies, or one whose connections are to be read.
        let names_matter =
            |rule: &Rule| matches!(rule.target, Target::Name(_)) && (rule.verdict == Verdict::Deny || rule.inspect);
        treatment.any_name = unnamed && !self.rules.iter().filter(at_port).any(names_matter);
        // A secret goes to an address that was told for its host, and to no other: a rule over addresses does not vouch for
        // the name that a client gives.
        treatment.secrets =
            to.told && to.name.is_some_and(|name| self.bindings.iter().any(|binding| binding.is_for(name)));
        Ok(treatment)
    }
}

/// Refuses headers that name a secret which no binding has: the reference itself would be sent.
///
/// # Errors
/// `invalid`, naming the rule and the secret.
pub fn check_references(policy: &Policy) -> Result<(), Failure> {
    for (at, rule) in policy.rules.iter().enumerate() {
        for name in rule.headers.iter().flat_map(|header| super::secret::named(&header.value)) {
            if !policy.secrets.iter().any(|binding| binding.secret == name) {
                let message = format!("the secret {name:?} is named here and not bound in `secrets`");
                return Err(Failure::invalid(&format!("network.rules[{at}].headers"), message));
            }
        }
    }
    Ok(())
}

/// Whether a preview may reach a port inside. `proven` says whether the request carried what shows that it may: the sandbox's
/// traffic token, or more. A sandbox without a policy is closed to everybody else.
///
/// # Errors
/// The reason for which it may not.
pub fn admits(policy: Option<&Policy>, port: u16, proven: bool) -> Result<(), Reason> {
    let ports = policy.and_then(|policy| policy.ingress_ports.as_ref());
    if ports.is_some_and(|ports| !ports.contains(&port)) {
        return Err(Reason::NoRule);
    }
    if policy.is_none_or(|policy| policy.ingress_token) && !proven {
        return Err(Reason::Token);
    }
    Ok(())
}

impl Rule {
    /// Whether it can allow what it means, given whether a rule denies that.
    fn may_allow(&self, denied: bool) -> bool {
        self.verdict == Verdict::Allow && (self.over_deny || !denied)
    }
}

impl Target {
    fn means(&self, to: &Destination<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Name(pattern) => to.name.is_some_and(|name| pattern.matches(name)),
            Self::Block(block) => address::holds(block, to.address),
        }
    }
}

fn bounded(field: &str, count: usize, limit: usize) -> Result<(), Failure> {
    if count > limit {
        return Err(
            Failure::invalid(&format!("network.{field}"), format!("at most {limit} entries")).with("limit", limit)
        );
    }
    Ok(())
}

/// An address or a CIDR block.
fn block_of(text: &str) -> Option<IpNet> {
    if let Ok(block) = text.parse::<IpNet>() {
        return Some(block.trunc());
    }
    text.parse::<IpAddr>().ok().map(IpNet::from)
}

fn rule_of(at: usize, rule: &mote_sandbox_api::network::Rule) -> Result<Rule, Failure> {
    let field = |name: &str| format!("network.rules[{at}].{name}");
    let target = if rule.to == "*" {
        Target::Any
    } else if let Some(block) = block_of(&rule.to) {
        Target::Block(block)
    } else {
        Target::Name(Pattern::parse(&rule.to).map_err(|error| {
            Failure::invalid(&field("to"), error).remedy(
                "write a name, a wildcard like *.example.org, an address, a CIDR block, or *; ports stand in `ports`",
            )
        })?)
    };
    if rule.ports.contains(&0) {
        return Err(Failure::invalid(&field("ports"), "0 is no port"));
    }
    if rule.verdict == Verdict::Deny && rule.over_deny {
        return Err(Failure::invalid(&field("over_deny"), "a rule that denies wins over nothing"));
    }
    if rule.verdict == Verdict::Deny && (rule.inspect || !rule.headers.is_empty()) {
        return Err(Failure::invalid(&field("inspect"), "a rule that denies inspects nothing and sets no headers"));
    }
    if rule.plain_http && rule.headers.is_empty() {
        return Err(Failure::invalid(&field("plain_http"), "it is about headers, and the rule sets none"));
    }
    if rule.headers.len() > NETWORK_HEADERS_MAX {
        return Err(Failure::invalid(&field("headers"), format!("at most {NETWORK_HEADERS_MAX}")));
    }
    let headers = rule
        .headers
        .iter()
        .map(|header| {
            let name = HeaderName::try_from(header.name.as_str())
                .map_err(|_| Failure::invalid(&field("headers"), format!("{:?} is no header's name", header.name)))?;
            if FRAMING.contains(&name.as_str()) {
                return Err(Failure::invalid(&field("headers"), format!("{name} is the proxy's own to set")));
            }
            let mut value = HeaderValue::try_from(header.value.as_str()).map_err(|_| {
                Failure::invalid(&field("headers"), format!("the value of {name} is no header's value"))
            })?;
            value.set_sensitive(true);
            Ok((name, value))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Rule {
        verdict: rule.verdict,
        target,
        ports: rule.ports.clone(),
        over_deny: rule.over_deny,
        inspect: rule.inspect || !headers.is_empty(),
        headers,
        plain_http: rule.plain_http,
    })
}

/// Headers that decide where a request goes or where it ends: a rule does not set them.
const FRAMING: [&str; 7] = ["connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"];

fn binding_of(at: usize, binding: &mote_sandbox_api::network::SecretBinding) -> Result<Binding, Failure> {
    let field = |name: &str| format!("network.secrets[{at}].{name}");
    if binding.hosts.is_empty() || binding.hosts.len() > NETWORK_SECRET_HOSTS_MAX {
        return Err(Failure::invalid(&field("hosts"), format!("between 1 and {NETWORK_SECRET_HOSTS_MAX} names")));
    }
    if binding.env.is_empty() || binding.env.contains(['=', '\0']) {
        return Err(Failure::invalid(&field("env"), "not the name of a variable"));
    }
    let hosts = binding
        .hosts
        .iter()
        .map(|host| Pattern::parse(host).map_err(|error| Failure::invalid(&field("hosts"), error)))
        .collect::<Result<_, _>>()?;
    if binding.headers.len() > NETWORK_HEADERS_MAX {
        return Err(Failure::invalid(&field("headers"), format!("at most {NETWORK_HEADERS_MAX}")));
    }
    let headers = binding
        .headers
        .iter()
        .map(|name| {
            HeaderName::try_from(name.as_str())
                .map_err(|_| Failure::invalid(&field("headers"), format!("{name:?} is no header's name")))
        })
        .collect::<Result<_, _>>()?;
    let (query, body, upgrade) = (binding.query, binding.body, binding.upgrade);
    Ok(Binding { secret: binding.secret.clone(), env: binding.env.clone(), hosts, headers, query, body, upgrade })
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
