//! Templates: named environments that callers build themselves, step by step, and start sandboxes from.
//!
//! Names, tags and builds are kept by the state; what a build makes is an image of the store, named by template and build. What
//! runs in a build is confined as everything in a sandbox is, and reaches what the operator's policy for builds allows. HTTP is
//! not known here.

mod build;
mod builds;
pub mod files;
pub mod log;
pub mod name;
pub mod plan;
mod process;
pub mod record;
pub mod start;
mod step;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::{ImageSource, Resources};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{SharedClock, hex, new_id, random};
use crate::image::Images;
use crate::image::workshop::Workshop;
use crate::limits::{
    TEMPLATE_BUILDS_AT_ONCE, TEMPLATE_CPUS_MAX, TEMPLATE_LAYERS_KEPT, TEMPLATE_MEMORY_MIB_MAX, TEMPLATE_STOP_TIMEOUT,
    TEMPLATE_TAGS_MAX, TEMPLATES_MAX,
};
use crate::state::State;
use files::Files;
use log::Log;
use name::DEFAULT_TAG;
use record::{Build, Status, Tagged, Template};

/// What templates stand on.
#[derive(Debug)]
pub struct Parts {
    /// Where they are kept.
    pub store: State,
    /// Where what builds make is kept.
    pub images: Images,
    /// Where steps run.
    pub workshop: Workshop,
    /// What was uploaded.
    pub files: Files,
    /// What E2B's base image is here.
    pub default_image: ImageSource,
    /// What a build's sandbox may use where the template does not say.
    pub resources: Resources,
}

/// The templates; clones share them.
#[derive(Clone)]
pub struct Templates(Arc<Inner>);

pub(super) struct Inner {
    store: State,
    images: Images,
    workshop: Workshop,
    files: Files,
    clock: SharedClock,
    default_image: ImageSource,
    resources: Resources,
    known: Mutex<Known>,
    /// Builds that run or wait for others.
    running: Mutex<HashMap<String, Running>>,
    places: Semaphore,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Templates").finish_non_exhaustive()
    }
}

/// What the state keeps, in memory.
#[derive(Debug, Default)]
struct Known {
    templates: BTreeMap<String, Template>,
    builds: BTreeMap<String, Build>,
}

#[derive(Clone)]
struct Running {
    cancel: CancellationToken,
    log: Arc<Log>,
}

/// What a build is asked for with.
#[derive(Debug, Default)]
pub struct Request {
    /// `name` or `name:tag`.
    pub name: String,
    /// Further tags.
    pub tags: Vec<String>,
    /// Processors of its sandboxes.
    pub cpus: Option<u32>,
    /// Memory of its sandboxes, in MiB.
    pub memory_mib: Option<u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// E2B's SDKs take ids of builds for UUIDs (version 4, RFC 9562).
fn uuid() -> Result<String, Failure> {
    let mut bytes = random::<16>()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex(&bytes);
    Ok([&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-"))
}

impl Known {
    fn named(&self, wanted: &str) -> Option<&Template> {
        self.templates.get(wanted).or_else(|| self.templates.values().find(|template| template.name == wanted))
    }

    fn builds_of(&self, template: &str) -> Vec<&Build> {
        let mut builds: Vec<_> = self.builds.values().filter(|build| build.template == template).collect();
        builds.sort_by(|one, other| (other.created_ms, &other.id).cmp(&(one.created_ms, &one.id)));
        builds
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        locked(&self.known)
    }

    /// The build that a name or id means, with the tag behind it or the default one. None where there is no such template.
    ///
    /// # Errors
    /// `not_found` where the template has no such tag.
    fn find(&self, wanted: &str) -> Result<Option<Build>, Failure> {
        // What cannot be a template's name may be an image's.
        let Ok((name, tag)) = name::parse(wanted) else { return Ok(None) };
        let known = self.known();
        let Some(template) = known.named(&name) else { return Ok(None) };
        let tag = tag.unwrap_or_else(|| DEFAULT_TAG.to_owned());
        let build = template.tags.get(&tag).and_then(|tagged| known.builds.get(&tagged.build));
        build.cloned().map(Some).ok_or_else(|| {
            let has = template.tags.keys().cloned().collect::<Vec<_>>().join(", ");
            let has =
                if has.is_empty() { "it has no build that ended well".to_owned() } else { format!("it has {has}") };
            Failure::new(Code::NotFound, format!("tag '{tag}' does not exist for template '{}': {has}", template.name))
                .with("kind", "template")
        })
    }
}

impl Templates {
    /// Reads what is kept. A build that was under way when the daemon ended has failed.
    ///
    /// # Errors
    /// The state's.
    pub async fn open(parts: Parts, clock: SharedClock) -> Result<Self, Failure> {
        let Parts { store, images, workshop, files, default_image, resources } = parts;
        let (templates, builds) = store.templates().await?;
        let known = Known {
            templates: templates.into_iter().map(|template| (template.id.clone(), template)).collect(),
            builds: builds.into_iter().map(|build| (build.id.clone(), build)).collect(),
        };
        let this = Self(Arc::new(Inner {
            store,
            images,
            workshop,
            files,
            clock,
            default_image,
            resources,
            known: Mutex::new(known),
            running: Mutex::default(),
            places: Semaphore::new(TEMPLATE_BUILDS_AT_ONCE),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        this.break_interrupted().await?;
        Ok(this)
    }

    /// Removes what builds of an earlier daemon left half-made.
    pub async fn tidy(&self) {
        self.0.files.tidy().await;
        self.prune_images().await;
    }

    /// Cancels the builds under way and waits until their sandboxes are gone. Nothing new is built.
    pub async fn close(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(TEMPLATE_STOP_TIMEOUT, self.0.tasks.wait()).await.is_err() {
            tracing::error!(
                "builds are left: they could not be ended in time; the next daemon gives their sandboxes back"
            );
        }
    }

    /// The uploads.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.0.files
    }

    /// Every template, the newest first.
    #[must_use]
    pub fn all(&self) -> Vec<Template> {
        let mut all: Vec<Template> = self.0.known().templates.values().cloned().collect();
        all.sort_by(|one, other| (other.created_ms, &other.id).cmp(&(one.created_ms, &one.id)));
        all
    }

    /// A template by id or name; a tag behind it is not looked at.
    ///
    /// # Errors
    /// `not_found`.
    pub fn get(&self, wanted: &str) -> Result<Template, Failure> {
        let name = name::parse(wanted).map_or_else(|_| wanted.to_owned(), |(name, _)| name);
        self.0.known().named(&name).cloned().ok_or_else(|| Failure::not_found("template", wanted))
    }

    /// The builds of a template, the newest first.
    #[must_use]
    pub fn builds(&self, template: &str) -> Vec<Build> {
        self.0.known().builds_of(template).into_iter().cloned().collect()
    }

    /// The build that a name or id means, with the tag behind it or the default one. None where there is no such template.
    ///
    /// # Errors
    /// `not_found` where the template has no such tag.
    pub fn find(&self, wanted: &str) -> Result<Option<Build>, Failure> {
        self.0.find(wanted)
    }

    /// Sets whether a template is public, as its owner says.
    ///
    /// # Errors
    /// `not_found`; the state's.
    pub async fn set_public(&self, wanted: &str, public: bool) -> Result<Template, Failure> {
        let id = self.get(wanted)?.id;
        self.change(&id, |template| {
            template.public = public;
            Ok(())
        })
        .await
    }

    /// Gives the build that `target` (`name:tag`) means these tags, too.
    ///
    /// # Errors
    /// `invalid`, `not_found`; the state's.
    pub async fn assign(&self, target: &str, tags: &[String]) -> Result<(Build, Vec<String>), Failure> {
        if tags.is_empty() {
            return Err(Failure::invalid("tags", "at least one is needed"));
        }
        let tags = name::tags(None, tags)?;
        let build = self.find(target)?.ok_or_else(|| Failure::not_found("template", target))?;
        self.tag(&build, &tags).await?;
        Ok((build, tags))
    }

    /// Has these tags name a build.
    async fn tag(&self, build: &Build, tags: &[String]) -> Result<(), Failure> {
        let now = self.0.clock.now_ms();
        let changed = self.change(&build.template, |template| {
            for tag in tags {
                template.tags.insert(tag.clone(), Tagged { build: build.id.clone(), at_ms: now });
            }
            check_number(template.tags.keys())?;
            template.updated_ms = now;
            Ok(())
        });
        changed.await.map(drop)
    }

    /// Takes tags away; the builds stay.
    ///
    /// # Errors
    /// `invalid`, also of the default tag; `not_found` where the template has no such tag; the state's.
    pub async fn untag(&self, wanted: &str, tags: &[String]) -> Result<(), Failure> {
        let template = self.get(wanted)?;
        let tags = name::tags(None, tags)?;
        if tags.iter().any(|tag| tag == DEFAULT_TAG) {
            return Err(Failure::invalid("tags", format!("Cannot delete the '{DEFAULT_TAG}' tag")));
        }
        let now = self.0.clock.now_ms();
        let changed = self.change(&template.id, |template| {
            for tag in &tags {
                if template.tags.remove(tag).is_none() {
                    let message = format!("tag '{tag}' does not exist for template '{}'", template.name);
                    return Err(Failure::new(Code::NotFound, message).with("kind", "tag"));
                }
            }
            template.updated_ms = now;
            Ok(())
        });
        changed.await.map(drop)
    }

    /// Changes a template, in memory and in the state, or in neither.
    async fn change(
        &self,
        id: &str,
        change: impl FnOnce(&mut Template) -> Result<(), Failure>,
    ) -> Result<Template, Failure> {
        let (changed, kept) = {
            let mut known = self.0.known();
            let template = known.templates.get_mut(id).ok_or_else(|| Failure::not_found("template", id))?;
            let mut changed = template.clone();
            change(&mut changed)?;
            template.clone_from(&changed);
            // Queued under the lock: the state learns of changes in the order in which they are made.
            let kept = self.0.store.put_template(&changed);
            (changed, kept)
        };
        kept.await?;
        Ok(changed)
    }

    /// Removes a template with its builds; those under way are cancelled. Sandboxes that live on it go on.
    ///
    /// # Errors
    /// `not_found`; the state's and the keeper's.
    pub async fn remove(&self, wanted: &str) -> Result<(), Failure> {
        let template = self.get(wanted)?;
        let builds = self.builds(&template.id);
        for build in &builds {
            if let Some(running) = locked(&self.0.running).get(&build.id) {
                running.cancel.cancel();
            }
        }
        let kept = {
            let mut known = self.0.known();
            known.templates.remove(&template.id);
            known.builds.retain(|_, build| build.template != template.id);
            self.0.store.remove_template(&template.id)
        };
        kept.await?;
        self.0.files.forget(&template.id).await;
        for build in builds.iter().filter(|build| build.status == Status::Ready) {
            self.0.images.remove_built(&build.image()).await?;
        }
        Ok(())
    }

    /// Asks for a build of a template, which is made where it is not there.
    ///
    /// # Errors
    /// `invalid`, naming the field; `exhausted` where there are too many templates; the state's.
    pub async fn request(&self, request: Request) -> Result<(Template, Build), Failure> {
        let (name, tag) = name::parse(&request.name)?;
        if name::RESERVED.contains(&name.as_str()) {
            let message = format!("{name:?} means the daemon's default image or the host's root: take another name");
            return Err(Failure::invalid("name", message));
        }
        let tags = name::tags(tag, &request.tags)?;
        let cpus = bounded("cpuCount", request.cpus.map(u64::from), u64::from(TEMPLATE_CPUS_MAX))?;
        let memory_mib = bounded("memoryMB", request.memory_mib, TEMPLATE_MEMORY_MIB_MAX)?;
        let (now, fresh, build) = (self.0.clock.now_ms(), new_id("tp")?, uuid()?);
        let (template, build, kept) = {
            let mut known = self.0.known();
            let template = if let Some(template) = known.named(&name) {
                check_number(template.tags.keys().chain(&tags))?;
                template.clone()
            } else {
                if known.templates.len() >= TEMPLATES_MAX {
                    return Err(Failure::new(Code::Exhausted, format!("there are {TEMPLATES_MAX} templates already"))
                        .with("limit", TEMPLATES_MAX));
                }
                let blank = Template {
                    id: fresh,
                    name,
                    public: false,
                    created_ms: now,
                    updated_ms: now,
                    tags: BTreeMap::new(),
                };
                known.templates.insert(blank.id.clone(), blank.clone());
                blank
            };
            let build = Build {
                id: build,
                template: template.id.clone(),
                status: Status::Waiting,
                tags,
                cpus: cpus.and_then(|cpus| u32::try_from(cpus).ok()),
                memory_mib,
                start: None,
                ready: None,
                created_ms: now,
                updated_ms: now,
                finished_ms: None,
                reason: None,
            };
            known.builds.insert(build.id.clone(), build.clone());
            let kept = (self.0.store.put_template(&template), self.0.store.put_build(&build));
            (template, build, kept)
        };
        kept.0.await?;
        kept.1.await?;
        self.forget_old(&template.id).await;
        Ok((template, build))
    }

    /// Removes images of builds that are not known, and the oldest layers, where nothing is built.
    async fn prune_images(&self) {
        let known = || -> HashSet<String> {
            let known = self.0.known();
            // One that is under way may have made its image already.
            let may_have =
                known.builds.values().filter(|build| matches!(build.status, Status::Building | Status::Ready));
            may_have.map(Build::image).collect()
        };
        if let Err(error) = self.0.images.prune_built(known, TEMPLATE_LAYERS_KEPT).await {
            tracing::warn!(%error, "failed to remove what builds left; it is tried again");
        }
    }
}

/// Whether a template may have these tags.
fn check_number<'a>(tags: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    if tags.collect::<HashSet<_>>().len() > TEMPLATE_TAGS_MAX {
        let message = format!("a template has at most {TEMPLATE_TAGS_MAX} tags");
        return Err(Failure::invalid("tags", message).with("limit", TEMPLATE_TAGS_MAX));
    }
    Ok(())
}

fn bounded(field: &str, value: Option<u64>, most: u64) -> Result<Option<u64>, Failure> {
    match value {
        Some(value) if value == 0 || value > most => {
            Err(Failure::invalid(field, format!("it must be 1 to {most}")).with("limit", most))
        }
        value => Ok(value),
    }
}
