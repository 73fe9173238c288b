//! `mote task rerun`: asks before it lets a task do again what it did, says what that is, and offers to resume instead.
//!
//! It does not know what a task did; the service says so when it refuses.

use std::io::{BufRead, IsTerminal};

use anyhow::anyhow;
use serde_json::{Value, json};

use super::Rerun;
use super::client::{Client, segment};
use super::told;
use crate::commands::exit::{Code, Exit};
use crate::commands::terminal::{Terminal, sanitized};

/// What a person wants of a task that would repeat its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Resume,
    Rerun,
    Nothing,
}

pub(super) async fn rerun(rerun: &Rerun, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let task = &rerun.task;
    let path = format!("/tasks/{}/rerun", segment(task));
    let refused = match client.post_or_problem(&path, &json!({ "repeat_writes": rerun.yes })).await? {
        Ok(answer) => return told(&answer, "queued again", task, json, terminal),
        Err(problem) => problem,
    };
    if refused.code() != "writes_repeated" {
        return Err(refused.into_exit());
    }
    terminal.note(&format!("{task} made calls that change something; to run it again may make them again:"))?;
    for write in refused.list("writes") {
        terminal.note(&format!("  {}", described(write)))?;
    }
    let asks = std::io::stdin().is_terminal() && terminal.is_interactive() && !json;
    let choice = if asks { ask(terminal)? } else { Choice::Nothing };
    match choice {
        Choice::Rerun => {
            let answer = client.post(&path, &json!({ "repeat_writes": true }), None).await?;
            told(&answer, "queued again", task, json, terminal)
        }
        Choice::Resume => {
            let answer = client.post(&format!("/tasks/{}/resume", segment(task)), &json!({}), None).await?;
            told(&answer, "queued; it goes on from its last good step", task, json, terminal)
        }
        Choice::Nothing => {
            let advice = format!(
                "nothing was done: `mote task resume {task}` goes on behind those calls, `mote task rerun {task} --yes` begins \
                 anew all the same"
            );
            Err(Exit::new(Code::Refused, anyhow!(advice)))
        }
    }
}

/// One call: the tool, its step, and what is known of its outcome.
fn described(write: &Value) -> String {
    let text = |field: &str| sanitized(write[field].as_str().unwrap_or("?"));
    let step = write["step"].as_u64().unwrap_or_default();
    format!("step {step}: {} ({}, outcome {})", text("tool"), text("class"), text("outcome"))
}

fn ask(terminal: &mut Terminal) -> Result<Choice, Exit> {
    terminal.note("resume it from its journal (r), run it again from the beginning (again), or leave it (enter)?")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(anyhow::Error::new)?;
    Ok(choice(&line))
}

/// To repeat writes takes the whole word.
fn choice(line: &str) -> Choice {
    match line.trim().to_ascii_lowercase().as_str() {
        "r" | "resume" => Choice::Resume,
        "again" => Choice::Rerun,
        _ => Choice::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_repeated_only_by_the_whole_word() {
        for (line, expected) in [
            ("r\n", Choice::Resume),
            ("Resume", Choice::Resume),
            ("again\n", Choice::Rerun),
            ("a\n", Choice::Nothing),
            ("y\n", Choice::Nothing),
            ("", Choice::Nothing),
        ] {
            assert_eq!(choice(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_call_is_told_with_its_step_and_its_outcome() {
        let write = json!({"tool": "send_note", "class": "write", "outcome": "unknown", "step": 3});
        assert_eq!(described(&write), "step 3: send_note (write, outcome unknown)");
    }
}
