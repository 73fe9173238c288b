//! Delivers CloudEvents from the outbox to the configured sink, at least once. What is in the outbox was committed with
//! the task's end; nothing is composed here.

use std::sync::Arc;

use super::Shared;
use crate::config::EventSink;
use crate::limits::{OUTBOX_BACKOFF_DOUBLINGS, OUTBOX_BATCH, OUTBOX_DELIVERY_TIMEOUT, WORK_POLL};

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
                    let delivered = tokio::select! {
                        delivered = client.deliver(&sink, message.body) => delivered,
                        // A sink that is silent must not hold the process; the next one delivers it, perhaps again.
                        () = shared.drain.cancelled() => return,
                    };
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
            () = tokio::time::sleep(WORK_POLL) => {}
        }
    }
}

struct Client {
    http: reqwest::Client,
    authorization: Option<crate::secret::SecretValue>,
}

fn client(sink: &EventSink) -> Result<Client, String> {
    let tls = crate::tls::client_config(None).map_err(|error| error.to_string())?;
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.as_ref().clone())
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(OUTBOX_DELIVERY_TIMEOUT)
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
                let sink = host(&sink.url);
                tracing::warn!(
                    sink,
                    status = response.status().as_u16(),
                    "the event sink refused an event; trying again"
                );
                false
            }
            Err(error) => {
                let (sink, error) = (host(&sink.url), describe(error));
                tracing::warn!(sink, error, "failed to deliver an event; trying again");
                false
            }
        }
    }
}

/// The sink's host and port: its path and query may hold a secret.
fn host(url: &str) -> String {
    let host = |url: reqwest::Url| url.host_str().map(|host| (host.to_owned(), url.port_or_known_default()));
    match reqwest::Url::parse(url).ok().and_then(host) {
        Some((host, Some(port))) => format!("{host}:{port}"),
        Some((host, None)) => host,
        None => String::new(),
    }
}

/// The error with what caused it, without the URL.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
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
    #[tokio::test]
    async fn a_sink_that_is_silent_does_not_hold_up_the_end_and_its_event_stays() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let events = Some(config::EventSink { url, authorization: None });
        let world = World::new(Agent { events, ..agent() }, vec![says("hello")], &[]);
        let task = world.submit(ask("hi")).await;
        let (_silent, _) = listener.accept().await.unwrap();
        world.end(&task).await;
        let before = world.store.outbox(u64::MAX, 9).await.unwrap();
        world.runner.drain(std::time::Duration::from_secs(60)).await;
        let due = world.store.outbox(crate::clock::Clock::now_ms(&crate::clock::System), 9).await.unwrap();
        assert_eq!(due, before, "it is not counted as refused: the next process delivers it at once");
        assert_eq!(due.len(), 1);
    }
}
