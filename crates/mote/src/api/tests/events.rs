//! `GET /tasks/{id}/events`.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::*;

/// One frame of Server-Sent Events.
#[derive(Debug, PartialEq)]
struct Frame {
    id: Option<String>,
    event: String,
    data: Value,
}

/// Reads frames as a client would.
struct Frames {
    bytes: BoxStream<'static, Bytes>,
    text: String,
}

impl Frames {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let found = Frame {
                    id: field("id: "),
                    event: field("event: ").unwrap(),
                    data: serde_json::from_str(&field("data: ").unwrap()).unwrap(),
                };
                self.text = rest.to_owned();
                return Some(found);
            }
            let piece = within(self.bytes.next()).await?;
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn kinds(&mut self, count: usize) -> Vec<(String, String)> {
        let mut found = Vec::new();
        while found.len() < count {
            let frame = self.next().await.unwrap();
            found.push((frame.id.unwrap_or_default(), frame.event));
        }
        found
    }
}

impl Service {
    async fn stream(&self, request: Request<Body>) -> Frames {
        let response = self.response(request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let bytes = response.into_body().into_data_stream().map(|piece| piece.unwrap()).boxed();
        Frames { bytes, text: String::new() }
    }

    /// A claimed task with two events.
    async fn begun(&self) -> (String, String) {
        let id = self.submit(r#"{"input": "hi"}"#).await;
        self.claim().await;
        self.commit(&id, &["run.opened", "run.started"], StatusChange::Running).await;
        let path = format!("/tasks/{id}/events");
        (id, path)
    }
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(id, event)| ((*id).to_owned(), (*event).to_owned())).collect()
}

#[tokio::test]
async fn events_are_streamed_as_they_are_committed_and_the_stream_closes_at_the_end() {
    let service = passive().start();
    let (id, path) = service.begun().await;
    let mut stream = service.stream(request("GET", &path, None)).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.id.as_deref(), first.event.as_str()), (Some("1"), "run.opened"));
    assert_eq!(
        (&first.data["type"], &first.data["seq"], &first.data["epoch"]),
        (&"event".into(), &1.into(), &1.into())
    );
    assert_eq!(first.data["payload"]["type"], "run.opened");
    assert!(first.data["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(stream.kinds(1).await, named(&[("2", "run.started")]));

    service.commit(&id, &["model.replied"], StatusChange::Running).await;
    assert_eq!(stream.kinds(1).await, named(&[("3", "model.replied")]));
    service.commit(&id, &["run.finished"], completed()).await;
    assert_eq!(stream.kinds(1).await, named(&[("4", "run.finished")]));
    let end = stream.next().await.unwrap();
    assert_eq!((end.id, end.event.as_str()), (None, "end"));
    assert_eq!((&end.data["task"]["status"], &end.data["task"]["result"]), (&"completed".into(), &"done".into()));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_stream_resumes_where_the_last_one_stopped() {
    let service = passive().start();
    let (id, path) = service.begun().await;
    service.commit(&id, &["model.replied"], completed()).await;
    let resume = |query: &str, last: Option<&str>| {
        let request = request("GET", &format!("{path}{query}"), None);
        match last {
            Some(last) => with_header(request, "last-event-id", last),
            None => request,
        }
    };
    for (query, last, expected) in [
        ("", Some("1"), &[("2", "run.started"), ("3", "model.replied"), ("", "end")][..]),
        ("?after=2", None, &[("3", "model.replied"), ("", "end")]),
        ("?after=0", Some("2"), &[("3", "model.replied"), ("", "end")]),
        ("?after=3", None, &[("", "end")]),
    ] {
        let mut stream = service.stream(resume(query, last)).await;
        assert_eq!(stream.kinds(expected.len()).await, named(expected), "{query} {last:?}");
        assert_eq!(stream.next().await, None);
    }
    let seen = service.send(resume("", Some("3"))).await;
    assert_eq!(seen.status, 204, "a browser that has seen everything stops to reconnect");
}

#[tokio::test]
async fn a_wrong_cursor_is_refused() {
    let service = passive().start();
    let (_, path) = service.begun().await;
    for (query, last, code) in [
        ("?after=3", None, "cursor_invalid"),
        ("", Some("3"), "cursor_invalid"),
        ("", Some("abc"), "invalid_header"),
        ("?after=-1", None, "invalid_query"),
        ("?from=1", None, "invalid_query"),
    ] {
        let plain = request("GET", &format!("{path}{query}"), None);
        let resuming =
            last.map(|last| with_header(request("GET", &format!("{path}{query}"), None), "last-event-id", last));
        let answer = service.send(resuming.unwrap_or(plain)).await;
        assert_eq!((answer.status.as_u16(), answer.problem()), (400, code), "{query} {last:?}");
    }
}

#[tokio::test]
async fn a_long_journal_is_streamed_page_by_page() {
    let service = passive().start();
    let (id, path) = service.begun().await;
    let kinds = vec!["call.answered"; crate::limits::PAGE_MAX + 50];
    service.commit(&id, &kinds, completed()).await;
    let mut stream = service.stream(request("GET", &path, None)).await;
    let mut seen = Vec::new();
    while let Some(frame) = stream.next().await {
        seen.extend(frame.id.map(|id| id.parse::<usize>().unwrap()));
    }
    assert_eq!(seen, (1..=kinds.len() + 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_task_cancelled_before_it_ran_has_a_stream_that_ends() {
    let service = passive().start();
    let id = service.submit(r#"{"input": "hi"}"#).await;
    let mut stream = service.stream(request("GET", &format!("/tasks/{id}/events"), None)).await;
    service.post(&format!("/tasks/{id}/cancel"), "{}").await;
    let mut last = None;
    while let Some(frame) = stream.next().await {
        last = Some(frame);
    }
    assert_eq!(last.unwrap().data["task"]["status"], "cancelled");
}

#[tokio::test]
async fn the_text_under_way_is_shown_and_then_its_deltas() {
    let service = active(0).start();
    let id = service.submit(r#"{"input": "hi"}"#).await;
    service.model.reached().await;
    let mut stream = service.stream(request("GET", &format!("/tasks/{id}/events"), None)).await;
    let snapshot = loop {
        let frame = stream.next().await.unwrap();
        if frame.event == "snapshot" {
            break frame;
        }
        assert!(frame.id.is_some(), "journal events come first: {frame:?}");
    };
    assert_eq!(snapshot.id, None);
    assert_eq!(
        (&snapshot.data["text"], &snapshot.data["step"], &snapshot.data["attempt"]),
        (&"hel".into(), &1.into(), &1.into())
    );
    service.model.let_go();
    let delta = stream.next().await.unwrap();
    assert_eq!((delta.id, delta.event.as_str()), (None, "delta"));
    assert_eq!(
        (&delta.data["text"], &delta.data["part"], &delta.data["step"]),
        (&"lo".into(), &"text".into(), &1.into())
    );
    let mut last = delta.data;
    while let Some(frame) = stream.next().await {
        last = frame.data;
    }
    assert_eq!(last["task"]["result"], "hello");
}

#[tokio::test]
async fn a_task_goes_on_when_its_stream_is_closed() {
    let service = active(0).start();
    let id = service.submit(r#"{"input": "hi"}"#).await;
    service.model.reached().await;
    let mut stream = service.stream(request("GET", &format!("/tasks/{id}/events"), None)).await;
    assert!(stream.next().await.is_some());
    drop(stream);
    service.model.let_go();
    assert_eq!(service.until(&id, Status::Completed).await.result.as_deref(), Some("\"hello\""));
}

#[tokio::test]
async fn streams_end_without_end_when_the_service_closes() {
    let service = passive().start();
    let (_, path) = service.begun().await;
    let mut stream = service.stream(request("GET", &path, None)).await;
    assert_eq!(stream.kinds(2).await.len(), 2);
    service.closing.cancel();
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_closes() {
    let service = passive().start();
    let (_, path) = service.begun().await;
    let mut open = Vec::new();
    for _ in 0..crate::limits::STREAMS_MAX {
        open.push(service.response(request("GET", &path, None)).await);
    }
    let refused = service.send(request("GET", &path, None)).await;
    assert_eq!((refused.status.as_u16(), refused.problem()), (503, "streams_exhausted"));
    open.pop();
    assert_eq!(service.response(request("GET", &path, None)).await.status(), 200);
}
