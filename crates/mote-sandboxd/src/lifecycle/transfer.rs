//! Exports and imports of snapshots: moving between hosts.
//!
//! An import is named by a row, marked incomplete, before anything of it is kept, as a snapshot is; what a crash or a caller
//! that goes away leaves of it is removed. It does not know the format: `transfer` does.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::lifecycle::State;
use mote_sandbox_api::limits::NAME_BYTES_MAX;
use mote_sandbox_api::request::Snapshot;
use mote_sandbox_api::spec::ImageSource;
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Sandboxes, check, to_the_end};
use crate::clock::new_id;
use crate::crash;
use crate::image::carried::Users;
use crate::limits::{
    IMPORT_UNDO_RETRY, IMPORT_UNDO_TRIES, TRANSFER_FRAMES_WAITING_MAX, TRANSFER_IDLE_TIMEOUT, TRANSFERS_MAX,
};
use crate::state::SnapshotRecord;
use crate::transfer::{self, Body, Frames, Header, Incoming};

/// A snapshot on its way out.
#[derive(Debug)]
pub struct Exported {
    /// Its id.
    pub snapshot: String,
    begin: Option<Bytes>,
    rest: mpsc::Receiver<Result<Option<Bytes>, Failure>>,
}

impl Exported {
    /// The file. A failure in it means that it ends there and is not whole.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
        let begin = futures_util::stream::iter(self.begin.map(Ok));
        begin.chain(futures_util::stream::unfold(Some(self.rest), |rest| async {
            let mut rest = rest?;
            match rest.recv().await {
                Some(Ok(Some(bytes))) => Some((Ok(bytes), Some(rest))),
                Some(Ok(None)) => None,
                Some(Err(failure)) => Some((Err(failure), None)),
                None => Some((Err(Failure::new(Code::Internal, "an export ended before its end")), None)),
            }
        }))
    }
}

impl Sandboxes {
    /// Begins to write a snapshot as a file. It cannot be removed meanwhile.
    ///
    /// # Errors
    /// `not_found` (the snapshot, or its image), `exhausted` where too many are under way, `busy` while it is being removed.
    pub async fn export(&self, wanted: &str) -> Result<Exported, Failure> {
        let place = self.transfer_place()?;
        let id = self.snapshot_record(wanted).await?.snapshot.id;
        let held = self.uses.read(&id).ok_or_else(|| Failure::new(Code::Busy, "the snapshot is being removed"))?;
        // Once more: from here on it stays.
        let SnapshotRecord { snapshot, image, .. } = self.snapshot_record(&id).await?;
        let header = Header {
            snapshot: snapshot.id.clone(),
            name: snapshot.name,
            sandbox: snapshot.sandbox,
            created_ms: snapshot.created_ms,
            architecture: std::env::consts::ARCH.to_owned(),
            below: self.substrate.below(&image).await?,
        };
        let (frames, mut rest) = mpsc::channel(TRANSFER_FRAMES_WAITING_MAX);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(failure) = this.send(&header, &frames).await {
                tracing::warn!(snapshot = header.snapshot, error = %failure, "an export did not come to its end");
                // Nobody may be there to hear it.
                let _ = frames.send_timeout(Err(failure), TRANSFER_IDLE_TIMEOUT).await;
            }
            drop((held, place));
        });
        match rest.recv().await {
            Some(begin) => Ok(Exported { snapshot: id, begin: begin?, rest }),
            None => Err(Failure::new(Code::Internal, "an export ended before it began")),
        }
    }

    async fn send(&self, header: &Header, frames: &Frames) -> Result<(), Failure> {
        let (reader, writer) = pipe()?;
        let reader = pipe::Receiver::from_owned_fd(reader).map_err(|error| broken_pipe(&error))?;
        let packed = self.substrate.export(&header.snapshot, writer);
        let tree = transfer::send(header, reader, packed, frames).await?;
        tracing::info!(snapshot = header.snapshot, digest = tree.digest, bytes = tree.bytes, "exported");
        Ok(())
    }

    /// Makes a snapshot of a file that was exported, here or elsewhere. It has the name that is given, else its own.
    ///
    /// # Errors
    /// `invalid` where the file is not one or was changed, saying where; `unsupported` where its programs are another
    /// machine's; `forbidden` where it needs the host's programs and may not; `too_large`, `no_space`, `exhausted`, `timeout`.
    pub async fn import(&self, name: Option<String>, body: Body) -> Result<Snapshot, Failure> {
        if let Some(name) = &name {
            check::name("name", name)?;
        }
        self.refuse_when_stopping()?;
        let place = self.transfer_place()?;
        let this = self.clone();
        to_the_end(async move {
            let mut incoming = Incoming::new(body, this.import_bytes_max);
            let header = incoming.header().await?;
            check_header(&header)?;
            let imported = this.take_in(name, header, incoming).await;
            drop(place);
            imported
        })
        .await
    }

    async fn take_in(&self, name: Option<String>, header: Header, incoming: Incoming) -> Result<Snapshot, Failure> {
        let snapshot = Snapshot {
            id: new_id("sn")?,
            name: name.or(header.name),
            sandbox: header.sandbox,
            image: ImageSource::Name(header.below.image.clone()),
            created_ms: self.clock.now_ms(),
            memory: false,
            exclusive_bytes: None,
            digest: None,
        };
        let id = snapshot.id.clone();
        let (reader, writer) = pipe()?;
        let writer = pipe::Sender::from_owned_fd(writer).map_err(|error| broken_pipe(&error))?;
        let image = header.below.image.clone();
        let mut record = SnapshotRecord { snapshot, image, complete: false, made_under: None };
        self.store.put_snapshot(&record).await?;
        crash::point("import.after_intent");
        let whole = Box::pin(incoming.tree(writer));
        let made = async {
            let (image, tree) = self.substrate.import(&id, &header.below, reader, whole).await?;
            crash::point("import.after_snapshot");
            record.snapshot.image = ImageSource::Name(image.clone());
            record.snapshot.digest = Some(format!("sha256:{}", tree.digest));
            (record.image, record.complete) = (image, true);
            self.store.put_snapshot(&record).await?;
            tracing::info!(snapshot = id, from = header.snapshot, digest = tree.digest, bytes = tree.bytes, "imported");
            Ok(record.snapshot)
        };
        match made.await {
            Ok(snapshot) => Ok(snapshot),
            Err(failure) => {
                tracing::warn!(snapshot = id, error = %failure, "an import did not come to its end");
                if let Err(error) = self.undo_import(&id).await {
                    tracing::warn!(snapshot = id, %error, "failed to remove what is left of an import; it is tried again");
                    let this = self.clone();
                    tokio::spawn(async move { this.undo_import_later(&id).await });
                }
                Err(failure)
            }
        }
    }

    async fn undo_import(&self, id: &str) -> Result<(), Failure> {
        self.substrate.remove_snapshot(id).await?;
        self.store.remove_snapshot(id).await?;
        self.forget_imports().await
    }

    /// A disk that is full has room again when what filled it is removed, which goes on in the background.
    async fn undo_import_later(&self, id: &str) {
        for _ in 0..IMPORT_UNDO_TRIES {
            tokio::time::sleep(IMPORT_UNDO_RETRY).await;
            if self.undo_import(id).await.is_ok() {
                return;
            }
        }
        tracing::error!(snapshot = id, "what is left of an import is removed at the next start");
    }

    /// Forgets what imported snapshots started from and nobody uses any more.
    pub(super) async fn forget_imports(&self) -> Result<(), Failure> {
        let mut users = Users::default();
        for record in self.store.snapshots().await? {
            users.snapshots.insert(record.snapshot.id);
            users.images.insert(record.image);
        }
        let alive = self.all().into_iter().filter(|cell| cell.state() != State::Gone);
        users.images.extend(alive.map(|cell| cell.read(|record| record.image.clone())));
        let left = self.substrate.forget_imports(&users).await?;
        *self.left_over.lock().unwrap_or_else(PoisonError::into_inner) = left;
        Ok(())
    }

    /// The same after the end of a sandbox, where it may have been the last one to use such a thing.
    pub(super) async fn forget_import_of(&self, image: &str) {
        let waits = |left: &HashSet<String>| left.contains(image);
        if waits(&self.left_over.lock().unwrap_or_else(PoisonError::into_inner))
            && let Err(error) = self.forget_imports().await
        {
            // The next one, or the next start, tries again.
            tracing::warn!(image, %error, "failed to forget what an imported snapshot started from");
        }
    }

    fn transfer_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.transfers).try_acquire_owned().map_err(|_| {
            Failure::new(Code::Exhausted, format!("{TRANSFERS_MAX} snapshots are exported or imported already"))
                .with("limit", TRANSFERS_MAX)
                .with("retry_after_s", 1)
        })
    }
}

/// Whether what a file says of its snapshot can be so.
fn check_header(header: &Header) -> Result<(), Failure> {
    if let Some(name) = &header.name {
        check::name("snapshot.name", name)?;
    }
    let texts = [("snapshot", &header.snapshot), ("sandbox", &header.sandbox), ("image", &header.below.image)];
    for (field, text) in texts {
        if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            let message = format!("1 to {NAME_BYTES_MAX} bytes without control characters are needed");
            return Err(Failure::invalid(&format!("snapshot.{field}"), message));
        }
    }
    let here = std::env::consts::ARCH;
    if header.architecture != here {
        let message = format!("the snapshot holds programs for {:?}, and this host is {here:?}", header.architecture);
        return Err(Failure::unsupported("architecture", message).with("architecture", &header.architecture));
    }
    Ok(())
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| broken_pipe(&error.into()))
}

fn broken_pipe(error: &std::io::Error) -> Failure {
    Failure::new(Code::Internal, format!("failed to make a pipe to move a snapshot: {error}"))
}
