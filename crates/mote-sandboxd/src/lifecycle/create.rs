//! Creation: a record, a root, a first process, its configuration; or a claim from the warm pool.
//!
//! It makes one sandbox from an image or a snapshot; forks have a file of their own.

use std::sync::{Arc, PoisonError, Weak};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Configuration, E2B_SANDBOX, E2B_SANDBOX_ID};
use mote_sandbox_api::lifecycle::{State, Transition};
use mote_sandbox_api::limits::BATCH_MAX;
use mote_sandbox_api::request::Sandbox;
use mote_sandbox_api::spec::{ImageSource, Spec};
use tokio::sync::SemaphorePermit;

use super::cell::Cell;
use super::key::Key;
use super::measure::Operation;
use super::profiles::USER;
use super::record::Record;
use super::substrate::{Alive, Defaults, Launch, Origin, Volume};
use super::{Inner, Sandboxes, check, to_the_end};
use crate::clock::new_id;
use crate::crash;
use crate::limits::{CREATIONS_WAITING_MAX, GIVE_BACK_RETRY_FIRST, GIVE_BACK_RETRY_MAX, GUEST_START_TIMEOUT};
use crate::state::SnapshotRecord;

impl Sandboxes {
    /// Makes a sandbox. It can be used when this returns; its token is told.
    ///
    /// # Errors
    /// `invalid`, `not_found` (image, snapshot, volume), `exhausted`, `no_space`, or the substrate's.
    pub async fn create(&self, spec: Spec) -> Result<Sandbox, Failure> {
        self.create_under(spec, None).await
    }

    /// The same under an idempotency key: what an earlier attempt has made is answered.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn create_under(&self, spec: Spec, key: Option<Key>) -> Result<Sandbox, Failure> {
        if let Some(made) = self.made_under(key.as_ref()).first() {
            return Ok(self.told_with_token(made));
        }
        self.create_anew(spec, key).await
    }

    async fn create_anew(&self, spec: Spec, key: Option<Key>) -> Result<Sandbox, Failure> {
        let spec = self.profiles.complete(spec);
        check::spec(&spec)?;
        self.refuse_unenforced(&spec)?;
        let this = self.clone();
        to_the_end(async move {
            let taken = this.durations.start(Operation::Create);
            let mark = Key::mark(key.as_ref());
            let record = match this.claim(&spec, mark.as_ref()).await {
                Some(record) => record,
                None => this.make(spec, For::Holder(mark)).await?,
            };
            taken.done();
            Ok(this.told_with_token(&record))
        })
        .await
    }

    /// A bound that no profile sets is asked for by somebody: one that this host cannot hold is refused.
    fn refuse_unenforced(&self, spec: &Spec) -> Result<(), Failure> {
        let is_held = |name: &str| self.substrate.enforcement().get(name).is_some_and(|support| support.available);
        if spec.resources.io.is_some() && !is_held("cgroup.io") {
            return Err(Failure::unsupported("cgroup.io", "this host cannot bound input and output")
                .remedy("leave out resources.io; `GET /v1/capabilities` says what the host can bound"));
        }
        Ok(())
    }

    /// Makes several sandboxes of one specification, each with an outcome of its own; under an idempotency key those that an
    /// earlier attempt has not made.
    ///
    /// # Errors
    /// `invalid` where the number or the specification is out of bounds: none is made then.
    pub async fn create_many(
        &self,
        spec: Spec,
        count: u32,
        key: Option<Key>,
    ) -> Result<Vec<Result<Sandbox, Failure>>, Failure> {
        in_batch("count", count)?;
        check::spec(&self.profiles.complete(spec.clone()))?;
        let mut made: Vec<_> =
            self.made_under(key.as_ref()).iter().map(|record| Ok(self.told_with_token(record))).collect();
        let missing = (made.len()..count as usize).map(|_| self.create_anew(spec.clone(), key.clone()));
        made.extend(futures_util::future::join_all(missing).await);
        Ok(made)
    }

    pub(super) fn told_with_token(&self, record: &Record) -> Sandbox {
        Sandbox { access_token: Some(self.access_token(&record.id)), ..record.told() }
    }

    /// Takes a new sandbox in where one more may be made, its intent durable before anything is made of it.
    pub(super) async fn admit(&self, record: &Record) -> Result<Arc<Cell>, Failure> {
        let cell = Arc::new(Cell::new(record.clone()));
        {
            let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
            let alive = cells.values().filter(|cell| cell.state() != State::Gone).count();
            if alive >= self.sandboxes_max {
                return Err(exhausted(format!("there are {alive} sandboxes already"), self.sandboxes_max)
                    .remedy("remove some, or raise sandboxes_max in the daemon's configuration"));
            }
            cells.insert(record.id.clone(), Arc::clone(&cell));
        }
        if let Err(failure) = self.store.put_sandbox(record).await {
            self.forget(&record.id);
            return Err(failure);
        }
        Ok(cell)
    }

    /// A place among those that are being made now.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let waiting = self.waiting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = if waiting >= CREATIONS_WAITING_MAX {
            Err(exhausted(format!("{waiting} creations wait already"), CREATIONS_WAITING_MAX))
        } else {
            self.creations.acquire().await.map_err(|_| Failure::new(Code::Internal, "the daemon is stopping"))
        };
        self.waiting.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        place
    }

    /// Makes a sandbox from nothing.
    pub(super) async fn make(&self, spec: Spec, whose: For) -> Result<Record, Failure> {
        self.refuse_when_stopping()?;
        // Before a place is taken: an image that has to be pulled keeps nobody else waiting.
        let (origin, snapshot) = self.origin(&spec).await?;
        let _place = self.place().await?;
        let image = match &origin {
            Origin::Image(image) | Origin::Snapshot { image, .. } => image.clone(),
        };
        let mut record = self.blank(spec, image)?;
        if let Some(policy) = &record.spec.network {
            self.substrate.check_policy(&record.id, policy)?;
        }
        record.snapshot = snapshot;
        match whose {
            For::Holder(made_under) => record.made_under = made_under,
            For::Pool => record.pooled = true,
        }
        let volumes = self.volumes_of(&record.spec).await?;
        let cell = self.admit(&record).await?;
        crash::point("create.after_intent");
        let disk = record.spec.resources.disk;
        let work = cell.work.lock().await;
        let made = async {
            if cell.state() != State::Creating {
                // It was removed before its turn came: nothing would give back what is made from here on.
                return Err(cell.unusable());
            }
            self.substrate.root(cell.id(), &origin, disk).await?;
            crash::point("create.after_root");
            self.launch(&cell, volumes).await
        };
        let made = made.await;
        drop(work);
        if let Err(failure) = made {
            return Err(self.abandon(&cell, failure).await);
        }
        crash::point("create.after_start");
        self.arrive(&cell).await
    }

    /// A record of a sandbox that is about to be made.
    pub(super) fn blank(&self, spec: Spec, image: String) -> Result<Record, Failure> {
        let mut record = Record {
            id: new_id("sb")?,
            state: State::Creating,
            resting: false,
            spec,
            image,
            substrate: self.substrate.name().to_owned(),
            created_ms: 0,
            lease_ends_ms: None,
            deadline_ms: None,
            parent: None,
            snapshot: None,
            pause: None,
            rolling_back_to: None,
            reason: None,
            ended_ms: None,
            pooled: false,
            made_under: None,
        };
        record.begin(self.clock.now_ms());
        Ok(record)
    }

    /// The sandbox can be used from here on; or it is given back, where that cannot be kept.
    pub(super) async fn arrive(&self, cell: &Arc<Cell>) -> Result<Record, Failure> {
        let now = self.clock.now_ms();
        let created = match cell.shift(&self.store, Transition::Created, |record| record.begin(now)) {
            Ok(pending) => pending.await,
            // It was removed meanwhile, or has broken already.
            Err(_) => Err(cell.unusable()),
        };
        if let Err(failure) = created {
            return Err(self.abandon(cell, failure).await);
        }
        self.schedule(cell);
        let record = cell.record();
        if !record.pooled {
            cell.note(now, "info", "created");
        }
        Ok(record)
    }

    /// Gives back what a creation that did not succeed has made; answers with the failure.
    pub(super) async fn abandon(&self, cell: &Arc<Cell>, failure: Failure) -> Failure {
        tracing::warn!(sandbox = cell.id(), code = failure.code.as_str(), error = %failure, "failed to make a sandbox");
        if matches!(cell.state(), State::Stopping | State::Gone) {
            return cell.unusable();
        }
        // Nothing was made under its key.
        drop(cell.change(&self.store, |record| record.made_under = None));
        self.fail(cell, failure.to_string()).await;
        match self.remove_with(cell, "it could not be made").await {
            Ok(()) => self.strike(cell).await,
            Err(error) => {
                tracing::error!(sandbox = cell.id(), %error, "failed to give a sandbox back; it is tried again");
                self.give_back_later(cell);
            }
        }
        failure
    }

    /// Tries to give back again what could not be given back now.
    pub(super) fn give_back_later(&self, cell: &Arc<Cell>) {
        tokio::spawn(give_back(Arc::downgrade(&self.0), Arc::clone(cell)));
    }

    /// Where the root begins, and the snapshot's id where it is one.
    async fn origin(&self, spec: &Spec) -> Result<(Origin, Option<String>), Failure> {
        match &spec.image {
            Some(ImageSource::Snapshot(id)) => {
                let SnapshotRecord { snapshot, image, .. } = self.snapshot_record(id).await?;
                Ok((Origin::Snapshot { id: snapshot.id.clone(), image }, Some(snapshot.id)))
            }
            Some(source) => Ok((Origin::Image(self.substrate.image(source).await?), None)),
            None => Err(Failure::invalid("spec.image", "no image is given and the profile has none")),
        }
    }

    /// The volumes that a specification names.
    pub(super) async fn volumes_of(&self, spec: &Spec) -> Result<Vec<Volume>, Failure> {
        let mut volumes = Vec::with_capacity(spec.volumes.len());
        for mount in &spec.volumes {
            let volume = self.store.volume(&mount.name).await?;
            let volume = volume.ok_or_else(|| Failure::not_found("volume", &mount.name))?;
            volumes.push(Volume { id: volume.id, path: mount.path.clone(), read_only: mount.read_only });
        }
        Ok(volumes)
    }

    /// Starts the first process in a root that is there, and tells it what it has to know.
    pub(super) async fn launch(&self, cell: &Arc<Cell>, volumes: Vec<Volume>) -> Result<(), Failure> {
        let (spec, image) = cell.read(|record| (record.spec.clone(), record.image.clone()));
        let starting = async {
            let alive = self.substrate.start(cell.id(), Launch { spec: spec.clone(), image, volumes }).await?;
            self.substrate.configure(&alive.guest, configuration(cell.id(), &spec, &alive.defaults)).await?;
            Ok(alive)
        };
        let alive = tokio::time::timeout(GUEST_START_TIMEOUT, starting).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Timeout, "the sandbox's first process did not answer in time")
                .with("limit_ms", GUEST_START_TIMEOUT.as_millis()))
        })?;
        self.follow(cell, alive);
        Ok(())
    }

    /// Keeps the way to the first process, and watches for its end.
    pub(super) fn follow(&self, cell: &Arc<Cell>, alive: Alive) {
        cell.keep_defaults(alive.defaults);
        let generation = cell.arrived(alive.guest);
        let (this, cell, exit) = (self.clone(), Arc::clone(cell), alive.exit);
        tokio::spawn(async move {
            exit.await;
            if cell.lost(generation) {
                this.broke(&cell).await;
            }
        });
    }

    /// The first process ended by itself: the sandbox has failed. Its files stay until it is removed; one that was nobody's
    /// is removed at once.
    async fn broke(&self, cell: &Arc<Cell>) {
        let oom = self.substrate.usage(cell.id()).await.is_ok_and(|usage| usage.oom_kills > 0);
        let reason = if oom {
            "out of memory: the kernel ended its first process"
        } else {
            "its first process ended unexpectedly"
        };
        if !self.fail(cell, reason).await {
            return;
        }
        cell.note(self.clock.now_ms(), "error", reason);
        if cell.read(|record| record.pooled) {
            return self.discard(cell).await;
        }
        {
            let _work = cell.work.lock().await;
            if cell.state() == State::Failed
                && let Err(error) = self.substrate.end(cell.id()).await
            {
                tracing::error!(sandbox = cell.id(), %error, "failed to give back what a broken sandbox held");
            }
        }
        self.schedule(cell);
    }
}

/// Whose a new sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum For {
    /// Somebody waits for it; under an idempotency key where there is one.
    Holder(Option<String>),
    /// Nobody's: nobody is told of it until it is claimed.
    Pool,
}

/// Gives a sandbox that could not be made back as soon as that succeeds. Until then its record names it, and counts it.
async fn give_back(inner: Weak<Inner>, cell: Arc<Cell>) {
    let mut pause = GIVE_BACK_RETRY_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let Some(sandboxes) = inner.upgrade().map(Sandboxes) else { return };
        if cell.state() != State::Failed {
            // Somebody else removed it.
            return;
        }
        match sandboxes.remove_with(&cell, "it could not be made").await {
            Ok(()) => return sandboxes.strike(&cell).await,
            Err(error) => tracing::debug!(sandbox = cell.id(), %error, "it is tried again"),
        }
        pause = (2 * pause).min(GIVE_BACK_RETRY_MAX);
    }
}

/// What the guest is told: the specification's word, else the image's, else the runtime's own.
pub(super) fn configuration(id: &str, spec: &Spec, defaults: &Defaults) -> Configuration {
    let mut env = defaults.env.clone();
    env.extend(spec.env.clone());
    // What was made over E2B's surface is told its id as E2B's server does it; only now it is known.
    if env.contains_key(E2B_SANDBOX) {
        env.entry(E2B_SANDBOX_ID.to_owned()).or_insert_with(|| id.to_owned());
    }
    // A placeholder is what the network boundary looks for: the caller's environment does not hide it.
    for binding in spec.network.iter().flat_map(|policy| &policy.secrets) {
        if let Some(placeholder) = defaults.env.get(&binding.env) {
            env.insert(binding.env.clone(), placeholder.clone());
        }
    }
    let user = spec.user.clone().or_else(|| defaults.user.clone()).unwrap_or_else(|| USER.to_owned());
    Configuration { env, user: Some(user), cwd: spec.cwd.clone().or_else(|| defaults.cwd.clone()) }
}

/// Whether a number of sandboxes fits a batch.
pub(super) fn in_batch(field: &str, count: u32) -> Result<(), Failure> {
    if count == 0 || count > BATCH_MAX {
        return Err(Failure::invalid(field, format!("it must be 1 to {BATCH_MAX}")).with("limit", BATCH_MAX));
    }
    Ok(())
}

fn exhausted(message: String, limit: usize) -> Failure {
    Failure::new(Code::Exhausted, message).with("limit", limit).with("retry_after_s", 1)
}
