//! What may happen to a run. It does not say what follows; [`crate::Run::step`] does.

use crate::{Array, Cost, Limits, Millis, Spend, Time};

choice! {
    /// What repeating a tool call means.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Effect = "effect" {
        /// May be retried and repeated freely.
        #[default]
        Read = 0,
        /// Retried with the same key while the backend remembers it.
        Idempotent = 1,
        /// Never retried once it may have reached the backend.
        Write = 2,
    }
}

choice! {
    /// What a call waits for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Wait = "wait" {
        /// A person's yes or no.
        Approval = 0,
        /// A person's answer.
        Input = 1,
        /// A named signal.
        Signal = 2,
        /// A time.
        Time = 3,
        /// Work elsewhere that takes its time: asked after at the wait's end, or when it is said to have moved.
        Remote = 4,
    }
}

choice! {
    /// What a call asks for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CallKind = "call" {
        /// A tool with a backend.
        Tool = 0 {
            /// Effect class.
            effect: Effect,
            /// How long the backend remembers an idempotency key; `u64::MAX` is for ever.
            key_ttl_ms: Millis,
            /// Whether a person must approve it first.
            approval: bool,
        },
        /// Unknown tool or invalid arguments: the driver has the answer already, nothing is performed.
        Rejected = 1 {
            /// Size of that answer.
            tokens: u32,
        },
        /// Waits for a named signal.
        Signal = 2 {
            /// Hash of the name.
            name: u64,
            /// When to give up; 0 is never.
            until: Time,
        },
        /// Waits for a time.
        Timer = 3 {
            /// When.
            at: Time,
        },
        /// Asks a person.
        Question = 4 {
            /// When to give up; 0 is never.
            until: Time,
        },
    }
}

impl Default for CallKind {
    fn default() -> Self {
        Self::Rejected { tokens: 0 }
    }
}

structure! {
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
        /// What an attempt may cost at most, for a tool that spends (another agent): it is reserved before the attempt.
        /// Nothing for a tool that is free.
        pub reserve: Spend,
    }
}

choice! {
    /// Who spends: each has a reservation of its own, open beside the others'.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Spender = "spender" {
        /// The model call of the present step.
        Model = 0,
        /// The summary that makes the context shorter.
        Summary = 1,
        /// A call of the present turn.
        Call = 2 {
            /// Its index within the turn.
            call: u16,
        },
    }
}

choice! {
    /// How a model's reply ended.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Finish = "finish" {
        /// A final answer that is valid.
        Final = 0,
        /// A final answer that fails the output schema; the unit's size includes the feedback for the model.
        Invalid = 1,
        /// Calls of tools.
        Calls = 2,
        /// Cut at the output limit.
        Length = 3,
        /// Withheld by the provider.
        Filtered = 4,
    }
}

choice! {
    /// What is known of a failed model call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum ModelFailure = "model failure" {
        /// A reply came that is of no use: a broken stream, a malformed event, nothing said.
        Transient = 0,
        /// The context is longer than the model takes.
        ContextLength = 1,
        /// The same request will fail again.
        Rejected = 2,
        /// No reply came: unreachable, overloaded, rate limited, failing.
        Unavailable = 3,
    }
}

choice! {
    /// What is known of an attempt at a tool call that gave no answer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CallFailure = "call failure" {
        /// The backend was not reached, or said that it did nothing.
        NotPerformed = 0,
        /// It may have been performed.
        Unknown = 1,
        /// Policy forbids it.
        Forbidden = 2,
    }
}

choice! {
    /// What became of the capability set while a run rested.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Change = "change" {
        /// The agent says that runs go on, and no pending call's tool changed.
        Continue = 0,
        /// The agent says that runs fail.
        Fail = 1,
        /// A pending call's tool changed or is gone.
        PendingCall = 2,
    }
}

events! {
    /// First of all: the bounds, and the digest of the capability set.
    Opened = 1 "run.opened" public {
        /// Version of the state machine that opens it: [`crate::journal::CORE`].
        core: u16,
        /// Bounds.
        limits: Limits,
        /// SHA-256 of the agent's capability set.
        digest: [u8; 32],
    },
    /// A unit of an earlier turn of the session was loaded, oldest first.
    Loaded = 2 "session.loaded" public {
        /// Its size.
        tokens: u32,
    },
    /// The task's input is in place: begin.
    Started = 3 "run.started" public {
        /// Its size.
        tokens: u32,
    },
    /// A reservation that the run asked for holds on every shared budget.
    BudgetGranted = 4 "budget.granted" public {
        /// Whose.
        spender: Spender,
        /// For the model: the endpoints whose circuits let a call through, a bit each by their place in the chain.
        available: u16,
    },
    /// A shared budget refused a reservation.
    BudgetRefused = 5 "budget.refused" public {
        /// Whose.
        spender: Spender,
    },
    /// The model replied.
    ModelReplied = 6 "model.replied" public {
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
    ModelFailed = 7 "model.failed" public {
        /// What is known.
        failure: ModelFailure,
        /// What it cost all the same.
        cost: Cost,
        /// What the endpoint asked for.
        retry_after_ms: u32,
        /// 16 random bits for the back-off.
        jitter: u16,
        /// The endpoints whose circuits let a call through now.
        available: u16,
    },
    /// A tool answered.
    CallAnswered = 8 "call.answered" public {
        /// The call's index within the turn.
        call: u16,
        /// Size of the result.
        tokens: u32,
        /// Whether the answer is an error.
        is_error: bool,
        /// What it cost, where the tool spends.
        cost: Cost,
    },
    /// An attempt at a tool call gave no answer.
    CallFailed = 9 "call.failed" public {
        /// The call's index within the turn.
        call: u16,
        /// What is known.
        failure: CallFailure,
        /// What the backend asked for.
        retry_after_ms: u32,
        /// 16 random bits for the back-off.
        jitter: u16,
        /// What it cost, where the tool spends.
        cost: Cost,
    },
    /// An attempt under way goes on by itself, or cannot go on before somebody answers: the run need not hold it.
    CallSuspended = 10 "call.suspended" public {
        /// The call's index within the turn.
        call: u16,
        /// For what: [`Wait::Approval`] and [`Wait::Input`] ask a person, [`Wait::Remote`] asks nobody.
        wait: Wait,
        /// For a person, when to give up, 0 is never. For work elsewhere, when to ask after it, 0 is not before it is
        /// [`Event::CallWoken`].
        until: Time,
    },
    /// What a suspended call waits for has moved.
    CallWoken = 11 "call.woken" public {
        /// The call's index within the turn.
        call: u16,
    },
    /// A time that [`crate::Run::poll_at`] named has come.
    TimerFired = 12 "timer.fired" public,
    /// A signal that a call waits for arrived.
    Signalled = 13 "signal.received" public {
        /// The call's index within the turn.
        call: u16,
        /// Size of its payload.
        tokens: u32,
    },
    /// A person approved a call.
    Approved = 14 "call.approved" public {
        /// The call's index within the turn.
        call: u16,
    },
    /// A person refused a call.
    Denied = 15 "call.denied" public {
        /// The call's index within the turn.
        call: u16,
    },
    /// A person answered a question.
    Replied = 16 "input.received" public {
        /// The call's index within the turn.
        call: u16,
        /// Size of the answer.
        tokens: u32,
    },
    /// The oldest units were summarised.
    Compacted = 17 "context.compacted" public {
        /// The newest unit that the summary stands for.
        through: u32,
        /// Size of the summary.
        tokens: u32,
        /// What it cost.
        cost: Cost,
    },
    /// The summary failed.
    CompactionFailed = 18 "context.compaction_failed" public {
        /// What it cost all the same.
        cost: Cost,
        /// What the endpoint asked for.
        retry_after_ms: u32,
        /// 16 random bits for the back-off.
        jitter: u16,
        /// Whether another attempt is of no use.
        last: bool,
    },
    /// A client cancels the run.
    Cancelled = 19 "run.cancelled" public {
        /// What a model call under way is taken to have cost.
        spend: Spend,
    },
    /// Another worker took over: whatever was under way is lost.
    Recovered = 20 "run.recovered" public,
    /// The capability set is another than before.
    Rebound = 21 "run.rebound" public {
        /// Digest of the new one.
        digest: [u8; 32],
        /// What the agent says about that.
        change: Change,
    },
    /// A person lets a run that failed or was cancelled go on from its last good step, or gives one that is under way new
    /// bounds. What was spent and done goes on counting; working time begins anew.
    Resumed = 22 "run.resumed" public {
        /// The bounds from here on.
        limits: Limits,
        /// SHA-256 of the agent's capability set as it is now.
        digest: [u8; 32],
    },
}
