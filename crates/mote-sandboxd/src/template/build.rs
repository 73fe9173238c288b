//! A build under way: the base, its steps, each a layer on those before it, and the start command, tried once.
//!
//! What a step names runs in a sandbox of its own ([`crate::image::workshop`]); what comes of it is an image with a name, or
//! nothing.

use std::collections::BTreeSet;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::{ImageSource, Resources};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::files::Upload;
use super::log::{Level, Log};
use super::plan::{self, Base, Plan, Step, Work};
use super::process::Output;
use super::record::Build;
use super::start;
use super::step::Working;
use crate::clock::new_id;
use crate::crash;
use crate::image::layered::Made;
use crate::image::record::Image;
use crate::limits::TEMPLATE_BUILD_TIMEOUT;

/// Name of the step that a build begins with.
const BASE: &str = "base";
/// Name of the last one.
pub(super) const FINALIZE: &str = "finalize";
/// What E2B's SDK begins with where it is told nothing else: here, the daemon's default image.
const DEFAULT_IMAGES: [&str; 2] = ["e2bdev/base", "e2bdev/code-interpreter"];

/// A build that runs.
pub(super) struct Run<'a> {
    pub(super) inner: &'a Inner,
    pub(super) build: &'a Build,
    pub(super) plan: &'a Plan,
    pub(super) log: &'a Log,
    pub(super) cancel: &'a CancellationToken,
}

/// Why a build ended, and at which step.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) step: Option<String>,
    pub(super) failure: Failure,
}

/// What a build has come to: its commands, as its base or its own order names them.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) start: Option<String>,
    pub(super) ready: Option<String>,
}

/// What is there after a step.
struct At {
    image: Image,
    key: String,
}

impl Run<'_> {
    /// Builds, and gives what came of it its name.
    pub(super) async fn run(&self) -> Result<Built, Broken> {
        let until = tokio::time::timeout(TEMPLATE_BUILD_TIMEOUT, self.through());
        until.await.unwrap_or_else(|_| {
            let minutes = TEMPLATE_BUILD_TIMEOUT.as_secs() / 60;
            let failure = Failure::new(Code::Timeout, format!("build timed out: it took more than {minutes} minutes"));
            Err(Broken { step: None, failure })
        })
    }

    async fn through(&self) -> Result<Built, Broken> {
        let images = &self.inner.images;
        let _making = images.hold().await;
        self.log.say(Level::Info, None, &format!("Building template {}/{}", self.build.template, self.build.id));
        let (mut at, built) = self.base().await.map_err(|failure| broken(BASE, failure))?;
        let mut anew = self.plan.force;
        for (number, step) in (1..).zip(&self.plan.steps) {
            let name = number.to_string();
            at = self.step(at, &name, step, &mut anew).await.map_err(|failure| broken(&name, failure))?;
        }
        let finalizing = async {
            self.log.say(Level::Info, Some(FINALIZE), "[finalize] Finalizing template build");
            self.finalize(&at, &built).await?;
            let layer = format!("{}.image", self.layer(FINALIZE));
            let Image { lower, mut config, bytes, .. } = at.image;
            config.user = Some(super::process::user(&config));
            config.entrypoint = Vec::new();
            let made = Made { lower, config, bytes };
            crash::point("template.before_image");
            images.finish(&at.key, &layer, made, &self.build.image(), self.now()).await?;
            crash::point("template.after_image");
            Ok(())
        };
        self.unless_cancelled(finalizing).await.map_err(|failure| broken(FINALIZE, failure))?;
        Ok(built)
    }

    fn now(&self) -> u64 {
        self.inner.clock.now_ms()
    }

    fn layer(&self, step: &str) -> String {
        format!("template.{}.{step}", self.build.id)
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        self.cancel.run_until_cancelled(work).await.unwrap_or_else(|| Err(cancelled()))
    }

    /// The image that a build begins with.
    async fn base(&self) -> Result<(At, Built), Failure> {
        let own = (self.plan.start.clone(), self.plan.ready.clone());
        let (image, title, inherited) = match &self.plan.base {
            Base::Template(wanted) => {
                let (image, commands) = self.template(wanted).await?;
                (image, format!("FROM TEMPLATE {wanted}"), commands)
            }
            Base::Image(reference, credentials) => {
                let pulling = self.image(reference, credentials.as_ref());
                let mut image = self.unless_cancelled(pulling).await?;
                // As E2B has it: the environment of an image holds, its user and directory do not.
                (image.config.user, image.config.cwd) = (Some(super::process::USER.to_owned()), None);
                (image, format!("FROM {reference}"), (None, None))
            }
        };
        let key = plan::base_key(&image.id);
        self.log.say(Level::Info, Some(BASE), &format!("[base] {title} [{}]", short(&key)));
        let (start, ready) = if own == (None, None) { inherited } else { own };
        Ok((At { image, key }, Built { start, ready }))
    }

    async fn template(&self, wanted: &str) -> Result<(Image, (Option<String>, Option<String>)), Failure> {
        let images = &self.inner.images;
        if let Some(build) = self.inner.find(wanted)? {
            let image = images.get(&build.image()).await?;
            return Ok((image, (build.start, build.ready)));
        }
        if super::name::RESERVED.contains(&wanted) {
            return Ok((images.resolve(&self.default_image(wanted), self.now()).await?, (None, None)));
        }
        let image = images.named(wanted).await?.ok_or_else(|| {
            Failure::new(Code::NotFound, format!("template '{wanted}' not found: E2B's public templates are not here"))
        })?;
        Ok((image, (None, None)))
    }

    fn default_image(&self, name: &str) -> ImageSource {
        if name == "host" { ImageSource::Host } else { self.inner.default_image.clone() }
    }

    async fn image(
        &self,
        reference: &str,
        credentials: Option<&mote_oci::registry::Credentials>,
    ) -> Result<Image, Failure> {
        let images = &self.inner.images;
        let plain = reference.strip_suffix(":latest").unwrap_or(reference);
        if DEFAULT_IMAGES.contains(&plain) {
            return images.resolve(&self.inner.default_image, self.now()).await;
        }
        if let Some(credentials) = credentials {
            return images.pull_with(reference, credentials, self.now()).await;
        }
        for name in BTreeSet::from([reference, plain]) {
            if let Some(image) = images.named(name).await? {
                return Ok(image);
            }
        }
        images.resolve(&ImageSource::Registry(reference.to_owned()), self.now()).await
    }

    /// One step: found as it was built before, or built.
    async fn step(&self, before: At, name: &str, step: &Step, anew: &mut bool) -> Result<At, Failure> {
        let upload = match &step.work {
            Work::Copy(copy) => self.inner.files.find(&self.build.template, &copy.files).await?,
            _ => None,
        };
        let key = plan::key(&before.key, &step.work, upload.as_ref().map(|upload| upload.digest.as_str()));
        *anew |= step.force;
        let found = if *anew { None } else { self.inner.images.built_layer(&key).await? };
        let prefix = format!("builder {name}/{}", self.plan.steps.len());
        let cached = if found.is_some() { "CACHED " } else { "" };
        let title = format!("{cached}[{prefix}] {} [{}]", step.title, short(&key));
        self.log.say(Level::Info, Some(name), &title);
        if let Some(image) = found {
            return Ok(At { image, key });
        }
        *anew = true;
        let output = Output { log: self.log, level: Level::Info, step: name, prefix: &prefix };
        let image = self.layer_of(before.image, &key, step, output, upload.as_ref()).await?;
        Ok(At { image, key })
    }

    async fn layer_of(
        &self,
        before: Image,
        key: &str,
        step: &Step,
        output: Output<'_>,
        upload: Option<&Upload>,
    ) -> Result<Image, Failure> {
        let (images, workshop) = (&self.inner.images, &self.inner.workshop);
        let layer = self.layer(output.step);
        let bench = workshop.open_within(&new_id("")?, before.lower.clone(), self.resources()).await?;
        let working = async {
            let guest = bench.guest();
            let context = Working { guest, output, upload }.work(&step.work, &before.config).await?;
            let (committed, bytes) = bench.keep(&layer).await?;
            Ok((committed.lower, context, bytes))
        };
        let done = self.unless_cancelled(working).await;
        let closed = bench.close().await;
        let (lower, config, bytes) = done?;
        closed?;
        let bytes = before.bytes.zip(bytes).map(|(before, more)| before + more);
        images.forget_finished(key).await?;
        images.keep_layer(key, &layer, Made { lower, config, bytes }, self.now()).await
    }

    fn resources(&self) -> Resources {
        let own = self.build.resources();
        let default = &self.inner.resources;
        Resources {
            memory: own.memory.or(default.memory),
            cpu_milli: own.cpu_milli.or(default.cpu_milli),
            ..Resources::default()
        }
    }

    /// Tries the start command, where there is one, until the template is ready. What it writes is not kept: every sandbox
    /// runs it anew.
    async fn finalize(&self, at: &At, built: &Built) -> Result<(), Failure> {
        if built.start.is_none() && built.ready.is_none() {
            return Ok(());
        }
        let bench = self.inner.workshop.open_within(&new_id("")?, at.image.lower.clone(), self.resources()).await?;
        let tried = start::try_out(bench.guest(), built, &at.image.config, self.log);
        let tried = self.unless_cancelled(tried).await;
        bench.close().await?;
        tried
    }
}

fn broken(step: &str, failure: Failure) -> Broken {
    let step = if failure.context.contains_key("cancelled") { None } else { Some(step.to_owned()) };
    Broken { step, failure }
}

/// E2B's words for a build that was cancelled.
pub(super) fn cancelled() -> Failure {
    Failure::new(Code::Gone, "build was cancelled").with("cancelled", true)
}

fn short(key: &str) -> &str {
    &key[..key.len().min(12)]
}
