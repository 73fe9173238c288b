//! `mote run`: one task, here, its steps shown live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use mote::config::{Agent, Bound, Loaded, ModelChoice, Options};
use mote::message::{Message, Role};
use mote::model::config::Provider;
use mote::runner::{Runner, Submission, Takes};
use mote::service::Service;
use mote::store::{Erase, Mail, Owner};
use mote::telemetry::logs::Format;
use mote::telemetry::{self, LogOutput};
use serde_json::Value;
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;

use super::ask::{self, Look, Person, Wait};
use super::check::not_started;
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
any OpenAI-compatible endpoint (--model and --base-url, or MOTE_MODEL and MOTE_BASE_URL). A plan
(`provider: scripted`) answers no task but its own, and the run says so.

What the agent asks (an approval, a question) is asked on the terminal. Where there is none, the
run says how to answer with --state, and ends where nobody can.

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
    #[arg(long, value_name = "PROVIDER/NAME", env = "MOTE_MODEL")]
    pub(crate) model: Option<String>,
    /// The model's endpoint, such as a local Ollama, vLLM or llama.cpp
    #[arg(long, value_name = "URL", requires = "model", env = "MOTE_BASE_URL")]
    pub(crate) base_url: Option<String>,
    /// What the model costs, in USD per million tokens (0 if it is free): a budget in USD needs to know
    #[arg(long, value_name = "INPUT,OUTPUT", requires = "model", value_parser = ModelChoice::parse_price)]
    pub(crate) price: Option<[serde_json::Number; 2]>,
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
            Some(text) => {
                let choice = ModelChoice::parse(text, self.base_url.clone());
                let choice = choice.map_err(|error| Exit::usage(format!("--model: {error}")))?;
                Ok(Some(ModelChoice { price: self.price.clone(), ..choice }))
            }
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
        announce(&loaded.agent, &run_file, arguments.input.is_some(), terminal)?;
        if let (Some(session), None) = (&arguments.session, &arguments.state) {
            let note =
                format!("--session {session} without --state: the session ends with this run, and nothing is kept");
            let note = terminal.paint(Style::Care, &note);
            terminal.note(&note)?;
        }
        let mut logs = Folder::new(arguments.state.as_ref().map(|state| state.join("logs")), "mote-run")?;
        let end = beside_services(&arguments, &run_file, loaded, input, logs.path(), &stop, terminal).await;
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
    loaded: Loaded,
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
    let end = perform(arguments, loaded, input, stop, terminal).await;
    services.stop().await;
    end
}

/// Carries out the task on a runner of this process.
async fn perform(
    arguments: &Arguments,
    loaded: Loaded,
    input: String,
    stop: &CancellationToken,
    terminal: &mut Terminal,
) -> Result<(), Exit> {
    let Loaded { mut agent, places, .. } = loaded;
    // A person watches the steps, and sees in them what the runner tells an operator; the log is for what else went wrong.
    agent.telemetry.log = "warn,mote::runner::observe=off".to_owned();
    let answers = answers(&agent);
    let state = Folder::new(arguments.state.clone(), "mote")?;
    let output = telemetry::Options {
        output: LogOutput::Stderr,
        format: Some(Format::Text),
        semconv: super::runtime::semconv(),
    };
    let service = match Service::start(agent, state.path(), output, Takes::Submitted).await {
        Ok(service) => service,
        Err(error) => return Err(not_started(error, &arguments.agent, &places, terminal)?),
    };
    let submission = submission(input, arguments.session.clone());
    let how = Following { json: arguments.json, agent: &arguments.agent, state: arguments.state.as_deref() };
    let end = follow(service.runner(), submission, &how, stop, terminal).await;
    if let (Folder::Passing(_), Some(session)) = (&state, &arguments.session) {
        // The session goes with the folder, and what it worked in with it.
        let what = Erase::Session { tenant: String::new(), session: session.clone() };
        if let Err(error) = service.runner().erase(what).await {
            tracing::warn!(%error, "failed to end the session; its sandbox is left to its lease");
        }
    }
    service.stop().await;
    report(&end?, answers.as_deref(), arguments.json, terminal)
}

/// What answers in place of a model, if something does.
fn answers(agent: &Agent) -> Option<String> {
    match &agent.models[0].provider {
        Provider::Anthropic | Provider::OpenAi | Provider::Cassette { record: Some(_), .. } => None,
        Provider::Scripted { plan } => Some(format!("the plan {}", plan.display())),
        Provider::Cassette { file, record: None } => Some(format!("the recording {}", file.display())),
    }
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
    how: &Following<'_>,
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
    let mut person = Person::at(terminal);
    let mut look = Look::default();
    let mut messages = std::pin::pin!(mote::api::watch(runner, &task));
    let mut spinner = tokio::time::interval(SPIN);
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            _ = spinner.tick(), if terminal.is_interactive() && !how.json && !person.is_asked() => {
                progress.spin(terminal);
                continue;
            }
            () = look.due() => {
                if !cancelled && how.face(runner, &task, &mut person, terminal).await? == Hope::Gone {
                    cancelled = true;
                    runner.post(&task, Mail::Cancel).await.context("failed to cancel the task")?;
                    terminal.note("cancelling…")?;
                }
                continue;
            }
            line = person.line() => {
                how.answer(runner, &task, line, &mut person, terminal).await?;
                look.soon();
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
        look.soon();
        let message = message.ok_or_else(|| anyhow!("the task's events ended early"))?;
        let event: Value = serde_json::from_str(&message).context("failed to read an event")?;
        if how.json {
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

/// How a run is followed.
struct Following<'a> {
    json: bool,
    /// The agent and the state folder as the command line has them.
    agent: &'a Path,
    state: Option<&'a Path>,
}

/// Whether what a task waits for may still come.
#[derive(Debug, PartialEq, Eq)]
enum Hope {
    /// It may.
    Left,
    /// Nobody can answer it, here or elsewhere.
    Gone,
}

impl Following<'_> {
    /// Asks the person here what the task waits for, or says how to answer elsewhere.
    async fn face(
        &self,
        runner: &Runner,
        task: &str,
        person: &mut Person,
        terminal: &mut Terminal,
    ) -> Result<Hope, Exit> {
        let row = runner.store().task(None, task).await.context("failed to read the task")?;
        let waiting = row.and_then(|row| row.waiting).and_then(|text| serde_json::from_str(&text).ok());
        let waits = ask::waits(&waiting.unwrap_or_default());
        let on_terminal = terminal.can_ask();
        person.face(&waits, |wait| self.elsewhere(task, wait, on_terminal), terminal)?;
        Ok(self.hope(&waits, person.is_there()))
    }

    /// Whether any of the waits may still end: by itself, by the person here, or by another process on the state folder.
    fn hope(&self, waits: &[Wait], is_person_there: bool) -> Hope {
        let hopeless = |wait: &Wait| !(wait.is_bounded || wait.is_asked() && is_person_there);
        let gone = self.state.is_none() && !waits.is_empty() && waits.iter().all(hopeless);
        if gone { Hope::Gone } else { Hope::Left }
    }

    /// How to answer it from elsewhere, or why nobody can. `on_terminal`: the run began on a terminal.
    fn elsewhere(&self, task: &str, wait: &Wait, on_terminal: bool) -> String {
        let agent = self.agent.display();
        if let Some(state) = self.state {
            let (state, command) = (state.display(), wait.command(task, ""));
            return format!("to answer it: `mote serve {agent} --state {state}` in another terminal, then `{command}`");
        }
        let (why, instead, command) = match (wait.is_asked(), on_terminal) {
            (false, _) => ("a signal cannot be given here without --state, as", "with --state DIR", "signal"),
            (true, true) => ("standard input has ended, and without --state", "again and answer it", "input"),
            (true, false) => {
                ("standard input or standard error is no terminal, and without --state", "on a terminal", "input")
            }
        };
        let until = if wait.is_bounded { "; it ends by itself when its time is over" } else { "" };
        format!(
            "nobody can answer it: {why} no other process knows the task{until}. \
             Run it {instead}, or with `mote serve {agent}`, `mote task submit` and `mote task {command}`"
        )
    }

    /// Gives the task what the person typed.
    async fn answer(
        &self,
        runner: &Runner,
        task: &str,
        line: Option<String>,
        person: &mut Person,
        terminal: &mut Terminal,
    ) -> Result<(), Exit> {
        let on_terminal = terminal.can_ask();
        let elsewhere = |wait: &Wait| self.elsewhere(task, wait, on_terminal);
        let Some(answer) = person.take(line, elsewhere, terminal)? else { return Ok(()) };
        let call = answer.call.clone();
        let mail = Mail::Input { call: Some(answer.call), approve: answer.approve, content: answer.content };
        if let Err(error) = runner.post(task, mail).await {
            person.refused(&call);
            let error = terminal.paint(Style::Bad, &format!("the answer was not taken: {error}"));
            terminal.note(&error)?;
        }
        Ok(())
    }
}

/// The result on stdout; how it went and what it cost beside it.
fn report(task: &Value, answers: Option<&str>, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
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
        let by = answers.map(|answers| format!(" by {answers}, not by a model")).unwrap_or_default();
        terminal.note(&format!("{title}{by}, {}", super::progress::spent(task)))?;
    }
    if completed { Ok(()) } else { Err(Exit::silent(Code::Failed)) }
}

/// Says which model answers, and for one that is not live, what to set. `is_asked`: the task stands on the command line, and
/// a plan answers none but its own.
fn announce(agent: &Agent, run_file: &RunFile, is_asked: bool, terminal: &mut Terminal) -> std::io::Result<()> {
    let model = &agent.models[0];
    let title = terminal.paint(Style::Strong, &format!("{} {}", agent.name, agent.version));
    let Some(answers) = answers(agent) else {
        let recorded = match &model.provider {
            Provider::Cassette { file, .. } => format!(", recorded to {}", file.display()),
            _ => String::new(),
        };
        return terminal.note(&format!("{title}, model {}{recorded}", model.name));
    };
    terminal.note(&format!("{title}, no model is asked: {answers} is replayed, its tools are called for real"))?;
    if is_asked {
        let warning = format!("your task is not answered: {answers} says what it says to any task");
        let warning = terminal.paint(Style::Care, &warning);
        terminal.note(&warning)?;
    }
    let hint = format!("for a live model:\n{}", run_file.live_hint());
    let hint = terminal.paint(Style::Dim, &hint);
    terminal.note(&hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn waits(kinds: &[(&str, bool)]) -> Vec<Wait> {
        let wait = |(kind, is_bounded): &(&str, bool)| {
            let until = if *is_bounded { json!("2026-01-01T00:00:00Z") } else { Value::Null };
            json!({"call": "c", "kind": kind, "tool": "t", "arguments": {"name": "go"}, "until": until})
        };
        ask::waits(&Value::Array(kinds.iter().map(wait).collect()))
    }

    fn following(state: Option<&str>) -> Following<'_> {
        Following { json: false, agent: Path::new("agent.yaml"), state: state.map(Path::new) }
    }

    #[test]
    fn a_run_gives_up_where_nothing_that_it_waits_for_can_come() {
        let check = |kinds: &[(&str, bool)], state: Option<&str>, is_person_there: bool, expected: Hope| {
            assert_eq!(following(state).hope(&waits(kinds), is_person_there), expected, "{kinds:?}");
        };
        check(&[("signal", false)], None, true, Hope::Gone);
        check(&[("signal", false)], None, false, Hope::Gone);
        check(&[("signal", false)], Some("state"), false, Hope::Left);
        check(&[("signal", true)], None, true, Hope::Left);
        check(&[("approval", false)], None, true, Hope::Left);
        check(&[("approval", false)], None, false, Hope::Gone);
        check(&[("signal", false), ("question", false)], None, true, Hope::Left);
        check(&[("signal", false), ("timer", false)], None, true, Hope::Left);
        check(&[], None, false, Hope::Left);
    }

    #[test]
    fn why_nobody_can_answer_is_told_as_it_is() {
        let check = |kind: (&str, bool), on_terminal: bool, expected: &str| {
            let told = following(None).elsewhere("t", &waits(&[kind])[0], on_terminal);
            assert!(told.contains(expected) && !told.contains("cancelling"), "{told}");
            assert!(!on_terminal || !told.contains("no terminal"), "{told}");
        };
        check(("signal", false), true, "a signal cannot be given here without --state");
        check(("signal", true), true, "it ends by itself");
        check(("approval", false), true, "standard input has ended");
        check(("question", false), false, "is no terminal");
        let told = following(Some("state")).elsewhere("t", &waits(&[("signal", false)])[0], true);
        assert!(told.contains("--state state` in another terminal, then `mote task signal t go`"), "{told}");
    }
}
