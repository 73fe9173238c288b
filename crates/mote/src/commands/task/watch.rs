//! `mote task watch`: a task as it happens, over Server-Sent Events, resumed where a connection broke. What the task waits
//! for is asked of the person at the terminal.
//!
//! It does not interpret events; [`super::super::progress`] says what they look like.

use anyhow::anyhow;
use mote::limits::{CLIENT_EVENT_BYTES_MAX, CLIENT_RESUME_PAUSE, CLIENT_RESUMES_MAX};
use mote_wire::sse::{Buffer, Framer, Full};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::print;
use crate::commands::ask::{self, Look, Person, Wait};
use crate::commands::exit::{Code, Exit};
use crate::commands::progress::Progress;
use crate::commands::terminal::{Style, Terminal};

/// How a stream went on.
enum Pass {
    /// The task is terminal.
    Ended(Value),
    /// The connection broke or was closed; events up to here were shown.
    Broken,
}

/// Follows a task to its end; the exit code tells how it ended.
pub(super) async fn follow(
    client: &Client,
    task: &str,
    after: u64,
    json: bool,
    terminal: &mut Terminal,
) -> Result<(), Exit> {
    let person = Person::at(terminal);
    let mut watch = Watch { client, task, json, cursor: after, progress: Progress::default(), person };
    let mut failures = 0;
    loop {
        let before = watch.cursor;
        let ended = match client.events(task, watch.cursor).await {
            // All of a finished task was seen: only its end is missing.
            Ok(response) if response.status() == reqwest::StatusCode::NO_CONTENT => Some(watch.get().await?),
            Ok(response) => match watch.read(response, terminal).await? {
                Pass::Ended(task) => Some(task),
                Pass::Broken => None,
            },
            // Before the first event a service that is not there is an error at once.
            Err(exit) if watch.cursor == after || failures >= CLIENT_RESUMES_MAX => return Err(exit),
            Err(_) => None,
        };
        if let Some(task) = ended {
            return finish(&task, json, terminal);
        }
        failures = if watch.cursor > before { 0 } else { failures + 1 };
        if failures > CLIENT_RESUMES_MAX {
            return Err(Exit::new(
                Code::Unreachable,
                anyhow!("failed to follow {task}: the stream broke {failures} times"),
            ));
        }
        terminal.status("connection lost, resuming…");
        tokio::time::sleep(CLIENT_RESUME_PAUSE * 2u32.pow(failures.min(CLIENT_RESUMES_MAX))).await;
    }
}

/// One task that is watched.
struct Watch<'a> {
    client: &'a Client,
    task: &'a str,
    json: bool,
    /// The last event that was shown.
    cursor: u64,
    progress: Progress,
    person: Person,
}

impl Watch<'_> {
    async fn get(&self) -> Result<Value, Exit> {
        self.client.get(&format!("/tasks/{}", segment(self.task))).await
    }

    async fn read(&mut self, mut response: reqwest::Response, terminal: &mut Terminal) -> Result<Pass, Exit> {
        let mut framer = Framer::new(Growing::default());
        let mut look = Look::default();
        // A task may have waited since long before.
        look.soon();
        loop {
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk,
                () = look.due() => {
                    self.face(terminal).await?;
                    continue;
                }
                line = self.person.line() => {
                    self.answer(line, terminal).await?;
                    look.soon();
                    continue;
                }
            };
            let Ok(Some(chunk)) = chunk else { return Ok(Pass::Broken) };
            let mut input = chunk.as_ref();
            loop {
                let event = framer.next(&mut input).map_err(|error| anyhow!("failed to read the stream: {error}"))?;
                let Some(event) = event else { break };
                let message: Value = serde_json::from_str(event.data)
                    .map_err(|error| anyhow!("failed to read an event of the stream: {error}"))?;
                if let Some(seq) = message["seq"].as_u64() {
                    self.cursor = seq;
                }
                if message["type"] == "end" {
                    return Ok(Pass::Ended(message["task"].clone()));
                }
                look.soon();
                if self.json {
                    terminal.line(event.data)?;
                } else {
                    self.progress.show(&message, terminal)?;
                }
            }
        }
    }

    /// Asks the person here what the task waits for, or says how to answer elsewhere.
    async fn face(&mut self, terminal: &mut Terminal) -> Result<(), Exit> {
        // The stream goes on: a look that fails is made again with the next event.
        let Ok(task) = self.get().await else { return Ok(()) };
        let elsewhere = elsewhere(self.client, self.task);
        Ok(self.person.face(&ask::waits(&task["waiting"]), elsewhere, terminal)?)
    }

    /// Gives the task what the person typed.
    async fn answer(&mut self, line: Option<String>, terminal: &mut Terminal) -> Result<(), Exit> {
        let elsewhere = elsewhere(self.client, self.task);
        let Some(answer) = self.person.take(line, elsewhere, terminal)? else { return Ok(()) };
        let mut body = json!({"call": answer.call});
        if let Some(approve) = answer.approve {
            body["approve"] = json!(approve);
        }
        if let Some(content) = answer.content {
            body["content"] = content;
        }
        let path = format!("/tasks/{}/input", segment(self.task));
        if let Err(exit) = self.client.post(&path, &body, None).await {
            self.person.refused(&answer.call);
            let error = terminal.paint(Style::Bad, &format!("the answer was not taken: {}", exit.told()));
            terminal.note(&error)?;
        }
        Ok(())
    }
}

/// How to answer from anywhere else.
fn elsewhere(client: &Client, task: &str) -> impl Fn(&Wait) -> String {
    let (url, task) = (client.url_argument(), task.to_owned());
    move |wait| format!("to answer it: `{}`", wait.command(&task, &url))
}

fn finish(task: &Value, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        terminal.line(&serde_json::json!({"type": "end", "task": task}).to_string())?;
    } else {
        print::task(task, false, terminal)?;
    }
    if task["status"] == "completed" { Ok(()) } else { Err(Exit::silent(Code::Failed)) }
}

/// A buffer that grows up to [`CLIENT_EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
struct Growing(Vec<u8>);

impl Buffer for Growing {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if self.0.len() + bytes.len() > CLIENT_EVENT_BYTES_MAX {
            return Err(Full(CLIENT_EVENT_BYTES_MAX));
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

    /// A service that gives each answer on a connection of its own; returns the requests it got.
    async fn service(answers: Vec<String>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let read = socket.read(&mut request).await.unwrap();
                requests.push(String::from_utf8_lossy(&request[..read]).into_owned());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (url, serving)
    }

    #[tokio::test]
    async fn a_broken_stream_is_resumed_behind_the_last_event() {
        mote::tls::install_provider();
        let (url, serving) = service(vec![
            format!(
                "{STREAM}id: 1\nevent: run.started\ndata: {{\"type\":\"event\",\"seq\":1,\"kind\":\"run.started\"}}\n\n"
            ),
            format!(
                "{STREAM}event: end\ndata: {{\"type\":\"end\",\"task\":{{\"id\":\"t\",\"status\":\"failed\"}}}}\n\n"
            ),
        ])
        .await;
        let client = Client::new(&url, Some("secret-key")).unwrap();
        let end = follow(&client, "t", 0, false, &mut Terminal::detect()).await;
        assert!(format!("{:?}", end.unwrap_err()).contains("Failed"));
        let requests = serving.await.unwrap();
        assert!(requests[0].contains("last-event-id: 0") && requests[0].contains("Bearer secret-key"), "{requests:?}");
        assert!(requests[1].contains("last-event-id: 1"), "{requests:?}");
    }

    #[tokio::test]
    async fn a_finished_task_of_which_all_was_seen_is_shown_at_once() {
        mote::tls::install_provider();
        let task = r#"{"id":"t","status":"completed"}"#;
        let (url, serving) = service(vec![
            "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(),
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{task}", task.len()),
        ])
        .await;
        let client = Client::new(&url, None).unwrap();
        follow(&client, "t", 7, false, &mut Terminal::detect()).await.unwrap();
        let requests = serving.await.unwrap();
        assert!(requests[1].starts_with("GET /tasks/t HTTP/1.1"), "{requests:?}");
    }
}
