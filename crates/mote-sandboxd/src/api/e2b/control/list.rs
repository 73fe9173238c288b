//! Lists of sandboxes: by state, metadata, template and start, in pages.
//!
//! A page's cursor is the place in the order: it stays right while sandboxes come and go.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{RawQuery, State};
use http::{HeaderValue, StatusCode};
use mote_sandbox_api::error::Failure;
use mote_sandbox_api::request::Sandbox;
use mote_sandbox_api::spec::{ImageSource, Spec};
use serde_json::{Map, Value, json};

use super::body::{Answer, json_answer, listed, state, template_of};
use super::sandbox::image;
use crate::api::access::Holder;
use crate::api::e2b::timestamp::{self, rfc3339_unsigned};
use crate::api::e2b::{E2b, metrics, query};
use crate::lifecycle::Filter;
use crate::limits::{METRICS_SANDBOXES_TOLD_MAX, PAGE_DEFAULT, PAGE_MAX};

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
            "order" => {
                asked.ascending = match value.as_str() {
                    "asc" => true,
                    "desc" => false,
                    _ => return Err(Failure::invalid("order", format!("{value:?} is neither asc nor desc"))),
                }
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                asked.limit = limit.ok_or_else(|| Failure::invalid("limit", format!("it must be 1 to {PAGE_MAX}")))?;
            }
            "nextToken" => {
                let is_place = value.split_once('-').is_some_and(|(ms, _)| ms.parse::<u64>().is_ok());
                asked.after = Some(value).filter(|_| is_place);
                asked.after.as_ref().ok_or_else(|| Failure::invalid("nextToken", "it is no token of a page"))?;
            }
            _ => {}
        }
    }
    if let Some(wrong) = asked.states.iter().find(|word| !["running", "paused"].contains(&word.as_str())) {
        return Err(Failure::invalid("state", format!("{wrong:?} is neither running nor paused")));
    }
    Ok(asked)
}

/// Which images a template means.
#[derive(Debug)]
struct Wanted {
    template: String,
    source: ImageSource,
}

impl Wanted {
    async fn of(e2b: &E2b, template: String) -> Result<Self, Failure> {
        let source = match image(e2b, &template).await? {
            Some(source) => source,
            // What a sandbox is made of that names no image.
            None => e2b.api.sandboxes.profiles().complete(Spec::default()).image.unwrap_or(ImageSource::Host),
        };
        Ok(Self { template, source })
    }

    fn means(&self, image: &ImageSource) -> bool {
        *image == self.source || template_of(image) == self.template
    }
}

fn place(sandbox: &Sandbox) -> String {
    format!("{:013}-{}", sandbox.created_ms, sandbox.id)
}

/// The sandboxes of a page, and the cursor of the next one.
fn select(e2b: &E2b, asked: &Asked, wanted: Option<&Wanted>) -> (Vec<Sandbox>, Option<String>) {
    let filter = Filter { metadata: asked.metadata.clone(), limit: usize::MAX, ..Filter::default() };
    let (mut found, _) = e2b.api.sandboxes.list(&filter);
    found.retain(|sandbox| {
        use mote_sandbox_api::lifecycle::State;
        !matches!(sandbox.state, State::Failed | State::Stopping)
            && (asked.states.is_empty() || asked.states.iter().any(|word| word == state(sandbox)))
            && wanted.is_none_or(|wanted| wanted.means(&sandbox.image))
            && asked.started_after_ms.is_none_or(|after| i64::try_from(sandbox.created_ms).is_ok_and(|ms| ms >= after))
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

async fn answer(e2b: &E2b, asked: Asked) -> Answer {
    let wanted = match &asked.template {
        Some(template) => Some(Wanted::of(e2b, template.clone()).await?),
        None => None,
    };
    let (found, next) = select(e2b, &asked, wanted.as_ref());
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
    answer(&e2b, asked(query.as_deref())?).await
}

/// `GET /sandboxes`: those that run, all of them.
pub(super) async fn running(State(e2b): State<E2b>, RawQuery(query): RawQuery, _: Known) -> Answer {
    let asked = Asked { states: vec!["running".to_owned()], limit: usize::MAX, ..asked(query.as_deref())? };
    answer(&e2b, asked).await
}

/// `GET /sandboxes/metrics?sandbox_ids=…`: what those that are there use now.
pub(super) async fn metrics(State(e2b): State<E2b>, RawQuery(query): RawQuery, _: Known) -> Answer {
    let mut told = Map::new();
    let pairs = query::pairs(query.as_deref().unwrap_or_default());
    let ids: BTreeSet<String> = pairs
        .filter(|(name, _)| name == "sandbox_ids")
        .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        .filter(|id| !id.is_empty())
        .collect();
    if ids.len() > METRICS_SANDBOXES_TOLD_MAX {
        let message = format!("at most {METRICS_SANDBOXES_TOLD_MAX} sandboxes are told of at once");
        return Err(Failure::invalid("sandbox_ids", message).with("limit", METRICS_SANDBOXES_TOLD_MAX).into());
    }
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
        for (query, field) in [
            ("state=blue", "state"),
            ("limit=0", "limit"),
            ("startedAfter=soon", "startedAfter"),
            ("order=up", "order"),
            ("nextToken=x", "nextToken"),
        ] {
            assert_eq!(super::asked(Some(query)).unwrap_err().context["field"], field);
        }
    }
}
