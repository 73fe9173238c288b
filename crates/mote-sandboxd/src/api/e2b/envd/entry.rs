//! What stands at a path, as `envd` tells it.
//!
//! It asks the guest nothing.

use mote_sandbox_api::guest::{Entry, EntryKind};
use serde_json::{Value, json};

use crate::api::e2b::timestamp::rfc3339;

/// `filesystem.EntryInfo` in JSON.
pub(super) fn info(entry: &Entry) -> Value {
    let mut told = json!({
        "name": entry.name,
        "type": kind(entry.kind),
        "path": entry.path,
        // 64-bit numbers are text in the JSON of protocol buffers.
        "size": entry.size.to_string(),
        "mode": entry.mode & 0o7777,
        "permissions": permissions(entry),
        "owner": entry.owner,
        "group": entry.group,
        "modifiedTime": rfc3339(entry.modified_ms),
    });
    if let Some(link) = &entry.link {
        told["symlinkTarget"] = link.as_str().into();
        told["isSymlink"] = true.into();
    }
    told
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "FILE_TYPE_FILE",
        EntryKind::Directory => "FILE_TYPE_DIRECTORY",
        EntryKind::Symlink => "FILE_TYPE_SYMLINK",
        EntryKind::Other => "FILE_TYPE_UNSPECIFIED",
    }
}

/// As `ls -l` has it.
fn permissions(entry: &Entry) -> String {
    let first = match (entry.kind, &entry.link) {
        (_, Some(_)) | (EntryKind::Symlink, _) => 'l',
        (EntryKind::Directory, _) => 'd',
        _ => '-',
    };
    let bits = (0..9)
        .rev()
        .zip("rwxrwxrwx".chars())
        .map(|(bit, letter)| if entry.mode >> bit & 1 == 1 { letter } else { '-' });
    std::iter::once(first).chain(bits).collect()
}

/// What `/files` tells of a file that was written.
pub(super) fn written(entry: &Entry) -> Value {
    json!({ "name": entry.name, "type": "file", "path": entry.path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_as_the_sdk_expects_it() {
        let entry = Entry {
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
        };
        let told = info(&entry);
        assert_eq!(told["permissions"], "-rw-r-----");
        assert_eq!((&told["size"], &told["mode"]), (&json!("5"), &json!(0o640)));
        let link = Entry { kind: EntryKind::Directory, link: Some("/b".into()), ..entry };
        assert_eq!(info(&link)["type"], "FILE_TYPE_DIRECTORY");
        assert_eq!(info(&link)["symlinkTarget"], "/b");
    }
}
