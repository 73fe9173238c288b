//! Records of images in the pool, and the collection of layers that nothing refers to.
//!
//! A record is the daemon's text; the keeper reads of it only which layers it holds. It decides nothing about names.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};

use mote_sandbox_api::error::{Code, Failure};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::Deserialize;

use super::fault;
use super::id::Id;
use super::keeper::{Keeper, Outcome};
use super::pool::{self, Folder};
use super::recipe::Lower;
use super::record::Record;
use crate::limits::IMAGE_RECORD_BYTES_MAX;

#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    lower: Vec<Lower>,
}

impl Keeper {
    pub(super) fn image_write(&self, key: &Id, text: &str) -> Result<Outcome, Failure> {
        if text.len() > IMAGE_RECORD_BYTES_MAX {
            let message = format!("the record of an image is longer than {IMAGE_RECORD_BYTES_MAX} bytes");
            return Err(Failure::new(Code::TooLarge, message).with("limit", IMAGE_RECORD_BYTES_MAX));
        }
        let new = format!("{key}.new");
        let folder = self.pool.folder(Folder::Images);
        let write = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = fs::File::from(rustix::fs::openat(folder, &new, flags, Mode::from_raw_mode(0o600))?);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            Ok(rustix::fs::renameat(folder, &new, folder, key.as_str())?)
        };
        write().map_err(|error: std::io::Error| fault::io(&format!("failed to write image {key}"), &error))?;
        Ok(Outcome::Done)
    }

    pub(super) fn image_read(&self, key: &Id) -> Result<Outcome, Failure> {
        match self.image_text(key) {
            Ok(text) => Ok(Outcome::Image(Some(text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Outcome::Image(None)),
            Err(error) => Err(fault::io(&format!("failed to read image {key}"), &error)),
        }
    }

    pub(super) fn image_remove(&self, key: &Id) -> Result<Outcome, Failure> {
        match rustix::fs::unlinkat(self.pool.folder(Folder::Images), key.as_str(), AtFlags::empty()) {
            Ok(()) => Ok(Outcome::Done),
            Err(rustix::io::Errno::NOENT) => Err(Failure::not_found("image", key.as_str())),
            Err(error) => Err(fault::io(&format!("failed to remove image {key}"), &error.into())),
        }
    }

    pub(super) fn image_retire(&self, key: &Id) -> Result<Outcome, Failure> {
        // As with layers: another process may be about to give it a name.
        if self.workers.any() || !self.pool.is_alone() {
            return Ok(Outcome::Done);
        }
        let layers = self.layers_of(key)?;
        for folder in [Folder::Roots, Folder::Snapshots] {
            for id in self.pool.list(folder)? {
                if Record::read(&self.pool.path(folder, &id))?.lower.ends_with(&layers) {
                    return Ok(Outcome::Done);
                }
            }
        }
        self.image_remove(key)
    }

    /// The trees that an image is made of.
    fn layers_of(&self, key: &Id) -> Result<Vec<Lower>, Failure> {
        let what = format!("failed to read image {key}");
        let text = self.image_text(key).map_err(|error| fault::io(&what, &error))?;
        serde_json::from_str::<Layers>(&text).map(|image| image.lower).map_err(|error| fault::defect(&what, &error))
    }

    /// Removes every layer that no image, root or snapshot refers to. What another process is making keeps all layers: a
    /// layer gets its name before the image that holds it.
    pub(super) fn collect(&mut self) -> Result<Outcome, Failure> {
        let mut removed = 0;
        if !self.workers.any() && self.pool.is_alone() {
            let held = self.held()?;
            for layer in self.pool.list(Folder::Layers)? {
                if !held.contains(&layer) {
                    self.pool.remove(Folder::Layers, &layer)?;
                    removed += 1;
                }
            }
        }
        self.pool.sweep_if_needed();
        Ok(Outcome::Collected(removed))
    }

    fn held(&self) -> Result<HashSet<Id>, Failure> {
        let mut held: HashSet<Id> = self.host.iter().map(|host| host.skeleton.clone()).collect();
        let mut add = |lower: Vec<Lower>| {
            held.extend(lower.into_iter().filter_map(|tree| match tree {
                Lower::Layer(layer) => Some(layer),
                Lower::Directory(_) | Lower::Host | Lower::HostPrograms => None,
            }));
        };
        for key in self.pool.list(Folder::Images)? {
            add(self.layers_of(&key)?);
        }
        for folder in [Folder::Roots, Folder::Snapshots] {
            for id in self.pool.list(folder)? {
                add(Record::read(&self.pool.path(folder, &id))?.lower);
            }
        }
        Ok(held)
    }

    fn image_text(&self, key: &Id) -> std::io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.pool.folder(Folder::Images), key.as_str(), flags, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(file).take(IMAGE_RECORD_BYTES_MAX as u64).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether the layer is there, whole.
    pub(super) fn has_layer(&self, layer: &Id) -> Outcome {
        Outcome::Present(self.pool.exists(pool::Folder::Layers, layer))
    }
}
