//! The parts of a path that a route names, read as every other input: what is not UTF-8 is a problem too.
//!
//! It does not look at what they say.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::{Code, Problem};

/// What stands in the path's places.
pub(super) struct Places<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Places<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(places)) => Ok(Self(places)),
            // Nothing has a name that is no text.
            Err(rejection) => Err(Problem::new(Code::RouteNotFound, rejection.body_text())),
        }
    }
}
