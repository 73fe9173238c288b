//! What identifies a call: the idempotency key, and the digest by which repeated calls are noticed.
//!
//! Everything here is a pure function of its arguments, so that any worker derives the same key after a crash. It does
//! not remember keys; the store does.

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::canonical::canonical;

/// The idempotency key of one call: 64 hexadecimal digits, the same for every attempt, another for any other call.
#[must_use]
pub fn idempotency_key(run: &str, step: u32, call_index: u32, tool: &str, arguments: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(b"mote call v1\0");
    field(&mut hash, run.as_bytes());
    field(&mut hash, &step.to_be_bytes());
    field(&mut hash, &call_index.to_be_bytes());
    field(&mut hash, tool.as_bytes());
    field(&mut hash, canonical(arguments).as_bytes());
    HEXLOWER.encode(&hash.finalize())
}

/// A short digest of a tool and its arguments, by which the core notices that a turn repeats itself.
#[must_use]
pub fn call_digest(tool: &str, arguments: &Value) -> u64 {
    let mut hash = Sha256::new();
    field(&mut hash, tool.as_bytes());
    field(&mut hash, canonical(arguments).as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first)
}

/// Fields carry their length, so that no two field lists run together into the same bytes.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_depends_on_every_part_and_on_nothing_else() {
        let key = |run, step, index, tool, arguments: &str| {
            idempotency_key(run, step, index, tool, &serde_json::from_str(arguments).unwrap())
        };
        let first = key("task_1", 1, 0, "pay", r#"{"a":1,"b":2.0}"#);
        assert_eq!(first, key("task_1", 1, 0, "pay", r#"{ "b": 2, "a": 1 }"#));
        assert_eq!(first.len(), 64);
        let others = [
            key("task_2", 1, 0, "pay", r#"{"a":1,"b":2}"#),
            key("task_1", 2, 0, "pay", r#"{"a":1,"b":2}"#),
            key("task_1", 1, 1, "pay", r#"{"a":1,"b":2}"#),
            key("task_1", 1, 0, "pay2", r#"{"a":1,"b":2}"#),
            key("task_1", 1, 0, "pay", r#"{"a":1,"b":3}"#),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn a_call_digest_ignores_the_order_of_arguments() {
        assert_eq!(call_digest("t", &json!({"a": 1, "b": [2]})), call_digest("t", &json!({"b": [2.0], "a": 1})));
        assert_ne!(call_digest("t", &json!({"a": 1})), call_digest("u", &json!({"a": 1})));
    }

    #[test]
    fn the_key_format_is_frozen() {
        // A journal outlives the program that wrote it: a changed key would repeat an effect.
        assert_eq!(
            idempotency_key("task_0", 3, 1, "refund", &json!({"id": "t-1", "amount": 12.5})),
            "05087cad6e0dd49d9745b857c644c1ee8accf5e5c568355a4740ba9cb0c177e8"
        );
    }
}
