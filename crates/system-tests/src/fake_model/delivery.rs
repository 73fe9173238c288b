//! How a reply leaves: events framed into writes, paced, and broken on demand. It does not know what the events mean.

use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;

use super::plan::{Behaviour, Fault, Framing};
use super::server::InFlight;

/// One server-sent event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    name: Option<&'static str>,
    data: String,
    repeatable: bool,
}

impl Event {
    pub(crate) fn data(value: Value) -> Self {
        Self { name: None, data: value.to_string(), repeatable: false }
    }

    pub(crate) fn named(name: &'static str, value: Value) -> Self {
        Self { name: Some(name), ..Self::data(value) }
    }

    pub(crate) fn raw(data: &str) -> Self {
        Self { name: None, data: data.to_owned(), repeatable: false }
    }

    /// It carries no content: repeating it must change nothing.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    fn render(&self, line_end: &str) -> String {
        let name = self.name.map_or_else(String::new, |name| format!("event: {name}{line_end}"));
        format!("{name}data: {}{line_end}{line_end}", self.data)
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Proper,
    Cut,
    Hang,
}

/// What lies between two writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Nothing: the HTTP stack may join them.
    None,
    /// What was written leaves before the next.
    Flush,
    /// Time.
    Ms(u64),
}

impl Pause {
    async fn take(self) {
        match self {
            Self::None => {}
            // A body that is not ready makes the HTTP stack flush what it has.
            Self::Flush => tokio::task::yield_now().await,
            Self::Ms(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }
}

/// Makes the body of a streamed answer.
pub(crate) fn streamed(behaviour: &Behaviour, mut events: Vec<Event>, overloaded: Event, guard: InFlight) -> Body {
    let mut end = End::Proper;
    match behaviour.fault {
        Some(Fault::OverloadedMidStream { after }) => {
            events.truncate(after);
            events.push(overloaded);
        }
        Some(Fault::Truncated { after }) => events.truncate(after),
        Some(Fault::Cut { after }) => {
            events.truncate(after);
            end = End::Cut;
        }
        Some(Fault::HangMidStream { after }) => {
            events.truncate(after);
            end = End::Hang;
        }
        Some(Fault::Malformed { after }) => events.insert(after.min(events.len()), Event::raw("{\"id\": not json")),
        _ => {}
    }
    let pause = if matches!(behaviour.framing, Framing::Split(_)) { Pause::Flush } else { Pause::None };
    let pause = if behaviour.timing.chunk_ms > 0 { Pause::Ms(behaviour.timing.chunk_ms) } else { pause };
    paced(writes(behaviour.framing, &events), pause, end, guard)
}

/// Makes the body of an answer in one piece; a fault within it cuts it in the middle.
pub(crate) fn whole(behaviour: &Behaviour, answer: &Value, guard: InFlight) -> Body {
    let mut text = answer.to_string();
    let half = text.len() / 2;
    let end = match behaviour.fault {
        Some(Fault::Cut { .. }) => End::Cut,
        Some(Fault::HangMidStream { .. }) => End::Hang,
        Some(Fault::Truncated { .. } | Fault::OverloadedMidStream { .. } | Fault::Malformed { .. }) => {
            text.truncate(half);
            End::Proper
        }
        _ => End::Proper,
    };
    if end != End::Proper {
        text.truncate(half);
    }
    paced(vec![Bytes::from(text)], Pause::None, end, guard)
}

fn writes(framing: Framing, events: &[Event]) -> Vec<Bytes> {
    let plain = |event: &Event| Bytes::from(event.render("\n"));
    match framing {
        Framing::Each => events.iter().map(plain).collect(),
        Framing::Merged => vec![events.iter().map(|event| event.render("\n")).collect::<String>().into()],
        Framing::Split(size) => {
            let all = Bytes::from(events.iter().map(|event| event.render("\n")).collect::<String>());
            let size = size.max(1);
            (0..all.len()).step_by(size).map(|at| all.slice(at..(at + size).min(all.len()))).collect()
        }
        Framing::Repeated => {
            let times = |event: &Event| if event.repeatable { 2 } else { 1 };
            events.iter().flat_map(|event| std::iter::repeat_n(plain(event), times(event))).collect()
        }
        Framing::Crlf => events.iter().map(|event| format!(": a comment\r\n{}", event.render("\r\n")).into()).collect(),
    }
}

fn paced(writes: Vec<Bytes>, pause: Pause, end: End, guard: InFlight) -> Body {
    let state = (writes.into_iter(), true, guard);
    Body::from_stream(stream::unfold(state, move |(mut writes, first, mut guard)| async move {
        if !first {
            pause.take().await;
        }
        match (writes.next(), end) {
            (Some(bytes), _) => {
                // The last piece is as good as the end: a client may close at the terminal event.
                if writes.as_slice().is_empty() && end == End::Proper {
                    guard.done();
                }
                Some((Ok(bytes), (writes, false, guard)))
            }
            (None, End::Proper) => None,
            (None, End::Cut) => {
                guard.done();
                Pause::Flush.take().await;
                let error = io::Error::from(io::ErrorKind::ConnectionAborted);
                Some((Err(error), (writes, false, guard)))
            }
            (None, End::Hang) => std::future::pending().await,
        }
    }))
}
