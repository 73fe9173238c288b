//! The `agent.yaml` of a measurement.
//!
//! It is as small as the measurement allows; what is not written is Mote's default.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What differs between measurements.
#[derive(Debug, Clone, Default)]
pub(super) struct Agent<'a> {
    /// The fake model's URL.
    pub(super) model_url: &'a str,
    /// The fake model's name: it says how it behaves.
    pub(super) model: &'a str,
    /// Tools, as YAML list items.
    pub(super) tools: &'a str,
    /// Runs at once; Mote's default if absent.
    pub(super) runs: Option<u64>,
}

impl Agent<'_> {
    /// Writes it into the folder.
    pub(super) fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("agent.yaml");
        std::fs::write(&path, self.yaml()).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }

    fn yaml(&self) -> String {
        let mut yaml = format!(
            "apiVersion: mote/v1\nkind: Agent\nname: bench\nversion: 1.0.0\ndescription: Answers, for a bench.\n\
             prompt: You answer in one sentence.\nmodel:\n  provider: openai\n  name: {}\n  base_url: {}/v1\n  timeout: 1h\n  \
             idle_timeout: 1h\nlimits: {{active: 2h, expires: 1d, tool_attempts: 1}}\ntelemetry: {{log: warn}}\n",
            self.model, self.model_url
        );
        if !self.tools.is_empty() {
            write!(yaml, "tools:\n{}", self.tools).ok();
        }
        if let Some(runs) = self.runs {
            writeln!(yaml, "server: {{runs: {runs}}}").ok();
        }
        yaml
    }
}
