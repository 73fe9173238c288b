//! A file's metadata: extended attributes below a prefix, which hold text (`xattr(7)`).
//!
//! It touches no other attribute. Filesystems without attributes have none, and keep none without a failure: so E2B's server
//! has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::METADATA_PREFIX;
use mote_sandbox_api::limits::{FILE_METADATA_BYTES_MAX, FILE_METADATA_NAME_BYTES_MAX};
use rustix::buffer::spare_capacity;
use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr, listxattr_query};
use rustix::io::Errno;

use crate::failure::{Result, failed};
use crate::limits::ATTRIBUTES_BYTES_MAX;

/// What a file has, as far as it is text and within the bound; nothing where that cannot be read.
pub(super) fn read(path: &Path) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    // Most files have no attribute at all, and then this is the only call.
    if listxattr_query(path).unwrap_or(0) == 0 {
        return metadata;
    }
    let mut names = Vec::with_capacity(ATTRIBUTES_BYTES_MAX);
    if listxattr(path, spare_capacity(&mut names)).is_err() {
        return metadata;
    }
    let mut left = FILE_METADATA_BYTES_MAX;
    for name in keys(&names) {
        let mut value = Vec::with_capacity(FILE_METADATA_BYTES_MAX);
        let Ok(_) = getxattr(path, name, spare_capacity(&mut value)) else { continue };
        let Ok(value) = String::from_utf8(value) else { continue };
        let Some(rest) = left.checked_sub(name.len() + value.len()) else { break };
        left = rest;
        metadata.insert(name[METADATA_PREFIX.len()..].to_owned(), value);
    }
    metadata
}

/// Makes this all the metadata of a file.
pub(super) fn replace(file: &File, path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
    let attempt = || -> std::result::Result<(), Errno> {
        let mut names = Vec::with_capacity(ATTRIBUTES_BYTES_MAX);
        flistxattr(file, spare_capacity(&mut names))?;
        for name in keys(&names).filter(|name| !metadata.contains_key(&name[METADATA_PREFIX.len()..])) {
            match fremovexattr(file, name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        for (key, value) in metadata {
            let name = format!("{METADATA_PREFIX}{key}");
            fsetxattr(file, name.as_str(), value.as_bytes(), XattrFlags::empty())?;
        }
        Ok(())
    };
    match attempt() {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(failed(format_args!("write the metadata of {path:?}"), errno).with("path", path.display())),
    }
}

/// Refuses what no filesystem would keep, before anything is written.
pub(super) fn check(metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut bytes = 0;
    for (key, value) in metadata {
        let name_bytes = METADATA_PREFIX.len() + key.len();
        if key.is_empty() || name_bytes > FILE_METADATA_NAME_BYTES_MAX || key.contains('\0') {
            let message = format_args!(
                "the key {key:?} must have 1 to {} bytes",
                FILE_METADATA_NAME_BYTES_MAX - METADATA_PREFIX.len()
            );
            return Err(Failure::invalid("metadata", message));
        }
        bytes += name_bytes + value.len();
    }
    if bytes > FILE_METADATA_BYTES_MAX {
        let message = format!("metadata of {bytes} bytes is longer than {FILE_METADATA_BYTES_MAX}");
        return Err(Failure::new(Code::Invalid, message)
            .with("field", "metadata")
            .with("limit", FILE_METADATA_BYTES_MAX));
    }
    Ok(())
}

/// Names of a list that are metadata and text.
fn keys(names: &[u8]) -> impl Iterator<Item = &str> {
    let names = names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    names.filter(|name| name.starts_with(METADATA_PREFIX) && name.len() > METADATA_PREFIX.len())
}
