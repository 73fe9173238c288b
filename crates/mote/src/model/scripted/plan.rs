//! The plan's file: a list of turns in YAML (or JSON, which is YAML), read strictly.
//!
//! ```yaml
//! - think: text                 # reasoning, optional
//!   say: text                   # with ${input} and ${results.N.path}
//!   call: [{tool: name, arguments: {…}}]
//!   usage: {input: 10, output: 5}
//!   delay_ms: 20                # before each piece of the reply
//! - fail: {kind: overloaded, attempts: 1, retry_after_ms: 100, message: text}
//! ```
//!
//! It does not fill in templates.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::limits::{CALLS_PER_TURN, PLAN_BYTES_MAX, PLAN_DELAY_MS_MAX};
use crate::model::ErrorKind;

/// A plan: turn `n` answers step `n`.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The turns.
    pub turns: Vec<Turn>,
}

/// One turn: at least one of `say`, `call` and `fail`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Reasoning, before the text.
    #[serde(default)]
    pub think: Option<String>,
    /// Text.
    #[serde(default)]
    pub say: Option<String>,
    /// Calls, after the text.
    #[serde(default)]
    pub call: Vec<Call>,
    /// Tokens; without them the caller estimates.
    #[serde(default)]
    pub usage: Option<PlannedUsage>,
    /// Pause before each piece of the reply, milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
    /// Failure instead of a reply.
    #[serde(default)]
    pub fail: Option<Fail>,
}

/// A planned call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The tool's name.
    pub tool: String,
    /// Arguments; strings in it may hold templates.
    #[serde(default)]
    pub arguments: Map<String, Value>,
}

/// Planned tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedUsage {
    /// All input tokens.
    pub input: u64,
    /// Of these, read from a cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Of these, written to a cache.
    #[serde(default)]
    pub cache_write: u64,
    /// Output tokens.
    pub output: u64,
    /// Of these, reasoning.
    #[serde(default)]
    pub reasoning: u64,
}

impl From<PlannedUsage> for crate::usage::Usage {
    fn from(planned: PlannedUsage) -> Self {
        let PlannedUsage { input, cache_read, cache_write, output, reasoning } = planned;
        Self { input, cache_read, cache_write, output, reasoning }
    }
}

/// A planned failure.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// Which kind.
    pub kind: FailKind,
    /// How many attempts fail before the rest of the turn is played. Default: all.
    #[serde(default = "always")]
    pub attempts: u32,
    /// How long the endpoint asks to be left alone, milliseconds.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    /// What the error says.
    #[serde(default = "planned")]
    pub message: String,
}

fn always() -> u32 {
    u32::MAX
}

fn planned() -> String {
    "the plan says so".to_owned()
}

/// The kinds of [`ErrorKind`] that an endpoint may fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "they are ErrorKind's")]
pub enum FailKind {
    Unreachable,
    RateLimited,
    Overloaded,
    Broken,
    Aborted,
    EmptyReply,
    TimedOut,
    ContextLength,
    Rejected,
}

impl From<FailKind> for ErrorKind {
    fn from(kind: FailKind) -> Self {
        match kind {
            FailKind::Unreachable => Self::Unreachable,
            FailKind::RateLimited => Self::RateLimited,
            FailKind::Overloaded => Self::Overloaded,
            FailKind::Broken => Self::Broken,
            FailKind::Aborted => Self::Aborted,
            FailKind::EmptyReply => Self::EmptyReply,
            FailKind::TimedOut => Self::TimedOut,
            FailKind::ContextLength => Self::ContextLength,
            FailKind::Rejected => Self::Rejected,
        }
    }
}

/// Why a file is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It cannot be read.
    #[error("failed to read the plan {file}: {message}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// It says something that a plan cannot say.
    #[error("failed to read the plan: {file}:{line}:{column}: {message}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1; 0 if it is not known.
        line: u64,
        /// Column, from 1; 0 if it is not known.
        column: u64,
        /// What is wrong.
        message: String,
    },
}

impl Plan {
    /// Reads a plan from a file.
    ///
    /// # Errors
    /// If it cannot be read, is larger than [`PLAN_BYTES_MAX`], or is no plan.
    pub fn load(file: &Path) -> Result<Self, PlanError> {
        let fail = |message: String| PlanError::Read { file: file.to_owned(), message };
        let opened = std::fs::File::open(file).map_err(|error| fail(error.to_string()))?;
        let mut text = String::new();
        opened.take(PLAN_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        if text.len() as u64 > PLAN_BYTES_MAX {
            return Err(fail(format!("it is larger than {PLAN_BYTES_MAX} bytes")));
        }
        Self::parse(&text, file)
    }

    /// Reads a plan from text; `file` is for errors.
    ///
    /// # Errors
    /// If it is no plan: names line and column.
    pub fn parse(text: &str, file: &Path) -> Result<Self, PlanError> {
        let invalid = |line, column, message| PlanError::Invalid { file: file.to_owned(), line, column, message };
        let read: Vec<Spanned<Turn>> = serde_saphyr::from_str(text).map_err(|error| {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let message = error.without_snippet().to_string();
            // The message repeats the place that stands before it.
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            invalid(line, column, message)
        })?;
        if read.is_empty() {
            return Err(invalid(1, 1, "a plan has at least one turn".to_owned()));
        }
        let mut turns = Vec::with_capacity(read.len());
        for turn in read {
            if let Some(message) = complaint(&turn.value) {
                return Err(invalid(turn.referenced.line(), turn.referenced.column(), message));
            }
            turns.push(turn.value);
        }
        Ok(Self { turns })
    }
}

fn complaint(turn: &Turn) -> Option<String> {
    if turn.say.is_none() && turn.call.is_empty() && turn.fail.is_none() {
        return Some("a turn has at least one of `say`, `call` and `fail`".to_owned());
    }
    if turn.call.len() > CALLS_PER_TURN {
        return Some(format!("a turn has at most {CALLS_PER_TURN} calls"));
    }
    (turn.delay_ms > PLAN_DELAY_MS_MAX).then(|| format!("`delay_ms` is at most {PLAN_DELAY_MS_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Plan::parse(text, Path::new("plan.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn yaml_and_json_are_read() {
        let yaml = Plan::parse("- call: [{tool: get, arguments: {id: 7}}]\n- say: ok\n", Path::new("p")).unwrap();
        let json =
            Plan::parse(r#"[{"call": [{"tool": "get", "arguments": {"id": 7}}]}, {"say": "ok"}]"#, Path::new("p"));
        assert_eq!(yaml, json.unwrap());
        assert_eq!(yaml.turns[0].call[0].arguments["id"], 7);
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, place, says) in [
            ("- say: a\n- sya: b\n", "plan.yaml:2:3:", "sya"),
            ("- say: a\n- delay_ms: 5\n", "plan.yaml:2:3:", "at least one of"),
            ("- call:\n    - {tool: x, args: {}}\n", "plan.yaml:2:17:", "args"),
            ("- fail: {kind: bored}\n", "plan.yaml:1:16:", "bored"),
            ("- say: x\n  delay_ms: 99999999\n", "plan.yaml:1:3:", "at most"),
            ("say: x\n", "plan.yaml:1:1:", ""),
            ("[]", "plan.yaml:1:1:", "at least one turn"),
        ] {
            let error = error(text);
            assert!(error.contains(place) && error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Plan::load(Path::new("/nonexistent/plan.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("failed to read the plan /nonexistent/plan.yaml: "), "{error}");
    }
}
