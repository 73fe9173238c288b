//! Values with units, as they are written: text that [`crate::config::units`] reads.
//!
//! The patterns serve editors; they do not decide what is valid.

use schemars::JsonSchema;
use serde::Deserialize;

/// A duration: a number and `ms`, `s`, `m`, `h`, `d` or `w`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(example = &"10s", extend("x-hint" = "write a unit: 250ms, 10s, 5m, 2h or 30d"))]
pub(in crate::config) struct Duration(
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)? *(ms|s|m|h|d|w)$"))] pub(in crate::config) String,
);

/// A size: a number and `B`, `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(example = &"64KiB", extend("x-hint" = "write a unit: 512B, 64KiB or 1MB"))]
pub(in crate::config) struct Size(
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)? *([kKMG]B|[KMG]iB|B)$"))] pub(in crate::config) String,
);

/// A token count: a number, alone or with `k` or `M`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(example = &"120k")]
pub(in crate::config) enum Tokens {
    /// With `k` or `M`.
    Text(#[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)? *[kKM]?$"))] String),
    /// Alone.
    Number(#[schemars(range(min = 0))] u64),
}
