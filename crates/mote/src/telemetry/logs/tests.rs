//! Lines as an operator sees them.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::clock::{Clock, UnixMs};
use crate::limits::{LOG_FIELD_BYTES_MAX, LOG_QUEUE};

struct Noon;

impl Clock for Noon {
    fn boot_ms(&self) -> u64 {
        self.now_ms()
    }
    fn now_ms(&self) -> UnixMs {
        1_795_262_691_007
    }

    fn random(&self) -> u64 {
        0
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(filter: &str, format: Format, content: bool, act: impl FnOnce()) -> String {
    let kept = Kept::default();
    let sink = Sink::start(kept.clone(), || ()).unwrap();
    let subscriber = subscriber(filter, format, content, Arc::new(Noon), sink.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, act);
    sink.flush(Duration::from_secs(10));
    let bytes = kept.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn a_run_fails() {
    let run = tracing::info_span!("run", task_id = "task_1", session_id = "s", trace_id = tracing::field::Empty);
    run.record("trace_id", "0af7");
    let _run = run.enter();
    let call = tracing::info_span!("call", tool = "pay", task_id = "inner").entered();
    let error = std::io::Error::other("broken");
    tracing::warn!(target: "mote::test", attempt = 2, ok = false, error = &error as &dyn std::error::Error,
        level = "mine", content.arguments = "{\"card\":\"4111\"}", "failed to {}", "pay");
    drop(call);
    tracing::debug!("not at this level");
}

#[test]
fn a_line_is_one_json_object_with_its_spans_fields() {
    let text = logged("info", Format::Json, false, a_run_fails);
    assert_eq!(
        text,
        "{\"time\":\"2026-11-21T12:04:51.007Z\",\"level\":\"WARN\",\"target\":\"mote::test\",\"message\":\"failed to \
         pay\",\"trace_id\":\"0af7\",\"task_id\":\"inner\",\"session_id\":\"s\",\"attempt\":2,\"error\":\"broken\",\
         \"field.level\":\"mine\",\"ok\":false,\"tool\":\"pay\"}\n"
    );
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["attempt"], 2);
}

#[test]
fn content_is_dropped_unless_it_is_turned_on() {
    assert!(!logged("info", Format::Json, false, a_run_fails).contains("4111"));
    assert!(logged("info", Format::Json, true, a_run_fails).contains("4111"));
}

#[test]
fn the_filter_holds_by_target() {
    assert_eq!(logged("error", Format::Json, false, a_run_fails), "");
    assert_eq!(logged("off,mote::test=warn", Format::Json, false, a_run_fails).lines().count(), 1);
    assert!(parse_filter("info,mote=loud").is_err());
    assert!(parse_filter("mote::store=debug,warn").is_ok());
}

#[test]
fn text_is_short_and_cannot_steer_a_terminal() {
    let text = logged("info", Format::Text, false, || tracing::info!(who = "a\u{1b}[2Jb", n = 1, "hello\nworld"));
    assert_eq!(text, "12:04:51.007Z INFO  hello world n=1 who=a [2Jb\n");
}

#[test]
fn a_long_value_is_cut() {
    let long = "x".repeat(LOG_FIELD_BYTES_MAX * 2);
    let text = logged("info", Format::Json, false, || tracing::info!(long, "m"));
    assert!(text.len() < LOG_FIELD_BYTES_MAX + 300 && text.contains('…'));
}

fn counting(output: impl Write + Send + 'static) -> (Sink, Arc<AtomicUsize>) {
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = dropped.clone();
    let on_drop = move || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    (Sink::start(output, on_drop).unwrap(), dropped)
}

/// Takes nothing until it is released.
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (released, condition) = &*self.0;
        let _guard = condition.wait_while(released.lock().unwrap(), |released| !*released).unwrap();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_who_stops_reading_stops_nobody() {
    let state = Arc::new((Mutex::new(false), Condvar::new()));
    let (sink, dropped) = counting(Stuck(state.clone()));
    for _ in 0..LOG_QUEUE * 3 {
        sink.write(b"line\n".to_vec());
    }
    assert!(dropped.load(Ordering::SeqCst) > 0);
    *state.0.lock().unwrap() = true;
    state.1.notify_all();
    sink.flush(Duration::from_secs(10));
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_pipe_ends_the_writing_and_nothing_else() {
    let (sink, dropped) = counting(Closed);
    for _ in 0..LOG_QUEUE * 2 {
        sink.write(b"line\n".to_vec());
        sink.flush(Duration::from_secs(10));
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
}
