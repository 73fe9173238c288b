//! `Idempotency-Key`: the first answer under a key is given again, and the request has no second effect.
//!
//! The key is durable before the effect. The work is done and its answer kept whether or not the caller is there to hear it;
//! where a crash comes between the two, what was made under the key is found by the mark that it carries. Failures are not
//! kept: the caller may try again under the same key.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use mote_sandbox_api::error::{Code, Failure};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;
use tracing::Instrument as _;

use super::body::json;
use crate::api::Api;
use crate::api::access::Holder;
use crate::clock::UnixMs;
use crate::crash;
use crate::lifecycle::key::Key;
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::state::{Reply, State};

/// Requests under way, by key: two at once are one.
static UNDER_WAY: Mutex<Option<HashMap<String, Weak<tokio::sync::Mutex<()>>>>> = Mutex::new(None);

fn turn(key: &str) -> Arc<tokio::sync::Mutex<()>> {
    let mut guard = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let keys = guard.get_or_insert_default();
    if let Some(turn) = keys.get(key).and_then(Weak::upgrade) {
        return turn;
    }
    keys.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    keys.insert(key.to_owned(), Arc::downgrade(&turn));
    turn
}

/// Performs `operation` once under the request's key, if it has one. `scope` is the method and the path.
pub(in crate::api) async fn once<T, F>(
    api: &Api,
    holder: &Holder,
    headers: &HeaderMap,
    scope: &str,
    body: &[u8],
    status: StatusCode,
    operation: impl FnOnce(Option<Key>) -> F,
) -> Result<Response, Failure>
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(json(status, &operation(None).await?));
    };
    let key = key
        .to_str()
        .ok()
        .map(|key| key.trim_matches('"'))
        .filter(|key| !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_BYTES_MAX);
    let key = key.ok_or_else(|| {
        let message = format!("it must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} characters of ASCII");
        Failure::invalid("Idempotency-Key", message)
    })?;
    let asked = Asked {
        key: format!("{}\n{key}", holder.name),
        request: Sha256::digest([scope.as_bytes(), b"\n", body].concat()).into(),
    };
    let now = api.sandboxes.clock().now_ms();
    let (text, is_replayed) = asked.answer(api.sandboxes.store(), now, operation).await?;
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    if is_replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A request under a key.
struct Asked {
    /// The key, and who sent it.
    key: String,
    /// SHA-256 of the request.
    request: [u8; 32],
}

impl Asked {
    /// The answer as JSON, and whether it was given before.
    async fn answer<T, F>(
        self,
        store: &State,
        now: UnixMs,
        operation: impl FnOnce(Option<Key>) -> F,
    ) -> Result<(String, bool), Failure>
    where
        T: Serialize + Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let turn = turn(&self.key).lock_owned().await;
        let known = store.reply(&self.key).await?;
        if known.as_ref().is_some_and(|known| known.request != self.request) {
            return Err(Failure::new(Code::Conflict, "the idempotency key came back with another request"));
        }
        let (again, since_ms) = match known {
            Some(Reply { reply: Some(text), .. }) => return Ok((text, true)),
            Some(begun) => (true, begun.created_ms),
            None => (false, now),
        };
        let intent = Reply { request: self.request, reply: None, created_ms: since_ms };
        if !again {
            store.put_reply(&self.key, intent.clone()).await?;
        }
        let digest = Sha256::digest(&self.key).iter().map(|byte| format!("{byte:02x}")).collect();
        let work = operation(Some(Key { digest, again, since_ms }));
        // A task of its own: a caller that goes away abandons the answer, neither the work nor its record.
        let task = tokio::spawn(keep(store.clone(), turn, self.key, intent, work).in_current_span());
        let broke = |error| Failure::new(Code::Internal, format!("a request under an idempotency key broke: {error}"));
        task.await.map_err(broke)?.map(|text| (text, false))
    }
}

/// Does the work and keeps its answer, while nobody else has the key's turn.
async fn keep<T: Serialize + Send>(
    store: State,
    _turn: OwnedMutexGuard<()>,
    key: String,
    intent: Reply,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<String, Failure> {
    let written = |value: T| {
        serde_json::to_string(&value)
            .map_err(|error| Failure::new(Code::Internal, format!("failed to write the answer: {error}")))
    };
    let text = match work.await {
        Ok(value) => written(value)?,
        Err(failure) => {
            // Where it stays, the next attempt looks for what was made under it, and finds nothing.
            if let Err(error) = store.remove_reply(&key).await {
                tracing::warn!(%error, "failed to forget an idempotency key");
            }
            return Err(failure);
        }
    };
    crash::point("reply.after_effect");
    // Where it cannot be kept, the next attempt finds what was made by its mark.
    if let Err(error) = store.put_reply(&key, Reply { reply: Some(text.clone()), ..intent }).await {
        tracing::warn!(%error, "failed to keep the answer under an idempotency key");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn asked(request: u8) -> Asked {
        Asked { key: "ci\nk".to_owned(), request: [request; 32] }
    }

    #[tokio::test]
    async fn the_work_of_a_caller_that_went_away_is_finished_and_its_answer_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = State::open(folder.path()).unwrap();
        let (begun, go, effects) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let operation = {
            let (begun, go, effects) = (Arc::clone(&begun), Arc::clone(&go), Arc::clone(&effects));
            move |_| async move {
                begun.notify_one();
                go.notified().await;
                Ok(effects.fetch_add(1, Ordering::SeqCst))
            }
        };
        let caller = tokio::spawn({
            let store = store.clone();
            async move { asked(1).answer(&store, 1, operation).await }
        });
        begun.notified().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        go.notify_one();
        let again = asked(1).answer(&store, 2, |_| async { Ok(7) }).await.unwrap();
        assert_eq!(again, ("0".to_owned(), true), "the first one's answer");
        assert_eq!(effects.load(Ordering::SeqCst), 1);
        let other = asked(2).answer(&store, 3, |_| async { Ok(7) }).await.unwrap_err();
        assert_eq!(other.code, Code::Conflict);
    }

    #[tokio::test]
    async fn what_was_begun_and_never_answered_is_told_to_the_next_attempt_and_a_failure_frees_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let store = State::open(folder.path()).unwrap();
        // As a daemon that was killed in the middle leaves it.
        let begun = Reply { request: [1; 32], reply: None, created_ms: 5 };
        store.put_reply("ci\nk", begun).await.unwrap();
        let failed = asked(1).answer(&store, 9, |key| async move {
            let key = key.unwrap();
            assert_eq!((key.again, key.since_ms), (true, 5));
            Err::<(), _>(Failure::new(Code::NoSpace, "full"))
        });
        assert_eq!(failed.await.unwrap_err().code, Code::NoSpace);
        let fresh = asked(1).answer(&store, 9, |key| async move { Ok(key.unwrap().again) }).await.unwrap();
        assert_eq!(fresh, ("false".to_owned(), false));
    }
}
