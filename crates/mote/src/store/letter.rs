//! Mail with its sender.
//!
//! It does not know where mail goes; a backend does.

use serde::{Deserialize, Serialize};

use super::Mail;

/// Who left mail: it stands in the journal beside what the mail brought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct By {
    /// Name of the API key; `anonymous` where the service has no keys.
    pub key: String,
    /// The person, as the caller names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Mail with its sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// What it says.
    #[serde(flatten)]
    pub mail: Mail,
    /// Who says it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
}

impl From<Mail> for Letter {
    fn from(mail: Mail) -> Self {
        Self { mail, by: None }
    }
}
