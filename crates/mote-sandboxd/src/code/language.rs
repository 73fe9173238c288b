//! The languages: how each one's driver is started inside, and what it is fed.
//!
//! It does not talk to a driver: `context` does.

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::guest::Start;
use serde::{Deserialize, Serialize};

use super::TAG;

const PYTHON: &str = concat!(
    include_str!("charts.py"),
    "\n",
    include_str!("pretty.py"),
    "\n",
    include_str!("display.py"),
    "\n",
    include_str!("failure.py"),
    "\n",
    include_str!("cells.py"),
    "\n",
    include_str!("notebook.py"),
    "\n",
    include_str!("objects.py"),
    "\n",
    include_str!("kernel.py")
);
const JAVASCRIPT: &str = include_str!("kernel.js");

/// Reads the driver from standard input, whose first bytes it is, and runs it: the image need not hold it, and the list of
/// processes stays readable.
const PYTHON_LOADER: &str = "\
import os, sys
left = int(sys.argv[1])
source = b''
while left:
    chunk = os.read(0, left)
    if not chunk:
        os._exit(1)
    source += chunk
    left -= len(chunk)
del left, chunk
exec(compile(source, '<driver>', 'exec'), {'__name__': 'mote_driver'})
";

/// The same for Node. `import()` works in the text of `-e` alone, so that the driver is handed a way to it.
const JAVASCRIPT_LOADER: &str = "\
globalThis[Symbol.for('mote.import')] = (name) => import(name);
{
  const source = Buffer.alloc(Number(process.argv[1]));
  for (let at = 0; at < source.length;) {
    let bytes = 0;
    try {
      bytes = require('fs').readSync(4, source, at, source.length - at);
    } catch (error) {
      if (error.code === 'EAGAIN') continue;
      throw error;
    }
    if (bytes === 0) process.exit(1);
    at += bytes;
  }
  new Function('require', 'process', source.toString())(require, process);
}
";

/// Node cannot copy a descriptor: the shell puts the private ones in their places, and lets what children print go where
/// errors go.
const JAVASCRIPT_SHELL: &str = r#"exec 3>&1 4<&0 0</dev/null 1>&2; exec node -e "$0" -- "$1""#;

/// A language of contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Python 3.8 or later.
    Python,
    /// JavaScript, by Node 18 or later.
    #[serde(rename = "javascript")]
    JavaScript,
    /// Bash 4 or later.
    Bash,
}

impl Language {
    /// The language of a name; Python where there is none.
    ///
    /// # Errors
    /// `unsupported`, naming the language.
    pub fn named(name: Option<&str>) -> Result<Self, Failure> {
        match name.map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "python" | "python3") => Ok(Self::Python),
            Some("javascript" | "js" | "node") => Ok(Self::JavaScript),
            Some("bash" | "sh") => Ok(Self::Bash),
            Some(other) => Err(Failure::unsupported(
                "code.language",
                format!("there is no driver for the language {other:?}; python, javascript and bash have one"),
            )
            .with("language", other)),
        }
    }

    /// The name in tags and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::JavaScript => "javascript",
            Self::Bash => "bash",
        }
    }

    /// What the driver is fed before the first command.
    pub(super) const fn source(self) -> &'static str {
        match self {
            Self::Python => PYTHON,
            Self::JavaScript => JAVASCRIPT,
            Self::Bash => super::bash::PREPARATION,
        }
    }

    /// The driver's process: it outlives every connection to it.
    pub(super) fn start(self, tag: String, cwd: Option<String>) -> Start {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let bytes = self.source().len().to_string();
        let argv = match self {
            Self::Python => words(&["python3", "-c", PYTHON_LOADER, &bytes]),
            Self::JavaScript => words(&["/bin/sh", "-c", JAVASCRIPT_SHELL, JAVASCRIPT_LOADER, &bytes]),
            Self::Bash => words(&["bash", "--norc", "--noprofile", "--noediting", "-i"]),
        };
        let env = if self == Self::Bash { super::bash::environment() } else { std::collections::BTreeMap::new() };
        Start { argv, env, cwd, tag: Some(tag), stdin: true, detached: true, ..Start::default() }
    }

    /// The tag of a context's process.
    pub(super) fn tag(self, id: &str, is_default: bool) -> String {
        let kind = if is_default { "default" } else { "own" };
        format!("{TAG}{}:{kind}:{id}", self.name())
    }

    /// Language, id and kind of the context that a process with this tag carries.
    pub(super) fn of_tag(tag: &str) -> Option<(Self, String, bool)> {
        let mut parts = tag.strip_prefix(TAG)?.splitn(3, ':');
        let language = Self::named(parts.next()).ok()?;
        let is_default = parts.next()? == "default";
        Some((language, parts.next()?.to_owned(), is_default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_known_by_its_tag() {
        for language in [Language::Python, Language::JavaScript, Language::Bash] {
            let tag = language.tag("cxabc", true);
            assert_eq!(Language::of_tag(&tag), Some((language, "cxabc".to_owned(), true)));
        }
        assert_eq!(Language::of_tag("mine"), None);
    }

    #[test]
    fn a_language_without_a_driver_is_named() {
        let failure = Language::named(Some("r")).expect_err("there is none");
        assert_eq!(failure.context["language"], "r");
    }
}
