//! Delivers CloudEvents from the outbox to the configured sink, at least once. What is in the outbox was committed with
//! the task's end; nothing is composed here.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::worker::POLL;
use crate::config::EventSink;
use crate::limits::{OUTBOX_BACKOFF_DOUBLINGS, OUTBOX_BATCH};

/// Bound on one delivery.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn deliver_loop(shared: Arc<Shared>, sink: EventSink) {
    let client = match client(&sink) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "events are not delivered; they stay in the outbox");
            return;
        }
    };
    let mut failures = 0;
    loop {
        let now = shared.clock.now_ms();
        match shared.store.outbox(now, OUTBOX_BATCH).await {
            Ok(messages) => {
                for (row, message) in messages {
                    let delivered = client.deliver(&sink, message.body).await;
                    failures = if delivered { 0 } else { failures + 1 };
                    let backoff = 1_000_u64 << failures.min(OUTBOX_BACKOFF_DOUBLINGS);
                    let retry_at = (!delivered).then(|| shared.clock.now_ms().saturating_add(backoff));
                    if let Err(error) = shared.store.outbox_done(row, retry_at).await {
                        tracing::warn!(%error, "failed to mark an event; it may be delivered twice");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "failed to read the outbox; trying again"),
        }
        tokio::select! {
            () = shared.drain.cancelled() => return,
            () = shared.finished.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

struct Client {
    http: reqwest::Client,
    authorization: Option<crate::config::SecretValue>,
}

fn client(sink: &EventSink) -> Result<Client, String> {
    let tls = crate::tls::client_config(None).map_err(|error| error.to_string())?;
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.as_ref().clone())
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let authorization = sink.authorization.as_ref().map(|secret| secret.read().map_err(|error| error.to_string()));
    Ok(Client { http, authorization: authorization.transpose()? })
}

impl Client {
    async fn deliver(&self, sink: &EventSink, body: String) -> bool {
        let mut request = self.http.post(&sink.url).header("content-type", "application/cloudevents+json").body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.expose());
        }
        match request.send().await {
            Ok(response) if response.status().is_success() => true,
            Ok(response) => {
                tracing::warn!(status = response.status().as_u16(), "the event sink refused an event; trying again");
                false
            }
            Err(error) => {
                tracing::warn!(error = %error.without_url(), "failed to deliver an event; trying again");
                false
            }
        }
    }
}
