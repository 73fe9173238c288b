//! Volumes: directories that outlive sandboxes, known by name.
//!
//! It does not mount them: a sandbox's start does, by id.

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::RawPath;
use mote_sandbox_api::lifecycle::State;

use super::{Sandboxes, check};
use crate::clock::new_id;
use crate::filesystem::volumes::VolumeFound;
use crate::filesystem::worker::files::Order;
use crate::state::VolumeRecord;

impl Sandboxes {
    /// Makes a volume.
    ///
    /// # Errors
    /// `invalid`; `conflict` where the name is taken; the substrate's.
    pub async fn create_volume(&self, name: &str) -> Result<VolumeRecord, Failure> {
        check::name("name", name)?;
        let volume = VolumeRecord { id: new_id("vo")?, name: name.to_owned(), created_ms: self.clock.now_ms() };
        self.store.put_volume(&volume).await.map_err(|failure| match failure.code {
            Code::Conflict => {
                Failure::new(Code::Conflict, format!("there is a volume named {name:?}")).with("name", name)
            }
            _ => failure,
        })?;
        if let Err(failure) = self.substrate.volume(&volume.id).await {
            self.substrate.remove_volume(&volume.id).await?;
            self.store.remove_volume(name).await?;
            return Err(failure);
        }
        Ok(volume)
    }

    /// Every volume, by name.
    ///
    /// # Errors
    /// `internal`.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, Failure> {
        self.store.volumes().await
    }

    /// Looks at or changes one path of the volume with this id.
    ///
    /// # Errors
    /// `not_found` where volume or path are not there; `conflict` where something is there; `invalid`; `no_space`; `exhausted`.
    pub async fn volume_files(&self, id: &str, path: RawPath, order: Order) -> Result<VolumeFound, Failure> {
        let is_known = self.store.volumes().await?.iter().any(|volume| volume.id == id);
        if !is_known {
            return Err(Failure::not_found("volume", id));
        }
        self.substrate.volume_files(id, path, order).await
    }

    /// Removes a volume with all that is in it.
    ///
    /// # Errors
    /// `not_found`; `busy` while a sandbox uses it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), Failure> {
        let volume = self.store.volume(name).await?.ok_or_else(|| Failure::not_found("volume", name))?;
        for cell in self.all() {
            let uses = cell.read(|record| {
                record.state != State::Gone && record.spec.volumes.iter().any(|mount| mount.name == name)
            });
            if uses {
                return Err(Failure::new(Code::Busy, format!("a sandbox uses the volume {name:?}"))
                    .with("sandbox", cell.id())
                    .remedy("remove the sandbox first"));
            }
        }
        self.substrate.remove_volume(&volume.id).await?;
        self.store.remove_volume(name).await
    }
}
