//! Puts an agent's parts together: store, model, tools, telemetry, runner, API. The command line's `run` and `serve` both
//! stand on it.
//!
//! It decides nothing about runs and reads no command line.

pub mod components;
mod exposition;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::components::{Components, Faults};
use self::exposition::Exposition;
use crate::api::{self, ApiState, ReadyCheck};
use crate::auth::Keys;
use crate::clock::{SharedClock, System, new_id};
use crate::cloudevent::Publisher;
use crate::config::Agent;
use crate::model::chain::Chain;
use crate::model::{self, Provider};
use crate::runner::{Parts, Runner, Takes};
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{self, Store};
use crate::telemetry::metrics::Known;
use crate::telemetry::{self, Metrics, Telemetry};
use crate::tools::http::BuildError;
use crate::tools::sandbox::Sandboxes;
use crate::tools::validation;
use crate::{auth, limits, memory};

/// The store's file within the state folder.
pub const STORE_FILE: &str = "mote.db";

/// Why an agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder cannot be made.
    #[error("failed to make the state folder {}: {source}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A model cannot be set up.
    #[error(transparent)]
    Model(#[from] model::BuildError),
    /// A tool cannot be set up.
    #[error(transparent)]
    Tool(#[from] BuildError),
    /// The output schema does not compile.
    #[error("failed to read the output schema: {0}")]
    Output(#[from] validation::Error),
    /// The keys file cannot be read.
    #[error(transparent)]
    Keys(#[from] auth::Error),
    /// Telemetry cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// Parts that the configuration alone makes cannot be built.
    #[error(transparent)]
    Faults(#[from] Faults),
}

/// Opens the store of a state folder, which is made if it is not there.
///
/// # Errors
/// [`Error::State`] or [`Error::Store`].
pub async fn open_store(folder: &Path, options: sqlite::Options) -> Result<SqliteStore, Error> {
    opened(opening(folder, options)).await
}

type Opening = tokio::task::JoinHandle<Result<SqliteStore, Error>>;

/// Begins to open a store, on a thread that may wait for the disk.
fn opening(folder: &Path, options: sqlite::Options) -> Opening {
    let path = folder.to_owned();
    tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&path).map_err(|source| Error::State { path: path.clone(), source })?;
        Ok(SqliteStore::open(&path.join(STORE_FILE), options)?)
    })
}

async fn opened(opening: Opening) -> Result<SqliteStore, Error> {
    match opening.await {
        Ok(opened) => opened,
        Err(error) => Err(store::Error::Backend { operation: "open the store", detail: error.to_string() }.into()),
    }
}

/// Has the store written once, beside whatever else starts: a new log takes syncs that the first request need not wait for.
fn write_once(store: &Arc<SqliteStore>) {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        match store.held().await {
            Ok(held) if held != store::Held::default() => {
                let (tasks, messages) = (held.tasks(), held.messages);
                tracing::warn!(
                    tasks,
                    messages,
                    "held since the store was restored; `mote store release` lets them go on"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "failed to read what the store holds back"),
        }
        if let Err(error) = store.write_once().await {
            tracing::warn!(%error, "the store cannot be written");
        }
    });
}

/// A store whose group commits are counted, and which publishes in the agent's name where that has a sink.
fn store_options(metrics: &Arc<Metrics>, agent: &Agent) -> sqlite::Options {
    let (metrics, counted) = (Arc::clone(metrics), Arc::clone(metrics));
    let observer = move |group: sqlite::Group| {
        metrics.store_group(group.size, group.took);
        metrics.store_queue(group.queued);
    };
    let name: Arc<str> = agent.name.as_str().into();
    let publisher = |_| Arc::new(Publisher { agent: Arc::clone(&name) }) as Arc<dyn store::Announcer>;
    let announcer = agent.events.as_ref().map(publisher);
    let ends: store::EndObserver = Arc::new(move |ended| counted.task_ended(&ended));
    let observer: sqlite::GroupObserver = Arc::new(observer);
    sqlite::Options {
        observer: Some(observer),
        ends: Some(ends),
        announcer,
        agent: Some(name),
        ..sqlite::Options::default()
    }
}

/// Keeps an idle process small: gives its text back after starting, and again after each look for work while there is
/// nothing else to do.
async fn rest(runner: Runner) {
    tokio::time::sleep(limits::TEXT_RELEASE_FIRST).await;
    let failed = |error: std::io::Error| {
        tracing::debug!(%error, "failed to give the program's text back; it stays resident");
    };
    let text = match memory::Text::find() {
        Ok(text) => text,
        Err(error) => return failed(error),
    };
    let mut used = memory::processor_time();
    loop {
        // That look is all that an idle process does, once a second: what it brought in leaves again when it is over.
        runner.looked().await;
        tokio::time::sleep(limits::TEXT_RELEASE_AFTER).await;
        let now = memory::processor_time();
        let is_idle = now.saturating_sub(used) < limits::IDLE_PROCESSOR_TIME;
        used = now;
        if is_idle && let Err(error) = text.release() {
            return failed(error);
        }
    }
}

/// A running agent.
pub struct Service {
    runner: Runner,
    models: Arc<Chain>,
    telemetry: Telemetry,
    keys: Option<Arc<Keys>>,
}

impl Service {
    /// Starts an agent on the store of `state`. Its worker begins with whatever is due there and its business.
    ///
    /// # Errors
    /// [`Error`]: whatever cannot be set up, by name.
    pub async fn start(agent: Agent, state: &Path, output: telemetry::Options, takes: Takes) -> Result<Self, Error> {
        let clock: SharedClock = Arc::new(System);
        let instance = new_id("instance", &*clock);
        let service = telemetry::Service { name: &agent.name, version: &agent.version, instance: &instance };
        let telemetry = telemetry::init(&agent.telemetry, &service, output, Arc::clone(&clock))?;
        // The disk works while the rest is set up.
        let opening = opening(state, store_options(&telemetry.metrics, &agent));
        let Components { keys, models, clients, mut registry } = components::build(&agent, &clock)?;
        let store = Arc::new(opened(opening).await?);
        write_once(&store);
        let store: Arc<dyn Store> = store;
        if let Some(config) = &agent.sandbox {
            let sandboxes = Sandboxes::new(config, &agent.name, Arc::clone(&store), Arc::clone(&clock), clients)?;
            registry.add_sandbox(sandboxes)?;
        }
        telemetry.metrics.declare(&Known {
            models: agent.models.iter().map(|model| (model.provider.kind(), model.name.as_str())).collect(),
            tools: registry.definitions().iter().map(|tool| tool.name.as_str()).collect(),
            routes: api::ROUTES,
        });
        let parts = Parts {
            agent: Arc::new(agent),
            store,
            clock,
            provider: Arc::clone(&models) as Arc<dyn Provider>,
            registry,
            metrics: Arc::clone(&telemetry.metrics),
            tracer: telemetry.tracer.clone(),
            takes,
        };
        Ok(Self { runner: Runner::start(parts)?, models, telemetry, keys })
    }

    /// The runner.
    #[must_use]
    pub fn runner(&self) -> &Runner {
        &self.runner
    }

    /// Serves the API until `stop` is cancelled, then winds down: nothing new is accepted, runs are given back at a step
    /// boundary, and what is left at the drain's deadline is given up to the next process.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let closing = CancellationToken::new();
        let runner = self.runner.clone();
        let model = {
            let runner = runner.clone();
            ReadyCheck::flag("model", "every model's circuit is open", move || runner.model_available())
        };
        let providers = runner.agent().models.iter().map(|model| model.provider.kind()).collect();
        let (metrics, store) = (Arc::clone(&self.telemetry.metrics), Arc::clone(runner.store()));
        let metrics = Exposition::new(metrics, store, Arc::clone(&self.models), providers).with_keys(self.keys.clone());
        let server = api::server(ApiState {
            runner: runner.clone(),
            keys: self.keys.clone(),
            checks: vec![model],
            metrics: Arc::new(metrics),
            closing: closing.clone(),
        });
        let hang_up = CancellationToken::new();
        let serving = server.serve(listener, hang_up.clone(), limits::CONNECTION_GRACE);
        let winding = async {
            stop.cancelled().await;
            tracing::info!("shutting down: runs are given back at their next step boundary");
            runner.drain(runner.agent().server.drain).await;
            closing.cancel();
            hang_up.cancel();
        };
        let resting = tokio::spawn(rest(runner.clone()));
        tokio::join!(serving, winding);
        resting.abort();
        self.finish().await;
    }

    /// Winds down a service that was not served.
    pub async fn stop(self) {
        self.runner.drain(Duration::ZERO).await;
        self.finish().await;
    }

    async fn finish(self) {
        tracing::info!("stopped");
        self.telemetry.shutdown(limits::TELEMETRY_FLUSH).await;
    }
}
