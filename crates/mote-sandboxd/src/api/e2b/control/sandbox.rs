//! One sandbox: made, told of, paused, woken, forked, ended.
//!
//! It knows E2B's defaults and shapes; the order of things is the lifecycle's.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use http::{HeaderMap, StatusCode};
use mote_sandbox_api::capability::ProfileName;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{E2B_SANDBOX, E2B_TEMPLATE_ID};
use mote_sandbox_api::lifecycle::State as Life;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{Fork, PauseKind, Sandbox};
use mote_sandbox_api::spec::{ImageSource, OnLeaseEnd, Profile, Spec, VolumeMount};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Answer, Body, Network, NewSandbox, connected, detailed, json_answer};
use super::list::{Known, point};
use crate::api::e2b::timestamp::rfc3339_unsigned;
use crate::api::e2b::{E2b, metrics, query};
use crate::api::native::idempotency::once;
use crate::api::scope;
use crate::lifecycle::journal::Line;
use crate::lifecycle::key::Key;
use crate::limits::{E2B_LEASE_DEFAULT, E2B_LEASE_DEFAULT_V1, E2B_LOGS_DEFAULT};
use crate::mcp;
use crate::template::record::Build;

/// Names under which E2B's SDKs ask for a template when the user names none.
const DEFAULT_TEMPLATES: [&str; 3] = ["", "base", "code-interpreter-v1"];

/// A sandbox that is there: one that has ended is not.
fn living(e2b: &E2b, id: &str) -> Result<Sandbox, Failure> {
    let sandbox = e2b.api.sandboxes.get(id)?;
    match sandbox.state {
        Life::Gone | Life::Stopping => Err(Failure::not_found("sandbox", id)),
        _ => Ok(sandbox),
    }
}

/// What a template means here: a snapshot by id or name, the host's root, the default image, or an image by name.
pub(super) async fn image(e2b: &E2b, template: &str) -> Result<Option<ImageSource>, Failure> {
    if DEFAULT_TEMPLATES.contains(&template) {
        return Ok(None);
    }
    if template == "host" {
        return Ok(Some(ImageSource::Host));
    }
    let snapshots = e2b.api.sandboxes.snapshots(None).await?;
    let found = snapshots
        .iter()
        .find(|snapshot| snapshot.id == template)
        .or_else(|| snapshots.iter().find(|snapshot| snapshot.name.as_deref() == Some(template)));
    if let Some(snapshot) = found {
        return Ok(Some(ImageSource::Snapshot(snapshot.id.clone())));
    }
    let image = ImageSource::Name(template.to_owned());
    if template == mcp::TEMPLATE && e2b.api.sandboxes.substrate().image(&image).await.is_err() {
        // The gateway is put into any image.
        return Ok(None);
    }
    Ok(Some(image))
}

fn seconds(field: &str, seconds: u64) -> Result<Duration, Failure> {
    if seconds == 0 {
        return Err(Failure::invalid(field, "it must be at least 1 second"));
    }
    Ok(Duration::from_secs(seconds))
}

/// What the operator's profile says of the network beyond what E2B's options speak of: private ranges, bandwidth, connections.
fn daemon_policy(e2b: &E2b) -> Policy {
    let profile = e2b.api.sandboxes.profiles().all().get(&ProfileName::from(Profile::Production));
    let policy = profile.and_then(|spec| spec.network.clone()).unwrap_or_default();
    Policy { rules: Vec::new(), secrets: Vec::new(), ingress_token: false, ..policy }
}

/// Told where the network is closed because the configuration says so, and E2B would have opened it.
const CLOSED_BY_DEFAULT: &str = "nothing is reached: this daemon's configuration (open_egress_default) forbids the open \
                                 network that E2B gives where allow_internet_access is left out";

/// MCP servers are wanted inside.
fn wants_gateway(new: &NewSandbox) -> bool {
    new.mcp.as_ref().is_some_and(|mcp| !mcp.is_null())
}

/// Makes a sandbox; with the gateway of MCP servers in it where that is asked for, or not at all.
async fn made(e2b: &E2b, spec: Spec, key: Option<Key>, gateway: bool) -> Result<Sandbox, Failure> {
    let sandboxes = &e2b.api.sandboxes;
    let sandbox = sandboxes.create_under(spec, key).await?;
    if !gateway {
        return Ok(sandbox);
    }
    let installed = async { mcp::install(&sandboxes.awake(&sandbox.id).await?).await };
    if let Err(failure) = installed.await {
        if let Err(error) = sandboxes.remove(&sandbox.id).await {
            tracing::warn!(sandbox = sandbox.id, %error, "failed to remove a sandbox without its gateway of MCP servers");
        }
        return Err(failure);
    }
    Ok(sandbox)
}

async fn specification(
    e2b: &E2b,
    new: NewSandbox,
    template: Option<&Build>,
    default: Duration,
) -> Result<Spec, Failure> {
    if wants_gateway(&new) && !new.mcp.as_ref().is_some_and(Value::is_object) {
        return Err(Failure::invalid("mcp", "it must name MCP servers, each with what it is configured with"));
    }
    if new.iam.as_ref().is_some_and(|iam| !iam.is_null()) {
        return Err(Failure::unsupported("iam", "sandboxes have no workload identity here"));
    }
    let wakes = new.auto_resume.is_some_and(|auto| auto.enabled);
    if new.auto_pause_memory == Some(false) && wakes {
        let message = "a sandbox whose files alone are kept is not woken by traffic: connect to it";
        return Err(Failure::invalid("autoResume", message));
    }
    // A policy always, if one that opens nothing: so that it can be changed later.
    let network = new.network.unwrap_or_default();
    let open = network.allow_internet_access.or(new.allow_internet_access).unwrap_or(e2b.api.open_egress_default);
    let policy = super::network::policy(&network, open, daemon_policy(e2b))?;
    let mount = |mount: super::body::VolumeMount| VolumeMount { name: mount.name, path: mount.path, read_only: false };
    let on_lease_end = match (new.auto_pause.unwrap_or(false), new.auto_pause_memory) {
        (false, _) => OnLeaseEnd::Remove,
        (true, Some(false)) => OnLeaseEnd::Stop,
        (true, _) => OnLeaseEnd::Pause,
    };
    Ok(Spec {
        image: match template {
            Some(build) => Some(ImageSource::Name(build.image())),
            None => image(e2b, &new.template_id).await?,
        },
        profile: Profile::Production,
        resources: template.map(Build::resources).unwrap_or_default(),
        metadata: new.metadata,
        env: environment(new.env_vars, &new.template_id),
        network: Some(policy),
        volumes: new.volume_mounts.into_iter().map(mount).collect(),
        lease: Some(new.timeout.map_or(Ok(default), |timeout| seconds("timeout", timeout))?),
        on_lease_end: Some(on_lease_end),
        auto_resume: Some(wakes),
        secure: Some(true),
        ..Spec::default()
    })
}

/// What E2B's server tells programs beside what the caller does; the caller's word is the last.
fn environment(mut env: BTreeMap<String, String>, template: &str) -> BTreeMap<String, String> {
    for (name, value) in [(E2B_SANDBOX, "true"), (E2B_TEMPLATE_ID, template)] {
        env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    env
}

async fn make(e2b: E2b, known: Known, headers: HeaderMap, body: Body<NewSandbox>, default: Duration) -> Answer {
    let (own, new, holder) = (e2b.clone(), body.value, known.0.clone());
    let is_said = new.allow_internet_access.is_some()
        || new.network.as_ref().is_some_and(|network| network.allow_internet_access.is_some());
    let gateway = wants_gateway(&new);
    let is_closed = !is_said && !e2b.api.open_egress_default;
    let work = move |key| async move {
        let template = own.api.templates.find(&new.template_id)?;
        let spec = specification(&own, new, template.as_ref(), default).await?;
        scope::check_spec(&holder, &own.api.images, &spec).await?;
        let sandbox = made(&own, spec, key, gateway).await?;
        if let Some(build) = template {
            super::template::begin(&own, &sandbox, &build).await;
        }
        let mut told = connected(&own, &sandbox);
        if is_closed {
            told["notice"] = CLOSED_BY_DEFAULT.into();
            own.api.sandboxes.note(&sandbox.id, "info", CLOSED_BY_DEFAULT);
        }
        Ok(told)
    };
    Ok(once(&e2b.api, &known.0, &headers, "POST /sandboxes", &body.bytes, StatusCode::CREATED, work).await?)
}

/// `POST /sandboxes`.
pub(super) async fn create(State(e2b): State<E2b>, known: Known, headers: HeaderMap, body: Body<NewSandbox>) -> Answer {
    make(e2b, known, headers, body, E2B_LEASE_DEFAULT_V1).await
}

/// `POST /v2/sandboxes`: another default of the timeout.
pub(super) async fn create_v2(
    State(e2b): State<E2b>,
    known: Known,
    headers: HeaderMap,
    body: Body<NewSandbox>,
) -> Answer {
    make(e2b, known, headers, body, E2B_LEASE_DEFAULT).await
}

pub(super) async fn get(State(e2b): State<E2b>, _: Known, Path(id): Path<String>) -> Answer {
    Ok(json_answer(StatusCode::OK, &detailed(&e2b, &living(&e2b, &id)?)?))
}

pub(super) async fn kill(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
) -> Result<StatusCode, crate::api::e2b::failure::Refused> {
    living(&e2b, &id)?;
    e2b.api.sandboxes.remove(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct PauseRequest {
    memory: Option<bool>,
}

pub(super) async fn pause(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<PauseRequest>,
) -> Result<StatusCode, crate::api::e2b::failure::Refused> {
    living(&e2b, &id)?;
    let kind = if body.value.memory == Some(false) { PauseKind::Stopped } else { PauseKind::Frozen };
    match e2b.api.sandboxes.pause(&id, kind).await {
        // A conflict is one that is paused already, to the SDKs.
        Err(failure) if failure.code == Code::Busy => Err(Failure { code: Code::Timeout, ..failure }.into()),
        outcome => outcome.map(|_| StatusCode::NO_CONTENT).map_err(Into::into),
    }
}

/// `ConnectSandbox`, `ConnectSandboxV2`, `ResumedSandbox`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ConnectRequest {
    timeout: Option<u64>,
    memory: Option<bool>,
}

/// Wakes a sandbox where it is paused; whether it was.
async fn wake(e2b: &E2b, id: &str, memory: Option<bool>) -> Result<bool, Failure> {
    loop {
        let sandbox = living(e2b, id)?;
        match sandbox.state {
            Life::Paused => {
                let sandboxes = &e2b.api.sandboxes;
                let outcome =
                    if memory == Some(false) { sandboxes.reboot(id).await } else { sandboxes.resume(id).await };
                match outcome {
                    // Somebody else was first: what it is now decides.
                    Err(failure) if failure.code == Code::IllegalTransition => {}
                    outcome => return outcome.map(|_| true),
                }
            }
            Life::Pausing | Life::Creating | Life::Resuming => {
                // Waits until it is one or the other.
                match e2b.api.sandboxes.awake(id).await {
                    Ok(_) => return Ok(sandbox.state == Life::Resuming),
                    Err(failure) if failure.code == Code::IllegalTransition && sandbox.state == Life::Pausing => {}
                    Err(failure) => return Err(failure),
                }
            }
            _ => return Ok(false),
        }
    }
}

/// The lease ends `timeout` from now, unless it ends later already.
async fn extend(e2b: &E2b, id: &str, timeout: Duration) -> Result<(), Failure> {
    let sandbox = living(e2b, id)?;
    let end_ms =
        e2b.api.sandboxes.clock().now_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    if sandbox.lease_ends_ms.is_none_or(|ends| ends >= end_ms) {
        return Ok(());
    }
    e2b.api.sandboxes.end_lease_in(id, timeout).await.map(drop)
}

pub(super) async fn connect(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<ConnectRequest>,
) -> Answer {
    let timeout = body.value.timeout.map_or(Ok(E2B_LEASE_DEFAULT), |timeout| seconds("timeout", timeout))?;
    let was_paused = wake(&e2b, &id, body.value.memory).await?;
    if was_paused {
        e2b.api.sandboxes.end_lease_in(&id, timeout).await?;
    } else {
        extend(&e2b, &id, timeout).await?;
    }
    let status = if was_paused { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_answer(status, &connected(&e2b, &living(&e2b, &id)?)))
}

/// `POST /sandboxes/{id}/resume`, the older way: a sandbox that runs is a conflict.
pub(super) async fn resume(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<ConnectRequest>,
) -> Answer {
    let timeout = body.value.timeout.map_or(Ok(E2B_LEASE_DEFAULT_V1), |timeout| seconds("timeout", timeout))?;
    living(&e2b, &id)?;
    if body.value.memory == Some(false) {
        e2b.api.sandboxes.reboot(&id).await?;
    } else {
        e2b.api.sandboxes.resume(&id).await?;
    }
    e2b.api.sandboxes.end_lease_in(&id, timeout).await?;
    Ok(json_answer(StatusCode::CREATED, &connected(&e2b, &living(&e2b, &id)?)))
}

#[derive(Deserialize)]
pub(super) struct TimeoutRequest {
    timeout: u64,
}

type Done = Result<StatusCode, crate::api::e2b::failure::Refused>;

pub(super) async fn timeout(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<TimeoutRequest>,
) -> Done {
    living(&e2b, &id)?;
    // Zero ends it now; the shortest lease is as good.
    let lease = Duration::from_secs(body.value.timeout).max(Duration::from_millis(1));
    e2b.api.sandboxes.end_lease_in(&id, lease).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RefreshRequest {
    duration: Option<u64>,
}

pub(super) async fn refresh(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<RefreshRequest>,
) -> Done {
    let lease = body.value.duration.map_or(Ok(E2B_LEASE_DEFAULT_V1), |duration| seconds("duration", duration))?;
    extend(&e2b, &id, lease).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn network(State(e2b): State<E2b>, known: Known, Path(id): Path<String>, body: Body<Network>) -> Done {
    living(&e2b, &id)?;
    let before = e2b.api.sandboxes.spec(&id)?.network.unwrap_or_default();
    // What an update leaves out of `allowOut`, `denyOut` and `rules` is taken back, as E2B does it. What it does not speak of
    // stays: whether everything else is open, who may ask from outside, what the daemon bounds.
    let open = body.value.allow_internet_access.unwrap_or_else(|| super::network::is_open(&before));
    let policy = super::network::policy(&body.value, open, before)?;
    scope::check_policy(&known.0, &policy)?;
    e2b.api.sandboxes.set_policy(&id, policy).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ForkRequest {
    count: Option<u32>,
    timeout: Option<u64>,
}

pub(super) async fn fork(State(e2b): State<E2b>, _: Known, Path(id): Path<String>, body: Body<ForkRequest>) -> Answer {
    living(&e2b, &id)?;
    let lease = body.value.timeout.map_or(Ok(E2B_LEASE_DEFAULT), |timeout| seconds("timeout", timeout))?;
    let fork = Fork { count: body.value.count, lease: Some(lease), share_secrets: false };
    let forks = e2b.api.sandboxes.fork(&id, fork).await?;
    let told: Vec<Value> = forks
        .iter()
        .map(|fork| match fork {
            Ok(sandbox) => json!({ "sandbox": connected(&e2b, sandbox) }),
            Err(failure) => json!({ "error": { "code": failure.code.status(), "message": failure.message } }),
        })
        .collect();
    Ok(json_answer(StatusCode::CREATED, &told))
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct SnapshotRequest {
    name: Option<String>,
}

pub(super) async fn snapshot(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<SnapshotRequest>,
) -> Answer {
    living(&e2b, &id)?;
    let snapshot = e2b.api.sandboxes.snapshot(&id, body.value.name.filter(|name| !name.is_empty())).await?;
    Ok(json_answer(StatusCode::CREATED, &super::stored::snapshot_info(&snapshot)))
}

#[derive(Deserialize)]
pub(super) struct RollbackRequest {
    #[serde(rename = "snapshotID")]
    snapshot_id: String,
}

/// Beyond E2B: the sandbox's files as a snapshot has them, under the same id.
pub(super) async fn rollback(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    body: Body<RollbackRequest>,
) -> Answer {
    living(&e2b, &id)?;
    let sandbox = e2b.api.sandboxes.rollback(&id, &body.value.snapshot_id).await?;
    Ok(json_answer(StatusCode::OK, &connected(&e2b, &sandbox)))
}

pub(super) async fn metrics(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    living(&e2b, &id)?;
    let points = metrics::history(&e2b, &id, metrics::Span::of(query.as_deref())?).await?;
    Ok(json_answer(StatusCode::OK, &points.iter().map(point).collect::<Vec<_>>()))
}

fn entry(line: &Line) -> Value {
    json!({
        "timestamp": rfc3339_unsigned(line.at_ms),
        "message": line.message,
        "level": line.level,
        "fields": { "number": line.number.to_string() },
    })
}

/// A line as the first version of the API tells it: JSON in a text, which E2B's command line reads.
fn plain(line: &Line) -> Value {
    let text = json!({ "logger": "system", "level": line.level, "message": line.message }).to_string();
    json!({ "timestamp": rfc3339_unsigned(line.at_ms), "line": text })
}

/// Lines from a time on, the newest where there are more than asked for.
fn lines(e2b: &E2b, id: &str, query: Option<&str>) -> Result<Vec<Line>, Failure> {
    let number = |name: &str| query::value(query, name).and_then(|value| value.parse::<u64>().ok());
    let (start, limit) = (number("start").or(number("cursor")).unwrap_or(0), number("limit"));
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(E2B_LOGS_DEFAULT);
    let backward = query::value(query, "direction").is_some_and(|direction| direction == "backward");
    let mut lines = e2b.api.sandboxes.logs(id, 0)?;
    if backward {
        lines.retain(|line| start == 0 || line.at_ms <= start);
        lines.reverse();
    } else {
        lines.retain(|line| line.at_ms >= start);
    }
    lines.truncate(limit);
    Ok(lines)
}

pub(super) async fn logs(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let lines = lines(&e2b, &id, query.as_deref())?;
    let plain: Vec<Value> = lines.iter().map(plain).collect();
    let entries: Vec<Value> = lines.iter().map(entry).collect();
    Ok(json_answer(StatusCode::OK, &json!({ "logs": plain, "logEntries": entries })))
}

pub(super) async fn logs_v2(
    State(e2b): State<E2b>,
    _: Known,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let entries: Vec<Value> = lines(&e2b, &id, query.as_deref())?.iter().map(entry).collect();
    Ok(json_answer(StatusCode::OK, &json!({ "logs": entries })))
}
