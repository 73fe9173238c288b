//! Secrets as every surface sets and removes them: one set of checks, and sandboxes that use one are told of the change.
//!
//! It keeps none: `state` does, sealed.

use std::collections::BTreeMap;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::Secret;

use super::Api;
use crate::lifecycle::check;
use crate::limits::{
    SECRET_BYTES_MAX, SECRET_METADATA_BYTES_MAX, SECRET_METADATA_ENTRIES_MAX, SECRET_METADATA_KEY_BYTES_MAX,
    SECRET_METADATA_VALUE_BYTES_MAX,
};

/// Sets a secret. Sandboxes that have it bound use the new value from now on.
///
/// # Errors
/// `invalid`, `too_large`, and the state's.
pub(super) async fn put(
    api: &Api,
    name: &str,
    value: &str,
    metadata: Option<&BTreeMap<String, String>>,
) -> Result<Secret, Failure> {
    check::name("name", name)?;
    if value.is_empty() {
        return Err(Failure::invalid("value", "it must not be empty"));
    }
    if value.len() > SECRET_BYTES_MAX {
        let message = format!("the value is longer than {SECRET_BYTES_MAX} bytes");
        return Err(Failure::new(Code::TooLarge, message).with("limit", SECRET_BYTES_MAX));
    }
    if let Some(metadata) = metadata {
        check_metadata(metadata)?;
    }
    let changed_ms = api.sandboxes.clock().now_ms();
    api.sandboxes.store().put_secret(name, value, metadata, changed_ms).await?;
    api.network.renew(name);
    Ok(Secret { name: name.to_owned(), changed_ms })
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Failure> {
    let wrong = |message: String, limit: usize| Err(Failure::invalid("metadata", message).with("limit", limit));
    if metadata.len() > SECRET_METADATA_ENTRIES_MAX {
        return wrong(format!("at most {SECRET_METADATA_ENTRIES_MAX} entries"), SECRET_METADATA_ENTRIES_MAX);
    }
    for (key, text) in metadata {
        if key.is_empty() || key.len() > SECRET_METADATA_KEY_BYTES_MAX {
            let message = format!("a key has 1 to {SECRET_METADATA_KEY_BYTES_MAX} bytes");
            return wrong(message, SECRET_METADATA_KEY_BYTES_MAX);
        }
        if text.len() > SECRET_METADATA_VALUE_BYTES_MAX {
            let message = format!("the value of {key:?} is longer than {SECRET_METADATA_VALUE_BYTES_MAX} bytes");
            return wrong(message, SECRET_METADATA_VALUE_BYTES_MAX);
        }
    }
    let bytes: usize = metadata.iter().map(|(key, text)| key.len() + text.len()).sum();
    if bytes > SECRET_METADATA_BYTES_MAX {
        let message = format!("{bytes} bytes are more than {SECRET_METADATA_BYTES_MAX}");
        return wrong(message, SECRET_METADATA_BYTES_MAX);
    }
    Ok(())
}

/// Removes a secret. Sandboxes that have it bound live on without it: what they send from now on holds the placeholder.
///
/// # Errors
/// `not_found`, and the state's.
pub(super) async fn remove(api: &Api, name: &str) -> Result<(), Failure> {
    let removed = api.sandboxes.store().remove_secret(name).await?;
    api.network.renew(name);
    if removed { Ok(()) } else { Err(Failure::not_found("secret", name)) }
}
