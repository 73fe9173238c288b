//! The requests of SWE-ReX's client, as its models have them (`swerex.runtime.abstract`, 1.4).
//!
//! Fields that are not known are passed over: later clients send more.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use http_body_util::{BodyExt as _, Limited};
use mote_sandbox_api::error::{Code, Failure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Number;

use super::failure::Raised;
use crate::limits::SWEREX_BODY_BYTES_MAX;

/// A JSON body. `write_file` carries whole files in it.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Raised;

    async fn from_request(request: Request, _: &S) -> Result<Self, Raised> {
        let limit = SWEREX_BODY_BYTES_MAX;
        let body = Limited::new(request.into_body(), limit).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Failure::new(Code::TooLarge, format!("the body is longer than {limit} bytes")).with("limit", limit)
            } else {
                Failure::new(Code::Invalid, format!("failed to read the body: {error}"))
            }
        })?;
        let value = serde_json::from_slice(&body.to_bytes())
            .map_err(|error| Failure::new(Code::Invalid, format!("failed to read the body: {error}")))?;
        Ok(Self(value))
    }
}

#[derive(Deserialize)]
pub(super) struct CreateSession {
    #[serde(default = "default_session")]
    pub(super) session: String,
    #[serde(default)]
    pub(super) startup_source: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct CloseSession {
    #[serde(default = "default_session")]
    pub(super) session: String,
}

fn default_session() -> String {
    "default".to_owned()
}

/// What becomes of an exit status.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Check {
    /// One that is not 0 is raised.
    #[default]
    Raise,
    /// It is told.
    Silent,
    /// It is not told.
    Ignore,
}

#[derive(Deserialize)]
#[serde(tag = "action_type", rename_all = "snake_case")]
pub(super) enum Action {
    Bash(BashAction),
    BashInterrupt(CloseSession),
}

#[derive(Deserialize)]
pub(super) struct BashAction {
    pub(super) command: String,
    #[serde(default = "default_session")]
    pub(super) session: String,
    #[serde(default)]
    pub(super) timeout: Option<Number>,
    #[serde(default)]
    pub(super) is_interactive_command: bool,
    #[serde(default)]
    pub(super) is_interactive_quit: bool,
    #[serde(default)]
    pub(super) check: Check,
    #[serde(default)]
    pub(super) error_msg: String,
    #[serde(default)]
    pub(super) expect: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Words {
    Line(String),
    Words(Vec<String>),
}

#[derive(Deserialize)]
pub(super) struct Execute {
    pub(super) command: Words,
    #[serde(default)]
    pub(super) timeout: Option<Number>,
    #[serde(default)]
    pub(super) shell: bool,
    #[serde(default)]
    pub(super) check: bool,
    #[serde(default)]
    pub(super) error_msg: String,
    #[serde(default)]
    pub(super) env: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) cwd: Option<String>,
    #[serde(default)]
    pub(super) merge_output_streams: bool,
}

#[derive(Deserialize)]
pub(super) struct ReadFile {
    pub(super) path: String,
    #[serde(default)]
    pub(super) encoding: Option<String>,
    #[serde(default)]
    pub(super) errors: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WriteFile {
    pub(super) content: String,
    pub(super) path: String,
}

/// Seconds as a client has them.
pub(super) fn seconds(timeout: Option<&Number>) -> Result<Option<Duration>, Failure> {
    timeout
        .map(|seconds| {
            let duration = seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let duration = duration.filter(|duration| !duration.is_zero());
            duration.ok_or_else(|| Failure::invalid("timeout", format!("{seconds} is no time in seconds")))
        })
        .transpose()
}
