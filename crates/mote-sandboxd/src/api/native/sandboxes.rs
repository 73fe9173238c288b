//! `/v1/sandboxes`: what is done with a sandbox as a whole.
//!
//! What is done inside one (`exec`, `files`) has files of its own.

use std::collections::BTreeMap;

use axum::extract::{Path, RawQuery, State};
use http::{HeaderMap, StatusCode};
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::request::{
    Commit, Create, Fork, Outcome, Page, Pause, PauseKind, Renew, Rollback, Sandbox, TakeSnapshot,
};
use serde::{Deserialize, Serialize};

use super::body::{Answer, Body, Query, json};
use super::idempotency::once;
use crate::api::Api;
use crate::api::access::Holder;
use crate::api::scope;
use crate::lifecycle::Filter;
use crate::lifecycle::key::Key;
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};

#[derive(Serialize)]
#[serde(untagged)]
enum Created {
    One(Box<Sandbox>),
    Many(Page<Outcome>),
}

fn outcomes(outcomes: Vec<Result<Sandbox, Failure>>) -> Page<Outcome> {
    let outcome = |outcome| match outcome {
        Ok(sandbox) => Outcome::Sandbox(Box::new(sandbox)),
        Err(failure) => Outcome::Error(failure),
    };
    Page { items: outcomes.into_iter().map(outcome).collect(), next: None }
}

pub(super) async fn create(State(api): State<Api>, holder: Holder, headers: HeaderMap, body: Body<Create>) -> Answer {
    let Create { spec, count } = body.value;
    scope::check_spec(&holder, &api.images, &spec).await?;
    let sandboxes = api.sandboxes.clone();
    let work = move |key| async move {
        match count {
            None => sandboxes.create_under(spec, key).await.map(|sandbox| Created::One(Box::new(sandbox))),
            Some(count) => sandboxes.create_many(spec, count, key).await.map(|made| Created::Many(outcomes(made))),
        }
    };
    Ok(once(&api, &holder, &headers, "POST /v1/sandboxes", &body.bytes, StatusCode::CREATED, work).await?)
}

/// The query of a list. `metadata.KEY=VALUE` comes beside it, any number of times.
fn filter(query: &str) -> Result<Filter, Failure> {
    let mut filter = Filter { limit: PAGE_DEFAULT, ..Filter::default() };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        match name.as_str() {
            "state" => {
                for word in value.split(',') {
                    let state = serde_json::from_value(serde_json::Value::from(word))
                        .map_err(|_| Failure::invalid("state", format!("{word:?} is not a state")))?;
                    filter.states.push(state);
                }
            }
            "limit" => {
                filter.limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(|| {
                    Failure::invalid("limit", format!("it must be 1 to {PAGE_MAX}")).with("limit", PAGE_MAX)
                })?;
            }
            "cursor" => {
                let is_place =
                    value.split_once('-').is_some_and(|(ms, id)| ms.parse::<u64>().is_ok() && !id.is_empty());
                if !is_place {
                    return Err(Failure::invalid("cursor", "it is not the `next` of a page"));
                }
                filter.after = Some(value);
            }
            name => match name.strip_prefix("metadata.") {
                Some(key) if !key.is_empty() => {
                    filter.metadata.insert(key.to_owned(), value);
                }
                _ => return Err(Failure::invalid("query", format!("{name:?} is not a parameter of this list"))),
            },
        }
    }
    Ok(filter)
}

/// Percent-decoding of a query's name or value (WHATWG URL, `application/x-www-form-urlencoded`).
fn decoded(text: &str) -> Result<String, Failure> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'?'), rest.next().unwrap_or(b'?')];
                let digits = std::str::from_utf8(&digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                digits.ok_or_else(|| Failure::invalid("query", format!("{text:?} is not percent-encoded")))?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Failure::invalid("query", format!("{text:?} is not UTF-8")))
}

pub(super) async fn list(State(api): State<Api>, _: Holder, RawQuery(query): RawQuery) -> Answer {
    let (items, more) = api.sandboxes.list(&filter(query.as_deref().unwrap_or_default())?);
    let next = items.last().filter(|_| more).map(|last| format!("{}-{}", last.created_ms, last.id));
    Ok(json(StatusCode::OK, &Page { items, next }))
}

pub(super) async fn get(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &api.sandboxes.get(&id)?))
}

pub(super) async fn remove(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    api.sandboxes.remove(&id).await?;
    Ok(json(StatusCode::OK, &api.sandboxes.get(&id)?))
}

/// The sandbox with its token, awake where it was paused: for a client that comes back.
pub(super) async fn connect(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    api.sandboxes.awake(&id).await?;
    let sandbox = api.sandboxes.get(&id)?;
    let access_token = Some(api.sandboxes.access_token(&id));
    Ok(json(StatusCode::OK, &Sandbox { access_token, ..sandbox }))
}

pub(super) async fn pause(State(api): State<Api>, _: Holder, Path(id): Path<String>, body: Body<Pause>) -> Answer {
    let kind = body.value.kind.unwrap_or(PauseKind::Frozen);
    Ok(json(StatusCode::OK, &api.sandboxes.pause(&id, kind).await?))
}

pub(super) async fn resume(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &api.sandboxes.resume(&id).await?))
}

pub(super) async fn renew(State(api): State<Api>, _: Holder, Path(id): Path<String>, body: Body<Renew>) -> Answer {
    Ok(json(StatusCode::OK, &api.sandboxes.renew(&id, body.value.lease).await?))
}

pub(super) async fn snapshot(
    State(api): State<Api>,
    holder: Holder,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body<TakeSnapshot>,
) -> Answer {
    let scope = format!("POST /v1/sandboxes/{id}/snapshots");
    let (sandboxes, name) = (api.sandboxes.clone(), body.value.name);
    let work = move |key| async move { sandboxes.snapshot_under(&id, name, key).await };
    Ok(once(&api, &holder, &headers, &scope, &body.bytes, StatusCode::CREATED, work).await?)
}

pub(super) async fn rollback(
    State(api): State<Api>,
    _: Holder,
    Path(id): Path<String>,
    body: Body<Rollback>,
) -> Answer {
    Ok(json(StatusCode::OK, &api.sandboxes.rollback(&id, &body.value.snapshot).await?))
}

pub(super) async fn fork(
    State(api): State<Api>,
    holder: Holder,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body<Fork>,
) -> Answer {
    let (sandboxes, fork) = (api.sandboxes.clone(), body.value);
    if fork.share_secrets
        && let Some(policy) = sandboxes.spec(&id)?.network
    {
        scope::check_policy(&holder, &policy)?;
    }
    let scope = format!("POST /v1/sandboxes/{id}/fork");
    let work = move |key| async move { sandboxes.fork_under(&id, fork, key).await.map(outcomes) };
    Ok(once(&api, &holder, &headers, &scope, &body.bytes, StatusCode::CREATED, work).await?)
}

pub(super) async fn diff(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &Page { items: api.sandboxes.diff(&id).await?, next: None }))
}

pub(super) async fn commit(
    State(api): State<Api>,
    holder: Holder,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body<Commit>,
) -> Answer {
    let scope = format!("POST /v1/sandboxes/{id}/commit");
    let (own, name) = (api.clone(), body.value.name);
    let work = move |key: Option<Key>| async move {
        // What an attempt made that was never answered: nothing else gives a name to what is as new.
        let made = match key.filter(|key| key.again) {
            Some(key) => own.images.get(&name).await.ok().filter(|image| image.created_ms >= key.since_ms),
            None => None,
        };
        let image = match made {
            Some(image) => image.id,
            None => own.sandboxes.commit(&id, &name).await?,
        };
        Ok(BTreeMap::from([("image", image), ("name", name)]))
    };
    Ok(once(&api, &holder, &headers, &scope, &body.bytes, StatusCode::CREATED, work).await?)
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    #[serde(default)]
    after: u64,
}

pub(super) async fn logs(
    State(api): State<Api>,
    _: Holder,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Answer {
    Ok(json(StatusCode::OK, &Page { items: api.sandboxes.logs(&id, query.after)?, next: None }))
}

/// What the network boundary decided about a sandbox lately.
pub(super) async fn decisions(
    State(api): State<Api>,
    _: Holder,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Answer {
    api.sandboxes.get(&id)?;
    Ok(json(StatusCode::OK, &Page { items: api.network.decisions(&id, query.after)?, next: None }))
}

pub(super) async fn usage(State(api): State<Api>, _: Holder, Path(id): Path<String>) -> Answer {
    Ok(json(StatusCode::OK, &api.sandboxes.usage(&id).await?))
}

pub(super) async fn network(
    State(api): State<Api>,
    holder: Holder,
    Path(id): Path<String>,
    body: Body<Policy>,
) -> Answer {
    scope::check_policy(&holder, &body.value)?;
    api.sandboxes.set_policy(&id, body.value).await?;
    Ok(json(StatusCode::OK, &api.sandboxes.get(&id)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_sandbox_api::lifecycle::State;

    #[test]
    fn a_list_is_filtered_by_state_and_metadata() {
        let filter = filter("state=running,paused&metadata.team=a%20b&limit=5").unwrap();
        assert_eq!(filter.states, [State::Running, State::Paused]);
        assert_eq!(filter.metadata["team"], "a b");
        assert_eq!(filter.limit, 5);
    }

    #[test]
    fn a_parameter_that_is_not_known_is_named() {
        for (query, field) in
            [("colour=red", "query"), ("state=blue", "state"), ("limit=0", "limit"), ("a=%zz", "query")]
        {
            assert_eq!(super::filter(query).unwrap_err().context["field"], field);
        }
    }
}
