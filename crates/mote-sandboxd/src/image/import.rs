//! Imports: a tarball, an OCI layout or an image of a registry becomes one tree.
//!
//! The layers of an OCI image are unpacked on top of each other into one tree: a root then has one tree below it whatever
//! the image was made of. Compressed layers are fetched to a scratch file without a name, verified, and only then handed to
//! the worker that reads them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mote_oci::digest::{Digest, Hasher};
use mote_oci::layout::Layout;
use mote_oci::manifest::{self, Descriptor, Platform};
use mote_oci::reference::Reference;
use mote_oci::registry::Found;
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::spec::ImageSource;

use super::Images;
use super::quota::Admitted;
use super::record::{Config, Image};
use crate::filesystem::id::Id;
use crate::filesystem::keeper::{Outcome, Verb};
use crate::filesystem::recipe::Lower;
use crate::filesystem::trees::Filling;
use crate::filesystem::worker::{Bounds, Compression, Unpacked};
use crate::limits::{IMAGE_TARBALL_BYTES_MAX, WORKER_BUFFER_BYTES};

/// Where the layers of an OCI image come from.
enum Place {
    Registry(Reference),
    Layout(Layout),
}

/// What a layer is to hold.
enum Content<'a> {
    Tarball(File, Compression),
    Image(&'a Found, &'a Place),
}

/// A layer that is there.
struct Made {
    bytes: Option<u64>,
    unmapped: u64,
    /// Its room is its own until it is counted.
    _admitted: Option<Admitted>,
}

impl Images {
    /// Imports what a caller named: host paths must be allowed by the configuration.
    pub(super) async fn import(&self, source: &ImageSource, name: &str, now_ms: u64) -> Result<Image, Failure> {
        match source {
            ImageSource::Tarball(path) => {
                let path = self.allowed(Path::new(path))?;
                self.import_tarball(&path, name, Config::default(), now_ms).await
            }
            ImageSource::OciLayout(text) => {
                let (folder, tag) = split_tag(text);
                let folder = self.allowed(Path::new(folder))?;
                self.import_layout(folder, tag, name, now_ms).await
            }
            ImageSource::Registry(text) => {
                let reference = Reference::parse(text).map_err(|error| failure(&error))?;
                self.allow_registry(&reference)?;
                self.import_registry(&reference, name, now_ms).await
            }
            other => Err(Failure::invalid("image", format!("{other:?} is not imported"))),
        }
    }

    /// Whether callers may pull from an image's registry.
    pub(super) fn allow_registry(&self, reference: &Reference) -> Result<(), Failure> {
        let allowed = self.options.registries.as_ref();
        if allowed.is_some_and(|allowed| !allowed.contains(&reference.host)) {
            let message = format!("images may not be pulled from {}", reference.host);
            return Err(Failure::new(Code::Forbidden, message).with("registry", &reference.host));
        }
        Ok(())
    }

    /// Imports a tarball of a root filesystem; compressed or not, as its first bytes tell.
    ///
    /// # Errors
    /// `invalid` where it is not one; `too_large`; `no_space`.
    pub async fn import_tarball(&self, path: &Path, name: &str, config: Config, now_ms: u64) -> Result<Image, Failure> {
        let _making = self.making.read().await;
        let (opened, scratch) = (path.to_path_buf(), self.scratch()?);
        let (file, digest) = blocking(move || copy_tarball(&opened, scratch)).await?;
        let compression = compression_of(&file)?;
        let layer = Id::new("layer", format!("tar.{}", digest.hex()))?;
        let _alone = self.alone(&layer).await;
        let made = self.layer(&layer, Content::Tarball(file, compression)).await?;
        let source = format!("tarball {}", path.display());
        let image = Image::new(vec![Lower::Layer(layer)], config, source, made.bytes, now_ms);
        let image = Image { unmapped_owners: made.unmapped, ..image };
        self.keep(&image, name).await?;
        Ok(image)
    }

    /// Imports an image of an OCI layout.
    ///
    /// # Errors
    /// `not_found` where the tag is not there; `invalid` where a document or digest is wrong; `too_large`; `no_space`.
    pub async fn import_layout(
        &self,
        folder: PathBuf,
        tag: Option<&str>,
        name: &str,
        now_ms: u64,
    ) -> Result<Image, Failure> {
        let layout = Layout::new(folder);
        let (reader, tag) = (layout.clone(), tag.map(str::to_owned));
        let found =
            blocking(move || reader.find(tag.as_deref(), &Platform::host()).map_err(|error| failure(&error))).await?;
        self.import_found(found, &Place::Layout(layout), name, now_ms).await
    }

    /// Pulls an image from a registry.
    ///
    /// # Errors
    /// `not_found`; `forbidden` where the registry refuses; `invalid` where a document or digest is wrong.
    pub async fn import_registry(&self, reference: &Reference, name: &str, now_ms: u64) -> Result<Image, Failure> {
        let found = self.registry.find(reference, &Platform::host()).await.map_err(|error| failure(&error))?;
        self.import_found(found, &Place::Registry(reference.clone()), name, now_ms).await
    }

    async fn import_found(&self, found: Found, place: &Place, name: &str, now_ms: u64) -> Result<Image, Failure> {
        let _making = self.making.read().await;
        let layer = Id::new("layer", format!("oci.{}", found.manifest.config.digest.hex()))?;
        let _alone = self.alone(&layer).await;
        let made = self.layer(&layer, Content::Image(&found, place)).await?;
        let source = match place {
            Place::Registry(reference) => format!("registry {reference}"),
            Place::Layout(_) => format!("OCI layout, manifest {}", found.digest),
        };
        let image = Image::new(vec![Lower::Layer(layer)], found.image.config.into(), source, made.bytes, now_ms);
        let image = Image { unmapped_owners: made.unmapped, ..image };
        self.keep(&image, name).await?;
        Ok(image)
    }

    /// A layer that holds this, made where it is not there. It is to be recorded before what is answered is dropped.
    async fn layer(&self, layer: &Id, content: Content<'_>) -> Result<Made, Failure> {
        if self.has(layer).await? {
            let bytes = self.bytes_of(&Lower::Layer(layer.clone())).await?;
            return Ok(Made { bytes, unmapped: 0, _admitted: None });
        }
        let bounds = self.bounds().await?;
        let filling = self.filesystem.fill(layer.as_str(), None).await?.within(bounds);
        let filled = match content {
            Content::Tarball(file, compression) => filling.add(file.into(), compression, false).await,
            Content::Image(found, place) => self.fill_from(found, place, &filling, bounds).await,
        };
        let filled = filled.map_err(|failure| self.bound_named(failure, bounds))?;
        let admitted = self.admit(filled.bytes).await?;
        filling.keep().await?;
        Ok(Made { bytes: Some(filled.bytes), unmapped: filled.unmapped, _admitted: Some(admitted) })
    }

    async fn fill_from(
        &self,
        found: &Found,
        place: &Place,
        filling: &Filling,
        bounds: Bounds,
    ) -> Result<Unpacked, Failure> {
        let compressed = found.manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
        if compressed > bounds.bytes {
            // Before anything is fetched.
            let message = format!("the image has {compressed} bytes compressed, more than {}", bounds.bytes);
            return Err(Failure::new(Code::TooLarge, message).with("limit", bounds.bytes));
        }
        let mut all = Unpacked::default();
        for (blob, expected) in found.manifest.layers.iter().zip(&found.image.rootfs.diff_ids) {
            let archive = self.fetch(place, blob).await?;
            let unpacked = add_verified(filling, archive, blob, expected).await?;
            all.bytes += unpacked.bytes;
            all.unmapped += unpacked.unmapped;
        }
        Ok(all)
    }

    /// A layer in a file without a name, verified.
    async fn fetch(&self, place: &Place, blob: &Descriptor) -> Result<File, Failure> {
        match place {
            Place::Layout(layout) => {
                let (layout, blob) = (layout.clone(), blob.clone());
                blocking(move || layout.blob(&blob).map_err(|error| failure(&error))).await
            }
            Place::Registry(reference) => {
                use std::io::Seek as _;
                let file = self.scratch()?;
                let mut writer = tokio::fs::File::from_std(file.try_clone().map_err(|error| scratch_failure(&error))?);
                self.registry.blob(reference, blob, &mut writer).await.map_err(|error| failure(&error))?;
                let mut file = file;
                file.rewind().map_err(|error| scratch_failure(&error))?;
                Ok(file)
            }
        }
    }

    fn scratch(&self) -> Result<File, Failure> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        rustix::fs::open(&self.options.scratch, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|error| scratch_failure(&error.into()))
    }

    pub(super) async fn has(&self, layer: &Id) -> Result<bool, Failure> {
        match self.filesystem.ask(Verb::HasLayer(layer.clone())).await? {
            Outcome::Present(present) => Ok(present),
            other => Err(crate::filesystem::unexpected(&other)),
        }
    }

    fn allowed(&self, path: &Path) -> Result<PathBuf, Failure> {
        let shown = path.display();
        let real = std::fs::canonicalize(path).map_err(|_| Failure::not_found("file", &shown.to_string()))?;
        let mut allowed = self.options.imports.iter().filter_map(|allowed| std::fs::canonicalize(allowed).ok());
        if allowed.any(|allowed| real.starts_with(allowed)) {
            return Ok(real);
        }
        Err(Failure::new(Code::Forbidden, format!("images may not be imported from the host's {shown}"))
            .with("path", shown)
            .remedy("the administrator can allow the directory, or import the image with `mote-sandboxd image import`"))
    }
}

async fn add_verified(
    filling: &Filling,
    archive: File,
    blob: &Descriptor,
    expected: &Digest,
) -> Result<Unpacked, Failure> {
    let compression = match manifest::compression(&blob.media_type).map_err(|error| failure(&error))? {
        manifest::Compression::None => Compression::None,
        manifest::Compression::Gzip => Compression::Gzip,
        manifest::Compression::Zstd => Compression::Zstd,
    };
    let unpacked = filling.add(archive.into(), compression, true).await?;
    if unpacked.digest == expected.hex() {
        return Ok(unpacked);
    }
    let message =
        format!("a layer has the digest sha256:{} uncompressed, and the image says {expected}", unpacked.digest);
    Err(Failure::invalid("image", message))
}

/// `PATH[:TAG]`: what follows the last colon is a tag where no slash follows it.
pub(super) fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !path.is_empty() => (path, Some(tag)),
        _ => (text, None),
    }
}

/// Reads a tarball once, into a file that nobody else has: what is unpacked is what the digest is of, whoever writes to the
/// tarball meanwhile.
fn copy_tarball(path: &Path, mut copy: File) -> Result<(File, Digest), Failure> {
    use std::io::{Seek as _, Write as _};
    use std::os::unix::fs::OpenOptionsExt as _;
    let what = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Invalid };
        Failure::new(code, format!("failed to read {}: {error}", path.display()))
    };
    // A pipe would be waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path).map_err(what)?;
    if !file.metadata().map_err(what)?.is_file() {
        return Err(Failure::new(Code::Invalid, format!("{} is not a regular file", path.display())));
    }
    let (mut hasher, mut size) = (Hasher::default(), 0);
    let mut buffer = vec![0; WORKER_BUFFER_BYTES];
    loop {
        let count = file.read(&mut buffer).map_err(what)?;
        if count == 0 {
            break;
        }
        size += count as u64;
        if size > IMAGE_TARBALL_BYTES_MAX {
            let message = format!("{} is larger than {IMAGE_TARBALL_BYTES_MAX} bytes", path.display());
            return Err(Failure::new(Code::TooLarge, message).with("limit", IMAGE_TARBALL_BYTES_MAX));
        }
        hasher.update(&buffer[..count]);
        copy.write_all(&buffer[..count]).map_err(|error| scratch_failure(&error))?;
    }
    copy.rewind().map_err(|error| scratch_failure(&error))?;
    Ok((copy, hasher.finish()))
}

fn compression_of(file: &File) -> Result<Compression, Failure> {
    use std::os::unix::fs::FileExt as _;
    let mut magic = [0; 4];
    let count = file.read_at(&mut magic, 0).map_err(|error| scratch_failure(&error))?;
    Ok(match &magic[..count] {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => Compression::None,
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Code::Internal, format!("failed to read an image: {error}")))?
}

fn scratch_failure(error: &std::io::Error) -> Failure {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    Failure::new(if full { Code::NoSpace } else { Code::Internal }, format!("failed to keep a layer: {error}"))
}

/// What a caller is told of an image that could not be fetched.
pub(super) fn failure(error: &mote_oci::Error) -> Failure {
    use mote_oci::Error as E;
    let code = match error {
        E::Reference(..) | E::Digest(_) | E::Mismatch { .. } | E::Document(..) => Code::Invalid,
        E::TooLarge(..) => Code::TooLarge,
        E::Platform(_) | E::NotFound(_) => Code::NotFound,
        E::Denied(_) => Code::Forbidden,
        E::File(_, error) if error.kind() == std::io::ErrorKind::NotFound => Code::NotFound,
        E::Status(_, 429) => Code::Exhausted,
        E::Status(..) | E::Connection(..) | E::Certificate(..) => Code::Unreachable,
        E::File(..) => Code::Internal,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        E::Status(registry, status) => failure.with("registry", registry).with("status", status),
        E::Connection(registry, _) => failure.with("registry", registry),
        E::Certificate(registry, _) => failure
            .with("registry", registry)
            .remedy("name the file of its authority as `authorities` in the daemon's configuration"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tarball_is_read_once_into_a_file_that_is_the_daemons_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.tar");
        std::fs::write(&path, "as it was").unwrap();
        let (mut copy, digest) = copy_tarball(&path, tempfile::tempfile().unwrap()).unwrap();
        std::fs::write(&path, "as it is now").unwrap();
        let mut read = String::new();
        copy.read_to_string(&mut read).unwrap();
        let mut hasher = Hasher::default();
        hasher.update(b"as it was");
        assert_eq!((read.as_str(), digest.hex()), ("as it was", hasher.finish().hex()));
        // What is no file is not waited for.
        let refused = copy_tarball(folder.path(), tempfile::tempfile().unwrap()).unwrap_err();
        assert_eq!(refused.code, Code::Invalid);
        let missing = copy_tarball(&folder.path().join("none"), tempfile::tempfile().unwrap()).unwrap_err();
        assert_eq!(missing.code, Code::NotFound);
    }
}
