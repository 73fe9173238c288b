//! The lives of a task: which of its journals a name means, and what it did through tools.
//!
//! A task that is run anew gets a fresh journal; the one before is kept under `<id>.<n>`, `n` being 1 for the first life.

use super::Task;
use crate::clock::UnixMs;

/// The task that a name means, and which of its lives: `<id>` is the task as it is now, `<id>.<n>` its n-th life.
#[must_use]
pub fn named_life(name: &str) -> (&str, Option<u32>) {
    let life = name.rsplit_once('.').filter(|(_, digits)| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match life.and_then(|(id, digits)| Some((id, digits.parse().ok()?))) {
        Some((id, life)) => (id, Some(life)),
        None => (name, None),
    }
}

impl Task {
    /// The life that it is in, from 1; only a run anew begins another.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.requeues.saturating_add(1)
    }

    /// The name of the journal of one of its lives; `None` if it had no such life.
    #[must_use]
    pub fn journal_of(&self, life: u32) -> Option<String> {
        if life == self.life() {
            return Some(self.id.clone());
        }
        (1..self.life()).contains(&life).then(|| format!("{}.{life}", self.id))
    }
}

/// An effect of a task, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectRow {
    /// The tool.
    pub tool: String,
    /// `idempotent` or `write`.
    pub class: String,
    /// `reserved`, `done`, `failed`, `unknown`.
    pub outcome: String,
    /// The model step that asked for it.
    pub step: u32,
    /// The call's id, as the model gave it.
    pub call: String,
    /// When its outcome became known.
    pub at: UnixMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_task_or_one_of_its_lives() {
        for (name, expected) in [
            ("task_01", ("task_01", None)),
            ("task_01.1", ("task_01", Some(1))),
            ("task_01.12", ("task_01", Some(12))),
            ("task.x", ("task.x", None)),
            ("task.", ("task.", None)),
            ("task.99999999999", ("task.99999999999", None)),
        ] {
            assert_eq!(named_life(name), expected, "{name}");
        }
    }
}
