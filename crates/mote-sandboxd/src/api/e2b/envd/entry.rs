//! What stands at a path, as `envd` tells it.
//!
//! It asks the guest nothing.

use mote_sandbox_api::guest::{Entry, EntryKind};
use serde_json::{Value, json};

use crate::api::e2b::timestamp::rfc3339;

/// Bytes that a directory takes at least, and its unit: as ext4 tells them, which E2B's sandboxes have. Other filesystems call an
/// empty directory empty.
const FOLDER_BYTES: u64 = 4096;
/// Permission bits of a symbolic link.
const LINK_MODE: u32 = 0o120_777;

/// `filesystem.EntryInfo` in JSON: of a symbolic link the kind and the mode are those of what it leads to, all else is the
/// link's own.
pub(super) fn info(entry: &Entry) -> Value {
    let (size, owner, group, modified_ms) = match &entry.symlink {
        Some(link) => (link.size, &link.owner, &link.group, link.modified_ms),
        None => (size(entry), &entry.owner, &entry.group, entry.modified_ms),
    };
    let leads_nowhere = entry.kind == EntryKind::Symlink;
    let mut told = json!({
        "name": entry.name,
        "type": kind(entry.kind),
        "path": entry.path,
        // 64-bit numbers are text in the JSON of protocol buffers.
        "size": size.to_string(),
        "mode": if leads_nowhere { 0 } else { entry.mode & 0o777 },
        "permissions": permissions(if entry.symlink.is_some() { LINK_MODE } else { entry.mode }),
        "owner": owner,
        "group": group,
        "modifiedTime": rfc3339(modified_ms),
    });
    if let Some(link) = &entry.symlink {
        told["symlinkTarget"] = link.resolved.as_deref().unwrap_or(&entry.path).into();
        told["isSymlink"] = true.into();
    }
    if !entry.metadata.is_empty() {
        told["metadata"] = json!(entry.metadata);
    }
    told
}

fn size(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::Directory => entry.size.max(1).div_ceil(FOLDER_BYTES).saturating_mul(FOLDER_BYTES),
        _ => entry.size,
    }
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "FILE_TYPE_FILE",
        EntryKind::Directory => "FILE_TYPE_DIRECTORY",
        EntryKind::Symlink | EntryKind::Other => "FILE_TYPE_UNSPECIFIED",
    }
}

/// The mode in the letters of Go's `io/fs` (`FileMode.String`), which `envd` is written in: a letter for each property, or `-`.
fn permissions(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => "d",
        0o120_000 => "L",
        0o060_000 | 0o020_000 => "D",
        0o010_000 => "p",
        0o140_000 => "S",
        _ => "",
    };
    let flags = [
        ("u", mode & 0o4000 != 0),
        ("g", mode & 0o2000 != 0),
        ("c", mode & 0o170_000 == 0o020_000),
        ("t", mode & 0o1000 != 0),
    ];
    let mut text = kind.to_owned();
    text.extend(flags.into_iter().filter(|(_, is_set)| *is_set).map(|(letter, _)| letter));
    if text.is_empty() {
        text.push('-');
    }
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    text.extend(bits.map(|(bit, letter)| if mode >> bit & 1 == 1 { letter } else { '-' }));
    text
}

/// What `/files` tells of a file that was written.
pub(super) fn written(entry: &Entry) -> Value {
    let mut told = json!({ "name": entry.name, "type": "file", "path": entry.path });
    if !entry.metadata.is_empty() {
        told["metadata"] = json!(entry.metadata);
    }
    told
}

#[cfg(test)]
mod tests {
    use mote_sandbox_api::guest::Symlink;

    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "a".into(),
            path: "/a".into(),
            path_base64: None,
            kind: EntryKind::File,
            size: 5,
            mode: 0o100_640,
            owner: "user".into(),
            group: "user".into(),
            modified_ms: 0,
            link: None,
            link_base64: None,
            symlink: None,
            metadata: Default::default(),
        }
    }

    fn link(resolved: Option<&str>) -> Option<Symlink> {
        let resolved = resolved.map(str::to_owned);
        Some(Symlink { resolved, size: 2, owner: "root".into(), group: "root".into(), modified_ms: 0 })
    }

    #[test]
    fn an_entry_reads_as_the_sdk_expects_it() {
        let told = info(&entry());
        assert_eq!(told["permissions"], "-rw-r-----");
        assert_eq!((&told["size"], &told["mode"]), (&json!("5"), &json!(0o640)));
        assert_eq!((told.get("symlinkTarget"), told.get("metadata")), (None, None));
        let marked = Entry { metadata: [("k".to_owned(), "v".to_owned())].into(), ..entry() };
        assert_eq!(
            (&info(&marked)["metadata"], &written(&marked)["metadata"]),
            (&json!({"k": "v"}), &json!({"k": "v"}))
        );
    }

    #[test]
    fn a_link_is_told_with_where_it_leads_in_the_end() {
        let told = info(&Entry { kind: EntryKind::Directory, mode: 0o040_755, symlink: link(Some("/c")), ..entry() });
        assert_eq!((&told["type"], &told["symlinkTarget"]), (&json!("FILE_TYPE_DIRECTORY"), &json!("/c")));
        assert_eq!((&told["mode"], &told["permissions"]), (&json!(0o755), &json!("Lrwxrwxrwx")));
        assert_eq!((&told["size"], &told["owner"]), (&json!("2"), &json!("root")));
        let lost = info(&Entry { kind: EntryKind::Symlink, mode: 0o120_777, symlink: link(None), ..entry() });
        assert_eq!((&lost["type"], &lost["symlinkTarget"]), (&json!("FILE_TYPE_UNSPECIFIED"), &json!("/a")));
        assert_eq!(lost["mode"], 0);
    }

    #[test]
    fn a_directory_has_a_size_on_every_filesystem() {
        let of = |size| info(&Entry { kind: EntryKind::Directory, mode: 0o041_777, size, ..entry() });
        assert_eq!((&of(0)["size"], &of(0)["permissions"]), (&json!("4096"), &json!("dtrwxrwxrwx")));
        assert_eq!(of(4097)["size"], "8192");
    }
}
