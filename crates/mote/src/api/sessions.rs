//! `/sessions/{id}`: a session's state across turns, and its erasure.
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

/// What an erasure removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Erased {
    /// Tasks that are gone, with their journals and payloads.
    pub(super) tasks: u64,
}

/// The tenant that the caller asks in; another one than its own has no sessions for it.
fn tenant(principal: &Principal, params: &mut Params, id: &str) -> Result<String, Problem> {
    let named = params.take("tenant")?;
    super::tenant_of(principal, named.as_deref()).map_err(|_| not_found(id))
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
    let tenant = tenant(&principal, &mut params, &id)?;
    params.finish()?;
    let session = api.runner.store().session(&tenant, &id).await?;
    session.map(|session| Json(session.into())).ok_or_else(|| not_found(&id))
}

/// Erases a session: its tasks, journals, payloads and transcript.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "sessions", operation_id = "erase_session",
    params(
        ("id" = String, Path, description = "The session."),
        ("tenant" = Option<String>, Query, description = "Its tenant; the key's, or the default one, if left out."),
    ),
    responses(
        (status = 200, description = "Erased.", body = Erased),
        (status = 404, description = "No such session.", body = super::problem::Body, content_type = "application/problem+json"),
        (status = 409, description = "One of its tasks is under way.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["admin"]), ("header_key" = ["admin"])),
)]
pub(super) async fn erase(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
) -> Result<Json<Erased>, Problem> {
    let tenant = tenant(&principal, &mut params, &id)?;
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
