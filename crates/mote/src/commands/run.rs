//! `mote run`: one task, here, its steps shown live.

use std::path::PathBuf;

use mote::config::{Agent, ModelChoice, Options, Provider};

use super::exit::Exit;
use super::run_file::{RunFile, ServiceSpec};
use super::services::{self, Services};
use super::terminal::{Style, Terminal};

const AFTER_HELP: &str = "\
INPUT is the task; `-` reads it from stdin; without it, the `input` of the run.yaml beside agent.yaml is taken.
A run.yaml may also name services that the agent's tools need; they are started with the run and stopped with it.

Which model: the one of agent.yaml, unless --model names another or run.yaml lists live models (`live`) and one's key
is set. For a live model set ANTHROPIC_API_KEY or OPENAI_API_KEY, or name any OpenAI-compatible endpoint.

Examples:
  mote run examples/quickstart
  mote run examples/quickstart \"Triage ticket T-1002\" --json
  mote run agent.yaml \"…\" --model openai/llama3.2 --base-url http://127.0.0.1:11434/v1
  mote run agent.yaml \"…\" --session demo --state .mote     later turns remember this one

Exit codes: 0 completed; 1 failed or cancelled; 2 the command line or agent.yaml is wrong.";

/// Run an agent on one task, here, and show its steps
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

    /// Where services' output goes.
    fn log_folder(&self) -> PathBuf {
        match &self.state {
            Some(state) => state.join("logs"),
            None => std::env::temp_dir().join(format!("mote-run-{}", std::process::id())),
        }
    }

    /// The task's input: of the command line, of stdin, or of run.yaml.
    pub(crate) fn task_input(&self, run_file: &RunFile) -> Result<String, Exit> {
        match self.input.as_deref() {
            Some("-") => super::task::read_stdin(),
            Some(text) => Ok(text.to_owned()),
            None => run_file.input.clone().ok_or_else(|| {
                Exit::usage("no INPUT is given and no run.yaml beside agent.yaml has an `input`: mote run AGENT \"…\"")
            }),
        }
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
        announce(&loaded.agent, &run_file, terminal)?;
        let specs = arguments.services(&run_file);
        let services = Services::start(&specs, &run_file.folder, &arguments.log_folder()).await?;
        if !services.names().is_empty() {
            let line = format!("with {} (logs in {})", services.names().join(", "), arguments.log_folder().display());
            let line = terminal.paint(Style::Dim, &line);
            terminal.note(&line)?;
        }
        let end = perform(&arguments, loaded.agent, input, terminal).await;
        services.stop().await;
        end
    })
}

/// Carries out the task on a runner of this process.
async fn perform(arguments: &Arguments, agent: Agent, input: String, terminal: &mut Terminal) -> Result<(), Exit> {
    let _ = (arguments, agent, input, terminal.is_interactive());
    Err(anyhow::anyhow!("failed to run: the runner is not part of this build").into())
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
