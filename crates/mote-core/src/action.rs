//! What the driver must do next. It does not say how.

use crate::{Array, Full, NanoUsd, Time, Tokens};

/// Why a run failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Model steps are used up.
    Steps,
    /// Tool calls are used up.
    ToolCalls,
    /// Working time is used up.
    Active,
    /// Wall time is over.
    Expired,
    /// The run's own budget is used up.
    BudgetRun,
    /// A budget that it shares is used up.
    BudgetShared,
    /// The same calls came again and again.
    Repeated,
    /// The model failed at every attempt.
    Model,
    /// The model's endpoint refuses the request.
    ModelRejected,
    /// The provider withheld the answer.
    Filtered,
    /// The answer was cut at the output limit.
    Truncated,
    /// The answer fails the output schema.
    Invalid,
    /// The context cannot be made to fit.
    ContextOverflow,
    /// The capability set changed.
    CapabilitiesChanged,
    /// No model endpoint was available for too long.
    Outage,
    /// Work under way was lost with its worker too often.
    Interrupted,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer: the last reply.
    Completed,
    /// By a client's wish.
    Cancelled,
    /// With an error.
    Failed(Failure),
}

/// How a call ended that has no result of its own: the driver writes a notice in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// It may have been performed, and may not be tried again.
    Unknown,
    /// It failed at every attempt and changed nothing.
    Failed,
    /// Policy forbids it.
    Forbidden,
    /// A person refused it.
    Denied,
    /// What it waited for did not come in time.
    TimedOut,
    /// The time that it waited for has come.
    TimeReached,
    /// The run ended before it was made.
    NotMade,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Book what a model call cost, and release the reservation that it was made under.
    Settle {
        /// Tokens, in and out.
        tokens: Tokens,
        /// Money.
        nano_usd: NanoUsd,
        /// Whether nobody knows what it cost, so that this is an estimate.
        uncertain: bool,
    },
    /// Write a notice as a call's result.
    Conclude {
        /// The call's index within the turn.
        call: u16,
        /// What to say.
        outcome: CallOutcome,
    },
    /// Ask a person: to approve the call, or the question that it is.
    Ask {
        /// The call's index within the turn.
        call: u16,
    },
    /// Call a tool.
    CallTool {
        /// The call's index within the turn.
        call: u16,
        /// The attempt, from 1.
        attempt: u16,
    },
    /// Reserve on every shared budget, then report `BudgetGranted` or `BudgetRefused`.
    Reserve {
        /// Tokens, in and out.
        tokens: Tokens,
        /// Money.
        nano_usd: NanoUsd,
    },
    /// Call the model with the input unit and every unit from `from` on.
    CallModel {
        /// The step, from 1.
        step: u32,
        /// The attempt, from 1.
        attempt: u16,
        /// First unit that is still in the context.
        from: u32,
        /// Largest reply.
        output: u32,
    },
    /// Nothing is under way but waits: give the run back until mail comes or `until` (0: mail only).
    Suspend {
        /// When to wake at the latest.
        until: Time,
    },
    /// End whatever is under way and publish the end.
    Finish(Outcome),
}

impl Default for Action {
    fn default() -> Self {
        Self::Suspend { until: 0 }
    }
}

/// What one step asks for, in order: conclusions and calls (at most one each a call), then at most four more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions<const CALLS: usize> {
    calls: Array<Action, CALLS>,
    concluded: Array<Action, CALLS>,
    others: Array<Action, 4>,
}

impl<const CALLS: usize> Actions<CALLS> {
    /// The actions, in the order in which they are to be performed.
    pub fn iter(&self) -> impl Iterator<Item = Action> + '_ {
        let (others, concluded, calls) = (self.others.as_slice(), self.concluded.as_slice(), self.calls.as_slice());
        let settle = others.iter().filter(|a| matches!(a, Action::Settle { .. }));
        let rest = others.iter().filter(|a| !matches!(a, Action::Settle { .. }));
        settle.chain(concluded).chain(calls).chain(rest).copied()
    }

    /// How the run ended, if it did.
    #[must_use]
    pub fn finish(&self) -> Option<Outcome> {
        self.iter().find_map(|action| match action {
            Action::Finish(outcome) => Some(outcome),
            _ => None,
        })
    }

    pub(crate) fn push(&mut self, action: Action) -> Result<(), Full> {
        match action {
            Action::Conclude { .. } => self.concluded.push(action),
            Action::CallTool { .. } | Action::Ask { .. } => self.calls.push(action),
            _ => self.others.push(action),
        }
    }
}
