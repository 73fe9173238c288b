//! OCI layouts: an image in a directory (OCI image specification, "Image Layout").
//!
//! Names below the directory are made of digests alone, so that nothing in it leads elsewhere by name; a link that stands
//! in it is not followed.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::digest::{Digest, Hasher};
use crate::limits::{DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX};
use crate::manifest::{self, Descriptor, Document, Image, Platform};
use crate::registry::Found;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// `O_NOFOLLOW | O_NONBLOCK` (Linux, all architectures but a few that Rust's tier 1 does not have).
const NO_FOLLOW: i32 = 0o400_000 | 0o4000;

/// A layout.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// The layout in this directory.
    #[must_use]
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Finds an image by its tag, or the only one; for a platform where the tag names an index.
    ///
    /// # Errors
    /// [`Error`].
    pub fn find(&self, tag: Option<&str>, platform: &Platform) -> Result<Found, Error> {
        let path = self.folder.join("index.json");
        let Document::Index(manifests) = Document::parse(&document(&path, None)?)? else {
            return Err(Error::Document("the layout's index", "it is a manifest".to_owned()));
        };
        let mut chosen = match tag {
            Some(tag) => manifests
                .into_iter()
                .find(|manifest| manifest.annotations.get(REF_NAME).is_some_and(|name| name == tag)),
            None if manifests.len() == 1 => manifests.into_iter().next(),
            None => Some(manifest::select(&manifests, platform)?.clone()),
        };
        for _ in 0..=INDEX_DEPTH_MAX {
            let Some(descriptor) = chosen else { break };
            let bytes = self.document(&descriptor.digest)?;
            match Document::parse(&bytes)? {
                Document::Index(manifests) => chosen = Some(manifest::select(&manifests, platform)?.clone()),
                Document::Manifest(manifest) => {
                    let image = Image::parse(&self.document(&manifest.config.digest)?, manifest.layers.len())?;
                    return Ok(Found { digest: descriptor.digest, manifest, image });
                }
            }
        }
        Err(Error::NotFound(format!("{}:{}", self.folder.display(), tag.unwrap_or("(any)"))))
    }

    /// Opens a blob whose digest was verified by reading it once.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it is not what its name says.
    pub fn blob(&self, blob: &Descriptor) -> Result<File, Error> {
        use std::io::Seek as _;
        let path = self.path(&blob.digest);
        let mut file = open(&path)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(|error| Error::file(&path, error))? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let found = hasher.finish();
        if found != blob.digest {
            return Err(Error::Mismatch { what: "a layer", expected: blob.digest.clone(), found });
        }
        file.rewind().map_err(|error| Error::file(&path, error))?;
        Ok(file)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        document(&self.path(digest), Some(digest))
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path).map_err(|error| Error::file(path, error))
}

fn document(path: &Path, expected: Option<&Digest>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Error::file(path, error))?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLarge("a document of the layout", DOCUMENT_BYTES_MAX));
    }
    let found = Digest::of(&bytes);
    match expected {
        Some(expected) if *expected != found => {
            Err(Error::Mismatch { what: "a document of the layout", expected: expected.clone(), found })
        }
        _ => Ok(bytes),
    }
}
