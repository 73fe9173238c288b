//! `python`: one cell of the sandbox's default context, which keeps its variables.
//!
//! Of what a cell shows the model gets the text; pictures and the like are named, not carried.

use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::bound::{Middle, middle};
use super::client::Trouble;
use super::{Answer, Work, Worked};
use crate::limits::{SANDBOX_GRACE, SANDBOX_MESSAGE_BYTES_MAX, SANDBOX_RESULTS_MAX};
use crate::store::SandboxChange;

/// What a cell tells: the daemon's code interpreter speaks as E2B's does.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Message {
    NumberOfExecutions {
        execution_count: u64,
    },
    Stdout {
        text: String,
    },
    Stderr {
        text: String,
    },
    Result(Map<String, Value>),
    Error {
        #[serde(default)]
        name: String,
        #[serde(default)]
        value: String,
        #[serde(default)]
        traceback: String,
    },
    EndOfExecution,
    #[serde(other)]
    Other,
}

/// What came of a cell.
struct Cell {
    stdout: Middle,
    stderr: Middle,
    results: Vec<Value>,
    more_results: u64,
    error: Option<(String, String, String)>,
    count: Option<u64>,
    ended: bool,
    each: usize,
}

pub(super) async fn run(work: &Work<'_>) -> Worked {
    let millis = u64::try_from(work.timeout().as_millis()).unwrap_or(u64::MAX);
    let cell = json!({"code": work.argument("code"), "language": "python", "timeout_ms": millis});
    let request = work.request(Method::POST, "code/execute")?.json(&cell).timeout(work.timeout() + SANDBOX_GRACE);
    let response = work.send(request).await?;
    let cell = follow(work, response).await?;
    if !cell.ended {
        return Err(work.sandboxes.daemon.broken("it ended before the code did"));
    }
    let began_anew = cell.count == Some(1) && work.place.python;
    if !work.place.python {
        // Without it a later loss of the variables goes untold, and nothing else: the answer stands.
        if let Err(error) = work.sandboxes.store.change_sandbox(work.place.row, SandboxChange::Python).await {
            tracing::warn!(%error, "failed to note that Python was used");
        }
    }
    Ok(cell.answer(work.output_max(), began_anew))
}

/// Reads lines of JSON as they come.
async fn follow(work: &Work<'_>, mut response: Response) -> Result<Cell, Trouble> {
    let daemon = &work.sandboxes.daemon;
    let mut cell = Cell::new(work.output_max());
    let mut line = Vec::new();
    let mut too_long = false;
    while let Some(chunk) = response.chunk().await.map_err(|error| daemon.unreachable(&error))? {
        let mut rest = &chunk[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if too_long || line.len() > SANDBOX_MESSAGE_BYTES_MAX {
                cell.more_results += 1;
            } else {
                let message = serde_json::from_slice(&line).map_err(|error| daemon.broken(error))?;
                cell.take(message);
            }
            line.clear();
            too_long = false;
        }
        if line.len() + rest.len() > SANDBOX_MESSAGE_BYTES_MAX {
            // A picture: it would not be shown anyway.
            too_long = true;
            line = Vec::new();
        } else {
            line.extend_from_slice(rest);
        }
    }
    Ok(cell)
}

impl Cell {
    fn new(output_max: usize) -> Self {
        Self {
            stdout: Middle::new(output_max),
            stderr: Middle::new(output_max),
            results: Vec::new(),
            more_results: 0,
            error: None,
            count: None,
            ended: false,
            each: output_max,
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::NumberOfExecutions { execution_count } => self.count = Some(execution_count),
            Message::Stdout { text } => self.stdout.add(text.as_bytes()),
            Message::Stderr { text } => self.stderr.add(text.as_bytes()),
            Message::Result(_) if self.results.len() >= SANDBOX_RESULTS_MAX => self.more_results += 1,
            Message::Result(shown) => self.results.push(summary(&shown, self.each)),
            Message::Error { name, value, traceback } => self.error = Some((name, value, traceback)),
            Message::EndOfExecution => self.ended = true,
            Message::Other => {}
        }
    }

    fn answer(self, output_max: usize, began_anew: bool) -> Answer {
        let ((stdout, out_cut), (stderr, err_cut)) = (self.stdout.text(), self.stderr.text());
        let mut each = output_max;
        loop {
            let cut = |text: &str| middle(text, each);
            let mut fields = json!({"stdout": cut(&stdout), "stderr": cut(&stderr)});
            if !self.results.is_empty() {
                fields["results"] = self.results.iter().map(|result| shortened(result, each)).collect();
            }
            if let Some((name, value, traceback)) = &self.error {
                fields["error"] = json!({"name": name, "message": cut(value), "traceback": cut(traceback)});
            }
            if self.more_results > 0 {
                fields["results_left_out"] = self.more_results.into();
            }
            if out_cut + err_cut > 0 || stdout.len() > each || stderr.len() > each {
                fields["truncated"] = true.into();
            }
            if began_anew {
                fields["context"] = "The Python process is a new one: variables of earlier calls are lost.".into();
            }
            if each <= 1 || fields.to_string().len() <= output_max {
                return Answer { is_error: self.error.is_some(), ..Answer::fields(fields) };
            }
            each /= 2;
        }
    }
}

/// A value's text, and in which other forms it could be shown.
fn summary(shown: &Map<String, Value>, max: usize) -> Value {
    let mut result = Map::new();
    let mut forms = Vec::new();
    for (form, value) in shown {
        match (form.as_str(), value) {
            (_, Value::Null) | ("is_main_result" | "extra", _) => {}
            ("text" | "markdown" | "latex", Value::String(text)) => {
                result.insert(form.clone(), middle(text, max).into());
            }
            (_, Value::String(text)) => forms.push(format!("{form} ({} bytes)", text.len())),
            _ => forms.push(form.clone()),
        }
    }
    if !forms.is_empty() {
        result.insert("not_shown".to_owned(), forms.into());
    }
    Value::Object(result)
}

fn shortened(result: &Value, max: usize) -> Value {
    let Value::Object(fields) = result else { return result.clone() };
    let short = |(name, value): (&String, &Value)| {
        let value = value.as_str().map_or_else(|| value.clone(), |text| middle(text, max).into());
        (name.clone(), value)
    };
    Value::Object(fields.iter().map(short).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(messages: Value) -> Cell {
        let mut cell = Cell::new(10_000);
        for message in messages.as_array().unwrap() {
            cell.take(serde_json::from_value(message.clone()).unwrap());
        }
        cell
    }

    #[test]
    fn text_is_carried_and_pictures_are_named() {
        let cell = cell(json!([
            {"type": "number_of_executions", "execution_count": 3},
            {"type": "stdout", "text": "hello\n", "timestamp": 1},
            {"type": "result", "text": "<Figure>", "png": "aGk=", "html": null, "is_main_result": true},
            {"type": "something_new", "x": 1},
            {"type": "end_of_execution"},
        ]));
        assert!(cell.ended);
        let output = cell.answer(1000, false).output(None);
        let expected = json!({
            "stdout": "hello\n", "stderr": "",
            "results": [{"text": "<Figure>", "not_shown": ["png (4 bytes)"]}],
        });
        assert_eq!((serde_json::from_str::<Value>(&output.content).unwrap(), output.is_error), (expected, false));
    }

    #[test]
    fn an_exception_is_an_error_within_the_bound() {
        let long = "x".repeat(9000);
        let cell = cell(json!([
            {"type": "error", "name": "ValueError", "value": "no", "traceback": long},
            {"type": "end_of_execution"},
        ]));
        let output = cell.answer(2000, true).output(None);
        assert!(output.is_error && output.content.len() <= 2000, "{}", output.content);
        assert!(output.content.contains("ValueError") && output.content.contains("new one"), "{}", output.content);
    }
}
