//! The service around the agent: where it listens, who may use it, what it tells.
//!
//! It does not bind, read key files or connect.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::diagnostic::FieldPath;
use super::super::findings::Findings;
use super::super::{Auth, EventSink, Server, raw};
use super::{Surroundings, duration, http_url, secret};

use crate::telemetry::Config as Telemetry;

const DAY: Duration = Duration::from_secs(86_400);

/// The HTTP service; `open` if nothing was said of authentication.
pub(super) fn server(raw: raw::Server, open: bool, findings: &mut Findings<'_>) -> Server {
    let path = FieldPath::top("server");
    let listen = match raw.listen.as_deref().map(str::parse::<SocketAddr>) {
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        Some(Ok(address)) => address,
        Some(Err(_)) => {
            let hint = "write an address and a port: 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080";
            findings.error_hint(&path.key("listen"), "is not an address with a port", hint);
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))
        }
    };
    if open && !listen.ip().is_loopback() && !findings.is_broken(&FieldPath::top("auth")) {
        let hint = "add `auth: {keys: {file: PATH}}` (`mote key new` makes keys), or write `auth: none` if something in front of the service authenticates";
        findings.error_hint(
            &path.key("listen"),
            format!("{listen} is open to others and nothing is said of `auth`"),
            hint,
        );
    }
    let lease = duration(raw.lease.as_ref(), Duration::from_secs(15), &path.key("lease"), findings);
    if lease < Duration::from_secs(1) {
        findings.error(&path.key("lease"), "must be 1s or more: it is renewed several times within it");
    }
    for (index, origin) in raw.cors.iter().enumerate() {
        let path = path.key("cors").index(index);
        if origin == "*" {
            findings.error(&path, "`*` would let every site call the agent; name the origins");
        } else if let Some(url) = http_url(origin, &path, findings)
            && url.origin().ascii_serialization() != *origin
        {
            findings.error(&path, format!("is not an origin; write {}", url.origin().ascii_serialization()));
        }
    }
    Server {
        listen,
        runs: raw.runs.unwrap_or(256) as usize,
        lease,
        drain: duration(raw.drain.as_ref(), Duration::from_secs(25), &path.key("drain"), findings),
        rate: raw.rate,
        cors: raw.cors,
        idempotency_ttl: duration(raw.idempotency_ttl.as_ref(), DAY, &path.key("idempotency_ttl"), findings),
        retention: duration(raw.retention.as_ref(), 30 * DAY, &path.key("retention"), findings),
    }
}

/// API keys. The file itself is read when the service starts.
pub(super) fn auth(raw: Option<raw::Auth>, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> Option<Auth> {
    let raw::Auth::Keys(keys) = raw? else { return None };
    if keys.keys.file.is_empty() {
        findings.error(&FieldPath::top("auth").key("keys").key("file"), "is empty");
    }
    Some(Auth { keys: around.resolve(&keys.keys.file) })
}

/// Logs and traces.
pub(super) fn telemetry(raw: raw::Telemetry, findings: &mut Findings<'_>) -> Telemetry {
    let path = FieldPath::top("telemetry");
    if let Some(otlp) = &raw.otlp {
        let _ = http_url(otlp, &path.key("otlp"), findings);
    }
    let log = raw.log.unwrap_or_else(|| "info".to_owned());
    if let Err(error) = crate::telemetry::logs::parse_filter(&log) {
        findings.error(&path.key("log"), format!("is not a log filter: {error}"));
    }
    Telemetry { otlp: raw.otlp, content: raw.content == Some(raw::Switch::On), log }
}

/// Where finished tasks are published.
pub(super) fn events(raw: raw::Events, around: &Surroundings<'_>, findings: &mut Findings<'_>) -> EventSink {
    let path = FieldPath::top("events");
    let _ = http_url(&raw.sink, &path.key("sink"), findings);
    let authorization = raw.authorization.map(|raw| secret(raw, &path.key("authorization"), around, findings));
    EventSink { url: raw.sink, authorization }
}
