//! What a run under way looks like: a line an event, a status line for what is still going on.
//!
//! It reads the stream's messages (docs/http.md) and is used by `mote task watch` and `mote run` alike. It shows kinds of
//! event that it does not know by their names.

use serde_json::Value;

use super::terminal::{Style, Terminal, shorten};

/// Shows one run.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Text of the reply under way.
    text: String,
    /// Step and attempt that it belongs to.
    of: (u64, u64),
    /// Where the spinner stands.
    turn: usize,
    /// Whether it was said that a model that is down is tried again.
    is_outage_told: bool,
}

impl Progress {
    /// Shows one message of the stream.
    pub(crate) fn show(&mut self, message: &Value, terminal: &mut Terminal) -> std::io::Result<()> {
        match message["type"].as_str() {
            Some("event") => self.event(message, terminal),
            Some("snapshot") => {
                self.text = message["text"].as_str().unwrap_or_default().to_owned();
                self.of = position(message);
                self.status(terminal);
                Ok(())
            }
            Some("delta") => {
                self.delta(message, terminal);
                Ok(())
            }
            Some("error") => {
                let detail = message["detail"].as_str().unwrap_or_default();
                let line = terminal.paint(Style::Bad, &format!("stream: {}", shorten(detail, 200)));
                terminal.note(&line)
            }
            _ => Ok(()),
        }
    }

    /// Shows that the run lives while nothing is said.
    pub(crate) fn spin(&mut self, terminal: &mut Terminal) {
        const FRAMES: [&str; 4] = ["|", "/", "-", "\\"];
        self.turn = (self.turn + 1) % FRAMES.len();
        if self.text.is_empty() {
            terminal.status(&format!("{} working…", FRAMES[self.turn]));
        }
    }

    fn delta(&mut self, message: &Value, terminal: &mut Terminal) {
        if position(message) != self.of {
            // Another attempt begins its text anew.
            self.of = position(message);
            self.text.clear();
        }
        let text = message["text"].as_str().unwrap_or_default();
        match message["part"].as_str() {
            Some("text") => {
                self.text.push_str(text);
                self.status(terminal);
            }
            Some("call") => terminal.status(&format!("step {}: calling {text}…", self.of.0)),
            _ => terminal.status(&format!("step {}: thinking…", self.of.0)),
        }
    }

    /// The end of the text so far, on the status line.
    fn status(&self, terminal: &mut Terminal) {
        if self.text.is_empty() {
            // Between two replies there is nothing to show but that it works.
            return;
        }
        let room = terminal.width().saturating_sub(20);
        let skip = self.text.chars().count().saturating_sub(room);
        let tail: String = self.text.chars().skip(skip).collect();
        terminal.status(&format!("step {}: {tail}", self.of.0));
    }

    fn event(&mut self, message: &Value, terminal: &mut Terminal) -> std::io::Result<()> {
        self.text.clear();
        let kind = message["kind"].as_str().unwrap_or_default();
        let room = terminal.width().saturating_sub(4).max(40);
        // UTC, as the journal has it: `Z` says so (RFC 3339).
        let time = message["at"].as_str().and_then(|at| at.get(11..19)).map(|at| format!("{at}Z")).unwrap_or_default();
        let time = terminal.paint(Style::Dim, &time);
        // Why a model gives no reply is worth a second line.
        let room = if kind == "model.failed" { room * 4 } else { room };
        for (style, line) in lines(kind, &message["payload"]) {
            let line = terminal.paint(style, &shorten(&line, room));
            terminal.note(&format!("{time} {line}"))?;
        }
        let down = kind == "model.failed" && DOWN.contains(&message["payload"]["kind"].as_str().unwrap_or_default());
        if down && !std::mem::replace(&mut self.is_outage_told, true) {
            let told = terminal.paint(Style::Dim, "it is tried again until limits.model_outage is over");
            terminal.note(&format!("{time} {told}"))?;
        }
        if kind == "model.replied" {
            self.is_outage_told = false;
        }
        Ok(())
    }
}

/// Kinds of failure of a model that is not available.
const DOWN: [&str; 4] = ["unreachable", "rate_limited", "overloaded", "circuit_open"];

/// Kinds that happen at every step and tell a person nothing.
const ROUTINE: [&str; 5] = ["run.opened", "run.started", "session.loaded", "budget.granted", "timer.fired"];

fn position(message: &Value) -> (u64, u64) {
    (message["step"].as_u64().unwrap_or_default(), message["attempt"].as_u64().unwrap_or_default())
}

/// What an event looks like, a line or several.
fn lines(kind: &str, payload: &Value) -> Vec<(Style, String)> {
    if ROUTINE.contains(&kind) {
        return Vec::new();
    }
    let said = || -> Vec<(Style, String)> {
        let parts = payload["message"]["parts"].as_array().or_else(|| payload["parts"].as_array());
        let part = |part: &Value| {
            let text = |field: &str| part[field].as_str().unwrap_or_default();
            match part["type"].as_str() {
                Some("text") if !text("text").trim().is_empty() => Some((Style::Strong, text("text").to_owned())),
                Some("call") => Some((Style::Good, format!("→ {} {}", text("name"), text("arguments")))),
                Some("result") => {
                    let style = if part["is_error"] == true { Style::Bad } else { Style::Dim };
                    Some((style, format!("← {}", text("content"))))
                }
                _ => None,
            }
        };
        parts.map(|parts| parts.iter().filter_map(part).collect()).unwrap_or_default()
    };
    let shown = said();
    if !shown.is_empty() {
        return shown;
    }
    if kind == "model.failed" {
        // The end of the sentence is what went wrong, so that it is not cut at the edge of the screen.
        let message = payload["message"].as_str().unwrap_or_default();
        return vec![(Style::Bad, format!("no reply: {message}"))];
    }
    let name = payload["tool"].as_str().or_else(|| payload["name"].as_str()).unwrap_or_default();
    let content = payload["content"].as_str().or_else(|| payload["message"].as_str()).unwrap_or_default();
    let failed = kind.contains("fail") || payload["is_error"] == true;
    let style = if failed { Style::Bad } else { Style::Dim };
    let words = kind.replace(['.', '_'], " ");
    vec![(style, [words.as_str(), name, content].join(" ").trim().to_owned())]
}

/// Steps, tokens and money of a task, and what it may have cost beside that.
pub(crate) fn spent(task: &Value) -> String {
    let steps = task["steps"].as_u64().unwrap_or_default();
    let tokens =
        task["usage"]["input"].as_u64().unwrap_or_default() + task["usage"]["output"].as_u64().unwrap_or_default();
    let mut text = format!("{steps} step{}, {tokens} tokens", if steps == 1 { "" } else { "s" });
    let usd = task["cost"]["usd"].as_f64().or_else(|| task["cost"].as_f64());
    if let Some(usd) = usd.filter(|usd| *usd > 0.0) {
        text.push_str(&format!(", {}", dollars(usd)));
    }
    text + &uncertain(task)
}

/// What calls may have cost of which nobody said it; nothing where there are none.
fn uncertain(task: &Value) -> String {
    let (usage, usd) = (&task["usage"]["uncertain"], task["cost"]["uncertain"]["usd"].as_f64());
    let tokens = usage["input"].as_u64().unwrap_or_default() + usage["output"].as_u64().unwrap_or_default();
    match (usd.filter(|usd| *usd > 0.0), tokens) {
        (None, 0) => String::new(),
        (None, tokens) => format!(", up to {tokens} tokens uncertain"),
        (Some(usd), 0) => format!(", up to {} uncertain", dollars(usd)),
        (Some(usd), tokens) => format!(", up to {} uncertain ({tokens} tokens)", dollars(usd)),
    }
}

/// Money above zero; what is spent is never shown as nothing.
fn dollars(usd: f64) -> String {
    if usd < 0.00005 { "less than $0.0001".to_owned() } else { format!("${usd:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, payload: Value, expected: &[&str]) {
        let found: Vec<String> = lines(kind, &payload).into_iter().map(|(_, line)| line).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn events_say_what_happened() {
        let reply = json!({"message": {"role": "assistant", "parts": [
            {"type": "reasoning", "text": "hm"},
            {"type": "text", "text": "Looking."},
            {"type": "call", "id": "1", "name": "get_ticket", "arguments": "{\"id\":\"T-1\"}"},
        ]}});
        check("model.replied", reply, &["Looking.", "→ get_ticket {\"id\":\"T-1\"}"]);
        check("tool.finished", json!({"tool": "get_ticket", "content": "{}"}), &["tool finished get_ticket {}"]);
        check("run.recovered", Value::Null, &["run recovered"]);
        check("model.failed", json!({"message": "failed to call model m"}), &["no reply: failed to call model m"]);
        check("budget.granted", Value::Null, &[]);
    }

    #[test]
    fn money_is_shown_where_there_is_some() {
        let task = json!({"steps": 1, "usage": {"input": 10, "output": 5}, "cost": {"usd": 0.00125}});
        assert_eq!(spent(&task), "1 step, 15 tokens, $0.0013");
        let little = json!({"steps": 1, "usage": {"input": 1}, "cost": {"usd": 0.000_001}});
        assert_eq!(spent(&little), "1 step, 1 tokens, less than $0.0001");
        assert_eq!(spent(&json!({"steps": 2})), "2 steps, 0 tokens");
        let lost = json!({"steps": 2, "usage": {"input": 200, "output": 20, "uncertain": {"input": 300, "output": 4096}},
            "cost": {"usd": 0.0006, "uncertain": {"usd": 0.040_994}}});
        assert_eq!(spent(&lost), "2 steps, 220 tokens, $0.0006, up to $0.0410 uncertain (4396 tokens)");
        let free =
            json!({"steps": 1, "usage": {"uncertain": {"input": 5, "output": 2}}, "cost": {"uncertain": {"usd": 0.0}}});
        assert_eq!(spent(&free), "1 step, 0 tokens, up to 7 tokens uncertain");
    }
}
