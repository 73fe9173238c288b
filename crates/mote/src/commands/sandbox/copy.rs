//! `mote sandbox cp`: files and directories, in both directions.
//!
//! Directories go file by file; links inside them stay links, and what can be neither is named. What a sandbox names is a
//! stranger's text: a name that would leave the destination is refused, and nothing is written through a link below it. Names
//! are bytes on both sides.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use mote_sandbox_api::guest::{Entry, EntryKind, RawPath, base64_unless_text};
use mote_sandbox_api::request::Page;
use reqwest::Method;
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::client::{Client, segment};
use super::of;
use crate::commands::exit::Exit;
use crate::commands::terminal::{Terminal, sanitized};

/// Copy files and directories between here and a sandbox
#[derive(Debug, clap::Args)]
pub(super) struct Copy {
    /// From: PATH, or SANDBOX:PATH
    source: OsString,
    /// To: PATH, or SANDBOX:PATH; where it is a directory that is there, into it
    destination: OsString,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    Sandbox { id: String, path: PathBuf },
}

/// `sb…:PATH` is in a sandbox, everything else is here; `./sb…:x` names a local file that looks like one.
fn place(text: &OsStr) -> Place {
    let bytes = text.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b':');
    let parts = at.map(|at| (std::str::from_utf8(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])));
    match parts {
        Some((Ok(id), path)) if id.starts_with("sb") && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            let path = if path.is_empty() { Path::new(".") } else { Path::new(path) };
            Place::Sandbox { id: id.to_owned(), path: path.to_owned() }
        }
        _ => Place::Here(PathBuf::from(text)),
    }
}

pub(super) async fn execute(copy: Copy, client: &Client, terminal: &mut Terminal) -> Result<(), Exit> {
    let mut copied = Copied::default();
    match (place(&copy.source), place(&copy.destination)) {
        (Place::Here(from), Place::Sandbox { id, path }) => {
            Upload { client, id, copied: &mut copied }.all(&from, path).await?;
        }
        (Place::Sandbox { id, path }, Place::Here(to)) => {
            Download { client, id, copied: &mut copied }.all(&path, to).await?;
        }
        _ => return Err(Exit::usage("one of the two must be SANDBOX:PATH, the other a path here")),
    }
    for path in &copied.skipped {
        terminal.note(&format!("not copied: {} is a device, a pipe or a socket", shown(path)))?;
    }
    let Copied { files, links, .. } = copied;
    let more = match links {
        0 => String::new(),
        1 => " and 1 link".to_owned(),
        links => format!(" and {links} links"),
    };
    terminal.note(&format!("{files} {}{more} copied", if files == 1 { "file" } else { "files" }))?;
    Ok(())
}

/// What became of a tree.
#[derive(Debug, Default)]
struct Copied {
    files: usize,
    links: usize,
    /// What is neither file, directory nor link.
    skipped: Vec<PathBuf>,
}

struct Upload<'a> {
    client: &'a Client,
    id: String,
    copied: &'a mut Copied,
}

impl Upload<'_> {
    async fn all(&mut self, from: &Path, to: PathBuf) -> Result<(), Exit> {
        let kind = std::fs::metadata(from).with_context(|| format!("failed to read {}", from.display()))?;
        let is_directory =
            to.as_os_str().as_bytes().ends_with(b"/") || to == Path::new(".") || self.is_directory(&to).await;
        let to = match from.file_name() {
            Some(name) if is_directory => to.join(name),
            _ => to,
        };
        if kind.is_file() {
            return self.file(from, &to).await;
        }
        if !kind.is_dir() {
            let message = format!("failed to copy {}: it is a device, a pipe or a socket", from.display());
            return Err(anyhow!(message).into());
        }
        let mut waiting = vec![(from.to_owned(), to)];
        while let Some((from, to)) = waiting.pop() {
            self.directory(&to).await?;
            let entries = std::fs::read_dir(&from).with_context(|| format!("failed to read {}", from.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("failed to read {}", from.display()))?;
                let (path, inside) = (entry.path(), to.join(entry.file_name()));
                let kind = entry.file_type().with_context(|| format!("failed to look at {}", path.display()))?;
                if kind.is_dir() {
                    waiting.push((path, inside));
                } else if kind.is_symlink() {
                    self.link(&path, &inside).await?;
                } else if kind.is_file() {
                    self.file(&path, &inside).await?;
                } else {
                    self.copied.skipped.push(path);
                }
            }
        }
        Ok(())
    }

    async fn entry(&self, path: &Path) -> Option<Entry> {
        self.client.ask(Method::GET, &of(&self.id, &format!("/files/stat?{}", query(path)))).await.ok()
    }

    async fn is_directory(&self, path: &Path) -> bool {
        self.entry(path).await.is_some_and(|entry| entry.kind == EntryKind::Directory)
    }

    async fn directory(&self, path: &Path) -> Result<(), Exit> {
        if self.is_directory(path).await {
            return Ok(());
        }
        let body = Value::Object(fields("path", path));
        self.client.tell::<Value>(Method::POST, &of(&self.id, "/files/directory"), &body).await.map(drop)
    }

    /// A link takes the place of a file or a link that is there, as a file would.
    async fn link(&mut self, from: &Path, to: &Path) -> Result<(), Exit> {
        let target = std::fs::read_link(from).with_context(|| format!("failed to read {}", from.display()))?;
        if self.entry(to).await.is_some_and(|entry| entry.link.is_some() || entry.kind != EntryKind::Directory) {
            let path = of(&self.id, &format!("/files?{}", query(to)));
            self.client.ask::<Value>(Method::DELETE, &path).await?;
        }
        let mut body = fields("path", to);
        body.extend(fields("to", &target));
        self.client.tell::<Value>(Method::POST, &of(&self.id, "/files/link"), &Value::Object(body)).await?;
        self.copied.links += 1;
        Ok(())
    }

    async fn file(&mut self, from: &Path, to: &Path) -> Result<(), Exit> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tokio::fs::File::open(from).await.with_context(|| format!("failed to read {}", from.display()))?;
        let mode = file.metadata().await?.permissions().mode() & 0o777;
        let path = of(&self.id, &format!("/files?{}&mode={mode:o}", query(to)));
        self.client.upload(&path, reqwest::Body::wrap_stream(ReaderStream::new(file))).await?;
        self.copied.files += 1;
        Ok(())
    }
}

struct Download<'a> {
    client: &'a Client,
    id: String,
    copied: &'a mut Copied,
}

impl Download<'_> {
    async fn all(&mut self, from: &Path, to: PathBuf) -> Result<(), Exit> {
        let stat = of(&self.id, &format!("/files/stat?{}", query(from)));
        let entry: Entry = self.client.ask(Method::GET, &stat).await?;
        let from = path_of(&entry)?;
        let to = if to.is_dir() { to.join(plain(name_of(&from))?) } else { to };
        match entry.kind {
            EntryKind::File => self.file(&entry, &to).await,
            EntryKind::Directory => self.directory(from, to).await,
            _ => {
                let message = format!("failed to copy {}: it is a device, a pipe or a socket", shown(&from));
                Err(anyhow!(message).into())
            }
        }
    }

    /// A directory at a time: one that may not be read is an error, not an empty one.
    async fn directory(&mut self, from: PathBuf, to: PathBuf) -> Result<(), Exit> {
        make_directory(&to)?;
        let (mut waiting, mut made) = (vec![(from, to)], Vec::new());
        while let Some((from, to)) = waiting.pop() {
            let list = of(&self.id, &format!("/files/list?{}", query(&from)));
            let listed: Page<Entry> = self.client.ask(Method::GET, &list).await?;
            for entry in &listed.items {
                let inside = path_of(entry)?;
                let below = inside.strip_prefix(&from);
                let name = plain(below.map_err(|_| anyhow!("{:?} is not below {from:?}", entry.path))?)?;
                let path = to.join(name);
                match (entry.kind, link_of(entry)?) {
                    (_, Some(target)) => self.link(&target, &path)?,
                    (EntryKind::Directory, None) => {
                        make_directory(&path)?;
                        made.push((path.clone(), entry.mode));
                        waiting.push((inside, path));
                    }
                    (EntryKind::File, None) => self.file(entry, &path).await?,
                    _ => self.copied.skipped.push(inside),
                }
            }
        }
        // Last, and the deepest first: one that may not be written to could not have been filled.
        for (path, mode) in made.into_iter().rev() {
            permit(&path, mode)?;
        }
        Ok(())
    }

    fn link(&mut self, target: &Path, path: &Path) -> Result<(), Exit> {
        make_way(path)?;
        std::os::unix::fs::symlink(target, path).with_context(|| format!("failed to make {}", path.display()))?;
        self.copied.links += 1;
        Ok(())
    }

    async fn file(&mut self, entry: &Entry, to: &Path) -> Result<(), Exit> {
        let response = self.client.download(&of(&self.id, &format!("/files?{}", query(&path_of(entry)?)))).await?;
        if let Some(above) = to.parent() {
            std::fs::create_dir_all(above).with_context(|| format!("failed to make {}", above.display()))?;
        }
        make_way(to)?;
        let failed = || format!("failed to write {}", to.display());
        let mut file = tokio::fs::File::create(to).await.with_context(failed)?;
        let mut bytes = response.bytes_stream();
        while let Some(bytes) = bytes.next().await {
            file.write_all(&bytes.context("the connection was lost")?).await.with_context(failed)?;
        }
        file.flush().await.with_context(failed)?;
        permit(to, entry.mode)?;
        self.copied.files += 1;
        Ok(())
    }
}

fn permit(path: &Path, mode: u32) -> Result<(), Exit> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777);
    Ok(std::fs::set_permissions(path, mode).with_context(|| format!("failed to set the mode of {}", path.display()))?)
}

/// Makes a directory; a link that stands there is not entered, wherever it leads.
fn make_directory(path: &Path) -> Result<(), Exit> {
    make_way(path)?;
    Ok(std::fs::create_dir_all(path).with_context(|| format!("failed to make {}", path.display()))?)
}

/// Removes a link from where something else is to stand: an earlier copy may have left it, to lead this one elsewhere.
fn make_way(path: &Path) -> Result<(), Exit> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        std::fs::remove_file(path).with_context(|| format!("failed to replace the link {}", path.display()))?;
    }
    Ok(())
}

/// The path of an entry, to the byte.
fn path_of(entry: &Entry) -> Result<PathBuf, Exit> {
    bytes_of("path_base64", Some(&entry.path), entry.path_base64.as_deref()).map(Option::unwrap_or_default)
}

fn link_of(entry: &Entry) -> Result<Option<PathBuf>, Exit> {
    bytes_of("link_base64", entry.link.as_deref(), entry.link_base64.as_deref())
}

fn bytes_of(field: &str, text: Option<&str>, base64: Option<&str>) -> Result<Option<PathBuf>, Exit> {
    let Some(base64) = base64 else { return Ok(text.map(PathBuf::from)) };
    let path = RawPath::from_base64(field, base64).map_err(|failure| anyhow!("the daemon's answer: {failure}"))?;
    Ok(Some(OsString::from_vec(path.as_bytes().to_vec()).into()))
}

/// A path as a query says it.
fn query(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    match base64_unless_text(bytes) {
        Some(base64) => format!("path_base64={}", segment(&base64)),
        None => format!("path={}", segment(&String::from_utf8_lossy(bytes))),
    }
}

/// A path as a body says it.
fn fields(name: &str, path: &Path) -> Map<String, Value> {
    let bytes = path.as_os_str().as_bytes();
    let (name, value) = match base64_unless_text(bytes) {
        Some(base64) => (format!("{name}_base64"), base64),
        None => (name.to_owned(), String::from_utf8_lossy(bytes).into_owned()),
    };
    Map::from_iter([(name, Value::String(value))])
}

fn shown(path: &Path) -> String {
    sanitized(&path.display().to_string())
}

fn name_of(path: &Path) -> &Path {
    path.file_name().map_or(Path::new(""), Path::new)
}

/// A relative path without `..`: it cannot leave the folder that it is joined to.
fn plain(path: &Path) -> Result<&Path, Exit> {
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
        let of = |text: &str| place(OsStr::new(text));
        assert_eq!(of("sb12ab:/etc"), Place::Sandbox { id: "sb12ab".to_owned(), path: "/etc".into() });
        assert_eq!(of("sb12ab:"), Place::Sandbox { id: "sb12ab".to_owned(), path: ".".into() });
        assert_eq!(of("./sb12ab:/etc"), Place::Here(PathBuf::from("./sb12ab:/etc")));
        assert_eq!(of("notes"), Place::Here(PathBuf::from("notes")));
        let bytes = OsStr::from_bytes(b"/\xff");
        assert_eq!(place(OsStr::from_bytes(b"sb1:/\xff")), Place::Sandbox { id: "sb1".to_owned(), path: bytes.into() });
    }

    #[test]
    fn a_name_from_inside_cannot_leave_the_destination() {
        for path in ["../x", "/etc/passwd", "a/../../x", "", "."] {
            assert!(plain(Path::new(path)).is_err(), "{path:?}");
        }
        assert!(plain(Path::new("a/b")).is_ok());
    }

    #[test]
    fn a_path_is_told_as_text_where_it_is_text() {
        assert_eq!(query(Path::new("/a b")), "path=%2Fa%20b");
        assert!(query(Path::new(OsStr::from_bytes(b"/\xff"))).starts_with("path_base64=L"));
        assert_eq!(fields("to", Path::new("x"))["to"], "x");
        assert_eq!(fields("to", Path::new(OsStr::from_bytes(b"\xff")))["to_base64"], "/w==");
    }
}
