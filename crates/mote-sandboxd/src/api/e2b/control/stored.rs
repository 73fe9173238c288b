//! What outlives a sandbox: snapshots, secrets, volumes.
//!
//! Secrets and volumes are known by their names. Templates are [`super::template`]'s matter.

use std::collections::BTreeMap;

use axum::extract::{Path, RawQuery, State};
use http::{HeaderValue, StatusCode};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::Snapshot;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Answer, Body, json_answer};
use super::list::Known;
use crate::api::e2b::failure::Refused;
use crate::api::e2b::timestamp::rfc3339_unsigned;
use crate::api::e2b::{E2b, query};
use crate::api::secret as secret_store;
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};
use crate::state::SecretRecord;

type Done = Result<StatusCode, Refused>;

/// `SnapshotInfo`.
pub(super) fn snapshot_info(snapshot: &Snapshot) -> Value {
    json!({ "snapshotID": snapshot.id, "names": snapshot.name.iter().collect::<Vec<_>>() })
}

/// One page of what is sorted by its key, and the cursor of the next.
pub(super) fn page<T>(
    mut items: Vec<T>,
    key: impl Fn(&T) -> String,
    query: Option<&str>,
) -> Result<(Vec<T>, Option<String>), Failure> {
    let limit = match query::value(query, "limit") {
        None => PAGE_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=PAGE_MAX).contains(limit))
            .ok_or_else(|| Failure::invalid("limit", format!("it must be 1 to {PAGE_MAX}")))?,
    };
    items.sort_by_key(|item| std::cmp::Reverse(key(item)));
    if let Some(after) = query::value(query, "nextToken") {
        items.retain(|item| key(item) < after);
    }
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(key);
    Ok((items, next))
}

pub(super) fn paged(items: &[Value], next: Option<String>) -> Answer {
    let mut response = json_answer(StatusCode::OK, &items);
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert("x-next-token", next);
    }
    Ok(response)
}

pub(super) async fn snapshots(State(e2b): State<E2b>, _: Known, RawQuery(query): RawQuery) -> Answer {
    let query = query.as_deref();
    let sandbox = query::value(query, "sandboxID");
    let mut found = e2b.api.sandboxes.snapshots(sandbox.as_deref()).await?;
    if let Some(name) = query::value(query, "name") {
        found.retain(|snapshot| snapshot.id == name || snapshot.name.as_ref() == Some(&name));
    }
    let (found, next) = page(found, |snapshot| format!("{:013}-{}", snapshot.created_ms, snapshot.id), query)?;
    paged(&found.iter().map(snapshot_info).collect::<Vec<_>>(), next)
}

#[derive(Deserialize)]
pub(super) struct NewSecret {
    name: String,
    value: String,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
pub(super) struct SecretUpdate {
    value: String,
    metadata: Option<BTreeMap<String, String>>,
}

/// `Secret`. Its id is its name; no answer carries a value.
fn secret_info(secret: &SecretRecord) -> Value {
    json!({
        "secretID": secret.name,
        "name": secret.name,
        "currentVersion": secret.version,
        "metadata": secret.metadata,
        "createdAt": rfc3339_unsigned(secret.created_ms),
        "updatedAt": rfc3339_unsigned(secret.changed_ms),
    })
}

async fn secret_known(e2b: &E2b, name: &str) -> Result<Option<SecretRecord>, Failure> {
    let secrets = e2b.api.sandboxes.store().secrets().await?;
    Ok(secrets.into_iter().find(|secret| secret.name == name))
}

async fn put_secret(
    e2b: &E2b,
    name: &str,
    value: &str,
    metadata: Option<&BTreeMap<String, String>>,
) -> Result<Value, Failure> {
    secret_store::put(&e2b.api, name, value, metadata).await?;
    let kept = secret_known(e2b, name).await?.ok_or_else(|| Failure::not_found("secret", name))?;
    Ok(secret_info(&kept))
}

pub(super) async fn create_secret(State(e2b): State<E2b>, _: Known, body: Body<NewSecret>) -> Answer {
    let NewSecret { name, value, metadata } = body.value;
    if secret_known(&e2b, &name).await?.is_some() {
        let message = format!("there is a secret named {name:?}");
        return Err(Failure::new(Code::Conflict, message).with("name", name).into());
    }
    Ok(json_answer(StatusCode::CREATED, &put_secret(&e2b, &name, &value, metadata.as_ref()).await?))
}

pub(super) async fn update_secret(
    State(e2b): State<E2b>,
    _: Known,
    Path(name): Path<String>,
    body: Body<SecretUpdate>,
) -> Answer {
    secret_known(&e2b, &name).await?.ok_or_else(|| Failure::not_found("secret", &name))?;
    let SecretUpdate { value, metadata } = body.value;
    Ok(json_answer(StatusCode::OK, &put_secret(&e2b, &name, &value, metadata.as_ref()).await?))
}

pub(super) async fn secrets(State(e2b): State<E2b>, _: Known, RawQuery(query): RawQuery) -> Answer {
    let secrets = e2b.api.sandboxes.store().secrets().await?;
    let (secrets, next) = page(secrets, |secret| secret.name.clone(), query.as_deref())?;
    paged(&secrets.iter().map(secret_info).collect::<Vec<_>>(), next)
}

pub(super) async fn secret(State(e2b): State<E2b>, _: Known, Path(name): Path<String>) -> Answer {
    let secret = secret_known(&e2b, &name).await?.ok_or_else(|| Failure::not_found("secret", &name))?;
    Ok(json_answer(StatusCode::OK, &secret_info(&secret)))
}

pub(super) async fn remove_secret(State(e2b): State<E2b>, _: Known, Path(name): Path<String>) -> Done {
    secret_store::remove(&e2b.api, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(super) struct NewVolume {
    name: String,
}

fn volume_info(e2b: &E2b, id: &str, name: &str) -> Value {
    let token = e2b.api.sandboxes.store().vault().token("volume", id);
    json!({ "volumeID": id, "name": name, "token": token })
}

pub(super) async fn volumes(State(e2b): State<E2b>, _: Known) -> Answer {
    let volumes = e2b.api.sandboxes.volumes().await?;
    let told: Vec<Value> = volumes.iter().map(|volume| json!({ "volumeID": volume.id, "name": volume.name })).collect();
    Ok(json_answer(StatusCode::OK, &told))
}

pub(super) async fn create_volume(State(e2b): State<E2b>, _: Known, body: Body<NewVolume>) -> Answer {
    let volume = e2b.api.sandboxes.create_volume(&body.value.name).await?;
    Ok(json_answer(StatusCode::CREATED, &volume_info(&e2b, &volume.id, &volume.name)))
}

/// A volume by id or name.
async fn volume_known(e2b: &E2b, which: &str) -> Result<(String, String), Failure> {
    let volumes = e2b.api.sandboxes.volumes().await?;
    let found = volumes.into_iter().find(|volume| volume.id == which || volume.name == which);
    found.map(|volume| (volume.id, volume.name)).ok_or_else(|| Failure::not_found("volume", which))
}

pub(super) async fn volume(State(e2b): State<E2b>, _: Known, Path(which): Path<String>) -> Answer {
    let (id, name) = volume_known(&e2b, &which).await?;
    Ok(json_answer(StatusCode::OK, &volume_info(&e2b, &id, &name)))
}

pub(super) async fn remove_volume(State(e2b): State<E2b>, _: Known, Path(which): Path<String>) -> Done {
    let (_, name) = volume_known(&e2b, &which).await?;
    e2b.api.sandboxes.remove_volume(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
