//! From the core's outcome to what a client sees: status, stable code, sentence. Codes are listed in `docs/errors.md`.

use mote_core::{CallOutcome, Failure, Limits, Outcome};

use crate::store::{Status, TaskError};

/// Status and error of an outcome; `last_failure` is what the model's endpoint last said, `scope` the shared budget that
/// refused.
pub(super) fn of(
    outcome: Outcome,
    limits: &Limits,
    last_failure: Option<&str>,
    scope: Option<&str>,
) -> (Status, Option<TaskError>) {
    let failure = match outcome {
        Outcome::Completed => return (Status::Completed, None),
        Outcome::Cancelled => {
            return (Status::Cancelled, Some(error("cancelled", "a client cancelled the task".into())));
        }
        Outcome::Failed(failure) => failure,
    };
    let said = last_failure.unwrap_or("no detail");
    let (code, message) = match failure {
        Failure::Steps => ("limit_steps", format!("the run used all of its {} steps", limits.steps)),
        Failure::ToolCalls => {
            ("limit_tool_calls", format!("the run would exceed its {} tool calls", limits.tool_calls))
        }
        Failure::Active => ("limit_active", format!("the run worked for longer than {} ms", limits.active_ms)),
        Failure::Expired => ("expired", "the task's wall time is over".into()),
        Failure::BudgetRun => ("budget_run", budget(limits)),
        Failure::BudgetShared => {
            ("budget_shared", format!("the budget {} is used up", scope.unwrap_or("that the run shares")))
        }
        Failure::Repeated => ("repeated_calls", format!("the same calls came more than {} times", limits.repeats)),
        Failure::Model => {
            ("model_failed", format!("the model failed at all {} attempts; the last: {said}", limits.model_attempts))
        }
        Failure::ModelRejected => ("model_rejected", format!("the model's endpoint refused the request: {said}")),
        Failure::Filtered => ("content_filtered", "the provider withheld the answer".into()),
        Failure::Truncated => ("output_truncated", "the answer reached the output limit".into()),
        Failure::Invalid => {
            ("output_invalid", format!("the answer failed the output schema {} times", u32::from(limits.repairs) + 1))
        }
        Failure::ContextOverflow => {
            ("context_overflow", format!("the newest messages do not fit into {} tokens", limits.usable()))
        }
        Failure::CapabilitiesChanged => {
            ("capabilities_changed", "the agent's configuration changed while the run rested".into())
        }
    };
    (Status::Failed, Some(error(code, message)))
}

fn budget(limits: &Limits) -> String {
    let tokens = (limits.budget_tokens != u64::MAX).then(|| format!("{} tokens", limits.budget_tokens));
    let money = (limits.budget_nano_usd != u64::MAX).then(|| crate::money::dollars(limits.budget_nano_usd));
    let bounds: Vec<String> = [tokens, money].into_iter().flatten().collect();
    format!("the run's budget ({}) does not carry another model call", bounds.join(", "))
}

/// An error of a task.
pub(super) fn error(code: &str, message: String) -> TaskError {
    TaskError { code: code.to_owned(), message }
}

/// What the effects table says of a call's end.
pub(super) fn effect_outcome(outcome: CallOutcome) -> &'static str {
    match outcome {
        CallOutcome::Unknown => "unknown",
        CallOutcome::Failed
        | CallOutcome::Forbidden
        | CallOutcome::Denied
        | CallOutcome::TimedOut
        | CallOutcome::TimeReached => "failed",
    }
}
