//! What a cell tells, one message after the other. The shapes are those of E2B's code interpreter (SDK 2.x).
//!
//! It does not know which driver said it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A message of a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// How many cells the context has begun, this one included.
    NumberOfExecutions {
        /// Counts up from 1.
        execution_count: u64,
    },
    /// Something printed.
    Stdout(Printed),
    /// Something printed as an error.
    Stderr(Printed),
    /// A value shown: `text`, `html`, `markdown`, `svg`, `png`, `jpeg`, `pdf`, `latex`, `json`, `javascript`, `data`, `chart`,
    /// `extra`, and `is_main_result` for the value of the last expression.
    Result(Map<String, Value>),
    /// The code failed.
    Error {
        /// Class of the error.
        name: String,
        /// Its message.
        value: String,
        /// Where it happened.
        traceback: String,
    },
    /// The cell ended. Always the last.
    EndOfExecution,
}

/// Text that was printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Printed {
    /// What.
    pub text: String,
    /// When, nanoseconds since the epoch.
    pub timestamp: u64,
}

impl Message {
    /// An error that the driver did not tell itself.
    pub(super) fn error(name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        Self::Error { name: name.to_owned(), traceback: format!("{name}: {value}"), value }
    }
}
