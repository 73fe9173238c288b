//! Images that are made layer upon layer by others than recipes: layers are kept by the key of what they were made from, and
//! are found again by it.
//!
//! It does not know what the keys are of: [`crate::template`] does.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mote_oci::reference::Reference;
use mote_oci::registry::Credentials;
use mote_sandbox_api::error::{Code, Failure};
use tokio::sync::OwnedRwLockReadGuard;

use super::record::{self, Config, Image};
use super::{Images, import};
use crate::filesystem::recipe::Lower;
use crate::limits::LOWER_TREES_MAX;
use crate::template::record::IMAGE_NAME;

/// Held by who makes an image: nothing half-made is taken for left over meanwhile.
#[derive(Debug)]
pub(crate) struct Making(#[allow(dead_code, reason = "it is held, not read")] OwnedRwLockReadGuard<()>);

/// What a layer was made of.
#[derive(Debug)]
pub(crate) struct Made {
    /// The trees with it, the topmost first.
    pub(crate) lower: Vec<Lower>,
    /// How what is built so far is run.
    pub(crate) config: Config,
    /// Bytes that were written, where they are counted.
    pub(crate) bytes: Option<u64>,
}

impl Images {
    /// Keeps images from being collected while one is made.
    pub(crate) async fn hold(&self) -> Making {
        Making(Arc::clone(&self.making).read_owned().await)
    }

    /// What was built before under a key.
    ///
    /// # Errors
    /// The keeper's.
    pub(crate) async fn built_layer(&self, key: &str) -> Result<Option<Image>, Failure> {
        self.find(&layer_name(key)).await
    }

    /// An image of the store, by a name that callers may give one.
    ///
    /// # Errors
    /// The keeper's.
    pub(crate) async fn named(&self, name: &str) -> Result<Option<Image>, Failure> {
        match record::check_name(name) {
            Ok(()) => self.find(name).await,
            Err(_) => Ok(None),
        }
    }

    /// Keeps what was built under a key. Trees beyond the limit become one, in a layer with this name.
    ///
    /// # Errors
    /// What the pool met.
    pub(crate) async fn keep_layer(&self, key: &str, name: &str, made: Made, now_ms: u64) -> Result<Image, Failure> {
        let lower = if made.lower.len() < LOWER_TREES_MAX {
            made.lower
        } else {
            self.flatten(made.lower, &format!("{name}.flat")).await?
        };
        let image = Image::new(lower, made.config, format!("layer {key}"), made.bytes, now_ms);
        self.keep(&image, &layer_name(key)).await?;
        Ok(image)
    }

    /// Gives what was built its name, as one tree: a sandbox then looks in one place below its own, and numbers of files of
    /// different trees are not mixed. `key` is the last layer's.
    ///
    /// # Errors
    /// What the pool met.
    pub(crate) async fn finish(
        &self,
        key: &str,
        layer: &str,
        made: Made,
        name: &str,
        now_ms: u64,
    ) -> Result<Image, Failure> {
        let one = format!("{}.one", layer_name(key));
        let is_tree = |lower: &&Lower| !matches!(lower, Lower::HostPrograms);
        let can = !made.lower.iter().any(|lower| matches!(lower, Lower::Host | Lower::Directory(_)));
        let lower = if made.lower.iter().filter(is_tree).count() < 2 || !can {
            made.lower
        } else if let Some(image) = self.find(&one).await? {
            image.lower
        } else {
            let lower = self.flatten(made.lower, &format!("{layer}.one")).await?;
            self.keep(&Image::new(lower.clone(), Config::default(), format!("layers to {key}"), None, now_ms), &one)
                .await?;
            lower
        };
        let image = Image::new(lower, made.config, name.to_owned(), made.bytes, now_ms);
        self.keep(&image, name).await?;
        Ok(image)
    }

    /// Forgets what was kept of a layer as one tree: the layer was built anew.
    ///
    /// # Errors
    /// The keeper's.
    pub(crate) async fn forget_finished(&self, key: &str) -> Result<(), Failure> {
        match self.take_away(&format!("{}.one", layer_name(key))).await {
            Err(failure) if failure.code != Code::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    /// Pulls an image with a caller's own credentials. It is kept for those who have them: what they open is not everybody's.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub(crate) async fn pull_with(&self, text: &str, credentials: &Credentials, now_ms: u64) -> Result<Image, Failure> {
        let reference = Reference::parse(text).map_err(|error| import::failure(&error))?;
        self.allow_registry(&reference)?;
        let own = BTreeMap::from([(reference.host.clone(), credentials.clone())]);
        let registry = self.registry.with_credentials(own);
        let with = Self { registry, ..self.clone() };
        // Asked anew each time: that the credentials are good is the registry's to say. Layers that are there are not fetched.
        let made_of = format!("{reference}\n{}\n{}", credentials.user, credentials.password);
        let name = layer_name(mote_oci::digest::Digest::of(made_of.as_bytes()).hex());
        with.import_registry(&reference, &name, now_ms).await
    }

    /// Removes the image of a build.
    ///
    /// # Errors
    /// The keeper's.
    pub(crate) async fn remove_built(&self, name: &str) -> Result<(), Failure> {
        match self.take_away(name).await {
            Err(failure) if failure.code != Code::NotFound => return Err(failure),
            _ => {}
        }
        self.collect().await.map(drop)
    }

    /// Removes images of builds that nobody knows, and the oldest layers that may be found again beyond a number. While an image
    /// is made nothing is removed: the next call does. `known` is asked when nothing is made.
    ///
    /// # Errors
    /// The keeper's.
    pub(crate) async fn prune_built(
        &self,
        known: impl FnOnce() -> HashSet<String>,
        layers_max: usize,
    ) -> Result<(), Failure> {
        let Ok(alone) = self.making.try_write() else { return Ok(()) };
        let known = known();
        let (mut layers, mut gone) = (Vec::new(), false);
        for (name, image) in self.all().await? {
            if name.starts_with(IMAGE_NAME) && !known.contains(&name) {
                self.take_away(&name).await?;
                gone = true;
            } else if name.starts_with(record::LAYER_NAME) {
                layers.push((image.created_ms, name));
            }
        }
        layers.sort();
        for (_, name) in &layers[..layers.len().saturating_sub(layers_max)] {
            self.take_away(name).await?;
            gone = true;
        }
        drop(alone);
        if gone { self.collect().await.map(drop) } else { Ok(()) }
    }
}

fn layer_name(key: &str) -> String {
    format!("{}{key}", record::LAYER_NAME)
}
