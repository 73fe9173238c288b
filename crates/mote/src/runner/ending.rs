//! From the core's outcome to what a client sees: status, stable code, sentence. Codes are listed in `docs/errors.md`.

use mote_core::{CallOutcome, Failure, Limits, Outcome};

use super::outcome;
use super::payload::Payload;
use crate::model::ErrorKind;
use crate::store::{Status, TaskError};

/// How a model call last failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelSaid {
    /// The failure's kind, as the journal has it.
    kind: String,
    /// What happened.
    message: String,
}

impl ModelSaid {
    /// What an event says of a model's failure, if it is one.
    pub(super) fn of(payload: &Payload) -> Option<Self> {
        match payload {
            Payload::ModelFailed { kind, message, .. } => Some(Self { kind: kind.clone(), message: message.clone() }),
            _ => None,
        }
    }

    /// The code of a task whose attempts all failed, the last of them so.
    fn code(&self) -> &'static str {
        let is = |kind: ErrorKind| self.kind == outcome::error_kind(kind);
        if is(ErrorKind::EmptyReply) {
            "model_empty_reply"
        } else if is(ErrorKind::Aborted) {
            "model_reply_aborted"
        } else {
            "model_failed"
        }
    }

    /// Whether the endpoint found the context too long.
    fn is_overflow(&self) -> bool {
        self.kind == outcome::error_kind(ErrorKind::ContextLength)
    }

    /// What happened.
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

/// Status and error of an outcome; `last_failure` is what the model's endpoint last said, `scope` the shared budget that
/// refused.
pub(super) fn of(
    outcome: Outcome,
    limits: &Limits,
    last_failure: Option<&ModelSaid>,
    scope: Option<&str>,
) -> (Status, Option<TaskError>) {
    let failure = match outcome {
        Outcome::Completed => return (Status::Completed, None),
        Outcome::Cancelled => {
            return (Status::Cancelled, Some(error("cancelled", "a client cancelled the task".into())));
        }
        Outcome::Failed(failure) => failure,
    };
    let said = last_failure.map_or("no detail", ModelSaid::message);
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
            let attempts = u32::from(limits.model_attempts.max(1)) * u32::from(limits.endpoints.max(1));
            let code = last_failure.map_or("model_failed", ModelSaid::code);
            (code, format!("the model failed at all {attempts} attempts; the last: {said}"))
        }
        Failure::Outage => {
            let minutes = limits.model_outage_ms / 1_000;
            ("model_failed", format!("no model was available for {minutes} s (limits.model_outage); the last: {said}"))
        }
        Failure::Interrupted => (
            "interrupted_too_often",
            format!(
                "the workers of the task ended more than {} times in a row while the same step was under way (limit \
                 INTERRUPTIONS_MAX), for {} s at least (limit INTERRUPTIONS_MS)",
                limits.interruptions,
                limits.interruptions_ms / 1_000
            ),
        ),
        Failure::ModelRejected => ("model_rejected", format!("the model's endpoint refused the request: {said}")),
        Failure::Filtered => ("content_filtered", "the provider withheld the answer".into()),
        Failure::Truncated => ("output_truncated", "the answer reached the output limit".into()),
        Failure::Invalid => {
            ("output_invalid", format!("the answer failed the output schema {} times", u32::from(limits.repairs) + 1))
        }
        Failure::ContextOverflow => ("context_overflow", overflow(limits, last_failure)),
        Failure::CapabilitiesChanged => {
            ("capabilities_changed", "the agent's configuration changed while the run rested".into())
        }
    };
    (Status::Failed, Some(error(code, message)))
}

/// The endpoint's own sentence where it refused the context: its window may be smaller than the agent's.
fn overflow(limits: &Limits, last_failure: Option<&ModelSaid>) -> String {
    match last_failure.filter(|said| said.is_overflow()) {
        Some(said) => format!("the newest messages do not fit into the model's window: {}", said.message()),
        None => format!("the newest messages do not fit into {} tokens", limits.usable()),
    }
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
        | CallOutcome::TimeReached
        | CallOutcome::OverBudget
        | CallOutcome::NotMade => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_by_interruptions_names_both_of_their_limits() {
        let (status, error) = of(Outcome::Failed(Failure::Interrupted), &Limits::default(), None, None);
        let error = error.unwrap();
        assert_eq!((status, error.code.as_str()), (Status::Failed, "interrupted_too_often"));
        assert!(error.message.contains("more than 20 times") && error.message.contains("900 s"), "{}", error.message);
        assert!(error.message.contains("INTERRUPTIONS_MAX") && error.message.contains("INTERRUPTIONS_MS"));
    }
}
