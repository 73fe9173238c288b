//! Images: what roots start from. Imported from directories, tarballs, OCI layouts and registries, made by commits and from
//! recipes, named, listed, collected.
//!
//! It reads documents and moves bytes; what is inside an archive is read by a worker without privilege
//! (`filesystem::worker`). It does not know sandboxes.

mod build;
pub mod carried;
pub mod command;
mod import;
pub(crate) mod layered;
pub mod quota;
pub mod recipe;
pub mod record;
mod step;
pub mod workshop;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};

use mote_oci::reference::Reference;
use mote_oci::registry::Registry;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::ImageSource;
use tokio::sync::{Mutex, OwnedMutexGuard, RwLock};

use crate::filesystem::Filesystem;
use crate::filesystem::id::Id;
use crate::filesystem::keeper::{Kind, Origin, Outcome, Verb};
use crate::filesystem::recipe::Lower;
use crate::filesystem::trees::Difference;
use crate::filesystem::work::Source;
use crate::limits::DIFF_CHANGES_MAX;
use record::{Config, Image, Name};

/// How images are found, by the operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of the daemon's own for what is being fetched; emptied at start.
    pub scratch: PathBuf,
    /// Host directories whose tarballs and OCI layouts may be named by callers, with all below them.
    pub imports: Vec<PathBuf>,
    /// How registries are reached.
    pub registry: mote_oci::registry::Options,
    /// Names of registries (`HOST`) that callers may pull from; every one where absent.
    pub registries: Option<Vec<String>>,
    /// What they may take of the disk.
    pub quota: quota::Quota,
}

/// The store of images; clones share it.
#[derive(Clone, Debug)]
pub struct Images {
    filesystem: Filesystem,
    registry: Registry,
    options: Arc<Options>,
    /// Read by who makes an image, written by who collects: nothing half-made is taken for left over.
    making: Arc<RwLock<()>>,
    /// One import of a layer at a time: two would do the same work twice, and both fill the disk.
    filling: Arc<std::sync::Mutex<HashMap<Id, Weak<Mutex<()>>>>>,
    gate: quota::Gate,
}

impl Images {
    /// A store whose registries are reached with this TLS configuration.
    ///
    /// # Errors
    /// Where the scratch folder cannot be made, or no HTTP client.
    pub fn new(filesystem: Filesystem, tls: &rustls::ClientConfig, options: Options) -> Result<Self, Failure> {
        let scratch = || {
            let _ = std::fs::remove_dir_all(&options.scratch);
            std::fs::create_dir_all(&options.scratch)
        };
        scratch().map_err(|error| {
            Failure::new(Code::Internal, format!("failed to make {}: {error}", options.scratch.display()))
        })?;
        let registry = Registry::new(tls, options.registry.clone()).map_err(|error| import::failure(&error))?;
        let (options, making, filling) = (Arc::new(options), Arc::default(), Arc::default());
        Ok(Self { filesystem, registry, options, making, filling, gate: quota::Gate::default() })
    }

    /// The image that a source names; imported or pulled where it has to be. A snapshot is no image: its origin is
    /// [`Origin::Snapshot`].
    ///
    /// # Errors
    /// `not_found`, `forbidden` where the configuration does not allow it, and what an import meets.
    pub async fn resolve(&self, source: &ImageSource, now_ms: u64) -> Result<Image, Failure> {
        match source {
            ImageSource::Name(name) => self.get(name).await,
            ImageSource::Directory(path) => Ok(Image::of_directory(Path::new(path))),
            ImageSource::Host => Ok(Image::of_host()),
            ImageSource::Snapshot(_) => Err(Failure::invalid("image", "a snapshot is no image")),
            ImageSource::Tarball(_) | ImageSource::OciLayout(_) | ImageSource::Registry(_) => {
                let name = record::name_of(source);
                if let Some(image) = self.find(&name).await? {
                    return Ok(image);
                }
                match self.imported_by_hand(source).await? {
                    Some(image) => Ok(image),
                    None => self.import(source, &name, now_ms).await,
                }
            }
        }
    }

    /// Whether a source was imported or pulled already.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn is_there(&self, source: &ImageSource) -> Result<bool, Failure> {
        Ok(self.find(&record::name_of(source)).await?.is_some() || self.imported_by_hand(source).await?.is_some())
    }

    /// An image of a registry that was imported under its reference, as `mote-sandboxd image import` does. One that has this
    /// name and came from elsewhere is another image.
    async fn imported_by_hand(&self, source: &ImageSource) -> Result<Option<Image>, Failure> {
        let ImageSource::Registry(text) = source else { return Ok(None) };
        let reference = Reference::parse(text).map_err(|error| import::failure(&error))?;
        let found = self.find(text).await?;
        Ok(found.filter(|image| image.source == format!("registry {reference}")))
    }

    /// What a root starts from, for a source: the image's trees, or a snapshot.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn origin(&self, source: &ImageSource, now_ms: u64) -> Result<Origin, Failure> {
        match source {
            ImageSource::Snapshot(snapshot) => Ok(Origin::Snapshot(Id::new("snapshot", snapshot)?)),
            source => Ok(Origin::Image(self.resolve(source, now_ms).await?.lower)),
        }
    }

    /// An image by name or id.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn get(&self, name: &str) -> Result<Image, Failure> {
        self.find(name).await?.ok_or_else(|| {
            Failure::not_found("image", name)
                .remedy("import or build it with `mote-sandboxd image`, or name a registry")
        })
    }

    /// Every named image, by name. Steps of recipes are none, and neither is what imported snapshots start from.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn list(&self) -> Result<Vec<(String, Image)>, Failure> {
        let mut images = self.all().await?;
        let own = [record::STEP_NAME, record::LAYER_NAME, record::SNAPSHOT_NAME];
        images.retain(|(name, _)| !own.iter().any(|prefix| name.starts_with(prefix)));
        Ok(images)
    }

    /// Builds what a recipe says and gives it the recipe's name. Steps that were built before are taken as they are, unless
    /// everything is to be built `anew`; `out` gets a line for each. Answers whether any was built.
    ///
    /// # Errors
    /// `invalid`, naming the recipe's file, line and field; `unsupported` where a program of the host is missing; `timeout`;
    /// what the pool met.
    pub async fn build(
        &self,
        workshop: &workshop::Workshop,
        loaded: &recipe::Loaded,
        anew: bool,
        now_ms: u64,
        out: &mut (impl std::io::Write + Send),
    ) -> Result<(Image, bool), Failure> {
        workshop.tidy().await?;
        build::Build { images: self, workshop, loaded, anew, now_ms, out }.run().await
    }

    /// Forgets every step that was built; answers how many. Their layers go when nothing else uses them.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn forget_steps(&self) -> Result<usize, Failure> {
        let all = self.all().await?;
        let (steps, named): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(name, _)| name.starts_with(record::STEP_NAME) || name.starts_with(record::LAYER_NAME));
        for (name, image) in &steps {
            self.filesystem.ask(Verb::ImageRemove(record::name_key(name)?)).await?;
            if !named.iter().any(|(_, other)| other.id == image.id) {
                match self.filesystem.ask(Verb::ImageRemove(record::image_key(&image.id)?)).await {
                    // Two steps may have come to the same trees.
                    Err(failure) if failure.code != Code::NotFound => return Err(failure),
                    _ => {}
                }
            }
        }
        Ok(steps.len())
    }

    async fn all(&self) -> Result<Vec<(String, Image)>, Failure> {
        let mut images = Vec::new();
        let keys = self.filesystem.ids(Kind::Images).await?;
        for key in keys.iter().filter(|key| key.as_str().starts_with(record::NAME_KEY)) {
            if let Some(name) = self.read::<Name>(key).await?
                && let Some(image) = self.read::<Image>(&record::image_key(&name.id)?).await?
            {
                images.push((name.name, image));
            }
        }
        images.sort_by(|one, two| one.0.cmp(&two.0));
        Ok(images)
    }

    /// Waits until nobody else fills the layer.
    async fn alone(&self, layer: &Id) -> OwnedMutexGuard<()> {
        let lock = {
            let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
            filling.retain(|_, lock| lock.strong_count() > 0);
            let known = filling.get(layer).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::default();
                filling.insert(layer.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    /// Takes a name away; where it was the image's last one the image goes too, and its layers, when no sandbox and no
    /// snapshot uses them.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove(&self, name: &str) -> Result<(), Failure> {
        if name.starts_with(record::SNAPSHOT_NAME) {
            return Err(
                Failure::not_found("image", name).remedy("remove the snapshot: what it starts from goes with it")
            );
        }
        self.take_away(name).await?;
        self.collect().await.map(drop)
    }

    async fn take_away(&self, name: &str) -> Result<(), Failure> {
        let key = record::name_key(name)?;
        if self.read::<Name>(&key).await?.is_none() {
            return Err(Failure::not_found("image", name));
        }
        self.filesystem.ask(Verb::ImageRemove(key)).await?;
        Ok(())
    }

    /// Removes images without a name, and layers that no image, root or snapshot uses; answers how many layers. While an
    /// image is made nothing is removed: the next call does.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn collect(&self) -> Result<u64, Failure> {
        // A pull may take minutes: it is not waited for, and nobody who makes an image waits behind this.
        let Ok(_alone) = self.making.try_write() else { return Ok(0) };
        let keys = self.filesystem.ids(Kind::Images).await?;
        let (names, images): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| key.as_str().starts_with(record::NAME_KEY));
        let mut named = HashSet::new();
        for key in &names {
            if let Some(name) = self.read::<Name>(key).await? {
                named.insert(record::image_key(&name.id)?);
            }
        }
        for key in images.into_iter().filter(|key| !named.contains(key)) {
            self.filesystem.ask(Verb::ImageRetire(key)).await?;
        }
        match self.filesystem.ask(Verb::Collect).await? {
            Outcome::Collected(removed) => Ok(removed),
            other => Err(crate::filesystem::unexpected(&other)),
        }
    }

    /// Makes an image of a sandbox's root. `below` is the image that the sandbox started from. Answers the image and whether
    /// the root must be mounted anew. A chain of trees beyond the limit is flattened.
    ///
    /// # Errors
    /// `busy` where the backend needs quiet and has none; `invalid` where the name is not one.
    pub async fn commit(
        &self,
        sandbox: &str,
        name: &str,
        below: &Config,
        quiet: bool,
        now_ms: u64,
    ) -> Result<(Image, bool), Failure> {
        record::check_name(name)?;
        let _making = self.making.read().await;
        let layer = format!("commit.{sandbox}.{now_ms:x}");
        let committed = self.filesystem.commit(sandbox, &layer, quiet).await?;
        let lower = if committed.lower.len() < crate::limits::LOWER_TREES_MAX {
            committed.lower
        } else {
            self.flatten(committed.lower, &format!("{layer}.flat")).await?
        };
        let image = Image::new(lower, below.clone(), format!("commit of {sandbox}"), None, now_ms);
        self.keep(&image, name).await?;
        Ok((image, committed.remount))
    }

    /// What a sandbox's root changed.
    ///
    /// # Errors
    /// `not_found`; `too_large` where a directory is beyond the limits.
    pub async fn diff(&self, sandbox: &str) -> Result<Difference, Failure> {
        self.filesystem.diff(Source::Root(Id::new("sandbox", sandbox)?), DIFF_CHANGES_MAX).await
    }

    /// One tree with what these hold together: packed by one worker, unpacked by another. What is bound stays so.
    async fn flatten(&self, lower: Vec<Lower>, layer: &str) -> Result<Vec<Lower>, Failure> {
        let bound = lower.contains(&Lower::HostPrograms).then_some(Lower::HostPrograms);
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (reader, writer) = pipe.map_err(|error| {
            Failure::new(Code::Internal, format!("failed to make a pipe to flatten an image: {error}"))
        })?;
        let filling = self.filesystem.fill(layer, None).await?;
        let (packed, unpacked) = tokio::join!(
            self.filesystem.export(Source::Image(lower), writer),
            filling.add(reader, crate::filesystem::worker::Compression::None, false)
        );
        let (packed, unpacked) = match (packed, unpacked) {
            // One that fails takes the other with it: either may be the cause.
            (Err(packed), Err(mut failure)) => {
                failure.message = format!("failed to flatten an image: {}; {}", failure.message, packed.message);
                return Err(failure);
            }
            (packed, unpacked) => (packed?, unpacked?),
        };
        if packed.digest != unpacked.digest {
            return Err(Failure::new(Code::Internal, "a flattened image is not what was packed"));
        }
        filling.keep().await?;
        Ok(std::iter::once(Lower::Layer(Id::new("layer", layer)?)).chain(bound).collect())
    }

    async fn find(&self, name: &str) -> Result<Option<Image>, Failure> {
        if let Some(path) = name.strip_prefix(record::DIRECTORY_ID) {
            return Ok(Some(Image::of_directory(Path::new(path))));
        }
        if name == record::HOST_ID {
            return Ok(Some(Image::of_host()));
        }
        if name.starts_with(record::DIGEST_ID) {
            return self.read::<Image>(&record::image_key(name)?).await;
        }
        match self.read::<Name>(&record::name_key(name)?).await? {
            Some(name) => self.read::<Image>(&record::image_key(&name.id)?).await,
            None => Ok(None),
        }
    }

    /// Writes the image, then its name: a name always leads to an image. An image that had the name before and has no other
    /// goes when no sandbox and no snapshot uses it.
    async fn keep(&self, image: &Image, name: &str) -> Result<(), Failure> {
        let write = |key, text| self.filesystem.ask(Verb::ImageWrite { key, text });
        write(record::image_key(&image.id)?, record::text(image)?).await?;
        let named = Name { name: name.to_owned(), id: image.id.clone() };
        write(record::name_key(name)?, record::text(&named)?).await?;
        Ok(())
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: &Id) -> Result<Option<T>, Failure> {
        match self.filesystem.ask(Verb::ImageRead(key.clone())).await? {
            Outcome::Image(None) => Ok(None),
            Outcome::Image(Some(text)) => serde_json::from_str(&text).map(Some).map_err(|error| {
                Failure::new(Code::Internal, format!("failed to read the record of image {key}: {error}"))
            }),
            other => Err(crate::filesystem::unexpected(&other)),
        }
    }
}
