//! Logs: one JSON object a line on standard error, the fields of the enclosing spans beside the event's own.
//!
//! It does not rotate or ship: the platform does. A line is one write, so that lines of several threads do not mix. A thread of its
//! own writes: whoever reads them slowly, or not at all, holds up no request. Lines that find no room are counted, and the log
//! says how many they were.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use super::share::Shares;
use crate::clock::{SharedClock, UnixMs};
use crate::limits::{LOG_FIELD_BYTES_MAX, LOG_FLUSH_PAUSE, LOG_FLUSH_TIMEOUT, LOG_LINES_WAITING_MAX};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter in the configuration is not one.
    #[error("log: {filter:?} is not a log filter: {message}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong.
        message: String,
    },
    /// No thread can be made that writes.
    #[error("failed to set up logging: {0}")]
    Thread(std::io::Error),
    /// The process has a subscriber already.
    #[error("failed to set up logging: {0}")]
    Installed(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Writes what passes `filter` (a level, and `target=level` after commas) to standard error, for as long as the answer lives.
///
/// # Errors
/// [`Error`].
pub fn install(filter: &str, clock: SharedClock) -> Result<Writing, Error> {
    let targets = Targets::from_str(filter)
        .map_err(|error| Error::Filter { filter: filter.to_owned(), message: error.to_string() })?;
    let queue = Arc::new(Queue::default());
    let layer = Lines { clock, queue: Arc::clone(&queue), shares: Mutex::default() }.with_filter(targets);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
    Ok(Writing(queue))
}

/// What writes the lines. Dropping it waits a moment for those that are not written yet.
#[derive(Debug)]
#[must_use]
pub struct Writing(Arc<Queue>);

impl Writing {
    /// From now on a thread of its own writes: to be called when privilege is given up, which threads would keep.
    ///
    /// # Errors
    /// Where no thread can be made.
    pub fn detach(&self) -> Result<(), Error> {
        self.0.start(std::io::stderr()).map_err(Error::Thread)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.flush(LOG_FLUSH_TIMEOUT);
    }
}

/// Something for the thread that writes.
enum Job {
    Line(String),
    Flush(SyncSender<()>),
}

/// Lines that wait to be written. Before there is a thread for it, a line is written by who says it.
#[derive(Debug, Default)]
struct Queue {
    jobs: OnceLock<SyncSender<Job>>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    fn start(&self, mut to: impl Write + Send + 'static) -> std::io::Result<()> {
        let (sender, jobs) = sync_channel(LOG_LINES_WAITING_MAX);
        let dropped = Arc::clone(&self.dropped);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            for job in jobs {
                match job {
                    // Nothing can be told where nobody reads any more.
                    Job::Line(line) => drop(to.write_all(line.as_bytes())),
                    Job::Flush(done) => drop(done.try_send(())),
                }
                let count = dropped.swap(0, Ordering::Relaxed);
                if count > 0 {
                    let message = "lines of the log were dropped: standard error is not read fast enough";
                    let _ = writeln!(to, "{{\"level\":\"WARN\",\"message\":\"{message}\",\"count\":{count}}}");
                }
            }
        })?;
        // Only the first one is asked from then on.
        let _ = self.jobs.set(sender);
        Ok(())
    }

    fn put(&self, line: String) {
        let Some(jobs) = self.jobs.get() else {
            // Nothing can be told where standard error is closed.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
            return;
        };
        if jobs.try_send(Job::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was said before is written. A full queue is waited for, too.
    fn flush(&self, patience: Duration) {
        let Some(jobs) = self.jobs.get() else { return };
        let (done, written) = sync_channel(1);
        let (mut job, mut left) = (Job::Flush(done), patience);
        while let Err(refused) = jobs.try_send(job) {
            match refused {
                TrySendError::Full(back) if !left.is_zero() => job = back,
                TrySendError::Full(_) | TrySendError::Disconnected(_) => return,
            }
            std::thread::sleep(LOG_FLUSH_PAUSE);
            left = left.saturating_sub(LOG_FLUSH_PAUSE);
        }
        let _ = written.recv_timeout(left);
    }
}

struct Lines {
    clock: SharedClock,
    queue: Arc<Queue>,
    shares: Mutex<Shares>,
}

impl Lines {
    /// Whether a line that is about this sandbox is written. What was left out before is told.
    fn admit(&self, sandbox: &str, at: UnixMs) -> bool {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let (admitted, left_out) = shares.admit(sandbox, at);
        drop(shares);
        for (sandbox, count) in left_out {
            let fields = BTreeMap::from([
                ("message".to_owned(), Value::from("lines of the log were left out: one sandbox caused too many")),
                ("sandbox".to_owned(), Value::from(sandbox)),
                ("count".to_owned(), Value::from(count)),
            ]);
            self.queue.put(line(at, "WARN", module_path!(), fields));
        }
        admitted
    }
}

#[derive(Debug, Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let mut value = value.into();
        if let Value::String(text) = &mut value
            && text.len() > LOG_FIELD_BYTES_MAX
        {
            text.truncate(text.floor_char_boundary(LOG_FIELD_BYTES_MAX));
            text.push('…');
        }
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.0 {
                    if !fields.0.contains_key(name) {
                        fields.0.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        let at = self.clock.now_ms();
        if let Some(Value::String(sandbox)) = fields.0.get("sandbox")
            && !self.admit(sandbox, at)
        {
            return;
        }
        self.queue.put(line(at, event.metadata().level().as_str(), event.metadata().target(), fields.0));
    }
}

fn line(at: UnixMs, level: &str, target: &str, mut fields: BTreeMap<String, Value>) -> String {
    let message = fields.remove("message").unwrap_or_else(|| Value::from(""));
    let mut text = format!(
        "{{\"time\":\"{}\",\"level\":{},\"target\":{},\"message\":{message}",
        timestamp(at),
        Value::from(level),
        Value::from(target),
    );
    for (name, value) in &fields {
        // A field never takes the place of what the line itself says.
        let prefix = if matches!(name.as_str(), "time" | "level" | "target") { "field." } else { "" };
        let _ = write!(text, ",{}:{value}", Value::from(format!("{prefix}{name}")));
    }
    text.push_str("}\n");
    text
}

/// RFC 3339 in UTC, to the millisecond. The date is Howard Hinnant's `civil_from_days`.
fn timestamp(at: UnixMs) -> String {
    let (days, ms) = (at / 86_400_000, at % 86_400_000);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_its_fields_say() {
        let fields = BTreeMap::from_iter([
            ("message".to_owned(), Value::from("a \"quote\"\nand a break")),
            ("level".to_owned(), Value::from("mine")),
        ]);
        let line = line(0, "INFO", "t", fields);
        assert_eq!(line.lines().count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((read["level"].as_str(), read["field.level"].as_str()), (Some("INFO"), Some("mine")));
    }

    /// Something that takes nothing until it is let, and keeps what it took.
    #[derive(Clone, Default)]
    struct Stuck {
        gate: Arc<std::sync::Mutex<()>>,
        taken: Arc<std::sync::Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            drop(self.gate.lock().unwrap());
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_nobody_reads_hold_up_nobody_and_are_counted() {
        let (stuck, queue) = (Stuck::default(), Queue::default());
        let closed = stuck.gate.lock().unwrap();
        queue.start(stuck.clone()).unwrap();
        let beyond = 100;
        for number in 0..LOG_LINES_WAITING_MAX + 1 + beyond {
            queue.put(format!("line {number}\n"));
        }
        drop(closed);
        while queue.dropped.load(Ordering::Relaxed) > 0 {
            queue.flush(Duration::from_secs(60));
        }
        queue.flush(Duration::from_secs(60));
        let text = String::from_utf8(stuck.taken.lock().unwrap().clone()).unwrap();
        let told: Value = serde_json::from_str(text.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
        let written = text.lines().filter(|line| line.starts_with("line ")).count() as u64;
        assert_eq!(written + told["count"].as_u64().unwrap(), (LOG_LINES_WAITING_MAX + 1 + beyond) as u64, "{told}");
    }

    /// A clock that a test sets.
    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl crate::clock::Clock for Hand {
        fn now_ms(&self) -> UnixMs {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_happens_inside_one_sandbox_does_not_flood_the_log() {
        use crate::limits::LOG_LINES_OF_SANDBOX_PER_SECOND as SHARE;
        let (taken, queue) = (Stuck::default(), Arc::new(Queue::default()));
        queue.start(taken.clone()).unwrap();
        let clock = Arc::new(Hand::default());
        let layer = Lines { clock: clock.clone(), queue: Arc::clone(&queue), shares: Mutex::default() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            // Whether the event says whose it is, or the span around it.
            for _ in 0..SHARE {
                tracing::info!(sandbox = "loud", "loud itself");
                tracing::info_span!("inside", sandbox = "loud").in_scope(|| tracing::info!("loud inside"));
                queue.flush(Duration::from_secs(60));
            }
            tracing::info!(sandbox = "quiet", "quiet");
            tracing::info!("the daemon");
            clock.0.store(1000, Ordering::Relaxed);
            tracing::info!(sandbox = "quiet", "quiet");
        });
        queue.flush(Duration::from_secs(60));
        let text = String::from_utf8(taken.taken.lock().unwrap().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((count("\"loud "), count("\"quiet\",\"sandbox")), (SHARE as usize, 2), "{text}");
        assert_eq!(count("the daemon"), 1);
        let told = text.lines().find(|line| line.contains("left out")).unwrap();
        assert!(told.contains("\"sandbox\":\"loud\"") && told.contains(&format!("\"count\":{SHARE}")), "{told}");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_827_696_789), "2000-02-29T12:34:56.789Z");
    }
}
