//! The plan's templates: `${input}` is the task's input, `${results.N}` the N-th result (from 0) of the turn before, and
//! `${results.N.path.to.field}` a part of it, if it is JSON. `$${` stands for `${`.
//!
//! There is nothing else: no conditions, no functions, no environment.

use serde_json::{Map, Value};

use crate::message::{Message, Part, Role};
use crate::model::Request;

/// Why a template has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("${{{template}}}: {message}")]
pub(super) struct Error {
    template: String,
    message: String,
}

/// What templates may look at.
pub(super) struct Scope<'r> {
    input: String,
    results: Vec<&'r str>,
}

impl<'r> Scope<'r> {
    /// The task's input and the results of the last turn.
    pub(super) fn of(request: &'r Request) -> Self {
        let messages = &request.messages;
        Self { input: input(messages, request.step), results: results(messages) }
    }

    fn look_up(&self, template: &str) -> Result<Value, Error> {
        let fail = |message: String| Error { template: template.to_owned(), message };
        let mut path = template.split('.');
        match path.next() {
            Some("input") if template == "input" => return Ok(Value::String(self.input.clone())),
            Some("results") => {}
            _ => return Err(fail("a template is `input` or `results.N.path`".to_owned())),
        }
        let number = path.next().and_then(|number| number.parse::<usize>().ok());
        let number = number.ok_or_else(|| fail("`results` is followed by a number".to_owned()))?;
        let result = self
            .results
            .get(number)
            .ok_or_else(|| fail(format!("the turn before has {} results, numbered from 0", self.results.len())))?;
        let mut path = path.peekable();
        if path.peek().is_none() {
            return Ok(Value::String((*result).to_owned()));
        }
        let json = serde_json::from_str::<Value>(result).map_err(|_| fail("the result is not JSON".to_owned()))?;
        path.try_fold(json, |mut value, key| {
            let inner = match &mut value {
                Value::Object(members) => members.get_mut(key),
                Value::Array(items) => key.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
                _ => None,
            };
            inner.map(Value::take).ok_or_else(|| fail(format!("the result has no `{key}` there")))
        })
    }
}

/// The text that the run began with: before the assistant's messages of this run, the first of what the user said last.
/// (What follows it there is not the task's text but facts that stand beside it.)
fn input(messages: &[Message], step: u32) -> String {
    let mut earlier_replies = step.saturating_sub(1);
    let mut found = None;
    for message in messages.iter().rev() {
        match message.role {
            Role::Assistant if earlier_replies == 0 => break,
            Role::Assistant => earlier_replies -= 1,
            // If the beginning has been trimmed away, this ends with the oldest there is.
            Role::User => found = Some(message),
            Role::Tool => {}
        }
    }
    found.map(Message::plain_text).unwrap_or_default()
}

/// The results that follow the last assistant's message, in order.
fn results(messages: &[Message]) -> Vec<&str> {
    let after = messages.iter().rposition(|message| message.role == Role::Assistant).map_or(0, |place| place + 1);
    let parts = messages.iter().skip(after).flat_map(|message| &message.parts);
    parts
        .filter_map(|part| match part {
            Part::Result { content, .. } => Some(content.as_str()),
            _ => None,
        })
        .collect()
}

/// Fills the templates of a text. What is not text is written as JSON.
pub(super) fn fill(text: &str, scope: &Scope<'_>) -> Result<String, Error> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let Some(escaped) = before.strip_suffix('$') else {
            let inside = from.strip_prefix("${").unwrap_or(from);
            let Some((template, after)) = inside.split_once('}') else { break };
            filled.push_str(before);
            match scope.look_up(template.trim())? {
                Value::String(text) => filled.push_str(&text),
                other => filled.push_str(&other.to_string()),
            }
            rest = after;
            continue;
        };
        filled.push_str(escaped);
        filled.push_str("${");
        rest = from.strip_prefix("${").unwrap_or(from);
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Fills the templates of every string within. A string that is one template and nothing else becomes the value itself:
/// a number stays a number.
pub(super) fn fill_value(arguments: &Map<String, Value>, scope: &Scope<'_>) -> Result<Map<String, Value>, Error> {
    arguments.iter().map(|(key, value)| Ok((key.clone(), one(value, scope)?))).collect()
}

fn one(value: &Value, scope: &Scope<'_>) -> Result<Value, Error> {
    Ok(match value {
        Value::String(text) => {
            let whole = text.strip_prefix("${").and_then(|inside| inside.strip_suffix('}'));
            match whole.filter(|template| !template.contains(['{', '}'])) {
                Some(template) => scope.look_up(template.trim())?,
                None => Value::String(fill(text, scope)?),
            }
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| one(item, scope)).collect::<Result<_, _>>()?),
        Value::Object(members) => Value::Object(fill_value(members, scope)?),
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_support::request;
    use serde_json::json;

    fn scope() -> Scope<'static> {
        Scope { input: "T-1".into(), results: vec![r#"{"a": {"b": [10, {"c": "x"}]}, "n": 7}"#, "plain"] }
    }

    #[test]
    fn texts_are_filled() {
        for (text, expected) in [
            ("no template", "no template"),
            ("${input}!", "T-1!"),
            ("${ input } and ${results.0.n}", "T-1 and 7"),
            ("${results.0.a.b.1.c}", "x"),
            ("${results.0.a.b}", r#"[10,{"c":"x"}]"#),
            ("${results.1}", "plain"),
            ("costs $5, $${input} stays", "costs $5, ${input} stays"),
            ("an open ${input", "an open ${input"),
        ] {
            assert_eq!(fill(text, &scope()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        for (text, says) in [
            ("${inputs}", "${inputs}: a template is `input` or `results.N.path`"),
            ("${input.x}", "${input.x}: a template is `input` or `results.N.path`"),
            ("${results.x}", "${results.x}: `results` is followed by a number"),
            ("${results.2}", "${results.2}: the turn before has 2 results, numbered from 0"),
            ("${results.0.a.z}", "${results.0.a.z}: the result has no `z` there"),
            ("${results.1.a}", "${results.1.a}: the result is not JSON"),
        ] {
            assert_eq!(fill(text, &scope()).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn whole_values_keep_their_type() {
        let arguments = json!({"n": "${results.0.n}", "s": "n=${results.0.n}", "l": ["${results.0.a.b.1}"], "b": true});
        let Value::Object(arguments) = arguments else { unreachable!("an object") };
        let filled = Value::Object(fill_value(&arguments, &scope()).unwrap());
        assert_eq!(filled, json!({"n": 7, "s": "n=7", "l": [{"c": "x"}], "b": true}));
    }

    #[test]
    fn the_input_is_the_runs_own_in_a_session() {
        let mut asked = request("first task");
        asked.messages.push(Message::text(Role::Assistant, "done"));
        asked.messages.push(Message::text(Role::User, "second task"));
        asked.messages.push(Message::text(Role::User, "Context for this task (JSON): {}"));
        assert_eq!(Scope::of(&asked).input, "second task");
        asked.messages.push(Message::text(Role::Assistant, "not good enough"));
        asked.messages.push(Message::text(Role::User, "your answer must be JSON"));
        asked.step = 2;
        assert_eq!(Scope::of(&asked).input, "second task", "a correction is not the input");
        asked.messages.drain(..4);
        assert_eq!(Scope::of(&asked).input, "your answer must be JSON", "trimmed away: the oldest there is");
    }
}
