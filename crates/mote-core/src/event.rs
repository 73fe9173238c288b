//! What may happen to a run. It does not say what follows; [`crate::Run::step`] does.

use crate::{Array, Limits, Millis, Spend, Time};

/// What repeating a tool call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effect {
    /// May be retried and repeated freely.
    #[default]
    Read,
    /// Retried with the same key while the backend remembers it.
    Idempotent,
    /// Never retried once it may have reached the backend.
    Write,
}

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// A tool with a backend.
    Tool {
        /// Effect class.
        effect: Effect,
        /// How long the backend remembers an idempotency key; `u64::MAX` is for ever.
        key_ttl_ms: Millis,
        /// Whether a person must approve it first.
        approval: bool,
    },
    /// Unknown tool or invalid arguments: the driver has the answer already, nothing is performed.
    Rejected {
        /// Size of that answer.
        tokens: u32,
    },
    /// Waits for a named signal.
    Signal {
        /// Hash of the name.
        name: u64,
        /// When to give up; 0 is never.
        until: Time,
    },
    /// Waits for a time.
    Timer {
        /// When.
        at: Time,
    },
    /// Asks a person.
    Question {
        /// When to give up; 0 is never.
        until: Time,
    },
}

impl Default for CallKind {
    fn default() -> Self {
        Self::Rejected { tokens: 0 }
    }
}

/// One call of an assistant message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallSpec {
    /// What it asks for.
    pub kind: CallKind,
    /// Digest of the tool's binding: tells whether a resumed run still means the same tool.
    pub tool: u64,
    /// Digest of tool and canonical arguments: tells whether a turn repeats.
    pub digest: u64,
    /// Bound on one attempt, for the driver.
    pub timeout_ms: u32,
}

/// How a model's reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A final answer that is valid.
    Final,
    /// A final answer that fails the output schema; the unit's size includes the feedback for the model.
    Invalid,
    /// Calls of tools.
    Calls,
    /// Cut at the output limit.
    Length,
    /// Withheld by the provider.
    Filtered,
}

/// What is known of a failed model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelFailure {
    /// A reply came that is of no use: a broken stream, a malformed event, nothing said.
    Transient,
    /// The context is longer than the model takes.
    ContextLength,
    /// The same request will fail again.
    Rejected,
    /// No reply came: unreachable, overloaded, rate limited, failing.
    Unavailable,
}

/// What is known of an attempt at a tool call that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// The backend was not reached, or said that it did nothing.
    NotPerformed,
    /// It may have been performed.
    Unknown,
    /// Policy forbids it.
    Forbidden,
}

/// What became of the capability set while a run rested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The agent says that runs go on, and no pending call's tool changed.
    Continue,
    /// The agent says that runs fail.
    Fail,
    /// A pending call's tool changed or is gone.
    PendingCall,
}

/// What happened. `CALLS` is the most calls that one turn may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<const CALLS: usize> {
    /// First of all: the bounds, and the digest of the capability set.
    Opened {
        /// Bounds.
        limits: Limits,
        /// SHA-256 of the agent's capability set.
        digest: [u8; 32],
    },
    /// A unit of an earlier turn of the session was loaded, oldest first.
    Loaded {
        /// Its size.
        tokens: u32,
    },
    /// The task's input is in place: begin.
    Started {
        /// Its size.
        tokens: u32,
    },
    /// The reservation that the run asked for holds on every shared budget.
    BudgetGranted,
    /// A shared budget refused it.
    BudgetRefused,
    /// The model replied.
    ModelReplied {
        /// What it used and cost.
        spend: Spend,
        /// Size of the message (with feedback, if invalid).
        tokens: u32,
        /// How it ended.
        finish: Finish,
        /// Its calls, in order. Calls beyond the limit are answered by the driver and not in here.
        calls: Array<CallSpec, CALLS>,
    },
    /// The model did not reply.
    ModelFailed {
        /// What is known.
        failure: ModelFailure,
        /// What it cost all the same.
        spend: Spend,
        /// Whether nobody said what it cost, so that `spend` is an estimate.
        uncertain: bool,
        /// Place of the endpoint in its chain, from 0.
        endpoint: u8,
        /// What the endpoint asked for.
        retry_after_ms: u32,
        /// 16 random bits for the back-off.
        jitter: u16,
        /// Whether another endpoint may be tried at once.
        alternative: bool,
    },
    /// A tool answered.
    CallAnswered {
        /// The call's index within the turn.
        call: u16,
        /// Size of the result.
        tokens: u32,
        /// Whether the answer is an error.
        is_error: bool,
    },
    /// An attempt at a tool call gave no answer.
    CallFailed {
        /// The call's index within the turn.
        call: u16,
        /// What is known.
        failure: CallFailure,
        /// What the backend asked for.
        retry_after_ms: u32,
        /// 16 random bits for the back-off.
        jitter: u16,
    },
    /// A time that [`crate::Run::poll_at`] named has come.
    TimerFired,
    /// A signal that a call waits for arrived.
    Signalled {
        /// The call's index within the turn.
        call: u16,
        /// Size of its payload.
        tokens: u32,
    },
    /// A person approved a call.
    Approved {
        /// The call's index within the turn.
        call: u16,
    },
    /// A person refused a call.
    Denied {
        /// The call's index within the turn.
        call: u16,
    },
    /// A person answered a question.
    Replied {
        /// The call's index within the turn.
        call: u16,
        /// Size of the answer.
        tokens: u32,
    },
    /// A client cancels the run.
    Cancelled {
        /// What a model call under way is taken to have cost.
        spend: Spend,
    },
    /// Another worker took over: whatever was under way is lost.
    Recovered,
    /// The capability set is another than before.
    Rebound {
        /// Digest of the new one.
        digest: [u8; 32],
        /// What the agent says about that.
        change: Change,
    },
    /// A person lets a run that failed or was cancelled go on from its last good step, or gives one that is under way new
    /// bounds. What was spent and done goes on counting; working time begins anew.
    Resumed {
        /// The bounds from here on.
        limits: Limits,
        /// SHA-256 of the agent's capability set as it is now.
        digest: [u8; 32],
    },
}
