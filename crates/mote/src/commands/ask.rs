//! Asks the person at the terminal what a task waits for: approvals and questions. Where there is no terminal it says how
//! to answer elsewhere.
//!
//! It sends nothing: `run` and `task watch` do, each in its own way.

use std::collections::HashSet;
use std::io::{self, BufRead};

use mote::limits::{ASK_CHARS_MAX, ASK_CHOICES_MAX, ASK_QUIET};
use mote::tools::validation;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::terminal::{Style, Terminal, sanitized, shorten};

/// What kind of answer a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Yes or no.
    Approval,
    /// Text, or JSON that satisfies a schema.
    Question,
    /// A named signal: nothing that is typed at a prompt.
    Signal,
    /// A time, which comes by itself.
    Timer,
}

/// An open wait of a task, as the task's `waiting` tells it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wait {
    /// The call's id.
    pub(crate) call: String,
    /// What is waited for.
    pub(crate) kind: Kind,
    /// The tool that was called.
    pub(crate) tool: String,
    /// The call's arguments.
    pub(crate) arguments: Value,
    /// Whether the wait ends by itself.
    pub(crate) is_bounded: bool,
}

/// Everything that a task waits for, the oldest first; a kind that this version does not know is left out.
pub(crate) fn waits(waiting: &Value) -> Vec<Wait> {
    let wait = |wait: &Value| {
        let kind = match wait["kind"].as_str()? {
            "approval" => Kind::Approval,
            "question" => Kind::Question,
            "signal" => Kind::Signal,
            "timer" => Kind::Timer,
            _ => return None,
        };
        let text = |field: &str| wait[field].as_str().unwrap_or_default().to_owned();
        let arguments = wait["arguments"].clone();
        let is_bounded = kind == Kind::Timer || !wait["until"].is_null();
        Some(Wait { call: text("call"), kind, tool: text("tool"), arguments, is_bounded })
    };
    waiting.as_array().map(|list| list.iter().filter_map(wait).collect()).unwrap_or_default()
}

impl Wait {
    /// Whether a person answers it.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.kind, Kind::Approval | Kind::Question)
    }

    fn schema(&self) -> Option<&Value> {
        self.arguments.get("schema").filter(|_| self.kind == Kind::Question)
    }

    /// What is asked, in whole lines: the tool and its arguments, or the question and its choices.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match self.kind {
            Kind::Approval => {
                lines.push(format!("approval needed: the agent wants to call {}", shorten(&self.tool, 100)));
                lines.extend(indented(&format!("{:#}", self.arguments)));
            }
            Kind::Question => {
                lines.push("the agent asks:".to_owned());
                lines.extend(indented(self.arguments["question"].as_str().unwrap_or_default()));
                match (self.choices(), self.schema()) {
                    (Some(choices), _) => {
                        let number =
                            |(index, (_, label)): (usize, (Value, String))| format!("  {}) {label}", index + 1);
                        lines.extend(choices.into_iter().enumerate().map(number));
                    }
                    (None, Some(schema)) => lines.extend(indented(&format!("the answer must satisfy {schema}"))),
                    (None, None) => {}
                }
            }
            Kind::Signal => {
                let name = self.arguments["name"].as_str().unwrap_or_default();
                lines.push(format!("the task waits for the signal {}", shorten(name, 100)));
            }
            Kind::Timer => lines.push("the task waits for a time".to_owned()),
        }
        lines
    }

    /// The values of a question with a fixed choice, each with its label.
    fn choices(&self) -> Option<Vec<(Value, String)>> {
        let schema = self.schema()?;
        let label = |value: &Value| shorten(&value.as_str().map_or_else(|| value.to_string(), str::to_owned), 100);
        if let Some(values) = schema["enum"].as_array() {
            let choices = values.iter().map(|value| (value.clone(), label(value))).collect::<Vec<_>>();
            return (choices.len() <= ASK_CHOICES_MAX).then_some(choices);
        }
        let options = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())?;
        let choice = |option: &Value| {
            let value = option.get("const")?.clone();
            let shown = option["title"].as_str().map_or_else(|| label(&value), |title| shorten(title, 100));
            Some((value, shown))
        };
        let choices = options.iter().map(choice).collect::<Option<Vec<_>>>()?;
        (choices.len() <= ASK_CHOICES_MAX).then_some(choices)
    }

    /// How to answer, on the line before the prompt.
    fn instruction(&self) -> &'static str {
        match self.kind {
            Kind::Approval => "Approve? y: yes, n: no, n and a text: no, and the model is told why",
            Kind::Question if self.choices().is_some() => "Answer with a number or with the text of a choice:",
            Kind::Question => match self.schema().and_then(|schema| schema["type"].as_str()) {
                None if self.schema().is_none() => "Answer:",
                Some("string") => "Answer:",
                Some("boolean") => "Answer y or n:",
                _ => "Answer with JSON:",
            },
            Kind::Signal | Kind::Timer => "",
        }
    }

    /// Reads a line as the answer.
    ///
    /// # Errors
    /// A sentence for the person: what was expected.
    pub(crate) fn answer(&self, line: &str) -> Result<Answer, String> {
        let line = line.trim();
        let answer = |approve, content| Ok(Answer { call: self.call.clone(), approve, content });
        if self.kind == Kind::Approval {
            return match verdict(line) {
                Some((true, _)) => answer(Some(true), None),
                Some((false, reason)) => answer(Some(false), (!reason.is_empty()).then(|| json!(reason))),
                None => Err("that is neither y nor n".to_owned()),
            };
        }
        if line.is_empty() {
            return Err("the answer is empty".to_owned());
        }
        let value = self.value(line)?;
        if let Some(schema) = self.schema()
            && let Ok(schema) = validation::Schema::new(schema.clone())
            && let Err(violations) = schema.validate(&value)
        {
            return Err(format!("that does not fit: {}", validation::describe(&violations)));
        }
        answer(None, Some(value))
    }

    fn value(&self, line: &str) -> Result<Value, String> {
        if let Some(choices) = self.choices() {
            let written = |value: &Value| value.as_str() == Some(line) || format!("{value}") == line;
            let named = choices.iter().find(|(value, label)| label == line || written(value));
            let numbered = || line.parse::<usize>().ok().and_then(|number| choices.get(number.checked_sub(1)?));
            let chosen = named.or_else(numbered).map(|(value, _)| value.clone());
            return chosen.ok_or_else(|| format!("that is none of the {} choices", choices.len()));
        }
        let Some(schema) = self.schema() else { return Ok(json!(line)) };
        match schema["type"].as_str() {
            Some("string") => Ok(json!(line)),
            Some("boolean") => match verdict(line) {
                Some((yes, "")) => Ok(json!(yes)),
                _ if line == "true" || line == "false" => Ok(json!(line == "true")),
                _ => Err("that is neither y nor n".to_owned()),
            },
            _ => serde_json::from_str(line).map_err(|error| format!("that is not JSON: {error}")),
        }
    }

    /// The command that answers it from anywhere: the words behind `mote task`.
    pub(crate) fn command(&self, task: &str, url: &str) -> String {
        let what = match self.kind {
            Kind::Approval => format!("input {task} --call {} --approve   (or --deny)", self.call),
            Kind::Question if self.schema().is_some() => {
                format!("input {task} --call {} --answer-json JSON", self.call)
            }
            Kind::Question => format!("input {task} --call {} --answer TEXT", self.call),
            Kind::Signal => format!("signal {task} {}", self.arguments["name"].as_str().unwrap_or("NAME")),
            Kind::Timer => format!("get {task}"),
        };
        format!("mote task{url} {what}")
    }
}

/// `y`, `yes`, `n`, `no`, and what stands behind a no.
fn verdict(line: &str) -> Option<(bool, &str)> {
    let end = line.find(|c: char| !c.is_alphanumeric()).unwrap_or(line.len());
    let rest = line[end..].trim_start_matches([',', ':', '.', '-', ' ', '\t']).trim();
    match line[..end].to_lowercase().as_str() {
        "y" | "yes" if rest.is_empty() => Some((true, "")),
        "n" | "no" => Some((false, rest)),
        _ => None,
    }
}

/// Foreign text within bounds, indented, its control characters removed.
fn indented(text: &str) -> Vec<String> {
    let text = sanitized(text);
    let mut shown: String = text.chars().take(ASK_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str("… (cut; the task has all of it)");
    }
    shown.lines().map(|line| format!("  {line}")).collect()
}

/// What a person answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// The call that is answered.
    pub(crate) call: String,
    /// Of an approval.
    pub(crate) approve: Option<bool>,
    /// Of a question; of a refusal, why.
    pub(crate) content: Option<Value>,
}

/// When to look what a task waits for: once, when its stream has been quiet for a moment.
#[derive(Debug, Default)]
pub(crate) struct Look(Option<tokio::time::Instant>);

impl Look {
    /// Something happened: a look is due once nothing more does.
    pub(crate) fn soon(&mut self) {
        self.0 = Some(tokio::time::Instant::now() + ASK_QUIET);
    }

    /// Returns when a look is due, and takes it as looked.
    pub(crate) async fn due(&mut self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.0 = None;
    }
}

/// The person at the terminal, if there is one.
#[derive(Debug)]
pub(crate) struct Person {
    is_there: bool,
    lines: Option<mpsc::Receiver<String>>,
    asked: Option<Wait>,
    /// Calls that were answered, or of which was said how to answer them.
    settled: HashSet<String>,
}

impl Person {
    pub(crate) fn at(terminal: &Terminal) -> Self {
        Self { is_there: terminal.can_ask(), lines: None, asked: None, settled: HashSet::new() }
    }

    /// Whether somebody can be asked here.
    pub(crate) fn is_there(&self) -> bool {
        self.is_there
    }

    /// Whether a question stands on the screen.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Takes what the task waits for now. Asks the oldest that is open; without a terminal it says once of each how to
    /// answer, with `elsewhere`.
    pub(crate) fn face(
        &mut self,
        waits: &[Wait],
        elsewhere: impl Fn(&Wait) -> String,
        terminal: &mut Terminal,
    ) -> io::Result<()> {
        if let Some(asked) = &self.asked {
            if waits.contains(asked) {
                return Ok(());
            }
            self.asked = None;
            terminal.note("\nit is answered already")?;
        }
        for wait in waits.iter().filter(|wait| wait.kind != Kind::Timer) {
            if self.settled.contains(&wait.call) {
                continue;
            }
            for line in wait.describe() {
                let line = terminal.paint(Style::Care, &line);
                terminal.note(&line)?;
            }
            if wait.is_asked() && self.is_there {
                self.listen();
                self.asked = Some(wait.clone());
                return self.prompt(terminal);
            }
            self.settled.insert(wait.call.clone());
            terminal.note(&format!("  {}", elsewhere(wait)))?;
        }
        Ok(())
    }

    /// Shows the prompt (again, where something was printed below it).
    pub(crate) fn prompt(&self, terminal: &mut Terminal) -> io::Result<()> {
        let Some(asked) = &self.asked else { return Ok(()) };
        terminal.note(asked.instruction())?;
        terminal.prompt("> ")
    }

    /// Starts to read lines. What was typed before the question was on the screen is no answer to it.
    fn listen(&mut self) {
        // Nothing to forget is no loss.
        let _ = rustix::termios::tcflush(io::stdin(), rustix::termios::QueueSelector::IFlush);
        if let Some(lines) = &mut self.lines {
            while lines.try_recv().is_ok() {}
            return;
        }
        let (send, lines) = mpsc::channel(1);
        // A thread of its own that nobody joins: a runtime that waited for its read would not end before the next key.
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while matches!(io::stdin().lock().read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                if send.blocking_send(text).is_err() {
                    return;
                }
            }
        });
        self.lines = Some(lines);
    }

    /// The next line that the person types; never, unless somebody was asked. `None` at the end of the input.
    pub(crate) async fn line(&mut self) -> Option<String> {
        match (&self.asked, &mut self.lines) {
            (Some(_), Some(lines)) => lines.recv().await,
            _ => std::future::pending().await,
        }
    }

    /// Takes a line that was typed; an answer, unless it is to be asked again or elsewhere.
    pub(crate) fn take(
        &mut self,
        line: Option<String>,
        elsewhere: impl Fn(&Wait) -> String,
        terminal: &mut Terminal,
    ) -> io::Result<Option<Answer>> {
        let Some(asked) = &self.asked else { return Ok(None) };
        let Some(line) = line else {
            // The end of the input: nobody will type anything any more.
            self.is_there = false;
            terminal.note(&format!("\n  {}", elsewhere(asked)))?;
            self.settled.insert(asked.call.clone());
            self.asked = None;
            return Ok(None);
        };
        match asked.answer(&line) {
            Ok(answer) => {
                self.settled.insert(answer.call.clone());
                self.asked = None;
                Ok(Some(answer))
            }
            Err(message) => {
                let message = terminal.paint(Style::Bad, &message);
                terminal.note(&message)?;
                self.prompt(terminal)?;
                Ok(None)
            }
        }
    }

    /// The answer was refused: it may be asked again.
    pub(crate) fn refused(&mut self, call: &str) {
        self.settled.remove(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(kind: &str, arguments: Value) -> Wait {
        let list = json!([{"call": "c", "kind": kind, "tool": "pay", "arguments": arguments, "until": null}]);
        waits(&list).remove(0)
    }

    fn check(wait: &Wait, line: &str, expected: Result<(Option<bool>, Option<Value>), &str>) {
        match (wait.answer(line), expected) {
            (Ok(answer), Ok(expected)) => assert_eq!((answer.approve, answer.content), expected, "{line}"),
            (Err(message), Err(expected)) => assert!(message.contains(expected), "{line}: {message}"),
            (found, expected) => panic!("{line}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn an_approval_takes_yes_no_and_a_reason() {
        let wait = wait("approval", json!({"amount": 5}));
        for yes in ["y", "Y", " yes "] {
            check(&wait, yes, Ok((Some(true), None)));
        }
        check(&wait, "n", Ok((Some(false), None)));
        check(&wait, "no, too much", Ok((Some(false), Some(json!("too much")))));
        check(&wait, "n not today", Ok((Some(false), Some(json!("not today")))));
        for unclear in ["", "yes but less", "maybe", "nope", "1"] {
            check(&wait, unclear, Err("neither y nor n"));
        }
        let shown = wait.describe().join("\n");
        assert!(shown.contains("pay") && shown.contains("\"amount\": 5"), "{shown}");
    }

    #[test]
    fn a_question_is_answered_in_its_own_form() {
        let ask = |schema: Value| wait("question", json!({"question": "Which?", "schema": schema}));
        check(&wait("question", json!({"question": "Which?"})), "7", Ok((None, Some(json!("7")))));
        check(&wait("question", json!({"question": "Which?"})), "  ", Err("empty"));
        let choice = ask(json!({"enum": ["red", "blue"]}));
        assert_eq!(choice.describe()[1..], ["  Which?", "  1) red", "  2) blue"]);
        check(&choice, "2", Ok((None, Some(json!("blue")))));
        check(&choice, "red", Ok((None, Some(json!("red")))));
        check(&choice, "3", Err("none of the 2 choices"));
        // A value that looks like a number is meant itself.
        check(&ask(json!({"enum": [2, 1]})), "1", Ok((None, Some(json!(1)))));
        let titled = ask(json!({"oneOf": [{"const": 1, "title": "One"}, {"const": 2, "title": "Two"}]}));
        check(&titled, "Two", Ok((None, Some(json!(2)))));
        check(&ask(json!({"type": "boolean"})), "n", Ok((None, Some(json!(false)))));
        check(&ask(json!({"type": "integer", "minimum": 3})), "4", Ok((None, Some(json!(4)))));
        check(&ask(json!({"type": "integer", "minimum": 3})), "2", Err("does not fit"));
        check(&ask(json!({"type": "object"})), "{", Err("not JSON"));
    }

    #[test]
    fn foreign_text_is_bounded_and_cannot_steer_the_terminal() {
        let long = wait("approval", json!({"text": "\u{1b}[2J".repeat(ASK_CHARS_MAX)}));
        let shown = long.describe().join("\n");
        assert!(!shown.contains('\u{1b}') && shown.contains("cut") && shown.len() < ASK_CHARS_MAX * 2, "{shown}");
    }

    #[test]
    fn the_command_for_elsewhere_names_task_and_call() {
        let question = wait("question", json!({"question": "?"}));
        assert_eq!(question.command("t", " --url U"), "mote task --url U input t --call c --answer TEXT");
        assert!(wait("approval", json!({})).command("t", "").ends_with("--approve   (or --deny)"));
        assert_eq!(wait("signal", json!({"name": "ci"})).command("t", ""), "mote task signal t ci");
    }
}
