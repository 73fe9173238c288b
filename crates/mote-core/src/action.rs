//! What the driver must do next. It does not say how.

use crate::codec::{Field, Malformed, NoRoom, Reader, Writer};
use crate::{Array, Full, NanoUsd, Spender, Time, Tokens};

choice! {
    /// Why a run failed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Failure = "outcome" {
        /// Model steps are used up.
        Steps = 16,
        /// Tool calls are used up.
        ToolCalls = 17,
        /// Working time is used up.
        Active = 18,
        /// Wall time is over.
        Expired = 19,
        /// The run's own budget is used up.
        BudgetRun = 20,
        /// A budget that it shares is used up.
        BudgetShared = 21,
        /// The same calls came again and again.
        Repeated = 22,
        /// The model failed at every attempt.
        Model = 23,
        /// The model's endpoint refuses the request.
        ModelRejected = 24,
        /// The provider withheld the answer.
        Filtered = 25,
        /// The answer was cut at the output limit.
        Truncated = 26,
        /// The answer fails the output schema.
        Invalid = 27,
        /// The context cannot be made to fit.
        ContextOverflow = 28,
        /// The capability set changed.
        CapabilitiesChanged = 29,
        /// No model endpoint was available for too long.
        Outage = 30,
        /// Work under way was lost with its worker too often.
        Interrupted = 31,
    }
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

impl Field for Outcome {
    fn write(&self, w: &mut Writer<'_>) -> Result<(), NoRoom> {
        match self {
            Self::Completed => w.byte(0),
            Self::Cancelled => w.byte(1),
            Self::Failed(failure) => failure.write(w),
        }
    }

    fn read(r: &mut Reader<'_>, name: &'static str) -> Result<Self, Malformed> {
        let mut ahead = r.clone();
        let ended = match ahead.byte()? {
            0 => Self::Completed,
            1 => Self::Cancelled,
            _ => return Failure::read(r, name).map(Self::Failed),
        };
        *r = ahead;
        Ok(ended)
    }
}

choice! {
    /// How a call ended that has no result of its own: the driver writes a notice in its place.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CallOutcome = "call outcome" {
        /// It may have been performed, and may not be tried again.
        Unknown = 0,
        /// It failed at every attempt and changed nothing.
        Failed = 1,
        /// Policy forbids it.
        Forbidden = 2,
        /// A person refused it.
        Denied = 3,
        /// What it waited for did not come in time.
        TimedOut = 4,
        /// The time that it waited for has come.
        TimeReached = 5,
        /// The run ended before it was made.
        NotMade = 6,
        /// A budget does not carry it.
        OverBudget = 7,
    }
}

choice! {
    /// One thing to do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Action = "action" {
        /// Book what was spent, and release the reservation that it was spent under.
        Settle = 1 {
            /// Who spent it.
            spender: Spender,
            /// Tokens, in and out.
            tokens: Tokens,
            /// Money.
            nano_usd: NanoUsd,
            /// Whether nobody knows what it cost, so that this is an estimate.
            uncertain: bool,
        },
        /// Write a notice as a call's result.
        Conclude = 2 {
            /// The call's index within the turn.
            call: u16,
            /// What to say.
            outcome: CallOutcome,
        },
        /// Ask a person: to approve the call, the question that it is, or what its backend wants to know.
        Ask = 3 {
            /// The call's index within the turn.
            call: u16,
        },
        /// Call a tool.
        CallTool = 4 {
            /// The call's index within the turn.
            call: u16,
            /// The attempt, from 1.
            attempt: u16,
        },
        /// Reserve on every shared budget, then report `BudgetGranted` or `BudgetRefused`.
        Reserve = 5 {
            /// For whom.
            spender: Spender,
            /// Tokens, in and out.
            tokens: Tokens,
            /// Money.
            nano_usd: NanoUsd,
        },
        /// Call the model with the input unit and every unit from `from` on.
        CallModel = 6 {
            /// The step, from 1.
            step: u32,
            /// The attempt, from 1.
            attempt: u16,
            /// The endpoint, by its place in the chain.
            endpoint: u8,
            /// First unit that is still in the context.
            from: u32,
            /// Largest reply.
            output: u32,
        },
        /// Nothing is under way but waits: give the run back until mail comes or `until` (0: mail only).
        Suspend = 7 {
            /// When to wake at the latest.
            until: Time,
        },
        /// End whatever is under way and publish the end.
        Finish = 8 {
            /// How it ended.
            outcome: Outcome,
        },
        /// Go on with an attempt that was suspended: its answer came, or it is time to ask after it.
        ResumeCall = 9 {
            /// The call's index within the turn.
            call: u16,
            /// The attempt that was suspended.
            attempt: u16,
        },
        /// Summarise the units from `from` to `through`, then report `Compacted` or `CompactionFailed`.
        Compact = 10 {
            /// The oldest unit.
            from: u32,
            /// The newest unit.
            through: u32,
            /// The attempt, from 1.
            attempt: u16,
            /// Largest summary.
            output: u32,
        },
    }
}

impl Default for Action {
    fn default() -> Self {
        Self::Suspend { until: 0 }
    }
}

/// What one step asks for: of each call at most a settlement, a conclusion and one thing more, and a few things beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions<const CALLS: usize> {
    settled: Array<Action, CALLS>,
    concluded: Array<Action, CALLS>,
    calls: Array<Action, CALLS>,
    others: Array<Action, 6>,
}

impl<const CALLS: usize> Actions<CALLS> {
    /// The actions, in the order in which they are to be performed: settlements, conclusions, calls, the rest.
    pub fn iter(&self) -> impl Iterator<Item = Action> + '_ {
        let others = self.others.as_slice();
        let settles = others.iter().filter(|action| matches!(action, Action::Settle { .. }));
        let rest = others.iter().filter(|action| !matches!(action, Action::Settle { .. }));
        let calls = self.settled.as_slice().iter().chain(self.concluded.as_slice()).chain(self.calls.as_slice());
        settles.chain(calls).chain(rest).copied()
    }

    /// How the run ended, if it did.
    #[must_use]
    pub fn finish(&self) -> Option<Outcome> {
        self.iter().find_map(|action| match action {
            Action::Finish { outcome } => Some(outcome),
            _ => None,
        })
    }

    pub(crate) fn push(&mut self, action: Action) -> Result<(), Full> {
        match action {
            Action::Settle { spender: Spender::Call { .. }, .. } => self.settled.push(action),
            Action::Conclude { .. } => self.concluded.push(action),
            Action::CallTool { .. }
            | Action::ResumeCall { .. }
            | Action::Ask { .. }
            | Action::Reserve { spender: Spender::Call { .. }, .. } => self.calls.push(action),
            Action::Settle { .. }
            | Action::Reserve { .. }
            | Action::CallModel { .. }
            | Action::Compact { .. }
            | Action::Suspend { .. }
            | Action::Finish { .. } => self.others.push(action),
        }
    }
}
