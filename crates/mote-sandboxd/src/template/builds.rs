//! Builds as their owners see them: begun, waiting for others, running, ended, remembered for a while.
//!
//! What a build does is [`super::build`]'s matter.

use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};

use super::build::{self, Broken, Built, Run};
use super::log::{Entry, Level, Log};
use super::plan::Plan;
use super::record::{Build, Reason, Status};
use super::{Running, Templates, locked};
use crate::crash;
use crate::limits::{
    TEMPLATE_BUILDS_AT_ONCE, TEMPLATE_BUILDS_KEPT, TEMPLATE_BUILDS_WAITING_MAX, TEMPLATE_REASON_ENTRIES,
};

/// Why a build failed that was under way when the daemon ended.
const INTERRUPTED: &str =
    "the daemon ended while the template was being built: build it again; steps that were done are kept";

impl Templates {
    /// A build of a template.
    ///
    /// # Errors
    /// `not_found`.
    pub fn build(&self, template: &str, id: &str) -> Result<Build, Failure> {
        let wanted = self.get(template)?.id;
        let known = self.0.known();
        let build = known.builds.get(id).filter(|build| build.template == wanted);
        build.cloned().ok_or_else(|| Failure::not_found("build", id))
    }

    /// What a build has logged so far.
    ///
    /// # Errors
    /// The state's.
    pub async fn log(&self, build: &str) -> Result<Vec<Entry>, Failure> {
        let running = locked(&self.0.running).get(build).map(|running| Arc::clone(&running.log));
        match running {
            Some(log) => Ok(log.entries()),
            None => self.0.store.build_log(build).await,
        }
    }

    /// Begins a build that was asked for. One of the same template under way that would get one of its tags is cancelled.
    ///
    /// # Errors
    /// `not_found`; `invalid` where it was begun before; `exhausted` where too many wait; the state's.
    pub async fn begin(&self, template: &str, id: &str, plan: Plan) -> Result<(), Failure> {
        let mut build = self.build(template, id)?;
        if build.status != Status::Waiting {
            return Err(
                Failure::new(Code::Invalid, "build is not in waiting state").with("status", build.status.word())
            );
        }
        if self.0.closing.is_cancelled() {
            return Err(Failure::new(Code::Busy, "the daemon is stopping"));
        }
        let running = Running { cancel: self.0.closing.child_token(), log: Arc::new(Log::new(self.0.clock.clone())) };
        self.enlist(&build, &running)?;
        (build.start, build.ready) = (plan.start.clone(), plan.ready.clone());
        build.status = Status::Building;
        if let Err(failure) = self.keep(&mut build).await {
            locked(&self.0.running).remove(id);
            return Err(failure);
        }
        crash::point("template.begun");
        let this = self.clone();
        self.0.tasks.spawn(async move { this.through(build, plan, running).await });
        Ok(())
    }

    /// Takes a build in among those under way, where one more may be; those that it replaces are cancelled.
    fn enlist(&self, build: &Build, running: &Running) -> Result<(), Failure> {
        let known = self.0.known();
        let mut all = locked(&self.0.running);
        let most = TEMPLATE_BUILDS_AT_ONCE + TEMPLATE_BUILDS_WAITING_MAX;
        let replaced = |id: &String| {
            known.builds.get(id).is_some_and(|other| {
                other.template == build.template && other.tags.iter().any(|tag| build.tags.contains(tag))
            })
        };
        if all.len() >= most {
            return Err(Failure::new(Code::Exhausted, format!("{} builds run or wait already", all.len()))
                .with("limit", most)
                .with("retry_after_s", 10));
        }
        if all.contains_key(&build.id) {
            return Err(Failure::new(Code::Invalid, "build is not in waiting state"));
        }
        all.iter().filter(|(id, _)| replaced(id)).for_each(|(_, other)| other.cancel.cancel());
        all.insert(build.id.clone(), running.clone());
        Ok(())
    }

    /// Waits for a place, builds, and keeps what came of it.
    async fn through(&self, mut build: Build, plan: Plan, running: Running) {
        let Running { cancel, log } = &running;
        let since = self.0.clock.now_ms();
        let place = cancel.run_until_cancelled(self.0.places.acquire()).await;
        let outcome = match &place {
            Some(Ok(_)) => Run { inner: &self.0, build: &build, plan: &plan, log, cancel }.run().await,
            _ => Err(Broken { step: None, failure: build::cancelled() }),
        };
        drop(place);
        let now = self.0.clock.now_ms();
        build.finished_ms = Some(now);
        match outcome {
            Ok(Built { start, ready }) => {
                (build.start, build.ready) = (start, ready);
                build.status = Status::Ready;
                log.say(Level::Info, None, &format!("Build finished, took {}s", now.saturating_sub(since) / 1000));
            }
            Err(Broken { step, failure }) => {
                tracing::warn!(template = build.template, build = build.id, %failure, "a build of a template failed");
                let entries = step.as_deref().map(|step| log.last_of(step, TEMPLATE_REASON_ENTRIES));
                let message = failure.message;
                log.say(Level::Error, step.as_deref(), &format!("Build failed: {message}"));
                build.status = Status::Error;
                build.reason = Some(Reason { message, step, entries: entries.unwrap_or_default() });
            }
        }
        self.settle(build, log).await;
    }

    /// Keeps the end of a build: its log, then how it ended, then its tags. Whoever asks is told that it ended when all of that
    /// is there.
    async fn settle(&self, mut build: Build, log: &Log) {
        build.updated_ms = self.0.clock.now_ms();
        let kept = async {
            self.0.store.put_build_log(&build.id, &log.entries()).await?;
            let kept = {
                let known = self.0.known();
                // Its template was removed: nothing of it is kept.
                known.builds.get(&build.id).ok_or_else(|| Failure::not_found("build", &build.id))?;
                self.0.store.put_build(&build)
            };
            kept.await?;
            if build.status == Status::Ready {
                self.tag(&build, &build.tags).await?;
            }
            Ok::<_, Failure>(())
        };
        match kept.await {
            Err(error) if error.code != Code::NotFound => {
                tracing::error!(build = build.id, %error, "failed to keep what came of a build");
            }
            _ => {}
        }
        let is_known = self.0.known().builds.get_mut(&build.id).map(|known| known.clone_from(&build)).is_some();
        if !is_known && let Err(error) = self.0.images.remove_built(&build.image()).await {
            tracing::warn!(build = build.id, %error, "failed to remove the image of a template that is gone");
        }
        locked(&self.0.running).remove(&build.id);
        self.forget_old(&build.template).await;
        self.prune_images().await;
    }

    /// Keeps a build as it is now.
    async fn keep(&self, build: &mut Build) -> Result<(), Failure> {
        build.updated_ms = self.0.clock.now_ms();
        let kept = {
            let mut known = self.0.known();
            let Some(before) = known.builds.get_mut(&build.id) else {
                return Err(Failure::not_found("build", &build.id));
            };
            before.clone_from(build);
            self.0.store.put_build(build)
        };
        kept.await
    }

    /// Forgets the oldest builds of a template that no tag names, with their images.
    pub(super) async fn forget_old(&self, template: &str) {
        let old: Vec<Build> = {
            let known = self.0.known();
            let Some(of) = known.templates.get(template) else { return };
            let is_tagged = |build: &&Build| of.tags.values().any(|tagged| tagged.build == build.id);
            let untagged = known.builds_of(template).into_iter().filter(|build| !is_tagged(build));
            let ended = untagged.filter(|build| build.status != Status::Building);
            ended.skip(TEMPLATE_BUILDS_KEPT).cloned().collect()
        };
        for build in old {
            self.0.known().builds.remove(&build.id);
            let forgotten = async {
                self.0.store.remove_build(&build.id).await?;
                self.0.images.remove_built(&build.image()).await
            };
            if let Err(error) = forgotten.await {
                tracing::warn!(build = build.id, %error, "failed to forget an old build");
            }
        }
    }

    /// Marks builds that an earlier daemon left under way.
    pub(super) async fn break_interrupted(&self) -> Result<(), Failure> {
        let interrupted: Vec<Build> = {
            let known = self.0.known();
            known.builds.values().filter(|build| build.status == Status::Building).cloned().collect()
        };
        for mut build in interrupted {
            tracing::warn!(template = build.template, build = build.id, "a build was interrupted by the daemon's end");
            let entry = Entry {
                at_ms: self.0.clock.now_ms(),
                level: Level::Error,
                message: format!("Build failed: {INTERRUPTED}"),
                step: None,
            };
            self.0.store.put_build_log(&build.id, &[entry]).await?;
            build.status = Status::Error;
            build.finished_ms = Some(self.0.clock.now_ms());
            build.reason = Some(Reason { message: INTERRUPTED.to_owned(), ..Reason::default() });
            self.keep(&mut build).await?;
        }
        Ok(())
    }
}
