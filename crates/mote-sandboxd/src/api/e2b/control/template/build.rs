//! A build: asked for, begun, told of.

use axum::extract::{Path, RawQuery, State};
use http::StatusCode;
use mote_sandbox_api::error::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Builder, entry};
use crate::api::e2b::control::body::{Answer, Body, json_answer};
use crate::api::e2b::failure::Refused;
use crate::api::e2b::{E2b, query};
use crate::limits::TEMPLATE_LOG_ENTRIES_TOLD;
use crate::template::Request;
use crate::template::log::{Entry, Level};
use crate::template::plan::Order;
use crate::template::record::Status;

/// `TemplateBuildRequestV3`, `TemplateBuildRequestV2`.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BuildRequest {
    name: Option<String>,
    alias: Option<String>,
    tags: Vec<String>,
    cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    memory_mib: Option<u64>,
}

/// `POST /v3/templates`, `POST /v2/templates`.
pub(super) async fn request(State(e2b): State<E2b>, _: Builder, body: Body<BuildRequest>) -> Answer {
    let BuildRequest { name, alias, tags, cpu_count, memory_mib } = body.value;
    let name = name.or(alias).ok_or_else(|| Failure::invalid("name", "it is needed"))?;
    let asked = Request { name, tags, cpus: cpu_count, memory_mib };
    let (template, build) = e2b.api.templates.request(asked).await?;
    let told = json!({
        "templateID": template.id,
        "buildID": build.id,
        "public": template.public,
        "names": [template.name],
        "aliases": [template.name],
        "tags": build.tags,
    });
    Ok(json_answer(StatusCode::ACCEPTED, &told))
}

/// The first version of the API had an image of Docker's pushed to a registry of E2B's.
pub(super) async fn request_v1(_: Builder) -> Refused {
    let why = "Dockerfiles are built on the client's side here: its builder of version 2 sends the steps";
    Failure::unsupported("templates.build.v1", why).remedy("use `Template.build` of E2B's SDK").into()
}

/// The same.
pub(super) async fn begin_v1(builder: Builder) -> Refused {
    request_v1(builder).await
}

/// `POST /v2/templates/{id}/builds/{build}`.
pub(super) async fn begin(
    State(e2b): State<E2b>,
    _: Builder,
    Path((template, build)): Path<(String, String)>,
    body: Body<Order>,
) -> Result<StatusCode, Refused> {
    let plan = body.value.check()?;
    e2b.api.templates.begin(&template, &build, plan).await?;
    Ok(StatusCode::ACCEPTED)
}

fn level(query: Option<&str>) -> Result<Level, Failure> {
    match query::value(query, "level").as_deref() {
        None | Some("" | "debug") => Ok(Level::Debug),
        Some("info") => Ok(Level::Info),
        Some("warn") => Ok(Level::Warn),
        Some("error") => Ok(Level::Error),
        Some(other) => Err(Failure::invalid("level", format!("{other:?} is none of debug, info, warn, error"))),
    }
}

fn number(query: Option<&str>, name: &str) -> Result<Option<u64>, Failure> {
    let Some(text) = query::value(query, name) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Failure::invalid(name, format!("{text:?} is no number from 0 on")))
}

/// How many entries an answer tells.
fn most(query: Option<&str>) -> Result<usize, Failure> {
    let asked = number(query, "limit")?.and_then(|limit| usize::try_from(limit).ok());
    Ok(asked.unwrap_or(TEMPLATE_LOG_ENTRIES_TOLD).min(TEMPLATE_LOG_ENTRIES_TOLD))
}

/// `GET /templates/{id}/builds/{build}/status`: entries from an offset on.
pub(super) async fn status(
    State(e2b): State<E2b>,
    _: Builder,
    Path((template, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = query.as_deref();
    let offset = usize::try_from(number(query, "logsOffset")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let (least, most) = (level(query)?, most(query)?);
    // Before its log: what ended after this was read is told by the next answer, and nothing of the log is missed.
    let build = e2b.api.templates.build(&template, &id)?;
    let log = e2b.api.templates.log(&build.id).await?;
    let entries: Vec<Value> =
        log.iter().filter(|entry| entry.level >= least).skip(offset).take(most).map(entry).collect();
    let mut told = json!({
        "templateID": build.template,
        "buildID": build.id,
        "status": build.status.word(),
        "logs": [],
        "logEntries": entries,
    });
    if let (Status::Error, Some(reason)) = (build.status, &build.reason) {
        told["reason"] = json!({
            "message": reason.message,
            "logEntries": reason.entries.iter().map(super::entry).collect::<Vec<_>>(),
        });
        if let Some(step) = &reason.step {
            told["reason"]["step"] = step.as_str().into();
        }
    }
    Ok(json_answer(StatusCode::OK, &told))
}

/// `GET /templates/{id}/builds/{build}/logs`: entries from a time on, or back from it.
pub(super) async fn logs(
    State(e2b): State<E2b>,
    _: Builder,
    Path((template, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = query.as_deref();
    let (cursor, least, most) = (number(query, "cursor")?, level(query)?, most(query)?);
    let backward = query::value(query, "direction").is_some_and(|direction| direction == "backward");
    let build = e2b.api.templates.build(&template, &id)?;
    let mut log: Vec<Entry> = e2b.api.templates.log(&build.id).await?;
    log.retain(|entry| {
        let in_time = cursor.is_none_or(|at| if backward { entry.at_ms <= at } else { entry.at_ms >= at });
        in_time && entry.level >= least
    });
    if backward {
        log.reverse();
    }
    let entries: Vec<Value> = log.iter().take(most).map(entry).collect();
    Ok(json_answer(StatusCode::OK, &json!({ "logs": entries })))
}
