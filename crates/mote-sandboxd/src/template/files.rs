//! Files that were uploaded for the `copy` steps of a template: archives, kept as they came until they are too many.
//!
//! They are not opened here: the image's own `tar` does that, in the sandbox of the step. The name of an upload is what its
//! sender says; the digest is of what came.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use mote_oci::digest::Hasher;
use mote_sandbox_api::error::{Code, Failure};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;

use crate::clock::{hex, random};
use crate::limits::{
    TEMPLATE_UPLOAD_BYTES_MAX, TEMPLATE_UPLOAD_IDLE_TIMEOUT, TEMPLATE_UPLOADS_AT_ONCE, TEMPLATE_UPLOADS_BYTES_KEPT,
};

/// End of the name of a file that is still coming.
const PART: &str = ".part";

/// The store of uploads; clones share it.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
    places: Arc<Semaphore>,
}

/// An upload that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The archive.
    pub path: PathBuf,
    /// SHA-256 of it, in hexadecimal digits.
    pub digest: String,
}

impl Files {
    /// A store in a folder of the daemon's own.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, places: Arc::new(Semaphore::new(TEMPLATE_UPLOADS_AT_ONCE)) }
    }

    /// An upload of a template, by its name.
    ///
    /// # Errors
    /// `internal` where the folder cannot be read.
    pub async fn find(&self, template: &str, name: &str) -> Result<Option<Upload>, Failure> {
        let folder = self.folder.join(template);
        let mut entries = match tokio::fs::read_dir(&folder).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &folder, &error)),
        };
        while let Some(entry) = entries.next_entry().await.map_err(|error| failed("read", &folder, &error))? {
            let found = entry.file_name().into_string().unwrap_or_default();
            if let Some((known, digest)) = found.split_once('.')
                && known == name
                && super::plan::is_hash(digest)
            {
                return Ok(Some(Upload { path: entry.path(), digest: digest.to_owned() }));
            }
        }
        Ok(None)
    }

    /// Takes an upload in; one of the same name that was there goes.
    ///
    /// # Errors
    /// `too_large`; `exhausted` where too many come at once; `timeout` where nothing comes any more; `no_space`.
    pub async fn take(
        &self,
        template: &str,
        name: &str,
        bytes: impl Stream<Item = Result<Bytes, Failure>> + Send,
    ) -> Result<(), Failure> {
        let _place = self.places.try_acquire().map_err(|_| {
            Failure::new(Code::Exhausted, "too many files are being uploaded at once")
                .with("limit", TEMPLATE_UPLOADS_AT_ONCE)
                .with("retry_after_s", 1)
        })?;
        let folder = self.folder.join(template);
        tokio::fs::create_dir_all(&folder).await.map_err(|error| failed("make", &folder, &error))?;
        let part = folder.join(format!("{}{PART}", hex(&random::<8>()?)));
        let taken = match write(&part, bytes).await {
            Ok(digest) => self.name(&folder, &part, name, &digest).await,
            Err(failure) => Err(failure),
        };
        if taken.is_err() {
            // What did not come whole is nobody's.
            let _ = tokio::fs::remove_file(&part).await;
        }
        taken?;
        self.bound(TEMPLATE_UPLOADS_BYTES_KEPT).await
    }

    async fn name(&self, folder: &Path, part: &Path, name: &str, digest: &str) -> Result<(), Failure> {
        let template = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let before = self.find(template, name).await?;
        let path = folder.join(format!("{name}.{digest}"));
        tokio::fs::rename(part, &path).await.map_err(|error| failed("keep", &path, &error))?;
        if let Some(before) = before.filter(|before| before.path != path) {
            // A build that reads it has it open.
            let _ = tokio::fs::remove_file(before.path).await;
        }
        Ok(())
    }

    /// Forgets what was uploaded for a template.
    pub async fn forget(&self, template: &str) {
        let folder = self.folder.join(template);
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "failed to remove the uploads of a template");
            }
            _ => {}
        }
    }

    /// Removes what did not come whole before the daemon ended.
    pub async fn tidy(&self) {
        for (path, _, _) in self.all().await {
            if path.to_string_lossy().ends_with(PART) {
                let _ = tokio::fs::remove_file(path).await;
            }
        }
    }

    /// Removes the oldest uploads until all together are within a bound.
    async fn bound(&self, most: u64) -> Result<(), Failure> {
        let mut all = self.all().await;
        all.retain(|(path, _, _)| !path.to_string_lossy().ends_with(PART));
        all.sort_by_key(|(_, _, at)| *at);
        let mut bytes: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        for (path, size, _) in all {
            if bytes <= most {
                break;
            }
            tokio::fs::remove_file(&path).await.map_err(|error| failed("remove", &path, &error))?;
            bytes -= size;
        }
        Ok(())
    }

    async fn all(&self) -> Vec<(PathBuf, u64, SystemTime)> {
        let folder = self.folder.clone();
        let look = move || {
            let files = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
            let mut all = Vec::new();
            for file in files(folder).flat_map(|template| files(template.path())) {
                if let Ok(found) = file.metadata() {
                    all.push((file.path(), found.len(), found.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
                }
            }
            all
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}

/// Writes what comes to a file; its digest.
async fn write(path: &Path, bytes: impl Stream<Item = Result<Bytes, Failure>> + Send) -> Result<String, Failure> {
    let mut file = tokio::fs::File::create(path).await.map_err(|error| failed("make", path, &error))?;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    tokio::pin!(bytes);
    loop {
        let next = tokio::time::timeout(TEMPLATE_UPLOAD_IDLE_TIMEOUT, bytes.next()).await.map_err(|_| {
            Failure::new(Code::Timeout, "the upload brought nothing for too long")
                .with("limit_ms", TEMPLATE_UPLOAD_IDLE_TIMEOUT.as_millis())
        })?;
        let Some(chunk) = next.transpose()? else { break };
        size += chunk.len() as u64;
        if size > TEMPLATE_UPLOAD_BYTES_MAX {
            return Err(too_large());
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(|error| failed("write", path, &error))?;
    }
    file.flush().await.map_err(|error| failed("write", path, &error))?;
    Ok(hasher.finish().hex().to_owned())
}

/// What is answered to an upload that is too large.
#[must_use]
pub fn too_large() -> Failure {
    Failure::new(Code::TooLarge, format!("the files of one copy are at most {TEMPLATE_UPLOAD_BYTES_MAX} bytes, packed"))
        .with("limit", TEMPLATE_UPLOAD_BYTES_MAX)
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let code = if full { Code::NoSpace } else { Code::Internal };
    Failure::new(code, format!("failed to {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn body(text: &'static str) -> impl Stream<Item = Result<Bytes, Failure>> {
        stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
    }

    #[tokio::test]
    async fn an_upload_is_found_by_name_and_template_and_known_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("files"));
        let name = "ab".repeat(32);
        assert_eq!(files.find("tp1", &name).await.unwrap(), None);
        files.take("tp1", &name, body("one")).await.unwrap();
        let first = files.find("tp1", &name).await.unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&first.path).unwrap(), "one");
        assert_eq!(files.find("tp2", &name).await.unwrap(), None, "it is the template's own");
        files.take("tp1", &name, body("two")).await.unwrap();
        let second = files.find("tp1", &name).await.unwrap().unwrap();
        assert_ne!(first.digest, second.digest);
        assert!(!first.path.exists());
        files.forget("tp1").await;
        assert_eq!(files.find("tp1", &name).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_leaves_nothing_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().to_owned());
        let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(Failure::new(Code::Invalid, "it broke off"))]);
        assert_eq!(files.take("tp1", &"cd".repeat(32), broken).await.unwrap_err().message, "it broke off");
        assert!(files.all().await.is_empty());
        for (name, day) in [("ab", 1), ("cd", 2), ("ef", 3)] {
            files.take("tp1", &name.repeat(32), body("12345")).await.unwrap();
            let path = files.find("tp1", &name.repeat(32)).await.unwrap().unwrap().path;
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(day * 86_400);
            std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
        }
        files.bound(10).await.unwrap();
        assert_eq!(files.find("tp1", &"ab".repeat(32)).await.unwrap(), None);
        assert!(files.find("tp1", &"ef".repeat(32)).await.unwrap().is_some());
    }
}
