//! `run.yaml`: what a developer's `mote run` needs beside agent.yaml: services to start, an input, live models.
//!
//! Only `mote run` reads it. A service never does: what an agent may do stands in agent.yaml alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mote::config::ModelChoice;
use mote::limits::CONFIG_BYTES_MAX;
use mote::secret::Secret;
use serde::Deserialize;

use super::exit::Exit;

/// The file's content.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    /// The task if the command line gives none.
    #[serde(default)]
    pub(crate) input: Option<String>,
    /// Services that the agent's tools need.
    #[serde(default)]
    pub(crate) services: Vec<ServiceSpec>,
    /// Models to ask instead of agent.yaml's: the first whose key is set.
    #[serde(default)]
    pub(crate) live: Vec<LiveModel>,
    /// The folder of the file.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

/// A service that runs as long as the run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceSpec {
    /// Its name, for messages and for its log.
    pub(crate) name: String,
    /// Program and arguments; started in the folder of run.yaml.
    pub(crate) command: Vec<String>,
    /// A URL that answers 2xx once the service is ready. Without it the service counts as ready at once.
    #[serde(default)]
    pub(crate) ready: Option<String>,
    /// Environment variables beside the inherited ones.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
}

/// A live model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LiveModel {
    /// `PROVIDER/NAME`.
    model: String,
    /// The environment variable that holds the key.
    key: String,
    /// The endpoint; the provider's own without it.
    #[serde(default)]
    base_url: Option<String>,
    /// `INPUT,OUTPUT` in USD per million tokens, for a model that the built-in table does not know.
    #[serde(default)]
    price: Option<String>,
}

impl RunFile {
    /// The `run.yaml` beside an agent.yaml; an empty one if there is none.
    pub(crate) fn beside(agent: &Path) -> Result<Self, Exit> {
        let agent = mote::config::file_of(agent);
        let folder = agent.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let path = folder.join("run.yaml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) if text.len() <= CONFIG_BYTES_MAX => text,
            Ok(_) => return Err(Exit::usage(format!("{} is larger than {CONFIG_BYTES_MAX} bytes", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { folder: folder.to_owned(), ..Self::default() });
            }
            Err(error) => return Err(Exit::usage(format!("failed to read {}: {error}", path.display()))),
        };
        let mut file: Self = serde_saphyr::from_str(&text)
            .map_err(|error| Exit::usage(format!("failed to read {}: {}", path.display(), error.without_snippet())))?;
        if let Some(service) = file.services.iter().find(|service| service.command.is_empty()) {
            return Err(Exit::usage(format!("{}: service {:?} has an empty command", path.display(), service.name)));
        }
        file.folder = folder.to_owned();
        Ok(file)
    }

    /// The first live model whose key is set.
    pub(crate) fn live_model(&self) -> Result<Option<ModelChoice>, String> {
        for live in &self.live {
            if Secret::Env(live.key.clone()).read().is_ok() {
                let origin = format!("{}: live: {}", self.folder.join("run.yaml").display(), live.model);
                let blamed = |error: String| format!("{origin}: {error}");
                let mut choice = ModelChoice::parse(&live.model, live.base_url.clone()).map_err(blamed)?;
                choice.key_variable = Some(live.key.clone());
                choice.price = live.price.as_deref().map(ModelChoice::parse_price).transpose().map_err(blamed)?;
                choice.origin = origin;
                return Ok(Some(choice));
            }
        }
        Ok(None)
    }

    /// What to set for a live model, one suggestion a line.
    pub(crate) fn live_hint(&self) -> String {
        let mut lines: Vec<String> =
            self.live.iter().map(|live| format!("  export {}=…   to ask {}", live.key, live.model)).collect();
        lines.push(
            "  --model openai/NAME --base-url http://127.0.0.1:11434/v1   for any OpenAI-compatible endpoint"
                .to_owned(),
        );
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickstart_brings_its_backend_and_an_input() {
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart");
        let file = RunFile::beside(&quickstart).unwrap();
        assert!(file.input.is_some());
        let backend = &file.services[0];
        assert!(quickstart.join(&backend.command[1]).is_file() && backend.ready.is_some());
        assert!(file.live_hint().contains("ANTHROPIC_API_KEY") && file.live_hint().contains("OPENAI_API_KEY"));
        assert!(file.live.iter().all(|live| ModelChoice::parse(&live.model, None).is_ok()));
    }

    #[test]
    fn a_missing_file_is_an_empty_one_and_a_wrong_one_is_named() {
        let folder = std::env::temp_dir().join(format!("mote-run-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert!(RunFile::beside(&folder.join("agent.yaml")).unwrap().services.is_empty());
        std::fs::write(folder.join("run.yaml"), "services:\n  - nam: x\n").unwrap();
        let error = format!("{:?}", RunFile::beside(&folder.join("agent.yaml")).unwrap_err());
        assert!(error.contains("run.yaml") && error.contains("nam"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
