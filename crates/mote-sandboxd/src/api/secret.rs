//! Secrets as every surface sets and removes them: one set of checks, and sandboxes that use one are told of the change.
//!
//! It keeps none: `state` does, sealed.

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::Secret;

use super::Api;
use crate::lifecycle::check;
use crate::limits::SECRET_BYTES_MAX;

/// Sets a secret. Sandboxes that have it bound use the new value from now on.
///
/// # Errors
/// `invalid`, `too_large`, and the state's.
pub(super) async fn put(api: &Api, name: &str, value: &str) -> Result<Secret, Failure> {
    check::name("name", name)?;
    if value.is_empty() {
        return Err(Failure::invalid("value", "it must not be empty"));
    }
    if value.len() > SECRET_BYTES_MAX {
        let message = format!("the value is longer than {SECRET_BYTES_MAX} bytes");
        return Err(Failure::new(Code::TooLarge, message).with("limit", SECRET_BYTES_MAX));
    }
    let changed_ms = api.sandboxes.clock().now_ms();
    api.sandboxes.store().put_secret(name, value, changed_ms).await?;
    api.network.renew(name);
    Ok(Secret { name: name.to_owned(), changed_ms })
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
