//! Turns one step of the core into what the store commits: journal entries, effects, budgets, status. A pure mapping; it
//! neither commits nor performs.

use mote_core::{Action, CallKind, CallOutcome, Effect, Event, journal};
use serde_json::json;

use super::detail::Ending;
use super::drive::Driver;
use super::ending::ModelSaid;
use super::payload::{Payload, UnknownCall};
use super::transcript::TurnCall;
use super::waits::Kind;
use super::{Actions, CALLS, Core, CoreEvent, Shared, account, ending, turn};
use crate::arguments;
use crate::clock::UnixMs;
use crate::cloudevent::{OutcomeUnknown, Waiting};
use crate::config::Windowed;
use crate::limits::CONTEXT_UNITS;
use crate::message::{Message, Role};
use crate::store::{
    Amount, Batch, BudgetLine, BudgetOp, EffectOp, End, NewEntry, Owner, SessionTurn, Spender, Spending, Status,
    StatusChange, Totals,
};

/// One event with its text, and the mail that it came from.
pub(super) struct Occurrence {
    pub event: CoreEvent,
    pub payload: Payload,
    pub mail: Option<i64>,
}

impl Occurrence {
    pub(super) fn new(event: CoreEvent, payload: Payload) -> Self {
        Self { event, payload, mail: None }
    }
}

/// One step taken, not yet durable.
pub(super) struct Step {
    pub occurrence: Occurrence,
    pub actions: Actions,
    /// The run after the step.
    pub run: Core,
    /// What it spent.
    pub spending: Vec<Spending>,
}

/// The empty batch that leaves a run under way.
pub(super) fn empty() -> Batch {
    Batch {
        entries: Vec::new(),
        effects: Vec::new(),
        budget: Vec::new(),
        mail_consumed: Vec::new(),
        outbox: Vec::new(),
        session: None,
        status: StatusChange::Running,
        totals: Totals::default(),
    }
}

impl Driver {
    /// The batch of `steps`, taken at `now`.
    pub(super) fn batch(&self, steps: &[Step], now: UnixMs) -> Batch {
        let mut batch = empty();
        batch.mail_consumed.extend(&self.dropped);
        // The step may close the turn and open the next one: its calls are of the model step before.
        let mut turn = self.run.steps();
        for (index, step) in steps.iter().enumerate() {
            batch.entries.push(self.entry(step, now));
            batch.mail_consumed.extend(step.occurrence.mail);
            self.effects(step, &mut batch);
            batch.budget.extend(step.spending.iter().cloned().map(BudgetOp::Settle));
            for action in step.actions.iter() {
                match action {
                    // What the same commit makes true; a reservation that the next worker is left with is asked for again.
                    Action::Reserve { spender, tokens, nano_usd } if granted(&steps[index + 1..], spender) => {
                        let (lines, spender) = (lines(&self.shared, &self.owner, now), account::stored(spender));
                        let output = reserved_output(&step.run, spender);
                        let amount = Amount { tokens, nano_usd };
                        batch.budget.push(BudgetOp::Reserve { spender, lines, amount, output });
                    }
                    Action::Conclude { call, outcome: CallOutcome::Unknown } => {
                        self.publish_unknown(turn, call, now, &mut batch);
                    }
                    _ => {}
                }
            }
            turn = step.run.steps();
        }
        let run = steps.last().map_or(&*self.run, |step| &step.run);
        batch.totals = Totals { steps: run.steps(), tool_calls: run.tool_calls() };
        match steps.last() {
            Some(last) => {
                batch.status = self.status(last);
                self.publish(last, now, &mut batch);
            }
            // Nothing happened: a run goes back to rest, or mail is dropped.
            None if run.is_suspended() => batch.status = self.at_rest(run, None),
            None => {}
        }
        batch
    }

    fn effects(&self, step: &Step, batch: &mut Batch) {
        let (event, run) = (&step.occurrence.event, &step.run);
        if let Event::CallAnswered { call, is_error, .. } = event {
            // The turn may have been closed by this very step; the key is known from before it.
            let outcome = if *is_error { "failed" } else { "done" };
            batch.effects.extend(self.key(*call).map(|key| EffectOp::Finalise { key, outcome }));
        }
        for action in step.actions.iter() {
            match action {
                Action::CallTool { call, attempt } => {
                    let class = match run.calls().get(usize::from(call)).map(|call| call.spec.kind) {
                        Some(CallKind::Tool { effect: Effect::Idempotent, .. }) => "idempotent",
                        Some(CallKind::Tool { effect: Effect::Write, .. }) => "write",
                        _ => "read",
                    };
                    let named = self.named_call(step, call);
                    if let Some((key, tool, call)) = named {
                        let (attempt, step) = (attempt.into(), run.steps());
                        batch.effects.push(EffectOp::Reserve { key, tool, class, attempt, step, call });
                    }
                }
                Action::Conclude { call, outcome } => {
                    let outcome = ending::effect_outcome(outcome);
                    batch.effects.extend(self.key(call).map(|key| EffectOp::Finalise { key, outcome }));
                }
                _ => {}
            }
        }
    }

    /// Key, tool and id of a call that `step` asks for; the turn may have begun in this very step.
    fn named_call(&self, step: &Step, call: u16) -> Option<(String, String, String)> {
        if let Payload::ModelReplied { message, .. } = &step.occurrence.payload {
            let (id, name, arguments) = message.calls().nth(usize::from(call))?;
            let key = self.call_key(step.run.steps(), call, name, arguments)?;
            return Some((key, name.to_owned(), id.to_owned()));
        }
        let named = self.transcript.call(call)?;
        let key = self.call_key(step.run.steps(), call, &named.name, &named.arguments)?;
        Some((key, named.name.clone(), named.id.clone()))
    }

    fn status(&self, last: &Step) -> StatusChange {
        if let Some(outcome) = last.actions.finish() {
            let Ending { status, error, .. } = self.ending(outcome, last);
            let result = (status == Status::Completed)
                .then(|| self.final_message(last).map(|message| turn::result(&self.shared, message)))
                .flatten();
            return StatusChange::Finished(End { status, result, error, dead: false });
        }
        if last.run.is_suspended() {
            return self.at_rest(&last.run, Some(&last.occurrence.payload));
        }
        StatusChange::Running
    }

    fn at_rest(&self, run: &Core, payload: Option<&Payload>) -> StatusChange {
        StatusChange::Waiting { wake_at: run.poll_at(), waiting: self.waiting(run, payload), mail_seen: self.mail_seen }
    }

    fn final_message<'a>(&'a self, last: &'a Step) -> Option<&'a Message> {
        match &last.occurrence.payload {
            Payload::ModelReplied { message, .. } => Some(message),
            _ => self.transcript.last(),
        }
    }

    /// How the model last failed, this step included.
    pub(super) fn last_failure(&self, last: &Step) -> Option<ModelSaid> {
        ModelSaid::of(&last.occurrence.payload).or_else(|| self.failure.clone())
    }

    pub(super) fn scope(&self, last: &Step) -> Option<String> {
        match &last.occurrence.payload {
            Payload::BudgetRefused { scope, .. } => Some(scope.clone()),
            _ => None,
        }
    }

    /// What the task waits for, for its clients.
    fn waiting(&self, run: &Core, payload: Option<&Payload>) -> String {
        let calls: Vec<(String, String, String)> = match payload {
            Some(Payload::ModelReplied { message, .. }) => {
                message.calls().map(|(id, name, args)| (id.to_owned(), name.to_owned(), args.to_owned())).collect()
            }
            _ => self.transcript.calls().map(|c| (c.id.clone(), c.name.clone(), c.arguments.clone())).collect(),
        };
        let time = |until: u64| (until != 0).then(|| crate::timestamp::format_rfc3339(until));
        if let mote_core::Phase::BackingOff { until, .. } = run.phase() {
            let reason = match run.interruptions() {
                0 => payload
                    .and_then(ModelSaid::of)
                    .or_else(|| self.failure.clone())
                    .map(|said| said.message().to_owned()),
                lost => Some(format!("the task's worker ended during the call, {lost} times in a row")),
            };
            let wait = json!({
                "call": "", "kind": "model", "tool": "", "arguments": {}, "until": time(until), "answer": null,
                "reason": reason,
            });
            return serde_json::Value::Array(vec![wait]).to_string();
        }
        let waits = run.calls().iter().zip(calls).filter_map(|(call, (id, name, arguments))| {
            let arguments = arguments::read(&arguments).map(serde_json::Value::Object).unwrap_or_default();
            let (kind, until) = match call.state {
                mote_core::CallState::BackingOff { until, .. } => (Kind::Retry, until),
                mote_core::CallState::Waiting { wait, until, .. } => (Kind::of(wait), until),
                mote_core::CallState::Queued
                | mote_core::CallState::Reserving(_)
                | mote_core::CallState::Running(_)
                | mote_core::CallState::Ready(_)
                | mote_core::CallState::Done => return None,
            };
            let (until, answer) = (time(until), kind.answer(&self.task, &id, &arguments));
            let mut wait = json!({
                "call": id, "kind": kind, "tool": name, "arguments": arguments, "until": until, "answer": answer,
            });
            // What a backend asks; a question of the model's own stands in its arguments.
            if let Some(asks) = self.asks_of(&id, payload) {
                wait["asks"] = asks;
            }
            Some(wait)
        });
        serde_json::Value::Array(waits.collect()).to_string()
    }

    /// What the backend of a suspended call asks a person.
    fn asks_of(&self, id: &str, payload: Option<&Payload>) -> Option<serde_json::Value> {
        if let Some(Payload::CallSuspended { id: suspended, asks, .. }) = payload
            && suspended == id
        {
            return asks.clone();
        }
        self.transcript.calls().find(|call| call.id == id).and_then(|call| call.asks.clone())
    }

    fn publish(&self, last: &Step, now: UnixMs, batch: &mut Batch) {
        if let StatusChange::Waiting { waiting, .. } = &batch.status {
            let waiting = Waiting {
                task: &self.task,
                owner: &self.owner,
                epoch: self.held.epoch,
                seq: self.seq + batch.entries.len() as u64,
                waiting,
            };
            let events = self.shared.agent.events.is_some();
            batch.outbox.extend(events.then(|| waiting.message(&self.shared.agent.name, now)).flatten());
        }
        let StatusChange::Finished(End { status, .. }) = &batch.status else { return };
        if self.owner.session.is_some() && *status == Status::Completed {
            let mut messages = self.transcript.input().to_vec();
            // Tools and reasoning of the turn stay with the task; the session keeps what was said.
            messages.extend(self.final_message(last).map(|said| Message::text(Role::Assistant, said.plain_text())));
            batch.session = Some(SessionTurn { messages });
        }
    }

    fn entry(&self, step: &Step, now: UnixMs) -> NewEntry {
        let mut buffer = [0; journal::record_bytes_max(CALLS)];
        let record = match journal::encode(now, &step.occurrence.event, &step.actions, &mut buffer) {
            Ok(len) => buffer[..len].to_vec(),
            // Cannot be: the buffer holds the largest record. An empty record would be refused on replay, not misread.
            Err(journal::NoRoom) => Vec::new(),
        };
        let payload = step.occurrence.payload.to_json_with(&step.spending, &self.unknown_calls(step));
        NewEntry { at: now, kind: step.occurrence.payload.kind().name(), record, payload }
    }

    /// The calls whose outcome stays unknown with this step.
    fn unknown_calls(&self, step: &Step) -> Vec<UnknownCall> {
        let unknown = |action| match action {
            Action::Conclude { call, outcome: CallOutcome::Unknown } => self.transcript.call(call),
            _ => None,
        };
        let named = |call: &TurnCall| UnknownCall { id: call.id.clone(), tool: call.name.clone() };
        step.actions.iter().filter_map(unknown).map(named).collect()
    }

    /// Tells the sink of a call whose outcome nobody knows.
    fn publish_unknown(&self, step: u32, call: u16, now: UnixMs, batch: &mut Batch) {
        let events = self.shared.agent.events.is_some();
        let Some(known) = self.transcript.call(call).filter(|_| events) else { return };
        let unknown = OutcomeUnknown {
            task: &self.task,
            owner: &self.owner,
            step,
            call: &known.id,
            tool: &known.name,
            lives: self.lives,
            arguments: Some(&known.arguments),
        };
        batch.outbox.push(unknown.message(&self.shared.agent.name, now));
    }
}

/// Whether one of `steps` grants what the spender asked for.
fn granted(steps: &[Step], spender: mote_core::Spender) -> bool {
    let grants =
        |step: &Step| matches!(step.occurrence.event, Event::BudgetGranted { spender: whose, .. } if whose == spender);
    steps.iter().any(grants)
}

/// Of what a spender reserves, the tokens for what it writes.
fn reserved_output(run: &Core, spender: Spender) -> u64 {
    match spender {
        Spender::Model => run.budget().model_reservation().output,
        Spender::Summary => run.budget().summary_reservation().output,
        Spender::Call(call) => run.calls().get(usize::from(call)).map_or(0, |call| call.spec.reserve.output),
    }
}

/// The shared budgets of a run, at `now`.
pub(super) fn lines(shared: &Shared, owner: &Owner, now: UnixMs) -> Vec<BudgetLine> {
    let budgets = &shared.agent.budget;
    let windowed = |scope: String, windowed: &Windowed| {
        let every = super::request::millis(windowed.every).max(1);
        BudgetLine {
            scope,
            formerly: None,
            window_start: now - now % every,
            nano_usd_max: windowed.bound.nano_usd,
            tokens_max: windowed.bound.tokens,
        }
    };
    let tenant = &owner.tenant;
    let mut lines = Vec::new();
    lines.extend(budgets.agent.as_ref().map(|bound| windowed("agent".into(), bound)));
    lines.extend(budgets.per_tenant.as_ref().map(|bound| windowed(format!("tenant:{tenant}"), bound)));
    if let (Some(bound), Some(user)) = (&budgets.per_user, &owner.user) {
        let (scope, formerly) = scope_within("user", tenant, user);
        lines.push(BudgetLine { formerly, ..windowed(scope, bound) });
    }
    if let (Some(bound), Some(session)) = (&budgets.per_session, &owner.session) {
        let (scope, formerly) = scope_within("session", tenant, session);
        let (nano_usd_max, tokens_max) = (bound.nano_usd, bound.tokens);
        lines.push(BudgetLine { scope, formerly, window_start: 0, nano_usd_max, tokens_max });
    }
    lines
}

/// The scope of a name within a tenant, and what it was called while a colon in the tenant's name was left as it is: with
/// that, tenant `a` and user `b:c` had one budget with tenant `a:b` and user `c`.
fn scope_within(kind: &str, tenant: &str, name: &str) -> (String, Option<String>) {
    let plain = format!("{kind}:{tenant}:{name}");
    if !tenant.contains([':', '%']) {
        return (plain, None);
    }
    let tenant = tenant.replace('%', "%25").replace(':', "%3A");
    (format!("{kind}:{tenant}:{name}"), Some(plain))
}

/// Most units of session history that a run loads: the ring less room for the run's own turns.
pub(super) const HISTORY_UNITS_MAX: usize = CONTEXT_UNITS / 2;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::scope_within;

    #[test]
    fn no_two_owners_share_a_scope() {
        let owners = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a%", "3Ab:c"), ("", "a:b"), ("", ":a"), (":", "a")];
        let scopes: BTreeSet<String> =
            owners.iter().map(|(tenant, user)| scope_within("user", tenant, user).0).collect();
        assert_eq!(scopes.len(), owners.len(), "{scopes:?}");
    }

    #[test]
    fn an_ordinary_name_keeps_the_scope_that_it_had_and_another_says_which_it_had() {
        assert_eq!(scope_within("session", "acme", "s:1"), ("session:acme:s:1".to_owned(), None));
        let expected = ("session:a%3Ab:s".to_owned(), Some("session:a:b:s".to_owned()));
        assert_eq!(scope_within("session", "a:b", "s"), expected);
    }
}
