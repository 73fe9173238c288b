//! `mote replay`: a journal through the core, each step with its cost and time.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use mote::money::dollars;
use mote::runner::{Core, Replayed, replay};
use mote::service::STORE_FILE;
use mote::store::sqlite::ReadOnly;
use mote::store::{Records as _, named_life};
use mote_core::{Action, Spender};
use serde_json::json;

use super::exit::Exit;
use super::terminal::{Style, Terminal};

const AFTER_HELP: &str = "\
The store is opened to read and not changed, also while a service uses it; no model is asked
and no tool is called. The core decides each
step again and its decisions are compared with the journal's; where they differ, the replay
fails and says at which entry.

Examples:
  mote replay task_01jx… --state /var/lib/mote
  mote replay task_01jx….1                    the journal before its first rerun
  mote replay task_01jx… --state .mote --json | jq .cost";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The task's id; `ID.1` is its first life, before it was run anew
    pub(crate) task: String,
    /// The folder of the store
    #[arg(long, value_name = "DIR", default_value = ".mote")]
    pub(crate) state: PathBuf,
    /// Print one JSON object a step
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn execute(arguments: Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let path = arguments.state.join(STORE_FILE);
    if !path.is_file() {
        return Err(Exit::usage(format!("there is no store at {} (--state)", path.display())));
    }
    super::runtime::single()?.block_on(async {
        let store = ReadOnly::open(&path).context("failed to open the store")?;
        let (id, life) = named_life(&arguments.task);
        let found = store.task(None, id).await.context("failed to read the task")?;
        let named = found.and_then(|task| Some((task.journal_of(life.unwrap_or_else(|| task.life()))?, task)));
        let (journal, task) =
            named.ok_or_else(|| Exit::usage(format!("there is no task {} in {}", arguments.task, path.display())))?;
        let mut shown = Ok(());
        let mut last = task.created_at;
        let replayed = replay(&store, &journal, |step| {
            let waited = step.entry.at.saturating_sub(last);
            last = step.entry.at;
            if shown.is_ok() {
                shown = show(&step, waited, arguments.json, terminal);
            }
        });
        let run = replayed.await.context("failed to read the journal")?;
        shown?;
        match run {
            Ok(run) if arguments.json => Ok(terminal.line(&summary(&run).to_string())?),
            Ok(run) => Ok(terminal.line(&format!("replayed to the same end: {}", sentence(&run)))?),
            Err(error) => Err(anyhow!("{}: {}", error.code, error.message).into()),
        }
    })
}

/// One step: when, what happened, what followed, what it cost so far.
fn show(step: &Replayed, waited_ms: u64, json: bool, terminal: &mut Terminal) -> std::io::Result<()> {
    let (entry, spent) = (&step.entry, step.run.budget().spent);
    let actions: Vec<String> = step.actions.iter().map(describe).collect();
    if json {
        let line = json!({
            "seq": entry.seq,
            "at": mote::timestamp::format_rfc3339(entry.at),
            "epoch": entry.epoch,
            "after_ms": waited_ms,
            "kind": entry.kind,
            "payload": step.payload.to_json().and_then(|json| serde_json::from_str::<serde_json::Value>(&json).ok()),
            "actions": actions,
            "phase": format!("{:?}", step.run.phase()),
            "step": step.run.steps(),
            "tokens": spent.tokens(),
            "cost_nano_usd": spent.nano_usd,
            "uncertain_nano_usd": step.run.budget().uncertain.nano_usd,
            "context_tokens": step.run.context().tokens(),
        });
        return terminal.line(&line.to_string());
    }
    let kind = terminal.paint_output(Style::Strong, &format!("{:<16}", entry.kind));
    let cost = dollars(spent.nano_usd);
    let follows = if actions.is_empty() { "-".to_owned() } else { actions.join(", ") };
    terminal.line(&format!(
        "{:>4}  +{:>7} ms  {kind}  {:>8} tokens  {cost}  {follows}",
        entry.seq,
        waited_ms,
        spent.tokens()
    ))
}

fn describe(action: Action) -> String {
    match action {
        Action::Settle { spender, tokens, nano_usd, uncertain } => {
            let kind = if uncertain { "uncertain " } else { "" };
            format!("settle {kind}{tokens} tokens, {}{}", dollars(nano_usd), of(spender))
        }
        Action::Conclude { call, outcome } => format!("conclude call {call}: {outcome:?}"),
        Action::Ask { call } => format!("ask a person about call {call}"),
        Action::CallTool { call, attempt } => format!("call tool {call}, attempt {attempt}"),
        Action::Reserve { spender, tokens, nano_usd } => {
            format!("reserve {tokens} tokens, {}{}", dollars(nano_usd), of(spender))
        }
        Action::ResumeCall { call, attempt } => format!("go on with call {call}, attempt {attempt}"),
        Action::Compact { from, through, attempt, .. } => {
            format!("summarise units {from} to {through}, attempt {attempt}")
        }
        Action::CallModel { step, attempt, endpoint: 0, .. } => {
            format!("call the model, step {step}, attempt {attempt}")
        }
        Action::CallModel { step, attempt, endpoint, .. } => {
            format!("call fallback {endpoint}, step {step}, attempt {attempt}")
        }
        Action::Suspend { until: 0 } => "rest until mail comes".to_owned(),
        Action::Suspend { until } => format!("rest until {}", mote::timestamp::format_rfc3339(until)),
        Action::Finish { outcome } => format!("finish: {outcome:?}"),
    }
}

/// Whose money it is, where it is not the model's.
fn of(spender: Spender) -> String {
    match spender {
        Spender::Model => String::new(),
        Spender::Summary => " for the summary".to_owned(),
        Spender::Call { call } => format!(" for call {call}"),
    }
}

fn summary(run: &Core) -> serde_json::Value {
    let spent = run.budget().spent;
    json!({
        "phase": format!("{:?}", run.phase()),
        "steps": run.steps(),
        "tool_calls": run.tool_calls(),
        "tokens": spent.tokens(),
        "cost_nano_usd": spent.nano_usd,
        "uncertain_tokens": run.budget().uncertain.tokens(),
        "uncertain_nano_usd": run.budget().uncertain.nano_usd,
        "active_ms": run.active_ms(),
    })
}

fn sentence(run: &Core) -> String {
    let spent = run.budget().spent;
    format!(
        "{:?}, {} steps, {} tool calls, {} tokens, {}, {} ms of work",
        run.phase(),
        run.steps(),
        run.tool_calls(),
        spent.tokens(),
        dollars(spent.nano_usd),
        run.active_ms()
    )
}
