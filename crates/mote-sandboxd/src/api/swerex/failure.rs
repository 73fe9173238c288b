//! Failures as SWE-ReX carries them: status 511, and the class of the exception that its client raises.
//!
//! No traceback is sent: the daemon has none.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use mote_sandbox_api::error::{Code, Failure};
use serde_json::{Value, json};

/// An exception on its way to the client.
#[derive(Debug)]
pub(super) struct Raised {
    class: &'static str,
    message: String,
    extra: Value,
}

impl Raised {
    /// An exception of SWE-ReX's own.
    pub(super) fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), extra: json!({}) }
    }

    /// With what the client finds in `extra_info`.
    pub(super) fn with(self, extra: Value) -> Self {
        Self { extra, ..self }
    }
}

/// A command that ran beyond its time.
pub(super) const TIMEOUT: &str = "swerex.exceptions.CommandTimeoutError";
/// A command that failed where that was to be raised.
pub(super) const NON_ZERO: &str = "swerex.exceptions.NonZeroExitCodeError";
/// A command that bash cannot parse.
pub(super) const SYNTAX: &str = "swerex.exceptions.BashIncorrectSyntaxError";
/// A session of that name is there.
pub(super) const EXISTS: &str = "swerex.exceptions.SessionExistsError";
/// No session of that name is there.
pub(super) const ABSENT: &str = "swerex.exceptions.SessionDoesNotExistError";

impl From<Failure> for Raised {
    fn from(failure: Failure) -> Self {
        // Python's own where the reference server raises them.
        let class = match failure.code {
            Code::Timeout => TIMEOUT,
            Code::NotFound => "builtins.FileNotFoundError",
            Code::Forbidden => "builtins.PermissionError",
            Code::Invalid => "builtins.ValueError",
            Code::Unsupported => "builtins.NotImplementedError",
            _ => "swerex.exceptions.SwerexException",
        };
        let extra = json!({ "code": failure.code, "context": failure.context });
        Self { class, message: failure.message, extra }
    }
}

impl IntoResponse for Raised {
    fn into_response(self) -> Response {
        let transfer =
            json!({ "message": self.message, "class_path": self.class, "traceback": "", "extra_info": self.extra });
        // The status that the client reads an exception from.
        (StatusCode::NETWORK_AUTHENTICATION_REQUIRED, Json(json!({ "swerexception": transfer }))).into_response()
    }
}
