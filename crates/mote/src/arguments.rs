//! A call's arguments: from the text that a model wrote to the object that a tool gets, and to the object that goes back
//! to a provider as history. Both come from one reading, so that the model is shown what was performed.
//!
//! It does not know a tool's schema; [`crate::tools::registry`] validates.

use std::borrow::Cow;
use std::collections::HashSet;

use mote_wire::json;
use serde_json::{Map, Value};

use crate::limits::{ARGUMENT_KEY_SHOWN_BYTES, ARGUMENT_NUMBER_BYTES_MAX};

/// The member that carries a text which is no object.
const INVALID: &str = "invalid_arguments";

/// Reads arguments as a model wrote them. Blank text counts as no arguments.
///
/// An object that was encoded twice (a JSON string that holds an object) is taken for the object: arguments are never a
/// string, so it can mean nothing else. Whatever could mean two things is refused: a key that is written twice, and a
/// number that no double can hold.
///
/// # Errors
/// A sentence for the model.
pub fn read(text: &str) -> Result<Map<String, Value>, String> {
    match parse(text)? {
        (Value::Object(object), _) => Ok(object),
        _ => Err("the arguments must be a JSON object".to_owned()),
    }
}

/// The arguments as a provider takes them back: the text of a JSON object. It is the model's own text where that is one;
/// else an object that carries the text, for the model must still see what it wrote.
#[must_use]
pub fn as_history(text: &str) -> Cow<'_, str> {
    match parse(text) {
        Ok((Value::Object(_), written)) => written,
        _ => Cow::Owned(Value::Object(carrying(text)).to_string()),
    }
}

/// [`as_history`] as a value.
#[must_use]
pub fn as_history_value(text: &str) -> Value {
    Value::Object(read(text).unwrap_or_else(|_| carrying(text)))
}

fn carrying(text: &str) -> Map<String, Value> {
    Map::from_iter([(INVALID.to_owned(), Value::from(text))])
}

/// The value, and the text in which it is written once.
fn parse(text: &str) -> Result<(Value, Cow<'_, str>), String> {
    if text.trim().is_empty() {
        return Ok((Value::Object(Map::new()), Cow::Borrowed("{}")));
    }
    match strict(text)? {
        Value::String(inner) => match strict(&inner) {
            Ok(object @ Value::Object(_)) => Ok((object, Cow::Owned(inner))),
            // What is wrong inside an object is worth telling; any other string is just a string.
            Err(message) if inner.trim_start().starts_with('{') => Err(message),
            _ => Ok((Value::String(inner), Cow::Borrowed(text))),
        },
        value => Ok((value, Cow::Borrowed(text))),
    }
}

fn strict(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("the arguments are not JSON: {error}"))?;
    let written = json::Value::parse(text).map_err(|error| format!("the arguments cannot be used: {error}"))?;
    inspect(&written, &mut String::new())?;
    Ok(value)
}

/// Looks for what a JSON reader would settle silently, at `path` (JSON Pointer).
fn inspect(value: &json::Value<'_>, path: &mut String) -> Result<(), String> {
    let here = path.len();
    match value.raw().as_bytes().first() {
        Some(b'{') => {
            let mut members = Vec::new();
            value.members(|key, member| members.push((key.to_string(), member))).map_err(|error| error.to_string())?;
            let mut keys = HashSet::new();
            for (key, member) in &members {
                if !keys.insert(key.as_str()) {
                    return Err(format!("{}: the key {:?} is written twice", shown(path), shortened(key)));
                }
                path.push('/');
                path.push_str(&shortened(key).replace('~', "~0").replace('/', "~1"));
                inspect(member, path)?;
                path.truncate(here);
            }
        }
        Some(b'[') => {
            let mut items = Vec::new();
            let mut take = |item| {
                items.push(item);
                Ok::<(), json::Error>(())
            };
            value.items(&mut take).map_err(|error| error.to_string())?;
            for (index, item) in items.iter().enumerate() {
                path.push_str(&format!("/{index}"));
                inspect(item, path)?;
                path.truncate(here);
            }
        }
        Some(b'-' | b'0'..=b'9') => number(value.raw(), path)?,
        _ => {}
    }
    Ok(())
}

/// Digits are kept, however many. A number that overflows a double would be infinite to most backends.
fn number(written: &str, path: &str) -> Result<(), String> {
    if written.len() > ARGUMENT_NUMBER_BYTES_MAX {
        let length = written.len();
        return Err(format!(
            "{}: the number has {length} characters, {ARGUMENT_NUMBER_BYTES_MAX} are allowed; write it as a string",
            shown(path)
        ));
    }
    let scientific = written.contains(['e', 'E']);
    if scientific && !written.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err(format!("{}: the number {written} is too large; write it as a string", shown(path)));
    }
    Ok(())
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "(the whole value)" } else { path }
}

fn shortened(key: &str) -> &str {
    &key[..key.floor_char_boundary(ARGUMENT_KEY_SHOWN_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_read_and_goes_back_as_it_was_written() {
        let text = "{ \"b\": 123456789012345678901234567890, \"a\": 0.10000000000000000000000001 }";
        let object = read(text).unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["b", "a"], "the order is the model's");
        assert_eq!(object["b"].to_string(), "123456789012345678901234567890");
        assert_eq!(object["a"].to_string(), "0.10000000000000000000000001");
        assert_eq!(as_history(text), text);
        assert_eq!((read(" "), as_history("")), (Ok(Map::new()), Cow::Borrowed("{}")));
    }

    #[test]
    fn an_object_encoded_twice_is_the_object() {
        let text = r#""{\"id\":\"1\"}""#;
        assert_eq!(Value::Object(read(text).unwrap()), json!({"id": "1"}));
        assert_eq!(as_history(text), r#"{"id":"1"}"#);
        assert_eq!(as_history_value(text), json!({"id": "1"}));
    }

    #[test]
    fn what_is_no_object_is_refused_and_goes_back_in_one() {
        for (text, expected) in [
            (r#"{"id":"1"#, "not JSON"),
            ("[1]", "must be a JSON object"),
            ("null", "must be a JSON object"),
            ("3", "must be a JSON object"),
            ("true", "must be a JSON object"),
            (r#""id""#, "must be a JSON object"),
            (r#""[1]""#, "must be a JSON object"),
            (r#""\"{}\"""#, "must be a JSON object"),
            (r#""{\"id\":""#, "not JSON"),
            ("{\"id\":\"a\nb\"}", "not JSON"),
            ("{\"id\":\"a\u{0}b\"}", "not JSON"),
            (r#"{"id":"\ud83d"}"#, "not JSON"),
            (r#"{"id":1}{"id":2}"#, "not JSON"),
            (r#"{"id":1} tail"#, "not JSON"),
            (r#"{"id":1,"id":2}"#, "(the whole value): the key \"id\" is written twice"),
            (r#"{"a/b":[{"x":1,"\u0078":2}]}"#, "/a~1b/0: the key \"x\" is written twice"),
            (r#"{"n":1e400}"#, "/n: the number 1e400 is too large"),
            (r#"{"n":[-1E+999999999]}"#, "/n/0: the number -1E+999999999 is too large"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
            assert_eq!(serde_json::from_str::<Value>(&as_history(text)).unwrap(), json!({"invalid_arguments": text}));
            assert_eq!(as_history_value(text), json!({"invalid_arguments": text}));
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(read(&deep).is_err());
        let long = format!("{{\"n\":{}}}", "9".repeat(ARGUMENT_NUMBER_BYTES_MAX + 1));
        assert!(read(&long).unwrap_err().contains("characters"));
    }

    #[test]
    fn usual_numbers_pass() {
        for text in ["-0", "-0.0", "1.0", "1", "1e308", "5e-324", "1e-400", "18446744073709551616"] {
            assert!(read(&format!("{{\"n\":{text}}}")).is_ok(), "{text}");
        }
    }
}
