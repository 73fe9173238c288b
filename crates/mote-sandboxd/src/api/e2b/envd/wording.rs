//! Failures of the guest in the words and codes of E2B's `envd`: clients, and those who search for an error, know them.
//!
//! It changes only what `envd` has words for; everything else stays as the guest said it.

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::Selector;

use crate::api::e2b::ended::ENDED;

/// `ENOENT` and `ENOTDIR`, the same on every architecture (`errno(3)`).
const NO_ENTRY: &str = "2";
const NO_DIRECTORY: &str = "20";

fn is(failure: &Failure, key: &str, value: &str) -> bool {
    failure.context.get(key).is_some_and(|found| found == value)
}

fn fact<'a>(failure: &'a Failure, key: &str) -> &'a str {
    failure.context.get(key).map_or("", String::as_str)
}

fn said(failure: Failure, code: Code, message: String) -> Failure {
    Failure { code, message, ..failure }
}

/// A path that is not there.
fn is_missing(failure: &Failure) -> bool {
    failure.code == Code::NotFound && is(failure, "errno", NO_ENTRY) && !failure.context.contains_key("kind")
}

/// A user that is not there, by RPC.
fn user(failure: Failure) -> Failure {
    if failure.code != Code::NotFound || !is(&failure, "kind", "user") {
        return failure;
    }
    let message = format!("invalid username: '{}'", fact(&failure, "id"));
    said(failure, Code::Unauthenticated, message)
}

/// Of `filesystem.Filesystem/Stat`.
pub(super) fn stat(failure: Failure) -> Failure {
    if is_missing(&failure) {
        let message = format!("file not found: lstat {}: no such file or directory", fact(&failure, "path"));
        return said(failure, Code::NotFound, message);
    }
    user(failure)
}

/// Of `ListDir`.
pub(super) fn list(failure: Failure) -> Failure {
    let path = fact(&failure, "path").to_owned();
    if is_missing(&failure) {
        let message = format!("directory not found: lstat {path}: no such file or directory");
        return said(failure, Code::NotFound, message);
    }
    if is(&failure, "errno", NO_DIRECTORY) {
        return said(failure, Code::Invalid, format!("path is not a directory: {path}"));
    }
    user(failure)
}

/// Of `MakeDir`; `is_folder` tells what stands there already.
pub(super) fn make(failure: Failure, is_folder: bool) -> Failure {
    let path = fact(&failure, "path").to_owned();
    match failure.code {
        Code::Conflict if is_folder => said(failure, Code::Conflict, format!("directory already exists: {path}")),
        Code::Conflict => {
            said(failure, Code::Invalid, format!("path already exists but it is not a directory: {path}"))
        }
        _ => user(failure),
    }
}

/// Of `Move`.
pub(super) fn rename(failure: Failure, destination: &str) -> Failure {
    if is_missing(&failure) {
        let from = fact(&failure, "path");
        let message = format!("source file not found: rename {from} {destination}: no such file or directory");
        return said(failure, Code::NotFound, message);
    }
    user(failure)
}

/// Of `Remove`.
pub(super) fn remove(failure: Failure) -> Failure {
    user(failure)
}

/// Of watches.
pub(super) fn watch(failure: Failure) -> Failure {
    let path = fact(&failure, "path").to_owned();
    if is_missing(&failure) {
        let message = format!("path {path} not found: stat {path}: no such file or directory");
        return said(failure, Code::NotFound, message);
    }
    if is(&failure, "errno", NO_DIRECTORY) {
        return said(failure, Code::Invalid, format!("path {path} not a directory"));
    }
    user(failure)
}

/// Of `/files`.
pub(super) fn file(failure: Failure) -> Failure {
    if failure.code == Code::NotFound && is(&failure, "kind", "user") {
        let name = fact(&failure, "id");
        let message = format!("error looking up user '{name}': user: unknown user {name}");
        return said(failure, Code::Unauthenticated, message);
    }
    let path = fact(&failure, "path").to_owned();
    if is_missing(&failure) {
        return said(failure, Code::NotFound, format!("path '{path}' does not exist"));
    }
    if is(&failure, "kind", "directory") {
        return said(failure, Code::Invalid, format!("path '{path}' is a directory"));
    }
    failure
}

/// Of a form or a body that becomes a file.
pub(super) fn upload(failure: Failure) -> Failure {
    if is(&failure, "kind", "directory") {
        let message = format!("path is a directory: {}", fact(&failure, "path"));
        return said(failure, Code::Invalid, message);
    }
    if failure.code == Code::NoSpace {
        return said(failure, Code::NoSpace, "not enough disk space available".to_owned());
    }
    if is(&failure, "field", "metadata") {
        let message = format!("invalid metadata: {}", failure.message);
        return said(failure, Code::Invalid, message);
    }
    file(failure)
}

/// Of a process that is started.
pub(super) fn start(failure: Failure) -> Failure {
    let id = fact(&failure, "id").to_owned();
    if is(&failure, "kind", "cwd") && failure.code == Code::NotFound {
        return said(failure, Code::Invalid, format!("cwd '{id}' does not exist"));
    }
    if is(&failure, "kind", "program") && matches!(failure.code, Code::NotFound | Code::Forbidden) {
        let why = if failure.code == Code::NotFound { "no such file or directory" } else { "permission denied" };
        return said(failure, Code::Invalid, format!("error starting process '{id}': fork/exec {id}: {why}"));
    }
    user(failure)
}

/// Of a process that is looked for.
pub(super) fn process(failure: Failure, selector: &Selector) -> Failure {
    if failure.code != Code::NotFound || !is(&failure, "kind", "process") {
        return failure;
    }
    let message = match selector {
        Selector::Pid(pid) => format!("process with pid {pid} not found"),
        Selector::Tag(tag) => format!("process with tag {tag} not found"),
    };
    said(failure, Code::NotFound, message)
}

/// Of a stream whose sandbox ended while it ran.
pub(super) fn stream(failure: Failure, sandbox: &str) -> Failure {
    if failure.code != Code::Gone {
        return failure;
    }
    said(failure, Code::Gone, format!("the connection to sandbox {sandbox} {ENDED}"))
}

/// The time of a call that is over.
pub(super) fn expired() -> Failure {
    Failure::new(Code::Timeout, "context deadline exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Failure {
        Failure::new(Code::NotFound, "failed to …").with("errno", NO_ENTRY).with("path", "/a")
    }

    #[test]
    fn what_is_not_there_is_said_as_envd_says_it() {
        let nothing = ": no such file or directory";
        assert_eq!(stat(missing()).message, format!("file not found: lstat /a{nothing}"));
        assert_eq!(list(missing()).message, format!("directory not found: lstat /a{nothing}"));
        assert_eq!(rename(missing(), "/b").message, format!("source file not found: rename /a /b{nothing}"));
        assert_eq!(watch(missing()).message, format!("path /a not found: stat /a{nothing}"));
        assert_eq!(file(missing()).message, "path '/a' does not exist");
        let nobody = || Failure::not_found("user", "eve");
        assert_eq!(stat(nobody()).message, "invalid username: 'eve'");
        assert_eq!(file(nobody()).message, "error looking up user 'eve': user: unknown user eve");
        assert_eq!(file(nobody()).code, Code::Unauthenticated);
        let pid = process(Failure::not_found("process", "7"), &Selector::Pid(7));
        assert_eq!((pid.code, pid.message.as_str()), (Code::NotFound, "process with pid 7 not found"));
    }

    #[test]
    fn what_is_there_is_said_as_envd_says_it() {
        let there = || Failure::new(Code::Conflict, "failed to …").with("errno", 17).with("path", "/a");
        assert_eq!(make(there(), true).message, "directory already exists: /a");
        assert_eq!(make(there(), false).code, Code::Invalid);
        let folder = || Failure::new(Code::Invalid, "failed to …").with("path", "/a").with("kind", "directory");
        assert_eq!(file(folder()).message, "path '/a' is a directory");
        assert_eq!(upload(folder()).message, "path is a directory: /a");
        let file = || Failure::new(Code::Invalid, "failed to …").with("errno", NO_DIRECTORY).with("path", "/a");
        assert_eq!(list(file()).message, "path is not a directory: /a");
    }

    #[test]
    fn a_working_directory_that_is_not_there_is_the_callers_fault() {
        let failure = Failure::new(Code::NotFound, "failed to …").with("kind", "cwd").with("id", "/none");
        let said = start(failure);
        assert_eq!((said.code, said.message.as_str()), (Code::Invalid, "cwd '/none' does not exist"));
    }
}
