//! What templates there are: those that were built, snapshots, and images by name.

use axum::extract::{Path, RawQuery, State};
use http::StatusCode;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State as Life;
use mote_sandbox_api::request::Snapshot;
use mote_sandbox_api::spec::{ImageSource, Profile, Spec};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Builder;
use crate::api::e2b::control::body::{Answer, Body, json_answer, template_of};
use crate::api::e2b::control::list::Known;
use crate::api::e2b::control::sandbox;
use crate::api::e2b::control::stored::{page, paged};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::timestamp::rfc3339_unsigned;
use crate::api::e2b::{E2b, envd, metrics};
use crate::lifecycle::Filter;
use crate::template::record::{Build, Template};

/// The name of the template that a sandbox's image is of.
pub(in crate::api::e2b::control) fn public(e2b: &E2b, image: &ImageSource) -> Option<String> {
    let ImageSource::Name(name) = image else { return None };
    let id = crate::template::record::template_of(name)?;
    e2b.api.templates.get(id).ok().map(|template| template.name)
}

/// Processors, memory in MiB and disk in MiB of a sandbox of a build.
fn resources(e2b: &E2b, build: Option<&Build>) -> (u32, u64, u64) {
    let own = build.map(Build::resources).unwrap_or_default();
    let spec = Spec { profile: Profile::Production, resources: own, ..Spec::default() };
    let (cpus, memory, disk) = metrics::bounds(&e2b.api.sandboxes.profiles().complete(spec));
    (cpus, memory >> 20, disk >> 20)
}

/// `Template`.
fn of_template(e2b: &E2b, template: &Template) -> Value {
    let builds = e2b.api.templates.builds(&template.id);
    let last = builds.iter().find(|build| build.status == crate::template::record::Status::Ready).or(builds.first());
    let (cpus, memory, disk) = resources(e2b, last);
    json!({
        "templateID": template.id,
        "buildID": last.map(|build| build.id.as_str()).unwrap_or_default(),
        "buildStatus": last.map_or("waiting", |build| build.status.word()),
        "buildCount": builds.len(),
        "spawnCount": 0,
        "aliases": [template.name],
        "names": [template.name],
        "public": template.public,
        "createdBy": null,
        "lastSpawnedAt": null,
        "createdAt": rfc3339_unsigned(template.created_ms),
        "updatedAt": rfc3339_unsigned(template.updated_ms),
        "cpuCount": cpus,
        "memoryMB": memory,
        "diskSizeMB": disk,
        "envdVersion": envd::VERSION,
    })
}

/// `TemplateBuild`.
fn of_build(e2b: &E2b, build: &Build) -> Value {
    let (cpus, memory, disk) = resources(e2b, Some(build));
    let mut told = json!({
        "buildID": build.id,
        "status": build.status.word(),
        "createdAt": rfc3339_unsigned(build.created_ms),
        "updatedAt": rfc3339_unsigned(build.updated_ms),
        "cpuCount": cpus,
        "memoryMB": memory,
        "diskSizeMB": disk,
        "envdVersion": envd::VERSION,
    });
    if let Some(finished) = build.finished_ms {
        told["finishedAt"] = rfc3339_unsigned(finished).into();
    }
    told
}

/// `Template`, of a snapshot: images are the daemon's and are listed by the native API.
fn of_snapshot(snapshot: &Snapshot) -> Value {
    let names: Vec<&String> = snapshot.name.iter().collect();
    let created = rfc3339_unsigned(snapshot.created_ms);
    json!({
        "templateID": snapshot.id, "buildID": snapshot.id, "buildStatus": "ready", "buildCount": 1, "spawnCount": 0,
        "aliases": names, "names": names, "public": false, "createdBy": null, "lastSpawnedAt": null,
        "createdAt": created, "updatedAt": created, "cpuCount": 0, "memoryMB": 0, "diskSizeMB": 0,
        "envdVersion": envd::VERSION,
    })
}

pub(super) async fn all(State(e2b): State<E2b>, _: Known, RawQuery(query): RawQuery) -> Answer {
    let place = |created_ms: u64, id: &str| format!("{created_ms:013}-{id}");
    let snapshots = e2b.api.sandboxes.snapshots(None).await?;
    let mut found: Vec<(String, Value)> =
        snapshots.iter().map(|snapshot| (place(snapshot.created_ms, &snapshot.id), of_snapshot(snapshot))).collect();
    let built = e2b.api.templates.all();
    found.extend(built.iter().map(|of| (place(of.created_ms, &of.id), of_template(&e2b, of))));
    let (found, next) = page(found, |(place, _)| place.clone(), query.as_deref())?;
    paged(&found.into_iter().map(|(_, told)| told).collect::<Vec<_>>(), next)
}

/// The image or snapshot that a template names, if it is there.
async fn known(e2b: &E2b, template: &str) -> Result<String, Failure> {
    match sandbox::image(e2b, template).await? {
        Some(ImageSource::Snapshot(id)) => Ok(id),
        None => Ok(template.to_owned()),
        Some(source) => {
            e2b.api.sandboxes.substrate().image(&source).await?;
            Ok(template.to_owned())
        }
    }
}

pub(super) async fn alias(State(e2b): State<E2b>, _: Known, Path(alias): Path<String>) -> Answer {
    let (id, public) = match e2b.api.templates.get(&alias) {
        Ok(template) => (template.id, template.public),
        Err(_) => (known(&e2b, &alias).await?, false),
    };
    Ok(json_answer(StatusCode::OK, &json!({ "templateID": id, "public": public })))
}

pub(super) async fn one(State(e2b): State<E2b>, _: Known, Path(id): Path<String>) -> Answer {
    if let Ok(template) = e2b.api.templates.get(&id) {
        let mut told = of_template(&e2b, &template);
        let builds = e2b.api.templates.builds(&template.id);
        told["builds"] = builds.iter().map(|build| of_build(&e2b, build)).collect();
        return Ok(json_answer(StatusCode::OK, &told));
    }
    let id = known(&e2b, &id).await?;
    let snapshots = e2b.api.sandboxes.snapshots(None).await?;
    let mut told = match snapshots.iter().find(|snapshot| snapshot.id == id) {
        Some(snapshot) => of_snapshot(snapshot),
        None => json!({
            "templateID": id, "aliases": [id], "names": [id], "public": false, "lastSpawnedAt": null, "spawnCount": 0,
            "createdAt": rfc3339_unsigned(0), "updatedAt": rfc3339_unsigned(0),
        }),
    };
    told["builds"] = json!([]);
    Ok(json_answer(StatusCode::OK, &told))
}

/// A template that was built; the SDKs remove snapshots in the same way.
pub(super) async fn remove(
    State(e2b): State<E2b>,
    known_key: Known,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    if let Ok(template) = e2b.api.templates.get(&id) {
        known_key.0.may(crate::state::Scope::Template)?;
        refuse_while_used(&e2b, &template)?;
        e2b.api.templates.remove(&template.id).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let snapshots = e2b.api.sandboxes.snapshots(None).await?;
    let found = snapshots.iter().find(|snapshot| snapshot.id == id || snapshot.name.as_ref() == Some(&id));
    if let Some(snapshot) = found {
        e2b.api.sandboxes.remove_snapshot(&snapshot.id).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    if known(&e2b, &id).await.is_ok() {
        let why = "images are removed by the daemon's operator";
        return Err(Failure::unsupported("templates.delete", why).remedy("mote-sandboxd image rm").into());
    }
    Err(Failure::not_found("template", &id).into())
}

/// As E2B does: a paused sandbox of a template keeps it.
fn refuse_while_used(e2b: &E2b, template: &Template) -> Result<(), Failure> {
    let (sandboxes, _) = e2b.api.sandboxes.list(&Filter { limit: usize::MAX, ..Filter::default() });
    let is_paused = |state: Life| matches!(state, Life::Paused | Life::Pausing);
    if sandboxes.iter().any(|sandbox| is_paused(sandbox.state) && template_of(&sandbox.image) == template.id) {
        let message = format!("cannot delete template '{}' because there are paused sandboxes using it", template.name);
        return Err(Failure::new(Code::Invalid, message).with("template", &template.id));
    }
    Ok(())
}

/// `TemplateUpdateRequest`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Update {
    public: Option<bool>,
}

pub(super) async fn update(State(e2b): State<E2b>, _: Builder, Path(id): Path<String>, body: Body<Update>) -> Answer {
    let mut template = match e2b.api.templates.get(&id) {
        Ok(template) => template,
        Err(_) if known(&e2b, &id).await.is_ok() => {
            let why = "images and snapshots are neither public nor private";
            return Err(Failure::unsupported("templates.update", why).into());
        }
        Err(failure) => return Err(failure.into()),
    };
    if let Some(public) = body.value.public {
        template = e2b.api.templates.set_public(&template.id, public).await?;
    }
    Ok(json_answer(StatusCode::OK, &json!({ "names": [template.name] })))
}
