//! The text of a run, by the core's unit ids. The same function builds it while the run goes on and when a journal is
//! replayed. It decides nothing: which units are in the context is the core's word.

use std::collections::VecDeque;

use mote_core::{Action, CallOutcome, Event, Finish};

use super::payload::Payload;
use super::{Actions, Core, detail};
use crate::message::{Message, Part, Role};
use crate::tools::{Answer, Resumption};

/// A call of the present turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TurnCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
    result: Option<Part>,
    /// What its tool left when the attempt was suspended, and what a person has said since.
    resumption: Option<Resumption>,
    /// What its backend asks a person.
    pub asks: Option<serde_json::Value>,
}

/// What was said in a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Transcript {
    input: Vec<Message>,
    input_unit: u32,
    units: VecDeque<(u32, Vec<Message>)>,
    next: u32,
    turn: Vec<TurnCall>,
    last: Option<Message>,
}

impl Transcript {
    /// A transcript that begins with the task's input.
    pub(super) fn new(input: Vec<Message>) -> Self {
        Self { input, ..Self::default() }
    }

    /// The task's input.
    pub(super) fn input(&self) -> &[Message] {
        &self.input
    }

    /// The model's last message.
    pub(super) fn last(&self) -> Option<&Message> {
        self.last.as_ref()
    }

    /// A call of the present turn.
    pub(super) fn call(&self, index: u16) -> Option<&TurnCall> {
        self.turn.get(usize::from(index))
    }

    /// The calls of the present turn.
    pub(super) fn calls(&self) -> impl Iterator<Item = &TurnCall> {
        self.turn.iter()
    }

    /// Index of the call with this id in the present turn.
    pub(super) fn call_index(&self, id: &str) -> Option<u16> {
        self.turn.iter().position(|call| call.id == id).and_then(|index| u16::try_from(index).ok())
    }

    /// The context packet: the units from `from` on, with the input at its place.
    pub(super) fn packet(&self, from: u32) -> Vec<Message> {
        let mut packet = Vec::new();
        let mut input = Some(&self.input);
        for (id, messages) in self.units.iter().filter(|(id, _)| *id >= from) {
            if *id > self.input_unit {
                packet.extend(input.take().into_iter().flatten().cloned());
            }
            packet.extend(messages.iter().cloned());
        }
        packet.extend(input.into_iter().flatten().cloned());
        packet
    }

    /// Takes what happened and what the core answered.
    pub(super) fn apply(&mut self, event: &Event<{ super::CALLS }>, payload: &Payload, actions: &Actions, run: &Core) {
        match (event, payload) {
            (Event::Loaded { .. }, Payload::Loaded { message }) => self.push(vec![message.clone()]),
            (Event::Started { .. }, _) => {
                self.input_unit = self.next;
                self.next += 1;
            }
            (Event::ModelReplied { finish, .. }, Payload::ModelReplied { message, refused, feedback, .. }) => {
                // A turn that ended the run before it was taken is no unit of the context.
                let taken = run.context().next() > self.next;
                self.reply(*finish, taken, message, refused, feedback.as_deref());
            }
            (Event::CallAnswered { call, .. }, Payload::CallAnswered { content, is_error, .. }) => {
                self.observe(*call, content.clone(), *is_error);
            }
            (Event::CallSuspended { call, .. }, Payload::CallSuspended { state, asks, .. }) => {
                if let Some(call) = self.turn.get_mut(usize::from(*call)) {
                    call.resumption = Some(Resumption { state: state.clone(), answer: None });
                    call.asks = asks.clone();
                }
            }
            (Event::Approved { call }, _) => self.answer(*call, || Answer::Approved),
            (Event::Denied { call }, Payload::Denied { content, .. }) => {
                self.answer(*call, || Answer::Denied(content.clone()));
            }
            (Event::Replied { call, .. }, Payload::Replied { content, .. }) if self.is_suspended(*call) => {
                self.answer(*call, || Answer::Said(content.clone()));
            }
            (Event::Compacted { through, .. }, Payload::Compacted { summary, .. }) => {
                self.units.retain(|(id, _)| *id > *through);
                self.units.push_front((*through, vec![summary.clone()]));
            }
            (Event::Signalled { call, .. }, Payload::Signalled { payload, .. }) => {
                self.observe(*call, payload.to_string(), false);
            }
            (Event::Replied { call, .. }, Payload::Replied { content, .. }) => {
                let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
                self.observe(*call, text, false);
            }
            _ => {}
        }
        for action in actions.iter() {
            if let Action::CallTool { call, .. } = action
                && let Some(call) = self.turn.get_mut(usize::from(call))
            {
                // A fresh attempt knows nothing of one that was suspended.
                (call.resumption, call.asks) = (None, None);
            }
            if let Action::Conclude { call, outcome } = action {
                let reason = match payload {
                    Payload::CallFailed { message, .. } => Some(message.clone()),
                    Payload::Denied { content, .. } => content.as_ref().map(ToString::to_string),
                    _ => None,
                };
                let named = self.call(call).map(|call| detail::described(&call.name, &call.arguments));
                let told = notice(outcome, named.as_deref(), reason.as_deref());
                self.observe(call, told, outcome != CallOutcome::TimeReached);
            }
        }
        self.close_turn();
        while self.units.front().is_some_and(|(id, _)| *id < run.context().first()) {
            self.units.pop_front();
        }
    }

    /// Whether an attempt at the call is suspended.
    fn is_suspended(&self, call: u16) -> bool {
        self.turn.get(usize::from(call)).is_some_and(|call| call.resumption.is_some())
    }

    /// A person said something to a suspended call's backend.
    fn answer(&mut self, call: u16, said: impl FnOnce() -> Answer) {
        if let Some(resumption) = self.turn.get_mut(usize::from(call)).and_then(|call| call.resumption.as_mut()) {
            resumption.answer = Some(said());
        }
    }

    /// What a suspended call goes on with.
    pub(super) fn resumption(&self, call: u16) -> Option<Resumption> {
        self.call(call).and_then(|call| call.resumption.clone())
    }

    fn reply(
        &mut self,
        finish: Finish,
        taken: bool,
        message: &Message,
        refused: &[super::payload::RefusedCall],
        feedback: Option<&str>,
    ) {
        self.last = Some(message.clone());
        match finish {
            Finish::Calls if taken => {
                self.push(vec![message.clone()]);
                let call = |part: &Part| match part {
                    Part::Call { id, name, arguments, .. } => {
                        let reason = refused.iter().find(|call| call.id == *id).map(|call| call.reason.clone());
                        let result = reason.map(|content| Part::Result { id: id.clone(), content, is_error: true });
                        Some(TurnCall {
                            id: id.clone(),
                            name: name.clone(),
                            arguments: arguments.clone(),
                            result,
                            resumption: None,
                            asks: None,
                        })
                    }
                    _ => None,
                };
                self.turn = message.parts.iter().filter_map(call).collect();
            }
            Finish::Invalid if taken => {
                let feedback = Message::text(Role::User, feedback.unwrap_or_default());
                self.push(vec![message.clone(), feedback]);
            }
            Finish::Calls | Finish::Invalid | Finish::Final | Finish::Length | Finish::Filtered => {}
        }
    }

    fn observe(&mut self, index: u16, content: String, is_error: bool) {
        if let Some(call) = self.turn.get_mut(usize::from(index)) {
            call.result = Some(Part::Result { id: call.id.clone(), content, is_error });
        }
    }

    fn close_turn(&mut self) {
        if self.turn.is_empty() || self.turn.iter().any(|call| call.result.is_none()) {
            return;
        }
        let parts = self.turn.drain(..).filter_map(|call| call.result).collect();
        if let Some((_, messages)) = self.units.back_mut() {
            messages.push(Message { role: Role::Tool, parts });
        }
    }

    fn push(&mut self, messages: Vec<Message>) {
        self.units.push_back((self.next, messages));
        self.next += 1;
    }
}

/// What the model is told in place of a result.
fn notice(outcome: CallOutcome, named: Option<&str>, reason: Option<&str>) -> String {
    let (says, detail) = match outcome {
        CallOutcome::Unknown => {
            let named = named.unwrap_or("the call");
            let says = format!(
                "outcome unknown: {named} may or may not have been performed, and it was not repeated. Find out before you \
                 try again"
            );
            return reason.map_or_else(|| says.clone(), |reason| format!("{says} ({reason})"));
        }
        CallOutcome::Failed => ("the call failed at every attempt and changed nothing", reason),
        CallOutcome::Forbidden => ("the call is forbidden by policy", reason),
        CallOutcome::Denied => ("a person refused this call", reason),
        CallOutcome::TimedOut => ("nothing came before the time-out", None),
        CallOutcome::TimeReached => ("the time has come", None),
        CallOutcome::OverBudget => ("the call was not made: a budget does not carry what it may cost", reason),
        CallOutcome::NotMade => ("the call was not made: the task had ended before, and was resumed since", None),
    };
    detail.map_or_else(|| says.to_owned(), |detail| format!("{says} ({detail})"))
}
