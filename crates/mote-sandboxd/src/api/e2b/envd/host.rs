//! What `envd` tells of the sandbox itself: its metrics and its environment.
//!
//! Whether it runs is answered by the gateway, which does not wake it for that.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Start;
use serde_json::{Map, Value, json};

use crate::api::e2b::E2b;
use crate::api::e2b::failure::Refused;
use crate::api::e2b::gateway::Inside;
use crate::api::e2b::metrics;
use crate::guest::Event;
use crate::limits::ENVIRONMENT_BYTES_MAX;

pub(super) async fn metrics(State(e2b): State<E2b>, Extension(inside): Extension<Inside>) -> Result<Response, Refused> {
    let measured = metrics::measure(&e2b, &inside.sandbox).await?;
    Ok(axum::Json(json!({
        "ts": measured.at_ms / 1000,
        "cpu_count": measured.cpu_count,
        "cpu_used_pct": measured.cpu_used_pct,
        "mem_total": measured.memory_total,
        "mem_used": measured.memory_used,
        "mem_cache": 0,
        "mem_total_mib": measured.memory_total >> 20,
        "mem_used_mib": measured.memory_used >> 20,
        "disk_total": measured.disk_total,
        "disk_used": measured.disk_used,
    }))
    .into_response())
}

/// The environment that processes are given: asked of one.
pub(super) async fn environment(Extension(inside): Extension<Inside>) -> Result<Response, Refused> {
    let argv = vec!["env".to_owned(), "-0".to_owned()];
    let mut process = inside.guest.start(Start { argv, timeout_ms: Some(10_000), ..Start::default() }).await?;
    let mut text = Vec::new();
    while let Some(event) = process.next_event().await? {
        if let Event::Stdout(bytes) = event {
            if text.len() + bytes.len() > ENVIRONMENT_BYTES_MAX {
                let message = format!("the environment is longer than {ENVIRONMENT_BYTES_MAX} bytes");
                return Err(Failure::new(Code::TooLarge, message).into());
            }
            text.extend_from_slice(&bytes);
        }
    }
    let text = String::from_utf8_lossy(&text);
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    let variables: Map<String, Value> = pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
    Ok(axum::Json(variables).into_response())
}
