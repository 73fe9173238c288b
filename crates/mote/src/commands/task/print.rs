//! Tasks for people to read.
//!
//! It shows what the service says; what is not said is left out.

use serde_json::Value;

use crate::commands::exit::Exit;
use crate::commands::progress;
use crate::commands::terminal::{Style, Terminal, sanitized, shorten};

/// One task.
pub(super) fn task(task: &Value, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        terminal.line(&task.to_string())?;
        return Ok(());
    }
    let field = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
    let status = field("status");
    let painted = terminal.paint_output(style(&status), &status);
    terminal.line(&format!("{}  {painted}", field("id")))?;
    for name in ["session", "user", "tenant"] {
        if !field(name).is_empty() {
            terminal.line(&format!("  {name:<8} {}", shorten(&field(name), 120)))?;
        }
    }
    if let Some(times) = task["times"].as_object() {
        for (name, time) in times.iter().filter_map(|(name, time)| Some((name, time.as_str()?))) {
            terminal.line(&format!("  {name:<8} {time}"))?;
        }
    }
    terminal.line(&format!("  spent    {}", progress::spent(task)))?;
    if task["held"] == true {
        let line = terminal.paint_output(Style::Care, &format!("  held     {}", super::HELD));
        terminal.line(&line)?;
    }
    if !task["waiting"].is_null() {
        terminal.line(&format!("  waiting  {}", shorten(&task["waiting"].to_string(), 400)))?;
    }
    if let Some(message) = task["error"]["message"].as_str() {
        let code = task["error"]["code"].as_str().unwrap_or_default();
        let line = format!("  error    {code}: {}", shorten(message, 400));
        let line = terminal.paint_output(Style::Bad, &line);
        terminal.line(&line)?;
    }
    if !task["result"].is_null() {
        terminal.line("")?;
        terminal.line(&result(&task["result"]))?;
    }
    Ok(())
}

/// A result: text as it is, anything else as JSON.
pub(super) fn result(result: &Value) -> String {
    match result.as_str() {
        Some(text) => sanitized(text),
        None => format!("{result:#}"),
    }
}

/// A page of tasks.
pub(super) fn page(page: &Value, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        terminal.line(&page.to_string())?;
        return Ok(());
    }
    let tasks = page["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    for task in tasks {
        let field = |name: &str| task[name].as_str().unwrap_or_default();
        let status = format!("{:<9}", field("status"));
        let status = terminal.paint_output(style(field("status")), &status);
        let submitted = task["times"]["created"].as_str().unwrap_or_default();
        let session = shorten(field("session"), 30);
        terminal.line(&format!("{}  {status}  {submitted}  {}  {session}", field("id"), progress::spent(task)))?;
    }
    if let Some(next) = page["next"].as_str() {
        terminal.note(&format!("more: --cursor {next}"))?;
    }
    Ok(())
}

fn style(status: &str) -> Style {
    match status {
        "completed" => Style::Good,
        "failed" => Style::Bad,
        "waiting" => Style::Care,
        "running" => Style::Strong,
        _ => Style::Dim,
    }
}
