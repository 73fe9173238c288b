//! What images may take of the disk: one, and all that are kept together. The operator says how much.
//!
//! Counted are the bytes of files that archives brought, each layer once. What a commit adds is bounded by the disk of the
//! sandbox that it is made of.

use std::collections::HashMap;
use std::sync::Arc;

use mote_sandbox_api::error::{Code, Failure};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Images;
use super::record::{Image, NAME_KEY};
use crate::filesystem::keeper::Kind;
use crate::filesystem::recipe::Lower;
use crate::filesystem::worker::Bounds;
use crate::limits::{IMAGES_MAX, TREE_BYTES_MAX, TREE_ENTRIES_MAX};

/// Bounds by the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of the files of one image, over all its layers (`image_max`).
    pub image_bytes: u64,
    /// Files, directories and links of one image, over all its layers (`image_files_max`).
    pub image_files: u64,
    /// Bytes of all images that are kept (`images_max`); as the disk has where absent.
    pub all_bytes: Option<u64>,
}

impl Default for Quota {
    fn default() -> Self {
        Self { image_bytes: TREE_BYTES_MAX, image_files: TREE_ENTRIES_MAX, all_bytes: None }
    }
}

/// Held by who adds an image, from the moment that there is room for it until its record is written.
pub(super) type Admitted = OwnedMutexGuard<()>;

/// One at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Mutex<()>>);

impl Images {
    /// What a new image may hold: no more than any one, and no more than all others leave.
    pub(super) async fn bounds(&self) -> Result<Bounds, Failure> {
        let Quota { image_bytes, image_files, all_bytes } = self.options.quota;
        let left = match all_bytes {
            Some(all) => all.saturating_sub(self.taken().await?.1),
            None => u64::MAX,
        };
        Ok(Bounds { bytes: image_bytes.min(left), entries: image_files })
    }

    /// Whether there is room for an image of so many bytes beside those that are kept. Several may be unpacked at a time: no
    /// more are kept than there is room for.
    ///
    /// # Errors
    /// `no_space`, naming the bound.
    pub(super) async fn admit(&self, bytes: u64) -> Result<Admitted, Failure> {
        let admitted = Arc::clone(&self.gate.0).lock_owned().await;
        let (count, taken) = self.taken().await?;
        if count >= IMAGES_MAX {
            let message = format!("there are {count} images, names and steps: no more than {IMAGES_MAX} are kept");
            return Err(full(message, "images", IMAGES_MAX as u64));
        }
        match self.options.quota.all_bytes {
            Some(all) if taken.saturating_add(bytes) > all => Err(all_full(all)),
            _ => Ok(admitted),
        }
    }

    /// What a failure to unpack an image is told as: a bound that was met is the operator's, by name.
    pub(super) fn bound_named(&self, mut failure: Failure, bounds: Bounds) -> Failure {
        if failure.code != Code::TooLarge {
            return failure;
        }
        match self.options.quota.all_bytes {
            Some(all) if bounds.bytes < self.options.quota.image_bytes => all_full(all),
            _ => {
                failure.message = format!("{}: an image may hold no more", failure.message);
                failure.with("bytes_max", bounds.bytes).with("files_max", bounds.entries).remedy(
                    "the operator can allow more of one image: `image_max`, `image_files_max` in the configuration",
                )
            }
        }
    }

    /// How many records there are, and the bytes of every layer that came by an archive.
    async fn taken(&self) -> Result<(usize, u64), Failure> {
        let keys = self.filesystem.ids(Kind::Images).await?;
        let mut layers = HashMap::new();
        if self.options.quota.all_bytes.is_some() {
            for key in keys.iter().filter(|key| !key.as_str().starts_with(NAME_KEY)) {
                if let Some(image) = self.read::<Image>(key).await? {
                    account(&mut layers, image);
                }
            }
        }
        Ok((keys.len(), layers.values().sum()))
    }

    /// Bytes of a layer that is there already, as they were counted when it was made.
    pub(super) async fn bytes_of(&self, layer: &Lower) -> Result<Option<u64>, Failure> {
        for key in self.filesystem.ids(Kind::Images).await?.iter().filter(|key| !key.as_str().starts_with(NAME_KEY)) {
            if let Some(image) = self.read::<Image>(key).await?
                && image.lower.first() == Some(layer)
                && image.bytes.is_some()
            {
                return Ok(image.bytes);
            }
        }
        Ok(None)
    }
}

/// Adds what an image has of its own, which is its topmost layer.
fn account(layers: &mut HashMap<Lower, u64>, image: Image) {
    if let (Some(layer @ Lower::Layer(_)), Some(bytes)) = (image.lower.into_iter().next(), image.bytes) {
        layers.insert(layer, bytes);
    }
}

fn all_full(all: u64) -> Failure {
    full(format!("all images together may hold {all} bytes"), "images_max", all)
}

fn full(message: String, bound: &str, limit: u64) -> Failure {
    Failure::new(Code::NoSpace, message)
        .with("bound", bound)
        .with("limit", limit)
        .remedy("remove images that nobody needs, or let the operator raise the bound")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::id::Id;
    use crate::image::record::Config;

    #[test]
    fn a_layer_is_counted_once_whatever_images_have_it() {
        let layer = |name: &str| Lower::Layer(Id::new("layer", name).unwrap());
        let mut layers = HashMap::new();
        let image = |lower, bytes| Image::new(lower, Config::default(), String::new(), bytes, 0);
        account(&mut layers, image(vec![layer("a")], Some(10)));
        account(&mut layers, image(vec![layer("a")], Some(10)));
        account(&mut layers, image(vec![layer("b"), layer("a")], Some(5)));
        account(&mut layers, image(vec![layer("c")], None));
        account(&mut layers, image(vec![Lower::Host], Some(7)));
        assert_eq!(layers.values().sum::<u64>(), 15);
    }
}
