//! What a sandbox may reach: rules over names, addresses and ports, and the secrets swapped at egress.
//!
//! It states and validates policy; it decides nothing about a packet or a connection: the daemon's `network` does.

use serde::{Deserialize, Serialize};

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The connection is made.
    Allow,
    /// The connection is refused.
    Deny,
}

/// One rule: a destination and what to do with it. Of the rules that match, deny wins over allow, unless a rule that allows
/// is [`Rule::over_deny`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What happens.
    pub verdict: Verdict,
    /// A name (`pypi.org`), a wildcard (`*.pythonhosted.org`: one or more labels in front), an address, a CIDR block, or
    /// `*` for every public destination.
    pub to: String,
    /// Ports; every port where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// A rule that allows wins over those that deny.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_deny: bool,
    /// TLS is terminated by the daemon, whose authority the image trusts. Implied by `secrets` and by recording.
    #[serde(default)]
    pub inspect: bool,
    /// Headers set on each request over TLS at egress; TLS is then inspected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// Headers are set on requests in the clear, too: whoever is on the way reads them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
}

/// A header set at egress.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value; never logged.
    pub value: String,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A secret of the daemon, bound to the hosts that may receive it. Inside stands a placeholder, which is swapped in the header
/// `authorization` alone where nothing else is said: elsewhere a host may keep it, or show it to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretBinding {
    /// Name of the secret in the daemon's store.
    pub secret: String,
    /// Variable of the environment that holds the placeholder inside.
    pub env: String,
    /// Names that may receive the value, as in [`Rule::to`].
    pub hosts: Vec<String>,
    /// Further headers in which the placeholder is swapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// It is swapped in the query of the target, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub query: bool,
    /// It is swapped in bodies, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub body: bool,
    /// A request that carries the value may change to another protocol (WebSocket), in which it is not looked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
}

/// Recording or replay of HTTP exchanges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Tape {
    /// Exchanges are written to the named tape.
    Record(String),
    /// Only what the named tape holds is answered, from the tape; nothing leaves the host.
    Replay(String),
}

/// What stands for the port in [`Policy::ingress_host`].
pub const PORT_PLACEHOLDER: &str = "${PORT}";

/// What a sandbox may reach. The default reaches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Rules; what none of them allows is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Secrets swapped at egress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretBinding>,
    /// Private and special ranges that may be reached where a rule allows them, as CIDR blocks. Link-local, metadata and
    /// the host's loopback are denied unless they stand here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_ranges: Vec<String>,
    /// Ports inside that previews may reach from outside; `None`: every port, by the preview's own access rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_ports: Option<Vec<u16>>,
    /// Previews need the sandbox's traffic token.
    #[serde(default)]
    pub ingress_token: bool,
    /// What previews give as `Host` to a port inside, in place of the caller's: a name, with `:PORT` perhaps. `${PORT}` stands for
    /// the port that is asked for. The caller's own goes into `X-Forwarded-Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_host: Option<String>,
    /// Ports inside that speak TLS: previews connect to them so. The certificate is not verified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress_tls_ports: Vec<u16>,
    /// Bytes a second in each direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes: Option<u64>,
    /// Connections open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Recording or replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tape: Option<Tape>,
}

impl Policy {
    /// Whether any connection could be allowed, now or by an exchange on tape.
    #[must_use]
    pub fn reaches_anything(&self) -> bool {
        self.tape.is_some() || self.rules.iter().any(|rule| rule.verdict == Verdict::Allow)
    }
}
