//! What the runner tells the operator: metrics, spans and log lines. It never decides anything.

use std::time::Duration;

use mote_core::{Action, CallOutcome, Event};

use super::batch::Step;
use super::detail::Ending;
use super::drive::{Driver, Stop};
use super::payload::Payload;
use super::request::{Stored, millis};
use super::worker::Held;
use super::{Shared, ending, outcome};
use crate::model::{self, ErrorKind, Request};
use crate::redact;
use crate::store::{Status, Task};
use crate::telemetry::metrics::Retried;
use crate::telemetry::traces::{RunEnd, RunSpan, RunStart};

/// Opens this worker's stretch of a run in its trace.
pub(super) fn begin(shared: &Shared, task: &Task, stored: &Stored, held: &Held) -> RunSpan {
    let (agent, owner) = (&shared.agent, &task.owner);
    shared.tracer.run_span(&RunStart {
        task: &task.id,
        session: owner.session.as_deref(),
        agent: &agent.name,
        agent_version: &agent.version,
        agent_description: &agent.description,
        provider: agent.models[0].provider.kind(),
        model: &agent.models[0].name,
        tenant: &owner.tenant,
        user: owner.user.as_deref(),
        labels: &owner.labels,
        epoch: held.epoch,
        traceparent: stored.traceparent.as_deref(),
    })
}

/// A commit took this long.
pub(super) fn committed(shared: &Shared, took: Duration) {
    shared.metrics.store_commit(took);
}

/// A lease was lost to another worker.
pub(super) fn lease_lost(shared: &Shared) {
    shared.metrics.lease_lost();
}

/// A step is durable; the driver's transcript still stands before it.
pub(super) fn step(driver: &Driver, step: &Step) {
    let metrics = &driver.shared.metrics;
    for spending in &step.spending {
        let models = &driver.shared.agent.models;
        let provider = models.iter().find(|model| model.name == spending.model);
        metrics.spent(provider.map_or("unknown", |model| model.provider.kind()), spending);
    }
    if let Payload::ModelReplied { refused, message, .. } = &step.occurrence.payload {
        for (_, name, _) in message.calls().filter(|(id, ..)| refused.iter().any(|call| call.id == *id)) {
            if driver.shared.registry.get(name).is_some() {
                metrics.tool_arguments_invalid(name);
            }
        }
    }
    if let Payload::BudgetRefused { scope, .. } = &step.occurrence.payload {
        metrics.budget_refused(budget_line(scope));
    }
    for action in step.actions.iter() {
        match action {
            Action::CallModel { attempt, .. } if attempt > 1 => metrics.retried(Retried::Model),
            Action::CallTool { attempt, .. } if attempt > 1 => metrics.retried(Retried::Tool),
            Action::Conclude { call, outcome: CallOutcome::Unknown } => {
                let key = driver.key(call);
                if let Some(call) = driver.transcript.call(call) {
                    metrics.effect_unknown(&call.name);
                    tracing::warn!(
                        tool = call.name,
                        call = call.id,
                        key,
                        step = driver.run.steps(),
                        content.arguments = call.arguments,
                        "the outcome of a call is unknown"
                    );
                }
            }
            Action::Finish { outcome } => {
                let ending = driver.ending(outcome, step);
                task_ended(&ending, step.run.steps());
            }
            _ => {}
        }
    }
    if matches!(step.occurrence.event, Event::Recovered) {
        tracing::info!(epoch = driver.held.epoch, "a run was taken over");
    }
}

/// The line on a task's end: why it failed, if it did.
fn task_ended(ending: &Ending, steps: u32) {
    let (status, code) = (ending.status.as_str(), ending.error.as_ref().map(|error| error.code.as_str()));
    if ending.status == Status::Failed {
        let (cause, detail) = (ending.cause.as_deref(), ending.detail.as_deref());
        tracing::error!(status, code, cause, content.detail = detail, steps, "a task failed");
    } else {
        tracing::info!(status, code, steps, "a task ended");
    }
}

/// An attempt at a model call failed: what the endpoint said, without what it quotes of the prompt.
pub(super) fn attempt_failed(request: &Request, error: &model::Error, content: bool, took: Duration) {
    let said = if content {
        error.message.clone()
    } else {
        let said = request.messages.iter().flat_map(redact::texts).chain([&*request.system]);
        redact::hide(&error.message, said)
    };
    if error.kind == ErrorKind::CircuitOpen && error.answer.status.is_none() && error.answer.code.is_none() {
        let retry_after_ms = error.retry_after.map(millis);
        let (step, attempt) = (request.step, request.attempt);
        tracing::warn!(step, attempt, said, retry_after_ms, "no model was asked: every circuit is open");
        return;
    }
    tracing::warn!(
        step = request.step,
        attempt = request.attempt,
        model = error.model,
        endpoint = error.endpoint,
        kind = outcome::error_kind(error.kind),
        status = error.answer.status,
        code = error.answer.code,
        said,
        took_ms = millis(took),
        retry_after_ms = error.retry_after.map(millis),
        "an attempt at a model call failed"
    );
}

fn budget_line(scope: &str) -> &'static str {
    match scope.split(':').next() {
        Some("agent") => "agent",
        Some("tenant") => "tenant",
        Some("user") => "user",
        Some("session") => "session",
        _ => "other",
    }
}

/// This worker's stretch of a run is over.
pub(super) fn ended(driver: Driver, stop: Stop) {
    let outcome = match driver.run.phase() {
        mote_core::Phase::Finished(outcome) => {
            Some(ending::of(outcome, driver.run.limits(), driver.failure.as_ref(), None))
        }
        _ => None,
    };
    let status = match (&outcome, stop) {
        (Some((status, _)), _) => status.as_str(),
        (None, Stop::Suspended) => "waiting",
        (None, _) => "queued",
    };
    let error = outcome.and_then(|(_, error)| error).map(|error| error.code);
    driver.span.end(&RunEnd {
        status,
        error: error.as_deref(),
        usage: &driver.account.usage,
        cost_nano_usd: driver.account.nano_usd,
        steps: driver.run.steps(),
    });
}
