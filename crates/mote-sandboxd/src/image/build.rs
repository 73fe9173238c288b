//! Building an image from a recipe, step by step, each a layer on those before it: a step that was built before is taken as
//! it is.
//!
//! Nothing that a recipe names runs on the host: [`super::workshop`] gives every step a sandbox of its own.

use std::fmt::Write as _;
use std::io::Write;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Exit;
use tokio::time::Instant;

use super::Images;
use super::recipe::Loaded;
use super::record::{Config, Image, check_name};
use super::step::{self, Step, Work};
use super::workshop::{Bench, Ran, Workshop};
use crate::filesystem::id::Id;
use crate::filesystem::recipe::Lower;
use crate::filesystem::worker::Compression;
use crate::limits::{BUILD_LINES_TOLD, LOWER_TREES_MAX};

/// Makes Debian's smallest root that has apt, and writes it as a tar archive. Nothing can be mounted where it runs, and it
/// needs nothing mounted. What it unpacks is thrown away with the sandbox: it need not wait for a disk.
const DEBIAN: &str = "\
export TMPDIR=/dev/shm SOURCE_DATE_EPOCH=0
mkdir -p /etc/apt/apt.conf.d /etc/apt/preferences.d /etc/apt/trusted.gpg.d
exec mmdebstrap --mode=root --variant=apt --format=tar --skip=chroot/mount,output/dev \
    --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages \"none\"' -- \"$1\" -
";
/// Exit code of a shell that did not find a program.
const NOT_FOUND: i32 = 127;

/// What is built, by whom, and who is told.
pub(super) struct Build<'a, W> {
    pub(super) images: &'a Images,
    pub(super) workshop: &'a Workshop,
    pub(super) loaded: &'a Loaded,
    /// Every step is done, also one that was done before.
    pub(super) anew: bool,
    pub(super) now_ms: u64,
    /// Gets a line for each step.
    pub(super) out: &'a mut W,
}

impl<W: Write + Send> Build<'_, W> {
    /// Builds what has to be built and gives the image its name. Answers whether a step was done.
    ///
    /// # Errors
    /// `invalid`, naming the recipe's file, line and field; `unsupported` where mmdebstrap is missing; `timeout`; what the
    /// pool met.
    pub(super) async fn run(self) -> Result<(Image, bool), Failure> {
        let recipe = &self.loaded.recipe;
        check_name(&recipe.name)?;
        let steps = step::of(self.loaded);
        let (mut lower, mut bytes, mut built) = (Vec::new(), Some(0), false);
        for (at, step) in steps.iter().enumerate() {
            let since = Instant::now();
            let found = if self.anew || built { None } else { self.images.find(&name_of(step)).await? };
            let (image, how) = match found {
                Some(image) => (image, "cached".to_owned()),
                None => {
                    built = true;
                    let image = self.build(step, lower).await.map_err(|failure| self.locate(step, &failure))?;
                    (image, format!("built in {:.1} s", since.elapsed().as_secs_f64()))
                }
            };
            (lower, bytes) = (image.lower, bytes.zip(image.bytes).map(|(before, more)| before + more));
            let line = format!("[{}/{}] {} {}: {how}\n", at + 1, steps.len(), step.field, short(&step.title));
            // Whoever closed the terminal still gets the image.
            let _ = self.out.write_all(line.as_bytes()).and_then(|()| self.out.flush());
        }
        let config = Config {
            env: recipe.env.clone(),
            user: recipe.user.clone(),
            cwd: recipe.cwd.clone(),
            entrypoint: Vec::new(),
        };
        if let Some(last) = steps.last() {
            lower = self.as_one(lower, last, built).await?;
        }
        let image = Image::new(lower, config, format!("recipe {}", recipe.name), bytes, self.now_ms);
        self.images.keep(&image, &recipe.name).await?;
        Ok((image, built))
    }

    async fn build(&self, step: &Step, lower: Vec<Lower>) -> Result<Image, Failure> {
        let layer = format!("build.{}.{:x}", &step.key[..16], self.now_ms);
        let name = format!("{}-{:x}", &step.key[..16], self.now_ms);
        let (lower, bytes) = match &step.work {
            Work::Debian(suite) => self.debian(&name, suite, &layer).await?,
            work => {
                let bench = self.workshop.open(&name, lower).await?;
                let done = async {
                    do_work(&bench, work).await?;
                    bench.keep(&layer).await
                };
                let done = done.await;
                let closed = bench.close().await;
                let (committed, bytes) = done?;
                closed?;
                (self.bounded(committed.lower, &layer, LOWER_TREES_MAX).await?, bytes)
            }
        };
        let image = Image::new(lower, Config::default(), format!("step {}", step.key), bytes, self.now_ms);
        self.images.keep(&image, &name_of(step)).await?;
        Ok(image)
    }

    /// A new root of Debian, as a layer: written by mmdebstrap in a sandbox of the host's programs, unpacked by a worker.
    async fn debian(&self, name: &str, suite: &str, layer: &str) -> Result<(Vec<Lower>, Option<u64>), Failure> {
        let failed = |error: rustix::io::Errno| Failure::new(Code::Internal, format!("failed to make a pipe: {error}"));
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        rustix::io::ioctl_fionbio(&writer, true).map_err(failed)?;
        let filling = self.images.filesystem.fill(layer, None).await?;
        let bench = self.workshop.open(name, vec![Lower::Host]).await?;
        let argv = ["/bin/sh", "-euc", DEBIAN, "sh", suite].map(str::to_owned).to_vec();
        let (ran, unpacked) =
            tokio::join!(bench.run(argv, Some(writer)), filling.add(reader, Compression::None, false));
        let closed = bench.close().await;
        let ran = match (ran, &unpacked) {
            // Nobody took its output any more: why tells more than that.
            (Err(failure), Err(why)) if failure.code == Code::Internal => return Err(why.clone()),
            (ran, _) => ran?,
        };
        match succeeded(ran) {
            Err((Exit::Code(NOT_FOUND), _)) => {
                let message = "mmdebstrap is not among the host's programs";
                return Err(Failure::unsupported("image.build", message).remedy("install the package mmdebstrap"));
            }
            result => result.map_err(|(_, failure)| failure)?,
        }
        closed?;
        let bytes = unpacked?.bytes;
        filling.keep().await?;
        Ok((vec![Lower::Layer(Id::new("layer", layer)?)], Some(bytes)))
    }

    /// One tree with what the steps' trees hold together: a sandbox then looks in one place below its own, and numbers of
    /// files of different trees are not mixed.
    async fn as_one(&self, lower: Vec<Lower>, last: &Step, built: bool) -> Result<Vec<Lower>, Failure> {
        let name = format!("{}.one", name_of(last));
        if lower.len() < 2 {
            return Ok(lower);
        }
        if !built && let Some(image) = self.images.find(&name).await? {
            return Ok(image.lower);
        }
        let layer = format!("build.{}.{:x}.one", &last.key[..16], self.now_ms);
        let lower = self.images.flatten(lower, &layer).await?;
        let image = Image::new(lower, Config::default(), format!("steps to {}", last.key), None, self.now_ms);
        self.images.keep(&image, &name).await?;
        Ok(image.lower)
    }

    /// The trees, or one with all they hold where there are `trees_max` of them.
    async fn bounded(&self, lower: Vec<Lower>, layer: &str, trees_max: usize) -> Result<Vec<Lower>, Failure> {
        if lower.len() < trees_max {
            return Ok(lower);
        }
        self.images.flatten(lower, &format!("{layer}.flat")).await
    }

    /// Says where in the recipe the step stands.
    fn locate(&self, step: &Step, failure: &Failure) -> Failure {
        let line = self.loaded.lines.named_in(step.field, &failure.message).unwrap_or(step.line);
        let message =
            format!("failed to build {}:{line}: {}: {}", self.loaded.path.display(), step.field, failure.message);
        let mut located = failure.clone();
        located.message = message;
        located.with("line", line).with("field", step.field)
    }
}

async fn do_work(bench: &Bench<'_>, work: &Work) -> Result<(), Failure> {
    let argv = match work {
        Work::Files(files) => {
            for (path, mode, content) in files {
                bench.write(path, *mode, content.clone().into()).await?;
            }
            return Ok(());
        }
        Work::Script(script, words) => {
            let shell = ["/bin/sh", "-euc", script, "sh"].into_iter().map(str::to_owned);
            shell.chain(words.iter().cloned()).collect()
        }
        Work::Line(line) => ["/bin/sh", "-euc", line].map(str::to_owned).to_vec(),
        Work::Debian(_) => return Ok(()),
    };
    succeeded(bench.run(argv, None).await?).map_err(|(_, failure)| failure)
}

/// The last lines that a program wrote, where it did not succeed.
fn succeeded(ran: Ran) -> Result<(), (Exit, Failure)> {
    let how = match ran.exit {
        Exit::Code(0) => return Ok(()),
        Exit::Code(code) => format!("it ended with code {code}"),
        Exit::Signal(signal) => format!("it was ended by signal {signal}"),
    };
    let lines: Vec<&str> = ran.output.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut message = how;
    for line in &lines[lines.len().saturating_sub(BUILD_LINES_TOLD)..] {
        let _ = write!(message, "\n  {line}");
    }
    Err((ran.exit, Failure::new(Code::Invalid, message)))
}

/// The name under which a step is kept, for the next recipe that begins so.
fn name_of(step: &Step) -> String {
    format!("{}{}", super::record::STEP_NAME, step.key)
}

fn short(title: &str) -> String {
    const WIDTH: usize = 72;
    match title.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &title[..end]),
        None => title.to_owned(),
    }
}
