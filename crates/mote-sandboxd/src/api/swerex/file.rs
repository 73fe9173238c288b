//! Files: read and written as text, uploaded as they are or as an archive of a directory.
//!
//! An archive is unpacked inside, by what the image has: the daemon parses none.

use axum::Json;
use axum::extract::{FromRequest as _, Multipart, Request, State};
use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Exit, FileTarget, Start};
use serde_json::{Value, json};

use super::body::{Body, ReadFile, WriteFile};
use super::failure::Raised;
use super::{Caller, SweRex, unsupported};
use crate::api::native::exec::gathered;
use crate::clock::{hex, random};
use crate::guest::Guest;
use crate::limits::SWEREX_BODY_BYTES_MAX;

type Told = Result<Json<Value>, Raised>;

fn target(path: String) -> FileTarget {
    FileTarget::new(path, None)
}

pub(super) async fn read(State(state): State<SweRex>, Caller(sandbox): Caller, Body(wanted): Body<ReadFile>) -> Told {
    if let Some(encoding) = &wanted.encoding
        && !matches!(encoding.to_ascii_lowercase().as_str(), "utf-8" | "utf8" | "ascii")
    {
        return Err(unsupported("encoding", "files are read as UTF-8").into());
    }
    let bytes = state.guest(&sandbox).await?.read_whole(target(wanted.path.clone()), SWEREX_BODY_BYTES_MAX).await?;
    let content = match wanted.errors.as_deref() {
        None | Some("strict") => String::from_utf8(bytes.to_vec()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::new(Code::Invalid, format!("{} is not UTF-8 at byte {at}", wanted.path))
        })?,
        Some("replace") => String::from_utf8_lossy(&bytes).into_owned(),
        Some("ignore") => bytes.utf8_chunks().map(|chunk| chunk.valid()).collect(),
        Some(_) => return Err(unsupported("errors", "strict, replace and ignore are known").into()),
    };
    Ok(Json(json!({ "content": content })))
}

pub(super) async fn write(State(state): State<SweRex>, Caller(sandbox): Caller, Body(file): Body<WriteFile>) -> Told {
    let guest = state.guest(&sandbox).await?;
    guest.write_whole(target(file.path), None, file.content.into()).await?;
    Ok(Json(json!({})))
}

/// Takes what lies at the first path to the second: as it is, or unpacked where the third says so.
const PLACE: &str = r#"set -e
mkdir -p -- "$(dirname -- "$2")"
if [ "$3" != true ]; then exec mv -f -- "$1" "$2"; fi
trap 'rm -f -- "$1"' EXIT
mkdir -p -- "$2"
if command -v python3 >/dev/null; then python3 -m zipfile -e "$1" "$2"
elif command -v unzip >/dev/null; then unzip -oq "$1" -d "$2"
else echo 'neither python3 nor unzip is in the image' >&2; exit 1; fi"#;

/// The form's file comes before the fields that say where it goes: it waits inside, under a name of its own.
pub(super) async fn upload(State(state): State<SweRex>, Caller(sandbox): Caller, request: Request) -> Told {
    let guest = state.guest(&sandbox).await?;
    let staged = format!("/tmp/.swerex-{}", hex(&random::<8>()?));
    let placed = place(&guest, &staged, request).await;
    if placed.is_err() {
        // What did come is not left; where nothing came there is nothing to remove.
        let _ = guest.remove(target(staged)).await;
    }
    placed.map(|()| Json(json!({})))
}

async fn place(guest: &Guest, staged: &str, request: Request) -> Result<(), Raised> {
    let unreadable = |error: String| Failure::new(Code::Invalid, format!("failed to read the form: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| unreadable(error.body_text()))?;
    let (mut has_file, mut target_path, mut unzip) = (false, None, false);
    while let Some(part) = form.next_field().await.map_err(|error| unreadable(error.body_text()))? {
        match part.name() {
            Some("file") => {
                let contents = futures_util::TryStreamExt::map_err(part, |error| unreadable(error.body_text()));
                guest.write(target(staged.to_owned()), None, contents).await?;
                has_file = true;
            }
            Some("target_path") => {
                target_path = Some(part.text().await.map_err(|error| unreadable(error.body_text()))?);
            }
            Some("unzip") => {
                unzip = part.text().await.map_err(|error| unreadable(error.body_text()))?.eq_ignore_ascii_case("true");
            }
            _ => {}
        }
    }
    let Some(path) = target_path.filter(|path| has_file && !path.is_empty()) else {
        return Err(Failure::invalid("target_path", "the form has to hold file and target_path").into());
    };
    let argv = ["/bin/sh", "-c", PLACE, "sh", staged, &path, if unzip { "true" } else { "false" }];
    let argv = argv.map(str::to_owned).to_vec();
    let placed = gathered(guest, Start { argv, ..Start::default() }, None, None).await?;
    if placed.exit != Exit::Code(0) {
        return Err(Failure::new(Code::Invalid, format!("failed to place {path}: {}", placed.stderr.trim())).into());
    }
    Ok(())
}
