//! The part of the keeper that serves `network`: its verbs and how they are carried out, with privilege.
//!
//! It does not decide: whether a verb is due is the daemon's matter.

use serde::{Deserialize, Serialize};

/// What the daemon can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {}
