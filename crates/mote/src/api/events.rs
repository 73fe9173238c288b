//! `GET /tasks/{id}/events`: a task as it happens, over Server-Sent Events; the same messages go over WebSocket
//! ([`super::ws`]) and over a streaming `POST /run`.
//!
//! Journal events carry `id: <seq>` and are read from the store, so that a client resumes where it stopped. Deltas are
//! ephemeral: they carry step and attempt, no id, and follow a snapshot of the text so far. Nothing is buffered here
//! beyond one page: a slow client slows its own reading.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::access::Caller;
use super::dto::{self, TaskBody};
use super::event_payload;
use super::path::Places;
use super::problem::{Code, Problem};
use super::query::Params;
use super::run::CancelOnDrop;
use super::state::{Api, StreamPlace};
use crate::limits;
use crate::model::Delta;
use crate::runner::{Live, Runner};
use crate::store::{self, Status, Store, Task};
use crate::timestamp::format_rfc3339;

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// One message of a stream. Over SSE, `event:` repeats the journal event's `kind`, or else `type`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum StreamMessage {
    /// A journal event: durable, in order, without gaps.
    Event {
        /// Its position, from 1: the id from which a stream resumes.
        seq: u64,
        /// What happened, e.g. `model.replied`.
        kind: String,
        /// When, RFC 3339.
        at: String,
        /// The attempt at the whole task that wrote it: rises when another worker takes over.
        epoch: u64,
        /// What belongs to it; its shape depends on the kind, see docs/events.md.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<super::event_payload::EventPayload>)]
        payload: Option<Box<RawValue>>,
    },
    /// The reply under way, from its beginning: replaces what earlier deltas gave.
    Snapshot {
        /// Model step.
        step: u32,
        /// Attempt within it.
        attempt: u32,
        /// Its text so far.
        text: String,
    },
    /// A piece of the reply under way. A new step or attempt begins a new text.
    Delta {
        /// Model step.
        step: u32,
        /// Attempt within it.
        attempt: u32,
        /// `text`, `reasoning` or `call`.
        part: &'static str,
        /// The piece; for `call`, the tool's name.
        text: String,
    },
    /// The task waits: for an approval, an answer, a signal or a time. Told once for each rest, also to who comes later.
    Waiting {
        /// The newest event; the task waits behind it.
        seq: u64,
        /// What it waits for, each with the request that answers it.
        #[schema(value_type = Vec<dto::WaitBody>)]
        waiting: Box<RawValue>,
    },
    /// The task is terminal; the stream closes.
    End {
        /// The task.
        task: Box<TaskBody>,
    },
    /// The stream cannot go on.
    Error {
        /// A code of docs/errors.md.
        code: &'static str,
        /// For a person.
        detail: String,
    },
}

/// What a stream has to say next.
pub(super) enum Item {
    /// A message.
    Message(StreamMessage),
    /// Nothing happened for a while: show that the connection lives.
    Idle,
}

/// Tells when a task may have changed: this process says so at once, another one's change is found by looking again.
pub(super) struct Changes {
    seen: watch::Receiver<u64>,
    open: bool,
}

impl Changes {
    pub(super) fn of(store: &Arc<dyn Store>, task: &str) -> Self {
        Self { seen: store.subscribe(task), open: true }
    }

    /// To be called before reading the store: what changes after it is told.
    pub(super) fn mark_seen(&mut self) {
        self.seen.borrow_and_update();
    }

    /// Waits for a change, [`limits::STREAM_KEEP_ALIVE`] at most.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            () = self.told() => {}
            () = sleep(limits::STREAM_KEEP_ALIVE) => {}
        }
    }

    /// Waits for a change that this process made.
    async fn told(&mut self) {
        if self.open && self.seen.changed().await.is_ok() {
            return;
        }
        // The store no longer tells of this task.
        self.open = false;
        std::future::pending().await
    }
}

/// Follows one task from a cursor to its end. Every await may be abandoned: nothing is lost with it.
pub(super) struct Follower {
    runner: Runner,
    id: String,
    /// Position of the last event that was handed out.
    cursor: u64,
    changes: Changes,
    queue: VecDeque<store::Entry>,
    /// Whether the store may hold more than was read.
    stale: bool,
    live: Option<broadcast::Receiver<Live>>,
    /// Looks left for the deltas of a run that was just claimed.
    attach_tries: u32,
    status: Status,
    /// The event behind which the task was last said to wait.
    told: Option<u64>,
    quiet_until: Instant,
    closing: CancellationToken,
    over: bool,
    guard: Option<CancelOnDrop>,
    _place: Option<StreamPlace>,
}

enum Woke {
    Changed,
    Attach,
    Live(Result<Live, RecvError>),
    Quiet,
    Closing,
}

impl Follower {
    /// Begins behind `after`. With a guard, the run is cancelled if the follower is dropped before the run waits or ends.
    pub(super) fn open(api: &Api, id: &str, after: u64, place: StreamPlace, guard: Option<CancelOnDrop>) -> Self {
        Self::new(&api.runner, id, after, api.closing.clone(), Some(place), guard)
    }

    fn new(
        runner: &Runner,
        id: &str,
        after: u64,
        closing: CancellationToken,
        place: Option<StreamPlace>,
        guard: Option<CancelOnDrop>,
    ) -> Self {
        let changes = Changes::of(runner.store(), id);
        Self {
            runner: runner.clone(),
            id: id.to_owned(),
            cursor: after,
            changes,
            queue: VecDeque::new(),
            stale: true,
            live: None,
            attach_tries: limits::STREAM_ATTACH_TRIES,
            status: Status::Queued,
            told: None,
            quiet_until: Instant::now() + limits::STREAM_KEEP_ALIVE,
            closing,
            over: false,
            guard,
            _place: place,
        }
    }

    /// What comes next; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Item> {
        let item = self.advance().await?;
        self.quiet_until = Instant::now() + limits::STREAM_KEEP_ALIVE;
        Some(item)
    }

    async fn advance(&mut self) -> Option<Item> {
        loop {
            if self.over {
                return None;
            }
            if let Some(entry) = self.queue.pop_front() {
                self.cursor = entry.seq;
                if !event_payload::is_public(&entry.kind) {
                    continue;
                }
                return Some(Item::Message(event(entry)));
            }
            if self.stale {
                match self.read().await {
                    Ok(None) => continue,
                    Ok(Some(message)) => return Some(Item::Message(message)),
                    Err(problem) => {
                        self.over = true;
                        return Some(Item::Message(failure(&problem)));
                    }
                }
            }
            if let Some(snapshot) = self.attach() {
                return Some(Item::Message(snapshot));
            }
            match self.wait().await {
                Woke::Changed => {
                    self.stale = true;
                    self.attach_tries = limits::STREAM_ATTACH_TRIES;
                }
                Woke::Attach => self.attach_tries -= 1,
                Woke::Live(Ok(live)) => return Some(Item::Message(delta(live))),
                // Too slow: a new snapshot makes up for what was missed.
                Woke::Live(Err(RecvError::Lagged(_))) => self.live = None,
                Woke::Live(Err(RecvError::Closed)) => {
                    self.live = None;
                    self.stale = true;
                    self.attach_tries = 0;
                }
                Woke::Quiet => {
                    self.stale = true;
                    return Some(Item::Idle);
                }
                Woke::Closing => {
                    self.disarm();
                    self.over = true;
                }
            }
        }
    }

    /// Reads one page, or finds that the end was reached.
    async fn read(&mut self) -> Result<Option<StreamMessage>, Problem> {
        self.changes.mark_seen();
        let store = self.runner.store();
        let Some(task) = store.task(None, &self.id).await? else { return Err(Problem::task_not_found(&self.id)) };
        if task.seq < self.cursor {
            // It was run anew meanwhile: its new life is told from the beginning.
            self.cursor = 0;
        }
        let entries = if task.seq > self.cursor {
            store.journal(&self.id, self.cursor, limits::PAGE_MAX).await?
        } else {
            Vec::new()
        };
        self.status = task.status;
        let terminal = task.status.is_terminal();
        if terminal || task.status == Status::Waiting {
            self.disarm();
        }
        if entries.is_empty() {
            self.stale = false;
            if terminal {
                self.over = true;
                return Ok(Some(StreamMessage::End { task: Box::new(task.into()) }));
            }
            if task.status == Status::Waiting && self.told != Some(task.seq) {
                self.told = Some(task.seq);
                let waiting = task.waiting.map_or_else(|| dto::raw("[]".to_owned()), dto::raw);
                return Ok(Some(StreamMessage::Waiting { seq: task.seq, waiting }));
            }
            return Ok(None);
        }
        let whole = entries.last().is_some_and(|last| last.seq >= task.seq);
        // What is told behind the last event is told by the next reading.
        self.stale = terminal || !whole || task.status == Status::Waiting;
        self.queue = entries.into();
        Ok(None)
    }

    /// Joins the reply under way in this process, if there is one.
    fn attach(&mut self) -> Option<StreamMessage> {
        if self.live.is_some() || self.attach_tries == 0 {
            return None;
        }
        let view = self.runner.live(&self.id)?;
        self.live = Some(view.deltas);
        Some(StreamMessage::Snapshot { step: view.step, attempt: view.attempt, text: view.text })
    }

    /// Waits for whatever comes first. Deltas go before a change: they precede the journal event that ends their reply.
    async fn wait(&mut self) -> Woke {
        let looking = self.live.is_none() && self.attach_tries > 0 && self.status == Status::Running;
        let delta = async {
            match &mut self.live {
                Some(live) => live.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            live = delta => Woke::Live(live),
            () = self.changes.told() => Woke::Changed,
            () = sleep(limits::STREAM_ATTACH_INTERVAL), if looking => Woke::Attach,
            () = sleep_until(self.quiet_until) => Woke::Quiet,
            () = self.closing.cancelled() => Woke::Closing,
        }
    }

    fn disarm(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.disarm();
        }
    }
}

/// The stream's messages of one task, for a watcher in this process: JSON, one object each, until the task ends.
pub fn watch(runner: &Runner, task: &str) -> impl stream::Stream<Item = String> + use<> {
    let follower = Follower::new(runner, task, 0, CancellationToken::new(), None, None);
    stream::unfold(follower, async |mut follower| {
        loop {
            if let Item::Message(message) = follower.next().await? {
                return Some((json(&message), follower));
            }
        }
    })
}

fn event(entry: store::Entry) -> StreamMessage {
    let payload = event_payload::public(&entry);
    let store::Entry { seq, epoch, at, kind, .. } = entry;
    StreamMessage::Event { seq, kind, at: format_rfc3339(at), epoch, payload }
}

fn delta(live: Live) -> StreamMessage {
    let Live { step, attempt, delta } = live;
    let (part, text) = match delta {
        Delta::Text(text) => ("text", text),
        Delta::Reasoning(text) => ("reasoning", text),
        Delta::Call { name } => ("call", name),
    };
    StreamMessage::Delta { step, attempt, part, text }
}

pub(super) fn failure(problem: &Problem) -> StreamMessage {
    StreamMessage::Error { code: problem.code.as_str(), detail: problem.detail().to_owned() }
}

/// A message as JSON on one line.
pub(super) fn json(message: &StreamMessage) -> String {
    // Line breaks stand only between the tokens of stored JSON: within strings they are escaped.
    let line = |text: String| if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text };
    match serde_json::to_string(message) {
        Ok(text) => line(text),
        Err(error) => {
            tracing::error!(%error, "failed to write a stream's message");
            r#"{"type":"error","code":"internal","detail":"failed to write the message"}"#.to_owned()
        }
    }
}

/// A frame of Server-Sent Events (WHATWG HTML, section 9.2).
fn frame(item: &Item) -> Bytes {
    let Item::Message(message) = item else { return Bytes::from_static(b": keep-alive\n\n") };
    let json = json(message);
    let text = match message {
        StreamMessage::Event { seq, kind, .. } => {
            let kind: String = kind.chars().filter(|c| !c.is_control()).collect();
            format!("id: {seq}\nevent: {kind}\ndata: {json}\n\n")
        }
        StreamMessage::Snapshot { .. } => format!("event: snapshot\ndata: {json}\n\n"),
        StreamMessage::Delta { .. } => format!("event: delta\ndata: {json}\n\n"),
        StreamMessage::Waiting { .. } => format!("event: waiting\ndata: {json}\n\n"),
        StreamMessage::End { .. } => format!("event: end\ndata: {json}\n\n"),
        StreamMessage::Error { .. } => format!("event: error\ndata: {json}\n\n"),
    };
    Bytes::from(text)
}

/// The response that streams what the follower finds.
pub(super) fn response(follower: Follower) -> Response {
    let frames = stream::unfold(follower, async |mut follower| {
        let item = follower.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame(&item)), follower))
    });
    let mut response = Body::from_stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(event_payload::VERSION_HEADER, HeaderValue::from(event_payload::VERSION));
    // Reverse proxies of the nginx kind hold a stream back otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// Streams a task's events.
#[utoipa::path(
    get, path = "/tasks/{id}/events", tag = "tasks", operation_id = "task_events",
    params(
        ("id" = String, Path, description = "The task."),
        ("after" = Option<u64>, Query, description = "Begin behind this event; `Last-Event-ID` wins."),
        ("token" = Option<String>, Query, description = "Of `POST /tasks/{id}/stream-token`, in a key's place."),
        ("Last-Event-ID" = Option<u64>, Header, description = "Where the last stream stopped."),
    ),
    responses(
        (status = 200, description = "Journal events, then what happens; closes after `end`.", body = StreamMessage, content_type = "text/event-stream"),
        (status = 204, description = "The client has seen the whole of a finished task: do not reconnect."),
        (status = 404, description = "No such task.", body = super::problem::Body, content_type = "application/problem+json"),
    ),
    security(("key" = ["read"]), ("header_key" = ["read"]), ("stream_token" = ["read"])),
)]
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    Caller(principal): Caller,
    Places(id): Places<String>,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = params.take_number("after")?;
    // The gate has read it.
    params.take(super::token::PARAMETER)?;
    params.finish()?;
    let last = super::text_header(&headers, &LAST_EVENT_ID)?.filter(|text| !text.is_empty());
    let not_ours = || Problem::field(Code::InvalidHeader, LAST_EVENT_ID.as_str(), "is not an id of this stream");
    let last = last.map(|text| super::query::number(text).ok_or_else(not_ours)).transpose()?;
    let task = super::tasks::visible(&api, &principal, &id).await?;
    let cursor = last.or(after).unwrap_or(0);
    check_cursor(&task, cursor)?;
    if task.status.is_terminal() && last.is_some_and(|last| last >= task.seq) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let place = api.stream_place(&principal)?;
    Ok(response(Follower::open(&api, &id, cursor, place, None)))
}

/// A cursor beyond the journal's end belongs to an earlier life of the task, before it was run anew.
pub(super) fn check_cursor(task: &Task, cursor: u64) -> Result<(), Problem> {
    if cursor <= task.seq {
        return Ok(());
    }
    let detail = format!("the cursor {cursor} is beyond the newest event, {}; begin again without it", task.seq);
    Err(Problem::new(Code::CursorInvalid, detail))
}
