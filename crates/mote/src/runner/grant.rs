//! Reservations in steps: stepped through as granted, committed with the grant, and stepped anew where it is refused.

use mote_core::{Event, Phase};

use super::batch::{Occurrence, Step};
use super::drive::{Driver, Stop, step_from};
use super::payload::Payload;
use super::{account, detail};
use crate::clock::UnixMs;
use crate::store::{self, CommitError};

impl Driver {
    /// A shared budget refused: the same again, with a refusal in the place of the grant that it does not carry. Each round
    /// refuses one more.
    pub(super) async fn refuse(
        &mut self,
        mut steps: Vec<Step>,
        mut scope: String,
        mut spender: store::Spender,
        now: UnixMs,
    ) -> Result<Vec<Step>, Option<Stop>> {
        let mut refused = Vec::new();
        loop {
            let whose = account::of_store(spender);
            let needs = detail::reserved(&steps, whose);
            let short = detail::short(&self.shared, &self.owner, needs, &scope).await;
            let told = (spender != store::Spender::Model).then_some(spender);
            refused.push((whose, Payload::BudgetRefused { scope, short, spender: told }));
            // What came of the grants is not true: they end here, and what happened is stepped anew.
            let asked = |step: &Step| {
                matches!(step.occurrence.event, Event::BudgetGranted { .. } | Event::BudgetRefused { .. })
            };
            let occurrences = steps.into_iter().filter(|step| !asked(step)).map(|step| step.occurrence).collect();
            steps = match self.step_all(occurrences, &refused, now) {
                Ok(steps) => steps,
                Err(refusal) => return Err(self.refused(refusal).await),
            };
            match self.commit(&steps, now).await {
                Ok(()) => return Ok(steps),
                Err(CommitError::Budget { scope: again, spender: whom }) => (scope, spender) = (again, whom),
                Err(error) => return Err(Some(self.lost(&error))),
            }
        }
    }

    /// Steps through `occurrences`, through early signals that a new wait takes, and through the grants of reservations,
    /// which the commit itself makes true or refuses; `refused` are those of which that is known.
    pub(super) fn step_all(
        &self,
        occurrences: Vec<Occurrence>,
        refused: &[(mote_core::Spender, Payload)],
        now: UnixMs,
    ) -> Result<Vec<Step>, mote_core::Refusal> {
        let mut steps = step_from(*self.run, occurrences, now)?;
        while let Some(occurrence) = self.early_signal(&steps) {
            let run = steps.last().map_or(*self.run, |step| step.run);
            steps.extend(step_from(run, vec![occurrence], now)?);
        }
        while let Some(spender) = self.asks(&steps) {
            let last = steps.last().map_or(*self.run, |step| step.run);
            let answer = match refused.iter().find(|(whose, _)| *whose == spender) {
                Some((_, payload)) => Occurrence::new(Event::BudgetRefused { spender }, payload.clone()),
                None => {
                    let available = self.shared.provider.available();
                    let told = (spender != mote_core::Spender::Model).then_some(account::stored(spender));
                    let payload = Payload::BudgetGranted { spender: told };
                    Occurrence::new(Event::BudgetGranted { spender, available }, payload)
                }
            };
            steps.extend(step_from(last, vec![answer], now)?);
        }
        Ok(steps)
    }

    /// Whose reservation `steps` leave to be granted; none where what it is for is left to the next worker.
    fn asks(&self, steps: &[Step]) -> Option<mote_core::Spender> {
        let run = steps.last().map_or(&*self.run, |step| &step.run);
        if self.holds_back() || matches!(run.phase(), Phase::Finished(_)) {
            return None;
        }
        run.reservations_asked().next()
    }
}
