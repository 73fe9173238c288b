//! `mote sandbox cp`: files and directories, in both directions.
//!
//! Directories go file by file. What a sandbox names is a stranger's text: a name that would leave the destination is
//! refused, and links are not followed on this side.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use mote_sandbox_api::guest::{Entry, EntryKind};
use mote_sandbox_api::limits::LIST_DEPTH_MAX;
use mote_sandbox_api::request::Page;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::client::{Client, segment};
use super::of;
use crate::commands::exit::Exit;
use crate::commands::terminal::Terminal;

/// Copy files and directories between here and a sandbox
#[derive(Debug, clap::Args)]
pub(super) struct Copy {
    /// From: PATH, or SANDBOX:PATH
    source: String,
    /// To: PATH, or SANDBOX:PATH; where it is a directory that is there, into it
    destination: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    Sandbox { id: String, path: String },
}

/// `sb…:PATH` is in a sandbox, everything else is here; `./sb…:x` names a local file that looks like one.
fn place(text: &str) -> Place {
    match text.split_once(':') {
        Some((id, path)) if id.starts_with("sb") && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            Place::Sandbox { id: id.to_owned(), path: if path.is_empty() { ".".to_owned() } else { path.to_owned() } }
        }
        _ => Place::Here(PathBuf::from(text)),
    }
}

pub(super) async fn execute(copy: Copy, client: &Client, terminal: &mut Terminal) -> Result<(), Exit> {
    let files = match (place(&copy.source), place(&copy.destination)) {
        (Place::Here(from), Place::Sandbox { id, path }) => Upload { client, id }.all(&from, path).await?,
        (Place::Sandbox { id, path }, Place::Here(to)) => Download { client, id }.all(&path, to).await?,
        _ => return Err(Exit::usage("one of the two must be SANDBOX:PATH, the other a path here")),
    };
    terminal.note(&format!("{files} {} copied", if files == 1 { "file" } else { "files" }))?;
    Ok(())
}

struct Upload<'a> {
    client: &'a Client,
    id: String,
}

impl Upload<'_> {
    async fn all(&self, from: &Path, to: String) -> Result<usize, Exit> {
        let kind = std::fs::metadata(from).with_context(|| format!("failed to read {}", from.display()))?;
        let name = from.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_directory = to.ends_with('/') || to == "." || self.is_directory(&to).await;
        let to = if is_directory && !name.is_empty() { format!("{}/{name}", to.trim_end_matches('/')) } else { to };
        if !kind.is_dir() {
            self.file(from, &to).await?;
            return Ok(1);
        }
        let (mut files, mut waiting) = (0, vec![(from.to_owned(), to)]);
        while let Some((from, to)) = waiting.pop() {
            self.directory(&to).await?;
            let entries = std::fs::read_dir(&from).with_context(|| format!("failed to read {}", from.display()))?;
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(|| anyhow!("the name {name:?} is not UTF-8"))?;
                let (path, inside) = (entry.path(), format!("{}/{name}", to.trim_end_matches('/')));
                // `metadata` follows links: what they lead to is copied, but a directory behind a link is not entered.
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    waiting.push((path, inside));
                } else if std::fs::metadata(&path).is_ok_and(|target| target.is_file()) {
                    self.file(&path, &inside).await?;
                    files += 1;
                }
            }
        }
        Ok(files)
    }

    async fn is_directory(&self, path: &str) -> bool {
        let path = of(&self.id, &format!("/files/stat?path={}", segment(path)));
        let entry = self.client.ask::<Entry>(Method::GET, &path).await;
        entry.is_ok_and(|entry| entry.kind == EntryKind::Directory)
    }

    async fn directory(&self, path: &str) -> Result<(), Exit> {
        if self.is_directory(path).await {
            return Ok(());
        }
        let body = json!({ "path": path });
        self.client.tell::<Value>(Method::POST, &of(&self.id, "/files/directory"), &body).await.map(drop)
    }

    async fn file(&self, from: &Path, to: &str) -> Result<(), Exit> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tokio::fs::File::open(from).await.with_context(|| format!("failed to read {}", from.display()))?;
        let mode = file.metadata().await?.permissions().mode() & 0o777;
        let path = of(&self.id, &format!("/files?path={}&mode={mode:o}", segment(to)));
        self.client.upload(&path, reqwest::Body::wrap_stream(ReaderStream::new(file))).await
    }
}

struct Download<'a> {
    client: &'a Client,
    id: String,
}

impl Download<'_> {
    async fn all(&self, from: &str, to: PathBuf) -> Result<usize, Exit> {
        let stat = of(&self.id, &format!("/files/stat?path={}", segment(from)));
        let entry: Entry = self.client.ask(Method::GET, &stat).await?;
        let to = if to.is_dir() { to.join(plain(&entry.name)?) } else { to };
        match entry.kind {
            EntryKind::File => {
                self.file(&entry, &to).await?;
                Ok(1)
            }
            EntryKind::Directory => self.directory(&entry.path, &to).await,
            _ => Err(Exit::usage(format!("{} is neither a file nor a directory", entry.path))),
        }
    }

    async fn directory(&self, from: &str, to: &Path) -> Result<usize, Exit> {
        let list = of(&self.id, &format!("/files/list?path={}&depth={LIST_DEPTH_MAX}", segment(from)));
        let listed: Page<Entry> = self.client.ask(Method::GET, &list).await?;
        std::fs::create_dir_all(to).with_context(|| format!("failed to make {}", to.display()))?;
        let mut files = 0;
        for entry in &listed.items {
            let inside = entry.path.strip_prefix(from).map(|path| path.trim_start_matches('/'));
            let path = to.join(plain(inside.ok_or_else(|| anyhow!("{:?} is not below {from:?}", entry.path))?)?);
            match entry.kind {
                EntryKind::Directory => {
                    std::fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?
                }
                EntryKind::File if entry.link.is_none() => {
                    self.file(entry, &path).await?;
                    files += 1;
                }
                _ => {}
            }
        }
        Ok(files)
    }

    async fn file(&self, entry: &Entry, to: &Path) -> Result<(), Exit> {
        use std::os::unix::fs::PermissionsExt as _;
        let response = self.client.download(&of(&self.id, &format!("/files?path={}", segment(&entry.path)))).await?;
        if let Some(above) = to.parent() {
            std::fs::create_dir_all(above).with_context(|| format!("failed to make {}", above.display()))?;
        }
        let failed = || format!("failed to write {}", to.display());
        let mut file = tokio::fs::File::create(to).await.with_context(failed)?;
        let mut bytes = response.bytes_stream();
        while let Some(bytes) = bytes.next().await {
            file.write_all(&bytes.context("the connection was lost")?).await.with_context(failed)?;
        }
        file.flush().await.with_context(failed)?;
        let mode = std::fs::Permissions::from_mode(entry.mode & 0o777);
        Ok(file.set_permissions(mode).await.with_context(failed)?)
    }
}

/// A relative path without `..`: it cannot leave the folder that it is joined to.
fn plain(path: &str) -> Result<&Path, Exit> {
    let path = Path::new(path);
    if path.components().all(|component| matches!(component, Component::Normal(_))) && path != Path::new("") {
        Ok(path)
    } else {
        Err(anyhow!("the sandbox names a path that leaves the destination: {path:?}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_in_a_sandbox_only_where_an_id_stands_before_the_colon() {
        assert_eq!(place("sb12ab:/etc"), Place::Sandbox { id: "sb12ab".to_owned(), path: "/etc".to_owned() });
        assert_eq!(place("sb12ab:"), Place::Sandbox { id: "sb12ab".to_owned(), path: ".".to_owned() });
        assert_eq!(place("./sb12ab:/etc"), Place::Here(PathBuf::from("./sb12ab:/etc")));
        assert_eq!(place("notes"), Place::Here(PathBuf::from("notes")));
    }

    #[test]
    fn a_name_from_inside_cannot_leave_the_destination() {
        for path in ["../x", "/etc/passwd", "a/../../x", "", "."] {
            assert!(plain(path).is_err(), "{path:?}");
        }
        assert!(plain("a/b").is_ok());
    }
}
