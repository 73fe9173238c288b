//! `file_read`, `file_list`, `file_write`, `file_edit`: text files inside.
//!
//! Paths mean what they mean inside: the daemon opens them there, in the sandbox's own name.

use mote_sandbox_api::guest::{Entry, EntryKind};
use mote_sandbox_api::request::Page;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Work, Worked};
use crate::limits::{SANDBOX_ANSWER_BYTES_MAX, SANDBOX_EDIT_BYTES_MAX, SANDBOX_GRACE, SANDBOX_LISTING_BYTES_MAX};

/// Room for the line that says that a file goes on.
const REST_BYTES: usize = 80;

pub(super) async fn read(work: &Work<'_>) -> Worked {
    let daemon = &work.sandboxes.daemon;
    let room = work.output_max().saturating_sub(REST_BYTES).max(1);
    let length =
        work.number("length").map_or(room, |asked| usize::try_from(asked).map_or(room, |asked| asked.min(room)));
    let offset = work.number("offset").unwrap_or(0);
    // One more byte than is shown tells whether there is more.
    let query = format!("&offset={offset}&length={}", length + 1);
    let response = work.send(work.file(Method::GET, "", &query)?.timeout(SANDBOX_GRACE)).await?;
    let (mut bytes, _) = daemon.bytes(response, length + 1).await?;
    let more = bytes.len() > length;
    bytes.truncate(length);
    if bytes.contains(&0) {
        return Ok(Answer::text("(the file is not text: it has zero bytes; look at it with a program)"));
    }
    let mut text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let bytes = error.into_bytes();
            // A character that the bound cuts in two is read with what follows.
            let keep = if more && bytes.len() - valid < 4 { valid } else { bytes.len() };
            String::from_utf8_lossy(&bytes[..keep]).into_owned()
        }
    };
    if more {
        let next = offset + text.len() as u64;
        text.push_str(&format!("\n[the file goes on: read on with offset {next}]"));
    }
    Ok(Answer::text(text))
}

pub(super) async fn list(work: &Work<'_>) -> Worked {
    let daemon = &work.sandboxes.daemon;
    let depth = work.number("depth").unwrap_or(1);
    let request = work.file(Method::GET, "/list", &format!("&depth={depth}"))?.timeout(SANDBOX_GRACE);
    let response = work.send(request).await?;
    let (bytes, more) = daemon.bytes(response, SANDBOX_LISTING_BYTES_MAX).await?;
    if more {
        return Ok(Answer::refused("there are too many entries: list fewer levels, or a directory below"));
    }
    let page: Page<Entry> = serde_json::from_slice(&bytes).map_err(|error| daemon.broken(error))?;
    Ok(Answer::fields(listing(&page.items, work.output_max())))
}

fn listing(entries: &[Entry], output_max: usize) -> Value {
    let mut shown = Vec::new();
    let mut room = output_max.saturating_sub(REST_BYTES);
    for entry in entries {
        let kind = match entry.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Other => "other",
        };
        let mut told = json!({"path": entry.path, "kind": kind});
        if entry.kind == EntryKind::File {
            told["size"] = entry.size.into();
        }
        let bytes = told.to_string().len() + 1;
        if bytes > room {
            break;
        }
        room -= bytes;
        shown.push(told);
    }
    let left_out = entries.len() - shown.len();
    let mut fields = json!({"entries": shown});
    if left_out > 0 {
        fields["left_out"] = left_out.into();
    }
    fields
}

pub(super) async fn write(work: &Work<'_>) -> Worked {
    let mode = match work.invocation.arguments["executable"].as_bool() {
        Some(true) => "&mode=755",
        Some(false) => "&mode=644",
        None => "",
    };
    let entry = put(work, mode, work.argument("content").to_owned()).await?;
    Ok(Answer::fields(json!({"path": entry.path, "size": entry.size})))
}

async fn put(work: &Work<'_>, query: &str, content: String) -> Result<Entry, super::Trouble> {
    let daemon = &work.sandboxes.daemon;
    let request = work.file(Method::PUT, "", query)?.body(content).timeout(SANDBOX_GRACE);
    daemon.json(work.send(request).await?, SANDBOX_ANSWER_BYTES_MAX).await
}

pub(super) async fn edit(work: &Work<'_>) -> Worked {
    let daemon = &work.sandboxes.daemon;
    let response = work.send(work.file(Method::GET, "", "")?.timeout(SANDBOX_GRACE)).await?;
    let (bytes, more) = daemon.bytes(response, SANDBOX_EDIT_BYTES_MAX).await?;
    if more {
        let message = format!("the file is longer than {SANDBOX_EDIT_BYTES_MAX} bytes: edit it with a program");
        return Ok(Answer::refused(message));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Ok(Answer::refused("the file is not text: edit it with a program"));
    };
    let all = work.invocation.arguments["all"].as_bool() == Some(true);
    match replaced(&text, work.argument("old"), work.argument("new"), all) {
        Ok((text, count)) => {
            let entry = put(work, "", text).await?;
            Ok(Answer::fields(json!({"path": entry.path, "size": entry.size, "replaced": count})))
        }
        Err(message) => Ok(Answer::refused(message)),
    }
}

fn replaced(text: &str, old: &str, new: &str, all: bool) -> Result<(String, usize), String> {
    match text.matches(old).count() {
        0 => Err("the old text does not stand in the file: nothing was changed".to_owned()),
        1 => Ok((text.replacen(old, new, 1), 1)),
        count if all => Ok((text.replace(old, new), count)),
        count => Err(format!(
            "the old text stands in the file {count} times: nothing was changed; give more of what is around it, or set `all`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_exact() {
        assert_eq!(replaced("a b", "b", "c", false), Ok(("a c".to_owned(), 1)));
        assert_eq!(replaced("b b", "b", "c", true), Ok(("c c".to_owned(), 2)));
        assert!(replaced("b b", "b", "c", false).unwrap_err().contains("2 times"));
        assert!(replaced("a", "b", "c", true).unwrap_err().contains("nothing was changed"));
    }

    #[test]
    fn a_long_listing_says_what_is_left_out() {
        let entry = |name: &str| Entry {
            name: name.to_owned(),
            path: format!("/tmp/{name}"),
            kind: EntryKind::File,
            size: 3,
            mode: 0o100_644,
            owner: "user".to_owned(),
            group: "user".to_owned(),
            modified_ms: 0,
            link: None,
            link_base64: None,
            path_base64: None,
            symlink: None,
            metadata: Default::default(),
        };
        let entries: Vec<Entry> = (0..100).map(|n| entry(&n.to_string())).collect();
        let fields = listing(&entries, 1000);
        let shown = fields["entries"].as_array().unwrap().len();
        assert!(shown > 5 && fields.to_string().len() <= 1000, "{fields}");
        assert_eq!(fields["left_out"], 100 - shown);
        assert_eq!(listing(&entries[..1], 1000), json!({"entries": [{"path": "/tmp/0", "kind": "file", "size": 3}]}));
    }
}
