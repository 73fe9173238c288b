//! What a cell tells, one message after the other. The shapes are those of E2B's code interpreter (SDK 2.x).
//!
//! It does not know which driver said it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Formats of a value as the driver wrote them: what they hold is the client's to read.
pub type Formats = BTreeMap<String, Box<RawValue>>;

/// A message of a cell.
#[derive(Clone, Debug, Serialize)]
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
    Result(Formats),
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

impl Printed {
    fn of(fields: &mut BTreeMap<String, &RawValue>) -> Result<Self, String> {
        Ok(Self { text: taken(fields, "text")?, timestamp: taken(fields, "timestamp")? })
    }
}

impl Message {
    /// An error that the driver did not tell itself.
    pub(super) fn error(name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        Self::Error { name: name.to_owned(), traceback: format!("{name}: {value}"), value }
    }

    /// The last one.
    pub(super) const fn is_end(&self) -> bool {
        matches!(self, Self::EndOfExecution)
    }
}

/// A line of a driver.
#[derive(Debug)]
pub(super) enum Said {
    /// It listens, and is in this directory.
    Ready(String),
    /// A message, of a cell where it says so.
    Message(Option<u64>, Message),
}

impl Said {
    /// Reads a line; nothing where it is no object: the first one after an adoption may be the end of one.
    ///
    /// # Errors
    /// What is wrong with it. It may be the user's code that wrote it.
    pub(super) fn parse(line: &[u8]) -> Option<Result<Self, String>> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(line).ok()?;
        Some(Self::of(fields))
    }

    fn of(mut fields: BTreeMap<String, &RawValue>) -> Result<Self, String> {
        let kind: String = taken(&mut fields, "type")?;
        if kind == "ready" {
            return taken(&mut fields, "cwd").map(Self::Ready);
        }
        let cell = if fields.contains_key("cell") { taken(&mut fields, "cell")? } else { None };
        let message = match kind.as_str() {
            "number_of_executions" => {
                Message::NumberOfExecutions { execution_count: taken(&mut fields, "execution_count")? }
            }
            "stdout" => Message::Stdout(Printed::of(&mut fields)?),
            "stderr" => Message::Stderr(Printed::of(&mut fields)?),
            "result" => Message::Result(fields.into_iter().map(|(name, value)| (name, value.to_owned())).collect()),
            "error" => Message::Error {
                name: taken(&mut fields, "name")?,
                value: taken(&mut fields, "value")?,
                traceback: taken(&mut fields, "traceback")?,
            },
            "end_of_execution" => Message::EndOfExecution,
            other => return Err(format!("there is no message {other:?}")),
        };
        Ok(Self::Message(cell, message))
    }
}

fn taken<T: DeserializeOwned>(fields: &mut BTreeMap<String, &RawValue>, name: &str) -> Result<T, String> {
    let value = fields.remove(name).ok_or_else(|| format!("{name} is missing"))?;
    serde_json::from_str(value.get()).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_passes_as_the_driver_wrote_it() {
        let line = br#"{"type":"result","cell":3,"json":[1,2.50,1e400],"text":"x","is_main_result":true}"#;
        let Some(Ok(Said::Message(Some(3), message))) = Said::parse(line) else { panic!("it cannot be read") };
        let told = serde_json::to_string(&message).unwrap();
        assert_eq!(told, r#"{"type":"result","is_main_result":true,"json":[1,2.50,1e400],"text":"x"}"#);
    }

    #[test]
    fn a_line_that_is_no_message_is_refused_and_half_a_line_is_none() {
        for (line, why) in [
            (r#"{"type":"stdout","text":"x"}"#, "timestamp is missing"),
            (r#"{"type":"stdout","text":7,"timestamp":1}"#, "text: "),
            (r#"{"type":"other"}"#, "there is no message"),
            (r#"{"cell":1}"#, "type is missing"),
        ] {
            let refused = Said::parse(line.as_bytes()).unwrap().unwrap_err();
            assert!(refused.contains(why), "{line}: {refused}");
        }
        assert!(Said::parse(br#"ext":"x"}"#).is_none());
    }
}
