//! `mote run`: one task, here, its steps shown live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use mote::config::{Agent, Bound, ModelChoice, Options, Provider};
use mote::message::{Message, Role};
use mote::runner::{Runner, Submission, Takes};
use mote::service::Service;
use mote::store::{Erase, Mail, Owner};
use mote::telemetry::{self, LogOutput};
use serde_json::Value;
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

use super::exit::{Code, Exit};
use super::folder::Folder;
use super::progress::Progress;
use super::run_file::{RunFile, ServiceSpec};
use super::services::{self, Services};
use super::signals;
use super::terminal::{Style, Terminal};

/// How often the spinner turns.
const SPIN: Duration = Duration::from_millis(120);

const AFTER_HELP: &str = "\
INPUT is the task; `-` reads it from stdin; without it, the `input` of the run.yaml beside
agent.yaml is taken. A run.yaml may also name services that the agent's tools need; they are
started with the run and stopped with it.

Which model: the one of agent.yaml, unless --model names another or run.yaml lists live models
(`live`) and one's key is set. For a live model set ANTHROPIC_API_KEY or OPENAI_API_KEY, or name
any OpenAI-compatible endpoint.

Examples:
  mote run examples/quickstart
  mote run examples/quickstart \"Triage ticket T-1002\" --json
  mote run agent.yaml \"…\" --model openai/llama3.2 --base-url http://127.0.0.1:11434/v1
  mote run agent.yaml \"…\" --session demo --state .mote     later turns remember this one

Ctrl-C, SIGTERM and SIGHUP cancel the task; a second one ends the process at once. A run in a
service's state folder drives its own task alone. Without --state nothing is kept but the logs
of services, and those only if the run fails.

Exit codes: 0 completed; 1 failed or cancelled; 2 the command line or agent.yaml is wrong.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The agent.yaml, or the folder that holds it
    pub(crate) agent: PathBuf,
    /// The task; `-` reads stdin
    pub(crate) input: Option<String>,
    /// Print one JSON object a line: every event, then the task
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the run in this folder's store; without it nothing is kept
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Go on with this session: its transcript is remembered (with --state)
    #[arg(long, value_name = "NAME")]
    pub(crate) session: Option<String>,
    /// Ask this model instead: PROVIDER/NAME, the provider `anthropic` or `openai`
    #[arg(long, value_name = "PROVIDER/NAME")]
    pub(crate) model: Option<String>,
    /// The model's endpoint, such as a local Ollama, vLLM or llama.cpp
    #[arg(long, value_name = "URL", requires = "model")]
    pub(crate) base_url: Option<String>,
    /// Start this shell command with the run and stop it with the run; repeatable
    #[arg(long = "with", value_name = "CMD")]
    pub(crate) with: Vec<String>,
    /// Start no services of run.yaml: they run already
    #[arg(long)]
    pub(crate) no_services: bool,
}

impl Arguments {
    /// The model that is asked instead of agent.yaml's: of the command line, else the first live one of run.yaml whose
    /// key is set.
    pub(crate) fn model_choice(&self, run_file: &RunFile) -> Result<Option<ModelChoice>, Exit> {
        match &self.model {
            Some(text) => ModelChoice::parse(text, self.base_url.clone()).map(Some).map_err(Exit::usage),
            None => run_file.live_model().map_err(Exit::usage),
        }
    }

    /// The services to start: of run.yaml and of the command line.
    fn services(&self, run_file: &RunFile) -> Vec<ServiceSpec> {
        let declared = if self.no_services { &[][..] } else { &run_file.services };
        let shell = self.with.iter().enumerate().map(|(index, command)| services::from_shell(command, index));
        declared.iter().cloned().chain(shell).collect()
    }

    /// The task's input: of the command line, of stdin, or of run.yaml.
    pub(crate) fn task_input(&self, run_file: &RunFile) -> Result<String, Exit> {
        let input = match self.input.as_deref() {
            Some("-") => super::task::read_stdin()?,
            Some(text) => text.to_owned(),
            None => run_file.input.clone().ok_or_else(|| {
                Exit::usage("no INPUT is given and no run.yaml beside agent.yaml has an `input`: mote run AGENT \"…\"")
            })?,
        };
        // As the service has it.
        if input.trim().is_empty() {
            return Err(Exit::usage("the INPUT is empty"));
        }
        Ok(input)
    }
}

pub(crate) fn execute(arguments: Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let run_file = RunFile::beside(&arguments.agent)?;
    let choice = arguments.model_choice(&run_file)?;
    let options = Options { model: choice, ..Options::default() };
    let loaded = super::check::load(&arguments.agent, &options, terminal)?;
    let input = arguments.task_input(&run_file)?;
    let runtime = super::runtime::single()?;
    runtime.block_on(async {
        // Signals first: whatever is made from here on goes again.
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let stop = signals::watch(&kinds).context("failed to watch for signals")?;
        announce(&loaded.agent, &run_file, terminal)?;
        let mut logs = Folder::new(arguments.state.as_ref().map(|state| state.join("logs")), "mote-run")?;
        let end = beside_services(&arguments, &run_file, loaded.agent, input, logs.path(), &stop, terminal).await;
        if end.is_err() {
            logs.keep();
        }
        end
    })
}

/// Carries out the task while its services run.
async fn beside_services(
    arguments: &Arguments,
    run_file: &RunFile,
    agent: Agent,
    input: String,
    logs: &Path,
    stop: &CancellationToken,
    terminal: &mut Terminal,
) -> Result<(), Exit> {
    let specs = arguments.services(run_file);
    let services = tokio::select! {
        services = Services::start(&specs, &run_file.folder, logs) => services?,
        () = stop.cancelled() => return Err(Exit::silent(Code::Failed)),
    };
    if !services.names().is_empty() {
        let line = format!("with {} (logs in {})", services.names().join(", "), logs.display());
        let line = terminal.paint(Style::Dim, &line);
        terminal.note(&line)?;
    }
    let end = perform(arguments, agent, input, stop, terminal).await;
    services.stop().await;
    end
}

/// Carries out the task on a runner of this process.
async fn perform(
    arguments: &Arguments,
    mut agent: Agent,
    input: String,
    stop: &CancellationToken,
    terminal: &mut Terminal,
) -> Result<(), Exit> {
    // A person watches the steps; the log is for what went wrong.
    agent.telemetry.log = "warn".to_owned();
    let state = Folder::new(arguments.state.clone(), "mote")?;
    let output = telemetry::Options { output: LogOutput::Stderr, format: None, semconv: super::runtime::semconv() };
    let service = Service::start(agent, state.path(), output, Takes::Submitted).await.context("failed to start")?;
    let submission = submission(input, arguments.session.clone());
    let end = follow(service.runner(), submission, arguments.json, stop, terminal).await;
    if let (Folder::Passing(_), Some(session)) = (&state, &arguments.session) {
        // The session goes with the folder, and what it worked in with it.
        let what = Erase::Session { tenant: String::new(), session: session.clone() };
        if let Err(error) = service.runner().erase(what).await {
            tracing::warn!(%error, "failed to end the session; its sandbox is left to its lease");
        }
    }
    service.stop().await;
    report(&end?, arguments.json, terminal)
}

fn submission(input: String, session: Option<String>) -> Submission {
    Submission {
        owner: Owner { session, ..Owner::default() },
        input: vec![Message::text(Role::User, input)],
        context: None,
        budget: Bound::default(),
        active: None,
        expires: None,
        idempotency: None,
        traceparent: None,
    }
}

/// Submits the task and shows it to its end; `stop` cancels it.
async fn follow(
    runner: &Runner,
    submission: Submission,
    json: bool,
    stop: &CancellationToken,
    terminal: &mut Terminal,
) -> Result<Value, Exit> {
    let session = submission.owner.session.clone();
    // At once: a service on the same store would take it from the queue.
    let accepted = runner.submit(submission, true).await.context("failed to submit the task")?;
    let task = accepted.task;
    if let (Some(_), Some(session)) = (accepted.queued, session) {
        terminal
            .note(&format!("{task} waits: session {session} is at work on an earlier task, which is not this run's"))?;
    }
    let mut cancelled = false;
    let mut progress = Progress::default();
    let mut messages = std::pin::pin!(mote::api::watch(runner, &task));
    let mut spinner = tokio::time::interval(SPIN);
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            _ = spinner.tick(), if terminal.is_interactive() && !json => {
                progress.spin(terminal);
                continue;
            }
            () = stop.cancelled(), if !cancelled => {
                cancelled = true;
                runner.post(&task, Mail::Cancel).await.context("failed to cancel the task")?;
                // With SIGHUP nobody reads it any more.
                let _ = terminal.note("cancelling…");
                continue;
            }
        };
        let message = message.ok_or_else(|| anyhow!("the task's events ended early"))?;
        let event: Value = serde_json::from_str(&message).context("failed to read an event")?;
        if json {
            terminal.line(&message)?;
        } else {
            progress.show(&event, terminal)?;
        }
        match event["type"].as_str() {
            Some("end") => return Ok(event["task"].clone()),
            Some("error") => return Err(anyhow!("the task's events ended: {}", event["detail"]).into()),
            _ => {}
        }
    }
}

/// The result on stdout; how it went and what it cost beside it.
fn report(task: &Value, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let completed = task["status"] == "completed";
    if !json {
        terminal.clear_status();
        let (style, title) =
            if completed { (Style::Good, "completed".to_owned()) } else { (Style::Bad, text(&task["status"])) };
        if completed {
            let result = &task["result"];
            terminal.line(&result.as_str().map_or_else(|| format!("{result:#}"), str::to_owned))?;
        } else {
            let error = &task["error"];
            terminal.note(&format!("{}: {}", text(&error["code"]), text(&error["message"])))?;
        }
        let title = terminal.paint(style, &title);
        terminal.note(&format!("{title}, {}", super::progress::spent(task)))?;
    }
    if completed { Ok(()) } else { Err(Exit::silent(Code::Failed)) }
}

/// Says which model answers, and for one that is not live, what to set.
fn announce(agent: &Agent, run_file: &RunFile, terminal: &mut Terminal) -> std::io::Result<()> {
    let model = &agent.models[0];
    let title = terminal.paint(Style::Strong, &format!("{} {}", agent.name, agent.version));
    match &model.provider {
        Provider::Anthropic | Provider::OpenAi => terminal.note(&format!("{title}, model {}", model.name)),
        Provider::Scripted { plan } => {
            let plan = plan.display();
            let replays = "no model is asked: a plan is replayed, its tools are called for real";
            terminal.note(&format!("{title}, {replays} ({plan})"))?;
            let hint = format!("for a live model:\n{}", run_file.live_hint());
            let hint = terminal.paint(Style::Dim, &hint);
            terminal.note(&hint)
        }
        Provider::Cassette { file, record: None } => {
            terminal.note(&format!("{title}, no model is asked: {} is replayed", file.display()))
        }
        Provider::Cassette { file, record: Some(inner) } => {
            terminal.note(&format!("{title}, model {}, recorded to {}", inner.name, file.display()))
        }
    }
}
