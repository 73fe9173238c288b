//! Which sandbox a call works in: found, made once, or made anew where it is gone.
//!
//! A sandbox is entered in the store before the daemon is asked for it, under a key by which the daemon makes it once
//! and by which it is found again; so none is made twice, and none is forgotten. Giving back is not done here.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use data_encoding::HEXLOWER;
use mote_sandbox_api::error::Code;
use mote_sandbox_api::request::{Create, Page, Renew, Sandbox};
use mote_sandbox_api::spec::Spec;
use reqwest::Method;
use serde_json::json;
use tokio::sync::oneshot;

use super::client::{Daemon, Trouble, segment};
use crate::canonical;
use crate::clock::SharedClock;
use crate::limits::{
    SANDBOX_ANSWER_BYTES_MAX, SANDBOX_ANSWER_TIMEOUT, SANDBOX_CREATE_TIMEOUT, SANDBOX_CREATE_WAIT, TOOL_CONNECT_TIMEOUT,
};
use crate::secret::SecretValue;
use crate::store::{self, NewSandbox, SandboxChange, SandboxRow, SandboxScope, Store};
use crate::tls;
use crate::tools::Invocation;
use crate::tools::http::{BuildError, Clients, Policy};
use crate::tools::policy::network::Private;
use crate::tools::sandbox::config::{Release, SandboxTool};

/// Sandboxes that one call finds gone in a row before it gives up.
const REPLACEMENTS_MAX: usize = 3;

/// The agent's sandboxes: one for each session, or task.
pub struct Sandboxes {
    pub(super) config: SandboxTool,
    pub(super) daemon: Daemon,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: SharedClock,
    agent: String,
    spec: String,
    clients: Arc<Clients>,
    /// For a daemon whose certificate is of a private authority.
    private: Option<reqwest::Client>,
    settling: Mutex<HashMap<SandboxScope, Weak<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandboxes").field("daemon", &self.daemon.base()).finish_non_exhaustive()
    }
}

/// The sandbox of a call.
#[derive(Debug)]
pub(super) struct Place {
    /// Its id at the daemon.
    pub(super) id: String,
    /// Its row.
    pub(super) row: i64,
    /// What the model has to know of it before it relies on anything.
    pub(super) note: Option<String>,
    /// Whether Python was used in it.
    pub(super) python: bool,
}

/// Why there is no sandbox to work in. Nothing of the call was performed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Homeless {
    #[error(transparent)]
    Daemon(#[from] Trouble),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the sandbox is still being made by the daemon at {0}")]
    Late(String),
    #[error("each sandbox that the daemon at {0} made was gone at once")]
    Restless(String),
}

impl Sandboxes {
    /// What opens the daemon: its key, and a client for a private authority where there is one.
    ///
    /// # Errors
    /// If the key or the authority's certificates cannot be read.
    pub fn access(config: &SandboxTool) -> Result<(Option<SecretValue>, Option<reqwest::Client>), BuildError> {
        let fail =
            |field: &str, message: String| BuildError { tool: "sandbox".to_owned(), field: field.to_owned(), message };
        let key = config.key.as_ref().map(|key| key.read()).transpose();
        let key = key.map_err(|error| fail("key", error.to_string()))?;
        let private = config.ca.as_deref().map(private_client).transpose().map_err(|message| fail("ca", message))?;
        Ok((key, private))
    }

    /// Sets up what every tool of the sandbox shares: reads the daemon's key. Opens no connection.
    ///
    /// # Errors
    /// If the key cannot be read.
    pub fn new(
        config: &SandboxTool,
        agent: &str,
        store: Arc<dyn Store>,
        clock: SharedClock,
        clients: Arc<Clients>,
    ) -> Result<Arc<Self>, BuildError> {
        let (key, private) = Self::access(config)?;
        Ok(Arc::new(Self {
            private,
            daemon: Daemon::new(&config.url, key),
            spec: spec_digest(&config.spec),
            config: config.clone(),
            store,
            clock,
            agent: agent.to_owned(),
            clients,
            settling: Mutex::default(),
        }))
    }

    /// A client for requests that may be repeated (`fresh` is false) or may not.
    pub(super) fn http(&self, fresh: bool) -> Result<reqwest::Client, Trouble> {
        if let Some(client) = &self.private {
            return Ok(client.clone());
        }
        // The operator names the daemon: it is commonly on this host or in a private network.
        self.clients.get(&Policy { private: Private::All, fresh }).map_err(|error| Trouble::Unreachable {
            base: self.daemon.base().to_owned(),
            reason: error.to_string(),
            sent: false,
        })
    }

    /// The sandbox that the call works in, its lease renewed.
    pub(super) async fn place(self: &Arc<Self>, invocation: &Invocation) -> Result<Place, Homeless> {
        let (sender, settled) = oneshot::channel();
        let (this, invocation) = (Arc::clone(self), invocation.clone());
        // On its own, so that a call that is given up neither leaves a sandbox unrecorded nor has it made again.
        tokio::spawn(async move {
            let _ = sender.send(this.settle(&invocation).await);
        });
        let late = || Homeless::Late(self.daemon.base().to_owned());
        tokio::time::timeout(SANDBOX_CREATE_WAIT, settled).await.map_err(|_| late())?.map_err(|_| late())?
    }

    fn scope(&self, invocation: &Invocation) -> SandboxScope {
        match &invocation.session {
            Some(session) if self.config.release != Release::Turn => {
                SandboxScope::Session { tenant: invocation.tenant.clone(), session: session.clone() }
            }
            _ => SandboxScope::Task(invocation.task.clone()),
        }
    }

    /// One at a time settles in a scope: the calls of a turn run side by side.
    fn turn(&self, scope: &SandboxScope) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(scope).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(scope.clone(), Arc::downgrade(&turn));
        turn
    }

    async fn settle(&self, invocation: &Invocation) -> Result<Place, Homeless> {
        let scope = self.scope(invocation);
        let turn = self.turn(&scope);
        let _turn = turn.lock().await;
        let mut row = match self.store.sandbox(&scope).await? {
            Some(row) => row,
            None => self.store.enter_sandbox(self.new_sandbox(&scope, None)).await?,
        };
        for _ in 0..REPLACEMENTS_MAX {
            let lost = match self.settled(&row, &scope, invocation).await? {
                Ok(id) => return self.told(row, id, invocation).await,
                Err(lost) => lost,
            };
            tracing::warn!(sandbox = row.sandbox, reason = lost, "the sandbox is gone; making another");
            let replacement = self.new_sandbox(&scope, Some((row.row, lost)));
            row = self.store.enter_sandbox(replacement).await?;
        }
        Err(Homeless::Restless(self.daemon.base().to_owned()))
    }

    /// The id of a row's sandbox, which is there; or why it is not.
    async fn settled(
        &self,
        row: &SandboxRow,
        scope: &SandboxScope,
        invocation: &Invocation,
    ) -> Result<Result<String, String>, Homeless> {
        if row.url != self.daemon.base() {
            return Ok(Err("the agent uses another sandbox daemon now".to_owned()));
        }
        if row.spec != self.spec {
            return Ok(Err("the agent's configuration of it has changed".to_owned()));
        }
        let id = match &row.sandbox {
            Some(id) => id.clone(),
            None => match self.made(row, scope, invocation).await? {
                Ok(id) => id,
                Err(lost) => return Ok(Err(lost)),
            },
        };
        let renew = Renew { lease: self.config.spec.lease };
        let path = format!("/v1/sandboxes/{}/renew", segment(&id));
        let request = self.daemon.request(&self.http(false)?, Method::POST, &path).json(&renew);
        match self.daemon.send(traced(request, invocation).timeout(SANDBOX_ANSWER_TIMEOUT)).await {
            Ok(_) => Ok(Ok(id)),
            Err(trouble) if trouble.is_lost() => Ok(Err(reason(&trouble))),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Has the sandbox of a row made, once: an earlier attempt's is taken where there is one.
    async fn made(
        &self,
        row: &SandboxRow,
        scope: &SandboxScope,
        invocation: &Invocation,
    ) -> Result<Result<String, String>, Homeless> {
        if let Some(id) = self.find(&row.creation).await?.into_iter().next() {
            self.store.change_sandbox(row.row, SandboxChange::Made { sandbox: id.clone() }).await?;
            return Ok(Ok(id));
        }
        crate::crash::point("sandbox.before_create");
        let create = Create { spec: self.specified(row, scope, invocation), count: None };
        let request = self.daemon.request(&self.http(false)?, Method::POST, "/v1/sandboxes").json(&create);
        let request = traced(request, invocation).header("idempotency-key", &row.creation);
        let made: Sandbox = match self.daemon.send(request.timeout(SANDBOX_CREATE_TIMEOUT)).await {
            Ok(response) => self.daemon.json(response, SANDBOX_ANSWER_BYTES_MAX).await?,
            // Under this key another task of the session asked, and what was made for it is gone.
            Err(trouble) if trouble.code() == Some(Code::Conflict) => return Ok(Err(reason(&trouble))),
            Err(trouble) => return Err(trouble.into()),
        };
        crate::crash::point("sandbox.after_create");
        tracing::info!(sandbox = made.id, task_id = invocation.task, "a sandbox was made");
        self.store.change_sandbox(row.row, SandboxChange::Made { sandbox: made.id.clone() }).await?;
        Ok(Ok(made.id))
    }

    /// Ids of the sandboxes that were made under a key and are not gone: one at most, unless somebody forked it.
    pub(super) async fn find(&self, creation: &str) -> Result<Vec<String>, Trouble> {
        let path = format!("/v1/sandboxes?metadata.creation={}", segment(creation));
        let request = self.daemon.request(&self.http(false)?, Method::GET, &path).timeout(SANDBOX_ANSWER_TIMEOUT);
        let response = self.daemon.send(request).await?;
        let page: Page<Sandbox> = self.daemon.json(response, SANDBOX_ANSWER_BYTES_MAX).await?;
        let own = |sandbox: &Sandbox| sandbox.parent.is_none();
        Ok(page.items.into_iter().filter(own).map(|sandbox| sandbox.id).collect())
    }

    fn specified(&self, row: &SandboxRow, scope: &SandboxScope, invocation: &Invocation) -> Spec {
        let mut metadata = BTreeMap::from([
            ("made_by".to_owned(), "mote".to_owned()),
            ("agent".to_owned(), self.agent.clone()),
            ("task".to_owned(), invocation.task.clone()),
            ("creation".to_owned(), row.creation.clone()),
        ]);
        if let SandboxScope::Session { session, .. } = scope {
            metadata.insert("session".to_owned(), session.clone());
        }
        if !invocation.tenant.is_empty() {
            metadata.insert("tenant".to_owned(), invocation.tenant.clone());
        }
        Spec { metadata, ..self.config.spec.clone() }
    }

    fn new_sandbox(&self, scope: &SandboxScope, replaces: Option<(i64, String)>) -> NewSandbox {
        let now = self.clock.now_ms();
        let owner = match scope {
            SandboxScope::Session { tenant, session } => json!({"tenant": tenant, "session": session}),
            SandboxScope::Task(task) => json!({"task": task}),
        };
        // The name of a session may be used again once it was erased: what is random tells the two apart.
        let creation = json!({"agent": self.agent, "owner": owner, "at": now, "random": self.clock.random()});
        let creation = HEXLOWER.encode(&canonical::digest(&creation));
        NewSandbox {
            scope: scope.clone(),
            url: self.daemon.base().to_owned(),
            creation,
            spec: self.spec.clone(),
            now,
            replaces,
        }
    }

    /// The place, with what the model has to be told of it.
    async fn told(&self, row: SandboxRow, id: String, invocation: &Invocation) -> Result<Place, Homeless> {
        let mut note = None;
        if row.generation > 1 && !row.told {
            let told = SandboxChange::Told { task: invocation.task.clone(), call: invocation.key.clone() };
            self.store.change_sandbox(row.row, told).await?;
            let reason = row.reason.as_deref().unwrap_or("it was removed");
            note = Some(format!(
                "The sandbox of your earlier calls is gone: {reason}. This call worked in a fresh one, without the files, \
                 processes and variables of before."
            ));
        }
        Ok(Place { id, row: row.row, note, python: row.python })
    }
}

/// A client that keeps no connection: each request opens its own, so that none meets one that is just being closed.
fn private_client(ca: &Path) -> Result<reqwest::Client, String> {
    let builder = tls::http_client(Some(ca)).map_err(|error| error.to_string())?;
    let builder = builder.connect_timeout(TOOL_CONNECT_TIMEOUT).pool_max_idle_per_host(0);
    builder.build().map_err(|error| error.to_string())
}

/// Hands the caller's trace on.
pub(super) fn traced(request: reqwest::RequestBuilder, invocation: &Invocation) -> reqwest::RequestBuilder {
    match &invocation.traceparent {
        Some(traceparent) => request.header("traceparent", traceparent),
        None => request,
    }
}

fn reason(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Refused { failure: Some(failure), .. } => failure.message.clone(),
        other => other.to_string(),
    }
}

/// Digest of what a sandbox is made of; how long it is kept may change without another one being made.
fn spec_digest(spec: &Spec) -> String {
    let made_of = Spec { lease: None, on_lease_end: None, deadline: None, ..spec.clone() };
    HEXLOWER.encode(&canonical::digest(&json!(made_of)))
}
