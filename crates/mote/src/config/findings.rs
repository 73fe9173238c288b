//! Collects diagnostics while a file is checked, so that every mistake is reported and none twice.
//!
//! It does not stop at an error; [`super::load`] does, once everything was looked at.

use super::diagnostic::{Diagnostic, FieldPath, Severity};
use super::document::{Node, Position};

/// The diagnostics of one file.
pub(super) struct Findings<'a> {
    document: &'a Node,
    list: Vec<Diagnostic>,
    broken: Vec<FieldPath>,
    /// Fields that the command line wrote, and the argument that did.
    flags: Vec<(FieldPath, String)>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(document: &'a Node) -> Self {
        Self { document, list: Vec::new(), broken: Vec::new(), flags: Vec::new() }
    }

    /// The command line wrote this field: mistakes in it are the argument's.
    pub(super) fn blame(&mut self, path: FieldPath, flag: &str) {
        self.flags.push((path, flag.to_owned()));
    }

    /// The argument that wrote the field, if one did; of a part of the file, only where it is named itself.
    pub(super) fn flag(&self, path: &FieldPath) -> Option<&str> {
        let written = |(field, _): &&(FieldPath, String)| field == path || (field.0.len() > 1 && field.contains(path));
        self.flags.iter().find(written).map(|(_, flag)| flag.as_str())
    }

    /// The field was replaced by a stand-in: it is reported once, and nothing more is said of what is inside.
    pub(super) fn broken(&mut self, path: &FieldPath, message: impl Into<String>, hint: Option<String>) {
        self.push(Severity::Error, self.document.locate(path), path, message.into(), hint);
        self.broken.push(path.clone());
    }

    /// A mistake at a position that is not the field's value (a key).
    pub(super) fn error_at(&mut self, at: Position, path: &FieldPath, message: String, hint: Option<String>) {
        self.push(Severity::Error, at, path, message, hint);
    }

    /// A mistake in a field.
    pub(super) fn error(&mut self, path: &FieldPath, message: impl Into<String>) {
        self.report(Severity::Error, path, message.into(), None);
    }

    /// A mistake in a field, and what to do about it.
    pub(super) fn error_hint(&mut self, path: &FieldPath, message: impl Into<String>, hint: impl Into<String>) {
        self.report(Severity::Error, path, message.into(), Some(hint.into()));
    }

    /// Advice for production.
    pub(super) fn warn(&mut self, path: &FieldPath, message: impl Into<String>, hint: impl Into<String>) {
        self.report(Severity::Warning, path, message.into(), Some(hint.into()));
    }

    /// Worth knowing.
    pub(super) fn note(&mut self, path: &FieldPath, message: impl Into<String>, hint: impl Into<String>) {
        self.report(Severity::Note, path, message.into(), Some(hint.into()));
    }

    /// Whether something of the field, above it or within it was replaced by a stand-in.
    pub(super) fn is_broken(&self, path: &FieldPath) -> bool {
        self.broken.iter().any(|broken| broken.contains(path) || path.contains(broken))
    }

    /// Whether the field as a whole was replaced by a stand-in.
    pub(super) fn is_replaced(&self, path: &FieldPath) -> bool {
        self.broken.contains(path)
    }

    /// Where the tool of this name is declared.
    pub(super) fn tool_path(&self, name: &str) -> Option<FieldPath> {
        let document = self.document.to_json();
        let tools = document.get("tools")?.as_array()?;
        let index = tools.iter().position(|tool| tool.get("name").and_then(serde_json::Value::as_str) == Some(name))?;
        Some(FieldPath::top("tools").index(index))
    }

    /// Where the sandbox is declared.
    pub(super) fn sandbox_path(&self) -> Option<FieldPath> {
        let document = self.document.to_json();
        let tools = document.get("tools")?.as_array()?;
        let index = tools.iter().position(|tool| tool.get("sandbox").is_some())?;
        Some(FieldPath::top("tools").index(index).key("sandbox"))
    }

    /// A diagnostic of a field, not kept.
    pub(super) fn at(mut self, severity: Severity, path: &FieldPath, message: String) -> Diagnostic {
        self.push(severity, self.document.locate(path), path, message.clone(), None);
        self.list.pop().unwrap_or_else(|| Diagnostic::of_file(message))
    }

    /// Fields that the command line wrote.
    pub(super) fn flags(&self) -> Vec<(FieldPath, String)> {
        self.flags.clone()
    }

    /// Whether an error was found.
    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Everything found, in the order of the file.
    pub(super) fn into_list(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        self.list
    }

    fn report(&mut self, severity: Severity, path: &FieldPath, message: String, hint: Option<String>) {
        if !self.broken.iter().any(|broken| broken.contains(path)) {
            self.push(severity, self.document.locate(path), path, message, hint);
        }
    }

    fn push(&mut self, severity: Severity, at: Position, path: &FieldPath, message: String, hint: Option<String>) {
        let flag = self.flag(path).map(str::to_owned);
        let at = if flag.is_some() { Position { line: 0, column: 0 } } else { at };
        let path = path.to_string();
        self.list.push(Diagnostic { severity, line: at.line, column: at.column, path, message, hint, flag });
    }
}
