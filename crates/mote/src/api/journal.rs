//! `GET /tasks/{id}/journal`: a task's journal as JSON, a page at a time, for programs that do not follow a stream.
//!
//! docs/events.md has the kinds and their payloads. The core's records stay inside. `<id>.<n>` in place of the id is the
//! journal of an earlier life.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::HeaderValue;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access::Caller;
use super::event_payload;
use super::path::Places;
use super::problem::Problem;
use super::query::Params;
use super::state::Api;
use crate::limits;
use crate::store;
use crate::timestamp::format_rfc3339;

/// One entry of a journal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JournalEntry)]
pub(super) struct EntryBody {
    /// Its position, from 1, without gaps.
    seq: u64,
    /// What happened, e.g. `model.replied`.
    kind: String,
    /// When, RFC 3339.
    at: String,
    /// The attempt at the whole task that wrote it: rises when another worker takes over.
    epoch: u64,
    /// What belongs to it; absent where the kind says all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::event_payload::EventPayload>)]
    payload: Option<Box<RawValue>>,
}

/// One page of a journal, oldest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JournalPage)]
pub(super) struct JournalBody {
    /// The entries.
    entries: Vec<EntryBody>,
    /// `?after=` of the next page; null at the end.
    next: Option<u64>,
}

impl From<store::Entry> for EntryBody {
    fn from(entry: store::Entry) -> Self {
        let payload = event_payload::public(&entry);
        let store::Entry { seq, epoch, at, kind, .. } = entry;
        Self { seq, kind, at: format_rfc3339(at), epoch, payload }
    }
}

/// Shows a task's journal.
#[utoipa::path(
    get, path = "/tasks/{id}/journal", tag = "tasks", operation_id = "task_journal",
    params(
        ("id" = String, Path, description = "The task; `<id>.<n>` is its n-th life, before it was run anew."),
        ("after" = Option<u64>, Query, description = "Begin behind this entry."),
        ("limit" = Option<u64>, Query, description = "Entries a page, 1 to 200; 50 if left out. A page of large payloads ends earlier."),
    ),
    responses(
        (status = 200, description = "One page.", body = JournalBody),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn page(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
) -> Result<impl IntoResponse, Problem> {
    let after = params.take_number("after")?.unwrap_or(0);
    let limit = params.take_limit()?;
    params.finish()?;
    let (of, life) = store::named_life(&id);
    let unknown = || Problem::task_not_found(&id);
    let store = api.runner.store();
    // An earlier life is whose the task is.
    let task = store.task(principal.tenant.as_deref(), of).await?.ok_or_else(unknown)?;
    let journal = task.journal_of(life.unwrap_or_else(|| task.life())).ok_or_else(unknown)?;
    let is_current = journal == task.id;
    if is_current {
        super::events::check_cursor(&task, after)?;
    }
    let entries = store.journal(&journal, after, limit.min(limits::PAGE_MAX)).await?;
    let last = entries.last().map_or(after, |entry| entry.seq);
    // No row tells where an earlier life ended.
    let more = if is_current { last < task.seq } else { !store.journal(&journal, last, 1).await?.is_empty() };
    let next = (more && !entries.is_empty()).then_some(last);
    let shown =
        entries.into_iter().filter(|entry| event_payload::is_public(&entry.kind)).map(EntryBody::from).collect();
    let version = (event_payload::VERSION_HEADER, HeaderValue::from(event_payload::VERSION));
    Ok(([version], Json(JournalBody { entries: shown, next })))
}
