//! Lists of sandboxes: by state, metadata, template and start, in pages.
//!
//! A page's cursor is the place in the order: it stays right while sandboxes come and go.

use std::collections::BTreeMap;

use axum::extract::{RawQuery, State};
use http::{HeaderValue, StatusCode};
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::request::Sandbox;
use serde_json::{Map, Value, json};

use super::body::{Answer, json_answer, listed, state, template_of};
use crate::api::access::Holder;
use crate::api::e2b::timestamp::{self, rfc3339_unsigned};
use crate::api::e2b::{E2b, metrics, query};
use crate::lifecycle::Filter;
use crate::limits::{PAGE_DEFAULT, PAGE_MAX};

/// What a list is asked for.
#[derive(Debug, Default)]
struct Asked {
    metadata: BTreeMap<String, String>,
    states: Vec<String>,
    template: Option<String>,
    started_after_ms: Option<i64>,
    ascending: bool,
    limit: usize,
    after: Option<String>,
}

fn asked(query: Option<&str>) -> Result<Asked, Failure> {
    let mut asked = Asked { limit: PAGE_DEFAULT, ..Asked::default() };
    for (name, value) in query::pairs(query.unwrap_or_default()) {
        match name.as_str() {
            // Each key and value is encoded once more within the query.
            "metadata" => {
                asked.metadata.extend(query::pairs(&value).map(|(k, v)| (query::decoded(&k), query::decoded(&v))))
            }
            "state" => asked.states.extend(value.split(',').map(str::to_owned)),
            "template" | "templateID" => asked.template = Some(value),
            "startedAfter" => {
                let ms = timestamp::parse(&value)
                    .ok_or_else(|| Failure::invalid("startedAfter", "it is no RFC 3339 time"))?;
                asked.started_after_ms = Some(ms);
            }
            "order" => asked.ascending = value == "asc",
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                asked.limit = limit.ok_or_else(|| Failure::invalid("limit", format!("it must be 1 to {PAGE_MAX}")))?;
            }
            "nextToken" => asked.after = Some(value),
            _ => {}
        }
    }
    if let Some(wrong) = asked.states.iter().find(|word| !["running", "paused"].contains(&word.as_str())) {
        return Err(Failure::invalid("state", format!("{wrong:?} is neither running nor paused")));
    }
    Ok(asked)
}

fn place(sandbox: &Sandbox) -> String {
    format!("{:013}-{}", sandbox.created_ms, sandbox.id)
}

/// The sandboxes of a page, and the cursor of the next one.
fn select(e2b: &E2b, asked: &Asked) -> (Vec<Sandbox>, Option<String>) {
    let filter = Filter { metadata: asked.metadata.clone(), limit: usize::MAX, ..Filter::default() };
    let (mut found, _) = e2b.api.sandboxes.list(&filter);
    found.retain(|sandbox| {
        use mote_sandbox_api::lifecycle::State;
        !matches!(sandbox.state, State::Failed | State::Stopping)
            && (asked.states.is_empty() || asked.states.iter().any(|word| word == state(sandbox)))
            && asked.template.as_ref().is_none_or(|template| *template == template_of(&sandbox.image))
            && asked.started_after_ms.is_none_or(|after| i64::try_from(sandbox.created_ms).is_ok_and(|ms| ms > after))
    });
    found.sort_by_key(place);
    if !asked.ascending {
        found.reverse();
    }
    if let Some(after) = &asked.after {
        found.retain(|sandbox| if asked.ascending { place(sandbox) > *after } else { place(sandbox) < *after });
    }
    let more = found.len() > asked.limit;
    found.truncate(asked.limit);
    let next = found.last().filter(|_| more).map(place);
    (found, next)
}

fn answer(e2b: &E2b, asked: &Asked) -> Answer {
    let (found, next) = select(e2b, asked);
    // One that ends between the list and here is left out.
    let items: Vec<Value> = found.iter().filter_map(|sandbox| listed(e2b, sandbox).ok()).collect();
    let mut response = json_answer(StatusCode::OK, &items);
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert("x-next-token", next);
    }
    Ok(response)
}

/// `GET /v2/sandboxes`.
pub(super) async fn page(State(e2b): State<E2b>, RawQuery(query): RawQuery, _: Known) -> Answer {
    answer(&e2b, &asked(query.as_deref())?)
}

/// `GET /sandboxes`: those that run, all of them.
pub(super) async fn running(State(e2b): State<E2b>, RawQuery(query): RawQuery, _: Known) -> Answer {
    let asked = Asked { states: vec!["running".to_owned()], limit: usize::MAX, ..asked(query.as_deref())? };
    answer(&e2b, &asked)
}

/// `GET /sandboxes/metrics?sandbox_ids=…`: those that are there.
pub(super) async fn metrics(State(e2b): State<E2b>, RawQuery(query): RawQuery, _: Known) -> Answer {
    let mut told = Map::new();
    let pairs = query::pairs(query.as_deref().unwrap_or_default());
    let ids: Vec<String> = pairs
        .filter(|(name, _)| name == "sandbox_ids")
        .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        .take(PAGE_MAX)
        .collect();
    for id in ids {
        if let Ok(measured) = metrics::measure(&e2b, &id).await {
            told.insert(id, point(&measured));
        }
    }
    Ok(json_answer(StatusCode::OK, &json!({ "sandboxes": told })))
}

/// `SandboxMetric`.
pub(super) fn point(measured: &metrics::Measured) -> Value {
    json!({
        "timestamp": rfc3339_unsigned(measured.at_ms),
        "timestampUnix": measured.at_ms / 1000,
        "cpuCount": measured.cpu_count,
        "cpuUsedPct": measured.cpu_used_pct,
        "memTotal": measured.memory_total,
        "memUsed": measured.memory_used,
        "memCache": 0,
        "diskTotal": measured.disk_total,
        "diskUsed": measured.disk_used,
    })
}

/// Somebody who holds an API key.
#[derive(Debug)]
pub(super) struct Known(pub(super) Holder);

impl axum::extract::FromRequestParts<E2b> for Known {
    type Rejection = crate::api::e2b::failure::Refused;

    async fn from_request_parts(parts: &mut http::request::Parts, e2b: &E2b) -> Result<Self, Self::Rejection> {
        let holder = Holder::from_request_parts(parts, &e2b.api).await;
        holder.map(Self).map_err(|refusal| refusal.0.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_read_as_the_sdks_write_it() {
        let asked =
            asked(Some("metadata=user%3Da%25252Bb%26app%3Dx&state=running%2Cpaused&limit=7&order=asc")).unwrap();
        assert_eq!(asked.metadata["user"], "a+b");
        assert_eq!(asked.metadata["app"], "x");
        assert_eq!(asked.states, ["running", "paused"]);
        assert!(asked.ascending && asked.limit == 7);
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (query, field) in [("state=blue", "state"), ("limit=0", "limit"), ("startedAfter=soon", "startedAfter")] {
            assert_eq!(super::asked(Some(query)).unwrap_err().context["field"], field);
        }
    }
}
