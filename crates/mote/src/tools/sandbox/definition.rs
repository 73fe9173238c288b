//! What the model sees of the sandbox: names, descriptions, arguments.
//!
//! It checks nothing; the registry validates arguments against these schemas.

use mote_sandbox_api::network::Verdict;
use serde_json::{Value, json};

use crate::limits::SANDBOX_LIST_DEPTH_MAX;
use crate::model::ToolDefinition;
use crate::tools::Effect;
use crate::tools::sandbox::config::{Release, SandboxTool};

/// One of the sandbox's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Shell,
    Python,
    FileRead,
    FileList,
    FileWrite,
    FileEdit,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Shell, Self::Python, Self::FileRead, Self::FileList, Self::FileWrite, Self::FileEdit];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Python => "python",
            Self::FileRead => "file_read",
            Self::FileList => "file_list",
            Self::FileWrite => "file_write",
            Self::FileEdit => "file_edit",
        }
    }

    /// What repeating a call means: a command may count, and an edit finds its own result the second time.
    pub(super) fn effect(self) -> Effect {
        match self {
            Self::Shell | Self::Python | Self::FileEdit => Effect::Write,
            Self::FileWrite => Effect::Idempotent,
            Self::FileRead | Self::FileList => Effect::Read,
        }
    }

    pub(super) fn definition(self, config: &SandboxTool) -> ToolDefinition {
        let (required, properties) = self.arguments(config);
        let input_schema = json!({
            "type": "object", "required": required, "properties": properties, "additionalProperties": false,
        });
        ToolDefinition { name: self.name().to_owned(), description: self.description(config), input_schema }
    }

    fn description(self, config: &SandboxTool) -> String {
        let text = match self {
            Self::Shell => return shell(config),
            Self::Python => return python(config),
            Self::FileRead => {
                "Reads a text file of your sandbox. What is longer than a result may be is cut, and the result says where to \
                 read on."
            }
            Self::FileList => "Lists a directory of your sandbox: each entry's path, kind and size in bytes.",
            Self::FileWrite => {
                "Writes a text file of your sandbox: the whole content, in place of what was there. Directories above it are \
                 made."
            }
            Self::FileEdit => {
                "Replaces text in a file of your sandbox. The old text must stand there exactly once, white space included, \
                 unless every place is meant."
            }
        };
        text.to_owned()
    }

    /// Names of the arguments that are needed, and all arguments.
    fn arguments(self, config: &SandboxTool) -> (Value, Value) {
        let text = |description: &str| json!({"type": "string", "minLength": 1, "description": description});
        let path = || text("Absolute, or relative to the home directory.");
        let seconds = config.timeout.as_secs().max(1);
        let timeout = || {
            let description = format!("Seconds after which it is ended. Default and most: {seconds}.");
            json!({"type": "integer", "minimum": 1, "maximum": seconds, "description": description})
        };
        match self {
            Self::Shell => {
                let command = text("A line for the shell; any number of lines.");
                let cwd = text("The directory to run it in. Default: the home directory.");
                (json!(["command"]), json!({"command": command, "cwd": cwd, "timeout": timeout()}))
            }
            Self::Python => (json!(["code"]), json!({"code": text("Python."), "timeout": timeout()})),
            Self::FileRead => {
                let offset = json!({"type": "integer", "minimum": 0, "description": "The first byte. Default: 0."});
                let length = json!({"type": "integer", "minimum": 1, "description": "Bytes at most."});
                (json!(["path"]), json!({"path": path(), "offset": offset, "length": length}))
            }
            Self::FileList => {
                let most = SANDBOX_LIST_DEPTH_MAX;
                let description = "Levels of directories. Default: 1.";
                let depth = json!({"type": "integer", "minimum": 1, "maximum": most, "description": description});
                (json!(["path"]), json!({"path": path(), "depth": depth}))
            }
            Self::FileWrite => {
                let description = "Whether it may be run. Default: as before; no for a new file.";
                let executable = json!({"type": "boolean", "description": description});
                let content = json!({"type": "string"});
                (json!(["path", "content"]), json!({"path": path(), "content": content, "executable": executable}))
            }
            Self::FileEdit => {
                let old = text("The text to replace, with enough around it to be unique.");
                let new = json!({"type": "string", "description": "What stands there then."});
                let all = json!({"type": "boolean", "description": "Replaces every place. Default: false."});
                (json!(["path", "old", "new"]), json!({"path": path(), "old": old, "new": new, "all": all}))
            }
        }
    }
}

fn shell(config: &SandboxTool) -> String {
    format!(
        "Runs a command in your sandbox, a Linux computer of your own, and returns its exit code and output; of long output \
         the beginning and the end. {} Each call is a new shell: the working directory and variables do not stay. What you \
         leave running in the background must not hold the output open. {}",
        kept(config),
        network(config)
    )
}

fn python(config: &SandboxTool) -> String {
    format!(
        "Runs Python in your sandbox and returns what it prints and the value of the last expression. Variables, imports \
         and functions stay from call to call. {} {}",
        kept(config),
        network(config)
    )
}

fn kept(config: &SandboxTool) -> &'static str {
    match config.release {
        Release::Turn => "Files stay until this task is over.",
        Release::Session | Release::Idle => "Files stay from call to call, also in later turns of the same session.",
    }
}

fn network(config: &SandboxTool) -> String {
    let rules = config.spec.network.iter().flat_map(|policy| &policy.rules);
    let open: Vec<&str> = rules.filter(|rule| rule.verdict == Verdict::Allow).map(|rule| rule.to.as_str()).collect();
    match open.as_slice() {
        [] => "It has no network.".to_owned(),
        ["*"] => "It reaches the public network.".to_owned(),
        names => format!("It reaches only: {}.", names.join(", ")),
    }
}
