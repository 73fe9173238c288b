//! The states of a sandbox and the one table of legal transitions.
//!
//! It does not carry transitions out: the daemon's `lifecycle` does, and asks [`State::after`] first.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Failure};

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its root, namespaces and first process are being made.
    Creating,
    /// It can be used.
    Running,
    /// Its processes are being frozen, or stopped with the filesystem kept.
    Pausing,
    /// It uses no CPU; `PauseKind` says whether its memory was kept.
    Paused,
    /// It is on its way back from a pause.
    Resuming,
    /// A snapshot of its filesystem is being taken, or one is being rolled back to.
    Snapshotting,
    /// Another sandbox is being made from it.
    Forking,
    /// Its processes are being ended and its resources given back.
    Stopping,
    /// It is no more; only its record is kept for a while.
    Gone,
    /// It could not be made, or something it needs broke; it can only be removed.
    Failed,
}

/// What can happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    /// Its creation ended well.
    Created,
    /// A pause was asked for.
    Pause,
    /// The pause is complete.
    PauseDone,
    /// A resume was asked for, by a person or by a request that needs the sandbox awake.
    Resume,
    /// The resume is complete.
    ResumeDone,
    /// A snapshot or a rollback was asked for.
    Snapshot,
    /// The snapshot or rollback is complete.
    SnapshotDone,
    /// A fork was asked for.
    Fork,
    /// The fork's copy of the filesystem is taken.
    ForkDone,
    /// The end was asked for: by a person, a deadline, a lease or a policy.
    Stop,
    /// Everything it held is given back.
    StopDone,
    /// What was under way did not succeed, and the sandbox is as it was before.
    Undo,
    /// The sandbox broke: its first process ended, or a step cannot be undone.
    Fail,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Creating,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Snapshotting,
        Self::Forking,
        Self::Stopping,
        Self::Gone,
        Self::Failed,
    ];

    /// The state that follows, or why the transition is not legal here.
    ///
    /// A snapshot or a fork of a paused sandbox does not wake it: `resting` says whether it was paused when it began, so that
    /// its end leads back there.
    ///
    /// # Errors
    /// [`Code::IllegalTransition`] with the state and the transition as facts.
    pub fn after(self, transition: Transition, resting: bool) -> Result<Self, Failure> {
        use Transition as T;
        let back = if resting { Self::Paused } else { Self::Running };
        let next = match (self, transition) {
            (Self::Creating, T::Created) | (Self::Resuming, T::ResumeDone) | (Self::Pausing, T::Undo) => Self::Running,
            (Self::Running, T::Pause) => Self::Pausing,
            (Self::Pausing, T::PauseDone) | (Self::Resuming, T::Undo) => Self::Paused,
            (Self::Paused, T::Resume) => Self::Resuming,
            (Self::Running | Self::Paused, T::Snapshot) => Self::Snapshotting,
            (Self::Running | Self::Paused, T::Fork) => Self::Forking,
            (Self::Snapshotting, T::SnapshotDone | T::Undo) | (Self::Forking, T::ForkDone | T::Undo) => back,
            // The end may be asked for at any time; what is under way is abandoned.
            (
                Self::Creating
                | Self::Running
                | Self::Pausing
                | Self::Paused
                | Self::Resuming
                | Self::Snapshotting
                | Self::Forking
                | Self::Failed,
                T::Stop,
            ) => Self::Stopping,
            (Self::Stopping, T::StopDone) => Self::Gone,
            (
                Self::Creating
                | Self::Running
                | Self::Pausing
                | Self::Paused
                | Self::Resuming
                | Self::Snapshotting
                | Self::Forking
                | Self::Stopping,
                T::Fail,
            ) => Self::Failed,
            (
                Self::Creating
                | Self::Running
                | Self::Pausing
                | Self::Paused
                | Self::Resuming
                | Self::Snapshotting
                | Self::Forking
                | Self::Stopping
                | Self::Gone
                | Self::Failed,
                _,
            ) => return Err(self.refusal(transition)),
        };
        Ok(next)
    }

    /// Whether requests that need a living process inside can be served.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Running | Self::Snapshotting | Self::Forking)
    }

    fn refusal(self, transition: Transition) -> Failure {
        let why = match self {
            Self::Creating => "it is still being created",
            Self::Running => "it is running",
            Self::Pausing => "it is being paused",
            Self::Paused => "it is paused",
            Self::Resuming => "it is being resumed",
            Self::Snapshotting => "a snapshot or rollback is under way",
            Self::Forking => "a fork is under way",
            Self::Stopping => "it is being stopped",
            Self::Gone => "it is gone",
            Self::Failed => "it has failed and can only be removed",
        };
        Failure::new(Code::IllegalTransition, format!("{transition} is not possible: {why}"))
            .with("state", self)
            .with("transition", transition)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&snake(&format!("{self:?}")))
    }
}

impl std::fmt::Display for Transition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&snake(&format!("{self:?}")))
    }
}

/// `PauseDone` as it stands in JSON: `pause_done`.
fn snake(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 2);
    for (at, c) in camel.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_illegal_transition_says_the_state_and_the_transition() {
        let refusal = State::Paused.after(Transition::Pause, false).expect_err("it is paused already");
        assert_eq!(refusal.code, Code::IllegalTransition);
        assert_eq!(refusal.message, "pause is not possible: it is paused");
        assert_eq!(refusal.context["state"], "paused");
    }

    #[test]
    fn nothing_leaves_gone() {
        for transition in
            [Transition::Created, Transition::Resume, Transition::Stop, Transition::Fail, Transition::Undo]
        {
            assert!(State::Gone.after(transition, false).is_err());
        }
    }

    #[test]
    fn a_snapshot_of_a_paused_sandbox_leaves_it_paused() {
        assert_eq!(State::Paused.after(Transition::Snapshot, true), Ok(State::Snapshotting));
        assert_eq!(State::Snapshotting.after(Transition::SnapshotDone, true), Ok(State::Paused));
        assert_eq!(State::Snapshotting.after(Transition::SnapshotDone, false), Ok(State::Running));
    }
}
