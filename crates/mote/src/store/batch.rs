//! What one commit changes: the parts of a batch. It applies nothing; a backend does.

use serde::{Deserialize, Serialize};

use super::End;
use crate::clock::UnixMs;
use crate::message::Message;
use crate::usage::Usage;

/// One journal entry to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// When.
    pub at: UnixMs,
    /// Event kind for streams and for people (`model.replied`, …).
    pub kind: &'static str,
    /// The core's record: event and actions (`mote_core::journal`).
    pub record: Vec<u8>,
    /// Text that belongs to the event (JSON).
    pub payload: Option<String>,
}

/// A change to the effects table: one row a (task, key).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectOp {
    /// An attempt is about to be made.
    Reserve {
        /// Idempotency key.
        key: String,
        /// Tool name.
        tool: String,
        /// Effect class: `read`, `idempotent`, `write`.
        class: &'static str,
        /// Attempt, from 1.
        attempt: u32,
        /// The model step that asks for it.
        step: u32,
        /// The call's id, as the model gave it.
        call: String,
    },
    /// The attempt's end is known: `done`, `failed` or `unknown`.
    Finalise {
        /// Idempotency key.
        key: String,
        /// `done`, `failed`, `unknown`.
        outcome: &'static str,
    },
}

/// A budget that several runs share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetLine {
    /// What it bounds: `agent`, `tenant:…`, `session:…`, `user:…`; no two owners have the same.
    pub scope: String,
    /// The name that it had in an earlier version: what was spent under that counts, where this one begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub formerly: Option<String>,
    /// Start of the window, ms since the epoch; 0 for a budget without a window.
    pub window_start: UnixMs,
    /// Most nano-USD in the window.
    pub nano_usd_max: Option<u64>,
    /// Most tokens in the window.
    pub tokens_max: Option<u64>,
}

/// Tokens and money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Tokens, in and out.
    pub tokens: u64,
    /// Nano-USD.
    pub nano_usd: u64,
}

/// Who spends in a task: each has at most one reservation open, beside the others'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spender {
    /// The model call of the present step.
    #[default]
    Model,
    /// The summary that makes the context shorter.
    Summary,
    /// A call of the present turn, by its index.
    Call(u16),
}

/// A change to budgets. The open reservations of a task are kept on its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetOp {
    /// Reserve on every line, or refuse the whole commit with [`CommitError::Budget`].
    Reserve {
        /// For whom.
        spender: Spender,
        /// Lines to reserve on; none is allowed (the per-run budget is the core's).
        lines: Vec<BudgetLine>,
        /// How much.
        amount: Amount,
        /// Of its tokens, those for the reply.
        output: u64,
    },
    /// Release the spender's open reservation and book what was spent: on the same lines, in the ledger, on the task and on its
    /// session. Nothing else changes what these say was spent.
    Settle(Spending),
}

/// What was spent, or is taken to have been spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spending {
    /// Who spent it.
    pub spender: Spender,
    /// The step.
    pub step: u32,
    /// The model that it was spent on; `unknown` where nobody knows which was asked.
    pub model: String,
    /// Tokens by kind.
    pub usage: Usage,
    /// Nano-USD.
    pub nano_usd: u64,
    /// Whether nobody said what it cost, so that this is an estimate.
    pub uncertain: bool,
}

/// What calls are taken to have cost of which nobody said it: lost with their worker, cut off, or failed without a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncertain {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Nano-USD.
    pub nano_usd: u64,
}

/// What a task spent, known and uncertain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Tokens at a known cost.
    pub usage: Usage,
    /// Known cost, nano-USD.
    pub nano_usd: u64,
    /// What nobody knows.
    pub uncertain: Uncertain,
}

impl Account {
    /// Adds what a call cost.
    pub fn book(&mut self, spending: &Spending) {
        if spending.uncertain {
            let uncertain = &mut self.uncertain;
            uncertain.input = uncertain.input.saturating_add(spending.usage.input);
            uncertain.output = uncertain.output.saturating_add(spending.usage.output);
            uncertain.nano_usd = uncertain.nano_usd.saturating_add(spending.nano_usd);
        } else {
            self.usage.add(&spending.usage);
            self.nano_usd = self.nano_usd.saturating_add(spending.nano_usd);
        }
    }
}

/// Where a commit leaves the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusChange {
    /// Under way.
    Running,
    /// Waiting; the lease is released and the task is claimable from `wake_at`, or when it has unread mail that is newer
    /// than `mail_seen`. Older unread mail (a signal that came before anybody waited for it) stays and wakes nobody.
    Waiting {
        /// When to wake at the latest.
        wake_at: Option<UnixMs>,
        /// What it waits for (JSON).
        waiting: String,
        /// Newest mail row that this worker has read; 0 if none.
        mail_seen: i64,
    },
    /// Terminal. The lease and every open reservation are released.
    Finished(End),
}

/// A message for a sink, written in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// Unique id (the CloudEvents id).
    pub id: String,
    /// The body as it will be sent (JSON).
    pub body: String,
}

/// What a finished turn adds to its session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionTurn {
    /// Messages of the turn, oldest first.
    pub messages: Vec<Message>,
}

/// What one commit changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Journal entries, in order.
    pub entries: Vec<NewEntry>,
    /// Effects.
    pub effects: Vec<EffectOp>,
    /// Budgets, in order.
    pub budget: Vec<BudgetOp>,
    /// Mail that these events consumed.
    pub mail_consumed: Vec<i64>,
    /// Messages for sinks.
    pub outbox: Vec<OutboxMessage>,
    /// Turn to append to the session, on finishing.
    pub session: Option<SessionTurn>,
    /// Where the task then stands.
    pub status: StatusChange,
    /// Totals on the task's row after this commit.
    pub totals: Totals,
}

/// Running totals on a task's row. What was spent is not among them: [`BudgetOp::Settle`] adds it up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Model steps.
    pub steps: u32,
    /// Tool calls.
    pub tool_calls: u32,
}

/// One commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The task.
    pub task: String,
    /// The epoch under which the caller holds it.
    pub epoch: u64,
    /// Sequence number of the last entry that the caller knows.
    pub expected_seq: u64,
    /// When.
    pub now: UnixMs,
    /// What changes.
    pub batch: Batch,
}
