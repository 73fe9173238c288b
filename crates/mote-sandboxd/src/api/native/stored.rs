//! `/v1/snapshots`, `/v1/volumes`, `/v1/images`, `/v1/secrets`: what outlives sandboxes.
//!
//! A secret's value goes in and never comes out.

use axum::extract::{Path, State};
use http::StatusCode;
use mote_sandbox_api::request::{CreateVolume, ImportImage, Page, PutSecret, Secret, Volume};
use serde::Deserialize;

use super::body::{Answer, Body, Query, json};
use crate::api::access::Holder;
use crate::api::{Api, secret};
use crate::image::record::Image;
use crate::state::VolumeRecord;

#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotsQuery {
    #[serde(default)]
    sandbox: Option<String>,
}

pub(super) async fn snapshots(State(api): State<Api>, _: Holder, Query(query): Query<SnapshotsQuery>) -> Answer {
    let items = api.sandboxes.snapshots(query.sandbox.as_deref()).await?;
    Ok(json(StatusCode::OK, &Page { items, next: None }))
}

pub(super) async fn remove_snapshot(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    api.sandboxes.remove_snapshot(&id).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": id })))
}

fn told(volume: VolumeRecord) -> Volume {
    Volume { id: volume.id, name: volume.name, created_ms: volume.created_ms }
}

pub(super) async fn volumes(State(api): State<Api>, _: Holder) -> Answer {
    let items: Vec<Volume> = api.sandboxes.volumes().await?.into_iter().map(told).collect();
    Ok(json(StatusCode::OK, &Page { items, next: None }))
}

pub(super) async fn create_volume(State(api): State<Api>, _: Holder, body: Body<CreateVolume>) -> Answer {
    Ok(json(StatusCode::CREATED, &told(api.sandboxes.create_volume(&body.value.name).await?)))
}

pub(super) async fn remove_volume(State(api): State<Api>, _: Holder, Path(name): Path<String>) -> Answer {
    api.sandboxes.remove_volume(&name).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": name })))
}

pub(super) async fn secrets(State(api): State<Api>, _: Holder) -> Answer {
    let secrets = api.sandboxes.store().secrets().await?;
    let items: Vec<Secret> =
        secrets.into_iter().map(|secret| Secret { name: secret.name, changed_ms: secret.changed_ms }).collect();
    Ok(json(StatusCode::OK, &Page { items, next: None }))
}

pub(super) async fn put_secret(
    State(api): State<Api>,
    _: Holder,
    Path(name): Path<String>,
    body: Body<PutSecret>,
) -> Answer {
    Ok(json(StatusCode::OK, &secret::put(&api, &name, &body.value.value, None).await?))
}

pub(super) async fn remove_secret(State(api): State<Api>, _: Holder, Path(name): Path<String>) -> Answer {
    secret::remove(&api, &name).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": name })))
}

#[derive(serde::Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct NamedImage {
    name: String,
    #[serde(flatten)]
    image: Told,
}

/// An image without its trees: these are the host's own matter.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema), schema(as = Image))]
pub(super) struct Told {
    id: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    created_ms: u64,
    /// Owners in its archives that are beyond 65,535 and became `nobody`.
    #[serde(skip_serializing_if = "is_none_of")]
    unmapped_owners: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none_of(count: &u64) -> bool {
    *count == 0
}

impl From<Image> for Told {
    fn from(image: Image) -> Self {
        let Image { id, source, bytes, created_ms, unmapped_owners, .. } = image;
        Self { id, source, bytes, created_ms, unmapped_owners }
    }
}

pub(super) async fn images(State(api): State<Api>, _: Holder) -> Answer {
    let named = api.images.list().await?.into_iter();
    let items: Vec<NamedImage> = named.map(|(name, image)| NamedImage { name, image: image.into() }).collect();
    Ok(json(StatusCode::OK, &Page { items, next: None }))
}

/// Imports or pulls an image, so that the first sandbox of it need not wait.
pub(super) async fn import_image(State(api): State<Api>, _: Holder, body: Body<ImportImage>) -> Answer {
    let image = api.images.resolve(&body.value.source, api.sandboxes.clock().now_ms()).await?;
    Ok(json(StatusCode::CREATED, &Told::from(image)))
}

pub(super) async fn remove_image(State(api): State<Api>, _: Holder, Path(name): Path<String>) -> Answer {
    api.images.remove(&name).await?;
    Ok(json(StatusCode::OK, &serde_json::json!({ "removed": name })))
}
