//! Bodies and answers in E2B's shapes.
//!
//! It checks forms, not values: the lifecycle does.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::{PauseKind, Sandbox};
use mote_sandbox_api::spec::{ImageSource, OnLeaseEnd, Spec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::e2b::failure::Refused;
use crate::api::e2b::timestamp::rfc3339_unsigned;
use crate::api::e2b::{E2b, envd, metrics};
use crate::api::gather::gathered;
use crate::limits::BODY_BYTES_MAX;

pub(super) type Answer = Result<Response, Refused>;

/// A JSON body; an empty one is `{}`. Fields that are not known are let pass: newer SDKs send more.
pub(super) struct Body<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let bytes = gathered(request.into_body(), BODY_BYTES_MAX).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let value = serde_json::from_slice(text)
            .map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")))?;
        Ok(Self { value, bytes })
    }
}

pub(super) fn json_answer(status: StatusCode, value: &impl Serialize) -> Response {
    (status, axum::Json(value)).into_response()
}

/// `NewSandbox`, `NewSandboxV2`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct NewSandbox {
    #[serde(rename = "templateID")]
    pub(super) template_id: String,
    pub(super) timeout: Option<u64>,
    pub(super) auto_pause: Option<bool>,
    pub(super) auto_pause_memory: Option<bool>,
    pub(super) auto_resume: Option<AutoResume>,
    #[serde(rename = "allow_internet_access")]
    pub(super) allow_internet_access: Option<bool>,
    pub(super) network: Option<Network>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) env_vars: BTreeMap<String, String>,
    pub(super) mcp: Option<Value>,
    pub(super) iam: Option<Value>,
    pub(super) volume_mounts: Vec<VolumeMount>,
}

#[derive(Debug, Deserialize)]
pub(super) struct AutoResume {
    pub(super) enabled: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) path: String,
}

/// `SandboxNetworkConfig`, `SandboxNetworkUpdateConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Network {
    pub(super) allow_out: Option<Vec<String>>,
    pub(super) deny_out: Option<Vec<String>>,
    pub(super) rules: BTreeMap<String, Vec<NetworkRule>>,
    pub(super) allow_public_traffic: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    pub(super) allow_internet_access: Option<bool>,
    pub(super) mask_request_host: Option<String>,
    pub(super) https_ports: Option<Vec<u16>>,
    pub(super) egress_proxy: Option<Value>,
    pub(super) dns_servers: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkRule {
    pub(super) transform: Option<Transform>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transform {
    pub(super) headers: BTreeMap<String, String>,
}

/// The name of an image as a template.
pub(super) fn template_of(image: &ImageSource) -> String {
    if let ImageSource::Name(name) = image
        && let Some(template) = crate::template::record::template_of(name)
    {
        return template.to_owned();
    }
    match image {
        ImageSource::Host => "host".to_owned(),
        ImageSource::Name(text)
        | ImageSource::Directory(text)
        | ImageSource::Tarball(text)
        | ImageSource::OciLayout(text)
        | ImageSource::Registry(text)
        | ImageSource::Snapshot(text) => text.clone(),
    }
}

/// `Sandbox`: what creation and connection answer.
pub(super) fn connected(e2b: &E2b, sandbox: &Sandbox) -> Value {
    let sandboxes = &e2b.api.sandboxes;
    let policy = sandboxes.network_policy(&sandbox.id).ok().flatten();
    json!({
        "sandboxID": sandbox.id,
        "templateID": template_of(&sandbox.image),
        "clientID": "mote",
        "envdVersion": envd::VERSION,
        // Beyond E2B: it says so where the daemon's configuration closes what E2B leaves open.
        "allowInternetAccess": policy.is_some_and(|policy| super::network::is_open(&policy)),
        "envdAccessToken": sandboxes.access_token(&sandbox.id),
        // Given always: the code interpreter's SDK sends it where it sends no other token.
        "trafficAccessToken": sandboxes.traffic_token(&sandbox.id),
        "domain": &*e2b.api.domain,
    })
}

/// `ListedSandbox`.
pub(super) fn listed(e2b: &E2b, sandbox: &Sandbox) -> Result<Value, Failure> {
    let spec = e2b.api.sandboxes.spec(&sandbox.id)?;
    let (cpus, memory, disk) = metrics::bounds(&spec);
    let ends = [sandbox.lease_ends_ms, sandbox.deadline_ms].into_iter().flatten().min();
    let mut told = json!({
        "sandboxID": sandbox.id,
        "templateID": template_of(&sandbox.image),
        "clientID": "mote",
        "startedAt": rfc3339_unsigned(sandbox.created_ms),
        // One that never ends has no end to tell: the last that the SDKs can read.
        "endAt": rfc3339_unsigned(ends.unwrap_or(253_402_300_799_000)),
        "envdVersion": envd::VERSION,
        "metadata": sandbox.metadata,
        "state": state(sandbox),
        "cpuCount": cpus,
        "memoryMB": memory >> 20,
        "diskSizeMB": disk >> 20,
        "volumeMounts": mounts(&spec),
    });
    if let Some(name) = super::template::public(e2b, &sandbox.image) {
        told["alias"] = name.into();
    }
    Ok(told)
}

/// `running` or `paused`: E2B knows no other.
pub(super) fn state(sandbox: &Sandbox) -> &'static str {
    use mote_sandbox_api::lifecycle::State;
    match sandbox.state {
        State::Paused | State::Pausing => "paused",
        _ => "running",
    }
}

fn mounts(spec: &Spec) -> Vec<Value> {
    spec.volumes.iter().map(|mount| json!({ "name": mount.name, "path": mount.path })).collect()
}

/// `SandboxDetail`.
pub(super) fn detailed(e2b: &E2b, sandbox: &Sandbox) -> Result<Value, Failure> {
    let spec = e2b.api.sandboxes.spec(&sandbox.id)?;
    let mut told = listed(e2b, sandbox)?;
    let pauses = spec.on_lease_end.is_some_and(OnLeaseEnd::keeps);
    told["domain"] = (*e2b.api.domain).into();
    told["envdAccessToken"] = e2b.api.sandboxes.access_token(&sandbox.id).into();
    told["lifecycle"] = json!({
        "onTimeout": if pauses { "pause" } else { "kill" },
        "autoResume": spec.auto_resume.unwrap_or(false),
    });
    if let Some(kind) = sandbox.pause {
        told["pauseMode"] = if kind == PauseKind::Stopped { "filesystem" } else { "full" }.into();
    }
    if let Some(policy) = &spec.network {
        told["allowInternetAccess"] = super::network::is_open(policy).into();
        told["network"] = super::network::told(policy);
    }
    Ok(told)
}
