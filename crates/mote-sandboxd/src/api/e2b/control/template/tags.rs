//! Tags: names of builds beside the template's own.

use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Builder;
use crate::api::e2b::E2b;
use crate::api::e2b::control::body::{Answer, Body, json_answer};
use crate::api::e2b::control::list::Known;
use crate::api::e2b::failure::Refused;
use crate::api::e2b::timestamp::rfc3339_unsigned;

/// `AssignTemplateTagsRequest`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Assign {
    target: String,
    tags: Vec<String>,
}

/// `DeleteTemplateTagsRequest`.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Remove {
    name: String,
    tags: Vec<String>,
}

pub(super) async fn assign(State(e2b): State<E2b>, _: Builder, body: Body<Assign>) -> Answer {
    let (build, tags) = e2b.api.templates.assign(&body.value.target, &body.value.tags).await?;
    Ok(json_answer(StatusCode::CREATED, &json!({ "tags": tags, "buildID": build.id })))
}

pub(super) async fn remove(State(e2b): State<E2b>, _: Builder, body: Body<Remove>) -> Result<StatusCode, Refused> {
    e2b.api.templates.untag(&body.value.name, &body.value.tags).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn all(State(e2b): State<E2b>, _: Known, Path(id): Path<String>) -> Answer {
    let template = e2b.api.templates.get(&id)?;
    let mut tags: Vec<_> = template.tags.iter().collect();
    // The newest first.
    tags.sort_by(|one, other| (other.1.at_ms, one.0).cmp(&(one.1.at_ms, other.0)));
    let tags: Vec<Value> = tags
        .iter()
        .map(
            |(tag, tagged)| json!({ "tag": tag, "buildID": tagged.build, "createdAt": rfc3339_unsigned(tagged.at_ms) }),
        )
        .collect();
    Ok(json_answer(StatusCode::OK, &tags))
}
