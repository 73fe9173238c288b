//! Records exchanges with another provider, and replays them without it.
//!
//! A recording is a file of JSON lines, each a fingerprint of a request (model, messages, tools) and the reply it got. It
//! holds what was said, so treat it like the transcript that it is; it never holds a key, which no request has. Failed
//! calls are not recorded.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::scripted::play;
use super::{Answer, Delta, DeltaSink, Error, ErrorKind, Provider, Reply, Request};
use crate::limits::CASSETTE_BYTES_MAX;
use crate::message::Part;

/// This provider's kind.
pub const KIND: &str = "cassette";

/// Why a file is no recording, or cannot become one.
#[derive(Debug, thiserror::Error)]
pub enum CassetteError {
    /// It cannot be read.
    #[error("failed to read the cassette {file}: {message}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A line is no exchange.
    #[error("failed to read the cassette: {file}:{line}:{column}: {message}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

/// One line of a recording.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    fingerprint: String,
    step: u32,
    reply: Reply,
}

/// Passes calls on to another provider and appends each reply to a file.
pub struct Recorder {
    inner: Box<dyn Provider>,
    model: String,
    file: PathBuf,
    /// One line is written at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Recorder {
    /// Records calls of `inner`. The file is made with the first reply, and appended to if it exists.
    #[must_use]
    pub fn new(inner: Box<dyn Provider>, model: &str, file: &Path) -> Self {
        Self { inner, model: model.to_owned(), file: file.to_owned(), writing: tokio::sync::Mutex::new(()) }
    }

    async fn append(&self, exchange: &Exchange) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(exchange)?;
        line.push(b'\n');
        let _one = self.writing.lock().await;
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&self.file).await?;
        file.write_all(&line).await?;
        file.flush().await
    }
}

#[async_trait]
impl Provider for Recorder {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let reply = self.inner.complete(request, deltas).await?;
        let exchange = Exchange { fingerprint: fingerprint(&self.model, request), step: request.step, reply };
        // An exchange that was paid for is not thrown away because the disk is full.
        if let Err(error) = self.append(&exchange).await {
            tracing::error!(file = %self.file.display(), %error, "failed to record an exchange");
        }
        Ok(exchange.reply)
    }

    fn available(&self) -> u16 {
        self.inner.available()
    }
}

/// Replays a recording.
#[derive(Debug)]
pub struct Player {
    model: String,
    file: PathBuf,
    replies: HashMap<String, Vec<Reply>>,
    /// How many times each request was asked.
    asked: Mutex<HashMap<String, usize>>,
}

impl Player {
    /// A player of the recording in a file.
    ///
    /// # Errors
    /// If the file cannot be read, is larger than [`CASSETTE_BYTES_MAX`], or a line is no exchange.
    pub fn load(file: &Path, model: &str) -> Result<Self, CassetteError> {
        let fail = |message: String| CassetteError::Read { file: file.to_owned(), message };
        let opened = std::fs::File::open(file).map_err(|error| fail(error.to_string()))?;
        let mut text = String::new();
        opened.take(CASSETTE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        if text.len() as u64 > CASSETTE_BYTES_MAX {
            return Err(fail(format!("it is larger than {CASSETTE_BYTES_MAX} bytes")));
        }
        let mut replies: HashMap<String, Vec<Reply>> = HashMap::new();
        for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let exchange: Exchange = serde_json::from_str(line).map_err(|error| CassetteError::Invalid {
                file: file.to_owned(),
                line: place + 1,
                column: error.column(),
                message: error.to_string(),
            })?;
            replies.entry(exchange.fingerprint).or_default().push(exchange.reply);
        }
        Ok(Self { model: model.to_owned(), file: file.to_owned(), replies, asked: Mutex::new(HashMap::new()) })
    }

    /// The reply that was recorded for this request: the first time the first, the second time the second. Asked more often
    /// than recorded (a run that resumed asks again), it is the last one.
    fn find(&self, request: &Request) -> Option<&Reply> {
        let fingerprint = fingerprint(&self.model, request);
        let recorded = self.replies.get(&fingerprint)?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let times = asked.entry(fingerprint).or_default();
        let reply = recorded.get(*times).or(recorded.last());
        *times += 1;
        reply
    }
}

#[async_trait]
impl Provider for Player {
    async fn complete(&self, request: &Request, deltas: DeltaSink<'_>) -> Result<Reply, Error> {
        let Some(reply) = self.find(request) else {
            let message = format!(
                "the cassette has no reply to step {} as it is asked: the prompt, the tools or their results differ \
                 from the recording",
                request.step
            );
            let (model, endpoint) = (self.model.clone(), self.file.display().to_string());
            let kind = ErrorKind::Rejected;
            let (retry_after, began, usage) = (None, false, None);
            let answer = Answer::default();
            return Err(Error { kind, model, endpoint, message, retry_after, began, usage, answer });
        };
        for part in &reply.message.parts {
            match part {
                Part::Text { text } => play(text, Duration::ZERO, &mut |piece| deltas(Delta::Text(piece))).await,
                Part::Reasoning { text, .. } => {
                    play(text, Duration::ZERO, &mut |piece| deltas(Delta::Reasoning(piece))).await;
                }
                Part::Call { name, .. } => deltas(Delta::Call { name: name.clone() }),
                Part::Result { .. } => {}
            }
        }
        Ok(Reply { provider: KIND.to_owned(), ..reply.clone() })
    }
}

/// SHA-256 over the canonical JSON of what was asked: model, messages, tools.
fn fingerprint(model: &str, request: &Request) -> String {
    let tools: Vec<Value> = request
        .tools
        .iter()
        .map(|tool| json!({"name": tool.name, "description": tool.description, "input": tool.input_schema}))
        .collect();
    let messages = serde_json::to_value(&request.messages).unwrap_or_default();
    let mut canonical = String::new();
    write_sorted(&json!([model, messages, tools]), &mut canonical);
    Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON without white space, keys in order: the same whichever map the JSON crate was built with.
fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut keys: Vec<_> = members.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (key, member) in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_sorted(member, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, Role};
    use crate::model::Finish;
    use crate::model::test_support::{request, transcript};
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Says how many times it was asked.
    struct Counting(AtomicU32);

    #[async_trait]
    impl Provider for Counting {
        async fn complete(&self, request: &Request, _: DeltaSink<'_>) -> Result<Reply, Error> {
            let text = format!("answer {} to step {}", self.0.fetch_add(1, Ordering::SeqCst), request.step);
            let message = Message::text(Role::Assistant, text);
            let (provider, model) = ("anthropic".to_owned(), "m".to_owned());
            Ok(Reply { message, finish: Finish::Stop, usage: None, provider, model })
        }
    }

    async fn ask(provider: &dyn Provider, request: &Request) -> Result<String, Error> {
        provider.complete(request, &mut |_| {}).await.map(|reply| reply.message.plain_text())
    }

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("mote-cassette-{}-{name}.jsonl", std::process::id()))
    }

    #[tokio::test]
    async fn what_is_recorded_is_replayed_in_order() {
        let file = file("order");
        let recorder = Recorder::new(Box::new(Counting(AtomicU32::new(0))), "m", &file);
        let (first, second) = (request("one"), transcript());
        for asked in [&first, &first, &second] {
            ask(&recorder, asked).await.unwrap();
        }
        let player = Player::load(&file, "m").unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(ask(&player, &second).await.unwrap(), "answer 2 to step 1");
        assert_eq!(ask(&player, &first).await.unwrap(), "answer 0 to step 1");
        assert_eq!(ask(&player, &first).await.unwrap(), "answer 1 to step 1");
        assert_eq!(ask(&player, &first).await.unwrap(), "answer 1 to step 1", "asked once more, the last again");
        let mut streamed = String::new();
        let mut sink = |delta| {
            if let Delta::Text(text) = delta {
                streamed.push_str(&text)
            }
        };
        assert_eq!(player.complete(&first, &mut sink).await.unwrap().provider, KIND);
        assert_eq!(streamed, "answer 1 to step 1");
    }

    #[tokio::test]
    async fn a_miss_names_the_step() {
        let file = file("miss");
        let recorder = Recorder::new(Box::new(Counting(AtomicU32::new(0))), "m", &file);
        ask(&recorder, &request("one")).await.unwrap();
        let player = Player::load(&file, "m").unwrap();
        let another_model = Player::load(&file, "n").unwrap();
        std::fs::remove_file(&file).unwrap();
        let error = ask(&player, &Request { step: 4, ..request("another") }).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Rejected);
        assert!(error.message.starts_with("the cassette has no reply to step 4"), "{error}");
        let mut tools = request("one");
        tools.tools = [].into();
        assert!(ask(&player, &tools).await.is_err(), "other tools");
        assert!(ask(&another_model, &request("one")).await.is_err());
    }

    #[test]
    fn a_damaged_recording_names_the_line() {
        let file = file("damaged");
        std::fs::write(&file, "\n{\"fingerprint\": 5}\n").unwrap();
        let error = Player::load(&file, "m").unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains(".jsonl:2:17: "), "{error}");
        let missing = Player::load(&file, "m").unwrap_err().to_string();
        assert!(missing.starts_with("failed to read the cassette "), "{missing}");
    }
}
