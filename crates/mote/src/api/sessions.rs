//! `/sessions`: a session's state across turns, the list of sessions, and erasure.
//!
//! It does not make sessions; the first task that names one does.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::dto;
use super::path::Places;
use super::problem::{Code, Problem};
use super::query::Params;
use super::spent::{Cost, UsageBody};
use super::state::Api;
use crate::auth::Principal;
use crate::message::Message;
use crate::store::{self, Erase};
use crate::timestamp::format_rfc3339;

/// A session's state across turns.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionBody {
    /// Its name.
    id: String,
    /// Tenant; empty is the default tenant.
    tenant: String,
    /// User of its first task.
    user: Option<String>,
    /// Transcript, oldest first: the newest 128 messages.
    messages: Vec<Message>,
    /// Finished turns.
    turns: u64,
    /// The task under way.
    active_task: Option<String>,
    /// Tokens of all its tasks.
    usage: UsageBody,
    /// Cost of all its tasks.
    cost: Cost,
    /// First use, RFC 3339.
    created: String,
    /// Last use, RFC 3339.
    updated: String,
}

impl From<store::Session> for SessionBody {
    fn from(session: store::Session) -> Self {
        Self {
            id: session.id,
            tenant: session.tenant,
            user: session.user,
            messages: session.messages,
            turns: session.turns,
            active_task: session.active_task,
            usage: UsageBody::new(session.usage, session.uncertain),
            cost: Cost::new(session.cost_nano_usd, session.uncertain),
            created: format_rfc3339(session.created_at),
            updated: format_rfc3339(session.updated_at),
        }
    }
}

/// A session as a list shows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionSummary)]
pub(super) struct SummaryBody {
    /// Its name.
    id: String,
    /// Tenant; empty is the default tenant.
    tenant: String,
    /// User of its first task.
    user: Option<String>,
    /// Finished turns.
    turns: u64,
    /// The task under way.
    active_task: Option<String>,
    /// Tokens of all its tasks.
    usage: UsageBody,
    /// Cost of all its tasks.
    cost: Cost,
    /// First use, RFC 3339.
    created: String,
    /// Last use, RFC 3339.
    updated: String,
}

impl From<store::Session> for SummaryBody {
    fn from(session: store::Session) -> Self {
        Self {
            id: session.id,
            tenant: session.tenant,
            user: session.user,
            turns: session.turns,
            active_task: session.active_task,
            usage: UsageBody::new(session.usage, session.uncertain),
            cost: Cost::new(session.cost_nano_usd, session.uncertain),
            created: format_rfc3339(session.created_at),
            updated: format_rfc3339(session.updated_at),
        }
    }
}

/// One page of sessions, by tenant and name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionPage)]
pub(super) struct SessionList {
    /// The sessions.
    sessions: Vec<SummaryBody>,
    /// `?cursor=` of the next page; null at the end.
    next: Option<String>,
}

/// Where a page ends, for the next one: tenant and name, in hexadecimal.
fn cursor(tenant: &str, id: &str) -> String {
    let bytes = tenant.bytes().chain([0]).chain(id.bytes());
    bytes.fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

fn place(cursor: &str) -> Result<(String, String), Problem> {
    let wrong = || Problem::field(Code::CursorInvalid, "cursor", "is not one that this listing gave");
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = cursor.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let bytes = pairs.collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty()).ok_or_else(wrong)?;
    let text = String::from_utf8_lossy(&bytes);
    let (tenant, id) = text.split_once('\0').unwrap_or((&text, ""));
    Ok((tenant.to_owned(), id.to_owned()))
}

/// Lists sessions, by tenant and name.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions", operation_id = "list_sessions",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u64>, Query, description = "Sessions a page, 1 to 200; 50 if left out."),
        ("user" = Option<String>, Query, description = "Only those that this user began."),
        ("tenant" = Option<String>, Query, description = "Only this tenant's; a bound key sees its own alone."),
    ),
    responses((status = 200, description = "One page.", body = SessionList)),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    mut params: Params,
) -> Result<Json<SessionList>, Problem> {
    let after = params.take("cursor")?.map(|text| place(&text)).transpose()?;
    let limit = params.take_limit()?;
    let tenant = super::tenant_filter(&principal, &mut params)?;
    let user = params.take("user")?;
    params.finish()?;
    let page = api.runner.store().sessions(tenant.as_deref(), user.as_deref(), after, limit).await?;
    let next = page.next.map(|(tenant, id)| cursor(&tenant, &id));
    Ok(Json(SessionList { sessions: page.sessions.into_iter().map(SummaryBody::from).collect(), next }))
}

/// What an erasure removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Erased {
    /// Tasks that are gone, with their journals and payloads.
    pub(super) tasks: u64,
}

/// The tenant that the caller asks in.
fn tenant(principal: &Principal, params: &mut Params) -> Result<String, Problem> {
    let named = params.take("tenant")?;
    super::tenant_of(principal, named.as_deref())
}

fn not_found(id: &str) -> Problem {
    Problem::new(Code::SessionNotFound, format!("session {id} does not exist"))
}

/// Shows a session.
#[utoipa::path(
    get, path = "/sessions/{id}", tag = "sessions", operation_id = "get_session",
    params(
        ("id" = String, Path, description = "The session."),
        ("tenant" = Option<String>, Query, description = "Its tenant; the key's, or the default one, if left out."),
    ),
    responses(
        (status = 200, description = "The session.", body = SessionBody),
        (status = 404, description = "No such session.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"])),
)]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
) -> Result<Json<SessionBody>, Problem> {
    let tenant = tenant(&principal, &mut params)?;
    params.finish()?;
    let session = api.runner.store().session(&tenant, &id).await?;
    session.map(|session| Json(session.into())).ok_or_else(|| not_found(&id))
}

/// Erases a session: its tasks, journals, payloads and transcript.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "sessions", operation_id = "erase_session",
    params(
        ("id" = String, Path, description = "The session: 1 to 128 characters."),
        ("tenant" = Option<String>, Query, description = "Its tenant; the key's, or the default one, if left out."),
    ),
    responses(
        (status = 200, description = "Erased.", body = Erased),
        (status = 404, description = "No such session.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "One of its tasks is under way.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 422, description = "The name cannot be a session's.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["admin"]), ("header_key" = ["admin"])),
)]
pub(super) async fn erase(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
) -> Result<Json<Erased>, Problem> {
    let tenant = tenant(&principal, &mut params)?;
    params.finish()?;
    dto::check_name("id", &id)?;
    let store = api.runner.store();
    let known = store.session(&tenant, &id).await?.is_some();
    match api.runner.erase(Erase::Session { tenant, session: id.clone() }).await {
        // A session whose first task is queued has tasks before it has a row.
        Ok(0) if !known => Err(not_found(&id)),
        Ok(tasks) => {
            tracing::info!(session_id = id, tasks, by = %principal.name, "a session was erased");
            Ok(Json(Erased { tasks }))
        }
        Err(store::Error::Conflict { what }) => Err(Problem::new(Code::SessionBusy, what)),
        Err(error) => Err(error.into()),
    }
}
