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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::{Value, json};

    use super::super::tests::{World, agent, ask, says};
    use super::*;
    use crate::config::{self, Agent};

    #[tokio::test]
    async fn a_finished_task_is_published_until_the_sink_takes_it() {
        use axum::extract::State;
        use axum::http::StatusCode;

        type Seen = Arc<(AtomicU32, tokio::sync::mpsc::UnboundedSender<Value>)>;
        async fn sink(State(seen): State<Seen>, body: String) -> StatusCode {
            seen.1.send(serde_json::from_str(&body).unwrap()).unwrap();
            // The first delivery fails: the event must come again.
            if seen.0.fetch_add(1, Ordering::SeqCst) == 0 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
        }
        let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(sink).with_state(Arc::new((AtomicU32::new(0), sender)));
        tokio::spawn(async move { axum::serve(listener, router).await });

        let events = Some(config::EventSink { url, authorization: None });
        let world = World::new(Agent { events, ..agent() }, vec![says("hello")], &[]);
        let task = world.submit(ask("hi")).await;
        let (first, again) = (received.recv().await.unwrap(), received.recv().await.unwrap());
        assert_eq!(first, again);
        assert_eq!((&first["type"], &first["subject"]), (&json!("dev.mote.task.completed"), &json!(task)));
        assert_eq!((&first["specversion"], &first["data"]["result"]), (&json!("1.0"), &json!("hello")));
    }
}
