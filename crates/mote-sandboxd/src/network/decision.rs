//! Every decision of the boundary: kept for a while for each sandbox, logged, counted.
//!
//! It decides nothing, and it never holds a path, a header, a body or a secret.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use mote_sandbox_api::network::Verdict;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::Serialize;

use crate::limits::{DECISIONS_KEPT, DECISIONS_LOGGED_PER_SECOND};

/// What was decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A question for a name.
    Dns,
    /// A connection, by its address, or of a protocol that names no host.
    Tcp,
    /// A TLS connection, by the name in its `ClientHello`.
    Tls,
    /// An HTTP request, by its `Host`.
    Http,
    /// A preview from outside.
    Ingress,
}

impl Kind {
    /// As it stands in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Ingress => "ingress",
        }
    }
}

/// Why it was decided so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A rule says so.
    Rule,
    /// No rule allows it.
    NoRule,
    /// The name is allowed, but its address was not told for it.
    NotTold,
    /// The address is private, link-local, a metadata service or otherwise special.
    SpecialRange,
    /// The address is this host's own.
    OwnAddress,
    /// The connection was made to the boundary itself.
    NotRedirected,
    /// TLS without a name, where only names are allowed.
    NoName,
    /// TLS with an encrypted hello: the name that counts cannot be seen.
    EncryptedHello,
    /// The first bytes are broken TLS or HTTP.
    Malformed,
    /// HTTP whose target, `Host` and TLS name are not one.
    Mismatch,
    /// A protocol that cannot be checked, on a port of HTTP or under inspection.
    Protocol,
    /// More connections than the policy gives, or than the daemon has room for.
    Connections,
    /// More questions than are answered in a second.
    Rate,
    /// More questions that the resolver is still at than the daemon has room for.
    Lookups,
    /// The destination did not answer, or the name does not resolve.
    Unreachable,
    /// The destination's certificate does not hold.
    Certificate,
    /// It is not on the tape.
    NotOnTape,
    /// The policy changed and no longer allows it.
    Changed,
    /// The traffic token is missing or wrong.
    Token,
    /// A kind of record that is never answered.
    RecordType,
}

impl Reason {
    /// As it stands in logs, metrics and refusals.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NoRule => "no_rule",
            Self::NotTold => "not_told",
            Self::SpecialRange => "special_range",
            Self::OwnAddress => "own_address",
            Self::NotRedirected => "not_redirected",
            Self::NoName => "no_name",
            Self::EncryptedHello => "encrypted_hello",
            Self::Malformed => "malformed",
            Self::Mismatch => "mismatch",
            Self::Protocol => "protocol",
            Self::Connections => "connections",
            Self::Rate => "rate",
            Self::Lookups => "lookups",
            Self::Unreachable => "unreachable",
            Self::Certificate => "certificate",
            Self::NotOnTape => "not_on_tape",
            Self::Changed => "changed",
            Self::Token => "token",
            Self::RecordType => "record_type",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

/// What a refusal is counted by: nothing that a sandbox chooses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// What was refused.
    pub kind: Kind,
    /// Why.
    pub reason: Reason,
}

/// Refusals of every sandbox together.
pub type Refusals = Family<RefusalLabel, Counter>;

/// What is decided about, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The name asked for or given.
    pub name: Option<String>,
    /// The address dialled.
    pub address: Option<IpAddr>,
    /// The port dialled.
    pub port: Option<u16>,
}

/// One decision.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Decision {
    /// Counted up from 1 for each sandbox; a gap says that some were not kept.
    pub number: u64,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// What was decided about.
    pub kind: Kind,
    /// What was decided.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The name asked for or given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// The port dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The decisions about one sandbox.
#[derive(Debug)]
pub struct Log {
    sandbox: String,
    kept: Mutex<Kept>,
    allowed: AtomicU64,
    denied: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    number: u64,
    ring: VecDeque<Decision>,
    second: u64,
    logged: u32,
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new(sandbox: &str) -> Self {
        Self {
            sandbox: sandbox.to_owned(),
            kept: Mutex::default(),
            allowed: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        }
    }

    /// Whose decisions these are.
    #[must_use]
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// Around everything that is logged of it, whatever the level.
    #[must_use]
    pub fn span(&self) -> tracing::Span {
        tracing::error_span!("egress", sandbox = self.sandbox)
    }

    /// Keeps, logs and counts one decision. `at_ms` is now, milliseconds since the epoch.
    pub fn record(&self, at_ms: u64, kind: Kind, verdict: Verdict, reason: Reason, subject: Subject) {
        let counter = if verdict == Verdict::Allow { &self.allowed } else { &self.denied };
        counter.fetch_add(1, Ordering::Relaxed);
        let name = subject.name.as_deref().unwrap_or_default();
        let logged = {
            let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            kept.number += 1;
            let Subject { name, address, port } = subject.clone();
            let decision = Decision { number: kept.number, at_ms, kind, verdict, reason, name, address, port };
            if kept.ring.len() == DECISIONS_KEPT {
                kept.ring.pop_front();
            }
            kept.ring.push_back(decision);
            if kept.second != at_ms / 1000 {
                kept.second = at_ms / 1000;
                kept.logged = 0;
            }
            kept.logged += 1;
            kept.logged <= DECISIONS_LOGGED_PER_SECOND
        };
        if logged {
            let address = subject.address.map(|address| address.to_string()).unwrap_or_default();
            tracing::info!(
                target: "mote_sandboxd::egress",
                sandbox = self.sandbox,
                kind = kind.as_str(),
                verdict = if verdict == Verdict::Allow { "allow" } else { "deny" },
                reason = reason.as_str(),
                name,
                address,
                port = subject.port.unwrap_or_default(),
                "network decision"
            );
        }
    }

    /// The decisions kept that are newer than a number, oldest first.
    #[must_use]
    pub fn after(&self, number: u64) -> Vec<Decision> {
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.ring.iter().filter(|decision| decision.number > number).cloned().collect()
    }

    /// How many were allowed, and how many denied.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.allowed.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_decisions_go_first_and_numbers_tell_of_it() {
        let log = Log::new("sb");
        for _ in 0..DECISIONS_KEPT + 10 {
            log.record(1, Kind::Dns, Verdict::Deny, Reason::NoRule, Subject::default());
        }
        let kept = log.after(0);
        assert_eq!((kept.len(), kept[0].number), (DECISIONS_KEPT, 11));
        assert_eq!(log.after(kept[kept.len() - 1].number).len(), 0);
        assert_eq!(log.counts(), (0, DECISIONS_KEPT as u64 + 10));
    }

    #[test]
    fn a_reason_reads_in_json_as_in_logs() {
        for reason in [Reason::NoRule, Reason::EncryptedHello, Reason::NotOnTape, Reason::SpecialRange] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("{:?}", reason.as_str()));
        }
    }
}
