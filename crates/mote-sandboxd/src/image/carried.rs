//! What imported snapshots start from: a layer whose name is the digest of its content, and how it is run.
//!
//! It is kept as an image that nobody named, as long as a snapshot or a sandbox uses it. It does not read what is imported.

use std::collections::HashSet;

use mote_sandbox_api::error::Failure;

use super::Images;
use super::record::{self, Image};
use crate::crash;
use crate::filesystem::id::Id;
use crate::filesystem::recipe::Lower;
use crate::filesystem::trees::Filling;
use crate::transfer::{Below, Tree};

/// Who may still use what imported snapshots start from.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// Ids of snapshots.
    pub snapshots: HashSet<String>,
    /// Ids of images that sandboxes and snapshots have below them.
    pub images: HashSet<String>,
}

impl Images {
    /// Makes a snapshot of a tree that was filled and found to be whole. Content that is there already is not kept twice.
    ///
    /// # Errors
    /// `no_space`; `conflict` where the snapshot's id is taken.
    pub async fn carry(
        &self,
        snapshot: &str,
        below: &Below,
        tree: &Tree,
        filling: Filling,
        now_ms: u64,
    ) -> Result<Image, Failure> {
        // Written to the disk while others may work: only then it gets a name.
        filling.sync().await?;
        let _making = self.making.read().await;
        let layer = Id::new("layer", format!("snapshot.{}", tree.digest))?;
        let _alone = self.alone(&layer).await;
        // Held until what is added now is counted, too.
        let mut _admitted = None;
        if self.has(&layer).await? {
            filling.abandon().await?;
        } else {
            _admitted = Some(self.admit(tree.bytes).await?);
            filling.keep_as(layer.clone()).await?;
        }
        crash::point("import.after_layer");
        let programs = below.host_programs.then_some(Lower::HostPrograms);
        let lower: Vec<Lower> = std::iter::once(Lower::Layer(layer)).chain(programs).collect();
        let source = format!("import of a snapshot of {}", below.image);
        let image = Image::new(lower.clone(), below.config.clone(), source, Some(tree.bytes), now_ms);
        self.keep(&image, &format!("{}{snapshot}", record::SNAPSHOT_NAME)).await?;
        crash::point("import.after_image");
        self.filesystem.snapshot_of(snapshot, lower).await?;
        Ok(image)
    }

    /// Forgets what imported snapshots started from and nobody uses any more. Answers the ids of images that sandboxes alone
    /// still use: they can go when these do.
    ///
    /// # Errors
    /// The keeper's.
    pub async fn forget_carried(&self, users: &Users) -> Result<HashSet<String>, Failure> {
        let mut left = HashSet::new();
        for (name, image) in self.all().await? {
            let Some(snapshot) = name.strip_prefix(record::SNAPSHOT_NAME) else { continue };
            if users.snapshots.contains(snapshot) {
                continue;
            }
            if users.images.contains(&image.id) {
                left.insert(image.id);
            } else {
                self.take_away(&name).await?;
            }
        }
        self.collect().await?;
        Ok(left)
    }
}
