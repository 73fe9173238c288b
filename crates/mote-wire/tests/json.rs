//! The JSON reader against serde_json: it accepts what that accepts, and reads the same.

#![allow(clippy::unwrap_used)]

use mote_wire::json::{DEPTH_MAX, Reason, Value};
use proptest::prelude::*;

fn text(json: &str) -> String {
    Value::parse(json).unwrap().text().unwrap().to_string()
}

#[test]
fn strings_are_unescaped() {
    assert_eq!(text(r#" "a\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\ude00é" "#), "a\"\\/\u{8}\u{c}\n\r\té€😀é");
    assert_eq!(text(r#""\ud83d""#), "\u{fffd}", "half a pair");
    assert_eq!(text(r#""\ud83dA\ude00""#), "\u{fffd}A\u{fffd}", "two halves apart");
    assert_eq!(text(r#""\ud83d\ud83d\ude00""#), "\u{fffd}😀", "a half, then a pair");
}

#[test]
fn texts_compare_unescaped() {
    let value = Value::parse(r#""Prompt \u0069s too long""#).unwrap().text().unwrap();
    assert!(value.is("Prompt is too long"));
    assert!(!value.is("Prompt is too lon"));
    assert!(value.contains_ignoring_case("prompt is"));
    assert!(value.contains_ignoring_case(""));
    assert!(!value.contains_ignoring_case("prompts"));
}

#[test]
fn fields_are_found_by_name() {
    let value = Value::parse(r#"{"b": [1, {"a": 9}], "a": 1, "n": null, "\u0061": 2, "c": {"d": "x"}}"#).unwrap();
    let [a, n, missing, c] = value.fields(["a", "n", "missing", "c"]).unwrap();
    assert_eq!(a.unwrap().number().unwrap(), 2, "the last of a repeated key, however it is written");
    assert_eq!((n, missing), (None, None));
    let [d] = c.unwrap().fields(["d"]).unwrap();
    assert!(d.unwrap().text().unwrap().is("x"));
    assert_eq!(value.text().unwrap_err().reason, Reason::Type);
    assert_eq!(d.unwrap().fields(["e"]).unwrap_err().reason, Reason::Type);
}

#[test]
fn numbers_are_whole_and_never_overflow() {
    for (json, expected) in [("0", 0), ("12.9", 12), ("-5", 0), ("99999999999999999999999", u64::MAX)] {
        assert_eq!(Value::parse(json).unwrap().number(), Ok(expected), "{json}");
    }
    assert!(Value::parse("1e9").unwrap().number().is_err());
    assert!(Value::parse("\"1\"").unwrap().number().is_err());
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let max = DEPTH_MAX as usize;
    assert!(Value::parse(&nested(max)).is_ok());
    assert_eq!(Value::parse(&nested(max + 1)).unwrap_err().reason, Reason::TooDeep);
    assert_eq!(Value::parse(&"[{\"a\":".repeat(100_000)).unwrap_err().reason, Reason::TooDeep);
}

/// Documents with a fault put in somewhere, mostly.
fn nearly_json() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        Just("\"a\"".to_owned()),
        Just("\"\\n\\u00e9\"".to_owned()),
        Just("\"\\x\"".to_owned()),
        Just("-1.5e+3".to_owned()),
        Just("01".to_owned()),
        Just("true".to_owned()),
        Just("nul".to_owned()),
        Just(" ".to_owned()),
        "\\PC{0,3}",
    ];
    proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Rebuilds a document through the reader.
fn rebuild(value: Value<'_>) -> serde_json::Value {
    if let Ok(text) = value.text() {
        return text.to_string().into();
    }
    let mut items = Vec::new();
    let mut each = |item| {
        items.push(rebuild(item));
        Ok::<_, mote_wire::json::Error>(())
    };
    if value.items(&mut each).is_ok() {
        return items.into();
    }
    let mut members = serde_json::Map::new();
    if value.members(|key, member| drop(members.insert(key.to_string(), rebuild(member)))).is_ok() {
        return members.into();
    }
    match value.raw() {
        "null" => serde_json::Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ => value.number().unwrap().into(),
    }
}

proptest! {
    #[test]
    fn accepts_what_serde_json_accepts(json in nearly_json()) {
        let theirs = serde_json::from_str::<serde_json::Value>(&json);
        prop_assert_eq!(Value::parse(&json).is_ok(), theirs.is_ok(), "{:?}: {:?}", json, theirs);
    }

    #[test]
    fn reads_what_serde_json_writes(document in document()) {
        for json in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
            prop_assert_eq!(&rebuild(Value::parse(&json).unwrap()), &document);
        }
    }

    #[test]
    fn never_panics(json in "\\PC{0,60}") {
        if let Ok(value) = Value::parse(&json) {
            let _ = (value.text(), value.number(), value.fields(["a", ""]));
        }
    }
}
