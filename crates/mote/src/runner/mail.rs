//! What clients tell a run under way: cancel, inputs, signals. A signal that nobody waits for yet is kept; an input that
//! nobody asked for is not, lest an old "yes" approve a later call. `waits` refuses most of those before they are mail.

use mote_core::{Call, CallKind, CallState, Event, Phase, Spend, Wait};
use serde_json::Value;

use super::batch::{Occurrence, Step};
use super::drive::{Driver, Stop};
use super::payload::Payload;
use super::{Core, outcome, turn};
use crate::context;
use crate::store::{By, Mail, MailRow};

impl Driver {
    /// Reads mail that has come since, and takes what fits.
    pub(super) async fn read_mail(&mut self) -> Option<Stop> {
        let rows = match self.shared.store.mail(&self.task).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(task_id = self.task, %error, "failed to read mail; trying again with the next");
                return None;
            }
        };
        for row in rows {
            if row.id <= self.mail_seen {
                continue;
            }
            self.mail_seen = row.id;
            match self.occurrence(&row) {
                Some(occurrence) => {
                    let stop = self.happen(vec![occurrence]).await;
                    if stop.is_some() {
                        return stop;
                    }
                }
                None if matches!(row.mail, Mail::Signal { .. }) => self.early.push(row),
                // It goes with the next commit: what fits nothing must not fill the mailbox for what does.
                None => {
                    tracing::info!(task_id = self.task, "an input came that nothing asks for any more; it is dropped");
                    self.dropped.push(row.id);
                }
            }
        }
        let due = self.run.poll_at().is_some_and(|at| at <= self.shared.clock.now_ms());
        if self.run.is_suspended() && !due && self.under_way.is_empty() {
            self.rest().await
        } else if self.dropped.is_empty() {
            None
        } else {
            self.forget_dropped().await
        }
    }

    fn occurrence(&self, row: &MailRow) -> Option<Occurrence> {
        let mut occurrence = match &row.mail {
            Mail::Cancel => {
                let thinking = matches!(self.run.phase(), Phase::Thinking { .. });
                let spend = if thinking { outcome::spend_estimate(self, self.live.len()) } else { Spend::default() };
                Occurrence::new(Event::Cancelled { spend }, Payload::Cancelled { by: row.by.clone() })
            }
            Mail::Signal { name, payload } => signal(&self.run, name, payload, row.by.as_ref())?,
            Mail::Input { call, approve, content } => {
                if row.at < self.turn_began {
                    return None;
                }
                self.input(call.as_deref(), *approve, content.as_ref(), row.by.clone())?
            }
        };
        occurrence.mail = Some(row.id);
        Some(occurrence)
    }

    fn input(
        &self,
        id: Option<&str>,
        approve: Option<bool>,
        content: Option<&Value>,
        by: Option<By>,
    ) -> Option<Occurrence> {
        let asks = |call: &Call| match call.state {
            CallState::Waiting { wait: Wait::Approval, .. } => approve.is_some(),
            // What a backend asks may also be declined.
            CallState::Waiting { wait: Wait::Input, attempt, .. } => {
                content.is_some() || (attempt.is_some() && approve == Some(false))
            }
            _ => false,
        };
        let index = match id {
            Some(id) => self.transcript.call_index(id)?,
            None => u16::try_from(self.run.calls().iter().position(asks)?).ok()?,
        };
        let call = self.run.calls().get(usize::from(index)).filter(|call| asks(call))?;
        let id = self.transcript.call(index)?.id.clone();
        let asked = match call.state {
            CallState::Waiting { wait, .. } => wait,
            _ => return None,
        };
        Some(match (asked, approve) {
            (Wait::Approval, Some(true)) => {
                Occurrence::new(Event::Approved { call: index }, Payload::Approved { call: index, id, by })
            }
            (Wait::Approval, _) | (Wait::Input, Some(false)) if content.is_none() || asked == Wait::Approval => {
                Occurrence::new(
                    Event::Denied { call: index },
                    Payload::Denied { call: index, id, content: content.cloned(), by },
                )
            }
            _ => {
                let content = content?.clone();
                let tokens = context::tokens(content.to_string().len());
                Occurrence::new(
                    Event::Replied { call: index, tokens },
                    Payload::Replied { call: index, id, content, by },
                )
            }
        })
    }

    /// A signal that came early and that the newest of `steps` (or the run) waits for.
    pub(super) fn early_signal(&self, steps: &[Step]) -> Option<Occurrence> {
        let run = steps.last().map_or(&*self.run, |step| &step.run);
        let taken = |row: &&MailRow| !steps.iter().any(|step| step.occurrence.mail == Some(row.id));
        self.early.iter().filter(taken).find_map(|row| {
            let Mail::Signal { name, payload } = &row.mail else { return None };
            let mut occurrence = signal(run, name, payload, row.by.as_ref())?;
            occurrence.mail = Some(row.id);
            Some(occurrence)
        })
    }
}

fn signal(run: &Core, name: &str, payload: &Value, by: Option<&By>) -> Option<Occurrence> {
    let hash = turn::signal_hash(name);
    let waits = |call: &Call| {
        matches!(call.state, CallState::Waiting { wait: Wait::Signal, .. })
            && matches!(call.spec.kind, CallKind::Signal { name, .. } if name == hash)
    };
    let index = u16::try_from(run.calls().iter().position(waits)?).ok()?;
    let tokens = context::tokens(payload.to_string().len());
    Some(Occurrence::new(
        Event::Signalled { call: index, tokens },
        Payload::Signalled { call: index, name: name.to_owned(), payload: payload.clone(), by: by.cloned() },
    ))
}
